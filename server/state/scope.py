"""What the rules of a family are handed: `Writing` for one command, `Reading` for one query."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from itertools import islice
from operator import itemgetter
from typing import Any, Literal, NamedTuple, Protocol

from gemot.server.model.errors import TooLarge
from gemot.server.state import digest
from gemot.server.state.masks import Masks
from gemot.server.state.meta import Meta
from gemot.server.state.permission import Operation
from gemot.server.state.tables import Cursor
from gemot.server.state.watch import Topic

Op = Literal["set", "delete", "delete-prefix"]
ChangeRow = tuple[int, int, str, bytes, str, bytes | None]

Allowed = Callable[[Operation], bool]
"""May the caller see this row? None in its place: everything, at no cost."""


TOMBSTONES_A_ROW = 16
"""Tombstones that are looked through in the time of one row that is read."""


LONG_BYTES = 1 << 20
"""So much of rows may be read where a limit of rows holds too."""

MAX_READ_BYTES = 64 << 20
"""So much where none holds: more no answer can have (`rpc/frame.py`)."""

STEP_BYTES = 1 << 20
"""Of rows that one entry of the upkeep rewrites or removes, but for its first: servers do nothing else for
some 30 ms."""

_FEW_ROWS = 16
_MORE_ROWS = 64
_last = itemgetter(-1)


class LongList(Exception):
    """The query has more rows than may be read here. Nothing is wrong: it is asked of the Reader instead."""


class Renewable(Protocol):
    """The read transaction of a worker (`pages.Transaction`)."""

    def renew(self, reading: Reading) -> bool:
        """Go on in a newer state, if this one was held long enough."""

    def end(self) -> None: ...


class Reading:
    """One query's view. The cursor, masks and meta belong to one and the same committed state.

    `limit` is how many rows may be read for it, -1 for any number; `read` how many were. `buried` is how many
    tombstones there are of all keys. `transaction` is there on a worker's connection alone. `unsettled` are
    changes that are in the state and not yet in the change table.
    """

    __slots__ = (
        "_bytes",
        "allowed",
        "buried",
        "cursor",
        "limit",
        "masks",
        "meta",
        "read",
        "transaction",
        "unsettled",
    )

    def __init__(
        self,
        *,
        cursor: Cursor,
        meta: Meta,
        masks: Masks,
        allowed: Allowed | None = None,
        limit: int = -1,
        buried: int = 0,
        transaction: Renewable | None = None,
        unsettled: list[ChangeRow] | None = None,
    ) -> None:
        self.cursor = cursor
        self.meta = meta
        self.masks = masks
        self.allowed = allowed
        self.limit = limit
        self.buried = buried
        self.transaction = transaction
        self.unsettled = unsettled or []
        self.read = 0
        self._bytes = 0

    def rows(self, statement: str, bindings: tuple[Any, ...] = (), wanted: int = -1) -> list[Any]:
        """Every row of a select that ends in `limit ?`, or the first `wanted`. Raises LongList when they pass
        this one's limit, and TooLarge as `take` does.

        What decides is how many rows are read, and how long they are, not how many of them are shown: that
        is what takes time. Each row's last column is the long one.
        """
        if self.limit < 0:
            return self.take(self.cursor.execute(statement, (*bindings, wanted)))
        most = self.limit - self.read + 1
        few = most if wanted < 0 else min(wanted, most)
        rows = iter(self.cursor.execute(statement, (*bindings, few)))
        found = list(islice(rows, _FEW_ROWS))
        step = found
        while len(step) >= _FEW_ROWS:
            self._bytes += sum(map(len, map(_last, step)))
            if self._bytes > LONG_BYTES:
                self._end_select()
                raise LongList
            step = list(islice(rows, _MORE_ROWS))
            found += step
        if len(found) >= most:
            raise LongList
        self.read += len(found)
        return found

    def take(self, rows: Iterable[Any]) -> list[Any]:
        """Every row of a select. Raises TooLarge when they, and those before them, take too much."""
        found: list[Any] = []
        rows = iter(rows)
        while step := list(islice(rows, _MORE_ROWS)):
            found += step
            self._bytes += sum(map(len, map(_last, step)))
            if self._bytes > MAX_READ_BYTES:
                self._end_select()
                raise TooLarge(
                    f"what was asked for takes more than {MAX_READ_BYTES} bytes: ask for a part of it, or, "
                    "if it is keys, in pages (?limit=)"
                )
        self.read += len(found)
        return found

    def _end_select(self) -> None:
        """The one under way would hold on to its transaction."""
        self.cursor.execute("select 1").fetchall()

    def count(self, rows: int) -> None:
        """So many were read one by one. Raises LongList when they pass this one's limit."""
        self.read += rows
        if 0 <= self.limit < self.read:
            raise LongList

    def look_through_tombstones(self, statement: str, bindings: tuple[Any, ...]) -> None:
        """Raise LongList if those under one prefix take long: counted by a select that ends in `limit ?`."""
        most = self.limit * TOMBSTONES_A_ROW
        if 0 <= most < self.buried and self.cursor.execute(statement, (*bindings, most + 1)).get > most:
            raise LongList

    def close(self) -> None:
        """All is read: what is still to be done with it needs no transaction."""
        if self.transaction is not None:
            self.transaction.end()

    def scans(self, table: str) -> None:
        """All rows of this table are going to be looked at. Raises LongList if it has too many."""
        if self.limit >= 0:
            statement = f"select 1 from {table} limit 1 offset ?"
            if self.cursor.execute(statement, (self.limit,)).get is not None:
                raise LongList


