"""A voter that is needed is not removed by a leader that has not heard yet who is dead.

Found by the chaos run: two of five had lost their disks, a new leader was told to remove a third, thought
that all were alive, and no quorum was left for good.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from simulation.network import CALM
from simulation.run import SECOND_US, Run
from support.lossy_vfs import registered

from gemot.server.model.errors import RuleFailed
from gemot.server.rpc.message import Operate

STEP_US = 1_000


def test_a_new_leader_removes_nobody_whom_it_needs(tmp_path: Path) -> None:
    with registered("gemot-early") as vfs:
        run = Run(2, tmp_path, vfs)
        run.network.weather = CALM
        for node in run.nodes:
            node.start()
        run.world.run(4 * SECOND_US)
        leader = next(node for node in run.nodes if node.server is not None and node.server.leads)
        heir, dead = (node for node in run.nodes if node is not leader)
        assert leader.server is not None
        assert heir.server is not None
        dead.crash()
        leader.server.endpoint.handle(heir.member, Operate("transfer", id=heir.member.id), lambda _: None)
        while not heir.server.leads:
            run.world.run(run.world.now_us + STEP_US)
        told: list[Any] = []
        heir.server.endpoint.handle(leader.member, Operate("remove-peer", id=leader.member.id), told.append)
        run.world.run(run.world.now_us + 10 * SECOND_US)
        assert isinstance(told[0], RuleFailed), told
        assert leader.member.id in heir.server.replica.raft.voters
        assert heir.server.leads, "and the two go on"
        run.close()
