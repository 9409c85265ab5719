"""HTTP to one of several agents, for asyncio, over aiohttp. Errors are those of the other client.

What is put into a request and read out of an answer is `connection.py`'s; here are the sockets alone.

Reads share connections that stay open. A write has one of its own, which no agent has closed meanwhile, and
is sent once: aiohttp by itself sends a PUT or DELETE again that had no answer, though the first may be done.
So has a stream: whether and when it is asked for again is for its reader to say.
"""

from __future__ import annotations

import contextlib
from collections.abc import Awaitable, Callable, Iterator, Sequence
from functools import partial
from typing import Any, TypeVar

import aiohttp
import yarl

from gemot.agent.client.aio.ending import to_its_end
from gemot.agent.client.connection import (
    CANNOT_BE_SENT,
    DEFAULT_ADDRESS,
    FENCE_CHECK,
    CannotConnect,
    ClientError,
    ConnectionBroke,
    Fences,
    Refused,
    Reply,
    check_token,
    outcome,
    split_address,
    target_of,
    unreachable,
    why,
)

TIMEOUT_S = 60.0
REFUSAL_BYTES = 1 << 16
"""Of a refusal to stream, which is all that people are told."""

_Answer = TypeVar("_Answer")


class Agents:
    """Whichever of these agents answers. For all tasks of one event loop; `async with` closes it."""

    def __init__(self, addresses: str | Sequence[str] = "", *, token: str = "") -> None:
        """Each `host:port`, a URL or `unix:///path`; with none, the agent on this host.

        Raises ClientError for a token that cannot be sent.
        """
        check_token(token)
        given = (addresses,) if isinstance(addresses, str) else tuple(addresses)
        self.addresses = tuple(address or DEFAULT_ADDRESS for address in given) or (DEFAULT_ADDRESS,)
        self._token = token
        self._headers = {"X-Consul-Token": token} if token else {}
        self._fences = [Fences(address) for address in self.addresses]
        self._at = 0
        self._http: dict[tuple[int, bool], aiohttp.ClientSession] = {}
        """By the agent, and whether it sends each request once, over a connection of its own."""
        self._closed = False

    def again(self) -> Agents:
        """The same agents, with connections and a turn of their own; whoever takes them closes them."""
        return Agents(self.addresses, token=self._token)

    async def close(self) -> None:
        """For good, and to its end though it is cancelled meanwhile. What is asked afterwards is not sent."""
        self._closed = True
        sessions, self._http = list(self._http.values()), {}
        if sessions:
            await to_its_end(partial(_close, sessions))

    async def __aenter__(self) -> Agents:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def request(
        self,
        method: str,
        path: str,
        *,
        params: dict[str, Any] | None = None,
        body: bytes | None = None,
        timeout_s: float | None = None,
        ok: tuple[int, ...] = (200,),
    ) -> Reply:
        """As Connection.request, to the agent that answered last; where nobody listens, to the next at once.

        After a connection that broke the next *request* goes to the next agent: the broken one may be done.
        """
        return await self._asked(
            lambda at: self._request(at, method, path, params, body, timeout_s or TIMEOUT_S, ok)
        )

    async def stream(
        self,
        path: str,
        params: dict[str, Any] | None = None,
        *,
        headers: dict[str, str] | None = None,
        timeout_s: float | None = None,
    ) -> aiohttp.ClientResponse:
        """An answer read piece by piece, each within the time limit if there is one; the caller closes it.

        Where nobody listens, the next agent is asked at once.
        """
        return await self._asked(lambda at: self._stream(at, target_of(path, params), headers, timeout_s))

    def turn(self) -> None:
        """The next request goes to the next agent."""
        self._turn(self._at)

    async def _asked(self, ask: Callable[[int], Awaitable[_Answer]]) -> _Answer:
        for left in range(len(self.addresses) - 1, -1, -1):
            at = self._at
            try:
                return await ask(at)
            except CannotConnect:
                self._turn(at)
                if not left:
                    raise
            except ConnectionBroke:
                self._turn(at)
                raise
        raise AssertionError("there is at least one address")

    async def _request(
        self,
        at: int,
        method: str,
        path: str,
        params: dict[str, Any] | None,
        body: bytes | None,
        timeout_s: float,
        ok: tuple[int, ...],
    ) -> Reply:
        fences = self._fences[at]
        if (question := fences.question(method, params)) is not None:
            try:
                told: Reply | Refused = await self._request(
                    at, "GET", FENCE_CHECK, question, None, timeout_s, (200, 409)
                )
            except Refused as error:
                told = error
            fences.answered(told)
        reply = await self._exchange(at, method, target_of(path, params), body, timeout_s)
        reply.check(method, ok)
        fences.done(method, params, reply)
        return reply

    async def _exchange(
        self, at: int, method: str, target: str, body: bytes | None, timeout_s: float
    ) -> Reply:
        timeout = aiohttp.ClientTimeout(total=timeout_s)
        way = _Way()
        with _in_our_words(self.addresses[at], method, timeout_s, way):
            asked = self._session(at, once=method != "GET").request(
                method,
                self._url(at, target),
                data=body,
                timeout=timeout,
                headers=self._headers,
                allow_redirects=False,
                trace_request_ctx=way,
            )
            async with asked as answer:
                headers = {name.lower(): value for name, value in answer.headers.items()}
                return Reply(answer.status, headers, await answer.read())

    async def _stream(
        self, at: int, target: str, headers: dict[str, str] | None, timeout_s: float | None
    ) -> aiohttp.ClientResponse:
        """Its limit is for each piece by itself: the answer has no end."""
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=timeout_s, sock_read=timeout_s)
        sent = (headers or {}) | self._headers | {"Connection": "close"}
        with _in_our_words(self.addresses[at], "GET", timeout_s):
            answer = await self._session(at, once=True).request(
                "GET", self._url(at, target), timeout=timeout, headers=sent, allow_redirects=False
            )
        if answer.status != 200:
            raise Refused(answer.status, await _refusal(answer))
        return answer

    def _url(self, at: int, target: str) -> yarl.URL:
        return yarl.URL(_base(self.addresses[at]) + target, encoded=True)

    def _session(self, at: int, *, once: bool) -> aiohttp.ClientSession:
        """Made inside the loop, when it is wanted. `once`: of a connection to a request."""
        if self._closed:
            # A renewal that goes on would open connections that nobody closes any more.
            raise CannotConnect("nothing was sent: these agents are closed")
        if (at, once) not in self._http:
            address = self.addresses[at]
            unix = address.removeprefix("unix://") if address.startswith("unix://") else ""
            connector = (
                aiohttp.UnixConnector(unix, limit=0, force_close=once)
                if unix
                else aiohttp.TCPConnector(limit=0, force_close=once)
            )
            middlewares = (_sent_once,) if once else ()
            self._http[at, once] = aiohttp.ClientSession(
                connector=connector, middlewares=middlewares, trace_configs=[_ways()]
            )
        return self._http[at, once]

    def _turn(self, at: int) -> None:
        """Unless another task has turned already."""
        if at == self._at:
            self._at = (at + 1) % len(self.addresses)


