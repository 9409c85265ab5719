"""The rows of the change table, as they are."""

from __future__ import annotations

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
