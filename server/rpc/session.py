"""One accepted connection as event handlers: frames in, frames out. The serving side of RPC.

It knows the rules of a conversation (hello first, ids, cancelling, who may ask what); what the calls mean
is the `Tier`'s. It holds no socket: `send` and `close` are handed in.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from gemot.server.model.errors import BadRequest, Busy, Forbidden, GemotError, PeerBroke, to_wire
from gemot.server.raft.types import Message
from gemot.server.rpc.frame import Kind, frame
from gemot.server.rpc.message import (
    PROTOCOL_MAX,
    PROTOCOL_MIN,
    Bookmark,
    Call,
    FetchSnapshot,
    Forward,
    Found,
    Hello,
    Join,
    Member,
    Numbered,
    Promise,
    Report,
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

_SERVERS_ONLY = (Forward, FetchSnapshot, Report, Promise, Found)


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
    ) -> None:
        self._tier = tier
        self._send = send
        self._close = close
        self._join_only = join_only
        self._peer: Hello | None = None
        self._calls: dict[int, Cancel] = {}
        self._closed = False

    def on_frame(self, kind: Kind, body: bytes) -> None:
        """Handle one frame. Raises PeerBroke: the connection is then to be closed."""
        if self._peer is None:
            if kind != Kind.HELLO:
                raise PeerBroke(f"the first frame must be a hello, not {kind.name}")
            self._greet(decode_hello(body))
        elif kind == Kind.CALL:
            self._call(self._peer, decode_call(body))
        elif kind == Kind.RAFT and not self._join_only:
            self._tier.on_raft(self._peer.member, self._peer.cluster, decode_raft(body))
        elif kind == Kind.CANCEL:
            if (cancel := self._calls.pop(decode_cancelled(body).id, None)) is not None:
                cancel()
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
        for cancel in list(self._calls.values()):
            cancel()
        self._calls.clear()
        if self._peer is not None and not self._join_only:
            self._tier.on_disconnected(self._peer.member)

    def _greet(self, peer: Hello) -> None:
        mine = self._tier.hello()
        if peer.protocol_min > PROTOCOL_MAX or peer.protocol_max < PROTOCOL_MIN:
            raise PeerBroke(
                f"{peer.member.name} speaks protocol {peer.protocol_min} to {peer.protocol_max}, "
                f"this server {PROTOCOL_MIN} to {PROTOCOL_MAX}"
            )
        if peer.member.datacenter != mine.member.datacenter:
            raise PeerBroke(
                f"{peer.member.name} belongs to datacenter {peer.member.datacenter!r}, "
                f"this server to {mine.member.datacenter!r}"
            )
        if peer.cluster and mine.cluster and peer.cluster != mine.cluster:
            raise PeerBroke(
                f"{peer.member.name} belongs to cluster {peer.cluster}, this server to {mine.cluster}"
            )
        self._peer = peer
        self._send(frame(Kind.HELLO, encode(mine)))
        if not self._join_only:
            self._tier.on_connected(peer.member)

    def _call(self, peer: Hello, numbered: Numbered) -> None:
        id, call = numbered.id, numbered.call
        if id in self._calls:
            raise PeerBroke(f"call id {id} is already in use")
        if (refusal := self._refusal(peer.member, call)) is not None:
            self._reply(id, refusal, stream=False)
            return
        stream = isinstance(call, Subscribe)
        self._calls[id] = _nothing
        cancel = self._tier.handle(peer.member, call, lambda result: self._reply(id, result, stream=stream))
        if id in self._calls:
            self._calls[id] = cancel

    def _refusal(self, member: Member, call: Call) -> GemotError | None:
        if self._join_only and not isinstance(call, Join):
            return BadRequest("this port only tells who the servers are: ask the RPC port")
        if isinstance(call, _SERVERS_ONLY) and member.role != "server":
            return Forbidden(f"{type(call).__name__} is for servers only")
        if len(self._calls) >= MAX_CALLS:
            return Busy(f"more than {MAX_CALLS} calls are under way on this connection")
        return None

    def _reply(self, id: int, result: Any, *, stream: bool) -> None:
        if self._closed or (stream and id not in self._calls):
            return
        if not stream:
            self._calls.pop(id, None)
        if isinstance(result, GemotError):
            self._calls.pop(id, None)
            self._send(frame(Kind.FAILURE, encode((id, to_wire(result)))))
        elif isinstance(result, Bookmark):
            self._send(frame(Kind.BOOKMARK, encode((id, result))))
        else:
            self._send(frame(Kind.EVENT if stream else Kind.REPLY, encode((id, result))))


def _nothing() -> None:
    """Cancels a call that was answered at once."""
