"""The atlas of storage faults: which servers' disks are damaged, so that a good copy is always left.

Damage is dealt out to a minority at a time, and a damaged server counts until it was started again on that
disk, is whole, has what was committed by then, and has said so in its vote file. So a majority always holds
each committed entry and the state as they were written: all damage must be found and repaired, and nobody
may ever be served a wrong byte (the checkers see to that).
"""

from __future__ import annotations

from collections.abc import Callable

import msgspec
from simulation.node import Node
from simulation.world import World

LOOK_US = 250_000


class Damaged(msgspec.Struct):
    """One server's open case. `life` is the one that was damaged; `whole_at` what it must reach."""

    fault: str
    life: int
    restarted_us: int = -1
    restarted_life: int = 0
    whole_at: int = 0
    notes: int = 0
    deaths: int = 0


class Atlas:
    def __init__(self, *, world: World, nodes: list[Node], commit: Callable[[], int]) -> None:
        self._world = world
        self._nodes = nodes
        self._commit = commit
        self.cases: dict[str, Damaged] = {}
        self.damages = 0
        self.noticed = 0
        self.repaired = 0

    def start(self) -> None:
        self._look()

    def may_damage(self, node: Node) -> bool:
        """Is a minority damaged even with this one?"""
        if not node.up or node.gone or node.name in self.cases or node.disk.bent is not None:
            return False
        hurt = {n.name for n in self._nodes if n.gone or n.name in self.cases or n.repairing}
        return len(hurt | {node.name}) * 2 < len(self._nodes)

    def damage(self, node: Node, fault: str) -> None:
        """It is damaged from now on. What else was to befall its disk is called off."""
        self.damages += 1
        bent = node.disk.bent
        node.disk.mend()
        node.disk.bent = bent
        self.cases[node.name] = Damaged(fault, node.life, notes=len(node.notes), deaths=len(node.deaths))

    def _look(self) -> None:
        self._world.at(LOOK_US, "atlas looks", self._look)
        for node in self._nodes:
            case = self.cases.get(node.name)
            if case is not None:
                self._follow(node, case)

    def _follow(self, node: Node, case: Damaged) -> None:
        opened = node.opened
        if opened is None or node.life == case.life:
            return
        if node.life != case.restarted_life:
            case.restarted_life, case.restarted_us = node.life, self._world.now_us
            case.whole_at = self._commit()
        whole = not node.repairing and opened.state.applied_index >= case.whole_at
        if whole and node.marked_us > case.restarted_us and node.disk.bent is None:
            del self.cases[node.name]
            self.repaired += 1
            self.noticed += len(node.notes) > case.notes or len(node.deaths) > case.deaths
            self._world.tell(f"{node.name} is whole again after {case.fault}")
