"""A server whose log was damaged: silent until the others have made it whole, then as good as before."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from simulation.network import CALM
from simulation.node import Node
from simulation.run import SECOND_US, Run
from support.calm_tier import flip_in_log
from support.lossy_vfs import LossyVfs, registered

from gemot.server.model.errors import NoLeader
from gemot.server.model.kv import KvGet, KvSet
from gemot.server.model.query import Answer, Options
from gemot.server.rpc.message import Operate

STALE = Options(consistency="stale")


def _read(node: Node) -> list[Any]:
    told: list[Any] = []
    assert node.server is not None
    node.server.query(KvGet(b"key"), STALE, told.append)
    return told


@pytest.fixture
def vfs() -> Iterator[LossyVfs]:
    with registered("gemot-repair") as vfs:
        yield vfs


@pytest.fixture
def run(tmp_path: Path, vfs: LossyVfs) -> Iterator[Run]:
    """Servers in calm weather that have written twice to one key."""
    run = Run(1, tmp_path, vfs)
    run.network.weather = CALM
    for node in run.nodes:
        node.start()
    _pass_s(run, 3)
    done: list[Any] = []
    for value in (b"first", b"second"):
        assert run.nodes[0].server is not None
        run.nodes[0].server.apply(KvSet(b"key", value), "", None, done.append)
        _pass_s(run, 1)
    assert len(done) == 2
    yield run
    run.close()


def _pass_s(run: Run, seconds: int) -> None:
    run.world.run(run.world.now_us + seconds * SECOND_US)


def test_a_damaged_server_serves_nothing_until_the_others_made_it_whole(run: Run) -> None:
    hurt = run.nodes[-1]
    hurt.crash()
    flip_in_log(hurt, b"first")
    run.network.partition([[hurt.name], [n.name for n in run.nodes if n is not hurt]], one_way=False)
    hurt.start()
    assert hurt.opened is not None
    assert hurt.opened.raft.repairing
    told = _read(hurt)
    _pass_s(run, 8)
    assert isinstance(told[0], NoLeader), "what is left may be old history"
    run.network.heal()
    _pass_s(run, 5)
    assert not hurt.opened.raft.repairing
    answer = _read(hurt)[0]
    assert isinstance(answer, Answer)
    assert answer.value.value == b"second"


def test_a_damaged_server_that_was_removed_while_it_was_away_comes_to_vote_again(run: Run) -> None:
    """It may not campaign, and nobody sends to it any more: it has to say that it is here."""
    _proposer, *others = run.nodes  # which tells the others of their cluster as long as it hears no leader
    hurt = next(node for node in others if node.server is not None and not node.server.leads)
    hurt.crash()
    flip_in_log(hurt, b"first")
    leader = next(node.server for node in run.nodes if node.server is not None and node.server.leads)
    leader.endpoint.handle(leader.me, Operate("remove-peer", hurt.member.id), lambda _: None)
    _pass_s(run, 10)
    assert hurt.member.id not in run.invariants.voters
    leader.endpoint.handle(leader.me, Operate("transfer"), lambda _: None)
    _pass_s(run, 5)
    assert not leader.leads, "the one that knew the removed server"
    hurt.start()
    _pass_s(run, 30)
    assert hurt.opened is not None
    assert not hurt.opened.raft.repairing
    assert hurt.member.id in run.invariants.voters
