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


class VerifyState(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=24):
    """The leader's state hash right after `index` was applied; every server compares with its own."""

    index: int
    digest: bytes
