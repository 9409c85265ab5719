"""The words of RPC: who greets, what may be asked, what comes back.

Every connection opens with a `Hello` from each side. Calls carry an id of the caller's; one reply,
failure, or stream of events answers it. Raft messages travel as frames of their own, unanswered.
"""

from __future__ import annotations

from typing import Literal, TypeVar

import msgspec

from gemot.server.model.changes import KvChanges
from gemot.server.model.command import Command, IdempotencyKey, RetryId
from gemot.server.model.coordinate import CoordinateOf, Coordinates, NodeCoordinate
from gemot.server.model.errors import PeerBroke
from gemot.server.model.history import KvAsOf, KvRevisions
from gemot.server.model.kv import KvKeysPage, KvListPage
from gemot.server.model.query import Options, Query
from gemot.server.model.restore import Blob
from gemot.server.model.session import (
    CreateSession,
    DestroySession,
    RenewSession,
    SessionInfo,
    Sessions,
)
from gemot.server.model.txn import ReadTxn, Txn, expires
from gemot.server.raft.types import Message

PROTOCOL_MIN = 1
PROTOCOL_MAX = 1

COORDINATES = "coordinates"
"""`Locate`, `SetCoordinates`, and the queries for coordinates."""

FORCE_LEAVE = "force-leave"
"""`Operate` of that name."""

SESSIONS = "sessions"
"""The commands and queries of sessions, and so the locks on keys."""

TXN = "transactions"
"""`Txn` and `ReadTxn`."""

CHANGES = "changes"
"""`KvChanges`."""

HISTORY = "history"
"""`TrimHistory`, and the queries for the history of keys."""

PAGES = "pages"
"""`KvListPage` and `KvKeysPage`."""

EXPIRY = "keys that expire"
"""`KvSet` and `KvOp` with a TTL."""

FEATURES = (COORDINATES, FORCE_LEAVE, SESSIONS, TXN, CHANGES, HISTORY, PAGES, EXPIRY)
"""What servers of this release take beyond the first one's calls and commands."""


class Member(msgspec.Struct, frozen=True, array_like=True):
    """One agent: who it is and where. `rpc` is "ip:port" on servers, "" on client agents."""

    id: str
    name: str
    address: str
    role: Literal["server", "client"]
    datacenter: str
    build: str
    rpc: str = ""
    meta: dict[str, str] = {}
    tagged_addresses: dict[str, str] = {}


def fault_of(member: Member) -> str:
    """What is wrong with a member that a peer told of, "" if nothing is: it comes from outside."""
    if not member.id or not member.name:
        return "an agent without an id or a name"
    if member.role == "client":
        return "" if not member.rpc else f"client {member.name} names an RPC address"
    host, _, port = member.rpc.rpartition(":")
    if not host or not (port.isascii() and port.isdecimal()) or not 0 < int(port[:6]) < 65536:
        return f"server {member.name} has RPC address {member.rpc!r}, which is not ip:port"
    return ""


class Hello(msgspec.Struct, frozen=True, array_like=True):
    """Opens a connection, both ways. `cluster` is "" for a client agent or an unbootstrapped server.

    `features` are a server's: one that does not name what a call needs is not asked it.
    """

    protocol_min: int
    protocol_max: int
    cluster: str
    member: Member
    features: tuple[str, ...] = ()


class Apply(msgspec.Struct, frozen=True, array_like=True, tag=1):
    """A write from a client agent; the server forwards it if need be. Reply: Applied.

    It is answered within `hold_ms`, what is left of the caller's own hold time (0: within the server's).
    """

    command: Command
    token: str
    retry: RetryId | IdempotencyKey | None
    hold_ms: int = 0


class Forward(msgspec.Struct, frozen=True, array_like=True, tag=2):
    """A write from a server to the one it takes for the leader; never sent on. Reply: Applied."""

    command: Command
    accessor: str
    retry: RetryId | IdempotencyKey | None


class Ask(msgspec.Struct, frozen=True, array_like=True, tag=3):
    """A read, blocking or not. Reply: Answer. For a leader it waits `hold_ms` (0: the server's own)."""

    query: Query
    options: Options
    hold_ms: int = 0


class Subscribe(msgspec.Struct, frozen=True, array_like=True, tag=4):
    """A read that goes on: events are Answers, with a Bookmark about once a second between them."""

    query: Query
    token: str
    from_index: int


