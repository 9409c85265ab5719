"""One accepted connection as event handlers: frames in, frames out. The serving side of RPC.

It knows the rules of a conversation (hello first, ids, cancelling, who may ask what); what the calls mean
is the `Tier`'s. It holds no socket: `send` and `close` are handed in.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import msgspec

from gemot.server.model.autopilot import SetAutopilot
from gemot.server.model.catalog import Deregister, Register
from gemot.server.model.command import Command, IdempotencyKey, RetryId
from gemot.server.model.errors import (
    BadRequest,
    Busy,
    Forbidden,
    GemotError,
    PeerBroke,
    TooLarge,
    WireError,
    to_wire,
)
from gemot.server.model.kv import MAX_KEY_BYTES, KvDelete, KvDeletePrefix, KvSet
from gemot.server.model.query import Answer
from gemot.server.model.restore import Restore
from gemot.server.model.session import CreateSession, DestroySession, RenewSession
from gemot.server.model.txn import MAX_OPS, CheckFence, KvOp, Txn
from gemot.server.raft.types import Message
from gemot.server.rpc.frame import Kind, frame
from gemot.server.rpc.message import (
    PROTOCOL_MAX,
    PROTOCOL_MIN,
    Apply,
    Bookmark,
    Call,
    Enlist,
    FetchBlob,
    FetchSnapshot,
    Forward,
    Found,
    Hello,
    Join,
    Member,
    Numbered,
    Passed,
    Promise,
    Report,
    Stage,
    Subscribe,
    decode_call,
    decode_cancelled,
    decode_hello,
    decode_raft,
    encode,
)

MAX_CALLS = 20_000
"""Calls under way on one connection, blocking reads and subscriptions included."""

Reply = Callable[[Any], None]
Cancel = Callable[[], None]

_SERVERS_ONLY = (Forward, FetchSnapshot, Report, Promise, Found, Enlist, Stage, FetchBlob, Passed)
_CALLERS_COMMANDS = (
    KvSet, KvDelete, KvDeletePrefix, Register, Deregister, CreateSession, DestroySession, RenewSession,
    SetAutopilot, Txn,
)  # fmt: skip
"""All that comes from outside. The others are the leader's: a wrong VerifyState would stop every server."""

MAX_COMMAND_BYTES = (8 << 20) + (64 << 10)
"""The largest value that limits.kv_max_value_size allows, and its key: an entry must fit into one frame."""

_PACKED_FROM = 100
"""Rows from which on an answer is kept packed."""

_MAX_ORIGIN_BYTES = 64
_MAX_SEQUENCE = 1 << 62


class Tier(Protocol):
    """What a session asks of the server it belongs to."""

    def hello(self) -> Hello: ...

    def handle(self, member: Member, call: Call, reply: Reply) -> Cancel:
        """Answer a call, now or later, with a word or a GemotError; for Subscribe many times."""

    def on_raft(self, member: Member, cluster: str, message: Message) -> None: ...

    def on_connected(self, member: Member) -> None: ...

    def on_disconnected(self, member: Member) -> None: ...


class Session:
    """The serving side of one connection. `join_only` is the conversation on port 8301."""

    def __init__(
        self,
        *,
        tier: Tier,
        send: Callable[[bytes], None],
        close: Callable[[str], None],
        join_only: bool = False,
        packer: Packer | None = None,
    ) -> None:
        """Sessions of one listener share a `packer`."""
        self._tier = tier
        self._packer = packer or Packer()
        self._send = send
        self._close = close
        self._join_only = join_only
        self._peer: Hello | None = None
        self._calls: dict[int, _Call] = {}
        self._closed = False

    def on_frame(self, kind: Kind, body: bytes) -> None:
        """Handle one frame. Raises PeerBroke: the connection is then to be closed."""
        if self._peer is None:
            if kind != Kind.HELLO:
                raise PeerBroke(f"the first frame must be a hello, not {kind.name}")
            self._greet(decode_hello(body))
        elif kind == Kind.CALL:
            self._call(self._peer, decode_call(body), len(body))
        elif kind == Kind.RAFT and not self._join_only:
            self._tier.on_raft(self._peer.member, self._peer.cluster, decode_raft(body))
        elif kind == Kind.CANCEL:
            if (call := self._calls.pop(decode_cancelled(body).id, None)) is not None:
                call.cancel()
        elif kind == Kind.PING:
            self._send(frame(Kind.PONG, b""))
        else:
            raise PeerBroke(f"a {kind.name} frame is not for a server")

    @property
    def greeted(self) -> bool:
        return self._peer is not None

    def on_closed(self) -> None:
        """The connection is gone: every waiter of it goes too."""
        self._closed = True
        calls, self._calls = self._calls, {}
        for call in calls.values():
            call.cancel()
        if self._peer is not None and not self._join_only:
            self._tier.on_disconnected(self._peer.member)

    def _greet(self, peer: Hello) -> None:
        """Take up the conversation, or tell the stranger why not: his people look in his log."""
        mine = self._tier.hello()
        if mismatch := _mismatch(peer, mine):
            self._send(frame(Kind.FAILURE, encode((0, WireError(PeerBroke.code, mismatch)))))
            raise PeerBroke(mismatch)
        self._peer = peer
        self._send(frame(Kind.HELLO, encode(mine)))
        if not self._join_only:
            self._tier.on_connected(peer.member)

    def _call(self, peer: Hello, numbered: Numbered, size: int) -> None:
        id, call = numbered.id, numbered.call
        if id in self._calls:
            raise PeerBroke(f"call id {id} is already in use")
        if (refusal := self._refusal(peer.member, call, size)) is not None:
            self._send_answer(Kind.FAILURE, id, to_wire(refusal))
            return
        known = self._calls[id] = _Call(id, stream=isinstance(call, Subscribe))
        known.cancel = self._tier.handle(peer.member, call, lambda result: self._reply(known, result))
        if self._calls.get(id) is not known:
            # Answered, failed or cancelled before it was even begun: nothing of it may stay behind.
            known.cancel()

    def _refusal(self, member: Member, call: Call, size: int) -> GemotError | None:
        if self._join_only and not isinstance(call, Join):
            return BadRequest("this port only tells who the servers are: ask the RPC port")
        if isinstance(call, _SERVERS_ONLY) and member.role != "server":
            return Forbidden(f"{type(call).__name__} is for servers only")
        if isinstance(call, Apply | Forward):
            # A restore is proposed by the server that has verified the blob and staged it on the others.
            forwarded = isinstance(call, Forward) and isinstance(call.command, Restore)
            if not forwarded and not isinstance(call.command, _CALLERS_COMMANDS):
                return Forbidden(f"{type(call.command).__name__} is proposed by the leader alone")
            if (fault := _fault_of_write(call.command, call.retry, size)) is not None:
                return fault
        if len(self._calls) >= MAX_CALLS:
            return Busy(f"more than {MAX_CALLS} calls are under way on this connection")
        return None

    def _reply(self, call: _Call, result: Any) -> None:
        if self._closed or self._calls.get(call.id) is not call:
            return
        if isinstance(result, GemotError):
            self._end(call, to_wire(result))
        elif isinstance(result, Bookmark):
            self._send_answer(Kind.BOOKMARK, call.id, result)
        else:
            if not call.stream:
                del self._calls[call.id]
            try:
                self._send_answer(Kind.EVENT if call.stream else Kind.REPLY, call.id, result)
            except TooLarge as error:
                self._end(call, to_wire(error))

    def _end(self, call: _Call, error: WireError) -> None:
        """The call failed: no word of it comes after this one."""
        self._calls.pop(call.id, None)
        self._send_answer(Kind.FAILURE, call.id, error)
        call.cancel()

    def _send_answer(self, kind: Kind, id: int, word: Any) -> None:
        if isinstance(word, Answer):
            word = self._packer.pack(word)
        self._send(frame(kind, encode((id, word))))


