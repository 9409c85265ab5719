"""Who leads, for asyncio: told, and asked to resign. As `client/election.py`, which says what is promised.

    observer = Observer(agents, "jobs/leader")
    while True:
        leader = await observer.next()

A candidate is a `Hold` of `client/election.py`'s `Election`.
"""

from __future__ import annotations

from gemot.agent.client.aio.agents import Agents
from gemot.agent.client.aio.kv import Kv
from gemot.agent.client.aio.steps import drive
from gemot.agent.client.aio.watch import Watch
from gemot.agent.client.election import Leader, Terms, asking_to_resign


async def ask_to_resign(kv: Kv, key: str) -> Leader | None:
    """Ask whoever leads now; who that is, None if nobody leads. As that of `client/election.py`."""
    return await drive(kv, asking_to_resign(key))


class Observer:
    """Who leads, and each change of it. Of one task at a time; promises what `client/election.py`'s does.

    A wait that is cancelled, or ends by `asyncio.timeout`, takes no leader with it.
    """

    def __init__(self, agents: Agents, key: str) -> None:
        self._terms = Terms(key)
        self._watch = Watch(agents, self._terms.path, wait_s=self._terms.wait_s)

    async def next(self) -> Leader | None:
        """The present leader at first (None: nobody leads), then each that differs. Raises ClientError.

        Asked again after an error it goes on, with the next agent where the one it asked has failed.
        """
        while True:
            for leader in self._terms.differ(await self._watch.next()):
                return leader
