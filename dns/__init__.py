"""The DNS interface: questions in, records from a catalog out. Knows nothing of servers or agents."""
