"""Who was in a member's cluster, as its file tells a later process: some of them, servers first. Pure.

The file is for finding the others again, so it need not be complete: any one of them that lives tells of
all. It is believed whole or not at all, and what it says is bounded as what strangers say: it may be
damaged, or of a later release.

Lamport times of user events are not in it (Consul's `serf/local.snapshot` has them). A process that begins
anew leaves out what is older than its first exchange, by its age (`agent/user_events.py`), and a clock that
is written down every few seconds says nothing of the event that came just before the end.
"""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from gemot.agent.gossip.limits import HOST_BYTES, facts_fault
from gemot.agent.gossip.members import HERE
from gemot.agent.gossip.message import ID_BYTES, NAME_BYTES, Facts, Record, Status
from gemot.server.model.errors import BadRequest

FILE = "serf/local.members"
FORMAT = 1

MOST = 128
"""Remembered at all: of any cluster enough that some of them are there again."""

MOST_SERVERS = 32
"""Of these: more servers than any cluster has. So nobody who invents servers fills the file with them."""

FILE_BYTES = 64 + MOST * (2 * (ID_BYTES + NAME_BYTES) + HOST_BYTES + 80)
"""The longest there can be; names may hold quotation marks, which take twice the room."""


class Remembered(msgspec.Struct, frozen=True):
    """A member, and where it gossips."""

    id: str
    name: str
    host: str
    port: int
    server: bool = False


class _Kept(msgspec.Struct, frozen=True):
    format: int
    members: tuple[Remembered, ...]


class _Head(msgspec.Struct, frozen=True):
    """What any release can read of the file of any other."""

    format: int


def remembered(record: Record, *, server: bool) -> Remembered:
    facts = record.facts
    return Remembered(facts.id, facts.name, facts.host, facts.port, server)


def choose(known: Iterable[tuple[Remembered, Status]], unmet: Iterable[Remembered]) -> tuple[Remembered, ...]:
    """Whom to remember of those `known` now, and of those of before that nobody has told of yet (`unmet`).

    Servers first, and whoever is here before whoever is not. Who left is not waited for; who failed may come
    back. The order hangs on ids alone: where all fit, one that fails and is back changes nothing that would
    have to be written.
    """
    ranked: dict[str, tuple[bool, str, Remembered]] = {}
    places = set()
    for each, status in known:
        places.add((each.host, each.port))
        if status is not Status.LEFT:
            ranked[each.id] = (status not in HERE, each.id, each)
    for each in unmet:
        if each.id not in ranked and (each.host, each.port) not in places:
            ranked[each.id] = (True, each.id, each)
    by_rank = [each for _, _, each in sorted(ranked.values(), key=lambda rank: rank[:2])]
    servers = [each for each in by_rank if each.server][:MOST_SERVERS]
    others = [each for each in by_rank if not each.server][: MOST - len(servers)]
    return tuple(sorted(servers, key=_id) + sorted(others, key=_id))


def encode(members: tuple[Remembered, ...]) -> bytes:
    """One line of JSON."""
    return msgspec.json.encode(_Kept(FORMAT, members)) + b"\n"


def decode(data: bytes) -> tuple[Remembered, ...]:
    """What a file holds. Raises BadRequest, which says what is wrong with it."""
    if len(data) > FILE_BYTES:
        raise BadRequest(f"it is longer than {FILE_BYTES} bytes, the most that is ever written")
    try:
        head = msgspec.json.decode(data, type=_Head)
        if head.format > FORMAT:
            raise BadRequest(f"its format is {head.format}, this release reads up to {FORMAT}")
        if head.format < 1:
            raise BadRequest(f"its format is {head.format}, and there is none")
        kept = msgspec.json.decode(data, type=_Kept)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise BadRequest(f"it is damaged: {error}") from error
    if len(kept.members) > MOST:
        raise BadRequest(f"it names {len(kept.members)} members, at most {MOST} are ever written")
    for number, each in enumerate(kept.members):
        if fault := facts_fault(Facts(each.id, each.name, each.host, each.port, b"")):
            raise BadRequest(f"members[{number}] is none: {fault}")
    return kept.members


def _id(each: Remembered) -> str:
    return each.id
