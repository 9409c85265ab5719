"""Damage at rest: a bit of what nobody reads changes, and the host is not restarted. The scrubber finds it.

At the end of a run none may be left on a server that could have mended it.
"""

from __future__ import annotations

from collections.abc import Callable

from simulation.faults.disk import flip, sealed, snapshot_copy, state_file
from simulation.node import Node
from simulation.scene import Scene

from gemot.server.storage.disk import sectors

REACH = 16
"""Bytes on both sides that tell damage from what was written in its place later."""

FOUND_US = (1_000_000, 8_000_000)


def _rot(name: str, choose: Callable[[Scene, Node], str | None]) -> Callable[[Scene], None]:
    def fault(scene: Scene) -> None:
        found = flip(scene, name, choose)
        if found is None:
            return
        node, path, at = found
        damaged, harmless = _around(node, path, at), _ends_a_record(node, path, at)
        scene.atlas.damage(node, name, lambda: harmless or _around(node, path, at) != damaged)
        scene.last(name, FOUND_US, lambda: None)

    return fault


def _ends_a_record(node: Node, path: str, at: int) -> bool:
    """Is it the mark behind a record of the log? It tells where a torn end is, and of sealed ones nothing."""
    inode = node.lossy.find(path)
    return inode is not None and path.endswith(".seg") and not any(inode.durable[at + 1 : sectors(at + 1)])


def _around(node: Node, path: str, at: int) -> bytes | None:
    """What is there now; None if the file is not."""
    inode = node.lossy.find(path) if node.up else None
    return None if inode is None else bytes(inode.durable[max(0, at - REACH) : at + REACH])


FAULTS = {
    "rot-sealed": _rot("rot-sealed", sealed),
    "rot-snapshot": _rot("rot-snapshot", snapshot_copy),
    "rot-state": _rot("rot-state", state_file),
}
