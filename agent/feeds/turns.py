"""What the feeds of an agent do one after the other: so that a crowd costs the memory and the loop no more
than a few."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

PREFIXES_AT_ONCE = 2
"""How long the answer for a prefix is shows only when it is here."""

KEYS_AT_ONCE = 64
"""A value has a limit of its own, and many keys are watched anew at once where an agent was restarted."""


class Turns:
    """Shared by all feeds of one event loop. First come, first served."""

    def __init__(self) -> None:
        self.prefixes = asyncio.Semaphore(PREFIXES_AT_ONCE)
        self.keys = asyncio.Semaphore(KEYS_AT_ONCE)
        self._slice = asyncio.Lock()

    @asynccontextmanager
    async def slice(self) -> AsyncIterator[None]:
        """For what takes a millisecond or two: all others on the loop have their turn after it, however many
        wait for a slice of their own."""
        async with self._slice:
            yield
            await asyncio.sleep(0)
