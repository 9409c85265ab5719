"""Servers that come and go: new ones join, and disks are wiped under old ones, a minority at a time.

What is wiped is dealt out by the atlas as damage is: a majority of the voters always has everything.
"""

from __future__ import annotations

from collections.abc import Callable

from simulation.node import Node
from simulation.scene import Scene

BACK_US = (100_000, 4_000_000)
JOINS_US = (2_000_000, 15_000_000)
LOOKS, LOOK_US = 20, 500_000


def join(scene: Scene) -> None:
    """A new server comes up, finds the others, and asks to belong to them."""
    if not scene.spares:
        return
    node = scene.spares.pop(0)
    node.nodes[node.member.id] = node
    scene.nodes.append(node)
    node.start()
    scene.last("server-joins", JOINS_US, lambda: None)


def wipe(scene: Scene) -> None:
    """Its disk is lost, with its id: what comes back is a new server, at the old address."""
    _wipe_one(scene, "wipe-new-id", _another)


def wipe_keeping_id(scene: Scene) -> None:
    """Its disk is lost, and its id was kept elsewhere: it must not vote again before its peer is removed."""
    _wipe_one(scene, "wipe-old-id", lambda id: id)


def _another(id: str) -> str:
    return f"{int(id[:7]) + 1:07d}{id[7:]}"


def _wipe_one(scene: Scene, fault: str, id_after: Callable[[str], str], looks: int = LOOKS) -> None:
    """As soon as there is one that can be done without."""
    node = None if scene.calm else _victim(scene)
    if node is not None:
        _wipe(scene, node, id_after(node.member.id), fault)
    elif looks > 0 and not scene.calm:
        scene.world.at(LOOK_US, f"{fault} looks", lambda: _wipe_one(scene, fault, id_after, looks - 1))


def _victim(scene: Scene) -> Node | None:
    """One of a cluster that was founded, whose data the others can do without."""
    candidates = [
        node
        for node in scene.nodes
        if scene.atlas.may_damage(node) and scene.may_crash(node) and not node.paused and scene.atlas.founded
    ]
    return scene.random.choice(candidates) if candidates else None


def _wipe(scene: Scene, node: Node, id: str, fault: str) -> None:
    node.crash()
    scene.wipe(node, id, fault)
    node.start_in(scene.random.randrange(*BACK_US))
    scene.last(fault, JOINS_US, lambda: None)


FAULTS = {
    "server-joins": join,
    "wipe-new-id": wipe,
    "wipe-old-id": wipe_keeping_id,
}
