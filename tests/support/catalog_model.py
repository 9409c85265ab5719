"""A catalog of one cluster as a dict: what `Register` and `Deregister` mean, in the fewest lines."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, NoReturn

import msgspec

from gemot.agent.servers import Subscription
from gemot.server.model.catalog import Deregister, Node, NodeDetail, NodeInfo, Register, Service
from gemot.server.model.command import Command, IdempotencyKey
from gemot.server.model.errors import GemotError, RuleFailed
from gemot.server.model.health import Check
from gemot.server.model.query import Answer, Applied, Options, Query
from gemot.server.rpc.message import Operate, Survey


class Catalog:
    """Rules as in Consul: a check needs its service, and takes its name and tags from it."""

    def __init__(self) -> None:
        self.nodes: dict[str, Node] = {}
        self.services: dict[tuple[str, str], Service] = {}
        self.checks: dict[tuple[str, str], Check] = {}

    def apply(self, command: Command) -> None:
        if isinstance(command, Register):
            self._register(command)
        elif isinstance(command, Deregister):
            self._deregister(command)
        else:
            raise TypeError(command)

    def _register(self, command: Register) -> None:
        name = command.node.node
        if name not in self.nodes or not command.skip_node_update:
            self.nodes[name] = command.node
        for service in command.services:
            self.services[name, service.id] = service
        for check in command.checks:
            tags, service_name = check.service_tags, check.service_name
            if check.service_id:
                owner = self.services.get((name, check.service_id))
                if owner is None:
                    raise RuleFailed("Missing service registration")
                tags, service_name = owner.tags, owner.service
            self.checks[name, check.check_id] = msgspec.structs.replace(
                check, service_name=service_name, service_tags=tags
            )

    def _deregister(self, command: Deregister) -> None:
        name = command.node
        if command.service_id:
            self.services.pop((name, command.service_id), None)
            for key, check in list(self.checks.items()):
                if key[0] == name and check.service_id == command.service_id:
                    del self.checks[key]
        elif command.check_id:
            self.checks.pop((name, command.check_id), None)
        else:
            self.nodes.pop(name, None)
            for table in (self.services, self.checks):
                for key in [key for key in table if key[0] == name]:
                    del table[key]

    def detail(self, name: str) -> NodeDetail | None:
        if name not in self.nodes:
            return None
        return NodeDetail(
            self.nodes[name],
            tuple(service for (node, _), service in sorted(self.services.items()) if node == name),
            tuple(check for (node, _), check in sorted(self.checks.items()) if node == name),
        )


class CatalogServers:
    """The `Servers` port over a `Catalog`. `refuse` may fail a command; with `held` no write is answered."""

    def __init__(self) -> None:
        self.catalog = Catalog()
        self.applied: list[tuple[Command, str]] = []
        self.queries: list[tuple[Query, Options]] = []
        self.failure: GemotError | None = None
        self.refuse: Callable[[Any], GemotError | None] = lambda command: None
        self.held = False
        self.waiting: list[tuple[Command, asyncio.Future[Applied]]] = []

    def apply(
        self, command: Command, *, token: str = "", key: IdempotencyKey | None = None
    ) -> asyncio.Future[Applied]:
        done: asyncio.Future[Applied] = asyncio.get_running_loop().create_future()
        self.applied.append((command, token))
        if self.held:
            self.waiting.append((command, done))
        else:
            self._finish(command, done)
        return done

    def let_go(self) -> None:
        """Answer the writes that were held."""
        self.held = False
        for command, done in self.waiting:
            self._finish(command, done)
        self.waiting.clear()

    def _finish(self, command: Command, done: asyncio.Future[Applied]) -> None:
        if done.done():
            return
        refusal = self.failure or self.refuse(command)
        try:
            if refusal is not None:
                raise refusal
            self.catalog.apply(command)
        except GemotError as error:
            done.set_exception(error)
        else:
            done.set_result(Applied(len(self.applied), True))

    def query(self, query: Query, options: Options) -> asyncio.Future[Answer]:
        done: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        self.queries.append((query, options))
        if self.failure is not None:
            done.set_exception(self.failure)
        else:
            assert isinstance(query, NodeInfo)
            done.set_result(Answer(self.catalog.detail(query.node), 1))
        return done

    def subscribe(
        self,
        query: Query,
        on_answer: Callable[[Answer], None],
        on_bookmark: Callable[[Answer], None] | None = None,
        on_refusal: Callable[[GemotError], None] | None = None,
    ) -> Subscription:
        _refuse()

    def operate(self, call: Operate | Survey) -> asyncio.Future[Any]:
        raise NotImplementedError

    def leader(self) -> asyncio.Future[str]:
        _refuse()

    def peers(self) -> asyncio.Future[list[str]]:
        _refuse()

    def stats(self) -> dict[str, dict[str, str]]:
        return {}


def _refuse() -> NoReturn:
    raise AssertionError("only the catalog is here")
