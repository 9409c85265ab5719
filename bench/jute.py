"""ZooKeeper's protocol as bytes: what one client that writes or watches one node says, and what it is told.

Pure. Not a client: no session is resumed, no other request is known. Each message is a length and a body; all
numbers are big-endian. Source: zookeeper.jute in ZooKeeper's own sources, and its Programmer's Guide.
"""

from __future__ import annotations

import struct
from typing import NamedTuple

CREATE, GET_DATA, SET_DATA = 1, 4, 5
EVENT_XID, PING_XID = -1, -2
PING_KIND = 11
_OPEN_TO_ALL = struct.pack(">ii", 1, 31) + b"\0\0\0\5world\0\0\0\6anyone"
"""The one access rule of a node: all permissions to anyone."""


class Reply(NamedTuple):
    """To the request of that number, or an event of `EVENT_XID`. `error` is 0, or negative."""

    xid: int
    error: int
    body: bytes


def connect(timeout_ms: int) -> bytes:
    """Ask for a session that lives so long without a word of the client."""
    return _message(struct.pack(">iqiq", 0, 0, timeout_ms, 0) + _buffer(bytes(16)) + b"\0")


def granted_timeout_ms(answer: bytes) -> int:
    """Of the answer to `connect`, which is no `Reply`; 0 when the session was refused."""
    return int(struct.unpack_from(">i", answer, 4)[0])


def create(xid: int, path: str, value: bytes) -> bytes:
    return _request(xid, CREATE, _buffer(path.encode()) + _buffer(value) + _OPEN_TO_ALL + bytes(4))


def set_data(xid: int, path: str, value: bytes) -> bytes:
    """Whatever version the node has."""
    return _request(xid, SET_DATA, _buffer(path.encode()) + _buffer(value) + struct.pack(">i", -1))


def get_and_watch(xid: int, path: str) -> bytes:
    """The node's data, and one event at its next change."""
    return _request(xid, GET_DATA, _buffer(path.encode()) + b"\1")


def ping() -> bytes:
    return _request(PING_XID, PING_KIND, b"")


def split(data: bytes) -> tuple[list[bytes], bytes]:
    """The whole messages that begin `data`, and the rest."""
    messages, start = [], 0
    while len(data) - start >= 4:
        end = start + 4 + int.from_bytes(data[start : start + 4], "big")
        if len(data) < end:
            break
        messages.append(data[start + 4 : end])
        start = end
    return messages, data[start:]


def reply(message: bytes) -> Reply:
    xid, _zxid, error = struct.unpack_from(">iqi", message)
    return Reply(xid, error, message[16:])


def _request(xid: int, kind: int, body: bytes) -> bytes:
    return _message(struct.pack(">ii", xid, kind) + body)


def _buffer(data: bytes) -> bytes:
    return struct.pack(">i", len(data)) + data


def _message(body: bytes) -> bytes:
    return struct.pack(">i", len(body)) + body
