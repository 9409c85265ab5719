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
from gemot.server.model.health import Check
from gemot.server.rpc.message import Leave, Member
from gemot.server.server import Server

SEED = 2
WEB = client(1)


class Scene(CalmTier):
    def connect(self, node: Node, member: Member = WEB) -> None:
        _server(node).endpoint.on_connected(member)
        self.pass_s(0.2)

    def leave(self, node: Node, member: Member = WEB) -> None:
        told: list[object] = []
        _server(node).endpoint.handle(member, Leave(member.name), told.append)
        self.pass_s(0.2)
        assert told == [True]

    @property
    def is_alive(self) -> bool:
        known = Hosts(_server(self.leads).state).node(WEB.name)
        return known is not None and _is_healthy(known.checks)


def _is_healthy(checks: tuple[Check, ...]) -> bool:
    return any(check.check_id == SERF_HEALTH and check.status == "passing" for check in checks)


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


@pytest.mark.parametrize("connected_to", ["the leader", "the same follower", "two followers"])
def test_who_leaves_and_never_had_its_name_takes_nobody_with_it(scene: Scene, connected_to: str) -> None:
    """A client agent leaves when it is stopped. One that was configured with the name of another host took
    the node of that one out of the catalog, with its services and sessions."""
    first, second = scene.others
    there, where = {
        "the leader": (scene.leads, scene.leads),
        "the same follower": (first, first),
        "two followers": (first, second),
    }[connected_to]
    namesake = client(2, name=WEB.name.upper())
    scene.connect(there)
    scene.connect(where, namesake)
    scene.leave(where, namesake)
    for _ in range(20):
        scene.pass_s(0.5)
        assert scene.is_alive
    scene.leave(there)
    assert not scene.is_alive
