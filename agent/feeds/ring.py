"""The last events of one feed, each encoded once. Readers keep a position; nothing is queued for anyone.

Pure. What is longer ago than the ring holds is gone from here: a reader that is slower than that is told.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import deque
from itertools import islice

MOST_EVENTS = 1_024
MOST_BYTES = 4 << 20
"""The newest event stays, however long it is."""

JOINED_BYTES = 1 << 16
"""So much is copied at most, to give one reader short events in one piece. A long one is the same for all."""


class Ring:
    """Positions count events from the feed's beginning; `next` is that of the one to come."""

    def __init__(self, *, most_events: int = MOST_EVENTS, most_bytes: int = MOST_BYTES) -> None:
        self._most_events = most_events
        self._most_bytes = most_bytes
        self._events: deque[tuple[int, bytes]] = deque()
        self.size = 0
        """Bytes of the events kept."""

        self.next = 0
        self._complete_from = 0

    @property
    def first(self) -> int:
        """The position of the oldest event kept."""
        return self.next - len(self._events)

    def push(self, index: int, event: bytes) -> None:
        """`index` is that of the state after it; it never goes down, but by `begin`."""
        self._events.append((index, event))
        self.size += len(event)
        self.next += 1
        while len(self._events) > self._most_events or (
            self.size > self._most_bytes and len(self._events) > 1
        ):
            gone, event = self._events.popleft()
            self.size -= len(event)
            self._complete_from = gone

    def begin(self, index: int) -> None:
        """What was before is not what leads to the state at `index`: nobody goes on from it."""
        self._events.clear()
        self.size = 0
        self._complete_from = index

    def skip(self) -> int:
        """Nobody goes on from a position before this one, which is given."""
        self._events.clear()
        self.size = 0
        self.next += 1
        return self.next

    def since(self, position: int) -> bytes | None:
        """All from there on, in one piece; None where some of it is gone, or it is long: see `some`."""
        skipped = position - self.first
        if skipped < 0:
            return None
        if skipped == len(self._events) - 1:
            return self._events[-1][1]
        found = self.some(position)
        return found[0] if found is not None and found[1] == self.next else None

    def some(self, position: int) -> tuple[bytes, int, int] | None:
        """What is there from there on, as much as may be joined, or one event as it is; the position behind
        it, and the index (0 for nothing). None where some of it is gone."""
        skipped = position - self.first
        if skipped < 0:
            return None
        events, size, index = list[bytes](), 0, 0
        for at, event in islice(self._events, skipped, None):
            size += len(event)
            if events and size > JOINED_BYTES:
                break
            events.append(event)
            index = at
        piece = events[0] if len(events) == 1 else b"".join(events)
        return piece, position + len(events), index

    def behind(self, index: int) -> int | None:
        """Where a reader goes on that has seen the state at `index`; None if not all since then is here."""
        if index < self._complete_from:
            return None
        return self.first + bisect_right(self._events, index, key=lambda event: event[0])
