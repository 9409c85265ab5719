"""The rows of the change table, as they are."""

from __future__ import annotations

from support.one_state import OneState

from gemot.server.state import changes
from gemot.server.state.scope import ChangeRow
from gemot.server.state.store import State


def changes_after(state: State, index: int, limit: int) -> list[ChangeRow]:
    """Those of the entries behind `index`, in order, at most `limit`."""
    state.settle()
    rows: list[ChangeRow] = state._file.cursor.execute(
        "select idx, seq, topic, key, op, row from change "
        "where idx > ? and topic != 'trimmed' order by idx, seq limit ?",
        (index, limit),
    ).fetchall()
    return rows


def ends(one: OneState) -> tuple[int, int]:
    """The oldest and newest index that has rows. What the state notes of the table is what is in it."""
    one.state.settle()
    assert one.state.changes == changes.extent(one.file.cursor)
    return one.state.changes.oldest, one.state.changes.newest
