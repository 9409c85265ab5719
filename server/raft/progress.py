"""What the leader knows of one other server, and what it may send to it now.

PROBE      its log is not known: one small Append at a time, until one is accepted
REPLICATE  it follows: batches are sent ahead, up to a bounded number unanswered
SNAPSHOT   it needs entries that are gone: an offer is repeated until it has installed a snapshot
"""

from __future__ import annotations

from collections import deque
from enum import Enum


class Mode(Enum):
    PROBE = "probe"
    REPLICATE = "replicate"
    SNAPSHOT = "snapshot"


class Progress:
    """`match` is durable there and agrees with us; `next` is what to send next, hopefully."""

    def __init__(self, *, next: int, now: int, max_inflight: int) -> None:
        self.match = 0
        self.next = next
        self.mode = Mode.PROBE
        self.probe_due = True
        self.heard_tick = now
        self.round = 0
        self.commit_sent = 0
        self.repair = 0
        self.repair_round = 0
        self._inflight: deque[int] = deque()
        self._max_inflight = max_inflight

    # -- what it may be sent -----------------------------------------------------------------------

    @property
    def full(self) -> bool:
        return len(self._inflight) >= self._max_inflight

    @property
    def inflight(self) -> int:
        return len(self._inflight)

    def sent(self, last: int) -> None:
        """A batch up to `last` went out, ahead of any answer."""
        assert self.mode is Mode.REPLICATE, "only a following server is sent ahead"
        assert not self.full, "the window bounds what is unanswered"
        assert last >= self.next, "batches go out in order"
        self._inflight.append(last)
        self.next = last + 1

    # -- what it answered --------------------------------------------------------------------------

    def accepted(self, match: int) -> bool:
        """Its log agrees up to `match` durably. True if that lets more be sent or committed."""
        moved = match > self.match
        self.match = max(self.match, match)
        self.next = max(self.next, self.match + 1)
        while self._inflight and self._inflight[0] <= self.match:
            self._inflight.popleft()
        if self.mode is Mode.PROBE:
            self._enter(Mode.REPLICATE)
            return True
        return moved

    def refused(self, floor: int) -> bool:
        """No index above `floor` agrees. False if that is old news."""
        if self.repair:
            self.match = min(self.match, floor)
        if self.mode is Mode.SNAPSHOT or floor < self.match or floor + 1 >= self.next:
            return False
        self.next = floor + 1
        self._enter(Mode.PROBE)
        return True

    def offer_snapshot(self) -> None:
        self._enter(Mode.SNAPSHOT)

    def leave_snapshot(self, index: int) -> None:
        """It has a snapshot up to `index` (or all that is before it): go on behind."""
        assert self.mode is Mode.SNAPSHOT, "it was offered one"
        self.match = max(self.match, index)
        self.next = self.match + 1
        self._enter(Mode.REPLICATE)

    # -- repairing ---------------------------------------------------------------------------------

    @property
    def repairing(self) -> bool:
        return self.repair != 0

    def note_repair(self, repair: int, round: int) -> None:
        """It lost part of its log: whatever it said before `round` began is worth nothing now."""
        assert repair != 0, "0 means no repair"
        assert round > self.repair_round, "a mark is fresh"
        self.repair = repair
        self.repair_round = round
        self.match = 0

    def note_repaired(self, match: int) -> None:
        self.repair = 0
        # Not the maximum: an earlier, repairing word may speak of what a second loss took away.
        self.match = match

    def _enter(self, mode: Mode) -> None:
        self.mode = mode
        self.probe_due = mode is Mode.PROBE
        self._inflight.clear()
