"""What an agent that was started again tells the catalog of its checks, and what it takes from there."""

from __future__ import annotations

import msgspec
from support.http_agent import run
from support.local_bench import NODE, check, service
from support.syncing import Bench, syncing

from gemot.checks.status import Outcome
from gemot.server.model.catalog import Register
from gemot.server.model.errors import NoLeader


async def _with_a_passing_check() -> Bench:
    """An agent that told the catalog of its check `c`, and is gone."""
    bench = Bench()
    async with syncing(bench):
        bench.local.add_check(check("c", TCP="127.0.0.1:1", Interval="60s"))
        bench.local.check_states.report("c", Outcome("passing", "fine"))
        await bench.sync.settle()
    return bench


def _restarted(before: Bench) -> Bench:
    """Another agent process of the same host, with what the one before kept."""
    bench = Bench(store=before.store, servers=before.servers)
    bench.local.restore()
    bench.local.reload([], [])
    return bench


def _told_of(bench: Bench, check_id: str, since: int) -> list[str]:
    """Each status that the catalog was told of this check."""
    commands = [command for command, _ in bench.servers.applied[since:] if isinstance(command, Register)]
    return [row.status for command in commands for row in command.checks if row.check_id == check_id]


def test_a_restart_tells_nothing_that_is_older_than_what_the_catalog_has() -> None:
    """A critical check ends its sessions: no lock may go because an agent was restarted."""

    async def work() -> None:
        before = await _with_a_passing_check()
        told = len(before.servers.applied)
        async with syncing(_restarted(before)) as bench:
            assert set(_told_of(bench, "c", told)) <= {"passing"}
            assert bench.local.checks()["c"].output == "fine"
            bench.local.check_states.report("c", Outcome("critical", "refused"))
            await bench.sync.settle()
            row = bench.stored_check("c")
            assert row is not None
            assert row.status == "critical"

    run(work())


def test_a_restart_without_servers_tells_nothing_before_the_catalog_is_known() -> None:
    async def work() -> None:
        before = await _with_a_passing_check()
        told = len(before.servers.applied)
        before.servers.failure = NoLeader()
        async with syncing(_restarted(before)) as bench:
            bench.servers.failure = None
            bench.local.add_service(service("web"))  # a change does not wait for the next full round
            await bench.sync.settle()
            assert bench.stored("web")
            assert set(_told_of(bench, "c", told)) <= {"passing"}

    run(work())


def test_another_hosts_entry_says_nothing_of_what_was_restored() -> None:
    async def work() -> None:
        before = await _with_a_passing_check()
        before.servers.catalog.nodes["n1"] = msgspec.structs.replace(NODE, id="another")
        async with syncing(_restarted(before)) as bench:
            assert bench.local.checks()["c"].status == "critical"

    run(work())
