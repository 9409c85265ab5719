"""The key-value store through an agent. A CAS that fails is an answer (False), not an error."""

from __future__ import annotations

import base64
from typing import Any

import msgspec

from gemot.agent.client.connection import Connection, NotAnAgent, Reply
from gemot.agent.client.path import escape


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


class Kv:
    """Get, put, delete and list keys. Raises ClientError."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def get(self, key: str, **params: Any) -> Entry | None:
        """The entry, or None if there is no such key."""
        reply = self._connection.request("GET", path_of(key), params=params, ok=(200, 404))
        return next(iter(entries(reply)), None)

    def tree(self, prefix: str, **params: Any) -> list[Entry]:
        """Every entry whose key begins with `prefix`."""
        reply = self._connection.request(
            "GET", path_of(prefix), params={"recurse": True} | params, ok=(200, 404)
        )
        return entries(reply)

    def keys(self, prefix: str, separator: str = "", **params: Any) -> list[str]:
        wanted = {"keys": True, "separator": separator or None} | params
        reply = self._connection.request("GET", path_of(prefix), params=wanted, ok=(200, 404))
        return [] if reply.status == 404 else [str(key) for key in reply.json()]

    def put(self, key: str, value: bytes, **params: Any) -> bool:
        """Write; False when `cas`, `acquire` or `release` did not hold."""
        reply = self._connection.request("PUT", path_of(key), params=params, body=value)
        return reply.json() is True

    def delete(self, key: str, **params: Any) -> bool:
        reply = self._connection.request("DELETE", path_of(key), params=params)
        return reply.json() is True


def path_of(key: str) -> str:
    return f"/v1/kv/{escape(key.lstrip('/'))}"


def entries(reply: Reply) -> list[Entry]:
    """Those of an answer, none for 404. Raises NotAnAgent for what is no list of entries."""
    return read_entries(reply.json() if reply.status == 200 else [])


def read_entries(rows: Any) -> list[Entry]:
    """Of decoded JSON. Raises NotAnAgent for what is no list of entries."""
    try:
        return [_entry(raw) for raw in rows]
    except (TypeError, KeyError, ValueError, AttributeError) as error:
        raise NotAnAgent(
            f"the answer is no list of keys ({error!r:.100}): is this the API of an agent?"
        ) from error


def _entry(raw: dict[str, Any]) -> Entry:
    return Entry(
        key=raw["Key"],
        value=base64.b64decode(raw["Value"] or ""),
        flags=raw["Flags"],
        lock_index=raw["LockIndex"],
        session=raw.get("Session", ""),
        create_index=raw["CreateIndex"],
        modify_index=raw["ModifyIndex"],
        fence=raw.get("Fence", 0),
    )
