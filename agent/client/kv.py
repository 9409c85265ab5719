"""The key-value store through an agent. A CAS that fails is an answer (False), not an error."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from gemot.agent.client import questions
from gemot.agent.client.connection import Connection
from gemot.agent.client.entry import Entry
from gemot.agent.client.questions import Question, T

PAGE = 500
"""Entries of one page where none is asked for: few enough for a server to read them at once."""


class Kv:
    """Get, put, delete and list keys. Raises ClientError."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def ask(self, question: Question[T]) -> T:
        """Ask one of those of `questions.py`, which the others below are made of."""
        return question.read(self._connection.request(question.method, question.path, **question.sent()))

    def get(self, key: str, **params: Any) -> Entry | None:
        """The entry, or None if there is no such key."""
        return self.ask(questions.get(key, **params))

    def tree(self, prefix: str, **params: Any) -> list[Entry]:
        """Every entry whose key begins with `prefix`."""
        return self.ask(questions.tree(prefix, **params))

    def keys(self, prefix: str, separator: str = "", **params: Any) -> list[str]:
        """The names that begin with `prefix`; those with `separator` behind it once, up to it."""
        return self.ask(questions.keys(prefix, separator, **params))

    def page(self, prefix: str, limit: int, after: str = "", **params: Any) -> tuple[list[Entry], str]:
        """At most `limit` entries behind the key `after`, and what the next page is behind; "" at the end."""
        return self.ask(questions.page(prefix, limit, after, **params))

    def page_of_keys(
        self, prefix: str, limit: int, after: str = "", separator: str = "", **params: Any
    ) -> tuple[list[str], str]:
        """As `page`, of names."""
        return self.ask(questions.page_of_keys(prefix, limit, after, separator, **params))

    def each(self, prefix: str, *, limit: int = PAGE, **params: Any) -> Iterator[Entry]:
        """Every entry whose key begins with `prefix`, by key, read a page at a time.

        Memory holds one page. It is not of one state: what changes meanwhile may be seen or not, and what is
        there all the time is seen once. For one state: `tree`.
        """
        after = ""
        while True:
            found, after = self.page(prefix, limit, after, **params)
            yield from found
            if not after:
                return

    def each_key(
        self, prefix: str, separator: str = "", *, limit: int = PAGE, **params: Any
    ) -> Iterator[str]:
        """As `each`, of names."""
        after = ""
        while True:
            found, after = self.page_of_keys(prefix, limit, after, separator, **params)
            yield from found
            if not after:
                return

    def put(self, key: str, value: bytes, **params: Any) -> bool:
        """Write; False when `cas`, `acquire` or `release` did not hold.

        With `ttl` ("30s") the key deletes itself so long after. Raises NotAnAgent for an agent that wrote it
        and knows no TTL: it stays.
        """
        return self.ask(questions.put(key, value, **params))

    def delete(self, key: str, **params: Any) -> bool:
        """Delete; False when `cas` did not hold."""
        return self.ask(questions.delete(key, **params))
