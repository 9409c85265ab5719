"""Jepsen's lock-set as a campaign: locks alone lose elements of a set, fenced writes lose none.

python tests/simulation/lock_set.py --writes 200000            seeds until so many guarded writes were told
python tests/simulation/lock_set.py --writes 5000 --from 7     from that seed on
python tests/simulation/lock_set.py --writes 200000 --campaign keeps a row in RESULTS.md

What is done is in `families/lock_set.py`. Servers meet pauses, partitions, ends and clocks that jump, run
fast or stand still; snapshots are saved and restored; holders are stopped with the set in their hands. A
guarded write is one of `check-fence` or of `fence-guard` that its writer was told of. The control is written
by the same holders in the same turns: where it lost nothing, nothing was shown, and the command fails.
"""

from __future__ import annotations

import argparse
import platform
import sys
import time
from datetime import UTC, datetime
from pathlib import Path

import msgspec

sys.path.insert(0, str(Path(__file__).parent.parent))

from simulation.campaign import RESULTS, _commit
from simulation.families.every import Family
from simulation.families.lock_set import CHECKED, GUARDED, UNFENCED, WAYS, LockSetFamily, Tally
from simulation.planted import BUGS
from simulation.planting import add_plant
from simulation.run import Run, run_seed
from simulation.swarm import Aim, Plan
from simulation.witness import Violation
from support.lossy_vfs import LossyVfs, registered

CLIENTS = 36
THINK_US = 8_000
RESTORES = ("save", "restore")
FAULTS = (
    "pause-one",
    "pause-leader",
    "pause-majority",
    "partition",
    "one-way",
    "isolate-leader",
    "deaf-leader",
    "bridge",
    "nobody",
    "clog",
    "flapping",
    "broken-connections",
    "crash-leader",
    "crash-one",
    "crash-all",
    "kill-one",
    "hand-over",
    "clock-fast",
    "clock-slow",
    "clock-stop",
    "clock-step",
    "sync-stall-leader",
)


class LockSetAim(Aim, frozen=True):
    """Many holders, and snapshots as seldom as servers make them in earnest."""

    def at(self, plan: Plan) -> Plan:
        server = msgspec.structs.replace(plan.server, snapshot_entries=2_000, trailing_entries=1_000)
        return msgspec.structs.replace(
            plan,
            clients=CLIENTS,
            think_us=THINK_US,
            faults=FAULTS,
            chores=RESTORES,
            spares=0,
            segment_bytes=256 << 10,
            server=server,
        )


class LockSetRun(Run):
    lock_set: LockSetFamily

    def _ordinary(self) -> list[Family]:
        self.lock_set = LockSetFamily(self.world)
        return [self.lock_set]


class Report(msgspec.Struct):
    """What all seeds came to."""

    seeds: int = 0
    failed: list[int] = []
    stops: int = 0
    restores: int = 0
    virtual_s: float = 0.0
    took_s: float = 0.0
    fired: dict[str, int] = {}
    ways: dict[str, Tally] = msgspec.field(default_factory=lambda: {way: Tally() for way in WAYS})

    @property
    def guarded(self) -> int:
        return self.ways[CHECKED].told + self.ways[GUARDED].told

    def add(self, run: LockSetRun) -> None:
        self.seeds += 1
        self.stops += run.lock_set.stops
        self.restores += len(run.lock_set.lineage.restores)
        self.virtual_s += run.world.now_us / 1_000_000
        for name, count in run.coverage.fired.items():
            self.fired[name] = self.fired.get(name, 0) + count
        for way, tally in run.lock_set.tallies.items():
            total = self.ways[way]
            total.told += tally.told
            total.lost += tally.lost
            total.taken_back += tally.taken_back
            total.carried_over += tally.carried_over
            total.refused += tally.refused

    def line(self) -> str:
        ways = ", ".join(
            f"{way}: {tally.told} told, {tally.refused} refused, {tally.taken_back} taken back, "
            f"{tally.carried_over} carried over, {tally.lost} lost"
            for way, tally in self.ways.items()
        )
        counts = f"{self.guarded} guarded writes, {self.restores} restores, {self.stops} stops of a holder"
        return f"{self.seeds} seeds, {counts}; {ways}"


