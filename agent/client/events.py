"""What a push watch tells, event by event, and how it is read from the wire. Pure.

Of a key or a prefix each change is told once. Of all else it is told how it is; changes that follow each
other at once may be folded into one.
"""

from __future__ import annotations

import re
from typing import Any, Literal, TypeVar

import msgspec

from gemot.agent.client.connection import ClientError, NotAnAgent
from gemot.agent.client.sse import ServerEvent

_Word = TypeVar("_Word")
_PLACE = re.compile(r"[0-9]{1,16}-[0-9]{1,16}")


class Snapshot(msgspec.Struct, frozen=True):
    """All there is, by key. `lost`: why the changes since the place before are not known, else ""."""

    place: str
    index: int
    items: dict[str, Any]
    lost: str = ""


class Op(msgspec.Struct, frozen=True, rename="pascal"):
    """What happened to a key, or to all that begin with it. `item` is None unless it was set."""

    op: Literal["set", "delete", "delete-prefix"]
    key: str
    item: Any = None


class Change(msgspec.Struct, frozen=True):
    """All that one index brought."""

    place: str
    index: int
    changes: list[Op]


class Bookmark(msgspec.Struct, frozen=True):
    """Nothing else happened up to there."""

    place: str
    index: int


Event = Snapshot | Change | Bookmark


class WatchEnded(ClientError):
    """The agent says that this cannot be watched any longer, and why."""


class Compacted(msgspec.Struct, frozen=True, rename="pascal"):
    """What was changed before the snapshot that comes next is not kept any more. No reader is handed this."""

    reason: str


def read_event(told: ServerEvent) -> Event | Compacted | None:
    """None for a kind of a later release. Raises WatchEnded, and NotAnAgent for what no agent writes."""
    match told.kind:
        case "snapshot":
            snapshot = _decode(told, _SNAPSHOT)
            return Snapshot(_place(told), snapshot.index, {each.key: each.item for each in snapshot.items})
        case "change":
            change = _decode(told, _CHANGE)
            return Change(_place(told), change.index, change.changes)
        case "bookmark":
            return Bookmark(_place(told), _decode(told, _BOOKMARK).index)
        case "compacted":
            return _decode(told, _COMPACTED)
        case "error":
            raise WatchEnded(_decode(told, _ERROR).error)
    return None


class _Item(msgspec.Struct, rename="pascal"):
    key: str
    item: Any


class _Snapshot(msgspec.Struct, rename="pascal"):
    index: int
    items: list[_Item]


class _Change(msgspec.Struct, rename="pascal"):
    index: int
    changes: list[Op]


class _Bookmark(msgspec.Struct, rename="pascal"):
    index: int


class _Error(msgspec.Struct, rename="pascal"):
    error: str


_SNAPSHOT = msgspec.json.Decoder(_Snapshot)
_CHANGE = msgspec.json.Decoder(_Change)
_BOOKMARK = msgspec.json.Decoder(_Bookmark)
_COMPACTED = msgspec.json.Decoder(Compacted)
_ERROR = msgspec.json.Decoder(_Error)


def _decode(told: ServerEvent, decoder: msgspec.json.Decoder[_Word]) -> _Word:
    try:
        return decoder.decode(told.data)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise NotAnAgent(
            f"an event {told.kind!r} that is not as an agent writes it ({error}): {_start(told.data)!r}"
        ) from error


def _place(told: ServerEvent) -> str:
    """It is sent back as a header, so it is looked at."""
    if not _PLACE.fullmatch(told.id):
        raise NotAnAgent(f"an event {told.kind!r} with the id {told.id[:60]!r}: an agent's is like 0-1234")
    return told.id


def _start(data: bytes) -> str:
    return data[:60].decode(errors="replace")