class Packer:
    """Long answers packed once for all who wait for the same: they are told one after the other."""

    def __init__(self) -> None:
        self._answer: Answer | None = None
        self._packed = msgspec.Raw(b"")

    def pack(self, answer: Answer) -> Answer | msgspec.Raw:
        """The answer itself where that costs nothing, or its bytes."""
        if answer is self._answer:
            return self._packed
        self._answer = None
        if not isinstance(answer.value, list | tuple) or len(answer.value) < _PACKED_FROM:
            return answer
        self._answer, self._packed = answer, msgspec.Raw(encode(answer))
        return self._packed


class _Call:
    """A call under way. Its id may be used again once it has ended; this object is of one call only."""

    __slots__ = ("cancel", "id", "stream")

    def __init__(self, id: int, *, stream: bool) -> None:
        self.id = id
        self.stream = stream
        self.cancel: Cancel = _nothing


def _mismatch(peer: Hello, mine: Hello) -> str:
    """Why these two cannot speak with each other, "" if they can."""
    if peer.protocol_min > PROTOCOL_MAX or peer.protocol_max < PROTOCOL_MIN:
        return (
            f"{peer.member.name} speaks protocol {peer.protocol_min} to {peer.protocol_max}, "
            f"{mine.member.name} {PROTOCOL_MIN} to {PROTOCOL_MAX}"
        )
    if peer.member.datacenter != mine.member.datacenter:
        return (
            f"{peer.member.name} belongs to datacenter {peer.member.datacenter!r}, "
            f"{mine.member.name} to {mine.member.datacenter!r}"
        )
    if peer.cluster and mine.cluster and peer.cluster != mine.cluster:
        return (
            f"{peer.member.name} belongs to cluster {peer.cluster}, "
            f"{mine.member.name} to cluster {mine.cluster}"
        )
    return ""


def _fault_of_write(command: Command, retry: RetryId | IdempotencyKey | None, size: int) -> GemotError | None:
    """What must never get into the log, because no server could send it on or apply it."""
    if size > MAX_COMMAND_BYTES:
        return TooLarge(f"the write has {size} bytes, the limit is {MAX_COMMAND_BYTES}")
    if isinstance(command, Txn) and len(command.ops) > MAX_OPS:
        return TooLarge(f"the transaction has {len(command.ops)} operations, the limit is {MAX_OPS}")
    if (longest := _longest_key(command)) > MAX_KEY_BYTES:
        return TooLarge(f"the key has {longest} bytes, the limit is {MAX_KEY_BYTES}")
    if isinstance(retry, RetryId) and not (
        0 < len(retry.origin) <= _MAX_ORIGIN_BYTES
        and 0 <= retry.acknowledged < retry.sequence < _MAX_SEQUENCE
    ):
        return BadRequest(f"no write can have the retry id {retry.sequence} after {retry.acknowledged}")
    return None


def _longest_key(command: Command) -> int:
    """Of the keys that it may write."""
    if isinstance(command, Txn):
        return max((len(op.key) for op in command.ops if isinstance(op, KvOp | CheckFence)), default=0)
    return len(command.key) if isinstance(command, KvSet) else 0


def _nothing() -> None:
    """Cancels what has not begun, or needs no cancelling."""
