"""A real DNS server on a loopback port for the length of one test, on either event loop."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import uvloop
from support.dns_catalog import MemoryCatalog

from gemot.dns.config import DnsConfig
from gemot.dns.server import DnsServer
from gemot.dns.tcp import TcpLimits

LOOPS: dict[str, Callable[[], asyncio.AbstractEventLoop]] = {
    "asyncio": asyncio.new_event_loop,
    "uvloop": uvloop.new_event_loop,
}

PATIENCE_S = 20.0
"""A test that waits longer than this has failed. Nothing here takes a second."""


def run(loop: str, body: Callable[[], Awaitable[None]]) -> None:
    """Run to the end on the loop of this name. What a task raised unseen is a failure too."""
    unseen: list[object] = []

    async def guarded() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda _, context: unseen.append(context))
        async with asyncio.timeout(PATIENCE_S):
            await body()

    with asyncio.Runner(loop_factory=LOOPS[loop]) as runner:
        runner.run(guarded())
    assert unseen == []


@asynccontextmanager
async def serve(
    catalog: MemoryCatalog,
    *,
    config: DnsConfig | None = None,
    limits: TcpLimits | None = None,
    count: Callable[[str, str, int], None] | None = None,
) -> AsyncIterator[tuple[str, int]]:
    """A running server's address."""
    server = DnsServer(
        config=config or DnsConfig(),
        catalog=catalog,
        addresses=[("127.0.0.1", 0)],
        random=random.Random(5),
        limits=limits,
        count=count,
    )
    await server.start()
    try:
        yield server.addresses[0]
    finally:
        await server.stop()
