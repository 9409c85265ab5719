"""A server whose log was damaged: silent until the others have made it whole, then as good as before."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from simulation.network import CALM
from simulation.node import Node
from simulation.run import SECOND_US, Run
from support.lossy_vfs import LossyVfs, registered

from gemot.server.model.errors import NoLeader
from gemot.server.model.kv import KvGet, KvSet
from gemot.server.model.query import Answer, Options

STALE = Options(consistency="stale")


def _damage_first_record(node: Node) -> None:
    """Change one byte of an entry that was synced long ago."""
    folder = f"{node.directory}/log"
    path = f"{folder}/{next(name for name in node.lossy.listdir(folder) if name.endswith('.seg'))}"

    def flip(content: bytearray) -> None:
        at = content.index(b"first")
        content[at] ^= 0xFF

    node.lossy.damage(path, flip)


def _read(node: Node) -> list[Any]:
    told: list[Any] = []
    assert node.server is not None
    node.server.query(KvGet(b"key"), STALE, told.append)
    return told


@pytest.fixture
def vfs() -> Iterator[LossyVfs]:
    with registered("gemot-repair") as vfs:
        yield vfs


def test_a_damaged_server_serves_nothing_until_the_others_made_it_whole(
    tmp_path: Path, vfs: LossyVfs
) -> None:
    run = Run(1, tmp_path, vfs)
    run.network.weather = CALM
    world, nodes = run.world, run.nodes
    try:
        for node in nodes:
            node.start()
        world.run(3 * SECOND_US)
        done: list[Any] = []
        assert nodes[0].server is not None
        for value in (b"first", b"second"):
            nodes[0].server.apply(KvSet(b"key", value), "", None, done.append)
            world.run(world.now_us + SECOND_US)
        assert len(done) == 2
        hurt = nodes[-1]
        hurt.crash()
        _damage_first_record(hurt)
        run.network.partition([[hurt.name], [n.name for n in nodes if n is not hurt]], one_way=False)
        hurt.start()
        assert hurt.opened is not None
        assert hurt.opened.raft.repairing
        told = _read(hurt)
        world.run(world.now_us + 8 * SECOND_US)
        assert isinstance(told[0], NoLeader), "what is left may be old history"
        run.network.heal()
        world.run(world.now_us + 5 * SECOND_US)
        assert not hurt.opened.raft.repairing
        answer = _read(hurt)[0]
        assert isinstance(answer, Answer)
        assert answer.value.value == b"second"
    finally:
        run.close()
