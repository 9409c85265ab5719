"""Bytes that must survive: the Raft log, the vote, snapshots, and the port to a real disk."""
