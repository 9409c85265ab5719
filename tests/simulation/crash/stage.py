"""A small cluster for one scripted scenario, and what must be true of it in the end, whatever fell.

The script drives it in steps: each begins something and waits, in virtual time, until it has come about.
Without a trap a step that does not is a mistake of the script. With one it goes on, since the server that it
needed may have fallen; that all comes right in the end is asked after the last step.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from simulation.crash.client import Client
from simulation.crash.server import TrapNetwork, TrapNode
from simulation.crash.trap import Trap
from simulation.disk import PowerLost
from simulation.invariants import Invariants, digest_of
from simulation.network import CALM
from simulation.node import Node
from simulation.witness import Violation
from simulation.world import World
from support.lossy_vfs import LossyVfs

from gemot.server.config import ServerConfig
from gemot.server.model.kv import KvList
from gemot.server.raft.types import RaftConfig
from gemot.server.rpc.message import Call
from gemot.server.server import Server
from gemot.server.state.meta import RestoreMark

SECOND_US = 1_000_000
STEP_US = 20_000
ALL = KvList(b"key")
RAFT = RaftConfig(heartbeat_ticks=5, election_ticks=12)
"""Slow heartbeats: each is a point, and they are all alike."""


class Stage:
    """`founders` of the `servers` begin the cluster; the script starts the others."""

    def __init__(
        self,
        *,
        seed: int,
        folder: Path,
        vfs: LossyVfs,
        trap: Trap,
        servers: int,
        founders: int,
        config: ServerConfig,
        segment_bytes: int,
    ) -> None:
        self.trap = trap
        self.world = World(seed)
        self.network = TrapNetwork(self.world, CALM)
        self.nodes: list[TrapNode] = []
        self.invariants = Invariants(self.nodes)  # type: ignore[arg-type]
        self.founders = founders
        for number in range(1, servers + 1):
            node = TrapNode(
                world=self.world,
                network=self.network,
                number=number,
                count=founders,
                directory=folder / f"srv{number}",
                vfs=vfs,
                observe=self.invariants.observe,
                said=self.invariants.said,
                config=config,
                raft=RAFT,
                segment_bytes=segment_bytes,
                founds=number <= founders,
            )
            node.told_restore = self.invariants.restored
            node.trap = trap
            self.nodes.append(node)
        self.network.nodes = {node.name: node for node in self.nodes}
        by_id: dict[str, Node] = {node.member.id: node for node in self.nodes}
        for node in self.nodes:
            node.nodes = by_id
        self.members = self.nodes[:founders]
        self.client = Client(self.world, lambda: self.members)
        self.invariants.effect = self.client.effect
        self.world.after_event = self._after_event  # type: ignore[assignment]
        self.saved = 0
        """The index of the archive that was saved."""

        self._votes: dict[str, tuple[int, str]] = {}
        self._restores: dict[int, RestoreMark] = {}
        self._marks: dict[str, tuple[RestoreMark, ...]] = {}

    # -- what a script does ----------------------------------------------------------------------------

    def pass_s(self, seconds: float) -> None:
        self.world.run(self.world.now_us + int(seconds * SECOND_US))

    def until(self, what: str, condition: Callable[[], object], within_s: float = 12.0) -> bool:
        """Wait for it. A script without a trap must get what it waits for."""
        end_us = self.world.now_us + int(within_s * SECOND_US)
        while not condition():
            if self.world.now_us >= end_us:
                if self.trap.sprung:
                    self.world.tell(f"not so within {within_s} s: {what}")
                    return False
                raise AssertionError(f"the script waits in vain for: {what}")
            self.world.run(self.world.now_us + STEP_US)
        self.world.tell(f"so it is: {what}")
        return True

    def found(self) -> None:
        for node in self.members:
            node.start()
        self.until("the cluster is founded and has a leader", self.leader)

    def write(self, operations: int) -> None:
        self.client.begin(operations)
        self.until(f"{operations} operations", lambda: self.client.idle, 60.0)
        if not self.client.idle:
            raise Violation("the client is not served for a minute")

    def leader(self) -> TrapNode | None:
        leaders = [node for node in self.nodes if node.server is not None and node.server.leads]
        return max(leaders, key=lambda node: node.opened.raft.term if node.opened else 0, default=None)

    def others(self) -> list[TrapNode]:
        """The members that do not lead, by name."""
        leader = self.leader()
        return [node for node in self.members if node is not leader]

    def ask(self, node: Node, action: Callable[[Server], object]) -> None:
        node.ask("the script asks", lambda server: action(server) and None)

    def call(self, node: Node, by: Node, call: Call) -> list[Any]:
        """What is answered goes into the list that is returned."""
        answers: list[Any] = []
        self.ask(node, lambda server: server.endpoint.handle(by.member, call, answers.append))
        return answers

    def back(self, node: TrapNode) -> None:
        """Start it, unless it is up; and wait until it has applied what is committed."""
        node.start_in(0)
        self.until(f"{node.name} has caught up", lambda: self._caught_up(node))

    def _caught_up(self, node: TrapNode) -> bool:
        leader = self.leader()
        if leader is None or leader.opened is None or node.opened is None or node.opened.raft.repairing:
            return False
        return node.opened.state.applied_index >= leader.opened.raft.commit

    # -- what must always hold ---------------------------------------------------------------------------

    def _after_event(self, owner: Node | None) -> None:
        self.trap.event_ended()
        for node in self.nodes if owner is None else [owner]:
            assert isinstance(node, TrapNode)
            if node.disk.power_lost and node.up:
                # A part of it took the end of its process for a failure that it could tell and survive.
                node.died(PowerLost(self.trap.sprung))
            self._check_vote(node)
            self._check_epochs(node)
        self.invariants.after_event(owner)

    def _check_vote(self, node: TrapNode) -> None:
        if node.opened is None:
            return
        meta = node.opened.durable.meta.meta
        now, before = (meta.term, meta.vote), self._votes.get(node.name, (0, ""))
        if now == before:
            return
        if now[0] < before[0] or (now[0] == before[0] and before[1] not in ("", now[1])):
            raise Violation(f"{node.name} had voted {before}, and then {now}")
        self._votes[node.name] = now

    def _check_epochs(self, node: TrapNode) -> None:
        """An epoch belongs to one restore, for ever and everywhere."""
        if node.opened is None or node.replacing:
            return
        restores = node.opened.state.restores
        if restores is self._marks.get(node.name):
            return
        self._marks[node.name] = restores
        epochs = [mark.epoch for mark in restores]
        if epochs != sorted(set(epochs)):
            raise Violation(f"{node.name} has these epochs one after the other: {epochs}")
        for mark in restores:
            if self._restores.setdefault(mark.epoch, mark) != mark:
                raise Violation(f"{node.name}: epoch {mark.epoch} is of two restores")

    # -- what must hold in the end ---------------------------------------------------------------------

    def conclude(self) -> None:
        """All is well again, and stays so: progress, one state, every promise kept, the victim of use."""
        self.trap.over = True
        for node in self.members:
            node.start_in(0)
        self._must("all have caught up", lambda: all(map(self._caught_up, self.members)), 30.0)
        self._must_write(6)
        self._depend_on_the_victim()
        self._must_write(3)
        self._must("all are equal", self._equal, 20.0)
        self.invariants.after_event(None)
        stored = self.client.check(sorted(self._restores.values(), key=lambda m: m.raft_index), self.saved)
        for node in self.members:
            self._check_whole(node, stored)

    def _must(self, what: str, condition: Callable[[], object], within_s: float) -> None:
        end_us = self.world.now_us + int(within_s * SECOND_US)
        while not condition():
            if self.world.now_us >= end_us:
                told = "; ".join(f"{n.name}: {_standing(n)}" for n in self.members)
                raise Violation(f"not so {within_s} s after the last step: {what} ({told})")
            self.world.run(self.world.now_us + STEP_US)

    def _must_write(self, operations: int) -> None:
        before = self.client.acknowledged + len(self.client.seen)
        self.client.begin(operations)
        self._must(f"{operations} operations end", lambda: self.client.idle, 40.0)
        if self.client.acknowledged + len(self.client.seen) == before:
            raise Violation("nothing is acknowledged any more")

    def _depend_on_the_victim(self) -> None:
        """Without another voter the cluster goes on only if the one that fell votes again."""
        victim = next((node for node in self.members if node.name == self.trap.victim), None)
        other = next((node for node in self.others() if node is not victim), None)
        if victim is None or other is None:
            return
        other.kill()
        self._must_write(2)
        other.start()
        self._must(f"{other.name} has caught up", lambda: self._caught_up(other), 20.0)

    def _equal(self) -> bool:
        states = {
            (node.opened.state.applied_index, node.opened.state.state_hash)
            if node.opened is not None
            else None
            for node in self.members
        }
        return len(states) == 1 and None not in states

    def _check_whole(self, node: TrapNode, stored: dict[bytes, bytes]) -> None:
        """Its rows are those that its hash speaks of, and those of the history; so is its log."""
        assert node.opened is not None
        state, log = node.opened.state, node.opened.durable.log
        state.settle()
        state.verify()
        found = {entry.key: entry.value for entry in state.read(ALL, "")[0]}
        if found != stored:
            raise Violation(f"{node.name} has {found}, the history says {stored}")
        for entry in log.read(log.first_index, min(log.last_index, state.applied_index), 1 << 24):
            truth = self.invariants.applied.get(entry.index)
            if truth is not None and truth.digest != digest_of(entry):
                raise Violation(f"{node.name} holds another entry {entry.index} than was committed")

    def close(self) -> None:
        for node in self.nodes:
            if node.up:
                node.crash()
            node.detach()
        self.world.forget()


def _standing(node: TrapNode) -> str:
    if node.opened is None:
        return "down"
    raft = node.opened.raft
    told = f"{raft.role.name} of term {raft.term}, applied {node.opened.state.applied_index} of {raft.commit}"
    return told + (", repairing" if raft.repairing else "")