async def _close(sessions: Sequence[aiohttp.ClientSession]) -> None:
    for session in sessions:
        await session.close()


class _Way:
    """Of one request: was there a connection? One that had none in time was not sent.

    That its time was over is all that aiohttp tells, whatever the time was spent on.
    """

    there = False


async def _there(_session: aiohttp.ClientSession, context: Any, _told: Any) -> None:
    if (way := context.trace_request_ctx) is not None:
        way.there = True


def _ways() -> aiohttp.TraceConfig:
    config = aiohttp.TraceConfig()
    config.on_connection_create_end.append(_there)
    config.on_connection_reuseconn.append(_there)
    return config


@contextlib.contextmanager
def _in_our_words(
    address: str, method: str, timeout_s: float | None, way: _Way | None = None
) -> Iterator[None]:
    """What aiohttp raises, as the errors of the client."""
    try:
        yield
    except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError) as error:
        raise CannotConnect(unreachable(address, _cause(error))) from error
    except (TimeoutError, aiohttp.ClientError, OSError) as error:
        if isinstance(error, TimeoutError) and way is not None and not way.there:
            raise CannotConnect(unreachable(address, TimeoutError("timed out"))) from error
        told = why(error) if str(error) or timeout_s is None else f"none within {timeout_s:g} s"
        raise ConnectionBroke(f"{outcome(method)}no answer from the agent at {address}: {told}") from error
    except ValueError:
        raise ClientError(CANNOT_BE_SENT) from None


async def _refusal(answer: aiohttp.ClientResponse) -> str:
    """Its beginning."""
    try:
        return (await answer.content.read(REFUSAL_BYTES)).decode(errors="replace").strip()
    except (TimeoutError, aiohttp.ClientError, OSError):
        return ""
    finally:
        answer.close()


class _NotAnswered(aiohttp.ClientError):
    """A request left and no answer came: none of those errors on which aiohttp sends it again."""


async def _sent_once(
    request: aiohttp.ClientRequest, send: aiohttp.ClientHandlerType
) -> aiohttp.ClientResponse:
    """Middleware. An error of a connection that was not made is left as it is: nothing was sent."""
    try:
        return await send(request)
    except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError):
        raise
    except (aiohttp.ClientOSError, aiohttp.ServerDisconnectedError) as error:
        raise _NotAnswered(why(error)) from error


def _base(address: str) -> str:
    if address.startswith("unix://"):
        return "http://localhost"
    scheme, host, port = split_address(address)
    return f"{scheme}://[{host}]:{port}" if ":" in host else f"{scheme}://{host}:{port}"


def _cause(error: Exception) -> Exception:
    return error.os_error if isinstance(error, aiohttp.ClientConnectorError) else error
