"""An agent's HTTP API as a source of subscriptions, for programs that run beside the agent.

Each subscription is a chain of blocking queries; what they ask and mean is known to `rendered.py`. It never
gives up: an agent that is away or has no leader is asked again, later and later.
"""

from __future__ import annotations

import asyncio
import logging
import random
import socket
from collections.abc import Callable, Mapping

import aiohttp
import msgspec
from yarl import URL

from gemot.agent.rendered import locate, read_back
from gemot.agent.servers import Subscription
from gemot.server.model.catalog import NodeDetail, NodeInfo
from gemot.server.model.errors import GemotError, PeerBroke, TooLarge, Unavailable
from gemot.server.model.health import Check, HealthNode
from gemot.server.model.query import Answer, Query
from gemot.server.runtime.cause import cause_of

RETRY_MIN_S = 0.25
RETRY_MAX_S = 60.0

MAX_CONNECTIONS = 100
"""Queries that block at once. An agent takes 200 connections of one address by default, and others on this
host want some too."""

FRESH_CONNECTIONS = 16
"""Beside those, for queries that are answered at once: a new subscription never waits for the blocked."""

WAIT_S = 60
CROWDED_WAIT_S = 2
"""How long a query blocks; the short time when there are more subscriptions than connections, which they
then share in turns."""

MAX_BODY_BYTES = 64 * 1024 * 1024

_CONNECT_S = 10.0
_SLACK_S = 30.0
_TEXT = 300
_log = logging.getLogger(__name__)


class OverHttp:
    """Subscriptions to the agent at `address` ("host:port", a URL, or "unix:///path"). For one event loop.

    `retry_min_s` is the first delay after a failure; it doubles up to RETRY_MAX_S, with jitter.
    """

    def __init__(
        self,
        *,
        address: str,
        token: str = "",
        retry_min_s: float = RETRY_MIN_S,
        max_connections: int = MAX_CONNECTIONS,
    ) -> None:
        self._base, self._path = split_address(address)
        self._token = token
        self._retry_min_s = retry_min_s
        self._max_connections = max_connections
        self._blocking = asyncio.Semaphore(max_connections)
        self._fresh = asyncio.Semaphore(FRESH_CONNECTIONS)
        self._session: aiohttp.ClientSession | None = None
        self._subscriptions: set[_Subscription] = set()

    def start(self) -> None:
        """To be called inside the loop, before the first subscription."""
        connector: aiohttp.BaseConnector
        if self._path:
            connector = aiohttp.UnixConnector(self._path, limit=0)
        else:
            connector = aiohttp.TCPConnector(
                limit=0, resolver=aiohttp.ThreadedResolver(), family=socket.AF_UNSPEC
            )
        headers = {"X-Consul-Token": self._token} if self._token else {}
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=_CONNECT_S)
        self._session = aiohttp.ClientSession(connector=connector, headers=headers, timeout=timeout)

    async def stop(self) -> None:
        """End every subscription: no callback comes after this."""
        for subscription in list(self._subscriptions):
            subscription.cancel()
        if self._session is not None:
            await self._session.close()

    def subscribe(
        self,
        query: Query,
        on_answer: Callable[[Answer], None],
        on_bookmark: Callable[[Answer], None] | None = None,
        on_refusal: Callable[[GemotError], None] | None = None,
    ) -> Subscription:
        """As `Servers.subscribe`; a bookmark comes when a query ends with nothing new."""
        subscription = _Subscription(self, query, on_answer, on_bookmark, on_refusal, self._retry_min_s)
        self._subscriptions.add(subscription)
        return subscription

    def forget(self, subscription: _Subscription) -> None:
        self._subscriptions.discard(subscription)

    async def node_name(self) -> str:
        """The name of the agent's node. Raises GemotError."""
        _, _, body = await self._get("/v1/agent/self", _CONNECT_S)
        try:
            return msgspec.json.decode(body, type=_Self).config.node_name
        except (msgspec.DecodeError, UnicodeError) as error:
            raise PeerBroke(f"/v1/agent/self: the answer is not one of an agent: {error}") from error

    async def ask(self, query: Query, index: int) -> Answer:
        """One blocking query (`index` 0: at once). Raises GemotError."""
        where = locate(query)
        async with self._blocking if index else self._fresh:
            crowded = len(self._subscriptions) > self._max_connections
            wait_s = CROWDED_WAIT_S if crowded else WAIT_S
            more = f"{'&' if '?' in where else '?'}index={index}&wait={wait_s}s" if index else ""
            status, headers, body = await self._get(where + more, wait_s * 17 / 16 + _SLACK_S)
        found_index = _number(headers.get("X-Consul-Index"))
        if not found_index:
            raise PeerBroke(f"{where}: the answer has no X-Consul-Index: is this the API of an agent?")
        value = read_back(query, body if status == 200 else b"null")
        if isinstance(value, NodeDetail) and isinstance(query, NodeInfo):
            value = msgspec.structs.replace(value, checks=await self._checks(value.node.node))
        known_leader = headers.get("X-Consul-KnownLeader", "true") == "true"
        return Answer(value, found_index, known_leader, _number(headers.get("X-Consul-LastContact")))

    async def _checks(self, node: str) -> tuple[Check, ...]:
        query = HealthNode(node)
        async with self._fresh:
            _, _, body = await self._get(locate(query), _SLACK_S)
        return tuple(read_back(query, body))

    async def _get(self, where: str, timeout_s: float) -> tuple[int, Mapping[str, str], bytes]:
        if self._session is None:
            raise Unavailable("the client of the agent is not started")
        try:
            async with (
                asyncio.timeout(timeout_s),
                self._session.get(URL(self._base + where, encoded=True), allow_redirects=False) as response,
            ):
                body = await _read(response)
                missing = response.status == 404 and where.startswith("/v1/kv/")
                if response.status != 200 and not missing:
                    text = body.decode(errors="replace").strip()[:_TEXT]
                    raise Unavailable(f"{where}: status {response.status}: {text}")
                return response.status, response.headers, body
        except (aiohttp.ClientError, OSError, TimeoutError, ValueError) as error:
            cause = error.os_error if isinstance(error, aiohttp.ClientConnectorError) else error
            raise Unavailable(f"{self._base}{where}: {cause_of(cause) or 'no answer in time'}") from error


