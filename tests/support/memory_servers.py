"""A stand-in for the server tier that holds keys in a dict."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from gemot.agent.servers import Subscription
from gemot.server.model.command import Command, IdempotencyKey
from gemot.server.model.errors import GemotError
from gemot.server.model.kv import KvDelete, KvDeletePrefix, KvEntry, KvGet, KvKeys, KvList, KvSet
from gemot.server.model.query import Answer, Applied, Options, Query


class MemoryServers:
    def __init__(self) -> None:
        self.rows: dict[bytes, KvEntry] = {}
        self.index = 10
        self.failure: GemotError | None = None
        self.waiting: list[tuple[Query, Options, asyncio.Future[Answer]]] = []
        self.applied: list[Command] = []
        self.asked: list[tuple[str, IdempotencyKey | None]] = []

    def apply(
        self, command: Command, *, token: str = "", key: IdempotencyKey | None = None
    ) -> asyncio.Future[Applied]:
        done: asyncio.Future[Applied] = asyncio.get_running_loop().create_future()
        if self.failure is not None:
            done.set_exception(self.failure)
            return done
        self.applied.append(command)
        self.asked.append((token, key))
        self.index += 1
        value = self._apply(command)
        for query, _, waiter in self.waiting:
            if not waiter.done():
                waiter.set_result(self._read(query))
        self.waiting.clear()
        done.set_result(Applied(self.index, value))
        return done

    def _apply(self, command: Any) -> bool:
        if isinstance(command, KvDeletePrefix):
            for key in [key for key in self.rows if key.startswith(command.prefix)]:
                del self.rows[key]
            return True
        old = self.rows.get(command.key)
        if command.cas is not None and command.cas != (old.modify_index if old else 0):
            return isinstance(command, KvDelete) and old is None
        if isinstance(command, KvDelete):
            self.rows.pop(command.key, None)
            return True
        assert isinstance(command, KvSet)
        created = old.create_index if old else self.index
        self.rows[command.key] = KvEntry(
            command.key, command.value, command.flags, 0, command.acquire or "", created, self.index
        )
        return True

    def _read(self, query: Query) -> Answer:
        rows = self.rows
        if isinstance(query, KvGet):
            entry = rows.get(query.key)
            return Answer(entry, entry.modify_index if entry else self.index)
        if isinstance(query, KvList):
            return Answer([rows[key] for key in sorted(rows) if key.startswith(query.prefix)], self.index)
        assert isinstance(query, KvKeys)
        found: list[bytes] = []
        for key in sorted(key for key in rows if key.startswith(query.prefix)):
            at = key.find(query.separator, len(query.prefix)) if query.separator else -1
            cut = key if at < 0 else key[: at + len(query.separator)]
            if not found or found[-1] != cut:
                found.append(cut)
        return Answer(found, self.index)

    def query(self, query: Query, options: Options) -> asyncio.Future[Answer]:
        done: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        if self.failure is not None:
            done.set_exception(self.failure)
        elif (answer := self._read(query)).index > options.index:
            done.set_result(answer)
        else:
            self.waiting.append((query, options, done))
        return done

    def subscribe(
        self,
        query: Query,
        on_answer: Callable[[Answer], None],
        on_bookmark: Callable[[Answer], None] | None = None,
    ) -> Subscription:
        raise NotImplementedError

    def leader(self) -> asyncio.Future[str]:
        done: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        done.set_result("127.0.0.1:8300")
        return done

    def peers(self) -> asyncio.Future[list[str]]:
        done: asyncio.Future[list[str]] = asyncio.get_running_loop().create_future()
        done.set_result(["127.0.0.1:8300"])
        return done

    def stats(self) -> dict[str, dict[str, str]]:
        return {"consul": {"server": "true", "leader": "true"}}
