"""What a fault may touch: the cluster of one run and its bookkeeping. `run.Run` fulfils it."""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import Protocol

from simulation.atlas import Atlas
from simulation.damage import Ledger
from simulation.network import Network
from simulation.node import Node
from simulation.swarm import Plan
from simulation.world import World


class Scene(Protocol):
    world: World
    network: Network
    nodes: list[Node]
    plan: Plan
    atlas: Atlas
    ledger: Ledger
    random: Random
    calm: bool
    """The faults are over: whatever still has itself planned does nothing any more."""

    armed: dict[str, str]
    """Long work (install, snapshot, checkpoint) and the fault that strikes when it is next under way."""

    old_metas: dict[str, list[bytes]]
    """All that vote files were found to be so far, by path."""

    spares: list[Node]
    """Servers that may still join."""

    def wipe(self, node: Node, id: str, fault: str) -> None:
        """It is down, and its disk is gone: it comes back empty, under this id."""

    def leader(self) -> Node | None: ...

    def may_crash(self, node: Node) -> bool: ...

    def crash(self, node: Node, fault: str, away_us: int, *, keep_pages: bool = False) -> None:
        """End it now and start it again after that time; the fault lasts as long."""

    def strike(self, fault: str) -> None:
        """It happened, in a moment."""

    def last(
        self, fault: str, us: tuple[int, int], over: Callable[[], object], *, counted: bool = True
    ) -> None:
        """It has begun, and is over after a time drawn from the range (or when calm comes).

        `counted` False: it strikes by itself, if at all.
        """
