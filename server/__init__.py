"""The tier that agrees and remembers: Raft, its log and state, reads, and the RPC between hosts."""
