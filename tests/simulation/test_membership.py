"""Servers that come and go in the simulated world: what is wiped stays silent, what joins comes to vote."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from mutants.bugs.every import BUGS
from simulation.network import CALM
from simulation.node import Node
from simulation.run import SECOND_US, Run
from simulation.witness import Violation
from support.lossy_vfs import registered

from gemot.server.rpc.message import Leave, Operate

SEED = 3
"""Three servers and one that may join."""


class Scene:
    """They have founded their cluster, in calm weather."""

    def __init__(self, run: Run) -> None:
        self.run = run
        run.network.weather = CALM
        for node in run.nodes:
            node.start()
        self.pass_s(4)

    def pass_s(self, seconds: int) -> None:
        self.run.world.run(self.run.world.now_us + seconds * SECOND_US)

    def leader(self) -> Node:
        return next(node for node in self.run.nodes if node.server is not None and node.server.leads)

    def follower(self) -> Node:
        return next(node for node in self.run.nodes if node is not self.leader())

    def wipe(self, node: Node, id: str) -> None:
        node.crash()
        self.run.wipe(node, id, "wiped")
        node.start()

    def votes(self, id: str) -> bool:
        return id in self.run.invariants.voters

    def await_that(self, claim: Callable[[], bool]) -> None:
        for _ in range(60):
            if claim():
                return
            self.pass_s(1)
        pytest.fail("it did not come to that in a minute")


@pytest.fixture
def scene(tmp_path: Path) -> Iterator[Scene]:
    with registered("gemot-membership") as vfs:
        run = Run(SEED, tmp_path, vfs)
        assert run.spares, "another seed is needed"
        yield Scene(run)
        run.close()


def test_a_server_that_joins_comes_to_vote(scene: Scene) -> None:
    node = scene.run.spares.pop()
    node.nodes[node.member.id] = node
    scene.run.nodes.append(node)
    node.start()
    scene.await_that(lambda: scene.votes(node.member.id))


def test_a_wiped_voter_is_silent_under_its_old_id_until_its_vote_is_taken(scene: Scene) -> None:
    node = scene.follower()
    id = node.member.id
    scene.wipe(node, id)
    assert scene.run.invariants.void.keys() == {id}
    scene.pass_s(3)
    assert not node.belongs
    assert node.server is not None
    assert "among the voters" in node.server.status.waiting_for()
    leader = scene.leader().server
    assert leader is not None
    leader.endpoint.handle(node.member, Operate("remove-peer", id), lambda _: None)
    scene.await_that(lambda: node.belongs)
    assert not scene.votes(id), "it begins anew, as a learner"
    assert scene.run.invariants.void == {}
    scene.await_that(lambda: scene.votes(id))


def test_a_server_that_never_heard_that_it_has_left_is_soon_back(scene: Scene) -> None:
    """Its answer was lost, and it goes on: for as long as hearsay of it counted for nothing, whoever asked it
    waited in vain (campaign, seeds 41487, 41771, 41876)."""
    node = scene.follower()
    leader = scene.leader().server
    assert leader is not None
    leader.endpoint.handle(node.member, Leave(node.name), lambda _: None)
    scene.pass_s(2)
    assert not scene.votes(node.member.id)
    scene.pass_s(5)
    assert node.server is not None
    assert node.server.leader_id() == leader.me.id
    scene.await_that(lambda: scene.votes(node.member.id))


def test_a_wiped_voter_under_a_new_id_comes_to_vote(scene: Scene) -> None:
    node = scene.follower()
    old, new = node.member.id, node.member.id.replace("0", "9", 1)
    scene.wipe(node, new)
    scene.await_that(lambda: scene.votes(new))
    scene.await_that(lambda: not scene.votes(old))


def test_a_wiped_voter_that_speaks_as_one_is_found(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    BUGS["amnesia"].plant(monkeypatch)
    node = scene.follower()
    scene.wipe(node, node.member.id)
    scene.await_that(lambda: node.belongs)
    leader = scene.leader().server
    assert leader is not None
    leader.endpoint.handle(node.member, Operate("transfer"), lambda _: None)
    with pytest.raises(Violation, match="was wiped, is still a voter"):
        scene.pass_s(10)
