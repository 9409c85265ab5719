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
    """Who votes: server ids, sorted. Takes effect as soon as it is in the log (thesis 4.1).

    `by_hand` says when and why it was written past Raft, the quorum being lost ("" else).
    """

    voters: tuple[str, ...]
    by_hand: str = ""


def encode_voters(voters: Voters) -> bytes:
    """The data of a VOTERS entry. An ordinary one has the form that it has always had."""
    return _encoder.encode(voters if voters.by_hand else (voters.voters,))


class Batch:
    """Consecutive entries, encoded once: the same bytes go to the disk and to every follower.

    Not empty. The entries may be of several terms (an old leader's tail sent to a new follower).
    """

    __slots__ = ("_body", "_size", "entries")

    def __init__(self, entries: Sequence[Entry], body: bytes | None = None) -> None:
        self.entries: tuple[Entry, ...] = tuple(entries)
        self._body = body
        self._size = -1

    @classmethod
    def decode(cls, body: bytes) -> Batch:
        """The batch in these bytes. Raises msgspec.DecodeError, or ValueError if empty or gapped."""
        entries = _decoder.decode(body)
        if not entries:
            raise ValueError("a batch holds at least one entry")
        if any(b.index != a.index + 1 or b.term < a.term for a, b in pairwise(entries)):
            raise ValueError("the entries of a batch follow each other")
        return cls(entries, body)

    @classmethod
    def join(cls, batches: Sequence[Batch]) -> Batch:
        """One batch of several that follow each other. No entry is encoded a second time."""
        if len(batches) == 1:
            return batches[0]
        entries = tuple(entry for batch in batches for entry in batch.entries)
        assert all(b.first == a.last + 1 for a, b in pairwise(batches)), "joined batches follow each other"
        items = b"".join(batch.body[_array_header_size(batch.body) :] for batch in batches)
        return cls(entries, _array_header(len(entries)) + items)

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

    @property
    def size(self) -> int:
        """About how many bytes the entries take, on the wire and in memory: what limits are held against."""
        if self._size < 0:
            self._size = sum(entry_size(entry) for entry in self.entries)
        return self._size


def entry_size(entry: Entry) -> int:
    return len(entry.data) + 24


def _array_header(count: int) -> bytes:
    """MessagePack's head of an array: fixarray, array 16 or array 32, as the encoder would choose."""
    if count < 16:
        return bytes((0x90 | count,))
    if count < 1 << 16:
        return b"\xdc" + count.to_bytes(2, "big")
    return b"\xdd" + count.to_bytes(4, "big")


def _array_header_size(body: bytes) -> int:
    return {0xDC: 3, 0xDD: 5}.get(body[0], 1)


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

    `repair` echoes the `AppendReply.repair` that the leader has noted of this follower (0: none).
    """

    term: int
    sender: str
    prev_index: int
    prev_term: int
    commit: int
    round: int
    body: bytes
    repair: int = 0


class AppendReply(msgspec.Struct, frozen=True, array_like=True, tag=4):
    """`match` on success: the last index durable here that agrees with the leader's log.

    On refusal (`ok` False) `match` is a hint: no index above it agrees, and `hint_term` is the term
    there. `repairing` replies count for no quorum: that server lost part of its log and is refilling.
    `repair` then tells this repair from every other one (0: not repairing).
    """

    term: int
    sender: str
    ok: bool
    match: int
    hint_term: int
    round: int
    repairing: bool
    repair: int = 0


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
    `max_pending_reads` bounds the reads waiting for a round, or for the leader's answer (then refused).
    `window_bytes` is how much of the log's end is kept in memory.
    """

    heartbeat_ticks: int = 3
    election_ticks: int = 20
    max_inflight_batches: int = 64
    max_batch_bytes: int = 1 << 20
    max_uncommitted_bytes: int = 64 << 20
    max_pending_reads: int = 10_000
    window_bytes: int = 16 << 20
