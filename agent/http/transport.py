"""HTTP/1.1 for the API, on aiohttp's low-level server: sockets, limits, bodies, and ends of connections.

It knows nothing of paths or families: the `Application` says who answers and how long a body may be. All
limits hold before anything is allocated for what is over them.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Sequence
from typing import Any, Protocol

import msgspec
from aiohttp import web
from aiohttp.http_exceptions import LineTooLong
from aiohttp.streams import EMPTY_PAYLOAD, StreamReader
from aiohttp.web_protocol import RequestHandler

from gemot.agent.http.app import Call
from gemot.agent.http.listen import Address, open_socket
from gemot.agent.http.message import Response
from gemot.agent.http.reply import Heads, Reply
from gemot.server.model.errors import BadRequest, TooLarge

log = logging.getLogger(__name__)

_STOPPING = b"This agent is stopping"
_NOT_HTTP = b"Bad Request: this is not valid HTTP/1.1"
_UNKNOWN_CODING = b"Transfer-Encoding: chunked alone is understood here: send the body as it is"
_TOO_MANY_HEADERS = "Too many headers received"
"""In aiohttp's words: of this it has no class."""

_SLOW_HEAD = b"the request's head did not arrive in time"


class Limits(msgspec.Struct, frozen=True):
    """Bounds of the transport. A connection over the limits is told so (429) and closed."""

    max_line_bytes: int = 16 * 1024
    max_header_bytes: int = 8 * 1024
    max_headers: int = 100
    max_connections: int = 20_000
    max_connections_per_client: int = 200
    head_timeout_s: float = 10.0
    body_timeout_s: float = 60.0
    idle_timeout_s: float = 300.0
    stop_timeout_s: float = 3.0


class Application(Protocol):
    @property
    def always(self) -> tuple[tuple[str, str], ...]:
        """Headers that every response carries unless it sets them itself."""

    def open(self, method: str, target: str, headers: dict[str, str], remote: str) -> Call | Response: ...

    def answer(
        self, call: Call, body: bytes, stream: AsyncIterator[bytes] | None = None
    ) -> Response | Awaitable[Response]: ...

    def too_large(self, call: Call, size: int | None) -> Response: ...


