"""The events of a push watch as they are sent: Server-Sent Events. Source: WHATWG HTML, section 9.2.

An id is `EPOCH-INDEX`: where the reader stands once it has the event. It goes on from there on any agent.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Literal

import msgspec

Kind = Literal["change", "bookmark", "compacted", "error"]

RETRY = b"retry: 1000\n\n"
"""How long a browser waits before it connects again, in ms."""

_UNSHOWN = re.compile("[\udc80-\udcff\ufffd]")
"""Bytes that are not UTF-8, as Python has them, and what is put in their place."""

_encode = msgspec.json.Encoder().encode


class Place(msgspec.Struct, frozen=True):
    """Where a reader stands. An epoch of -1: it did not say."""

    index: int
    epoch: int = -1

    def __str__(self) -> str:
        return f"{self.epoch}-{self.index}"


def read_place(text: str) -> Place | None:
    """A `Last-Event-ID`; None for what is none. A bare index is one of any epoch."""
    epoch, mark, index = text.rpartition("-")
    if not (_is_number(index) and (_is_number(epoch) if mark else not epoch)):
        return None
    return Place(int(index), int(epoch) if mark else -1)


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdecimal() and len(text) <= 16


def snapshot_head(place: Place) -> bytes:
    """All there is, each under the key that changes name it by: `held_item`s with commas between them, and
    the tail."""
    return b'event: snapshot\nid: %b\ndata: {"Index":%d,"Items":[' % (str(place).encode(), place.index)


def held_item(key: bytes, item: bytes) -> bytes:
    return b'{"Key":%b,"Item":%b}' % (text(key), item)


SNAPSHOT_TAIL = b"]}\n\n"


def change(place: Place, changes: Iterable[bytes]) -> bytes:
    """All that one index brought."""
    return _event("change", str(place), b'{"Index":%d,"Changes":[%b]}' % (place.index, b",".join(changes)))


def set_item(key: bytes, item: bytes) -> bytes:
    return b'{"Op":"set","Key":%b,"Item":%b}' % (text(key), item)


def gone(key: bytes, op: Literal["delete", "delete-prefix"] = "delete") -> bytes:
    return b'{"Op":"%b","Key":%b}' % (op.encode(), text(key))


def bookmark(place: Place, *, known_leader: bool, last_contact_ms: int) -> bytes:
    """All up to there was told. `last_contact_ms`: for how long nothing has vouched for it."""
    told = {"Index": place.index, "KnownLeader": known_leader, "LastContact": last_contact_ms}
    return _event("bookmark", str(place), _encode(told))


def compacted(why: str) -> bytes:
    """What happened since the reader's place is not known in full: a snapshot follows."""
    return _event("compacted", "", _encode({"Reason": why}))


def error(why: str) -> bytes:
    """The last word: the watch cannot go on."""
    return _event("error", "", _encode({"Error": why}))


def comment(text: str) -> bytes:
    """No event: for who looks at the stream itself."""
    return b": %b\n\n" % text.encode()


def key_on(node: str, id: str) -> str:
    """The key of an instance or a check, which no other node's has: a "/" in the node's name would look like
    the one behind it."""
    return f"{node.replace('%', '%25').replace('/', '%2F')}/{id}"


def text(key: bytes) -> bytes:
    """A key as JSON, another for each key: a byte that is not UTF-8 shows as U+FFFD and two hex digits."""
    shown = key.decode("utf-8", "surrogateescape")
    if _UNSHOWN.search(shown):
        shown = _UNSHOWN.sub(_as_hex, shown)
    return _encode(shown)


def _as_hex(char: re.Match[str]) -> str:
    return "".join(f"\ufffd{byte:02x}" for byte in char[0].encode("utf-8", "surrogateescape"))


def _event(kind: Kind, id: str, data: bytes) -> bytes:
    """JSON holds no line break of its own, so `data` is one line."""
    head = b"id: %b\n" % id.encode() if id else b""
    return b"event: %b\n%bdata: %b\n\n" % (kind.encode(), head, data)
