"""The HTTP API: one file a family. Handlers know no transport; `transport.py` serves them."""
