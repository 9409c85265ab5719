"""Keeps the checks going: probes run for what is registered, TTLs end in time, dead services are taken out.

The loop's part of `local.py`: its timers and its runner, nothing else.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable, Mapping

from gemot.agent.local import Change, LocalState
from gemot.checks.runner import Probe, Runner

REAP_S = 30.0
"""How often services that were critical for too long are looked for."""


class Checking:
    """For one event loop. `start` after the configuration was loaded, `stop` before the agent ends.

    `now` must be the clock of the local state.
    """

    def __init__(
        self,
        *,
        local: LocalState,
        now: Callable[[], float] = time.monotonic,
        uniform: Callable[[], float] = random.random,
        probes: Mapping[str, Probe] | None = None,
    ) -> None:
        self._local = local
        self._now = now
        self.runner = Runner(on_result=local.check_states.report, uniform=uniform, probes=probes)
        self._unlisten: Callable[[], None] | None = None
        self._expiry: asyncio.TimerHandle | None = None
        self._expires_at_s = float("inf")
        self._reaping: asyncio.TimerHandle | None = None

    def start(self) -> None:
        self._unlisten = self._local.listen(self._on_change)
        for definition in self._local.check_states.definitions():
            self.runner.put(definition)
        self._arm(self._local.check_states.next_deadline_s())
        self._reaping = asyncio.get_running_loop().call_later(REAP_S, self._on_reap)

    async def stop(self) -> None:
        """No result, expiry or removal comes after this; every program of a check has ended."""
        if self._unlisten is not None:
            self._unlisten()
        for timer in (self._expiry, self._reaping):
            if timer is not None:
                timer.cancel()
        await self.runner.stop()

    def _on_change(self, change: Change) -> None:
        if change.kind == "service":
            return
        if change.kind == "check":
            definition = self._local.check_states.definition(change.id)
            if definition is None:
                self.runner.drop(change.id)
            else:
                self.runner.put(definition)
        self._arm(self._local.check_states.deadline_s(change.id))

    def _arm(self, deadline_s: float | None) -> None:
        """Have the timer go off at this deadline, unless it goes off before. It may find nothing to do."""
        if deadline_s is None or deadline_s >= self._expires_at_s:
            return
        if self._expiry is not None:
            self._expiry.cancel()
        self._expires_at_s = deadline_s
        delay_s = max(0.0, deadline_s - self._now())
        self._expiry = asyncio.get_running_loop().call_later(delay_s, self._on_expiry)

    def _on_expiry(self) -> None:
        self._expiry = None
        self._expires_at_s = float("inf")
        self._local.check_states.expire()
        self._arm(self._local.check_states.next_deadline_s())

    def _on_reap(self) -> None:
        self._local.reap()
        self._reaping = asyncio.get_running_loop().call_later(REAP_S, self._on_reap)
