"""One run of a script in a folder of its own, with a trap or without; and the cases that its points make."""

from __future__ import annotations

import gc
import hashlib
import shutil
import tempfile
from pathlib import Path

import msgspec
from simulation.crash.host_files import watched
from simulation.crash.scenarios import SCENARIOS, Scenario
from simulation.crash.trap import HOWS, Trap
from simulation.witness import Violation
from support.lossy_vfs import LossyVfs

COLLECT_EVERY = 20


class Case(msgspec.Struct, frozen=True):
    """One way for one server to fall at one point of one script."""

    scenario: str
    victim: str
    at: int
    how: str
    name: str
    again: int = 0

    @property
    def told(self) -> str:
        again = f", again at point {self.again} of its return" if self.again else ""
        return f"{self.scenario} {self.victim} {self.at}: {self.how} {self.name}{again}"

    @property
    def replay(self) -> str:
        return (
            f"python tests/simulation/crash_points.py --scenario {self.scenario} --victim {self.victim} "
            f"--at {self.at} --how {self.how}{f' --again {self.again}' if self.again else ''} --trace"
        )


class Run(msgspec.Struct):
    """What a run came to. `names` are its points, by server; `sprung` is the one that the trap struck at."""

    names: dict[str, list[str]]
    lasts: dict[str, list[int]]
    sprung: str
    acknowledged: int
    events: int
    virtual_s: float


_runs = 0


def _collect_sometimes() -> None:
    global _runs
    _runs += 1
    if _runs % COLLECT_EVERY == 0:
        gc.collect()


def run(scenario: Scenario, trap: Trap, vfs: LossyVfs, *, trace: bool = False) -> Run:
    """Play a script to its end in a folder of its own. Raises Violation."""
    base = "/dev/shm" if Path("/dev/shm").is_dir() else None
    folder = Path(tempfile.mkdtemp(prefix="gemot-crash-", dir=base))
    # Each run leaves cycles, with old connections: collected now and then, and never in the middle of one.
    _collect_sometimes()
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
            trap.names,
            trap.lasts,
            trap.sprung,
            stage.client.acknowledged,
            stage.world.events,
            stage.world.now_us / 1e6,
        )
    finally:
        stage.close()
        del stage
        gc.enable()
        shutil.rmtree(folder, ignore_errors=True)


UNSEEN = {
    "power": frozenset(["create", "write", "truncate", "rename", "remove", "port"]),
    "torn": frozenset(["port"]),
    "kill": frozenset(["sync", "sync_dir", "port"]),
}
"""Calls that leave no trace once a server has fallen so: what they did was in its memory, or not synced, or
(a sync) had been done already as far as anybody can see whose host is still up."""


def cases(scenario: str, listed: Run) -> list[Case]:
    """Each way at each point, where that makes a difference: of ends that are alike, the first.

    Two points of one event are alike if what was called between them leaves no trace: nothing else in the
    world moves between them.
    """
    found = []
    for victim in SCENARIOS[scenario].victims:
        names, lasts = listed.names.get(victim, ()), frozenset(listed.lasts.get(victim, ()))
        action = ""
        for number, name in enumerate(names, 1):
            before, action = action, name.partition(" ")[0]
            first = number - 1 in lasts or number == 1
            for how in HOWS:
                unseen = UNSEEN[how.partition("-")[0]]
                different = number in lasts and action not in unseen
                if how.endswith("-before"):
                    different = first or before not in unseen
                if different:
                    found.append(Case(scenario, victim, number, how, name))
    return found


def run_case(case: Case, vfs: LossyVfs, *, trace: bool = False) -> Run:
    """Raises Violation; also if the point is not the one that was listed."""
    trap = Trap(case.victim, case.at, case.how, case.again)
    ended = run(SCENARIOS[case.scenario], trap, vfs, trace=trace)
    if ended.sprung != case.name:
        raise Violation(
            f"the run is another one: at point {case.at} came {ended.sprung!r}, not {case.name!r}"
        )
    return ended


def digest_of(listed: Run) -> str:
    return hashlib.blake2b(msgspec.json.encode([listed.names, listed.lasts]), digest_size=8).hexdigest()
