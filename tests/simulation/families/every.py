"""The families that take part in every run. A new one is one file here and one line below."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from simulation.clients import Draws
from simulation.families.catalog import CatalogFamily
from simulation.families.kv import KvFamily
from simulation.families.locks import LockFamily
from simulation.families.push import PushFamily
from simulation.families.txn import TxnFamily
from simulation.node import Node
from simulation.witness import Seen
from simulation.world import World

from gemot.server.model.query import Applied


class Actor(Protocol):
    """Somebody who does what no client does: watches, subscribes."""

    stopped: bool
    nodes: list[Node]

    def start(self) -> None: ...


class Family(Draws, Protocol):
    """Client, model and checker of one family of commands."""

    history: list[Seen]

    def actors(self, nodes: list[Node]) -> list[Actor]: ...

    def effect(self, index: int, command: Any, result: Applied) -> None:
        """A command took effect: the truth, in the order of the log. Those of other families are ignored."""

    def check(self) -> int:
        """Replay the truth; every answer seen must be what it says. How many were; raises Violation."""


def every(world: World, kv: KvFamily, time_ms: Callable[[], int]) -> list[Family]:
    """`time_ms` is the cluster time of the effect that is told."""
    locks = LockFamily(world, time_ms)
    return [
        kv,
        CatalogFamily(world),
        locks,
        TxnFamily(world, kv, locks, time_ms),
        PushFamily(world, kv, locks, time_ms),
    ]
