"""The atlas of storage faults: which servers' disks are damaged, so that a good copy is always left.

Damage is dealt out to a minority at a time, and a damaged server counts until it was started again on that
disk, is whole, has what was committed by then, and has said so in its vote file. So a majority always holds
each committed entry and the state as they were written: all damage must be found and repaired, and nobody
may ever be served a wrong byte (the checkers see to that).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import msgspec
from simulation.node import Node
from simulation.world import World

LOOK_US = 250_000
LEAVES_US = 12_000_000
"""By then a removal that was asked for is committed, or given up."""


class Damaged(msgspec.Struct):
    """One server's open case. `life` is the one that was damaged; `whole_at` what it must reach."""

    fault: str
    life: int
    restarted_us: int = -1
    restarted_life: int = 0
    whole_at: int = 0
    notes: int = 0
    deaths: int = 0
    wiped: bool = False
    mended: Callable[[], bool] | None = None


class Truth(Protocol):
    """What the invariants know of the cluster."""

    commit: int
    origins: dict[str, int]
    void: dict[str, dict[int, int]]

    def sets(self) -> list[tuple[str, ...]]: ...


class Atlas:
    def __init__(self, *, world: World, nodes: list[Node], truth: Truth) -> None:
        self._world = world
        self._nodes = nodes
        self._truth = truth
        self.cases: dict[str, Damaged] = {}
        self._leaving: dict[str, int] = {}
        self.most = len(nodes)
        """How many may be damaged at a time at most: autopilot takes votes without asking for our damage."""

        self.damages = 0
        self.noticed = 0
        self.repaired = 0

    def start(self) -> None:
        self._look()

    def saved_at(self, sha256: str, index: int) -> None:
        """The state of these bytes is that of this index, whatever its archive says."""
        self._truth.origins[sha256] = index

    def may_damage(self, node: Node) -> bool:
        """Is a minority damaged even with this one?"""
        if not node.up or node.gone or node.name in self.cases or node.disk.bent is not None:
            return False
        return self.can_spare(node, self._truth.sets())

    @property
    def founded(self) -> bool:
        """Does every founder belong to the cluster, and has it committed something?"""
        founders = [node for node in self._nodes if node.founds]
        return self._truth.commit > 1 and all(node.belongs for node in founders)

    def can_spare(self, node: Node, sets: list[tuple[str, ...]]) -> bool:
        """Is a majority of each of these voter sets whole without this server?

        A learner counts as much as a voter: it may be one soon.
        """
        hurt, going = self._hurt() | {node.member.id}, self._going()
        founders = tuple(n.member.id for n in self._nodes if n.founds)
        sizes = [len([id for id in voters if id not in going]) for voters in sets or [founders]]
        return len(hurt) <= self.most and all(2 * len(hurt) < size for size in sizes)

    def may_leave(self, node: Node, least: int) -> bool:
        """Would so many voters stay, and a majority of them be whole, whoever else was asked to go?"""
        hurt, going = self._hurt() - {node.member.id}, self._going()
        left = [[id for id in voters if id != node.member.id] for voters in self._truth.sets()]
        whole = all(not hurt or 2 * len(hurt) < len(set(voters) - going) for voters in left)
        return bool(left) and min(map(len, left)) >= least and whole

    def leaves(self, node: Node) -> None:
        """Its vote may go at any moment from now on: nobody is damaged who would be needed then."""
        self._leaving[node.member.id] = self._world.now_us + LEAVES_US

    def _going(self) -> set[str]:
        return {id for id, until_us in self._leaving.items() if until_us > self._world.now_us}

    def void(self) -> list[str]:
        """Voters that are no more: their disks were wiped."""
        return sorted(self._truth.void)

    def _hurt(self) -> set[str]:
        hurt = {n.member.id for n in self._nodes if n.gone or n.name in self.cases or n.repairing}
        return hurt | set(self._truth.void)

    def damage(self, node: Node, fault: str, mended: Callable[[], bool] | None = None) -> None:
        """It is damaged from now on. What else was to befall its disk is called off.

        `mended` says whether what was damaged is there no more: until then the case is open.
        """
        self.damages += 1
        bent = node.disk.bent
        node.disk.mend()
        node.disk.bent = bent
        self.cases[node.name] = Damaged(
            fault, node.life, notes=len(node.notes), deaths=len(node.deaths), mended=mended
        )

    def wiped(self, node: Node, fault: str) -> None:
        """All of its disk is gone: it counts as damaged until it has what was committed by then again."""
        self.cases[node.name] = Damaged(fault, node.life, wiped=True)

    def _look(self) -> None:
        self._world.at(LOOK_US, "atlas looks", self._look)
        for node in self._nodes:
            case = self.cases.get(node.name)
            if case is not None:
                self._follow(node, case)

    def _follow(self, node: Node, case: Damaged) -> None:
        opened = node.opened
        if opened is None or (case.mended is not None and not case.mended()):
            return
        if node.life == case.life:
            if case.mended is not None and not node.repairing:
                self._close(node, case)
            return
        if node.life != case.restarted_life:
            case.restarted_life, case.restarted_us = node.life, self._world.now_us
            case.whole_at = self._truth.commit
        whole = not node.repairing and opened.state.applied_index >= case.whole_at
        if whole and node.marked_us > case.restarted_us and node.disk.bent is None:
            self._close(node, case)

    def _close(self, node: Node, case: Damaged) -> None:
        del self.cases[node.name]
        self.repaired += not case.wiped
        self.noticed += not case.wiped and (len(node.notes) > case.notes or len(node.deaths) > case.deaths)
        self._world.tell(f"{node.name} is whole again after {case.fault}")

    def rotten(self, nodes: list[Node]) -> list[str]:
        """What rots on these servers and could have been mended."""
        return [
            f"{node.name}: {case.fault}"
            for node in nodes
            if (case := self.cases.get(node.name)) is not None
            and case.mended is not None
            and not case.mended()
            and not node.beyond_repair
        ]
