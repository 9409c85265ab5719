"""The tier and gossip together: either sign of life is enough, and without both a host fails."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from simulation.mixed import HOSTS, Mixed, run_seed
from simulation.network import CALM
from simulation.node import Node
from simulation.run import SECOND_US
from simulation.witness import Violation
from support.lossy_vfs import registered

SEED = 3
SEEDS = 12


class Scene:
    """Three servers and four hosts, all known to each other, in calm weather."""

    def __init__(self, run: Mixed) -> None:
        self.run = run
        run.network.weather = CALM
        run.begin_hosts()
        for node in run.nodes:
            node.start()
        self.pass_s(3)  # until all have begun
        self.within(45, lambda: not run.wrong())

    def pass_s(self, seconds: int) -> None:
        self.run.world.run(self.run.world.now_us + seconds * SECOND_US)

    def leader(self) -> Node:
        leader = self.run.leader()
        assert leader is not None
        return leader

    def within(self, seconds: int, claim: Callable[[], bool]) -> None:
        for _ in range(10 * seconds):
            if claim():
                return
            self.run.world.run(self.run.world.now_us + SECOND_US // 10)
        pytest.fail(f"it did not come to that in {seconds} s")

    def cut(self, name: str, *others: str) -> Callable[[], None]:
        return self.run.network.partition([[name], list(others)], one_way=False)


@pytest.fixture
def scene(tmp_path: Path) -> Iterator[Scene]:
    with registered("gemot-mixed") as vfs:
        run = Mixed(SEED, tmp_path, vfs)
        assert run.plan.servers == 3, "another seed is needed"
        yield Scene(run)
        run.close()


def test_a_leader_cut_off_in_gossip_alone_turns_nobody_critical(scene: Scene) -> None:
    leader = scene.leader()
    scene.run.silenced.add(leader.name)
    scene.pass_s(90)
    assert scene.run.failures == 0
    speaker = scene.run.hosts[0].speaker
    assert speaker is not None
    assert speaker.standing(leader.member.id) == "failed", "that is what gossip holds of it"
    scene.run.silenced.clear()
    scene.within(30, lambda: not scene.run.wrong())


def test_hosts_cut_off_from_all_servers_but_not_from_each_other_live_by_gossip(scene: Scene) -> None:
    """By way of the one that hears both sides: it has no connection that would speak for them."""
    web1, web4 = scene.run.hosts[0], scene.run.hosts[3]
    mend = scene.cut(web1.name, *(node.name for node in scene.run.nodes))
    scene.pass_s(60)
    assert web1.server is not None
    assert scene.run.failures == 0, f"{web4.name} tells of {web1.name}"
    mend()


def test_a_host_that_dies_is_critical_within_seconds_and_back_when_it_is(scene: Scene) -> None:
    host = scene.run.hosts[0]
    host.crash()
    scene.within(20, lambda: scene.run.critical[host.name])
    assert scene.run.failures == 1
    host.start()
    scene.within(20, lambda: not scene.run.wrong())


def test_a_host_without_its_network_is_critical_within_seconds(scene: Scene) -> None:
    host = scene.run.hosts[0]
    mend = scene.cut(host.name, *(each.name for each in scene.run.everyone() if each is not host))
    scene.within(20, lambda: scene.run.critical[host.name])
    mend()
    scene.within(30, lambda: not scene.run.wrong())


def test_all_without_power_at_once_come_back_by_themselves(scene: Scene) -> None:
    for node in scene.run.nodes:
        node.crash()
    for host in scene.run.hosts:
        host.crash()
    scene.pass_s(5)
    for each in scene.run.everyone():
        each.start()
    scene.within(60, lambda: not scene.run.wrong())


@pytest.mark.parametrize("seed", range(1, SEEDS + 1))
def test_whatever_happens_nobody_at_peace_fails_and_all_are_one_view_again(seed: int, tmp_path: Path) -> None:
    with registered("gemot-mixed") as vfs:
        run = run_seed(seed, tmp_path, vfs)
    assert run.laws.events > HOSTS


def test_a_leader_that_believes_gossip_alone_is_found(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gemot.server.members.CONTRADICTS_MS", 0)
    scene.run.silenced.add(scene.leader().name)
    with pytest.raises(Violation, match="lived undisturbed"):
        scene.pass_s(60)


def test_a_leader_that_never_hears_of_failures_is_found(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gemot.server.members.register_failed", lambda _known: None)
    scene.run.hosts[0].crash()
    with pytest.raises(Violation, match="passes still"):
        scene.pass_s(60)
