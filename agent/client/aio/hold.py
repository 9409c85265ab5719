"""Something held by a session of this program, for asyncio: a lock, a slot of a semaphore, an election.

    async with Agents(["10.0.0.1:8500", "10.0.0.2:8500"]) as agents:
        async with Hold(agents, Lock("jobs/nightly")) as hold:
            await Kv(agents).put("reports/today", b"done", lock=hold.guard, fence=hold.fence)

The recipes are those of `client/lock.py`, `semaphore.py` and `election.py`, which say what a holder can rely
on; here they are driven by tasks instead of threads (`client/hold.py`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from gemot.agent.client.agents import passes
from gemot.agent.client.aio.agents import Agents
from gemot.agent.client.aio.ending import to_its_end
from gemot.agent.client.aio.session import Session
from gemot.agent.client.connection import ClientError, NotAnAgent
from gemot.agent.client.entry import Entry, entries
from gemot.agent.client.held import Held
from gemot.agent.client.recipe import (
    AGAIN_S,
    RELEASE_S,
    Ask,
    LockLost,
    OutOfTime,
    Pause,
    Recipe,
    Steps,
    T,
    Tell,
)
from gemot.agent.client.session import DEFAULT_TTL_S, boot_clock


class Hold(Held[Session]):
    """Of one event loop. May be acquired again once it is released.

    `async with hold:` waits for it without end, and gives it back. Nothing is cancelled when it is lost: ask
    `check` before each step, or wait for `wait_lost` beside the work and cancel that.
    """

    def __init__(
        self,
        agents: Agents,
        recipe: Recipe,
        *,
        name: str = "",
        ttl_s: float = DEFAULT_TTL_S,
        lock_delay_s: float | None = None,
        tell: Callable[[str], None] = lambda text: None,
        seen: Callable[[Sequence[Entry]], None] = lambda rows: None,
        clock: Callable[[], float] = boot_clock,
    ) -> None:
        """As that of `client/hold.py`; `tell` and `seen` are called in the loop."""
        super().__init__(
            recipe, name=name, ttl_s=ttl_s, lock_delay_s=lock_delay_s, tell=tell, seen=seen, clock=clock
        )
        self._agents = agents
        self._watching: asyncio.Task[None] | None = None

    # -- what a holder asks ------------------------------------------------------------------------

    async def wait_lost(self, timeout_s: float | None = None) -> str:
        """Wait until it is lost, at most so long; why, or ""."""
        return await self._session.wait(timeout_s) if self._session is not None else self.lost

    # -- acquire and release -----------------------------------------------------------------------

    async def acquire(self, timeout_s: float | None = None) -> int | None:
        """Wait for it, at most so long; its fence, or None when the time is over. Raises as client/hold.py.

        Where the waiting is cancelled, the session is destroyed first, as however it ends without it; one
        whose creation was not answered by then ends by its TTL.
        """
        assert self._session is None, "it is acquired once before it is released"
        until_s = None if timeout_s is None else self._clock() + timeout_s
        first = True
        while first or until_s is None or self._clock() < until_s:
            session = self._new()
            try:
                await session.begin(None if until_s is None else until_s - self._clock())
            except ClientError as error:
                if first or not passes(error):
                    raise
                self._say(f"again in a moment: {error}")
                await asyncio.sleep(AGAIN_S)
                continue
            first = False
            try:
                self.fence = await self._drive(self.recipe.take(session.id), session, until_s)
                self._hold(session)
                return self.fence
            except LockLost as error:
                await session.end()
                self._say(f"waiting anew: {error}")
            except OutOfTime:
                await session.end()
                return None
            except BaseException:
                await session.end()
                raise
        return None

    async def release(self) -> bool:
        """Give it back; False if it was lost before. The session is over then, or its TTL ends it.

        That takes some seconds at most, and is done to its end though it is cancelled meanwhile: what a
        session holds when it ends is nobody's for the lock delay.
        """
        session, self._session = self._session, None
        if session is None:
            return False
        if self._watching is not None:
            self._watching.cancel()
        try:
            return not session.over and await to_its_end(partial(self._give_back, session))
        finally:
            await session.end()

    async def _give_back(self, session: Session) -> bool:
        try:
            return await self._drive(self.recipe.give_back(session.id), session, self._clock() + RELEASE_S)
        except ClientError:
            return True  # the end of the session does it

    async def __aenter__(self) -> Hold:
        await self.acquire()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.release()

    # -- the session -------------------------------------------------------------------------------

    def _new(self) -> Session:
        return Session(
            self._agents,
            name=self._name,
            ttl_s=self._ttl_s,
            lock_delay_s=self._lock_delay_s,
            behavior="delete",
            clock=self._clock,
        )

    def _hold(self, session: Session) -> None:
        if why := session.lost:
            raise LockLost(why)
        self._session = session
        self._watching = asyncio.create_task(self._watch(session), name="hold")

    async def _watch(self, session: Session) -> None:
        """The task that looks whether it still is the session's."""
        index, look = 0, self.recipe.look()
        while not session.over:
            asked = Ask(look.method, look.key, look.params, after=index)
            try:
                reply = await self._agents.request(asked.method, asked.path, **asked.sent(self._ttl_s))
                rows = entries(reply)
            except ClientError:
                index = 0
                await session.wait(AGAIN_S)
                continue
            index = reply.index
            if why := self.recipe.lost(session.id, rows):
                session.lose(why)
            else:
                self._show(rows)

    # -- asking ------------------------------------------------------------------------------------

    async def _drive(self, steps: Steps[T], session: Session, until_s: float | None) -> T:
        """Do the steps; what they come to. Raises LockLost, OutOfTime, LockConflict, ClientError."""
        answer: Any = None
        while True:
            try:
                step = steps.send(answer)
            except StopIteration as end:
                result: T = end.value
                return result
            answer = None
            if isinstance(step, Tell):
                self._say(step.text)
            elif isinstance(step, Pause):
                await self._pause(session, until_s, step.for_s)
            else:
                answer = await self._ask(step, session, until_s)

    async def _ask(self, step: Ask, session: Session, until_s: float | None) -> Any:
        """Until it is answered: errors that may pass are waited out while session and time last."""
        while True:
            if not step.once:
                await self._pause(session, until_s, 0)
            left_s = None if until_s is None else until_s - self._clock()
            try:
                return await self._agents.request(step.method, step.path, **step.sent(self._ttl_s, left_s))
            except ClientError as error:
                if step.once:
                    return None
                if isinstance(error, NotAnAgent) or not passes(error):
                    raise
                self._say(f"again in a moment: {error}")
            await self._pause(session, until_s, AGAIN_S)

    async def _pause(self, session: Session, until_s: float | None, for_s: float) -> None:
        """Raises LockLost or OutOfTime."""
        left_s = for_s if until_s is None else min(for_s, until_s - self._clock())
        if why := await session.wait(left_s) if left_s > 0 else session.lost:
            raise LockLost(why)
        if until_s is not None and self._clock() >= until_s:
            raise OutOfTime("the time is over")
