"""Anti-entropy on the real loop, against a catalog in memory that can refuse, fail and hold back."""

from __future__ import annotations

import asyncio

import msgspec
import pytest
from support.http_agent import run, until
from support.local_bench import NODE, check, service
from support.syncing import Bench, syncing

from gemot.agent.sync import scale
from gemot.checks.status import Outcome
from gemot.server.model.catalog import (
    Deregister,
    Node,
    NodeInfo,
    Register,
    Service,
)
from gemot.server.model.errors import (
    Forbidden,
    GemotError,
    NoLeader,
    OutcomeUnknown,
    RuleFailed,
)
from gemot.server.model.health import Check
from gemot.server.model.query import Options


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
