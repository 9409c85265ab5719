"""Damage at rest in the simulated world: the scrubber finds it, and what nobody finds is told in the end."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from simulation.faults.rot import FAULTS
from simulation.network import CALM
from simulation.run import SECOND_US, Run
from support.lossy_vfs import registered

from gemot.server.model.kv import KvSet
from gemot.server.server import Server

SEED = 4
"""One whose servers snapshot and compact soon."""

WRITES = 300


@pytest.fixture
def run(tmp_path: Path) -> Iterator[Run]:
    """Three servers in calm weather that have written much, and write nothing more."""
    with registered("gemot-scrub") as vfs:
        run = Run(SEED, tmp_path, vfs)
        run.network.weather = CALM
        run.atlas.most = 1
        run.atlas.start()
        for node in run.nodes:
            node.start()
        _pass(run, 3)
        for number in range(WRITES):
            run.nodes[0].ask("write", lambda server, n=number: _write(server, n))  # type: ignore[misc]
            run.world.run(run.world.now_us + SECOND_US // 20)
        _pass(run, 3)
        yield run
        run.close()


def _write(server: Server, number: int) -> None:
    server.apply(KvSet(b"key%d" % (number % 5), b"%d" % number * 9), "", None, lambda _: None)


def _pass(run: Run, seconds: int) -> None:
    run.world.run(run.world.now_us + seconds * SECOND_US)


@pytest.mark.parametrize("fault", sorted(FAULTS))
def test_damage_at_rest_is_found_and_mended(run: Run, fault: str) -> None:
    FAULTS[fault](run)
    (name,) = run.atlas.cases
    (node,) = [node for node in run.nodes if node.name == name]
    assert run.atlas.rotten(run.nodes)
    _pass(run, 30)
    assert run.atlas.rotten(run.nodes) == []
    # One that was restarted takes part again.
    run.nodes[0].ask("write", lambda server: _write(server, WRITES))
    _pass(run, 5)
    assert run.atlas.cases == {}
    assert any("damaged" in told or "checksum" in told for told in [*node.notes, *node.deaths])


def test_damage_that_nobody_mends_is_told(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Server, "on_rot", lambda self, through: None)
    FAULTS["rot-snapshot"](run)
    _pass(run, 30)
    assert len(run.atlas.rotten(run.nodes)) == 1
