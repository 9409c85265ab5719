"""The change table: what each entry did, in order, for watchers that come back, streams and history.

A row is (index, seq, topic, key, op, row): `seq` orders the changes of one entry, `key` is a key of the
family (`kv`: the key or the deleted prefix; `node`, `service`, `check`: folded names, NUL between), `row` the
word as it then stood, or None where it was deleted. Rows of a batch are written together at its end.
"""

from __future__ import annotations

from gemot.server.model.upkeep import TrimChanges
from gemot.server.state.scope import ChangeRow, Writing
from gemot.server.state.tables import Cursor

TRIM_ROWS = 20_000
"""Change rows that one TrimChanges removes at most."""


def write(cursor: Cursor, changes: list[ChangeRow]) -> None:
    if changes:
        cursor.executemany("insert into change values (?, ?, ?, ?, ?, ?)", changes)


def trim(writing: Writing, command: TrimChanges) -> bool:
    """TrimChanges: forget the oldest rows up to `through`, whole entries, a bounded number at a time."""
    cursor = writing.cursor
    write(cursor, writing.changes)
    writing.changes.clear()
    after: int | None = cursor.execute(
        "select idx from change order by idx limit 1 offset ?", (TRIM_ROWS,)
    ).get
    through = command.through if after is None else min(command.through, after)
    cursor.execute("delete from change where idx <= ?", (through,))
    writing.ends_moved = True
    return True


def indexes(cursor: Cursor) -> tuple[int, int]:
    """The oldest and newest index that still has rows; (0, 0) when there are none."""
    oldest: int | None = cursor.execute("select min(idx) from change").get
    newest: int | None = cursor.execute("select max(idx) from change").get
    return oldest or 0, newest or 0


def after(cursor: Cursor, index: int, limit: int) -> list[ChangeRow]:
    """Changes of the entries behind `index`, in order. Cut at `limit` rows: ask on from the last row's entry.

    The caller first compares `index` with the oldest kept (`indexes`): what was trimmed cannot be told.
    """
    rows: list[ChangeRow] = cursor.execute(
        "select idx, seq, topic, key, op, row from change where idx > ? order by idx, seq limit ?",
        (index, limit),
    ).fetchall()
    return rows
