"""What operators and joining servers ask: answered by the leader, sent on once by the others."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from simulation.node import Node
from simulation.run import SECOND_US, Run
from support.calm_tier import CalmTier, flip_in_log
from support.lossy_vfs import registered
from support.members import client

from gemot.server.model.autopilot import AutopilotConfig, SetAutopilot
from gemot.server.model.errors import (
    Conflict,
    Forbidden,
    GemotError,
    NotLeader,
    OutcomeUnknown,
    RuleFailed,
    Unavailable,
)
from gemot.server.model.kv import KvSet
from gemot.server.model.query import Applied
from gemot.server.rpc.message import (
    UNKNOWN_MS,
    Call,
    Enlist,
    Enlisted,
    Leave,
    Member,
    Operate,
    Survey,
    Surveyed,
)
from gemot.server.server import Server

SEED = 2


class Scene(CalmTier):
    @property
    def leader(self) -> Node:
        return self.leads

    def pass_us(self, us: int) -> None:
        self.pass_s(us / SECOND_US)

    def ask(self, node: Node, call: Call, *, by: Member | None = None, us: int = 3 * SECOND_US) -> Any:
        told: list[Any] = []
        reply: Callable[[Any], None] = told.append
        _server(node).endpoint.handle(by or self.others[-1].member, call, reply)
        self.pass_us(us)
        (answer,) = told
        return answer

    def voters(self) -> tuple[str, ...]:
        return _server(self.leader).replica.raft.voters


def _server(node: Node) -> Server:
    assert node.server is not None
    return node.server


@pytest.fixture
def scene(tmp_path: Path) -> Iterator[Scene]:
    with registered("gemot-operator") as vfs:
        run = Run(SEED, tmp_path, vfs)
        yield Scene(run)
        run.close()


def test_the_leader_alone_lets_a_server_in_and_no_voter_under_its_old_id(scene: Scene) -> None:
    new = Member("9" * 36, "new", "10.0.0.99", "server", "dc1", "", "10.0.0.99:8300")
    cluster = _server(scene.leader).endpoint.hello().cluster
    assert scene.ask(scene.leader, Enlist(), by=new) == Enlisted(cluster)
    assert isinstance(scene.ask(scene.others[0], Enlist(), by=new), NotLeader)
    refused = scene.ask(scene.leader, Enlist(), by=scene.others[0].member)
    assert isinstance(refused, Conflict)
    assert "must not vote again under its old id" in refused.message


def test_a_new_server_under_a_name_that_lives_is_refused_and_told_whose_it_is(scene: Scene) -> None:
    taken = scene.others[0].member
    new = Member("9" * 36, taken.name, "10.0.0.99", "server", "dc1", "", "10.0.0.99:8300")
    refused = scene.ask(scene.leader, Enlist(), by=new)
    assert isinstance(refused, Conflict)
    assert f"the name {taken.name} is taken by {taken.address} (id {taken.id})" in refused.message
    assert "another node_name" in refused.message
    scene.others[0].crash()
    scene.pass_us(12 * SECOND_US)
    assert isinstance(scene.ask(scene.leader, Enlist(), by=new), Enlisted), "the one before has failed"


def test_any_server_tells_what_the_leader_sees(scene: Scene) -> None:
    answers = [scene.ask(node, Survey()) for node in scene.run.nodes]
    for answer in answers:
        assert isinstance(answer, Surveyed)
        assert answer.by == scene.leader.name
        assert [server.leader for server in answer.servers].count(True) == 1
        assert all(server.healthy for server in answer.servers)
    assert isinstance(scene.ask(scene.others[0], Survey(forwarded=True)), NotLeader), "sent on once"


def test_a_server_cut_off_from_all_tells_what_it_sees_itself(scene: Scene) -> None:
    for node in (scene.leader, *scene.others[1:]):
        node.crash()
    scene.pass_us(5 * SECOND_US)
    answer = scene.ask(scene.others[0], Survey(here=True))
    assert isinstance(answer, Surveyed)
    assert not answer.healthy
    of_others = {s.last_contact_ms for s in answer.servers if s.id != scene.others[0].member.id}
    assert of_others == {UNKNOWN_MS}, "it does not watch them"
    assert [server.leader for server in answer.servers].count(True) == 0
    assert isinstance(scene.ask(scene.others[0], Survey(), us=20 * SECOND_US), GemotError)


def test_a_server_that_does_not_lead_tells_of_those_without_a_vote_too(scene: Scene) -> None:
    """Nobody but the leader sends to them; the leader's word on them is in the catalog of all."""
    unpromoted = AutopilotConfig(server_stabilization_time_ms=600_000)
    _server(scene.leader).apply(SetAutopilot(unpromoted), "", None, lambda _: None)
    scene.pass_us(SECOND_US)
    one, other = scene.others
    for gone in scene.others:
        assert scene.ask(scene.leader, Operate("remove-peer", gone.member.id)) is True
    scene.pass_us(2 * SECOND_US)
    assert scene.voters() == (scene.leader.member.id,)
    assert _seen(scene, one) == _seen(scene, scene.leader)
    assert _seen(scene, one)[other.member.name] == ("alive", False, True)

    scene.leader.crash()
    scene.pass_us(5 * SECOND_US)
    assert _seen(scene, one)[other.member.name] == ("alive", False, True), "they look for each other"
    other.crash()
    scene.pass_us(30 * SECOND_US)
    assert _seen(scene, one)[other.member.name] == ("failed", False, False)


