"""The TCP side: messages with a length before them, many on one connection, replies as they come (RFC 7766).

Bounded on every side: connections, bytes of one question, questions under way and bytes unsent on one
connection, and the time a connection may stay silent, dribble half a question, or not read its replies.
"""

from __future__ import annotations

import asyncio
import logging
from typing import cast

import msgspec

from gemot.dns.responder import Responder

_log = logging.getLogger(__name__)


class TcpLimits(msgspec.Struct, frozen=True):
    """`idle_s` is the time without a whole question after which a connection is closed."""

    connections: int = 256
    question_bytes: int = 4096
    under_way: int = 64
    unsent_bytes: int = 256 * 1024
    idle_s: float = 10.0


class TcpConnections:
    """The open connections of one server, the one silent for longest first."""

    def __init__(self, *, responder: Responder, limits: TcpLimits) -> None:
        self.responder = responder
        self.limits = limits
        self._open: dict[TcpConnection, None] = {}

    def __len__(self) -> int:
        return len(self._open)

    def make(self) -> TcpConnection:
        return TcpConnection(self)

    def enter(self, connection: TcpConnection) -> None:
        """At the limit the connection that has been silent for longest makes room."""
        if len(self._open) >= self.limits.connections:
            oldest = next(iter(self._open))
            self.leave(oldest)
            oldest.abort()
        self._open[connection] = None

    def touch(self, connection: TcpConnection) -> None:
        if connection in self._open:
            del self._open[connection]
            self._open[connection] = None

    def leave(self, connection: TcpConnection) -> None:
        self._open.pop(connection, None)

    def close(self) -> None:
        for connection in list(self._open):
            connection.abort()
        self._open.clear()


class TcpConnection(asyncio.BufferedProtocol):
    """One client. What it sent lives in one buffer of fixed size; reading stops while that is full."""

    def __init__(self, connections: TcpConnections) -> None:
        self._connections = connections
        self._limits = connections.limits
        self._buffer = bytearray(2 + self._limits.question_bytes)
        self._held = 0
        self._transport: asyncio.Transport | None = None
        self._tasks: set[asyncio.Task[bytes]] = set()
        self._full = False
        self._paused = False
        self._ended = False
        self._timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._transport.set_write_buffer_limits(high=self._limits.unsent_bytes)
        self._connections.enter(self)
        self._rearm()

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        self._connections.leave(self)
        if self._timer is not None:
            self._timer.cancel()
        for task in list(self._tasks):
            task.cancel()

    def get_buffer(self, sizehint: int) -> memoryview:
        return memoryview(self._buffer)[self._held :]

    def buffer_updated(self, nbytes: int) -> None:
        self._held += nbytes
        self._proceed()

    def eof_received(self) -> bool:
        """The client has asked all it wants; what is under way is still answered."""
        self._ended = True
        self._close_if_done()
        return True

    def pause_writing(self) -> None:
        self._full = True

    def resume_writing(self) -> None:
        self._full = False
        self._proceed()

    def abort(self) -> None:
        if self._transport is not None:
            self._transport.abort()

    def _proceed(self) -> None:
        """Answer the whole questions held, as far as the bounds allow; read on if there is room again."""
        if self._transport is None or self._transport.is_closing():
            return
        at = 0
        while self._may_answer() and self._held - at >= 2:
            size = int.from_bytes(self._buffer[at : at + 2], "big")
            if size > self._limits.question_bytes:
                self.abort()
                return
            if self._held - at < 2 + size:
                break
            message = bytes(self._buffer[at + 2 : at + 2 + size])
            at += 2 + size
            self._answer(message)
        if at:
            self._buffer[: self._held - at] = self._buffer[at : self._held]
            self._held -= at
            self._connections.touch(self)
            self._rearm()
        self._steer()
        self._close_if_done()

    def _may_answer(self) -> bool:
        if self._transport is None or self._full or len(self._tasks) >= self._limits.under_way:
            return False
        return self._transport.get_write_buffer_size() <= self._limits.unsent_bytes

    def _steer(self) -> None:
        """Stop reading while nothing may be answered, and start again after."""
        if self._transport is None or self._transport.is_closing():
            return
        blocked = not self._may_answer()
        if not self._ended:
            if blocked and not self._paused:
                self._transport.pause_reading()
            elif self._paused and not blocked:
                self._transport.resume_reading()
            self._paused = blocked
        if blocked and not self._full and len(self._tasks) < self._limits.under_way:
            # Unsent bytes are over the bound and the transport has not said so yet: look again soon.
            asyncio.get_running_loop().call_soon(self._proceed)

    def _answer(self, message: bytes) -> None:
        try:
            reply = self._connections.responder.respond(message, tcp=True)
        except Exception:
            _log.exception("dns: a question of %d bytes over TCP could not be answered", len(message))
            self.abort()
            return
        if isinstance(reply, bytes):
            self._send(reply)
        elif reply is None:
            self.abort()  # no question at all: this is no DNS client
        else:
            self._tasks.add(reply)
            reply.add_done_callback(self._on_reply)

    def _on_reply(self, task: asyncio.Task[bytes]) -> None:
        self._tasks.discard(task)
        if task.cancelled():
            return
        error = task.exception()
        if error is None:
            self._send(task.result())
            self._proceed()
        else:
            _log.error("dns: a question over TCP could not be answered", exc_info=error)
            self.abort()

    def _send(self, reply: bytes) -> None:
        if self._transport is not None and not self._transport.is_closing():
            self._transport.write(len(reply).to_bytes(2, "big") + reply)

    def _close_if_done(self) -> None:
        """After the client's end: close when the last whole question is answered."""
        if not self._ended or self._tasks or self._transport is None:
            return
        size = int.from_bytes(self._buffer[:2], "big")
        if self._held < 2 or self._held < 2 + size:
            self._transport.close()

    def _rearm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = asyncio.get_running_loop().call_later(self._limits.idle_s, self._on_idle)

    def _on_idle(self) -> None:
        """No whole question for too long: silent, dribbling, or not reading what it asked for."""
        if self._tasks:
            self._rearm()
        else:
            self.abort()
