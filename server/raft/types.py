"""The words of consensus: entries and batches, messages, and the `Ready` that the core hands out."""

from __future__ import annotations

from collections.abc import Sequence
from enum import IntEnum
from itertools import pairwise

import msgspec


class EntryKind(IntEnum):
    COMMAND = 0
    NOOP = 1
    VOTERS = 2


class Entry(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """One place in the log. `data` is opaque, but for VOTERS: an encoded `Voters`."""

    term: int
    index: int
    kind: EntryKind
    data: bytes


class Voters(msgspec.Struct, frozen=True, array_like=True):
    """Who votes: server ids, sorted. Takes effect as soon as it is in the log (thesis 4.1)."""

    voters: tuple[str, ...]


class Batch:
    """Consecutive entries, encoded once: the same bytes go to the disk and to every follower.

    Not empty. The entries may be of several terms (an old leader's tail sent to a new follower).
    """

    __slots__ = ("_body", "entries")

    def __init__(self, entries: Sequence[Entry], body: bytes | None = None) -> None:
        self.entries: tuple[Entry, ...] = tuple(entries)
        self._body = body

    @classmethod
    def decode(cls, body: bytes) -> Batch:
        """The batch in these bytes. Raises msgspec.DecodeError, or ValueError if empty or gapped."""
        entries = _decoder.decode(body)
        if not entries:
            raise ValueError("a batch holds at least one entry")
        if any(b.index != a.index + 1 or b.term < a.term for a, b in pairwise(entries)):
            raise ValueError("the entries of a batch follow each other")
        return cls(entries, body)

    @property
    def first(self) -> int:
        return self.entries[0].index

    @property
    def last(self) -> int:
        return self.entries[-1].index

    @property
    def last_term(self) -> int:
        return self.entries[-1].term

    @property
    def body(self) -> bytes:
        if self._body is None:
            self._body = _encoder.encode(self.entries)
        return self._body


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(tuple[Entry, ...])


class HardState(msgspec.Struct, frozen=True, array_like=True):
    """What must be durable before a vote or an acknowledgement leaves: term and vote ("" = none)."""

    term: int
    vote: str


class SnapshotMeta(msgspec.Struct, frozen=True, array_like=True):
    """Names a snapshot: the last entry it holds, and who voted then."""

    index: int
    term: int
    voters: tuple[str, ...]


class VoteAsk(msgspec.Struct, frozen=True, array_like=True, tag=1):
    """RequestVote; with `pre` only a question that changes nothing durable (PreVote).

    `force` is set by a candidate that was told to campaign (leadership transfer): it is heard even
    by a server that has just heard from the leader.
    """

    term: int
    sender: str
    last_index: int
    last_term: int
    pre: bool
    force: bool


class VoteReply(msgspec.Struct, frozen=True, array_like=True, tag=2):
    term: int
    sender: str
    granted: bool
    pre: bool


class Append(msgspec.Struct, frozen=True, array_like=True, tag=3):
    """AppendEntries. `body` is a `Batch.body`, or b"" for none. `round` numbers the read rounds.

    Every Append carries the newest round number: a reply that echoes it proves that the sender was
    still followed after that round had begun (ReadIndex, thesis 6.4).
    """

    term: int
    sender: str
    prev_index: int
    prev_term: int
    commit: int
    round: int
    body: bytes


class AppendReply(msgspec.Struct, frozen=True, array_like=True, tag=4):
    """`match` on success: the last index durable here that agrees with the leader's log.

    On refusal (`ok` False) `match` is a hint: no index above it agrees, and `hint_term` is the term
    there. `repairing` replies count for no quorum: that server lost part of its log and is refilling.
    """

    term: int
    sender: str
    ok: bool
    match: int
    hint_term: int
    round: int
    repairing: bool


class SnapshotOffer(msgspec.Struct, frozen=True, array_like=True, tag=5):
    """The follower needs entries that are gone: fetch this snapshot (the bytes travel outside the core)."""

    term: int
    sender: str
    meta: SnapshotMeta


class SnapshotReply(msgspec.Struct, frozen=True, array_like=True, tag=6):
    """The offered snapshot up to `index` was installed (`ok`), or could not be."""

    term: int
    sender: str
    index: int
    ok: bool


class ReadAsk(msgspec.Struct, frozen=True, array_like=True, tag=7):
    """A follower asks the leader for a read index. `id` is fresh for every ask, resends included."""

    term: int
    sender: str
    id: int


class ReadReply(msgspec.Struct, frozen=True, array_like=True, tag=8):
    """`index` 0 means refused: ask again (the sender does not lead, or has not committed in its term)."""

    term: int
    sender: str
    id: int
    index: int


class CampaignNow(msgspec.Struct, frozen=True, array_like=True, tag=9):
    """TimeoutNow (thesis 3.10): the leader hands over; campaign at once."""

    term: int
    sender: str


Message = (
    VoteAsk
    | VoteReply
    | Append
    | AppendReply
    | SnapshotOffer
    | SnapshotReply
    | ReadAsk
    | ReadReply
    | CampaignNow
)


class Role(IntEnum):
    FOLLOWER = 0
    PRE_CANDIDATE = 1
    CANDIDATE = 2
    LEADER = 3


class ReadState(msgspec.Struct, frozen=True, array_like=True):
    """The read asked for as `id` may be answered from any state applied up to `index` (0: refused)."""

    id: int
    index: int


class Ready(msgspec.Struct, frozen=True):
    """What is to be done now; see the package's docstring for the order. Empty fields ask nothing.

    `append`'s first index may lie at or below the log's end: what stands there and above is replaced
    (truncated) by it. `token` names this save for `saved`; 0 means there is nothing to save.
    """

    hard_state: HardState | None
    append: Batch | None
    token: int
    messages: tuple[tuple[str, Message], ...]
    after_save: tuple[tuple[str, Message], ...]
    commit: int
    read_states: tuple[ReadState, ...]
    install: SnapshotOffer | None
    leader: str
    role: Role


class RaftConfig(msgspec.Struct, frozen=True):
    """Time is in ticks. `election_ticks` is the least; the wait is drawn up to twice as long.

    `max_inflight_batches` and `max_batch_bytes` bound what travels unanswered to one follower;
    `max_uncommitted_bytes` bounds what a leader without a quorum piles up (then `Busy`).
    """

    heartbeat_ticks: int = 3
    election_ticks: int = 20
    max_inflight_batches: int = 64
    max_batch_bytes: int = 1 << 20
    max_uncommitted_bytes: int = 64 << 20
