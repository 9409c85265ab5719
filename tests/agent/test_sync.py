"""Anti-entropy on the real loop, against a catalog in memory that can refuse, fail and hold back."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest
from support.catalog_model import CatalogServers
from support.http_agent import run, until
from support.local_bench import NODE, Clock, MemoryStore, check, local_state, service
from support.one_state import OneState

from gemot.agent.local import LocalState
from gemot.agent.sync import Sync, scale
from gemot.checks.status import Outcome
from gemot.server.model.catalog import (
    SERF_HEALTH,
    Deregister,
    Node,
    NodeDetail,
    NodeInfo,
    Register,
    Service,
)
from gemot.server.model.errors import (
    Forbidden,
    GemotError,
    NoLeader,
    OutcomeUnknown,
    PeerBroke,
    RuleFailed,
    StorageFailed,
)
from gemot.server.model.health import Check
from gemot.server.model.query import Options
from gemot.server.model.session import CreateSession, Session, Sessions


class Bench:
    def __init__(self, **options: Any) -> None:
        self.clock = Clock()
        self.store = options.pop("store", MemoryStore())
        self.servers = options.pop("servers", CatalogServers())
        self.local: LocalState = local_state(self.store, self.clock, **options)
        self.sync = Sync(
            local=self.local, servers=self.servers, now=self.clock, uniform=lambda: 0.5, token="agent"
        )

    def stored(self, service_id: str) -> Service | None:
        return self.servers.catalog.services.get(("n1", service_id))

    def stored_check(self, check_id: str) -> Check | None:
        return self.servers.catalog.checks.get(("n1", check_id))

    async def compare(self) -> None:
        """Have one full round, now."""
        asked = len(self.servers.queries)
        self.sync.compare_soon(0.0)
        await until(lambda: len(self.servers.queries) > asked)
        await self.quiet()

    async def quiet(self) -> None:
        for _ in range(20):
            await asyncio.sleep(0)


@asynccontextmanager
async def syncing(bench: Bench) -> AsyncIterator[Bench]:
    bench.sync.start()
    await until(lambda: bench.servers.queries)
    await bench.quiet()
    try:
        yield bench
    finally:
        await bench.sync.stop()


def test_a_start_tells_everything_and_takes_out_what_is_not_ours() -> None:
    async def work() -> None:
        bench = Bench()
        catalog = bench.servers.catalog
        catalog.apply(Register(NODE, (Service("old", "old"), Service("consul", "consul"))))
        catalog.apply(Register(NODE, (), (Check("n1", "serfHealth", "Serf"), Check("n1", "old", "old"))))
        bench.local.add_service(service("web", Check={"TTL": "10s"}))
        async with syncing(bench):
            assert set(catalog.services) == {("n1", "web"), ("n1", "consul")}
            assert set(catalog.checks) == {("n1", "serfHealth"), ("n1", "service:web")}
            await bench.compare()
            assert bench.servers.queries == [
                (NodeInfo("n1"), Options(token="agent")),
                (NodeInfo("n1"), Options(consistency="stale", max_stale_ms=2000, token="agent")),
            ]

    run(work())


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
        before = Bench()
        async with syncing(before):
            before.local.add_check(check("c", TCP="127.0.0.1:1", Interval="60s"))
            before.local.check_states.report("c", Outcome("passing", "fine"))
            await before.sync.settle()
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
        before = Bench()
        async with syncing(before):
            before.local.add_check(check("c", TCP="127.0.0.1:1", Interval="60s"))
            before.local.check_states.report("c", Outcome("passing", "fine"))
            await before.sync.settle()
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
        before = Bench()
        async with syncing(before):
            before.local.add_check(check("c", TCP="127.0.0.1:1", Interval="60s"))
            before.local.check_states.report("c", Outcome("passing", "fine"))
            await before.sync.settle()
        before.servers.catalog.nodes["n1"] = msgspec.structs.replace(NODE, id="another")
        async with syncing(_restarted(before)) as bench:
            assert bench.local.checks()["c"].status == "critical"

    run(work())


def test_a_change_is_in_the_catalog_when_settle_returns_without_any_timer() -> None:
    async def work() -> None:
        async with syncing(Bench()) as bench:
            bench.local.add_service(service("web", Check={"TTL": "10s"}))
            await bench.sync.settle()
            assert bench.stored("web")
            bench.local.check_states.update_ttl("service:web", "passing", "fine")
            await bench.sync.settle()
            stored = bench.stored_check("service:web")
            assert stored is not None
            assert (stored.status, stored.output) == ("passing", "fine")
            bench.local.remove_service("web")
            await bench.sync.settle()
            assert bench.stored("web") is None
            assert len(bench.servers.queries) == 1  # none of it needed to compare the whole

    run(work())


def test_a_burst_becomes_one_round_of_few_writes() -> None:
    async def work() -> None:
        async with syncing(Bench()) as bench:
            told = len(bench.servers.applied)
            for port in range(50):
                bench.local.add_service(service("web", Port=port, Checks=[{"TTL": "1s"}, {"TTL": "1s"}]))
            await bench.sync.settle()
            assert len(bench.servers.applied) == told + 1

    run(work())


def test_nothing_changed_means_nothing_to_wait_for() -> None:
    async def work() -> None:
        async with syncing(Bench()) as bench:
            bench.servers.held = True
            await bench.sync.settle()
            assert not bench.sync._changed

    run(work())


def test_a_caller_is_not_kept_waiting_for_ever_and_the_work_goes_on() -> None:
    async def work() -> None:
        async with syncing(Bench()) as bench:
            bench.servers.held = True
            bench.local.add_service(service("web"))
            await bench.sync.settle(within_s=0.01)
            assert bench.stored("web") is None
            bench.servers.let_go()
            await until(lambda: bench.stored("web"))

    run(work())


def test_what_changes_during_a_round_goes_with_the_next() -> None:
    async def work() -> None:
        async with syncing(Bench()) as bench:
            bench.servers.held = True
            bench.local.add_service(service("web", Port=1))
            await until(lambda: len(bench.servers.waiting) == 1)
            bench.local.add_service(service("web", Port=2))
            bench.local.add_service(service("db"))
            bench.servers.let_go()
            await bench.sync.settle()
            web = bench.stored("web")
            assert web is not None
            assert web.port == 2
            assert bench.stored("db")

    run(work())


def test_a_failed_round_loses_nothing() -> None:
    async def work() -> None:
        for failure in (NoLeader(), OutcomeUnknown("lost")):
            async with syncing(Bench()) as bench:
                bench.local.add_service(service("old"))
                await bench.sync.settle()
                bench.servers.failure = failure
                bench.local.add_service(service("web", Check={"TTL": "10s"}))
                bench.local.remove_service("old")
                await bench.sync.settle()
                assert bench.stored("web") is None
                asked = len(bench.servers.queries)
                bench.servers.failure = None
                bench.clock.move(15 * 1.5 - 0.1)
                bench.sync._wake.set()
                await bench.quiet()
                assert len(bench.servers.queries) == asked  # not yet
                bench.clock.move(0.1)
                bench.sync._wake.set()
                await until(lambda bench=bench: bench.stored("web"))
                assert bench.stored("old") is None
                assert bench.stored_check("service:web")

    run(work())


def test_a_failure_in_the_middle_of_many_writes_loses_none_of_them() -> None:
    async def work() -> None:
        async with syncing(Bench()) as bench:
            for number in range(60):
                bench.local.add_service(service(f"s{number}"))
            bench.servers.refuse = lambda command: NoLeader() if len(bench.servers.applied) > 20 else None
            await bench.sync.settle()
            told = len(bench.servers.catalog.services)
            assert 0 < told < 60
            assert len(bench.servers.applied) <= 33  # no more was tried once it was known to be in vain
            bench.servers.refuse = lambda command: None
            bench.local.add_service(service("one-more"))
            await bench.sync.settle()
            assert len(bench.servers.catalog.services) == 61

    run(work())


def test_a_failure_does_not_hold_back_the_next_change() -> None:
    async def work() -> None:
        async with syncing(Bench()) as bench:
            bench.servers.failure = NoLeader()
            bench.local.add_service(service("web"))
            await bench.sync.settle()
            bench.servers.failure = None
            bench.local.add_service(service("db"))
            await bench.sync.settle()
            assert bench.stored("web")
            assert bench.stored("db")

    run(work())


def test_one_refused_write_does_not_hold_back_the_others() -> None:
    def refuse(command: Register | Deregister) -> GemotError | None:
        named = isinstance(command, Register) and any(one.id == "bad" for one in command.services)
        return RuleFailed("no") if named else None

    async def work() -> None:
        bench = Bench()
        bench.servers.refuse = refuse
        async with syncing(bench):
            for name in ("aaa", "bad", "web"):
                bench.local.add_service(service(name))
            await bench.sync.settle()
            assert bench.stored("aaa")
            assert bench.stored("web")
            assert not bench.stored("bad")
            bench.servers.refuse = lambda command: None
            await bench.compare()
            assert bench.stored("bad")

    run(work())


class RealCatalog:
    """A catalog with all of its rules, in which another host has our name, a session and a lock on it."""

    def __init__(self, folder: Path) -> None:
        self.one = OneState(folder)
        self.apply(
            Register(
                OTHER,
                (Service("pg", "pg", port=5432),),
                (
                    Check("n1", SERF_HEALTH, "Serf", "passing"),
                    Check("n1", "pg", "pg", "passing", service_id="pg"),
                ),
            )
        )
        session = Session("s", "n1", "", 0, "release", "", 0, node_checks=("pg",))
        self.apply(CreateSession(session))

    def apply(self, command: Any) -> None:
        result = self.one.result(command)
        if isinstance(result, GemotError):
            raise result

    def detail(self, name: str) -> NodeDetail | None:
        detail: NodeDetail | None = self.one.value(NodeInfo(name))
        return detail

    def fail(self) -> None:
        """The host that has our name dies."""
        dead = Check("n1", SERF_HEALTH, "Serf", "critical")
        self.apply(Register(OTHER, (), (dead,), skip_node_update=True))


OTHER = Node("n1", "10.0.0.2", id="99999999-2222-3333-4444-555555555555")


def _namesake(folder: Path) -> tuple[Bench, RealCatalog]:
    catalog, bench = RealCatalog(folder), Bench()
    bench.servers.catalog = catalog  # type: ignore[assignment]
    bench.local.add_service(service("redis", Check={"TTL": "10m"}))
    return bench, catalog


def test_a_host_touches_nothing_of_another_one_that_has_its_name(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def work() -> None:
        bench, catalog = _namesake(tmp_path)
        before = catalog.detail("n1")
        async with syncing(bench):
            assert [command for command, _ in bench.servers.applied] == [Register(NODE)]
            told = [one.message for one in caplog.records if one.levelname in ("WARNING", "ERROR")]
            assert len(told) == 1
            assert f"is reserved by node {OTHER.id}" in told[0]
            assert "give one of the two another node_name" in told[0]
            bench.local.check_states.update_ttl("service:redis", "passing", "")
            bench.local.remove_service("redis")
            await bench.sync.settle(within_s=3600)  # keeps nobody waiting for what is in vain
            await bench.compare()
            assert [command for command, _ in bench.servers.applied] == [Register(NODE)] * 2
            assert catalog.detail("n1") == before
            assert [session.id for session in catalog.one.value(Sessions())] == ["s"]

    run(work())


@pytest.mark.parametrize("failure", [PeerBroke("cut off"), StorageFailed("full"), GemotError("new")])
def test_a_host_whose_entry_fails_otherwise_is_not_taken_for_a_namesake(failure: GemotError) -> None:
    async def work() -> None:
        bench = Bench()
        bench.servers.refuse = lambda command: failure if command == Register(NODE) else None
        bench.local.add_service(service("web"))
        async with syncing(bench):
            await until(lambda: bench.stored("web"))

    run(work())


def test_a_host_takes_over_the_name_of_one_that_died(tmp_path: Path) -> None:
    async def work() -> None:
        bench, catalog = _namesake(tmp_path)
        async with syncing(bench):
            catalog.fail()
            bench.local.add_service(service("web"))
            bench.clock.move(15 * 1.5)
            bench.sync._wake.set()
            await until(lambda: bench.sync.rounds["full", "ok"])
            assert catalog.one.value(NodeInfo("n1")).node.id == NODE.id
            assert [row.id for row in catalog.one.value(NodeInfo("n1")).services] == ["redis", "web"]
            bench.local.remove_service("web")  # changes are told at once again
            await bench.sync.settle()
            assert [row.id for row in catalog.one.value(NodeInfo("n1")).services] == ["redis"]

    run(work())


def test_what_is_forbidden_is_tried_again_only_at_the_next_comparison() -> None:
    async def work() -> None:
        bench = Bench()
        bench.servers.refuse = lambda command: Forbidden("Permission denied") if command.services else None
        async with syncing(bench):
            bench.local.add_service(service("web"))
            await bench.sync.settle()
            assert not bench.local.is_behind()
            bench.servers.refuse = lambda command: None
            bench.local.add_check(check("c"))
            await bench.sync.settle()
            assert bench.stored("web") is None
            await bench.compare()
            assert bench.stored("web")

    run(work())


def test_the_catalog_is_compared_again_after_a_minute_or_two() -> None:
    async def work() -> None:
        async with syncing(Bench()) as bench:
            bench.servers.catalog.apply(Register(NODE, (Service("foreign", "foreign"),)))
            bench.clock.move(60 * 1.5 - 0.1)
            bench.sync._wake.set()
            await bench.quiet()
            assert bench.stored("foreign")
            bench.clock.move(0.1)
            bench.sync._wake.set()
            await until(lambda: not bench.stored("foreign"))

    run(work())


def test_tags_of_the_catalog_are_taken_over_where_a_service_allows_it() -> None:
    async def work() -> None:
        bench = Bench()
        bench.local.add_service(service("web", Tags=["a"], EnableTagOverride=True, Check={"TTL": "9s"}))
        async with syncing(bench):
            stored = bench.stored("web")
            assert stored is not None
            changed = msgspec.structs.replace(stored, tags=("b",))
            bench.servers.catalog.apply(Register(NODE, (changed,), skip_node_update=True))
            await bench.compare()
            assert bench.local.services()["web"].tags == ("b",)
            row = bench.stored_check("service:web")
            assert row is not None
            assert row.service_tags == ("b",)
            told = len(bench.servers.applied)
            await bench.compare()
            assert len(bench.servers.applied) == told

    run(work())


def test_a_deferred_output_goes_when_its_time_has_come() -> None:
    async def work() -> None:
        async with syncing(Bench(check_update_interval_s=40.0)) as bench:
            bench.local.add_check(check("c", Status="passing"))
            await bench.sync.settle()
            bench.local.check_states.report("c", Outcome("passing", "new"))
            await bench.sync.settle()
            await bench.compare()
            row = bench.stored_check("c")
            assert row is not None
            assert row.output == ""
            bench.clock.move(40)
            bench.sync._wake.set()
            await until(lambda: bench.servers.catalog.checks["n1", "c"].output == "new")

    run(work())


def test_while_paused_nothing_is_told() -> None:
    async def work() -> None:
        async with syncing(Bench()) as bench:
            bench.sync.pause()
            bench.sync.pause()
            bench.local.add_service(service("web"))
            await bench.sync.settle()
            bench.sync.resume()
            await bench.quiet()
            assert bench.stored("web") is None
            bench.sync.resume()
            await until(lambda: bench.stored("web"))

    run(work())


def test_another_nodes_answer_is_not_taken_for_ours() -> None:
    """A node's name may be the beginning of another node's id."""

    async def work() -> None:
        bench = Bench()
        other = Node("other", "10.0.0.9", id="n1-and-more")
        detail = bench.servers.catalog.detail
        bench.servers.catalog.apply(Register(other, (Service("theirs", "theirs"),)))
        bench.servers.catalog.detail = lambda name: detail(name) or detail("other")  # type: ignore[method-assign]
        bench.local.add_service(service("web"))
        async with syncing(bench):
            assert bench.stored("web")
            assert ("other", "theirs") in bench.servers.catalog.services
            assert not any(isinstance(command, Deregister) for command, _ in bench.servers.applied)

    run(work())


def test_stopping_lets_waiting_callers_go_and_writes_no_more() -> None:
    async def work() -> None:
        bench = Bench()
        bench.sync.start()
        await until(lambda: bench.servers.queries)
        await bench.quiet()
        bench.servers.held = True
        bench.local.add_service(service("web"))
        waiting = asyncio.create_task(bench.sync.settle())
        await until(lambda: bench.servers.waiting)
        bench.local.add_service(service("db"))
        late = asyncio.create_task(bench.sync.settle(within_s=3600))
        await bench.quiet()
        await bench.sync.stop()
        async with asyncio.timeout(20):
            await asyncio.gather(waiting, late)
        told = len(bench.servers.applied)
        bench.local.add_service(service("more"))
        await bench.quiet()
        assert len(bench.servers.applied) == told

    run(work())


def test_many_services_are_all_told() -> None:
    async def work() -> None:
        bench = Bench()
        for number in range(100):
            bench.local.add_service(service(f"s{number}", Check={"TTL": "1s"}))
        async with syncing(bench):
            await until(lambda: len(bench.servers.catalog.services) == 100)
            assert len(bench.servers.catalog.checks) == 100

    run(work())


def test_bigger_clusters_spread_their_rounds_out() -> None:
    assert [scale(nodes) for nodes in (0, 1, 128, 129, 256, 512, 8192)] == [1, 1, 1, 2, 2, 3, 7]


def test_the_log_tells_what_differs_and_no_zeroes(caplog: pytest.LogCaptureFixture) -> None:
    async def scene() -> None:
        bench = Bench()
        bench.local.add_service(service("web", Check={"TTL": "10s"}))
        async with syncing(bench):
            pass

    caplog.set_level("INFO")
    run(scene())
    assert [one for one in caplog.messages if "differs" in one] == [
        "sync: the catalog differs: the node's entry to write, 1 service and 1 check to register"
    ]


def test_a_catalog_that_lost_this_node_is_mended_though_changes_keep_coming() -> None:
    """Each change of a check is refused by then, and none may put the comparison off or be tried for ever."""

    async def work() -> None:
        async with syncing(Bench()) as bench:
            for number in range(5):
                bench.local.add_service(service(f"s{number}", Check={"TTL": "1h"}))
            await bench.sync.settle()
            bench.servers.catalog.apply(Deregister("n1"))
            tried = len(bench.servers.applied)
            for number in range(5):
                bench.local.check_states.update_ttl(f"service:s{number}", "passing", "")
                await bench.sync.settle()
                bench.clock.move(0.2)
                bench.sync._wake.set()
                await bench.quiet()
            assert len(bench.servers.applied) == tried + 5, "what was refused is not sent with each change"
            bench.clock.move(1.0)
            bench.sync._wake.set()
            await until(lambda: all(bench.stored(f"s{n}") for n in range(5)))
            await bench.quiet()
            stored = [bench.stored_check(f"service:s{n}") for n in range(5)]
            assert [one.status for one in stored if one] == ["passing"] * 5

    run(work())
