"""The change table: what each entry did, in order, for those who follow a key or a prefix.

A row is (index, seq, topic, key, op, row): `seq` orders the changes of one entry, `key` is a key of the
family (`kv`: the key or the deleted prefix; `node`, `service`, `check`: folded names, NUL between), `row` the
word as it then stood, or None where it was deleted. Rows of a batch are written together at its end.

What was trimmed leaves one row of the topic `trimmed` at the index up to which it went: entries without
changes leave no rows, so the oldest row does not say it.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import chain
from typing import Any

import msgspec

from gemot.server.model.changes import KvChange, KvChanges, Told
from gemot.server.model.kv import KvEntry, KvKeys
from gemot.server.model.upkeep import TrimChanges
from gemot.server.state import kv
from gemot.server.state.names import end_of_prefix
from gemot.server.state.permission import Operation
from gemot.server.state.scope import ChangeRow, Reading, Writing
from gemot.server.state.tables import Cursor

KEEP_INDEXES = 50_000
KEEP_ROWS = 200_000
KEEP_BYTES = 128 << 20
"""What is kept for those who follow keys and come back: as much as none of the three bounds forbids."""

STEP_INDEXES = 10_000
STEP_ROWS = 10_000
STEP_BYTES = 8 << 20
"""So much beyond a bound before something goes; and bytes that go at once, but for an entry that has more."""

TRIM_ROWS = 20_000
"""Change rows that one TrimChanges removes at most."""

TOLD_ROWS = 500
TOLD_BYTES = 1 << 20
"""Rows and bytes told at once, or those of one entry, which are never parted."""

_decode = msgspec.msgpack.Decoder(KvEntry).decode

_OLDEST = """select idx, length(key) + coalesce(length(row), 0) from change where topic != 'trimmed'
    order by idx, seq limit ?"""
_SIZE = """select count(*), coalesce(sum(length(key) + coalesce(length(row), 0)), 0) from change
    where topic != 'trimmed'"""
_BEHIND = """select idx, seq, topic, key, op, row from change
    where idx > :after and topic = 'kv' and (
        key >= :low and (:high is null or key < :high)
        or op = 'delete-prefix' and substr(:low, 1, length(key)) = key
    ) order by idx, seq"""


class Extent(msgspec.Struct, frozen=True):
    """How much the table holds: its oldest and newest index (0: none), its rows and their bytes."""

    oldest: int = 0
    newest: int = 0
    rows: int = 0
    bytes: int = 0


def write(writing: Writing) -> None:
    """The changes of the batch so far."""
    changes = writing.changes
    if changes:
        writing.cursor.executemany("insert into change values (?, ?, ?, ?, ?, ?)", changes)
        size = sum(len(key) + len(row or b"") for _, _, _, key, _, row in changes)
        writing.noted = (writing.noted[0] + len(changes), writing.noted[1] + size)


def due(cursor: Cursor, extent: Extent) -> int:
    """The index through which the oldest rows go now, as many as one entry takes; 0 if all may stay."""
    through, rows_over, bytes_over = 0, 0, 0
    if extent.newest - extent.oldest > KEEP_INDEXES + STEP_INDEXES:
        through = extent.newest - KEEP_INDEXES
    if extent.rows > KEEP_ROWS + STEP_ROWS:
        rows_over = extent.rows - KEEP_ROWS
    if extent.bytes > KEEP_BYTES + STEP_BYTES:
        bytes_over = extent.bytes - KEEP_BYTES
    if not (through or rows_over or bytes_over):
        return 0
    rows, size, whole = 0, 0, 0
    for index, length in cursor.execute(_OLDEST, (TRIM_ROWS,)).fetchall():
        if index != whole:
            if index > through and rows >= rows_over and size >= bytes_over:
                return max(through, whole)
            if size >= STEP_BYTES:
                return whole
        rows, size, whole = rows + 1, size + length, index
    return max(through, whole)


def trim(writing: Writing, command: TrimChanges) -> bool:
    """TrimChanges: forget the oldest rows up to `through`, whole entries, a bounded number at a time."""
    cursor = writing.cursor
    write(writing)
    writing.changes.clear()
    after: int | None = cursor.execute(
        "select idx from change order by idx limit 1 offset ?", (TRIM_ROWS,)
    ).get
    through = min(command.through, writing.index, *(() if after is None else (after,)))
    if through <= trimmed_to(cursor):
        return True
    rows, size = cursor.execute(f"{_SIZE} and idx <= ?", (through,)).fetchall()[0]
    writing.noted = (writing.noted[0] - rows, writing.noted[1] - size)
    cursor.execute("delete from change where idx <= ?", (through,))
    cursor.execute("insert into change values (?, 0, 'trimmed', x'', 'delete', null)", (through,))
    writing.ends_moved = True
    return True


def extent(cursor: Cursor) -> Extent:
    """Every row is looked at."""
    rows, size = cursor.execute(_SIZE).fetchall()[0]
    return Extent(*indexes(cursor), rows, size)


def indexes(cursor: Cursor) -> tuple[int, int]:
    """The oldest and newest index that still has rows; (0, 0) when there are none."""
    end = "select idx from change where topic != 'trimmed' order by idx {} limit 1"
    oldest: int | None = cursor.execute(end.format("asc")).get
    newest: int | None = cursor.execute(end.format("desc")).get
    return oldest or 0, newest or 0


def trimmed_to(cursor: Cursor) -> int:
    """All changes behind this index are there; 0 if none was ever trimmed."""
    first = cursor.execute("select idx, topic from change order by idx, seq limit 1").fetchall()
    return first[0][0] if first and first[0][1] == "trimmed" else 0


def told(reading: Reading, query: KvChanges) -> tuple[Told, int]:
    """KvChanges: what there is behind an index, as much as is told at once.

    The index of the answer passes `after` as soon as there is something to tell.
    """
    after, present = query.after, reading.meta.index
    if after >= present:  # this server lags behind what the asker has seen
        return Told([], present), min(after, max(present, 1))
    if _is_gone(reading, query):
        return Told([], present, compacted=True), present
    if not query.prefix and kv.newest_of(reading, query.key) <= after:
        return Told([], present), max(after, 1)  # without a look at all that others changed meanwhile
    taken, more = _behind(reading, query)
    if not taken:
        return Told([], present), max(after, 1)
    last = taken[-1][0]
    shown = [_change(row, query) for row in taken if _may_see(reading, row)]
    return Told(shown, last if more else present), last


def _is_gone(reading: Reading, query: KvChanges) -> bool:
    """Is there something behind `after` that the table does not have any more?"""
    if query.after < reading.meta.restored_index:
        return True
    if trimmed_to(reading.cursor) <= query.after:
        return False
    # What was trimmed may all have been of others: so it is if this did not change at all since then.
    if query.prefix:
        return kv.list_keys(reading, KvKeys(query.key))[1] > query.after
    return kv.newest_of(reading, query.key) > query.after


def _behind(reading: Reading, query: KvChanges) -> tuple[list[ChangeRow], bool]:
    """Whole entries behind `after`, as many as are told at once or one that is longer, and whether there are
    more: read no further than that, as values may be long."""
    low = query.key
    high = end_of_prefix(low) if query.prefix else low + b"\0"
    asked = {"after": query.after, "low": low, "high": high}
    fresh = (row for row in reading.unsettled if row[0] > query.after and _is_meant(row, low, high))
    taken: list[ChangeRow] = []
    size = ended = 0
    for row in chain(reading.cursor.execute(_BEHIND, asked), fresh):
        if taken and row[0] != taken[-1][0]:
            ended = len(taken)
        if ended and (len(taken) >= TOLD_ROWS or size + len(row[5] or b"") > TOLD_BYTES):
            reading.cursor.execute("select 1").fetchall()  # ends the one before it
            reading.read += len(taken)
            return taken[:ended], True
        taken.append(row)
        size += len(row[5] or b"")
    reading.read += len(taken)
    return taken, False


def _is_meant(row: ChangeRow, low: bytes, high: bytes | None) -> bool:
    _, _, topic, key, op, _ = row
    if topic != "kv":
        return False
    return (key >= low and (high is None or key < high)) or (op == "delete-prefix" and low.startswith(key))


def _may_see(reading: Reading, row: ChangeRow) -> bool:
    """Of a deleted range only that part is told which was asked for, to everybody: its keys may be known."""
    if row[4] == "delete-prefix":
        return True
    return reading.allowed is None or reading.allowed(Operation("key", row[3], "read"))


def _change(row: ChangeRow, query: KvChanges) -> KvChange:
    """Of a deleted range that part which was asked for."""
    index, _, _, key, op, stored = row
    if op == "delete-prefix":
        own = key if len(key) > len(query.key) else query.key
        return KvChange(index, "delete-prefix" if query.prefix else "delete", own, None)
    if stored is None:
        return KvChange(index, "delete", key, None)
    return KvChange(index, "set", key, _decode(stored))


READERS: dict[type, Callable[[Reading, Any], tuple[Any, int]]] = {KvChanges: told}