class Bookmark(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """Everything up to `index` has been told; and how this server stands to the leader."""

    index: int
    known_leader: bool
    last_contact_ms: int


class Report(msgspec.Struct, frozen=True, array_like=True, tag=5):
    """A server tells the leader which agents are connected to it now. Reply: True.

    `free_bytes` of its disk (-1: not known), of which it keeps `reserve_bytes`, measured when it had applied
    the entry `applied`; `features` as in its hello; `coordinates` it was told since the last report. Older
    releases say none of them, and read over those that they do not know.
    """

    members: tuple[Member, ...]
    free_bytes: int = -1
    reserve_bytes: int = 0
    applied: int = -1
    features: tuple[str, ...] = ()
    coordinates: tuple[NodeCoordinate, ...] = ()


class Leave(msgspec.Struct, frozen=True, array_like=True, tag=6):
    """An agent leaves on purpose: its node goes out of the catalog. Reply: True.

    `id` is its own, where a server passes it on; "" from older releases.
    """

    node: str
    id: str = ""


class FetchSnapshot(msgspec.Struct, frozen=True, array_like=True, tag=7):
    """One piece of a snapshot. Reply: SnapshotChunk."""

    index: int
    term: int
    offset: int


class SnapshotChunk(msgspec.Struct, frozen=True, array_like=True):
    """A piece, and what the whole must be (the snapshot's manifest, but for what the asker knows)."""

    format: int
    epoch: int
    size: int
    sha256: str
    created_by: str
    offset: int
    data: bytes


class Join(msgspec.Struct, frozen=True, array_like=True, tag=8):
    """Who are the servers? The only call answered on port 8301. Reply: Joined."""

    expect: int


class Joined(msgspec.Struct, frozen=True, array_like=True):
    """The servers known here, the answerer first when it is one. `expect` and `cluster` are its own."""

    servers: tuple[Member, ...]
    expect: int
    cluster: str


class Promise(msgspec.Struct, frozen=True, array_like=True, tag=9):
    """Bootstrap, first step: will you belong to this cluster with these voters? Reply: True."""

    cluster: str
    voters: tuple[Member, ...]


class Found(msgspec.Struct, frozen=True, array_like=True, tag=10):
    """Bootstrap, second step: all have promised; begin. Reply: True."""

    cluster: str
    voters: tuple[Member, ...]


class Status(msgspec.Struct, frozen=True, array_like=True, tag=11):
    """How this server sees the tier. Reply: TierStatus. Answered without a quorum."""


class ReadArchive(msgspec.Struct, frozen=True, array_like=True, tag=16):
    """A piece of a snapshot to be kept. Reply: ArchivePiece. With `id` 0 it is made first.

    Then the copy holds at least what was acknowledged before, unless `stale`; `hold_ms` as for Ask.
    """

    id: int
    offset: int
    stale: bool = False
    token: str = ""
    hold_ms: int = 0


class ArchivePiece(msgspec.Struct, frozen=True, array_like=True):
    """`size` is the whole archive's; `index` and `epoch` are of the state in it."""

    id: int
    index: int
    epoch: int
    size: int
    offset: int
    data: bytes
    known_leader: bool
    last_contact_ms: int


class Upload(msgspec.Struct, frozen=True, array_like=True, tag=17):
    """A piece of a snapshot to be restored. Reply: Restored to the `last` one, after it was; else True."""

    id: int
    offset: int
    data: bytes
    last: bool
    epoch: int = 0
    token: str = ""


class Stage(msgspec.Struct, frozen=True, array_like=True, tag=18):
    """A server that has this blob asks another to have it too. Reply: True, once it is durable there."""

    blob: Blob


class FetchBlob(msgspec.Struct, frozen=True, array_like=True, tag=19):
    """A piece of a blob. Reply: BlobPiece."""

    sha256: str
    offset: int


class BlobPiece(msgspec.Struct, frozen=True, array_like=True):
    offset: int
    data: bytes


class Passed(msgspec.Struct, frozen=True, array_like=True, tag=20):
    """Is the entry at this index applied there? Then its blob is not needed for it any more. Reply: bool."""

    index: int


class Locate(msgspec.Struct, frozen=True, array_like=True, tag=21):
    """A node stands there; the leader will hear of it. Reply: True, whatever becomes of it."""

    row: NodeCoordinate
    token: str = ""


class TierStatus(msgspec.Struct, frozen=True, array_like=True):
    leader: Member | None
    voters: tuple[Member, ...]
    stats: dict[str, dict[str, str]]


class Enlist(msgspec.Struct, frozen=True, array_like=True, tag=12):
    """A server without Raft data asks the leader to be sent the log. Reply: Enlisted.

    The leader alone answers, having confirmed that it leads; it refuses an id that is among the voters: a
    voter that lost its data must not vote again under its old id.
    """


class Enlisted(msgspec.Struct, frozen=True, array_like=True):
    """Belong to this cluster."""

    cluster: str


class Operate(msgspec.Struct, frozen=True, array_like=True, tag=13):
    """What an operator wants of the leader: any agent may be asked, and sends it on once. Reply: True.

    `remove-peer` names a server by id or RPC address; `transfer` by id, or "" for the most caught-up one.
    `force-leave` names a member by id and node, or by its node alone; its reply says in words what was done.
    """

    what: Literal["remove-peer", "transfer", "force-leave"]
    id: str = ""
    address: str = ""
    forwarded: bool = False
    node: str = ""


class Survey(msgspec.Struct, frozen=True, array_like=True, tag=14):
    """How the servers are, as the leader sees it, or, `here`, the server that is asked. Reply: Surveyed."""

    here: bool = False
    forwarded: bool = False


UNKNOWN_MS = -1
"""The last contact of a server that is not watched from there."""


class ServerSeen(msgspec.Struct, frozen=True, array_like=True):
    """One server. `stable_ms` is how long it has been as healthy, or unhealthy, as it is."""

    id: str
    name: str
    address: str
    status: str
    build: str
    voter: bool
    leader: bool
    last_contact_ms: int
    last_term: int
    last_index: int
    healthy: bool
    stable_ms: int
    meta: dict[str, str] = {}


class Surveyed(msgspec.Struct, frozen=True, array_like=True):
    """All of them, voters and learners. `index` is that of the last change of the voters."""

    servers: tuple[ServerSeen, ...]
    index: int
    healthy: bool
    failure_tolerance: int
    by: str
    waiting: str


Call = (
    Apply
    | Forward
    | Ask
    | Subscribe
    | Report
    | Leave
    | FetchSnapshot
    | Join
    | Promise
    | Found
    | Status
    | Enlist
    | Operate
    | Survey
    | ReadArchive
    | Upload
    | Stage
    | FetchBlob
    | Passed
    | Locate
)


class Numbered(msgspec.Struct, frozen=True, array_like=True):
    """A call with the id its caller gave it."""

    id: int
    call: Call


class Returned(msgspec.Struct, frozen=True, array_like=True):
    """A reply, a failure or an event to call `id`; the body's type is told by the call."""

    id: int
    body: msgspec.Raw


class Cancelled(msgspec.Struct, frozen=True, array_like=True):
    id: int


def feature_of(call: Call) -> str:
    """What a server must have to take this call, "" for those that every release takes.

    Another one would take it for nonsense, and break the connection with all that is under way on it. One
    more field at the end of what it knows it reads over: a list with `near` comes unordered.
    """
    if isinstance(call, Ask | Subscribe):
        if isinstance(call.query, SessionInfo | Sessions):
            return SESSIONS
        if isinstance(call.query, ReadTxn):
            return TXN
        if isinstance(call.query, KvChanges):
            return CHANGES
        if isinstance(call.query, KvRevisions | KvAsOf):
            return HISTORY
        if isinstance(call.query, KvListPage | KvKeysPage):
            return PAGES
        return COORDINATES if isinstance(call.query, Coordinates | CoordinateOf) else ""
    if isinstance(call, Apply | Forward):
        if expires(call.command):
            return EXPIRY
        if isinstance(call.command, Txn):
            return TXN
        return SESSIONS if isinstance(call.command, CreateSession | DestroySession | RenewSession) else ""
    if isinstance(call, Locate):
        return COORDINATES
    return FORCE_LEAVE if isinstance(call, Operate) and call.what == "force-leave" else ""


_T = TypeVar("_T")

_encoder = msgspec.msgpack.Encoder()
encode = _encoder.encode
_hello = msgspec.msgpack.Decoder(Hello)
_numbered = msgspec.msgpack.Decoder(Numbered)
_returned = msgspec.msgpack.Decoder(Returned)
_cancelled = msgspec.msgpack.Decoder(Cancelled)
_raft: msgspec.msgpack.Decoder[Message] = msgspec.msgpack.Decoder(Message)


def decode_hello(body: bytes) -> Hello:
    hello = _decoded(_hello, body)
    if fault := fault_of(hello.member):
        raise PeerBroke(f"a hello of {fault}")
    return hello


def decode_call(body: bytes) -> Numbered:
    return _decoded(_numbered, body)


def decode_returned(body: bytes) -> Returned:
    return _decoded(_returned, body)


def decode_cancelled(body: bytes) -> Cancelled:
    return _decoded(_cancelled, body)


def decode_raft(body: bytes) -> Message:
    return _decoded(_raft, body)


def _decoded(decoder: msgspec.msgpack.Decoder[_T], body: bytes) -> _T:
    try:
        return decoder.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise PeerBroke(f"undecodable frame: {error}") from error
