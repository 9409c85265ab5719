"""Which keys each session holds, and which keys nobody may lock yet (Consul: lock delay).

Held keys are found by their session, so that its end costs what it held and no more. There is one note for
each row with a holder, hidden by a deleted range or not.
"""

from __future__ import annotations

from gemot.server.model.session import MAX_LOCK_DELAY_MS
from gemot.server.state import digest
from gemot.server.state.scope import Writing
from gemot.server.state.tables import Cursor

FENCE_BITS = 40
"""A fence is the index of the acquisition with the epoch above it: what is acquired later has a greater one,
whatever was deleted or restored between. Below 2**53 for the first 8,192 epochs."""

MAX_HELD = 4_096
"""Keys that the sessions of one node may hold: when it fails, all are freed in one entry."""

FORGET_ROWS = 500
"""Lock delays that one entry forgets at most."""

_HELD = b"held"
_HOW_MANY = """select count(*), coalesce(sum(length(row)), 0) from held left join kv on kv.key = held.key
    where session = ?"""
_DELAY = b"lock_delay"


def fence(epoch: int, index: int) -> int:
    return (epoch << FENCE_BITS) + index


def node_of(cursor: Cursor, session: str) -> str:
    """The folded name of a session's node; "" if there is no such session."""
    node: str | None = cursor.execute("select node from session where id = ?", (session,)).get
    return node or ""


def hold(writing: Writing, session: str, key: bytes) -> None:
    node = node_of(writing.cursor, session)
    writing.cursor.execute("insert into held values (?, ?, ?)", (session, key, node))
    writing.meta.rows_sum += digest.of_values(_HELD, session, key, node)


def unhold(writing: Writing, session: str, key: bytes) -> None:
    node = writing.cursor.execute("select node from held where session = ? and key = ?", (session, key)).get
    writing.cursor.execute("delete from held where session = ? and key = ?", (session, key))
    writing.meta.rows_sum -= digest.of_values(_HELD, session, key, node)


def held_at_most(cursor: Cursor, node: str) -> bool:
    """Do the sessions of this node hold as many keys as they may?"""
    statement = "select 1 from held where node = ? limit 1 offset ?"
    return cursor.execute(statement, (node, MAX_HELD - 1)).get is not None


def how_many(cursor: Cursor, session: str) -> tuple[int, int]:
    """How many keys a session holds, and the bytes of their rows."""
    found: tuple[int, int] = cursor.execute(_HOW_MANY, (session,)).get
    return found


def keys_of(cursor: Cursor, session: str) -> list[bytes]:
    rows = cursor.execute("select key from held where session = ? order by key", (session,)).fetchall()
    return [key for (key,) in rows]


# -- delays ----------------------------------------------------------------------------------------


def delay(writing: Writing, key: bytes, for_ms: int) -> None:
    """Nobody gets this lock before cluster time has moved on by so much, a minute at most."""
    until_ms = writing.time_ms + min(for_ms, MAX_LOCK_DELAY_MS)
    _forget(writing, key)
    writing.cursor.execute("insert into lock_delay values (?, ?)", (key, until_ms))
    writing.meta.rows_sum += digest.of_values(_DELAY, key, until_ms)


def is_delayed(writing: Writing, key: bytes) -> bool:
    until_ms: int | None = writing.cursor.execute("select until_ms from lock_delay where key = ?", (key,)).get
    # What is further ahead than any delay is of another cluster's time: it came with a restore.
    return until_ms is not None and 0 < until_ms - writing.time_ms <= MAX_LOCK_DELAY_MS


def forget_delays(writing: Writing) -> None:
    for key in _over(writing.cursor, writing.time_ms, FORGET_ROWS):
        _forget(writing, key)


def delays_over(cursor: Cursor, time_ms: int) -> bool:
    return bool(_over(cursor, time_ms, 1))


def delays_exist(cursor: Cursor) -> bool:
    return cursor.execute("select 1 from lock_delay limit 1").get is not None


def _over(cursor: Cursor, time_ms: int, limit: int) -> list[bytes]:
    """Keys whose delay is over; the later ones of another cluster's time, if there are no others."""
    statement = "select key from lock_delay where until_ms {} ? order by until_ms, key limit ?"
    for bound, at_ms in (("<=", time_ms), (">", time_ms + MAX_LOCK_DELAY_MS)):
        if rows := cursor.execute(statement.format(bound), (at_ms, limit)).fetchall():
            return [key for (key,) in rows]
    return []


def _forget(writing: Writing, key: bytes) -> None:
    until_ms: int | None = writing.cursor.execute("select until_ms from lock_delay where key = ?", (key,)).get
    if until_ms is not None:
        writing.cursor.execute("delete from lock_delay where key = ?", (key,))
        writing.meta.rows_sum -= digest.of_values(_DELAY, key, until_ms)
