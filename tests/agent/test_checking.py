"""Probes, TTL timers and removals, wired to the local state on the real loop."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from support.http_agent import run, until
from support.local_bench import NODE, MemoryStore, check, service

from gemot.agent import checking as module
from gemot.agent.checking import Checking
from gemot.agent.local import Change, LocalState
from gemot.checks.definition import CheckDefinition
from gemot.checks.status import Outcome


@asynccontextmanager
async def checking(probed: list[str]) -> AsyncIterator[LocalState]:
    """A local state on the real clock whose HTTP checks all pass, and are noted."""

    async def probe(definition: CheckDefinition) -> Outcome:
        probed.append(definition.http)
        return Outcome("passing", definition.http)

    local = LocalState(
        node=NODE, store=MemoryStore(), now=time.monotonic, wall=time.time, uniform=random.random
    )
    local.add_check(check("before", HTTP="http://before/", Interval="1h"))
    part = Checking(local=local, uniform=lambda: 0.0, probes={"http": probe})
    part.start()
    try:
        yield local
    finally:
        await part.stop()


def test_what_is_registered_is_probed_and_what_is_not_any_more_is_not() -> None:
    async def work() -> None:
        probed: list[str] = []
        async with checking(probed) as local:
            await until(lambda: local.checks()["before"].status == "passing")
            local.add_check(check("c", HTTP="http://one/", Interval="1h"))
            await until(lambda: local.checks()["c"].output == "http://one/")
            local.add_check(check("c", HTTP="http://two/", Interval="1h"))
            await until(lambda: local.checks()["c"].output == "http://two/")
            local.add_check(check("gone", HTTP="http://gone/", Interval="1h"))
            local.remove_check("gone")
            local.add_check(check("last", HTTP="http://last/", Interval="1h"))
            await until(lambda: local.checks()["last"].status == "passing")
            assert "http://gone/" not in probed

    run(work())


def test_a_ttl_of_a_tenth_of_a_second_ends_in_time_and_again() -> None:
    async def work() -> None:
        async with checking([]) as local:
            local.add_check(check("long", TTL="1h"))
            local.add_check(check("c", TTL="100ms"))
            for _ in range(2):
                local.check_states.update_ttl("c", "passing", "fine")
                assert local.checks()["c"].status == "passing"
                await until(lambda: local.checks()["c"].status == "critical")
                assert local.checks()["c"].output.endswith("follows): fine")

    run(work())


def test_every_ttl_ends_in_its_turn() -> None:
    async def work() -> None:
        async with checking([]) as local:
            for ttl in ("150ms", "50ms", "100ms"):
                local.add_check(check(ttl, TTL=ttl, Status="passing"))
            await until(lambda: all(local.checks()[one].status == "critical" for one in ("50ms", "150ms")))
            assert local.checks()["100ms"].status == "critical"

    run(work())


def test_only_the_ttl_whose_time_is_over_ends() -> None:
    async def work() -> None:
        seen: list[Change] = []
        async with checking([]) as local:
            local.add_check(check("long", TTL="1h", Status="passing"))
            local.add_check(check("watched", TTL="100ms", Status="passing"))
            local.listen(seen.append)
            await until(lambda: local.checks()["watched"].status == "critical")
        assert [change.id for change in seen if change.id != "before"] == ["watched"]

    run(work())


def test_dead_services_are_looked_for_again_and_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "REAP_S", 0.01)

    async def work() -> None:
        async with checking([]) as local:
            local.add_service(service("web", Check={"TTL": "1h", "DeregisterCriticalServiceAfter": "1m"}))
            await asyncio.sleep(0.03)
            assert "web" in local.services()
            shift = 61.0
            local._now = lambda: time.monotonic() + shift
            await until(lambda: "web" not in local.services())

    run(work())


def test_nothing_moves_after_the_stop() -> None:
    async def work() -> None:
        probed: list[str] = []
        async with checking(probed) as local:
            local.add_check(check("c", TTL="100ms", Status="passing"))
        local.add_check(check("late", HTTP="http://late/", Interval="1s"))
        await asyncio.sleep(0.15)
        assert local.checks()["c"].status == "passing"
        assert "http://late/" not in probed

    run(work())
