"""Deleted ranges: one row (prefix, index) hides every key under the prefix that is not newer.

A range delete costs one row however many keys it takes. The hidden rows go later, in bounded steps; when
they are gone the mask stays as the range's tombstone, until it is old enough to be reaped. `resume` is the
key at which purging goes on, or None when nothing is left to purge.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator
from itertools import groupby
from operator import attrgetter, itemgetter
from typing import NamedTuple

from gemot.server.state.prefixes import Prefixes
from gemot.server.state.tables import Cursor


class RangeEnd(NamedTuple):
    """A range delete as the history of keys tells it: at which index, at what wall time, and by whom."""

    at: int
    at_ms: int
    accessor: str


_at = attrgetter("at")


class Masks:
    """The table `mask` in memory. Few: they live as long as tombstones do, about a quarter of an hour.

    `hiding` counts those that still have rows to hide; at 0 every look-up ends at once. `changes` counts all
    changes: who undoes rows knows by it whether to `load` anew. `_ends` has every range delete whose hidden
    rows may still be here, also those in whose place a newer mask of the same prefix has come (table
    `range_end`), each prefix's in their order, so that one among thousands is found at once; none where no
    history is kept. `_hiding` is in the order of the indexes.
    """

    __slots__ = ("_all", "_ends", "_hiding", "changes", "hiding")

    def __init__(self) -> None:
        self._all: Prefixes[int] = Prefixes()
        self._hiding: Prefixes[int] = Prefixes()
        self._ends: Prefixes[list[RangeEnd]] = Prefixes()
        self.hiding = 0
        self.changes = 0

    def load(self, cursor: Cursor) -> None:
        self._all = Prefixes()
        self._hiding = Prefixes()
        rows = cursor.execute("select prefix, idx, resume is not null from mask order by idx").fetchall()
        for prefix, index, unfinished in rows:
            self._all.put(prefix, index)
            if unfinished:
                self._hiding.put(prefix, index)
        self.hiding = len(self._hiding)
        self._ends = Prefixes()
        ends = cursor.execute("select prefix, idx, at_ms, accessor from range_end order by idx").fetchall()
        for prefix, *end in ends:
            self.put_end(prefix, RangeEnd(*end))

    def put(self, prefix: bytes, index: int) -> None:
        self._all.put(prefix, index)
        if prefix in self._hiding:
            self._hiding.pop(prefix)  # it is the newest now
        self._hiding.put(prefix, index)
        self.hiding = len(self._hiding)
        self.changes += 1

    def put_end(self, prefix: bytes, end: RangeEnd) -> None:
        """A newer one than all that there are of this prefix."""
        if (ends := self._ends.get(prefix)) is None:
            self._ends.put(prefix, ends := [])
        ends.append(end)
        self.changes += 1

    def ends_of(self, prefix: bytes) -> list[RangeEnd]:
        return self._ends.get(prefix) or []

    def end_of(self, key: bytes, modify_index: int) -> RangeEnd | None:
        """The range delete that ended this row; None if it is not known."""
        found = []
        for ends in self._ends.covering(key):
            at = bisect_right(ends, modify_index, key=_at)
            found += ends[at : at + 1]
        return min(found, default=None)

    def finish(self, prefix: bytes) -> None:
        """Every row that the mask hid is gone."""
        self._hiding.pop(prefix)
        self.hiding = len(self._hiding)
        if prefix in self._ends:
            self._ends.pop(prefix)
        self.changes += 1

    def all_hiding(self) -> list[tuple[bytes, int]]:
        """Every mask that may have rows left to purge, by prefix."""
        return sorted(self._hiding.items())

    def forget(self, prefix: bytes) -> None:
        self._all.pop(prefix)
        self.changes += 1

    def hides(self, key: bytes, modify_index: int) -> bool:
        if not self.hiding:
            return False
        return any(index > modify_index for index in self._hiding.covering(key))

    def visible(self, prefix: bytes, rows: list[tuple[bytes, int, bytes]]) -> list[tuple[bytes, int, bytes]]:
        """Those rows (key, modify index, row), all under `prefix`, that no mask hides."""
        if not self.hiding:
            return rows
        if (above := self.hides_all_below(prefix)) is not None:
            return [row for row in rows if row[1] >= above]
        return [row for row in rows if not self.hides(row[0], row[1])]

    def hides_all_below(self, prefix: bytes) -> int | None:
        """Under this prefix what is older than this index is hidden, and nothing else; None if the masks do
        not agree so well."""
        above = max(self._hiding.covering(prefix), default=0)
        return None if any(index > above for index in self._hiding.under(prefix)) else above

    def index_over(self, prefix: bytes) -> int:
        """The newest range delete that may have taken a key under `prefix`; 0 if there is none."""
        return max(self._all.overlapping(prefix), default=0) if self._all else 0

    def index_on(self, key: bytes) -> int:
        """The newest range delete that may have taken this key; 0 if there is none."""
        return max(self._all.covering(key), default=0) if self._all else 0

    def by_age(self) -> Iterator[tuple[bytes, int]]:
        """Every mask that may have rows left to purge, oldest first; those of one entry by prefix."""
        for _, of_one_entry in groupby(self._hiding.items(), key=itemgetter(1)):
            yield from sorted(of_one_entry)

    def unfinished(self) -> tuple[bytes, int] | None:
        """The first of them."""
        return next(self.by_age(), None)

    def finished_through(self, index: int) -> list[tuple[bytes, int]]:
        """Masks with nothing left to hide and an index at or below `index`, oldest first."""
        return sorted(
            ((p, i) for p, i in self._all.items() if i <= index and p not in self._hiding),
            key=lambda mask: (mask[1], mask[0]),
        )

    def oldest(self) -> int:
        """The lowest index of a mask that could be reaped; 0 if there is none."""
        return min((i for p, i in self._all.items() if p not in self._hiding), default=0)
