"""Servers that will not come back go out of the catalog, and no others."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from simulation.node import Node
from simulation.run import Run
from support.calm_tier import CalmTier
from support.lossy_vfs import registered

from gemot.server.hosts import Hosts
from gemot.server.model.autopilot import AutopilotConfig, SetAutopilot
from gemot.server.model.catalog import SERF_HEALTH
from gemot.server.model.errors import GemotError
from gemot.server.rpc.message import Operate
from gemot.server.server import Server

SEED = 2


class Scene(CalmTier):
    """`gone` does not lead."""

    def __init__(self, run: Run) -> None:
        super().__init__(run)
        assert self.leads.server is not None
        self.leader: Server = self.leads.server
        self.gone: Node = self.others[0]

    def remove(self) -> Any:
        told: list[Any] = []
        self.leader.endpoint.handle(
            self.gone.member, Operate("remove-peer", id=self.gone.member.id), told.append
        )
        self.pass_s(3)
        return told[0]

    def health(self) -> str:
        """What the catalog says of `gone`; "" if it does not know it."""
        found = Hosts(self.leader.state).node(self.gone.member.name)
        return next(check.status for check in found.checks if check.check_id == SERF_HEALTH) if found else ""


@pytest.fixture
def scene(tmp_path: Path) -> Iterator[Scene]:
    with registered("gemot-departed") as vfs:
        run = Run(SEED, tmp_path, vfs)
        yield Scene(run)
        run.close()


def test_a_dead_server_whose_vote_was_taken_goes_out_of_the_catalog(scene: Scene) -> None:
    scene.gone.crash()
    scene.pass_s(12)
    assert scene.health() == "critical", "it may be started again"
    assert scene.remove() is True
    scene.pass_s(2)
    assert scene.health() == "critical", "not before it was gone for as long as a dead voter is"
    scene.pass_s(20)
    assert scene.health() == ""


def test_a_server_that_lives_without_a_vote_stays_in_the_catalog(scene: Scene) -> None:
    assert scene.remove() is True
    for _ in range(30):
        scene.pass_s(1)
        assert scene.health() == "passing"


def test_a_dead_voter_stays_in_the_catalog_where_nobody_may_take_its_vote(scene: Scene) -> None:
    told: list[Any] = []
    scene.leader.apply(SetAutopilot(AutopilotConfig(cleanup_dead_servers=False)), "", None, told.append)
    scene.pass_s(1)
    assert not isinstance(told[0], GemotError)
    scene.gone.crash()
    scene.pass_s(40)
    assert scene.gone.member.id in scene.leader.replica.raft.voters
    assert scene.health() == "critical"
