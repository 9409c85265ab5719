"""How many entries are applied in one go: as many as fit into a few milliseconds, told from the last ones.

Pure: it is handed the entries and how long they took. Where a slice ends has no part in what comes of its
entries (`tests/state/test_slices.py`), so each server may go at a pace of its own.
"""

from __future__ import annotations

from collections.abc import Sequence

from gemot.server.raft.types import Entry

MOST_ENTRIES = 256
FIRST_ENTRIES = 64
SLICE_US = 2_000
SLICE_BYTES = 256 << 10
"""Bytes of a slice: writing so many takes about as long. They are known before, so they are not guessed."""


class Pace:
    """A slice that was full and quick makes the next one larger, one that was slow makes it smaller.

    One entry is always let through, however long it may take: a rule bounds its own work.
    """

    def __init__(self) -> None:
        self.entries = FIRST_ENTRIES

    def cut(self, entries: Sequence[Entry]) -> Sequence[Entry]:
        """The first of these, as far as their bytes fit into a slice."""
        size = 0
        for at, entry in enumerate(entries):
            size += len(entry.data)
            if size > SLICE_BYTES and at:
                return entries[:at]
        return entries

    def took(self, count: int, us: int) -> None:
        """So many entries were applied in so long."""
        if us > SLICE_US:
            self.entries = max(1, min(self.entries, count * SLICE_US // us))
        elif count >= self.entries and us * 2 <= SLICE_US:
            self.entries = min(MOST_ENTRIES, self.entries * 2)
