"""A server that takes in a snapshot: what is asked of it meanwhile waits, and a crash does no harm."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from simulation.families.kv import ALL
from simulation.network import CALM
from simulation.node import Node
from simulation.run import SECOND_US, Run
from support.lossy_vfs import LossyVfs, registered

from gemot.server.model.kv import KvGet, KvSet
from gemot.server.model.query import Answer, Options

SEED = 4
"""One whose servers snapshot and compact soon."""

STALE = Options(consistency="stale")


class Scene:
    """Three servers, the last of which missed so much that it needs a snapshot; it is on its way."""

    def __init__(self, folder: Path, vfs: LossyVfs) -> None:
        self.run = Run(SEED, folder, vfs)
        self.run.network.weather = CALM
        self.nodes = self.run.nodes
        self.behind = self.nodes[-1]
        for node in self.nodes:
            node.start()
        self.pass_us(3 * SECOND_US)
        self.behind.crash()
        for number in range(60):
            self.write(self.nodes[0], b"%d" % number)
            self.pass_us(100_000)
        self.pass_us(2 * SECOND_US)
        self.behind.start()

    def pass_us(self, us: int) -> None:
        self.run.world.run(self.run.world.now_us + us)

    def write(self, node: Node, value: bytes) -> None:
        assert node.server is not None
        node.server.apply(KvSet(b"key0", value), "", None, lambda _: None)

    def until_replacing(self) -> None:
        for _ in range(200_000):
            if self.behind.replacing:
                return
            self.pass_us(500)
        raise AssertionError("it needs no snapshot")

    def value(self) -> bytes | None:
        assert self.behind.opened is not None
        entry = self.behind.opened.state.read(KvGet(b"key0"), "")[0]
        return entry.value if entry is not None else None


@pytest.fixture
def scene(tmp_path: Path) -> Iterator[Scene]:
    with registered("gemot-install") as vfs:
        scene = Scene(tmp_path, vfs)
        yield scene
        scene.run.close()


def test_what_is_asked_while_the_state_is_replaced_is_answered_from_the_new_one(scene: Scene) -> None:
    scene.until_replacing()
    server = scene.behind.server
    assert server is not None
    plain: list[Any] = []
    lists: list[Any] = []
    blocking: list[Any] = []
    subscribed: list[Any] = []
    server.query(KvGet(b"key0"), STALE, plain.append)
    server.query(ALL, Options(), lists.append)
    server.query(KvGet(b"key0"), Options(index=1, consistency="stale"), blocking.append)
    server.subscribe(ALL, "", 0, subscribed.append)
    assert scene.behind.replacing
    assert plain == lists == blocking == subscribed == []
    scene.pass_us(3 * SECOND_US)
    assert not scene.behind.replacing
    assert scene.behind.installs == 1
    assert [entry.value for entry in lists[0].value] == [b"59"], "a linearizable read has them all"
    assert plain[0].value is not None, "before the snapshot there was nothing"
    assert plain[0].value == blocking[0].value
    answers = [event for event in subscribed if isinstance(event, Answer)]
    assert answers[0].value != []
    assert answers[-1].value == lists[0].value


def test_the_server_hears_its_leader_while_the_state_is_replaced(scene: Scene) -> None:
    scene.until_replacing()
    server = scene.behind.server
    assert server is not None
    scene.write(scene.nodes[0], b"meanwhile")
    assert scene.behind.replacing
    scene.pass_us(3 * SECOND_US)
    assert scene.value() == b"meanwhile"


@pytest.mark.parametrize("later_us", [0, 50_000, 150_000, 300_000])
def test_a_crash_while_the_state_is_replaced_does_no_harm(scene: Scene, later_us: int) -> None:
    scene.until_replacing()
    scene.pass_us(later_us)
    scene.behind.crash()
    scene.behind.start()
    scene.pass_us(5 * SECOND_US)
    assert scene.value() == b"59"
    states = {n.opened.state.state_hash for n in scene.nodes if n.opened is not None}
    assert len(states) == 1
