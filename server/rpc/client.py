"""The calling side of one RPC connection, as event handlers. Holds no socket and no clock.

A `Link` lives as long as its connection. When it breaks, every call under way is told so: a read may be
asked again elsewhere (`Unavailable`), a write's outcome is unknown (`OutcomeUnknown`).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec

from gemot.server.model.errors import (
    GemotError,
    OlderRelease,
    OutcomeUnknown,
    PeerBroke,
    TooLarge,
    Unavailable,
    WireError,
    from_wire,
)
from gemot.server.model.query import VALUES, Answer, Applied
from gemot.server.model.restore import Restored
from gemot.server.raft.types import Message
from gemot.server.rpc.frame import GREETING, MAX_FRAME_BYTES, Kind, frame
from gemot.server.rpc.message import (
    PROTOCOL_MAX,
    PROTOCOL_MIN,
    Apply,
    ArchivePiece,
    Ask,
    BlobPiece,
    Bookmark,
    Call,
    Cancelled,
    Enlist,
    Enlisted,
    FetchBlob,
    FetchSnapshot,
    Forward,
    Hello,
    Join,
    Joined,
    Numbered,
    Operate,
    ReadArchive,
    SnapshotChunk,
    Status,
    Subscribe,
    Survey,
    Surveyed,
    TierStatus,
    Upload,
    decode_hello,
    decode_returned,
    encode,
    feature_of,
)

PING_EVERY_MS = 1_000
"""A ping goes out as often, busy or not: it is how the server knows that this side still lives."""

SILENT_AFTER_MS = 4_000
"""A peer that answers no ping for so long is taken for gone, and the connection closed."""

Done = Callable[[Any], None]


class _RawAnswer(msgspec.Struct, frozen=True, array_like=True):
    value: msgspec.Raw
    index: int
    known_leader: bool
    last_contact_ms: int
    epoch: int = 0


_raw_answer = msgspec.msgpack.Decoder(_RawAnswer)
_value = {query: msgspec.msgpack.Decoder(type_) for query, type_ in VALUES.items()}
_failure = msgspec.msgpack.Decoder(WireError)
_reply: dict[type, msgspec.msgpack.Decoder[Any]] = {
    Apply: msgspec.msgpack.Decoder(Applied),
    Forward: msgspec.msgpack.Decoder(Applied),
    FetchSnapshot: msgspec.msgpack.Decoder(SnapshotChunk),
    Join: msgspec.msgpack.Decoder(Joined),
    Status: msgspec.msgpack.Decoder(TierStatus),
    Enlist: msgspec.msgpack.Decoder(Enlisted),
    Survey: msgspec.msgpack.Decoder(Surveyed),
    ReadArchive: msgspec.msgpack.Decoder(ArchivePiece),
    Operate: msgspec.msgpack.Decoder(bool | str),
    Upload: msgspec.msgpack.Decoder(Restored | bool),
    FetchBlob: msgspec.msgpack.Decoder(BlobPiece),
}
_other = msgspec.msgpack.Decoder(bool)
_ANSWERS = (Kind.REPLY, Kind.EVENT, Kind.FAILURE, Kind.BOOKMARK)
_bookmark = msgspec.msgpack.Decoder(Bookmark)


def _decode(kind: Kind, call: Call, body: msgspec.Raw) -> Any:
    """The word that answers this call, or the error it failed with. Raises PeerBroke."""
    try:
        if kind == Kind.FAILURE:
            return from_wire(_failure.decode(body))
        if kind == Kind.BOOKMARK:
            return _bookmark.decode(body)
        if isinstance(call, Ask | Subscribe):
            raw = _raw_answer.decode(body)
            value = _value[type(call.query)].decode(raw.value)
            return Answer(value, raw.index, raw.known_leader, raw.last_contact_ms, raw.epoch)
        return _reply.get(type(call), _other).decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise PeerBroke(f"undecodable answer to {type(call).__name__}: {error}") from error


class Link:
    """One connection to a server. `on_ready` is called once its hello came."""

    def __init__(
        self,
        *,
        hello: Hello,
        send: Callable[[bytes], None],
        close: Callable[[str], None],
        now_ms: Callable[[], int],
        on_ready: Callable[[Hello], None],
    ) -> None:
        self._hello = hello
        self._send = send
        self._close = close
        self._now_ms = now_ms
        self._on_ready = on_ready
        self._next_id = 1
        self._calls: dict[int, tuple[Call, Done]] = {}
        self._heard_ms = self._pinged_ms = now_ms()
        self.peer: Hello | None = None
        self.closed = False

    def on_open(self) -> None:
        self._send(GREETING + frame(Kind.HELLO, encode(self._hello)))

    def call(self, call: Call, done: Done) -> Callable[[], None]:
        """Ask; `done` gets the answer or a GemotError (for Subscribe: each event). Returns its cancel.

        What this server's release does not know is not sent: it is OlderRelease, and the link lives on.
        """
        if self.closed or self.peer is None:
            done(Unavailable("not connected to that server"))
            return _nothing
        if (needed := feature_of(call)) and needed not in self.peer.features:
            done(OlderRelease(f"{self.peer.member.name} is of an older release without {needed}: upgrade it"))
            return _nothing
        id = self._next_id
        data = frame(Kind.CALL, encode(Numbered(id, call)))
        if len(data) - 4 > MAX_FRAME_BYTES:
            done(TooLarge(f"{type(call).__name__} has {len(data)} bytes, the limit is {MAX_FRAME_BYTES}"))
            return _nothing
        self._next_id += 1
        self._calls[id] = (call, done)
        self._send(data)
        return lambda: self._cancel(id)

    def send_raft(self, message: Message) -> None:
        if not self.closed and self.peer is not None:
            self._send(frame(Kind.RAFT, encode(message)))

    def on_frame(self, kind: Kind, body: bytes) -> None:
        """Handle one frame. Raises PeerBroke: the connection is then to be closed."""
        self._heard_ms = self._now_ms()
        if self.peer is None:
            if kind == Kind.FAILURE:
                raise PeerBroke(f"refused: {_refusal(body)}")
            if kind != Kind.HELLO:
                raise PeerBroke(f"the first frame must be a hello, not {kind.name}")
            self._greeted(decode_hello(body))
        elif kind in _ANSWERS:
            returned = decode_returned(body)
            known = self._calls.get(returned.id)
            if known is None:
                return
            call, done = known
            result = _decode(kind, call, returned.body)  # or the link ends, and with it this call too
            if kind in (Kind.REPLY, Kind.FAILURE):
                del self._calls[returned.id]
            done(result)
        elif kind != Kind.PONG:
            raise PeerBroke(f"a {kind.name} frame is not for a client")

    def on_tick(self) -> None:
        """Show that this side lives, ask whether the other does; close when it stays silent."""
        now = self._now_ms()
        silent_ms = now - self._heard_ms
        if silent_ms >= SILENT_AFTER_MS:
            self._close(f"no answer for {silent_ms} ms")
        elif now - self._pinged_ms >= PING_EVERY_MS:
            self._pinged_ms = now
            self._send(frame(Kind.PING, b""))

    def on_closed(self, reason: str) -> None:
        self.closed = True
        calls, self._calls = self._calls, {}
        for call, done in calls.values():
            done(_broken(call, reason))

    def _greeted(self, peer: Hello) -> None:
        if peer.protocol_min > PROTOCOL_MAX or peer.protocol_max < PROTOCOL_MIN:
            raise PeerBroke(
                f"{peer.member.name} speaks protocol {peer.protocol_min} to {peer.protocol_max}, "
                f"this agent {PROTOCOL_MIN} to {PROTOCOL_MAX}"
            )
        self.peer = peer
        self._on_ready(peer)

    def _cancel(self, id: int) -> None:
        if self._calls.pop(id, None) is not None and not self.closed:
            self._send(frame(Kind.CANCEL, encode(Cancelled(id))))


def _refusal(body: bytes) -> str:
    """Why the other side does not speak with this one. Raises PeerBroke."""
    try:
        return _failure.decode(decode_returned(body).body).message
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise PeerBroke(f"undecodable refusal: {error}") from error


def _broken(call: Call, reason: str) -> GemotError:
    if isinstance(call, Apply | Forward | Operate) or (isinstance(call, Upload) and call.last):
        return OutcomeUnknown(f"the connection to the server broke before it answered ({reason})")
    return Unavailable(f"the connection to the server broke ({reason})")


def _nothing() -> None:
    """Cancels a call that was never sent."""
