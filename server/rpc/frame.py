"""Bytes to frames and back. Pure: knows neither sockets nor what the frames mean.

A frame is `length: u32 big-endian | kind: u8 | body`, where length counts kind and body. The first byte
of a connection is the greeting `GREETING`, which tells our protocol from TLS (0x16) and from strangers.
A length over the limit is refused before anything is allocated for it.
"""

from __future__ import annotations

import struct
from enum import IntEnum

from gemot.server.model.errors import PeerBroke, TooLarge

GREETING = b"\x67"
"""Sent once by the side that connects, before its first frame."""

MAX_HELLO_BYTES = 64 << 10
"""All that a stranger may send: only after the first frame are larger ones taken."""

MAX_FRAME_BYTES = 16 << 20
"""What a server takes. The largest is one command with a value of 8 MiB (limits.kv_max_value_size)."""

MAX_ANSWER_BYTES = 64 << 20
"""What the calling side takes: long lists. A longer answer is refused where it is made."""

_HEADER = struct.Struct(">IB")


class Kind(IntEnum):
    HELLO = 1
    CALL = 2
    REPLY = 3
    FAILURE = 4
    EVENT = 5
    CANCEL = 6
    RAFT = 7
    PING = 8
    PONG = 9
    BOOKMARK = 10


_KINDS = {int(kind): kind for kind in Kind}


def frame(kind: Kind, body: bytes) -> bytes:
    """The bytes of one frame. Raises TooLarge for more than any peer takes."""
    if len(body) >= MAX_ANSWER_BYTES:
        raise TooLarge(f"{len(body)} bytes are to be sent at once, the limit is {MAX_ANSWER_BYTES}")
    return _HEADER.pack(len(body) + 1, kind) + body


class FrameReader:
    """Collects bytes as they come and hands out whole frames. Raises PeerBroke on nonsense."""

    def __init__(self, *, greeted: bool = False, max_bytes: int = MAX_FRAME_BYTES) -> None:
        self._buffer = bytearray()
        self._greeted = greeted
        self._limit = min(MAX_HELLO_BYTES, max_bytes)
        self._later_limit = max_bytes

    def feed(self, data: bytes) -> list[tuple[Kind, bytes]]:
        self._buffer += data
        frames: list[tuple[Kind, bytes]] = []
        at = 0
        if not self._greeted and self._buffer:
            if self._buffer[:1] != GREETING:
                raise PeerBroke(f"connection begins with byte {self._buffer[0]:#04x}, not a Gemot greeting")
            self._greeted = True
            at = 1
        while len(self._buffer) - at >= _HEADER.size:
            length, code = _HEADER.unpack_from(self._buffer, at)
            if not 1 <= length <= self._limit:
                raise PeerBroke(f"frame of {length} bytes is outside 1..{self._limit}")
            kind = _KINDS.get(code)
            if kind is None:
                raise PeerBroke(f"unknown frame kind {code}")
            end = at + 4 + length
            if len(self._buffer) < end:
                break
            frames.append((kind, bytes(self._buffer[at + _HEADER.size : end])))
            at = end
            self._limit = self._later_limit
        if at:
            del self._buffer[:at]
        return frames
