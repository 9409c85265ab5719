"""HTTP to one of several agents, for asyncio, over aiohttp. Errors are those of the other client.

What is put into a request and read out of an answer is `connection.py`'s; here are the sockets alone.

Reads share connections that stay open. A write has one of its own, which no agent has closed meanwhile, and
is sent once: aiohttp by itself sends a PUT or DELETE again that had no answer, though the first may be done.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import aiohttp
import yarl

from gemot.agent.client.connection import (
    DEFAULT_ADDRESS,
    FENCE_CHECK,
    CannotConnect,
    ClientError,
    ConnectionBroke,
    Fences,
    Refused,
    Reply,
    outcome,
    split_address,
    target_of,
    unreachable,
    why,
)

TIMEOUT_S = 60.0


class Agents:
    """Whichever of these agents answers. For all tasks of one event loop; `async with` closes it."""

    def __init__(self, addresses: str | Sequence[str] = "", *, token: str = "") -> None:
        """Each `host:port`, a URL or `unix:///path`; with none, the agent on this host."""
        given = (addresses,) if isinstance(addresses, str) else tuple(addresses)
        self.addresses = tuple(address or DEFAULT_ADDRESS for address in given) or (DEFAULT_ADDRESS,)
        self._headers = {"X-Consul-Token": token} if token else {}
        self._fences = [Fences(address) for address in self.addresses]
        self._at = 0
        self._http: dict[tuple[int, bool], aiohttp.ClientSession] = {}
        """By the agent, and whether it is for writes."""

    async def close(self) -> None:
        for session in self._http.values():
            await session.close()
        self._http.clear()

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
        for left in range(len(self.addresses) - 1, -1, -1):
            at = self._at
            try:
                return await self._request(at, method, path, params, body, timeout_s or TIMEOUT_S, ok)
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
        address = self.addresses[at]
        url = yarl.URL(_base(address) + target, encoded=True)
        timeout = aiohttp.ClientTimeout(total=timeout_s)
        try:
            asked = self._session(at, writes=method != "GET").request(
                method, url, data=body, timeout=timeout, headers=self._headers, allow_redirects=False
            )
            async with asked as answer:
                headers = {name.lower(): value for name, value in answer.headers.items()}
                return Reply(answer.status, headers, await answer.read())
        except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError) as error:
            raise CannotConnect(unreachable(address, _cause(error))) from error
        except (TimeoutError, aiohttp.ClientError, OSError) as error:
            told = why(error) if str(error) else f"none within {timeout_s:g} s"
            raise ConnectionBroke(
                f"{outcome(method)}no answer from the agent at {address}: {told}"
            ) from error
        except ValueError as error:  # a token with a line break, and the like
            raise ClientError(f"the request cannot be sent: {error}") from error

    def _session(self, at: int, *, writes: bool) -> aiohttp.ClientSession:
        """Made inside the loop, when it is wanted. One for writes closes each connection after its answer."""
        if (at, writes) not in self._http:
            address = self.addresses[at]
            unix = address.removeprefix("unix://") if address.startswith("unix://") else ""
            connector = (
                aiohttp.UnixConnector(unix, limit=0, force_close=writes)
                if unix
                else aiohttp.TCPConnector(limit=0, force_close=writes)
            )
            once = (_sent_once,) if writes else ()
            self._http[at, writes] = aiohttp.ClientSession(connector=connector, middlewares=once)
        return self._http[at, writes]

    def _turn(self, at: int) -> None:
        """Unless another task has turned already."""
        if at == self._at:
            self._at = (at + 1) % len(self.addresses)


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
