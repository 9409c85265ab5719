"""A session that renews itself, for asyncio: as `client/session.py`, which says what is promised.

A task renews it, so an event loop that something blocks renews nothing. The lease counts on by the clock all
the same, and `lost` tells it when it is asked.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable

from gemot.agent.client.aio.agents import Agents
from gemot.agent.client.aio.ending import to_its_end
from gemot.agent.client.connection import ClientError
from gemot.agent.client.lease import Lease, trusted_s
from gemot.agent.client.recipe import within
from gemot.agent.client.session import (
    CREATE_S,
    DEFAULT_LOCK_DELAY_S,
    DEFAULT_TTL_S,
    DESTROY_S,
    DESTROY_TRIES,
    LOOK_S,
    boot_clock,
    created,
    creation,
    renewed,
)


class Session:
    """A session of this program. Of one event loop; begins once and ends once; `async with` does both."""

    def __init__(
        self,
        agents: Agents,
        *,
        name: str = "",
        ttl_s: float = DEFAULT_TTL_S,
        lock_delay_s: float = DEFAULT_LOCK_DELAY_S,
        behavior: str = "release",
        clock: Callable[[], float] = boot_clock,
    ) -> None:
        """As that of `client/session.py`."""
        self.id = ""
        self.ttl_s = ttl_s
        self._agents = agents
        self._asked = creation(name, ttl_s, lock_delay_s, behavior, agents=len(agents.addresses))
        self._clock = clock
        self._lease: Lease | None = None
        self._ended = False
        self._over = asyncio.Event()
        self._keeping: asyncio.Task[None] | None = None

    async def begin(self, left_s: float | None = None) -> None:
        """Create it, and renew it from now on. Raises ClientError. `left_s` is as in `client/session.py`."""
        sent_s, timeout_s = self._clock(), within(max(trusted_s(self.ttl_s), CREATE_S), left_s)
        asked = self._agents.request("PUT", "/v1/session/create", body=self._asked, timeout_s=timeout_s)
        self.id = created(await asked)
        self._lease = Lease(self.ttl_s, sent_s)
        self._keeping = asyncio.create_task(self._keep(self._lease), name="session")

    async def __aenter__(self) -> Session:
        await self.begin()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.end()

    @property
    def lost(self) -> str:
        """Why it is lost, "" while it lives. By this process's clock, without a question to anybody."""
        if self._lease is None:
            return "the session has not begun"
        return "the session was ended" if self._ended else self._lease.lost(self._clock())

    @property
    def over(self) -> bool:
        return bool(self.lost)

    def lose(self, why: str) -> None:
        """It is known to be over, or what it held is: renewing ends."""
        if self._lease is not None and not self._ended:
            self._lease.lose(why)
        self._over.set()

    async def wait(self, timeout_s: float | None = None) -> str:
        """Wait until it is lost or ended, at most so long; why, or ""."""
        until_s = None if timeout_s is None else self._clock() + timeout_s
        while not (why := self.lost):
            left_s = LOOK_S if until_s is None else min(LOOK_S, until_s - self._clock())
            if left_s <= 0:
                break
            with contextlib.suppress(TimeoutError):
                # In Python 3.11 `wait_for` forgets a cancellation that comes with what it waits for.
                async with asyncio.timeout(left_s):
                    await self._over.wait()
        return why

    async def end(self) -> bool:
        """Destroy it, whether it is lost or not. False: no agent said so; its TTL ends it then.

        That takes some seconds at most, and is done to its end though it is cancelled meanwhile.
        """
        self._ended = True
        self._over.set()
        if self._keeping is not None:
            self._keeping.cancel()
        return await to_its_end(self._destroy) if self.id else True

    async def _destroy(self) -> bool:
        for _ in range(DESTROY_TRIES):
            try:
                await self._agents.request("PUT", f"/v1/session/destroy/{self.id}", timeout_s=DESTROY_S)
                return True
            except ClientError:
                await asyncio.sleep(LOOK_S)
        return False

    async def _keep(self, lease: Lease) -> None:
        """The task that renews."""
        while not self._ended and not lease.lost(self._clock()):
            now_s = self._clock()
            if not lease.due(now_s):
                await self.wait(max(0.001, lease.next_s() - now_s))
                continue
            trouble = None
            try:
                path, patience_s = f"/v1/session/renew/{self.id}", lease.patience_s(now_s)
                await self._agents.request("PUT", path, timeout_s=patience_s)
            except ClientError as error:
                trouble = error
            renewed(lease, now_s, self._clock(), trouble)
        self._over.set()
