"""Every fault by its name. A new one is a function in one of the files here and a line at its end."""

from __future__ import annotations

from collections.abc import Callable

from simulation.faults import clock, disk, membership, network, process, rot
from simulation.scene import Scene
from simulation.swarm import WEATHER

FAULTS: dict[str, Callable[[Scene], None]] = {
    **network.FAULTS,
    **process.FAULTS,
    **disk.FAULTS,
    **clock.FAULTS,
    **membership.FAULTS,
    **rot.FAULTS,
}

BY_THE_WAY = (*WEATHER, "unsynced-lost", "torn-write", "refused-for-space", "restore-from-elsewhere")
"""What the weather, every crash, full disks and operators bring with them."""

KNOWN = sorted([*FAULTS, *BY_THE_WAY])
