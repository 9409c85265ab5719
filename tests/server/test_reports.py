"""What servers tell the leader of the agents connected to them, and what it makes of that."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from simulation.node import Node
from simulation.run import Run
from support.calm_tier import CalmTier
from support.lossy_vfs import registered
from support.members import client

from gemot.server.hosts import Hosts
from gemot.server.model.catalog import SERF_HEALTH
from gemot.server.rpc.message import Leave
from gemot.server.server import Server

SEED = 2
WEB = client(1)


class Scene(CalmTier):
    def connect(self, node: Node) -> None:
        _server(node).endpoint.on_connected(WEB)
        self.pass_s(0.2)

    def leave(self, node: Node) -> None:
        told: list[object] = []
        _server(node).endpoint.handle(WEB, Leave(WEB.name), told.append)
        self.pass_s(0.2)
        assert told == [True]

    @property
    def is_alive(self) -> bool:
        known = Hosts(_server(self.leads).state).node(WEB.name)
        return known is not None and any(check.check_id == SERF_HEALTH for check in known.checks)


def _server(node: Node) -> Server:
    assert node.server is not None
    return node.server


@pytest.fixture
def scene(tmp_path: Path) -> Iterator[Scene]:
    with registered("gemot-reports") as vfs:
        run = Run(SEED, tmp_path, vfs)
        yield Scene(run)
        run.close()


@pytest.mark.parametrize("returns_to", ["the same server", "another", "the leader"])
def test_who_left_and_connects_to_a_server_again_is_back_at_once(scene: Scene, returns_to: str) -> None:
    """By way of a follower it took 15 s, in which its node had no `serfHealth`, and sessions were refused."""
    there, other = scene.others
    back = {"the same server": there, "another": other, "the leader": scene.leads}[returns_to]
    for _ in range(5):  # wherever in the second between two reports
        scene.connect(there)
        scene.pass_s(0.5)
        scene.leave(there)
        assert not scene.is_alive
        _server(there).endpoint.on_disconnected(WEB)
        scene.connect(back)
        assert scene.is_alive
        _server(back).endpoint.on_disconnected(WEB)
        scene.pass_s(1.2)


def test_who_left_is_not_back_by_a_connection_that_is_still_open(scene: Scene) -> None:
    there, other = scene.others
    scene.connect(other)
    scene.connect(there)
    scene.pass_s(2)
    scene.leave(there)
    scene.pass_s(5)
    assert not scene.is_alive
