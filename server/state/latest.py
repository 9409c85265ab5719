"""The index of each single node and service: which command last changed anything that belongs to it.

And those of all coordinates, of all sessions, of the first transaction, of the beginning of the history of
keys, and of the first key that expires, under kinds of their own.
"""

from __future__ import annotations

from typing import Literal

from gemot.server.state import digest
from gemot.server.state.names import fold, topic_key
from gemot.server.state.scope import Reading, Writing
from gemot.server.state.tables import Cursor

_TABLE = b"latest"
_Kind = Literal["node", "service", "coordinates", "sessions", "transactions", "history", "keys that expire"]


def touch_node(writing: Writing, node: str) -> None:
    """The node, or something on it, changed."""
    writing.touched.append(("node", topic_key(node)))
    _put(writing, "node", fold(node))


def touch_service(writing: Writing, service: str) -> None:
    writing.touched.append(("service", topic_key(service)))
    _put(writing, "service", fold(service))


def touch_services_of(writing: Writing, node: str) -> None:
    """Something that speaks for the whole node changed: so did each service on it."""
    rows = writing.cursor.execute(
        "select distinct name from service where node = ? order by name", (fold(node),)
    ).fetchall()
    for (name,) in rows:
        touch_service(writing, name)


def forget_node(writing: Writing, node: str) -> None:
    """The node is gone."""
    writing.touched.append(("node", topic_key(node)))
    _forget(writing, "node", fold(node))


def touch_left_service(writing: Writing, service: str) -> None:
    """An instance went: the service moves, or, without any instance left, is extinct."""
    name = fold(service)
    if writing.cursor.execute("select 1 from service where name = ? limit 1", (name,)).get is not None:
        touch_service(writing, name)
        return
    writing.meta.extinction_index = writing.index
    writing.touched.append(("service", topic_key(name)))
    _forget(writing, "service", name)


def touch_coordinates(writing: Writing) -> None:
    writing.touched.append(("coordinates", b""))
    _put(writing, "coordinates", "")


def coordinates_index(reading: Reading) -> int:
    return max(_get(reading.cursor, "coordinates", ""), 1)


def touch_sessions(writing: Writing, node: str) -> None:
    """A session of this node began or ended."""
    writing.touched += (("sessions", b""), ("node-sessions", topic_key(node)))
    _put(writing, "sessions", "")
    _put(writing, "sessions", fold(node))


def forget_sessions(writing: Writing, node: str) -> None:
    """The node is gone, and its sessions with it: of them the index is that of all."""
    _forget(writing, "sessions", fold(node))


def sessions_index(reading: Reading, node: str) -> int:
    """Of a node that never had a session, and of all for "", the index of all."""
    of_node = _get(reading.cursor, "sessions", fold(node)) if node else 0
    return max(of_node or _get(reading.cursor, "sessions", ""), 1)


def note_transaction(writing: Writing) -> None:
    """The log has had one; of the first one that was done."""
    if not _get(writing.cursor, "transactions", ""):
        _put(writing, "transactions", "")


def note_history(writing: Writing) -> None:
    """From this entry on the history of keys is kept."""
    _put(writing, "history", "")


def note_expiry(writing: Writing) -> None:
    """The log has had a key that expires."""
    if not _get(writing.cursor, "keys that expire", ""):
        _put(writing, "keys that expire", "")


def service_index(reading: Reading, service: str) -> int:
    """The index of one service's reads; of an absent one, the last extinction's or the whole catalog's."""
    meta = reading.meta
    whole = max(meta.nodes_index, meta.services_index, meta.checks_index)
    return max(_get(reading.cursor, "service", fold(service)) or meta.extinction_index or whole, 1)


def node_index(reading: Reading, node: str) -> int:
    """The index of one node's reads; of an absent one, that of the nodes as a whole."""
    return max(_get(reading.cursor, "node", fold(node)) or reading.meta.nodes_index, 1)


def _put(writing: Writing, kind: _Kind, name: str) -> None:
    before = _get(writing.cursor, kind, name)
    if before == writing.index:
        return
    if before:
        writing.meta.rows_sum -= digest.of_values(_TABLE, kind, name, before)
    writing.meta.rows_sum += digest.of_values(_TABLE, kind, name, writing.index)
    writing.cursor.execute("insert or replace into latest values (?, ?, ?)", (kind, name, writing.index))


def _forget(writing: Writing, kind: _Kind, name: str) -> None:
    if before := _get(writing.cursor, kind, name):
        writing.meta.rows_sum -= digest.of_values(_TABLE, kind, name, before)
        writing.cursor.execute("delete from latest where kind = ? and name = ?", (kind, name))


def _get(cursor: Cursor, kind: _Kind, name: str) -> int:
    found: int | None = cursor.execute("select idx from latest where kind = ? and name = ?", (kind, name)).get
    return found or 0
