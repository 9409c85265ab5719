"""What the leader takes away of a member that will not come back, and what it does not."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from simulation.node import Node
from simulation.run import Run
from support.calm_tier import CalmTier
from support.lossy_vfs import registered
from support.members import client

from gemot.server.hosts import Hosts
from gemot.server.model.catalog import SERF_HEALTH, Register, Service
from gemot.server.model.catalog import Node as Host
from gemot.server.model.errors import GemotError, RuleFailed
from gemot.server.model.health import Check
from gemot.server.rpc.message import Operate
from gemot.server.server import Server

SEED = 2
WEB = client(7)


class Scene(CalmTier):
    """And a host of which only the catalog knows."""

    def __init__(self, run: Run) -> None:
        super().__init__(run)
        self.told: list[str] = []
        self.leader.membership.gossip.expect_no_more = self.told.append  # type: ignore[method-assign]

    @property
    def leader(self) -> Server:
        assert self.leads.server is not None
        return self.leads.server

    @property
    def voters(self) -> tuple[str, ...]:
        return self.leader.replica.raft.voters

    def force_leave(self, name: str, id: str = "", *, asked: Server | None = None) -> Any:
        told: list[Any] = []
        call = Operate("force-leave", id, node=name)
        (asked or self.leader).endpoint.handle(client(9), call, told.append)
        self.pass_s(10)
        (answer,) = told
        return answer

    def refused(self, name: str, id: str = "") -> str:
        answer = self.force_leave(name, id)
        assert isinstance(answer, RuleFailed), answer
        return answer.message

    def register(self, *, id: str = WEB.id, status: str = "critical", member: bool = True) -> None:
        health = Check(WEB.name, SERF_HEALTH if member else "own", "Health", status=status)  # type: ignore[arg-type]
        row = Register(
            node=Host(WEB.name, "10.0.0.7", id),
            services=(Service("web", "web"),),
            checks=(health,),
        )
        self.leader.apply(row, "", None, lambda _: None)
        self.pass_s(1)

    def known(self, name: str) -> bool:
        return Hosts(self.leader.state).node(name) is not None


@pytest.fixture
def scene(tmp_path: Path) -> Iterator[Scene]:
    with registered("gemot-force-leave") as vfs:
        run = Run(SEED, tmp_path, vfs)
        yield Scene(run)
        run.close()


def crashed(scene: Scene, node: Node) -> tuple[str, str]:
    node.crash()
    scene.pass_s(12)
    return node.member.name, node.member.id


def test_a_dead_server_loses_its_vote_and_its_node(scene: Scene) -> None:
    name, id = crashed(scene, scene.others[0])
    assert scene.force_leave(name, id) == (
        "its vote is taken; its node is out of the catalog, with 1 service and 1 check"
    )
    assert id not in scene.voters
    assert not scene.known(name)
    assert scene.told == [id]


def test_any_server_may_be_asked_and_the_leader_does_it(scene: Scene) -> None:
    name, id = crashed(scene, scene.others[0])
    assert "its vote is taken" in scene.force_leave(name, id, asked=scene.others[1].server)


def test_where_the_vote_cannot_be_taken_the_rest_stays_as_it_was(scene: Scene) -> None:
    """Of the two that would be left one is away, too; the leader has not noticed yet."""
    name, id = crashed(scene, scene.others[0])
    scene.others[1].crash()
    scene.pass_s(0.5)
    assert scene.leader.leads
    answer = scene.force_leave(name, id)
    assert isinstance(answer, GemotError)
    assert scene.told == []
    assert scene.known(name)


@pytest.mark.parametrize("by_id", [True, False])
def test_a_server_that_is_alive_is_refused(scene: Scene, by_id: bool) -> None:
    member = scene.others[0].member
    message = scene.refused(member.name, member.id if by_id else "")
    assert f"{member.name} is alive (a server has a connection to it)" in message
    assert "gemot leave" in message
    assert member.id in scene.voters


def test_a_former_self_is_taken_out_and_who_has_its_name_by_now_stays_heard(scene: Scene) -> None:
    """It was held for one that had left, and for no server, until a quarter of a minute later."""
    member, former = scene.others[0].member, "99999999-0000-4000-8000-000000000000"
    assert scene.force_leave(member.name, former) == "the catalog does not have it"
    assert scene.told == [former]
    assert member.id in scene.leader.membership.servers()
    assert scene.known(member.name)


def test_the_leader_does_not_throw_itself_out(scene: Scene) -> None:
    assert "is alive" in scene.refused(scene.leads.member.name, scene.leads.member.id)


def test_a_host_that_failed_goes_with_its_services_and_checks(scene: Scene) -> None:
    scene.register()
    done = scene.force_leave(WEB.name, WEB.id)
    assert done == "its node is out of the catalog, with 1 service and 1 check"
    assert not scene.known(WEB.name)
    assert scene.force_leave(WEB.name, WEB.id) == "the catalog does not have it", "twice is once"


def test_of_whom_gossip_knows_nothing_the_catalog_tells(scene: Scene) -> None:
    scene.register()
    assert "out of the catalog" in scene.force_leave(WEB.name)


def test_another_host_under_its_name_keeps_its_node(scene: Scene) -> None:
    scene.register(id="f" * 36)
    assert scene.force_leave(WEB.name, WEB.id) == "the catalog does not have it"
    assert scene.known(WEB.name)


@pytest.mark.parametrize("registered_by_hand", [True, False])
def test_who_is_no_member_is_nobody(scene: Scene, registered_by_hand: bool) -> None:
    """A node that was registered over the API has no `serfHealth`: the API takes it out."""
    if registered_by_hand:
        scene.register(member=False)
    assert scene.refused(WEB.name) == f"agent: No node found with name '{WEB.name}'"
    assert scene.known(WEB.name) == registered_by_hand


def test_one_that_comes_back_while_its_vote_is_taken_keeps_its_node(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    name, id = crashed(scene, scene.others[0])
    signs = iter(["", "a server has a connection to it"])
    monkeypatch.setattr(scene.leader.membership, "sign_of_life", lambda _name, _id: next(signs))
    answers: list[Any] = []
    scene.leader.endpoint.handle(client(9), Operate("force-leave", id, node=name), answers.append)
    for _ in range(100):
        scene.pass_s(0.1)
        if answers:
            break
    assert f"{name} came back while its vote was taken" in answers[0].message
    assert scene.known(name), "its node stays"
    assert scene.told == []
