"""Commands that the leader proposes for the upkeep of the state. No caller sends them."""

from __future__ import annotations

import msgspec


class Tick(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=20):
    """Nothing but the cluster time in its envelope: moves the clock while deadlines exist."""


class TrimChanges(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=21):
    """Forget change rows with an index at or below `through`."""

    through: int


class ReapTombstones(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=22):
    """Forget tombstones with an index at or below `through`; the highest one reaped is remembered."""

    through: int


class PruneRetries(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=23):
    """Forget retry records last touched at or before this cluster time (milliseconds)."""

    before_ms: int


class TrimHistory(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=61):
    """Keep the history of keys within these bounds; the first one begins it. Result: True.

    Of each key so many of the newest old revisions stay, 0: no history is kept. Of all, those that ended at
    or after `before_ms` (wall time, milliseconds since 1970), and no more than `max_bytes`: the oldest go
    first, a bounded number with each command.
    """

    revisions: int
    before_ms: int
    max_bytes: int


class VerifyState(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=24):
    """The leader's state hash right after `index` was applied; every server compares with its own."""

    index: int
    digest: bytes
