"""One server of the consensus as a value: made canonical, named by a hash, and brought to life again.

A bounded model check needs equal states to be recognized as equal. So what cannot matter is made alike first:
time counts from now on, save tokens from the oldest save under way, caches and counters for people are left
out. Everything else is in the hash, found by walking the live objects, so that a field added to the core
tomorrow is in it without anybody remembering.

The hash is taken under each renaming of the servers: the core knows no server by its name, so two states that
differ by a renaming lead to the same future, and only one of them has to be explored.
"""

from __future__ import annotations

import pickle
from collections import deque
from enum import Enum
from hashlib import blake2b
from itertools import permutations
from typing import Any

import msgspec
from support.raft_group import Member

from gemot.server.raft.types import Append, Batch, Entry, EntryKind, Message, RaftConfig
from gemot.server.raft.voters import decode_voters

IDS = "123"
RENAMINGS = tuple(dict(zip(IDS, other, strict=True)) for other in permutations(IDS))
CONFIG = RaftConfig(heartbeat_ticks=1, election_ticks=2, max_batch_bytes=1)

_SKIP = frozenset(
    ["_core", "_log", "random", "config", "_config", "_chance", "laws", "_reader", "_body", "_size", "reads"]
)
_MASK = (1 << 64) - 1


class HalfChance:
    """A timeout is three ticks where two are the least: a leader is forgotten before the time to stand."""

    def random(self) -> float:
        return 0.5


class NoLaws:
    """The checker has its own: a `Member`'s laws remember a whole history, which a state does not have."""

    highest_commit = 0

    def on_append(self, batch: Batch, prev_term: int) -> None: ...

    def on_role(self, raft: Any) -> None: ...

    def on_apply(self, entry: Entry) -> None: ...


def new_member(id: str) -> Member:
    return Member(id, CONFIG, HalfChance(), NoLaws())  # type: ignore[arg-type]


def settle_clocks(member: Member) -> None:
    """Make alike what cannot matter. No time has passed: how much will, the next event says."""
    raft = member.raft
    core, following, leadership = raft._core, raft._following, raft._leadership
    core.now = raft._heard_leader = raft._timer_start = 0
    following._said = None  # a reply that it would have left out is under way already
    asked = following._forwarded._asked
    for id in asked:
        asked[id] = 0
    if leadership is not None:
        leadership._since_heartbeat = leadership._handover._ticks = 0
        for peer in leadership._peers.values():
            peer.heard_tick = 0
    _rebase_tokens(member)
    member.applied = []
    member.disk.reads = 0


def _rebase_tokens(member: Member) -> None:
    raft, core = member.raft, member.raft._core
    back = raft._token - len(member.disk.pending)
    raft._token -= back
    member.disk.pending = deque(save._replace(token=save.token - back) for save in member.disk.pending)
    core._hard_saves = deque((token - back, hard) for token, hard in core._hard_saves)
    for save in core.log._saves:
        save.token -= back
    member._waiting = {token - back: messages for token, messages in member._waiting.items()}


def freeze(thing: Any, names: dict[str, str]) -> Any:
    """A nested tuple of plain values, with the servers renamed."""
    if isinstance(thing, bytes):
        return thing if len(thing) < 100 else (thing[:1], len(thing))
    if thing is None or isinstance(thing, int | float):
        return int(thing) if isinstance(thing, Enum) else thing
    if isinstance(thing, str):
        return names.get(thing, thing)
    if isinstance(thing, tuple | list | deque):
        items = tuple(freeze(item, names) for item in thing)
        return tuple(sorted(items)) if items and all(isinstance(item, str) for item in items) else items
    if isinstance(thing, dict):
        return tuple(sorted((freeze(key, names), freeze(value, names)) for key, value in thing.items()))
    return _freeze_object(thing, names)


def _freeze_object(thing: Any, names: dict[str, str]) -> Any:
    if isinstance(thing, Enum):
        return thing.value
    if isinstance(thing, Entry) and thing.kind == EntryKind.VOTERS:
        return (thing.index, thing.term, freeze(decode_voters(thing), names))
    if isinstance(thing, Append):
        entries = Batch.decode(thing.body).entries if thing.body else ()
        return (freeze(entries, names), freeze(msgspec.structs.astuple(thing)[:-2], names), thing.repair)
    if isinstance(thing, msgspec.Struct):
        return (type(thing).__name__, *(freeze(item, names) for item in msgspec.structs.astuple(thing)))
    if hasattr(thing, "__dict__"):
        fields = thing.__dict__.items()
    else:
        fields = [(name, getattr(thing, name)) for name in thing.__slots__]
    kept = sorted((name, freeze(value, names)) for name, value in fields if name not in _SKIP)
    return (type(thing).__name__, *kept)


def _frozen_member(member: Member, names: dict[str, str]) -> Any:
    raft = member.raft
    waiting = sorted(
        (token, sorted(repr(freeze(item, names)) for item in messages))
        for token, messages in member._waiting.items()
    )
    return (
        freeze(member.id, names),
        freeze(raft._core, names),
        freeze(raft, names),
        freeze(member.disk, names),
        member.applied_index,
        waiting,
    )


def digest(value: Any) -> int:
    return int.from_bytes(blake2b(repr(value).encode(), digest_size=8).digest(), "big")


def member_hashes(member: Member) -> tuple[int, ...]:
    """One for each renaming; the first is the server's own name."""
    return tuple(digest(_frozen_member(member, names)) for names in RENAMINGS)


def message_hashes(to: str, message: Message) -> tuple[int, ...]:
    return tuple(
        digest((freeze(to, names), type(message).__name__, freeze(message, names))) for names in RENAMINGS
    )


def value_hashes(value: Any) -> tuple[int, ...]:
    return tuple(digest(freeze(value, names)) for names in RENAMINGS)


def least(parts: list[tuple[int, ...]]) -> int:
    """The name of a whole state, whatever its servers are called: the least sum over all renamings."""
    sums: list[int] = [sum(column) & _MASK for column in zip(*parts, strict=True)]
    return min(sums)


def to_bytes(member: Member) -> bytes:
    return pickle.dumps(member, protocol=5)


def from_bytes(data: bytes) -> Member:
    member: Member = pickle.loads(data)
    return member
