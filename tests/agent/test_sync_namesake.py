"""Anti-entropy of a host whose name another one has, against a catalog with all of its rules."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from support.http_agent import run, until
from support.local_bench import NODE, service
from support.one_state import OneState
from support.syncing import Bench, syncing

from gemot.server.model.catalog import SERF_HEALTH, Node, NodeDetail, NodeInfo, Register, Service
from gemot.server.model.errors import GemotError, PeerBroke, StorageFailed
from gemot.server.model.health import Check
from gemot.server.model.session import CreateSession, Session, Sessions


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
            assert f"is reserved by node {OTHER.id}" in bench.sync.refusal
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
            bench.clock.move(3 * 1.5)
            bench.sync._wake.set()
            await until(lambda: bench.sync.rounds["full", "ok"])
            assert bench.sync.refusal == ""
            assert catalog.one.value(NodeInfo("n1")).node.id == NODE.id
            assert [row.id for row in catalog.one.value(NodeInfo("n1")).services] == ["redis", "web"]
            bench.local.remove_service("web")  # changes are told at once again
            await bench.sync.settle()
            assert [row.id for row in catalog.one.value(NodeInfo("n1")).services] == ["redis"]

    run(work())


def test_a_host_that_is_refused_asks_again_soon_at_first_and_then_seldom(tmp_path: Path) -> None:
    """Who died keeps its name for some seconds only; two that live may both do so for days."""

    async def work() -> None:
        bench, _ = _namesake(tmp_path)
        async with syncing(bench):
            for number, wait_s in enumerate((3, 6, 12, 15, 15), 1):
                for moved_s, rounds in ((wait_s * 1.5 - 0.1, number), (0.2, number + 1)):
                    bench.clock.move(moved_s)
                    bench.sync._wake.set()
                    await bench.quiet()
                    assert bench.sync.rounds["full", "failed"] == rounds, f"try {number}"
                bench.clock.move(-0.1)

    run(work())