class Kept(NamedTuple):
    """What stood before what may be undone; of changes and masks how many there were."""

    meta: tuple[Any, ...]
    changes: int
    buried: int
    masks: int


class Writing:
    """The state during one batch of entries; `enter` begins the next entry.

    Rules read rows and write them by `cursor`, tell what they touched, and move `meta`. A rule that may
    refuse after it has written is run under `kept`/`undo`. `ends_moved` says that the oldest tombstone or
    change row may be another one now, `buried` how many tombstones are more, `noted` how many change rows,
    and of how many bytes. `scanned` counts the keys that this entry looked through. `accessor` and `at_ms`
    say who wrote it and at what wall time.
    """

    __slots__ = (
        "_seq",
        "accessor",
        "at_ms",
        "buried",
        "changes",
        "cursor",
        "ends_moved",
        "index",
        "masks",
        "meta",
        "noted",
        "scanned",
        "time_ms",
        "touched",
    )

    def __init__(self, *, cursor: Cursor, meta: Meta, masks: Masks) -> None:
        self.cursor = cursor
        self.meta = meta
        self.masks = masks
        self.index = 0
        self.time_ms = 0
        self.accessor = ""
        self.at_ms = 0
        self.touched: list[Topic] = []
        self.changes: list[ChangeRow] = []
        self.ends_moved = False
        self.buried = 0
        self.noted = (0, 0)
        self.scanned = 0
        self._seq = 0

    def enter(self, index: int, accessor: str = "", at_ms: int = 0) -> None:
        """The entry at `index` is applied from here on; cluster time is `meta.time_ms`."""
        self.index = index
        self.accessor = accessor
        self.at_ms = at_ms
        self.time_ms = self.meta.time_ms
        self.touched = []
        self.scanned = 0
        self._seq = 0

    @property
    def changed_so_far(self) -> int:
        """Changes of the entry at hand."""
        return self._seq

    def record(self, topic: str, key: bytes, op: Op, row: bytes | None) -> None:
        """Note a change for those who follow them; written with the batch."""
        self.changes.append((self.index, self._seq, topic, key, op, row))
        self._seq += 1

    def add(self, table: bytes, row: bytes) -> None:
        """`row` now stands in `table`: into the state hash."""
        self.meta.rows_sum += digest.of_row(table, row)

    def take(self, table: bytes, row: bytes) -> int:
        """`row` stands in `table` no longer: out of the state hash. What it was there."""
        number = digest.of_row(table, row)
        self.meta.rows_sum -= number
        return number

    def changed(self, topic: str, prefix: bytes) -> list[bytes]:
        """Keys of this topic below a prefix that the present entry has set or deleted so far, each once."""
        found: dict[bytes, None] = {}
        for index, _, of, key, op, _ in reversed(self.changes):
            if index != self.index:
                break
            if of == topic and op != "delete-prefix" and key.startswith(prefix):
                found[key] = None
        return list(found)

    def kept(self) -> Kept:
        """Begin what `undo` takes back: rows, running values, recorded changes, tombstones' count, masks."""
        self.cursor.execute("savepoint entry")
        return Kept(self.meta.kept(), len(self.changes), self.buried, self.masks.changes)

    def keep(self) -> None:
        self.cursor.execute("release entry")

    def undo(self, kept: Kept) -> None:
        self.cursor.execute("rollback to entry")
        self.cursor.execute("release entry")
        self.meta.restore(kept.meta)
        del self.changes[kept.changes :]
        self.buried = kept.buried
        if self.masks.changes != kept.masks:
            self.masks.load(self.cursor)
        self.touched = []
        self._seq = 0
