"""Waiting for changes of one thing, for asyncio: blocking queries, as `client/watch.py`."""

from __future__ import annotations

from typing import Any

from gemot.agent.client.aio.agents import Agents
from gemot.agent.client.watch import WAIT_S, Seen, Watching


class Watch(Watching):
    """One path of the API. Of one task at a time; a wait that is cancelled takes nothing with it."""

    def __init__(self, agents: Agents, path: str, *, wait_s: int = WAIT_S, **params: Any) -> None:
        super().__init__(path, params, wait_s)
        self._agents = agents

    async def look(self) -> Seen:
        """What there is now. Raises ClientError."""
        return self.read(await self._agents.request("GET", self.path, **self.question(blocking=False)))

    async def next(self) -> Seen:
        """The present state at first, then each time the next one that differs. Raises ClientError."""
        while True:
            seen = self.read(await self._agents.request("GET", self.path, **self.question(blocking=True)))
            if self.differs(seen):
                return seen
