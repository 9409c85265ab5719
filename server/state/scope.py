"""What the rules of a family are handed: `Writing` for one command, `Reading` for one query."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

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


class Reading:
    """One query's view. The cursor, masks and meta belong to one and the same committed state."""

    __slots__ = ("allowed", "cursor", "masks", "meta")

    def __init__(self, *, cursor: Cursor, meta: Meta, masks: Masks, allowed: Allowed | None = None) -> None:
        self.cursor = cursor
        self.meta = meta
        self.masks = masks
        self.allowed = allowed


class Writing:
    """The state during one batch of entries; `enter` begins the next entry.

    Rules read rows and write them by `cursor`, tell what they touched, and move `meta`. A rule that may
    refuse after it has written is run under `kept`/`undo`. `ends_moved` says that the oldest
    tombstone or change row may be another one now.
    """

    __slots__ = ("_seq", "changes", "cursor", "ends_moved", "index", "masks", "meta", "time_ms", "touched")

    def __init__(self, *, cursor: Cursor, meta: Meta, masks: Masks) -> None:
        self.cursor = cursor
        self.meta = meta
        self.masks = masks
        self.index = 0
        self.time_ms = 0
        self.touched: list[Topic] = []
        self.changes: list[ChangeRow] = []
        self.ends_moved = False
        self._seq = 0

    def enter(self, index: int) -> None:
        """The entry at `index` is applied from here on; cluster time is `meta.time_ms`."""
        self.index = index
        self.time_ms = self.meta.time_ms
        self.touched = []
        self._seq = 0

    def record(self, topic: str, key: bytes, op: Op, row: bytes | None) -> None:
        """Note a change for those who follow them; written with the batch."""
        self.changes.append((self.index, self._seq, topic, key, op, row))
        self._seq += 1

    def add(self, table: bytes, row: bytes) -> None:
        """`row` now stands in `table`: into the state hash."""
        self.meta.rows_sum += digest.of_row(table, row)

    def take(self, table: bytes, row: bytes) -> None:
        """`row` stands in `table` no longer: out of the state hash."""
        self.meta.rows_sum -= digest.of_row(table, row)

    def kept(self) -> tuple[Any, int]:
        """Begin what `undo` takes back: rows, running values, recorded changes."""
        self.cursor.execute("savepoint entry")
        return self.meta.kept(), len(self.changes)

    def keep(self) -> None:
        self.cursor.execute("release entry")

    def undo(self, kept: tuple[Any, int]) -> None:
        self.cursor.execute("rollback to entry")
        self.cursor.execute("release entry")
        self.meta.restore(kept[0])
        del self.changes[kept[1] :]
        self.touched = []
        self._seq = 0
