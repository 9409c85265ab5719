"""The rows of network coordinates: of each node of the catalog at most one, gone with its node.

No rule looks at them. They are not in the change table: they come all the time, and would push out of it what
people follow. Of one node the index is its row's; of all, the last change of any (`latest`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import msgspec

from gemot.server.model.catalog import Node
from gemot.server.model.coordinate import (
    Coordinate,
    CoordinateOf,
    Coordinates,
    NodeCoordinate,
    SetCoordinates,
)
from gemot.server.state.latest import coordinates_index, touch_coordinates
from gemot.server.state.names import fold, topic_key
from gemot.server.state.near import nearest_first
from gemot.server.state.permission import readable
from gemot.server.state.scope import Reading, Writing
from gemot.server.state.tables import Cursor

_TABLE = b"coordinate"
_FEW_NODES = 100
"""Their coordinates are looked up one by one; for more all are read."""

_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(NodeCoordinate).decode
_decode_node = msgspec.msgpack.Decoder(Node).decode
_T = TypeVar("_T")


def set_all(writing: Writing, command: SetCoordinates) -> int:
    """How many rows changed."""
    return sum([_set(writing, given) for given in command.rows])


def _set(writing: Writing, given: NodeCoordinate) -> bool:
    cursor, name = writing.cursor, fold(given.node)
    node: bytes | None = cursor.execute("select row from node where name = ?", (name,)).get
    if node is None:
        return False
    before = _stored(cursor, name)
    old = _decode(before) if before is not None else None
    created = old.create_index if old is not None else writing.index
    # The catalog's own spelling of its name, as every other list has it.
    new = NodeCoordinate(_decode_node(node).node, given.coordinate, created, writing.index)
    if old is not None and new == msgspec.structs.replace(old, modify_index=writing.index):
        return False
    row = _encode(new)
    if before is not None:
        writing.take(_TABLE, before)
    writing.add(_TABLE, row)
    cursor.execute("insert or replace into coordinate values (?, ?)", (name, row))
    _touch(writing, name)
    return True


def remove(writing: Writing, name: str) -> None:
    """Its node (a folded name) is gone."""
    row = _stored(writing.cursor, name)
    if row is not None:
        writing.cursor.execute("delete from coordinate where node = ?", (name,))
        writing.take(_TABLE, row)
        _touch(writing, name)


def _touch(writing: Writing, name: str) -> None:
    writing.touched.append(("coordinate", topic_key(name)))
    touch_coordinates(writing)


def _stored(cursor: Cursor, name: str) -> bytes | None:
    row: bytes | None = cursor.execute("select row from coordinate where node = ?", (name,)).get
    return row


# -- queries ---------------------------------------------------------------------------------------


def every(reading: Reading, _query: Coordinates) -> tuple[list[NodeCoordinate], int]:
    rows = reading.rows("select row from coordinate order by node limit ?")
    found = [_decode(row) for (row,) in rows]
    if (allowed := reading.allowed) is not None:
        found = [row for row in found if allowed(readable("node", row.node))]
    return found, coordinates_index(reading)


def of_node(reading: Reading, query: CoordinateOf) -> tuple[NodeCoordinate | None, int]:
    row = _stored(reading.cursor, fold(query.node))
    if row is None:
        return None, coordinates_index(reading)
    found = _decode(row)
    seen = reading.allowed is None or reading.allowed(readable("node", found.node))
    return found if seen else None, found.modify_index


def near(reading: Reading, rows: list[_T], node: str, name: Callable[[_T], str]) -> list[_T]:
    """The rows, nearest to that node first (`near.py`); as they are for "". `name` tells a row's node."""
    if not node or len(rows) < 2:
        return rows
    names = [fold(name(row)) for row in rows]
    places = _places(reading, list(dict.fromkeys([fold(node), *names])))
    order = nearest_first(range(len(rows)), node=fold(node), name=names.__getitem__, coordinates=places)
    return [rows[at] for at in order]


def _places(reading: Reading, names: Sequence[str]) -> dict[str, Coordinate]:
    if len(names) <= _FEW_NODES:
        found = [(name, _stored(reading.cursor, name)) for name in names]
    else:
        found = reading.rows("select node, row from coordinate order by node limit ?")
    return {name: _decode(row).coordinate for name, row in found if row is not None}


READERS: dict[type, Callable[[Reading, Any], tuple[Any, int]]] = {Coordinates: every, CoordinateOf: of_node}
