"""The runner with probes that the tests hold in their hands, on the real loop."""

from __future__ import annotations

import asyncio
import resource

import msgspec
import pytest
from support.http_agent import run, until

from gemot.checks import runner as module
from gemot.checks.definition import CheckDefinition
from gemot.checks.runner import Probe, Runner, turns_by_type
from gemot.checks.status import Outcome
from gemot.checks.turns import Turns

GOOD = Outcome("passing", "good")


class Bench:
    """A runner whose first runs come at once, and that notes what was probed and told."""

    def __init__(self, probe: Probe, turns: Turns | None = None) -> None:
        self.results: list[tuple[str, Outcome]] = []
        self.runner = Runner(
            on_result=lambda check_id, outcome: self.results.append((check_id, outcome)),
            uniform=lambda: 0.0,
            probes={"http": probe},
            turns={"http": turns} if turns else None,
        )


def define(name: str, **fields: float) -> CheckDefinition:
    return CheckDefinition(check_id=name, name=name, type="http", interval_s=3600, **fields)  # type: ignore[arg-type]


async def good(definition: CheckDefinition) -> Outcome:
    return GOOD


def test_a_result_is_told_and_the_check_goes_on() -> None:
    async def work() -> None:
        bench = Bench(good)
        bench.runner.put(define("a"))
        await until(lambda: bench.results)
        assert bench.results == [("a", GOOD)]
        assert len(bench.runner) == 1
        await bench.runner.stop()

    run(work())


def test_the_first_run_waits_its_share_of_the_interval() -> None:
    async def work() -> None:
        results: list[str] = []
        runner = Runner(
            on_result=lambda check_id, outcome: results.append(check_id),
            uniform=lambda: 0.999,
            probes={"http": good},
        )
        runner.put(define("late"))
        runner.put(CheckDefinition(check_id="soon", name="soon", type="http", interval_s=1.0))
        await until(lambda: results)
        assert results == ["soon"]
        await runner.stop()

    run(work())


def test_a_check_that_fails_inside_is_critical_and_the_others_go_on() -> None:
    async def probe(definition: CheckDefinition) -> Outcome:
        if definition.check_id == "bad":
            raise ZeroDivisionError("oops")
        return GOOD

    async def work() -> None:
        bench = Bench(probe)
        bench.runner.put(define("bad"))
        bench.runner.put(define("fine"))
        await until(lambda: len(bench.results) == 2)
        assert dict(bench.results) == {
            "bad": Outcome("critical", "The http probe failed: oops"),
            "fine": GOOD,
        }
        await bench.runner.stop()

    run(work())


def test_the_same_definition_again_does_not_start_over() -> None:
    async def work() -> None:
        started = 0

        async def probe(definition: CheckDefinition) -> Outcome:
            nonlocal started
            started += 1
            await asyncio.Event().wait()
            return GOOD

        bench = Bench(probe)
        bench.runner.put(define("a"))
        await until(lambda: started)
        for _ in range(5):
            bench.runner.put(define("a"))
            for _ in range(20):
                await asyncio.sleep(0)
        assert started == 1
        bench.runner.put(define("a", timeout_s=5.0))
        await until(lambda: started == 2)
        await bench.runner.stop()

    run(work())


def test_no_result_comes_after_a_check_was_dropped_or_replaced() -> None:
    async def work() -> None:
        gate = asyncio.Event()

        async def stubborn(definition: CheckDefinition) -> Outcome:
            if definition.timeout_s:
                await asyncio.Event().wait()
            try:
                await gate.wait()
            except asyncio.CancelledError:
                pass  # answers all the same
            return GOOD

        bench = Bench(stubborn)
        for name in ("dropped", "replaced"):
            bench.runner.put(define(name))
        await asyncio.sleep(0.01)
        bench.runner.drop("dropped")
        bench.runner.put(define("replaced", timeout_s=5.0))
        gate.set()
        await bench.runner.stop()
        assert bench.results == []

    run(work())


def test_only_so_many_probes_run_at_the_same_time() -> None:
    async def work() -> None:
        now, most = 0, 0

        async def probe(definition: CheckDefinition) -> Outcome:
            nonlocal now, most
            now += 1
            most = max(most, now)
            await asyncio.sleep(0.001)
            now -= 1
            return GOOD

        bench = Bench(probe, Turns(working=3, hanging=100))
        for number in range(20):
            bench.runner.put(define(str(number)))
        await until(lambda: len(bench.results) == 20)
        assert most == 3
        await bench.runner.stop()

    run(work())


async def hang_or_be_good(definition: CheckDefinition) -> Outcome:
    if definition.check_id.startswith("hangs"):
        await asyncio.Event().wait()
    return GOOD


def test_those_that_hang_do_not_keep_the_others_from_being_run() -> None:
    """128 checks of a peer that is silent once froze every other at what it last said."""

    async def work() -> None:
        bench = Bench(hang_or_be_good, Turns(working=2, hanging=10, hangs_after_s=0.001))
        for number in range(10):
            bench.runner.put(define(f"hangs {number}"))
        for number in range(10):
            bench.runner.put(define(f"runs {number}"))
        await until(lambda: len(bench.results) == 10)
        assert all(outcome == GOOD for _, outcome in bench.results)
        await bench.runner.stop()

    run(work())


async def _with_one_that_is_late() -> Bench:
    """One probe has the only turn and keeps it, and the check `waits` was told to be late."""
    bench = Bench(hang_or_be_good, Turns(working=1, hanging=0))
    bench.runner.put(define("hangs"))
    bench.runner.put(define("waits"))
    await until(lambda: bench.results)
    return bench


