"""The key-value store, for asyncio: as `client/kv.py`, whose words these are."""

from __future__ import annotations

from typing import Any

from gemot.agent.client.aio.agents import Agents
from gemot.agent.client.kv import Entry, entries, path_of


class Kv:
    """Get, put, delete and list keys. Raises ClientError."""

    def __init__(self, agents: Agents) -> None:
        self._agents = agents

    async def get(self, key: str, **params: Any) -> Entry | None:
        """The entry, or None if there is no such key."""
        reply = await self._agents.request("GET", path_of(key), params=params, ok=(200, 404))
        return next(iter(entries(reply)), None)

    async def tree(self, prefix: str, **params: Any) -> list[Entry]:
        """Every entry whose key begins with `prefix`."""
        wanted = {"recurse": True} | params
        return entries(await self._agents.request("GET", path_of(prefix), params=wanted, ok=(200, 404)))

    async def keys(self, prefix: str, separator: str = "", **params: Any) -> list[str]:
        wanted = {"keys": True, "separator": separator or None} | params
        reply = await self._agents.request("GET", path_of(prefix), params=wanted, ok=(200, 404))
        return [] if reply.status == 404 else [str(key) for key in reply.json()]

    async def put(self, key: str, value: bytes, **params: Any) -> bool:
        """Write; False when `cas`, `acquire` or `release` did not hold."""
        reply = await self._agents.request("PUT", path_of(key), params=params, body=value)
        return reply.json() is True

    async def delete(self, key: str, **params: Any) -> bool:
        reply = await self._agents.request("DELETE", path_of(key), params=params)
        return reply.json() is True
