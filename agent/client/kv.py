"""The key-value store through an agent. A CAS that fails is an answer (False), not an error."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from typing import Any
from urllib.parse import unquote

import msgspec

from gemot.agent.client.connection import Connection, NotAnAgent, Reply
from gemot.agent.client.path import escape

PAGE = 500
"""Entries of one page where none is asked for: few enough for a server to read them at once."""

_EXPIRES_IN = "x-gemot-expires-in"


class Entry(msgspec.Struct, frozen=True):
    """One key as the agent tells it."""

    key: str
    value: bytes
    flags: int
    lock_index: int
    session: str
    create_index: int
    modify_index: int
    fence: int
    """Of the last acquisition of its lock; 0 if it was never locked."""

    ttl: str = ""
    """How long it lives from its last write, as Go writes durations; "" for ever."""

    expires_in: str = ""
    """What was left of that; told by `get` alone."""


class Kv:
    """Get, put, delete and list keys. Raises ClientError."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def get(self, key: str, **params: Any) -> Entry | None:
        """The entry, or None if there is no such key."""
        reply = self._connection.request("GET", path_of(key), params=params, ok=(200, 404))
        found = next(iter(entries(reply)), None)
        if found is None:
            return None
        return msgspec.structs.replace(found, expires_in=reply.headers.get(_EXPIRES_IN, ""))

    def tree(self, prefix: str, **params: Any) -> list[Entry]:
        """Every entry whose key begins with `prefix`."""
        reply = self._connection.request(
            "GET", path_of(prefix), params={"recurse": True} | params, ok=(200, 404)
        )
        return entries(reply)

    def keys(self, prefix: str, separator: str = "", **params: Any) -> list[str]:
        wanted = {"keys": True, "separator": separator or None} | params
        reply = self._connection.request("GET", path_of(prefix), params=wanted, ok=(200, 404))
        return _names(reply)

    def page(self, prefix: str, limit: int, after: str = "", **params: Any) -> tuple[list[Entry], str]:
        """At most `limit` entries behind the key `after`, and what the next page is behind; "" at the end."""
        wanted = {"recurse": True, "limit": limit, "after": after or None} | params
        reply = self._connection.request("GET", path_of(prefix), params=wanted, ok=(200, 404))
        return entries(reply), _following(reply)

    def page_of_keys(
        self, prefix: str, limit: int, after: str = "", separator: str = "", **params: Any
    ) -> tuple[list[str], str]:
        """As `page`, of names."""
        paging = {"limit": limit, "after": after or None}
        wanted = {"keys": True, "separator": separator or None} | paging | params
        reply = self._connection.request("GET", path_of(prefix), params=wanted, ok=(200, 404))
        return _names(reply), _following(reply)

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
        reply = self._connection.request("PUT", path_of(key), params=params, body=value)
        written = reply.json() is True
        if written and params.get("ttl") is not None and _EXPIRES_IN not in reply.headers:
            raise NotAnAgent(f"the agent wrote {key} and knows no TTL: the key stays; delete it, or upgrade")
        return written

    def delete(self, key: str, **params: Any) -> bool:
        reply = self._connection.request("DELETE", path_of(key), params=params)
        return reply.json() is True


def path_of(key: str) -> str:
    return f"/v1/kv/{escape(key.lstrip('/'))}"


def _names(reply: Reply) -> list[str]:
    found = reply.json() if reply.status == 200 else []
    if not isinstance(found, list):
        raise NotAnAgent("the answer is no list of names: is this the API of an agent?")
    return [str(key) for key in found]


def _following(reply: Reply) -> str:
    return unquote(reply.headers.get("x-gemot-after", ""), errors="surrogateescape")


def entries(reply: Reply) -> list[Entry]:
    """Those of an answer, none for 404. Raises NotAnAgent for what is no list of entries."""
    return read_entries(reply.json() if reply.status == 200 else [])


def read_entries(rows: Any) -> list[Entry]:
    """Of decoded JSON. Raises NotAnAgent for what is no list of entries."""
    try:
        return [entry_of(raw) for raw in rows]
    except (TypeError, KeyError, ValueError, AttributeError) as error:
        raise NotAnAgent(
            f"the answer is no list of keys ({error!r:.100}): is this the API of an agent?"
        ) from error


def entry_of(raw: dict[str, Any]) -> Entry:
    """One key of an answer. Raises what a dict and base64 do for what is none."""
    return Entry(
        key=raw["Key"],
        value=base64.b64decode(raw["Value"] or ""),
        flags=raw["Flags"],
        lock_index=raw["LockIndex"],
        session=raw.get("Session", ""),
        create_index=raw["CreateIndex"],
        modify_index=raw["ModifyIndex"],
        fence=raw.get("Fence", 0),
        ttl=raw.get("TTL", ""),
    )