def test_a_check_whose_turn_does_not_come_is_critical_until_it_is_run(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "LATE_AFTER_S", -3599.99)

    async def work() -> None:
        bench = await _with_one_that_is_late()
        check_id, outcome = bench.results[0]
        assert (check_id, outcome.status) == ("waits", "critical")
        assert outcome.output.startswith("Not run: its turn did not come")
        assert {told for told, _ in bench.results} == {"waits"}
        bench.runner.drop("hangs")
        await until(lambda: bench.results[-1] == ("waits", GOOD))
        told = len(bench.results)
        bench.runner.drop("waits")
        for _ in range(20):
            await asyncio.sleep(0.001)
        assert len(bench.results) == told
        await bench.runner.stop()

    run(work())


def test_a_check_whose_turn_does_not_come_is_critical_whatever_its_thresholds(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "LATE_AFTER_S", 0.0)

    async def work() -> None:
        bench = Bench(hang_or_be_good, Turns(working=1, hanging=0))
        waits = define("waits", failures_before_critical=1_000_000)
        bench.runner.put(msgspec.structs.replace(waits, interval_s=0.01))
        await until(lambda: bench.results)
        bench.runner.put(define("hangs"))
        await until(lambda: bench.results[-1][1].status == "critical")
        assert {outcome.status for _, outcome in bench.results} == {"passing", "critical"}
        await bench.runner.stop()

    run(work())


def test_nothing_is_told_of_a_check_that_is_dropped_while_its_turn_is_late(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "LATE_AFTER_S", -3599.99)

    async def work() -> None:
        bench = await _with_one_that_is_late()
        bench.runner.drop("waits")
        bench.results.clear()
        await bench.runner.stop()
        assert bench.results == []

    run(work())


def test_programs_and_sockets_do_not_wait_for_each_other() -> None:
    turns = turns_by_type()
    assert turns["http"] is turns["tcp"] is not turns["script"]


@pytest.mark.parametrize(
    ("kind", "descriptors", "at_work", "most"),
    [
        ("http", 1, 1, 2),
        ("http", 1024, 64, 256),
        ("http", 65536, 128, 4096),
        ("http", resource.RLIM_INFINITY, 128, 4096),
        ("script", 1, 1, 1),
        ("script", 1024, 32, 128),
        ("script", 65536, 32, 256),
    ],
)
def test_probes_are_bounded_by_descriptors_and_few_of_them_are_at_work(
    monkeypatch: pytest.MonkeyPatch, kind: str, descriptors: int, at_work: int, most: int
) -> None:
    """Were thousands at work, each would hang by the others' doing, and its timeout pass."""
    monkeypatch.setattr(module.resource, "getrlimit", lambda _: (descriptors, descriptors))

    async def work() -> None:
        began = 0

        async def worker() -> None:
            nonlocal began
            async with turns.turn():
                began += 1
                await asyncio.Event().wait()

        turns = turns_by_type()[kind]
        turns.hangs_after_s = 3600
        workers = [asyncio.create_task(worker()) for _ in range(at_work + 1)]
        for _ in range(5):
            await asyncio.sleep(0.001)
        assert began == at_work
        for each in workers:
            each.cancel()
        await asyncio.wait(workers)
        began, turns.hangs_after_s = 0, 0.001
        workers = [asyncio.create_task(worker()) for _ in range(most + 1)]
        await until(lambda: began == most)
        for _ in range(5):
            await asyncio.sleep(0.001)
        assert began == most
        for each in workers:
            each.cancel()

    run(work())


def test_while_paused_nothing_is_probed() -> None:
    async def work() -> None:
        bench = Bench(good)
        bench.runner.pause()
        bench.runner.pause()
        bench.runner.put(define("a"))
        bench.runner.resume()
        for _ in range(10):
            await asyncio.sleep(0)
        assert bench.results == []
        bench.runner.resume()
        await until(lambda: bench.results)
        await bench.runner.stop()

    run(work())


def test_stop_waits_for_probes_to_end_and_starts_no_more() -> None:
    async def work() -> None:
        ended = []

        async def slow_to_end(definition: CheckDefinition) -> Outcome:
            try:
                await asyncio.Event().wait()
            finally:
                await asyncio.sleep(0.01)
                ended.append(definition.check_id)
            return GOOD

        bench = Bench(slow_to_end)
        for name in "abc":
            bench.runner.put(define(name))
        await asyncio.sleep(0.01)
        await bench.runner.stop()
        assert sorted(ended) == ["a", "b", "c"]
        bench.runner.put(define("d"))
        assert len(bench.runner) == 0

    run(work())


def test_thresholds_hold_results_back() -> None:
    async def work() -> None:
        outcomes = [Outcome("passing", "1"), Outcome("critical", "2"), Outcome("critical", "3")]
        left = list(outcomes)

        async def probe(definition: CheckDefinition) -> Outcome:
            return left.pop(0)

        bench = Bench(probe)
        # Each new definition would start a new streak, so the runs follow each other at the least interval.
        check = CheckDefinition(
            check_id="a", name="a", type="http", interval_s=1.0, failures_before_critical=2
        )
        bench.runner.put(check)
        await until(lambda: not left and len(bench.results) == 2)
        assert bench.results == [("a", outcomes[0]), ("a", outcomes[2])]
        await bench.runner.stop()

    run(work())


def test_types_without_a_probe_are_not_run() -> None:
    async def work() -> None:
        bench = Bench(good)
        bench.runner.put(CheckDefinition(check_id="t", name="t", type="ttl", ttl_s=10))
        assert len(bench.runner) == 0
        await bench.runner.stop()

    run(work())
