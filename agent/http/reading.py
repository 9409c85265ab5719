"""How a family reads: parameters to options, the servers asked (or a local view), and the headers told."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from typing import Protocol

import msgspec

from gemot.agent.http import parse, render
from gemot.agent.http.message import Request
from gemot.agent.servers import Servers, Subscription
from gemot.server.model.query import DEFAULT_WAIT_MS, MAX_WAIT_MS, Answer, Options, Query


class Views(Protocol):
    """Local copies of watched state, for `?cached`."""

    def get(self, query: Query) -> asyncio.Future[Answer]: ...

    def peek(self, query: Query) -> Answer | None: ...

    def watch(self, query: Query, callback: Callable[[Answer], None]) -> Subscription: ...

    def age_s(self, query: Query) -> float: ...


class Waits(msgspec.Struct, frozen=True):
    """How long a blocking read of a view waits by itself, and at most. Of other reads the servers decide."""

    default_ms: int = DEFAULT_WAIT_MS
    max_ms: int = MAX_WAIT_MS


CONSULS_WAITS = Waits()


class Reads:
    """Reads of one datacenter. Without `views`, `?cached` is answered by the servers, as a miss."""

    def __init__(
        self, *, servers: Servers, datacenter: str, views: Views | None = None, waits: Waits = CONSULS_WAITS
    ) -> None:
        self.datacenter = datacenter
        self._servers = servers
        self._views = views
        self._waits = waits

    async def read(
        self, request: Request, query: Query, *, cacheable: bool = False
    ) -> tuple[Answer, dict[str, str]]:
        """The answer and its headers; waits when the request says `?index`."""
        options = parse.read_options(request, datacenter=self.datacenter)
        if cacheable and request.query and parse.flag(request, "cached"):
            return await self._read_cached(query, options)
        answer = await self._servers.query(query, options)
        return answer, render.read_headers(answer, options)

    async def _read_cached(self, query: Query, options: Options) -> tuple[Answer, dict[str, str]]:
        if self._views is None or options.token:
            # A view belongs to the agent: what a token may see is for the servers to say.
            answer = await self._servers.query(query, options)
            return answer, {**render.read_headers(answer, options), "X-Cache": "MISS"}
        hit = self._views.peek(query) is not None
        answer = await self._views.get(query)
        if options.index and answer.index <= options.index:
            answer = await self._await_newer(self._views, query, answer, options)
        headers = render.read_headers(answer, options)
        headers["X-Cache"] = "HIT" if hit else "MISS"
        if hit:
            headers["Age"] = str(int(self._views.age_s(query)))
        return answer, headers

    async def _await_newer(self, views: Views, query: Query, held: Answer, options: Options) -> Answer:
        wait_s = min(options.wait_ms or self._waits.default_ms, self._waits.max_ms) / 1000
        wait_s += random.random() * wait_s / 16
        newer: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()

        def look(answer: Answer) -> None:
            if answer.index > options.index and not newer.done():
                newer.set_result(answer)

        watching = views.watch(query, look)
        try:
            async with asyncio.timeout(wait_s):
                return await newer
        except TimeoutError:
            return views.peek(query) or held
        finally:
            watching.cancel()
