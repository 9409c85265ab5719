"""Sockets around the RPC event handlers: the listener, and a link that is dialled again when it breaks."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections import Counter
from collections.abc import Callable
from typing import Any, Protocol, cast

import msgspec

from gemot.server.model.errors import PeerBroke, StorageFailed, Unavailable
from gemot.server.raft.types import Message
from gemot.server.rpc.client import Link
from gemot.server.rpc.frame import MAX_ANSWER_BYTES, FrameReader, Kind
from gemot.server.rpc.message import Call, Hello
from gemot.server.rpc.session import Packer, Session, Tier
from gemot.server.runtime.cause import cause_of
from gemot.server.runtime.timer import LoopTimer, Ticker

log = logging.getLogger("gemot.rpc")

MAX_UNSENT_BYTES = 128 << 20
"""A peer that leaves so much unread is cut off: it would take the memory of this process. It is more than
the longest answer, and than the 64 batches of 1 MiB that a slow follower may have under way."""

MAX_CONNECTIONS = 4_096
CLOSE_S = 5.0
"""How long a closing connection may take to hand over what was sent before."""

SILENT_S = 5.0
"""A peer that has not even sent a ping for so long (they come each second) is gone: a host that lost its
power says no good-bye."""
DIAL_TIMEOUT_S = 3.0
REDIAL_MIN_S = 0.05
REDIAL_MAX_S = 1.0
MAX_ANSWERS = 16
"""Addresses of which a dialler remembers what they answered last."""


Failed = Callable[[BaseException], None]


class _Handler(Protocol):
    def on_frame(self, kind: Kind, body: bytes) -> None: ...


class Connection(asyncio.Protocol):
    """One socket. What is sent within one pass of the loop leaves in one write, or sooner by `flush`."""

    def __init__(
        self,
        *,
        loop: asyncio.AbstractEventLoop,
        reader: FrameReader,
        opened: Callable[[Connection], _Handler],
        closed: Callable[[Connection, str], None],
        failed: Failed | None = None,
    ) -> None:
        self._loop = loop
        self._reader = reader
        self._opened = opened
        self._closed = closed
        self._failed = failed
        self._handler: _Handler | None = None
        self._transport: asyncio.Transport | None = None
        self._unsent: list[bytes] = []
        self._unsent_bytes = 0
        self._over = False
        self._reason = "closed by the peer"
        self.remote = ""
        self.heard_s = loop.time()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports have the shape of asyncio's, but not its base class.
        self._transport = cast(asyncio.Transport, transport)
        if (sock := self._transport.get_extra_info("socket")) is not None:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        peername = self._transport.get_extra_info("peername")
        self.remote = f"{peername[0]}:{peername[1]}" if peername else "?"
        self._handler = self._opened(self)

    def data_received(self, data: bytes) -> None:
        assert self._handler is not None
        self.heard_s = self._loop.time()
        try:
            for kind, body in self._reader.feed(data):
                if self._over:
                    return
                self._handler.on_frame(kind, body)
        except PeerBroke as error:
            log.warning("rpc: peer broke the protocol: remote=%s error=%s", self.remote, error)
            self.close(error.message)
        except Exception as error:
            self._on_error(error)

    def _on_error(self, error: Exception) -> None:
        """A frame could not be handled. A failed disk ends this node; nothing else that a peer does may."""
        if isinstance(error, StorageFailed) and self._failed is not None:
            self._failed(error)
        else:
            log.error("rpc: a frame failed: remote=%s error=%r", self.remote, error, exc_info=error)
        self.abort(f"a frame failed: {error!r}")

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        self._over = True
        self._closed(self, cause_of(exc) if exc else self._reason)

    def send(self, data: bytes) -> None:
        if self._over:
            return
        if not self._unsent:
            self._loop.call_soon(self.flush)
        self._unsent.append(data)
        self._unsent_bytes += len(data)
        if self._unsent_bytes > MAX_UNSENT_BYTES:
            self.flush()

    def close(self, reason: str) -> None:
        """End the connection; what was sent before still leaves, if the peer takes it."""
        if self._over or self._transport is None:
            return
        self._reason = reason
        self.flush()
        self._over = True
        self._transport.close()
        self._loop.call_later(CLOSE_S, self._abort)

    def abort(self, reason: str) -> None:
        if not self._over:
            self._reason = reason
        self._over = True
        self._unsent.clear()
        self._abort()

    def _abort(self) -> None:
        if self._transport is not None:
            self._transport.abort()

    def flush(self) -> None:
        """Write what waits."""
        if self._over or self._transport is None or not self._unsent:
            return
        data = self._unsent[0] if len(self._unsent) == 1 else b"".join(self._unsent)
        self._unsent.clear()
        self._unsent_bytes = 0
        self._transport.write(data)
        if self._transport.get_write_buffer_size() > MAX_UNSENT_BYTES:
            log.warning("rpc: peer reads too slowly, cut off: remote=%s", self.remote)
            self.abort("the peer reads too slowly")


class ListenerLimits(msgspec.Struct, frozen=True):
    """What one listener bears: connections of one address, and seconds before a peer says hello."""

    max_per_client: int = 100
    handshake_s: float = 5.0


class Listener:
    """Accepts RPC connections and gives each a session. `failed` hears when the disk fails under one."""

    def __init__(
        self,
        *,
        loop: asyncio.AbstractEventLoop,
        tier: Tier,
        host: str,
        port: int,
        join_only: bool = False,
        limits: ListenerLimits | None = None,
        failed: Failed | None = None,
    ) -> None:
        self._loop = loop
        self._tier = tier
        self._host = host
        self._port = port
        self._join_only = join_only
        self._limits = limits or ListenerLimits()
        self._failed = failed
        self._packer = Packer()
        self._server: asyncio.Server | None = None
        self._sessions: dict[Connection, Session] = {}
        self._clients: Counter[str] = Counter()
        self._ticker = Ticker(loop=loop, every_ms=1_000, callback=self._drop_silent)

    async def start(self) -> None:
        """Raises OSError when the address is in use."""
        self._server = await self._loop.create_server(
            self.make, self._host, self._port, reuse_address=True, backlog=1024
        )
        self._ticker.start()

    def start_unbound(self) -> None:
        """Somebody else listens, and brings connections by `make`."""
        self._ticker.start()

    @property
    def bound(self) -> tuple[str, int]:
        """Where it listens: with port 0 the one that was found free."""
        assert self._server is not None, "start() comes first"
        host, port = self._server.sockets[0].getsockname()[:2]
        return str(host), int(port)

    @property
    def connections(self) -> int:
        return len(self._sessions)

    async def stop(self) -> None:
        self._ticker.stop()
        if self._server is not None:
            self._server.close()
        for connection in list(self._sessions):
            connection.close("the server stops")

    def make(self) -> Connection:
        """What is to take a connection."""
        return Connection(
            loop=self._loop,
            reader=FrameReader(),
            opened=self._opened,
            closed=self._gone,
            failed=self._failed,
        )

    def _opened(self, connection: Connection) -> Session:
        session = Session(
            tier=self._tier,
            send=connection.send,
            close=connection.close,
            join_only=self._join_only,
            packer=self._packer,
        )
        if refused := self._refuse(connection):
            log.warning("rpc: connection refused: remote=%s reason=%s", connection.remote, refused)
            connection.abort(refused)
        self._sessions[connection] = session
        self._clients[_host(connection)] += 1
        self._loop.call_later(self._limits.handshake_s, self._check_greeted, connection)
        return session

    def _refuse(self, connection: Connection) -> str:
        """Why this connection is one too many; "" when it is not."""
        if len(self._sessions) >= MAX_CONNECTIONS:
            return f"more than {MAX_CONNECTIONS} connections"
        most = self._limits.max_per_client
        if self._clients[_host(connection)] >= most:
            return f"more than {most} connections from one address (limits.rpc_max_conns_per_client)"
        return ""

    def _check_greeted(self, connection: Connection) -> None:
        session = self._sessions.get(connection)
        if session is not None and not session.greeted:
            connection.abort(f"no hello within {self._limits.handshake_s:g} s")

    def _drop_silent(self) -> None:
        since = self._loop.time() - SILENT_S
        for connection, session in list(self._sessions.items()):
            if session.greeted and connection.heard_s < since:
                log.warning("rpc: peer is silent, cut off: remote=%s", connection.remote)
                connection.abort(f"nothing heard for {SILENT_S:g} s")

    def _gone(self, connection: Connection, reason: str) -> None:
        if (session := self._sessions.pop(connection, None)) is not None:
            self._clients -= Counter((_host(connection),))  # which drops those that come to 0
            session.on_closed()


class Dialler:
    """Keeps one link to an address: dials, dials again with back-off, resolves the name anew each time."""

    def __init__(
        self,
        *,
        loop: asyncio.AbstractEventLoop,
        timer: LoopTimer,
        address: Callable[[], tuple[str, int] | None],
        hello: Callable[[], Hello],
        on_ready: Callable[[Hello], None] | None = None,
        on_lost: Callable[[str], None] | None = None,
        failed: Failed | None = None,
    ) -> None:
        self._loop = loop
        self._timer = timer
        self._address = address
        self._hello = hello
        self._on_ready = on_ready
        self._on_lost = on_lost
        self._failed = failed
        self._link: Link | None = None
        self._connection: Connection | None = None
        self._task: asyncio.Task[None] | None = None
        self._ended: asyncio.Event = asyncio.Event()
        self._backoff_s = REDIAL_MIN_S
        self._ticker = Ticker(loop=loop, every_ms=500, callback=self._tick)
        self._where = ""
        self._answers: dict[str, tuple[str, float]] = {}
        self.last_error = "not tried yet"

    def start(self) -> None:
        self._task = self._loop.create_task(self._run())
        self._ticker.start()

    async def stop(self) -> None:
        self._ticker.stop()
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        if self._connection is not None:
            self._connection.close("this side stops")

    @property
    def ready(self) -> bool:
        return self._link is not None and self._link.peer is not None and not self._link.closed

    @property
    def answers(self) -> list[str]:
        """What each address answered last and when, of those tried since the last link; for people."""
        now = self._loop.time()
        return sorted(f"{where} {ago(text, now - at)}" for where, (text, at) in self._answers.items())

    @property
    def peer(self) -> Hello | None:
        return self._link.peer if self._link is not None and not self._link.closed else None

    def call(self, call: Call, done: Callable[[Any], None]) -> Callable[[], None]:
        if self._link is None:
            done(Unavailable(f"not connected to that server ({self.last_error})"))
            return _nothing
        return self._link.call(call, done)

    def send_raft(self, message: Message) -> None:
        """At once: both disks work longest together when the other one begins soonest."""
        if self._link is not None and self._connection is not None:
            self._link.send_raft(message)
            self._connection.flush()

    def redial(self, reason: str = "greeting anew") -> None:
        """Let the present connection go and greet anew."""
        self._backoff_s = REDIAL_MIN_S
        if self._connection is not None:
            self._connection.close(reason)

    async def _run(self) -> None:
        while True:
            self._ended = asyncio.Event()
            if await self._dial():
                await self._ended.wait()
            await asyncio.sleep(self._backoff_s)
            self._backoff_s = min(self._backoff_s * 2, REDIAL_MAX_S)

    async def _dial(self) -> bool:
        address = self._address()
        if address is None:
            self.last_error = "address unknown"
            return False
        self._where = f"{address[0]}:{address[1]}"
        try:
            if not 0 < address[1] < 1 << 16:
                # uvloop would dial what 16 bits leave of it, and somebody may listen there.
                raise OverflowError("there is no such port")
            async with asyncio.timeout(DIAL_TIMEOUT_S):
                await self._loop.create_connection(self._make, address[0], address[1])
        except (OSError, TimeoutError, ValueError, OverflowError) as error:
            # The last two: a name or a port that no resolver takes (UnicodeError is a ValueError).
            self.last_error = f"{self._where} {unreachable(error)}"
            self._note(unreachable(error))
            return False
        return True

    def _note(self, text: str) -> None:
        self._answers.pop(self._where, None)
        self._answers[self._where] = (text, self._loop.time())
        if len(self._answers) > MAX_ANSWERS:
            del self._answers[next(iter(self._answers))]

    def _make(self) -> Connection:
        return Connection(
            loop=self._loop,
            reader=FrameReader(greeted=True, max_bytes=MAX_ANSWER_BYTES),
            opened=self._opened,
            closed=self._gone,
            failed=self._failed,
        )

    def _opened(self, connection: Connection) -> Link:
        link = Link(
            hello=self._hello(),
            send=connection.send,
            close=connection.abort,
            now_ms=self._timer.now_ms,
            on_ready=self._greeted,
        )
        self._connection, self._link = connection, link
        link.on_open()
        return link

    def _greeted(self, peer: Hello) -> None:
        self._backoff_s = REDIAL_MIN_S
        self._answers.clear()
        if self._on_ready is not None:
            self._on_ready(peer)

    def _gone(self, connection: Connection, reason: str) -> None:
        if connection is not self._connection:
            return
        link, self._link, self._connection = self._link, None, None
        self.last_error = reason
        self._note(reason)
        if link is not None:
            link.on_closed(reason)
        self._ended.set()
        if self._on_lost is not None:
            self._on_lost(reason)

    def _tick(self) -> None:
        if self._link is not None:
            self._link.on_tick()


def _host(connection: Connection) -> str:
    return connection.remote.rpartition(":")[0]


def unreachable(error: Exception) -> str:
    """Why an address could not be reached, for people."""
    if isinstance(error, TimeoutError):
        return f"did not answer within {DIAL_TIMEOUT_S:g} s"
    if isinstance(error, ConnectionRefusedError):
        return "refused"
    return cause_of(error)


def ago(text: str, seconds: float) -> str:
    """What was answered, and how long ago: `refused 4 s ago`."""
    return f"{text}{' ' if text in _SHORT else ', '}{max(0, int(seconds))} s ago"


_SHORT = ("refused", "closed by the peer")


def _nothing() -> None:
    """Cancels a call that was never sent."""
