"""The server tier of this very process, as the agent's `Servers`."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from gemot.agent.servers import Subscription
from gemot.server.model.command import Command, IdempotencyKey
from gemot.server.model.coordinate import NodeCoordinate
from gemot.server.model.errors import GemotError
from gemot.server.model.query import Answer, Applied, Options, Query
from gemot.server.rpc.message import Bookmark, Call, Operate, Survey
from gemot.server.server import Server

REFUSED_AGAIN_S = 1.0
"""After a server has refused a subscription, it is asked again so much later."""


class InProcessServers:
    """Futures around a `Server`'s callbacks; no bytes, no sockets."""

    def __init__(self, *, server: Server, loop: asyncio.AbstractEventLoop) -> None:
        self._server = server
        self._loop = loop

    def apply(
        self, command: Command, *, token: str = "", key: IdempotencyKey | None = None
    ) -> asyncio.Future[Applied]:
        future: asyncio.Future[Applied] = self._loop.create_future()
        self._server.apply(command, token, key, settle(future))
        return future

    def query(self, query: Query, options: Options) -> asyncio.Future[Answer]:
        future: asyncio.Future[Answer] = self._loop.create_future()
        cancel = self._server.query(query, options, settle(future))
        if not future.done():
            future.add_done_callback(lambda done: cancel() if done.cancelled() else None)
        return future

    def subscribe(
        self,
        query: Query,
        on_answer: Callable[[Answer], None],
        on_bookmark: Callable[[Answer], None] | None = None,
        on_refusal: Callable[[GemotError], None] | None = None,
    ) -> Subscription:
        subscription = _Local(self._server, self._loop, query, on_answer, on_bookmark, on_refusal)
        subscription.open()
        return subscription

    def operate(self, call: Operate | Survey) -> asyncio.Future[Any]:
        future: asyncio.Future[Any] = self._loop.create_future()
        self._server.operator.handle(self._server.me, call, settle(future))
        return future

    def locate(self, row: NodeCoordinate, *, token: str = "") -> asyncio.Future[bool]:
        future: asyncio.Future[bool] = self._loop.create_future()
        self._server.locate(row, token, settle(future))
        return future

    def leave(self, node: str) -> asyncio.Future[bool]:
        """Take this node out on purpose, and its vote before."""
        future: asyncio.Future[bool] = self._loop.create_future()
        self._server.leave(node, settle(future))
        return future

    def archive(self, call: Call) -> asyncio.Future[Any]:
        future: asyncio.Future[Any] = self._loop.create_future()
        cancel = self._server.endpoint.handle(self._server.me, call, settle(future))
        if not future.done():
            future.add_done_callback(lambda done: cancel() if done.cancelled() else None)
        return future

    def leader(self) -> asyncio.Future[str]:
        leader = self._server.status.tier().leader
        return self._known(leader.rpc if leader is not None else "")

    def peers(self) -> asyncio.Future[list[str]]:
        return self._known(sorted(v.rpc for v in self._server.status.tier().voters if v.rpc))

    def stats(self) -> dict[str, dict[str, str]]:
        return self._server.status.stats()

    def _known(self, value: Any) -> asyncio.Future[Any]:
        future: asyncio.Future[Any] = self._loop.create_future()
        future.set_result(value)
        return future


class _Local:
    """A `Subscription` to the server in this process; one that it refuses (too many) is asked for again."""

    def __init__(
        self,
        server: Server,
        loop: asyncio.AbstractEventLoop,
        query: Query,
        on_answer: Callable[[Answer], None],
        on_bookmark: Callable[[Answer], None] | None,
        on_refusal: Callable[[GemotError], None] | None,
    ) -> None:
        self._server = server
        self._loop = loop
        self._query = query
        self._on_answer = on_answer
        self._on_bookmark = on_bookmark
        self._on_refusal = on_refusal
        self._index = 0
        self._cancelled = False
        self._cancel: Callable[[], None] = lambda: None

    def open(self) -> None:
        if not self._cancelled:
            self._cancel = self._server.subscribe(self._query, "", self._index, self._event)

    def cancel(self) -> None:
        self._cancelled = True
        self._cancel()

    def _event(self, event: Answer | Bookmark | GemotError) -> None:
        if self._cancelled:
            return
        if isinstance(event, GemotError):
            self._loop.call_later(REFUSED_AGAIN_S, self.open)
            if self._on_refusal is not None:
                self._on_refusal(event)
            return
        if isinstance(event, Answer):
            self._index = event.index
        deliver(event, self._on_answer, self._on_bookmark)


def settle(future: asyncio.Future[Any]) -> Callable[[Any], None]:
    """What puts a result or a GemotError into the future, unless nobody waits for it any more."""

    def done(result: Any) -> None:
        if future.done():
            return
        if isinstance(result, GemotError):
            future.set_exception(result)
        else:
            future.set_result(result)

    return done


def deliver(
    event: Answer | Bookmark,
    on_answer: Callable[[Answer], None],
    on_bookmark: Callable[[Answer], None] | None,
) -> None:
    """Hand an event of a subscription to whom it is for."""
    if isinstance(event, Answer):
        on_answer(event)
    elif on_bookmark is not None and event.known_leader:
        on_bookmark(Answer(None, event.index, event.known_leader, event.last_contact_ms))
