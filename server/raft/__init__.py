"""Consensus, pure: `tick`, `step`, `propose`, `read_index` in; one `Ready` out.

What it is: the Raft algorithm (Ongaro and Ousterhout, "In Search of an Understandable Consensus
Algorithm", 2014; Ongaro's thesis, 2014, for PreVote 9.6, CheckQuorum 6.2, leadership transfer 3.10 and
read index 6.4), as a state machine over messages. What it is not: it has no clock, no disk, no socket
and no randomness of its own; time is counted in ticks, and the caller does all input and output.

The caller's duties, each time a `Ready` is taken:

1. save `truncate_from`/`append` to the log and `hard_state` beside it, both durably, in this order
   with earlier saves; tell the core by `saved(token)` when they are durable;
2. send `messages` at once (the leader replicates while its own disk still works);
3. send `after_save` only once the save of this very `Ready` is durable;
4. apply entries up to `commit`, but never past what is durable here;
5. answer the reads in `read_states` once the applied index has reached theirs.
"""
