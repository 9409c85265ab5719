"""The key-value store, for asyncio: what is asked and how it is read is the same as in `client/kv.py`."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

from gemot.agent.client import questions
from gemot.agent.client.aio.agents import Agents
from gemot.agent.client.entry import Entry
from gemot.agent.client.kv import PAGE
from gemot.agent.client.questions import Question, T


class Kv:
    """Get, put, delete and list keys. Raises ClientError."""

    def __init__(self, agents: Agents) -> None:
        self._agents = agents

    async def ask(self, question: Question[T]) -> T:
        """Ask one of those of `questions.py`, which the others below are made of."""
        return question.read(await self._agents.request(question.method, question.path, **question.sent()))

    async def get(self, key: str, **params: Any) -> Entry | None:
        """The entry, or None if there is no such key."""
        return await self.ask(questions.get(key, **params))

    async def tree(self, prefix: str, **params: Any) -> list[Entry]:
        """Every entry whose key begins with `prefix`."""
        return await self.ask(questions.tree(prefix, **params))

    async def keys(self, prefix: str, separator: str = "", **params: Any) -> list[str]:
        """The names that begin with `prefix`; those with `separator` behind it once, up to it."""
        return await self.ask(questions.keys(prefix, separator, **params))

    async def page(self, prefix: str, limit: int, after: str = "", **params: Any) -> tuple[list[Entry], str]:
        """At most `limit` entries behind the key `after`, and what the next page is behind; "" at the end."""
        return await self.ask(questions.page(prefix, limit, after, **params))

    async def page_of_keys(
        self, prefix: str, limit: int, after: str = "", separator: str = "", **params: Any
    ) -> tuple[list[str], str]:
        """As `page`, of names."""
        return await self.ask(questions.page_of_keys(prefix, limit, after, separator, **params))

    async def each(self, prefix: str, *, limit: int = PAGE, **params: Any) -> AsyncIterator[Entry]:
        """Every entry whose key begins with `prefix`, by key, read a page at a time.

        Memory holds one page. It is not of one state: what changes meanwhile may be seen or not, and what is
        there all the time is seen once. For one state: `tree`.
        """
        after = ""
        while True:
            found, after = await self.page(prefix, limit, after, **params)
            for each in found:
                yield each
            if not after:
                return

    async def each_key(
        self, prefix: str, separator: str = "", *, limit: int = PAGE, **params: Any
    ) -> AsyncIterator[str]:
        """As `each`, of names."""
        after = ""
        while True:
            found, after = await self.page_of_keys(prefix, limit, after, separator, **params)
            for each in found:
                yield each
            if not after:
                return

    async def put(self, key: str, value: bytes, **params: Any) -> bool:
        """Write; False when `cas`, `acquire` or `release` did not hold.

        With `ttl` ("30s") the key deletes itself so long after. Raises NotAnAgent for an agent that wrote it
        and knows no TTL: it stays.
        """
        return await self.ask(questions.put(key, value, **params))

    async def delete(self, key: str, **params: Any) -> bool:
        """Delete; False when `cas` did not hold."""
        return await self.ask(questions.delete(key, **params))
