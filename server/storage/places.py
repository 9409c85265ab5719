"""Where each entry of the log stands on disk, and its term: the log's index in memory.

The rule for two threads: one thread writes; any may read, without locks. What is added becomes visible
by `last` alone, which is set after all the rest; whatever takes entries away (a replaced suffix, a
compaction, a reset) makes a new `Places` and leaves the old one as it was. So a reader that takes one
`Places`, and its `last` before anything else, sees a log that was true at that moment.
(CPython's array.append and bisect over it do not let another thread see a torn element.)
"""

from __future__ import annotations

from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Sequence

import msgspec

from gemot.server.storage.disk import SECTOR
from gemot.server.storage.segment import Segment


class Spot(msgspec.Struct, frozen=True, gc=False):
    """One record: its segment, its offset there, the CRC of its header, and the entries of it that live."""

    segment: int
    offset: int
    crc: int
    first: int
    last: int


class Places:
    """Entries `start_index` + 1 to `last`; the term of `start_index` is known too."""

    __slots__ = ("_crcs", "_firsts", "_run_firsts", "_run_terms", "_spots", "last", "segments", "start_index",
                 "start_term")  # fmt: skip

    def __init__(self, start_index: int, start_term: int, segments: dict[int, Segment]) -> None:
        self.start_index = start_index
        self.start_term = start_term
        self.segments = segments
        self.last = start_index
        self._firsts = array("Q")
        self._spots = array("Q")
        self._crcs = array("I")
        self._run_firsts = array("Q")
        self._run_terms = array("Q")

    # -- readers -----------------------------------------------------------------------------------

    @property
    def last_term(self) -> int:
        term = self.term(self.last)
        assert term is not None, "the last entry has a term"
        return term

    def term(self, index: int) -> int | None:
        if self.start_index < index <= self.last:
            return self._run_terms[bisect_right(self._run_firsts, index) - 1]
        return self.start_term if index == self.start_index else None

    def find(self, index: int) -> Spot | None:
        """The record that holds this entry."""
        last = self.last
        if not self.start_index < index <= last:
            return None
        at = bisect_right(self._firsts, index) - 1
        next_first = self._firsts[at + 1] if at + 1 < len(self._firsts) else last + 1
        spot, first, crc = self._spots[at], self._firsts[at], self._crcs[at]
        return Spot(spot >> 32, (spot & 0xFFFFFFFF) * SECTOR, crc, first, min(last, next_first - 1))

    def lowest_in_or_above(self, segment: int) -> int:
        """The first live entry of this segment or of any after it; `last` + 1 if there is none."""
        at = bisect_left(self._spots, segment << 32)
        return self._firsts[at] if at < len(self._firsts) else self.last + 1

    # -- the writer --------------------------------------------------------------------------------

    def add(self, spot: Spot, terms: Sequence[tuple[int, int]]) -> None:
        """Append a record. `terms` are (first index of the run, term)."""
        assert spot.first == self.last + 1, "cut first"
        for index, term in terms:
            if not self._run_terms or self._run_terms[-1] != term:
                self._run_terms.append(term)
                self._run_firsts.append(index)
        self._spots.append(spot.segment << 32 | spot.offset // SECTOR)
        self._crcs.append(spot.crc)
        self._firsts.append(spot.first)
        self.last = spot.last

    def cut(self, first: int, prev_term: int) -> Places:
        """The places without entry `first` and all after it. At or below the start, the start moves down."""
        if first <= self.start_index:
            return Places(first - 1, prev_term, self.segments)
        new = Places(self.start_index, self.start_term, self.segments)
        records = bisect_left(self._firsts, first)
        new._firsts, new._spots, new._crcs = (a[:records] for a in (self._firsts, self._spots, self._crcs))
        runs = bisect_left(self._run_firsts, first)
        new._run_firsts, new._run_terms = self._run_firsts[:runs], self._run_terms[:runs]
        new.last = first - 1
        return new

    def without_segments_below(self, segment: int) -> Places:
        """The places of this segment and later ones: the log starts before their first live entry."""
        at = bisect_left(self._spots, segment << 32)
        start = self.lowest_in_or_above(segment) - 1
        term = self.term(start)
        assert term is not None, "an entry that is held has a term"
        new = Places(start, term, {n: s for n, s in self.segments.items() if n >= segment})
        new._firsts, new._spots, new._crcs = (a[at:] for a in (self._firsts, self._spots, self._crcs))
        run = max(0, bisect_right(self._run_firsts, start + 1) - 1)
        new._run_firsts, new._run_terms = self._run_firsts[run:], self._run_terms[run:]
        new.last = self.last
        return new
