"""A `Servers` whose subscriptions are fed by hand: the port of `gemot.agent.servers`, held in memory."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, NoReturn

import msgspec

from gemot.agent.servers import Subscription
from gemot.server.model.command import Command, IdempotencyKey
from gemot.server.model.errors import GemotError
from gemot.server.model.query import Answer, Applied, Options, Query
from gemot.server.rpc.message import Operate, Survey


class FedServers:
    """Tells every subscriber of a query what `tell` is given; a later one gets the last answer at once."""

    def __init__(self) -> None:
        self.answers: dict[bytes, Answer] = {}
        self.open: list[FedSubscription] = []
        self.subscribed: list[Query] = []
        self.refusal: GemotError | None = None

    def tell(self, query: Query, value: object, index: int = 0) -> None:
        """Give this answer to all who subscribed, as the next index if none is named."""
        known = self.answers.get(_key(query))
        if index == 0:
            index = 1 if known is None else known.index + 1
        answer = Answer(value, index)
        self.answers[_key(query)] = answer
        for subscription in list(self.open):
            if subscription.key == _key(query):
                subscription.on_answer(answer)

    def bookmark(self, bookmark: Answer) -> None:
        for subscription in list(self.open):
            if subscription.on_bookmark is not None:
                subscription.on_bookmark(bookmark)

    def refuse(self, error: GemotError) -> None:
        """Every subscription is refused with this, once; it stays, as one that is asked for again does."""
        for subscription in list(self.open):
            if subscription.on_refusal is not None:
                subscription.on_refusal(error)

    def watched(self) -> list[Query]:
        """What is subscribed now."""
        return [subscription.query for subscription in self.open]

    def subscribe(
        self,
        query: Query,
        on_answer: Callable[[Answer], None],
        on_bookmark: Callable[[Answer], None] | None = None,
        on_refusal: Callable[[GemotError], None] | None = None,
    ) -> Subscription:
        if self.refusal is not None:
            raise self.refusal
        self.subscribed.append(query)
        subscription = FedSubscription(self, query, on_answer, on_bookmark, on_refusal)
        self.open.append(subscription)
        answer = self.answers.get(_key(query))
        if answer is not None:
            on_answer(answer)
        return subscription

    def apply(
        self, command: Command, *, token: str = "", key: IdempotencyKey | None = None
    ) -> asyncio.Future[Applied]:
        _refuse()

    def query(self, query: Query, options: Options) -> asyncio.Future[Answer]:
        _refuse()

    def operate(self, call: Operate | Survey) -> asyncio.Future[Any]:
        raise NotImplementedError

    def leader(self) -> asyncio.Future[str]:
        _refuse()

    def peers(self) -> asyncio.Future[list[str]]:
        _refuse()

    def stats(self) -> dict[str, dict[str, str]]:
        return {}


class FedSubscription:
    def __init__(
        self,
        servers: FedServers,
        query: Query,
        on_answer: Callable[[Answer], None],
        on_bookmark: Callable[[Answer], None] | None,
        on_refusal: Callable[[GemotError], None] | None,
    ) -> None:
        self.query = query
        self.key = _key(query)
        self.on_answer = on_answer
        self.on_bookmark = on_bookmark
        self.on_refusal = on_refusal
        self._servers = servers

    def cancel(self) -> None:
        if self in self._servers.open:
            self._servers.open.remove(self)


def _key(query: Query) -> bytes:
    return msgspec.msgpack.encode(query, order="deterministic")


def _refuse() -> NoReturn:
    raise AssertionError("only subscriptions are fed here")