class HttpTransport:
    """Serves one application on some addresses, from `start()` to `stop()`."""

    def __init__(
        self, *, app: Application, addresses: Sequence[Address], limits: Limits | None = None
    ) -> None:
        self._app = app
        self._addresses = tuple(addresses)
        self.limits = limits or Limits()
        self._heads = Heads(app.always)
        self._server: web.Server | None = None
        self._listeners: list[asyncio.Server] = []
        self._clients: Counter[str] = Counter()
        self._leaving: Counter[str] = Counter()
        self.connections = 0
        self._reading: set[asyncio.Task[Any]] = set()
        self._stopping = False

    async def start(self) -> None:
        """Listen on every address, or on none: raises ListenFailed."""
        loop = asyncio.get_running_loop()
        self._server = web.Server(self._serve, handler_cancellation=True)
        opened: list[tuple[socket.socket, Address]] = []
        try:
            for address in self._addresses:  # one by one: what was opened is closed when a later one fails
                opened.append((open_socket(address), address))  # noqa: PERF401
        except BaseException:
            for one, _ in opened:
                one.close()
            raise
        for one, address in opened:
            if address.path:
                listener = await loop.create_unix_server(self._connect, sock=one, ssl=address.tls)
            else:
                listener = await loop.create_server(self._connect, sock=one, ssl=address.tls)
            self._listeners.append(listener)

    @property
    def bound(self) -> list[Any]:
        """The addresses as the sockets have them: a port asked as 0 is told here."""
        return [one.getsockname() for listener in self._listeners for one in listener.sockets]

    def reload(self, *, limits: Limits) -> None:
        """Take new limits, for connections and requests to come, and the application's headers anew."""
        self.limits = limits
        self._heads = Heads(self._app.always)

    async def stop(self) -> None:
        """Accept no more, end waiting reads with an error, let writes finish for a while, then close.

        A stream under way is cut, not ended: its reader must not take it for whole.
        """
        self._stopping = True
        for listener in self._listeners:
            listener.close()
        for task in tuple(self._reading):
            task.cancel()
        if self._server is not None:
            self._server.pre_shutdown()
            await self._server.shutdown(self.limits.stop_timeout_s)
        for listener in self._listeners:
            await listener.wait_closed()
        self._listeners.clear()

    def _connect(self) -> _Connection:
        assert self._server is not None
        limits = self.limits
        return _Connection(
            self._server,
            owner=self,
            max_line_size=limits.max_line_bytes,
            max_field_size=limits.max_header_bytes,
            max_headers=limits.max_headers,
            keepalive_timeout=limits.idle_timeout_s,
        )

    def admit(self, remote: str) -> str:
        """Count a new connection; the reason when there are too many, else ""."""
        self.connections += 1
        self._clients[remote] += 1
        limits = self.limits
        if remote and self._clients[remote] > limits.max_connections_per_client:
            return (
                f"more than {limits.max_connections_per_client} connections from {remote} "
                "(limits.http_max_conns_per_client)"
            )
        if self.connections > limits.max_connections:
            return f"more than {limits.max_connections} connections to this agent"
        return ""

    def let_go(self, remote: str) -> bool:
        """A client that sends no more is owed an answer, or has given up: its connection is no longer among
        those that it may have, but of as many others. False where there are too many of these."""
        if remote and self._leaving[remote] >= self.limits.max_connections_per_client:
            return False
        _uncount(self._clients, remote)
        self._leaving[remote] += 1
        return True

    def release(self, remote: str, *, was_let_go: bool = False) -> None:
        self.connections -= 1
        _uncount(self._leaving if was_let_go else self._clients, remote)

    def refuse(self, response: Response) -> Reply:
        return self._reply(response, False)

    def raw_refusal(self, response: Response) -> bytes:
        """A whole answer for a connection that has no request yet."""
        body = response.body
        assert isinstance(body, bytes)
        extra = f"Connection: close\r\nContent-Length: {len(body)}\r\n"
        return b"HTTP/1.1 " + self._heads.build(response, extra) + body

    async def _serve(self, request: web.BaseRequest) -> Any:
        message = request._message
        if message.version < (1, 0):
            return self.refuse(Response(status=400, body=_NOT_HTTP))
        headers = {name.lower(): value for name, value in message.headers.items()}
        if len(headers) != len(message.headers):
            headers = _first_wins(message.headers.items())
        if headers.get("transfer-encoding", "chunked").lower() != "chunked":
            return self.refuse(Response(status=501, body=_UNKNOWN_CODING))
        peer = request._transport_peername
        remote = peer[0] if isinstance(peer, tuple) else ""
        keep = not message.should_close and not self._stopping
        call = self._app.open(message.method, message.path, headers, remote)
        if isinstance(call, Response):
            return self._reply(call, keep and request._payload.is_eof())
        if call.waits:
            assert isinstance(request.protocol, _Connection)
            request.protocol.may_last()
        body = b""
        if call.route.streamed and message.method != "GET":
            return await self._serve_stream(request, call, headers, keep)
        if request._payload is not EMPTY_PAYLOAD:
            read = await self._read_body(request, call, headers)
            if isinstance(read, Response):
                return self._reply(read, False)
            body = read
        given = self._app.answer(call, body)
        if isinstance(given, Response):
            return self._reply(given, keep)
        response = await self._wait(given, request)
        return self._reply(response, keep and not self._stopping)

    async def _serve_stream(
        self, request: web.BaseRequest, call: Call, headers: dict[str, str], keep: bool
    ) -> Reply:
        """The handler takes the body as it comes. What it leaves of it ends the connection."""
        declared = headers.get("content-length")
        if declared and int(declared) > call.max_body:
            return self._reply(self._app.too_large(call, int(declared)), False)
        given = self._app.answer(call, b"", self._pieces(request, call, headers))
        response = given if isinstance(given, Response) else await given
        return self._reply(response, keep and not self._stopping and request._payload.at_eof())

    async def _pieces(
        self, request: web.BaseRequest, call: Call, headers: dict[str, str]
    ) -> AsyncIterator[bytes]:
        payload = request._payload
        if headers.get("expect", "").lower() == "100-continue" and request.transport is not None:
            request.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        total = 0
        while not payload.at_eof():
            try:
                async with asyncio.timeout(self.limits.body_timeout_s):
                    piece = await payload.readany()
            except TimeoutError as error:
                text = f"nothing more of the request's body came within {self.limits.body_timeout_s:g} s"
                raise BadRequest(text) from error
            except (web.RequestPayloadError, OSError) as error:
                raise BadRequest(f"the request's body is broken: {error}") from error
            total += len(piece)
            if total > call.max_body:
                raise TooLarge(f"Request body too large, max size: {call.max_body} bytes.")
            if piece:
                yield piece

    def _reply(self, response: Response, keep: bool) -> Reply:
        return Reply(
            heads=self._heads,
            response=response,
            keep_alive=keep,
            streams=self._reading,
            patience_s=self.limits.body_timeout_s,
        )

    async def _wait(self, given: Awaitable[Response], request: web.BaseRequest) -> Response:
        """The answer of a handler that waits; a read that waits when the agent stops ends with an error."""
        if request.method != "GET":
            return await given
        # The connection's task, which awaits this one: a cancel of it arrives here. (`current_task` is a
        # look-up in Python before 3.12, and was a tenth of a read.)
        task = request.task
        self._reading.add(task)
        try:
            return await given
        except asyncio.CancelledError:
            if not self._stopping or task.cancelling() > 1:
                raise
            task.uncancel()
            return Response(status=500, body=_STOPPING)
        finally:
            self._reading.discard(task)

    async def _read_body(
        self, request: web.BaseRequest, call: Call, headers: dict[str, str]
    ) -> bytes | Response:
        """The whole body, or the refusal: of its declared length before a byte is read, else at the limit."""
        declared = headers.get("content-length")
        size = int(declared) if declared else None
        if size is not None and size > call.max_body:
            return self._app.too_large(call, size)
        payload = request._payload
        if payload.is_eof():
            body = await payload.read()
            return body if len(body) <= call.max_body else self._app.too_large(call, None)
        if headers.get("expect", "").lower() == "100-continue" and request.transport is not None:
            request.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        pieces: list[bytes] = []
        total = 0
        try:
            async with asyncio.timeout(self.limits.body_timeout_s):
                while piece := await payload.readany():
                    total += len(piece)
                    if total > call.max_body:
                        return self._app.too_large(call, None)
                    pieces.append(piece)
        except TimeoutError:
            text = f"the request's body did not arrive within {self.limits.body_timeout_s:g} s"
            return Response(status=408, body=text.encode())
        except web.RequestPayloadError as error:
            return Response(status=400, body=f"the request's body is broken: {error}".encode())
        return b"".join(pieces)


