"""The only asyncio, threads, clock and sockets of the tier: they drive the event handlers.

`timer.py` the loop as a `Timer`; `connection.py` sockets around RPC sessions and links; `disk.py` the one
thread that writes and syncs the log, and the workers; `node.py` opens a data directory and runs a server.
"""
