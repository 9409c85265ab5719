"""The one row of the autopilot configuration."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec

from gemot.server.model.autopilot import AutopilotRow, GetAutopilot, SetAutopilot
from gemot.server.state.scope import Reading, Writing
from gemot.server.state.tables import Cursor

_TABLE = b"autopilot"
_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(AutopilotRow).decode


def set_config(writing: Writing, command: SetAutopilot) -> bool:
    """False, and nothing is changed, where `cas` is not the row's index."""
    before = _stored(writing.cursor)
    old = _decode(before) if before is not None else None
    if command.cas is not None and command.cas != (old.modify_index if old is not None else 0):
        return False
    created = old.create_index if old is not None else writing.index
    row = _encode(AutopilotRow(command.config, created, writing.index))
    if before is not None:
        writing.take(_TABLE, before)
    writing.add(_TABLE, row)
    writing.cursor.execute("insert or replace into autopilot values (1, ?)", (row,))
    writing.record("autopilot", b"", "set", row)
    writing.touched.append(("autopilot", b""))
    return True


def get_config(reading: Reading, _query: GetAutopilot) -> tuple[AutopilotRow | None, int]:
    stored = _stored(reading.cursor)
    row = _decode(stored) if stored is not None else None
    return row, row.modify_index if row is not None else 1


def _stored(cursor: Cursor) -> bytes | None:
    row: bytes | None = cursor.execute("select row from autopilot").get
    return row


READERS: dict[type, Callable[[Reading, Any], tuple[Any, int]]] = {GetAutopilot: get_config}
