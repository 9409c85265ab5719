"""Coroutines of tests, run to their end with agents of the client for asyncio."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from gemot.agent.client.aio.agents import Agents

PATIENCE_S = 60.0
"""Bound of a whole test: only a hang reaches it."""


def with_agents(*addresses: str) -> Callable[[Callable[[Agents], Awaitable[None]]], None]:
    """Runs the decorated coroutine with agents of these addresses."""

    def decorate(work: Callable[[Agents], Awaitable[None]]) -> None:
        async def main() -> None:
            async with Agents(addresses) as agents:
                await work(agents)

        asyncio.run(asyncio.wait_for(main(), PATIENCE_S))

    return decorate
