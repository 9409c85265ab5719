"""The check of a whole history, by the order that the servers themselves tell.

Writes are ordered by their log index, reads by the applied index they were served from. That order must
agree with real time (what ended before something began has the smaller index), and replaying it on a plain
model must give every result that was seen (each family's part). O(n log n), so every run is checked whole.
"""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

STALE = "stale"
"""A read that promises no freshness: it must be true of its moment, whenever that was."""

READS = frozenset(["get", "health", STALE])


class Seen(msgspec.Struct, frozen=True):
    """One answered operation. `index` is its own for a write, the served state's for a read."""

    kind: str
    key: bytes
    began: int
    ended: int
    index: int
    value: bytes | None
    cas: int | None
    result: object


class Effect(msgspec.Struct, frozen=True):
    """What the replicated state did at an index: the truth that unknown outcomes are settled by."""

    index: int
    kind: str
    key: bytes
    value: bytes | None
    cas: int | None


class Violation(AssertionError):
    """The history cannot be explained."""


def check_real_time(history: Iterable[Seen]) -> None:
    """No operation may take effect before one that had ended when it began. Raises Violation."""
    seen = [op for op in history if op.kind != STALE]
    by_end = sorted(seen, key=lambda op: op.ended)
    ended_index, at = 0, 0
    latest: Seen | None = None
    for op in sorted(seen, key=lambda op: op.began):
        while at < len(by_end) and by_end[at].ended < op.began:
            if by_end[at].index > ended_index:
                ended_index, latest = by_end[at].index, by_end[at]
            at += 1
        again = op.index == ended_index and op.kind not in READS and latest is not op
        if op.index < ended_index or again:
            raise Violation(f"{op} took effect before {latest}, which had ended when it began")