def run_one(seed: int, vfs: LossyVfs, report: Report) -> None:
    """Raises Violation; what was counted until then is in the report."""
    runs: list[LockSetRun] = []

    def make(seed: int, directory: Path, vfs: LossyVfs, aim: Aim) -> Run:
        runs.append(LockSetRun(seed, directory, vfs, aim))
        return runs[0]

    try:
        run_seed(seed, vfs, aim=LockSetAim(), make=make)
    finally:
        report.add(runs[0])


def main() -> int:
    options = _parse()
    if options.plant:
        BUGS[options.plant]()
    report, began, commit = Report(), time.monotonic(), _commit()
    with registered("gemot-sim") as vfs:
        seed = options.first
        while report.guarded < options.writes:
            try:
                run_one(seed, vfs, report)
            except Violation as error:
                report.failed.append(seed)
                print(f"seed {seed}: Violation: {error}", flush=True)
                if options.plant:
                    break
            print(f"seed {seed}: {report.line()}", flush=True)
            seed += 1
    report.took_s = time.monotonic() - began
    if not report.ways[UNFENCED].lost:
        print("the control lost nothing: this run shows nothing")
    if options.campaign:
        _keep(report, commit, options)
    return 1 if report.failed or not report.ways[UNFENCED].lost else 0


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--writes", type=int, default=20_000, help="guarded writes, after which it ends")
    parser.add_argument("--from", dest="first", type=int, default=1, help="the first seed")
    parser.add_argument("--campaign", action="store_true", help="add a row to RESULTS.md")
    add_plant(parser, BUGS)
    return parser.parse_args()


_COLUMNS = (
    "| date | commit | seeds | guarded writes | restores | unfenced: told, taken back, carried over, lost "
    "| check-fence: told, refused, taken back, carried over, lost "
    "| fence-guard: told, refused, taken back, carried over, lost | stops of a holder | virtual hours "
    "| machine |"
)
_HEAD = f"""
# Lock-set

Each row is one command, `make lock-set WRITES=n FROM=k`: a set is read and written back under a lock, in
three ways, by holders that are stopped meanwhile. Told: elements whose writer was told that they are in.
Taken back: those that were written after a snapshot which was restored. Carried over: those that were written
over by a holder whose reading was taken back so. Lost: all others that are not there in the end. Refused:
because of the fence.

{_COLUMNS}
{"|---" * (_COLUMNS.count("|") - 1)}|
"""


def _figures(tally: Tally) -> str:
    return f"{tally.told}, {tally.refused}, {tally.taken_back}, {tally.carried_over}, {tally.lost}"


def _keep(report: Report, commit: str, options: argparse.Namespace) -> None:
    plain, checked, guarded = (report.ways[way] for way in WAYS)
    seeds = f"{options.first} to {options.first + report.seeds - 1}"
    failed = f", failed {report.failed}" if report.failed else ""
    row = (
        f"| {datetime.now(UTC):%Y-%m-%d} | {commit} | {seeds}{failed} | {report.guarded} | "
        f"{report.restores} | {plain.told}, {plain.taken_back}, {plain.carried_over}, {plain.lost} | "
        f"{_figures(checked)} | {_figures(guarded)} | {report.stops} | "
        f"{report.virtual_s / 3600:.1f} | one core {platform.machine()}, "
        f"Python {platform.python_version()}, {report.took_s:.0f} s |\n"
    )
    fired = ", ".join(f"{name} {count}" for name, count in sorted(report.fired.items()))
    detail = f"\n## Lock-set at {commit}, seeds {seeds}\n\n{fired}.\n"
    before = RESULTS.read_text().rstrip("\n") + "\n"
    if _HEAD not in before:
        RESULTS.write_text(before + _HEAD + row + detail)
        return
    head, _, tail = before.partition(_HEAD)
    rows, _, details = tail.partition("\n\n")
    RESULTS.write_text(head + _HEAD + rows.rstrip("\n") + "\n" + row + detail + "\n" + details)


if __name__ == "__main__":
    sys.exit(main())
