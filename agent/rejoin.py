"""Back into the cluster after a restart, without a word of anybody: those that are remembered are asked.

A few at a time, drawn by chance, a server among them: any one that answers tells of all others, also of
those that are away, and gossip looks after these. So it goes on only while somebody is left of whom nobody
has told. That includes the case that all hosts lost power: some come back sooner than others, and two that
found each other need not be all there are. The rhythm is that of `retry_join`; that nobody answers is no
error.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from typing import Protocol

from gemot.agent.gossip.remembered import Remembered
from gemot.agent.join import QUICK_FOR_S, QUICK_S
from gemot.agent.memory import Memory

log = logging.getLogger("gemot.agent")

AT_ONCE = 3


class Random(Protocol):
    def sample(self, population: Sequence[Remembered], k: int) -> list[Remembered]: ...


class Rejoin:
    """From `start` to `stop`. `meet` is given a member's address and id, and says why it was not met, or "".

    Whoever else has the address now is not met: it may belong to another cluster, and both would be one.
    """

    def __init__(
        self,
        *,
        loop: asyncio.AbstractEventLoop,
        memory: Memory,
        meet: Callable[[tuple[str, int], str], Awaitable[str]],
        alone: Callable[[], bool],
        random: Random,
        interval_s: float,
        after_leave: bool = False,
    ) -> None:
        self.memory = memory
        self._loop = loop
        self._meet = meet
        self._alone = alone
        self._random = random
        self._interval_s = interval_s
        self._after_leave = after_leave
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        self.memory.start()
        if self.memory.unmet():
            self._task = self._loop.create_task(self._run())

    async def stop(self) -> None:
        await self._end()
        await self.memory.stop()

    async def leave(self) -> None:
        """This agent has left: it is to be joined by hand again, unless it is set to come back."""
        await self._end()
        if not self._after_leave:
            await self.memory.forget()

    @property
    def waiting_for(self) -> str:
        """Why those of before are not here, for people; "" when some are, or none were."""
        unmet = len(self.memory.unmet()) if self._alone() else 0
        return f"none of {unmet} members of before the restart has answered" if unmet else ""

    async def _end(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
            self._task = None

    async def _run(self) -> None:
        log.info("agent: rejoining: remembered=%d", len(self.memory.unmet()))
        quick_until = self._loop.time() + QUICK_FOR_S
        while unmet := self.memory.unmet():
            await asyncio.gather(*(self._ask(each) for each in self._some(unmet)))
            quick = self._alone() and self._loop.time() < quick_until
            await asyncio.sleep(min(QUICK_S, self._interval_s) if quick else self._interval_s)

    def _some(self, unmet: tuple[Remembered, ...]) -> list[Remembered]:
        servers = [each for each in unmet if each.server]
        one = self._random.sample(servers, min(1, len(servers)))
        others = [each for each in unmet if each not in one]
        return one + self._random.sample(others, min(AT_ONCE - len(one), len(others)))

    async def _ask(self, each: Remembered) -> None:
        why = await self._meet((each.host, each.port), each.id)
        if why:
            log.debug("agent: not rejoined: node=%s error=%s", each.name, why)
            return
        self.memory.met(each.id)
        log.info("agent: rejoined: by=%s address=%s:%d", each.name, each.host, each.port)
