"""Runs probes on their schedule: one task a check, owned and ended here.

It tells each result that counts (after the thresholds) to `on_result`, and keeps no status. Ttl, alias and
maintenance checks have no probe: they are not its business.
"""

from __future__ import annotations

import asyncio
import logging
import random
import resource
from collections.abc import Awaitable, Callable, Mapping
from functools import partial

from gemot.checks.definition import CheckDefinition
from gemot.checks.probes import http, script, tcp
from gemot.checks.probes.resolver import Resolver
from gemot.checks.schedule import first_delay_s, next_run_s
from gemot.checks.status import Outcome, Streak
from gemot.checks.turns import Turns

Probe = Callable[[CheckDefinition], Awaitable[Outcome]]

MAX_SOCKETS = 4096
"""HTTP and TCP probes under way at the same time: a descriptor (up to four for HTTP, where the addresses of a
name are silent) and some 25 KB each."""

SOCKETS_AT_WORK = 128
"""Of these, those that may keep the loop busy. All together they need a tenth of the second after which one
counts as hanging: so none waits for the others of its turn, and takes that for silence of its peer."""

MAX_PROGRAMS = 256
"""Programs of checks that run at the same time: two descriptors each, and what the program itself needs."""

PROGRAMS_AT_WORK = 32

DESCRIPTORS_SHARE = 4
"""Either kind takes a quarter of this process's descriptors, as a rule. The rest is for its clients."""

LATE_AFTER_S = 10.0
"""A check that waits for its turn for so long beyond its interval is critical: nobody knows how it stands."""

_log = logging.getLogger(__name__)


def probes_by_type() -> Mapping[str, Probe]:
    """Those of one agent. They share a resolver, so that a name is looked up once at a time."""
    resolver = Resolver()
    return {
        "http": partial(http.probe, resolver=resolver),
        "tcp": partial(tcp.probe, resolver=resolver),
        "script": script.probe,
    }


def turns_by_type() -> Mapping[str, Turns]:
    """Sockets are cheap and programs are not, so neither waits for the other."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    share = MAX_SOCKETS if soft == resource.RLIM_INFINITY else max(2, soft // DESCRIPTORS_SHARE)
    sockets = _turns(min(MAX_SOCKETS, share), SOCKETS_AT_WORK)
    programs = _turns(min(MAX_PROGRAMS, share // 2), PROGRAMS_AT_WORK)
    return {"http": sockets, "tcp": sockets, "script": programs}


def _turns(most: int, at_work: int) -> Turns:
    working = max(1, min(at_work, most // 4))
    return Turns(working=working, hanging=most - working)


class Runner:
    """All probes of this agent. For one event loop. `put` and `drop` say which checks run."""

    def __init__(
        self,
        *,
        on_result: Callable[[str, Outcome], None],
        uniform: Callable[[], float] = random.random,
        probes: Mapping[str, Probe] | None = None,
        turns: Mapping[str, Turns] | None = None,
    ) -> None:
        self._on_result = on_result
        self._uniform = uniform
        self._probes = probes or probes_by_type()
        self._turns = turns or turns_by_type()
        self._unpaused = asyncio.Event()
        self._unpaused.set()
        self._pauses = 0
        self._running: dict[str, _Running] = {}
        self._ending: set[asyncio.Task[None]] = set()
        self._stopped = False

    def __len__(self) -> int:
        return len(self._running)

    def put(self, definition: CheckDefinition) -> None:
        """Run this check. One that already runs with an equal definition goes on undisturbed."""
        running = self._running.get(definition.check_id)
        if running is not None and running.definition == definition:
            return
        self.drop(definition.check_id)
        if definition.type in self._probes and not self._stopped:
            self._begin(definition)

    def drop(self, check_id: str) -> None:
        """Run this check no more: no result of it comes after this. Unknown ones are ignored."""
        if check_id in self._running:
            self._end(check_id)

    def pause(self) -> None:
        """Start no further probe until `resume` was called as often."""
        self._pauses += 1
        self._unpaused.clear()

    def resume(self) -> None:
        self._pauses -= 1
        if self._pauses == 0:
            self._unpaused.set()

    async def stop(self) -> None:
        """End every check and wait for it: no program is left running, no result comes after this."""
        self._stopped = True
        for check_id in list(self._running):
            self._end(check_id)
        while self._ending:
            await asyncio.wait(self._ending)

    def _begin(self, definition: CheckDefinition) -> None:
        running = _Running(definition)
        self._running[definition.check_id] = running
        running.task = asyncio.create_task(self._run(running), name=f"check {definition.check_id}")

    def _end(self, check_id: str) -> None:
        running = self._running.pop(check_id)
        running.expect_no_more()
        task = running.task
        if task is not None and not task.done():
            self._ending.add(task)
            task.add_done_callback(self._ending.discard)
            task.cancel()

    async def _run(self, running: _Running) -> None:
        definition = running.definition
        clock = asyncio.get_running_loop().time
        await asyncio.sleep(first_delay_s(definition.interval_s, self._uniform()))
        while True:
            await self._unpaused.wait()
            outcome = await self._probe_in_turn(running)
            ended_at = clock()
            if self._running.get(definition.check_id) is not running:
                return  # dropped or replaced while its probe ran, and the probe went on to its end
            self._tell(running, outcome)
            await asyncio.sleep(next_run_s(ended_at, definition.interval_s) - clock())

    async def _probe_in_turn(self, running: _Running) -> Outcome:
        self._expect(running)
        try:
            async with self._turns[running.definition.type].turn():
                running.expect_no_more()
                return await self._probe(running.definition)
        finally:
            running.expect_no_more()

    def _expect(self, running: _Running) -> None:
        after_s = running.definition.interval_s + LATE_AFTER_S
        running.late = asyncio.get_running_loop().call_later(after_s, self._on_late, running, after_s)

    def _on_late(self, running: _Running, after_s: float) -> None:
        """What it last said must not stand for ever because others hang, as little as a TTL nobody renews.

        No thresholds: this is no result of its own that might be a chance one.
        """
        why = f"Not run: its turn did not come for over {after_s:g} s, since too many other probes hang"
        self._hand_over(running, Outcome("critical", why))
        self._expect(running)

    async def _probe(self, definition: CheckDefinition) -> Outcome:
        try:
            return await self._probes[definition.type](definition)
        except Exception as error:  # a fault of ours: the check is critical, and all others go on
            _log.exception("check %s: its %s probe failed", definition.check_id, definition.type)
            return Outcome("critical", f"The {definition.type} probe failed: {error}")

    def _tell(self, running: _Running, outcome: Outcome) -> None:
        verdict = running.streak.judge(outcome)
        if verdict is not None:
            self._hand_over(running, verdict)

    def _hand_over(self, running: _Running, verdict: Outcome) -> None:
        try:
            self._on_result(running.definition.check_id, verdict)
        except Exception:
            _log.exception("check %s: its result could not be taken", running.definition.check_id)


class _Running:
    """One check that runs: its definition, its streak, its task, and the timer of a turn that is late."""

    def __init__(self, definition: CheckDefinition) -> None:
        self.definition = definition
        self.task: asyncio.Task[None] | None = None
        self.late: asyncio.TimerHandle | None = None
        self.streak = Streak(
            success_before_passing=definition.success_before_passing,
            failures_before_warning=definition.failures_before_warning,
            failures_before_critical=definition.failures_before_critical,
        )

    def expect_no_more(self) -> None:
        """Its turn came, or never will: it is not late."""
        if self.late is not None:
            self.late.cancel()