def _seen(scene: Scene, node: Node) -> dict[str, tuple[str, bool, bool]]:
    answer = scene.ask(node, Survey(here=True), us=SECOND_US // 10)
    assert isinstance(answer, Surveyed)
    return {server.name: (server.status, server.voter, server.healthy) for server in answer.servers}


def test_a_peer_that_is_none_is_told_in_consuls_words(scene: Scene) -> None:
    for call, text in (
        (Operate("remove-peer", id="x"), 'id "x" was not found in the Raft configuration'),
        (
            Operate("remove-peer", address="10.9.9.9:1"),
            'address "10.9.9.9:1" was not found in the Raft configuration',
        ),
    ):
        answer = scene.ask(scene.others[0], call)
        assert isinstance(answer, RuleFailed)
        assert answer.message == text


def test_a_voter_is_removed_by_its_address(scene: Scene) -> None:
    gone = scene.others[0]
    gone.crash()
    before = scene.voters()
    assert scene.ask(scene.others[-1], Operate("remove-peer", address=gone.member.rpc)) is True
    assert scene.voters() == tuple(id for id in before if id != gone.member.id)


def test_no_vote_is_taken_while_one_that_is_needed_then_is_filled_up(scene: Scene) -> None:
    """It answers, but counts for no quorum: the leader lost its office, and nobody could be elected again."""
    hurt, removed = scene.others
    _write(scene, b"first")
    hurt.crash()
    flip_in_log(hurt, b"first")
    _write(scene, b"second")
    hurt.start()
    hurt.disk.stalled_until_us = scene.run.world.now_us + 3 * SECOND_US
    scene.pass_us(SECOND_US // 2)
    (peer,) = (p for p in _server(scene.leader).replica.raft.status().peers if p.id == hurt.member.id)
    assert peer.repairing
    assert peer.match, "what is left of its log is the leader's"
    before, told = scene.voters(), list[Any]()
    _server(scene.leader).endpoint.handle(
        removed.member, Operate("remove-peer", removed.member.id), told.append
    )
    scene.pass_us(SECOND_US)
    assert scene.voters() == before
    scene.pass_us(4 * SECOND_US)
    assert told == [True]
    assert removed.member.id not in scene.voters()


def _write(scene: Scene, value: bytes) -> None:
    told: list[Any] = []
    _server(scene.leader).apply(KvSet(b"key", value), "", None, told.append)
    scene.pass_us(SECOND_US)
    assert isinstance(told[0], Applied)


def test_the_leadership_goes_to_whom_it_is_meant_for(scene: Scene) -> None:
    to = scene.others[0]
    assert scene.ask(scene.others[-1], Operate("transfer", id=to.member.id)) is True
    assert _server(to).leads


def test_a_transfer_that_has_begun_is_never_told_as_not_done(scene: Scene) -> None:
    former, (to, *_) = scene.leader, scene.others
    told: list[Any] = []
    _server(former).endpoint.handle(to.member, Operate("transfer", id=to.member.id), told.append)
    while _server(former).leads:
        scene.pass_us(SECOND_US // 1000)
    for node in scene.others:
        node.crash()
    assert not _server(former).replica.raft.leader
    scene.pass_us(20 * SECOND_US)
    assert [type(answer) for answer in told] == [OutcomeUnknown]


def test_no_client_agent_has_a_server_leave(scene: Scene) -> None:
    before = scene.voters()
    name = scene.others[0].name
    for named in (client(1), client(1, name=name)):
        for asked in (name, name.upper()):
            assert isinstance(scene.ask(scene.leader, Leave(asked), by=named), Forbidden)
    assert scene.voters() == before


def test_nobody_joins_while_a_change_of_the_voters_may_be_undone(scene: Scene) -> None:
    """A wiped voter whose removal is logged and not committed would vote again if another leader undid it."""
    slow, wiped = scene.others
    slow.disk.stalled_until_us = scene.run.world.now_us + SECOND_US
    removed: list[Any] = []
    _server(scene.leader).endpoint.handle(
        slow.member, Operate("remove-peer", wiped.member.id), removed.append
    )
    answer = scene.ask(scene.leader, Enlist(), by=wiped.member, us=SECOND_US // 4)
    assert wiped.member.id not in scene.voters(), "the removal is logged"
    assert removed == [], "and not committed"
    assert isinstance(answer, Unavailable)
    scene.pass_us(2 * SECOND_US)
    assert removed == [True]
    assert isinstance(scene.ask(scene.leader, Enlist(), by=wiped.member), Enlisted)