class _Config(msgspec.Struct, rename="pascal"):
    node_name: str


class _Self(msgspec.Struct, rename="pascal"):
    config: _Config


class _Subscription:
    """One query, asked again and again until cancelled."""

    def __init__(
        self,
        agent: OverHttp,
        query: Query,
        on_answer: Callable[[Answer], None],
        on_bookmark: Callable[[Answer], None] | None,
        on_refusal: Callable[[GemotError], None] | None,
        retry_min_s: float,
    ) -> None:
        self._agent = agent
        self._query = query
        self._on_answer = on_answer
        self._on_bookmark = on_bookmark
        self._on_refusal = on_refusal
        self._retry_min_s = retry_min_s
        self._failures = 0
        self._told: Answer | None = None
        self._task = asyncio.get_running_loop().create_task(self._run())

    def cancel(self) -> None:
        self._task.cancel()
        self._agent.forget(self)

    async def _run(self) -> None:
        index = 0
        while True:
            try:
                answer = await self._agent.ask(self._query, index)
            except GemotError as error:
                index = 0  # whoever answers next may be another agent: take its state as it is
                if self._on_refusal is not None:
                    self._on_refusal(error)
                await self._pause(error)
                continue
            self._recovered()
            # An index that went back says nothing about what is new: start over from the present state.
            index = 0 if answer.index < index else answer.index
            self._tell(answer)

    def _tell(self, answer: Answer) -> None:
        told = self._told
        if told is not None and answer.value == told.value:
            if self._on_bookmark is not None:
                self._on_bookmark(msgspec.structs.replace(answer, value=None))
            return
        if told is not None and answer.index < told.index:
            # Never an older index after a newer one: what went back is told as the newest there was.
            answer = msgspec.structs.replace(answer, index=told.index)
        self._told = answer
        self._on_answer(answer)

    async def _pause(self, error: GemotError) -> None:
        delay_s = min(self._retry_min_s * 2.0 ** min(self._failures, 16), RETRY_MAX_S)
        delay_s *= 0.5 + random.random() / 2
        level = logging.WARNING if self._failures in (0, 8) else logging.DEBUG
        self._failures += 1
        _log.log(level, "template: cannot watch, next try in %.2f s: %s", delay_s, error)
        await asyncio.sleep(delay_s)

    def _recovered(self) -> None:
        if self._failures:
            _log.info("template: watching %s again", locate(self._query))
        self._failures = 0


async def _read(response: aiohttp.ClientResponse) -> bytes:
    pieces, size = [], 0
    async for piece in response.content.iter_any():
        size += len(piece)
        if size > MAX_BODY_BYTES:
            raise TooLarge(
                f"{response.url.path}: the answer has more than {MAX_BODY_BYTES} bytes: watch a longer prefix"
            )
        pieces.append(piece)
    return b"".join(pieces)


def split_address(address: str) -> tuple[str, str]:
    """The URL before the path, and the path of a Unix socket or "". Raises PeerBroke for no address."""
    if address.startswith("unix://"):
        return "http://localhost", address.removeprefix("unix://")
    base = (address if "://" in address else f"http://{address}").rstrip("/")
    try:
        url = URL(base)
        if url.scheme not in ("http", "https") or not url.host:
            raise ValueError("want host:port, a URL or unix:///path")
        # As the other commands take it: Consul's ports where none is named.
        port = url.explicit_port or (8501 if url.scheme == "https" else 8500)
        return str(url.with_port(port).origin()), ""
    except ValueError as error:
        raise PeerBroke(f"{address[:_TEXT]!r} is no address of an agent: {error}") from error


def _number(text: str | None) -> int:
    return int(text) if text and text.isascii() and text.isdigit() and len(text) <= 20 else 0
