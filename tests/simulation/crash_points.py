"""Crash points: every write, sync, rename and port call of three scripts, with the server ended at each.

python tests/simulation/crash_points.py                                   all of them
python tests/simulation/crash_points.py --scenario snapshot --every 10    a tenth of one script's
python tests/simulation/crash_points.py --scenario election --list        the points of a script
python tests/simulation/crash_points.py --scenario election --victim srv2 --at 17 --how power-before --trace

What a point is, and how a server ends at it, is in `crash/trap.py`; the scripts are in `crash/scenarios.py`,
and what must hold afterwards in `crash/stage.py`.
"""

from __future__ import annotations

import gc
import shutil
import sys
import tempfile
from pathlib import Path

import msgspec

sys.path.insert(0, str(Path(__file__).parent.parent))

from simulation.crash.host_files import watched
from simulation.crash.scenarios import SCENARIOS, Scenario
from simulation.crash.trap import Trap
from simulation.witness import Violation
from support.lossy_vfs import LossyVfs


class Run(msgspec.Struct):
    """What a run came to. `names` are its points, by server; `sprung` is the one that the trap struck at."""

    names: dict[str, list[str]]
    lasts: dict[str, list[int]]
    sprung: str
    acknowledged: int
    events: int
    virtual_s: float


def run(scenario: Scenario, trap: Trap, vfs: LossyVfs, *, trace: bool = False) -> Run:
    """Play a script to its end in a folder of its own. Raises Violation."""
    base = "/dev/shm" if Path("/dev/shm").is_dir() else None
    folder = Path(tempfile.mkdtemp(prefix="gemot-crash-", dir=base))
    gc.disable()
    stage = scenario.stage(trap, folder, vfs)
    if trace:
        stage.world.trace = print
    try:
        with watched(stage.nodes):
            scenario.play(stage)
            if not trap.victim:
                scenario.proves(stage)
            stage.conclude()
        return Run(
            trap.names, trap.lasts, trap.sprung, stage.client.acknowledged, stage.world.events, stage.world.now_us / 1e6
        )
    finally:
        stage.close()
        del stage
        gc.enable()
        gc.collect()
        shutil.rmtree(folder, ignore_errors=True)
