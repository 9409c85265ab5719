"""One watch of etcd by gRPC, as bytes of HTTP/2: what a connection with nothing else on it says and is told.

Pure. Not a gRPC client: one stream, no Huffman codes, no flow control of its own, so no more than 64 kB can
be told to one watcher: some 150 events of the bench's value. Sources: RFC 9113, RFC 7541, gRPC over HTTP/2,
etcd's rpc.proto.
"""

from __future__ import annotations

import struct

_DATA, _HEADERS, _RESET, _SETTINGS, _PING, _GOAWAY = 0, 1, 3, 4, 6, 7
_ACK, _END_STREAM, _END_HEADERS = 0x1, 0x1, 0x4
_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
_METHOD_POST, _SCHEME_HTTP = b"\x83", b"\x86"
_PATH, _AUTHORITY, _CONTENT_TYPE, _NEW_NAME = b"\x04", b"\x01", b"\x0f\x10", b"\x00"
"""How a header field begins whose name has that place in RFC 7541's static table, or none."""


def watch(address: str, key: str) -> bytes:
    """All that is said to begin."""
    headers = _METHOD_POST + _SCHEME_HTTP + _PATH + _text("/etcdserverpb.Watch/Watch")
    headers += _AUTHORITY + _text(address) + _CONTENT_TYPE + _text("application/grpc")
    headers += _NEW_NAME + _text("te") + _text("trailers")
    create = _field(1, _field(1, key.encode()))
    message = b"\0" + struct.pack(">I", len(create)) + create
    return (
        _PREFACE
        + _frame(_SETTINGS, 0, 0, b"")
        + _frame(_HEADERS, _END_HEADERS, 1, headers)
        + _frame(_DATA, 0, 1, message)
    )


def take(data: bytes) -> tuple[bytes, bytes, bytes]:
    """What the watch was told by the whole frames in `data`; what must be said to them; the rest.

    Raises ConnectionError where the server ended the watch.
    """
    told, owed = b"", b""
    while len(data) >= 9:
        size, kind, flags = int.from_bytes(data[:3], "big"), data[3], data[4]
        if len(data) < 9 + size:
            break
        payload, data = data[9 : 9 + size], data[9 + size :]
        if kind == _DATA:
            told += payload
        elif kind in (_SETTINGS, _PING) and not flags & _ACK:
            owed += _frame(kind, _ACK, 0, payload if kind == _PING else b"")
        elif kind in (_RESET, _GOAWAY) or (kind == _HEADERS and flags & _END_STREAM):
            raise ConnectionError(f"etcd ended the watch: {payload[:200]!r}")
    return told, owed, data


def _frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    return len(payload).to_bytes(3, "big") + bytes((kind, flags)) + struct.pack(">I", stream) + payload


def _text(text: str) -> bytes:
    return _short(len(text)) + text.encode()


def _field(number: int, data: bytes) -> bytes:
    """A field of protobuf that has bytes."""
    return bytes((number << 3 | 2,)) + _short(len(data)) + data


def _short(length: int) -> bytes:
    assert length < 127, "one byte of length, in HPACK and protobuf"
    return bytes((length,))
