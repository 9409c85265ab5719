"""Damage at rest: a bit of what nobody reads changes, and the host is not restarted. The scrubber finds it.

At the end of a run none may be left on a server that could have mended it.
"""

from __future__ import annotations

from collections.abc import Callable

from simulation.faults.disk import flip, sealed, snapshot_copy, state_file
from simulation.node import Node
from simulation.scene import Scene

REACH = 16
"""Bytes on both sides that tell damage from what was written in its place later."""

FOUND_US = (1_000_000, 8_000_000)


def _rot(name: str, choose: Callable[[Scene, Node], str | None]) -> Callable[[Scene], None]:
    def fault(scene: Scene) -> None:
        found = flip(scene, name, choose)
        if found is None:
            return
        node, path, at = found
        damaged = _around(node, path, at)
        scene.atlas.damage(node, name, lambda: _around(node, path, at) != damaged)
        scene.last(name, FOUND_US, lambda: None)

    return fault


def _around(node: Node, path: str, at: int) -> bytes | None:
    """What is there now; None if the file is not."""
    inode = node.lossy.find(path) if node.up else None
    return None if inode is None else bytes(inode.durable[max(0, at - REACH) : at + REACH])


FAULTS = {
    "rot-sealed": _rot("rot-sealed", sealed),
    "rot-snapshot": _rot("rot-snapshot", snapshot_copy),
    "rot-state": _rot("rot-state", state_file),
}
