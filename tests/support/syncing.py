"""An agent's anti-entropy at work, against a catalog in memory."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from support.catalog_model import CatalogServers
from support.http_agent import until
from support.local_bench import Clock, MemoryStore, local_state

from gemot.agent.local import LocalState
from gemot.agent.sync import Sync
from gemot.server.model.catalog import Service
from gemot.server.model.health import Check


class Bench:
    def __init__(self, **options: Any) -> None:
        self.clock = Clock()
        self.store = options.pop("store", MemoryStore())
        self.servers = options.pop("servers", CatalogServers())
        self.local: LocalState = local_state(self.store, self.clock, **options)
        self.sync = Sync(
            local=self.local, servers=self.servers, now=self.clock, uniform=lambda: 0.5, token="agent"
        )

    def stored(self, service_id: str) -> Service | None:
        return self.servers.catalog.services.get(("n1", service_id))

    def stored_check(self, check_id: str) -> Check | None:
        return self.servers.catalog.checks.get(("n1", check_id))

    async def compare(self) -> None:
        """Have one full round, now."""
        asked = len(self.servers.queries)
        self.sync.compare_soon(0.0)
        await until(lambda: len(self.servers.queries) > asked)
        await self.quiet()

    async def quiet(self) -> None:
        for _ in range(20):
            await asyncio.sleep(0)


@asynccontextmanager
async def syncing(bench: Bench) -> AsyncIterator[Bench]:
    bench.sync.start()
    await until(lambda: bench.servers.queries)
    await bench.quiet()
    try:
        yield bench
    finally:
        await bench.sync.stop()