def _first_wins(items: Any) -> dict[str, str]:
    headers: dict[str, str] = {}
    for name, value in items:
        headers.setdefault(name.lower(), value)
    return headers


def _uncount(counts: Counter[str], remote: str) -> None:
    counts[remote] -= 1
    if counts[remote] <= 0:
        del counts[remote]


class _Connection(RequestHandler):
    """One connection. A subclass, because aiohttp offers no other way to count connections, to time heads,
    to answer who sends no more, and to word the errors of its parser.
    """

    __slots__ = ("_answered", "_half_closed", "_head_timer", "_last_body", "_lasts", "_owner", "_peer")

    def __init__(self, manager: web.Server, *, owner: HttpTransport, **limits: Any) -> None:
        super().__init__(
            manager,
            loop=asyncio.get_running_loop(),
            access_log=None,  # type: ignore[arg-type]
            auto_decompress=False,
            lingering_time=2.0,
            logger=log,
            **limits,
        )
        self._owner = owner
        self._peer: str | None = None
        self._head_timer: asyncio.TimerHandle | None = None
        self._answered = 0
        self._lasts = False
        self._last_body: StreamReader = EMPTY_PAYLOAD
        self._half_closed = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        peer = transport.get_extra_info("peername")
        remote = peer[0] if isinstance(peer, tuple) else ""
        refused = self._owner.admit(remote)
        self._peer = remote
        super().connection_made(transport)
        if refused:
            log.warning("Connection refused: %s", refused)
            self._end(Response(status=429, body=f"Too many connections: {refused}".encode()))

    def connection_lost(self, exc: BaseException | None) -> None:
        if self._peer is not None:
            self._owner.release(self._peer, was_let_go=self._half_closed)
            self._peer = None
        self._disarm()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self._messages:
            self._last_body = self._messages[-1][1]
        # Waiting for a request, bytes came, and still none: its head is only partly here.
        if self._waiter is not None and not self._messages:
            if self._head_timer is None:
                delay = self._owner.limits.head_timeout_s
                self._head_timer = self._loop.call_later(delay, self._head_late)
        elif self._head_timer is not None:
            self._disarm()

    def eof_received(self) -> bool:  # type: ignore[override]
        """The client sends no more (`nc -N`), or is gone. What it has asked in whole is answered still, and a
        write done; but not what may last for ever. TLS has no half of a connection."""
        over_tls = self.transport is None or self.transport.get_extra_info("sslcontext") is not None
        owes = self._request_count > self._answered and self._last_body.is_eof()
        if owes and not over_tls and not self._lasts and self._peer is not None:
            self._half_closed = self._half_closed or self._owner.let_go(self._peer)
        return self._half_closed

    def may_last(self) -> None:
        """A blocking read or a stream is begun: it ends with its reader."""
        self._lasts = True
        if self._half_closed:
            self.force_close()

    async def finish_response(self, request: web.BaseRequest, resp: Any, start_time: float | None) -> Any:
        if isinstance(resp, Reply) and resp.is_stream:
            self.may_last()
        finished = await super().finish_response(request, resp, start_time)
        self._answered += 1
        self._lasts = False
        if self._half_closed and self._request_count == self._answered:
            self._close = True
        return finished

    def _disarm(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _head_late(self) -> None:
        self._head_timer = None
        self._end(Response(status=408, body=_SLOW_HEAD))

    def _end(self, response: Response) -> None:
        transport = self.transport
        if transport is not None and not transport.is_closing():
            transport.write(self._owner.raw_refusal(response))
            self._force_close = True
            transport.close()

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> Any:
        """The answer to what is not HTTP, in our headers (aiohttp's own would quote the request)."""
        if status == 400 and (isinstance(exc, LineTooLong) or message == _TOO_MANY_HEADERS):
            limits = self._owner.limits
            text = (
                f"the request's head is too large: the limits are {limits.max_line_bytes} bytes for the "
                f"target, {limits.max_header_bytes} bytes for a header and {limits.max_headers} headers"
            )
            return self._owner.refuse(Response(status=431, body=text.encode()))
        if status == 400:
            log.debug("Request refused: not HTTP: from=%s error=%.200s", self._peer, message)
            return self._owner.refuse(Response(status=400, body=_NOT_HTTP))
        log.error("Request failed in the transport: from=%s", self._peer, exc_info=exc)
        return self._owner.refuse(
            Response(status=500, body=b"Internal error: it is in the log of this agent")
        )
