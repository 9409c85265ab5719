"""Many seeds: shared out over processes, their results added up, told, and kept.

Every seed runs alone in its process, one after the other, so how many processes there are changes nothing
of what a seed does.
"""

from __future__ import annotations

import argparse
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable, Collection
from datetime import UTC, datetime
from pathlib import Path

import msgspec
from simulation.coverage import Totals
from simulation.families.operator import CHORES
from simulation.faults.every import FAULTS, KNOWN
from simulation.planted import BUGS
from simulation.planting import add_plant
from simulation.run import Result, run_seed
from simulation.swarm import Aim
from support.lossy_vfs import LossyVfs, registered

HERE = Path(__file__).parent
RESULTS = HERE / "RESULTS.md"
RAREST = 12
"""Cells of the table that are told."""


class Line(msgspec.Struct):
    """What a process tells of one seed: how it went, or what was wrong, and its own size so far."""

    seed: int
    result: Result | None = None
    error: str = ""
    rss_mb: int = 0


class Report(msgspec.Struct):
    """What all the seeds came to; `--json` prints it."""

    passed: int = 0
    failed: list[int] = []
    invalid: list[int] = []
    operations: int = 0
    unknown: int = 0
    events: int = 0
    virtual_s: float = 0.0
    black_box: int = 0
    keys: int = 0
    undecided: int = 0
    watched: int = 0
    lapsed: int = 0
    damages: int = 0
    noticed: int = 0
    repaired: int = 0
    deaths: int = 0
    damage: dict[str, int] = {}
    rss_mb: int = 0
    took_s: float = 0.0
    totals: Totals = msgspec.field(default_factory=Totals)

    def add(self, line: Line) -> None:
        self.rss_mb = max(self.rss_mb, line.rss_mb)
        result = line.result
        if result is None:
            self.failed.append(line.seed)
            return
        if result.invalid:
            self.invalid.append(line.seed)
        else:
            self.passed += 1
        self.operations += result.operations
        self.unknown += result.unknown
        self.events += result.events
        self.virtual_s += result.virtual_s
        self.black_box += result.black_box
        self.keys += result.keys
        self.undecided += result.undecided
        self.watched += result.watched
        self.lapsed += result.lapsed
        self.damages += result.damages
        self.noticed += result.noticed
        self.repaired += result.repaired
        self.deaths += result.deaths
        for end, count in result.damage.items():
            self.damage[end] = self.damage.get(end, 0) + count
        self.totals.add(result.fired, result.begun, result.table)


def main() -> int:
    options = _parse()
    if options.worker:
        return _work(options)
    began, commit = time.monotonic(), _commit()
    report = _share_out(options)
    report.took_s = time.monotonic() - began
    if options.json:
        print(msgspec.json.encode(report).decode())
    else:
        _tell(report, table=not options.trace)
    if options.campaign:
        _keep(report, commit, options.first, _aimed(options))
    return 1 if report.failed else 0


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=1, help="how many seeds to run")
    parser.add_argument("--from", dest="first", type=int, default=1, help="the first seed")
    parser.add_argument("--jobs", type=int, default=0, help="how many processes (one for each core)")
    parser.add_argument("--trace", action="store_true", help="print every event, for people")
    parser.add_argument("--json", action="store_true", help="print the report as JSON, and nothing else")
    parser.add_argument("--campaign", action="store_true", help="add a row to RESULTS.md")
    add_plant(parser, BUGS)
    parser.add_argument("--stop-at-first", action="store_true", help="end with the first seed that fails")
    parser.add_argument("--faults", type=_some_of(FAULTS), default=(), help="these and no others, a,b,c")
    parser.add_argument("--chores", type=_some_of(CHORES), default=(), help="what operators do, a,b,c")
    parser.add_argument("--within", type=float, default=0.0, help="begin no seed after so many seconds")
    parser.add_argument("--worker", default="", help=argparse.SUPPRESS)
    return parser.parse_args()


def _some_of(known: Collection[str]) -> Callable[[str], tuple[str, ...]]:
    def split(names: str) -> tuple[str, ...]:
        some = tuple(names.split(","))
        if unknown := [name for name in some if name not in known]:
            raise argparse.ArgumentTypeError(f"{', '.join(unknown)}: known are {', '.join(sorted(known))}")
        return some

    return split


def _aim(options: argparse.Namespace) -> Aim:
    return Aim(options.faults, options.chores)


def _aimed(options: argparse.Namespace) -> str:
    """The same aim as options of a command."""
    aim = {"--faults": options.faults, "--chores": options.chores}
    return "".join(f" {option} {','.join(names)}" for option, names in aim.items() if names)


# -- one process -----------------------------------------------------------------------------------


def _work(options: argparse.Namespace) -> int:
    """Every so manieth seed, a line of JSON for each."""
    number, step = (int(part) for part in options.worker.split("/"))
    if options.plant:
        BUGS[options.plant]()
    with registered("gemot-sim") as vfs:
        until = time.monotonic() + options.within
        for seed in range(options.first + number, options.first + options.seeds, step):
            if options.within and time.monotonic() > until:
                break
            line = _one(seed, vfs, _aim(options))
            sys.stdout.write(msgspec.json.encode(line).decode() + "\n")
            sys.stdout.flush()
    return 0


def _one(seed: int, vfs: LossyVfs, aim: Aim) -> Line:
    try:
        return Line(seed, run_seed(seed, vfs, aim=aim), rss_mb=_rss_mb())
    except Exception as error:
        return Line(seed, None, f"{type(error).__name__}: {error}", _rss_mb())


def _rss_mb() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") >> 20


# -- all of them -----------------------------------------------------------------------------------


def _share_out(options: argparse.Namespace) -> Report:
    report = Report()
    if options.trace:
        return _traced(options, report)
    jobs = min(options.jobs or os.cpu_count() or 1, options.seeds)
    command = [sys.executable, str(HERE / "run.py"), *sys.argv[1:]]
    workers = [
        subprocess.Popen([*command, "--worker", f"{n}/{jobs}"], stdout=subprocess.PIPE, text=True)
        for n in range(jobs)
    ]
    try:
        # Round by round, so that the lines come in the order of the seeds.
        for at in range(options.seeds):
            out = workers[at % jobs].stdout
            raw = out.readline() if out is not None else ""
            if not raw:
                if options.within:
                    break
                raise RuntimeError(f"the process of seed {options.first + at} ended before it")
            line = msgspec.json.decode(raw, type=Line)
            report.add(line)
            _tell_seed(line, options)
            if report.failed and options.stop_at_first:
                break
    finally:
        for worker in workers:
            worker.kill()
            worker.wait()
            if worker.stdout is not None:
                worker.stdout.close()
    return report


def _traced(options: argparse.Namespace, report: Report) -> Report:
    """In this process, so that a mistake shows where it was made."""
    if options.plant:
        BUGS[options.plant]()
    with registered("gemot-sim") as vfs:
        for seed in range(options.first, options.first + options.seeds):
            line = Line(seed, run_seed(seed, vfs, trace=True, aim=_aim(options)))
            report.add(line)
            _tell_seed(line, options)
    return report


# -- telling ---------------------------------------------------------------------------------------


def _tell_seed(line: Line, options: argparse.Namespace) -> None:
    if options.json:
        return
    result = line.result
    if result is None:
        plant = f" --plant {options.plant}" if options.plant else ""
        print(f"seed {line.seed}: {line.error}")
        again = f"--from {line.seed} --trace{plant}{_aimed(options)}"
        print(f"  replay: python tests/simulation/run.py {again}", flush=True)
        return
    invalid = f"; INVALID: {result.invalid}" if result.invalid else ""
    print(
        f"seed {result.seed}: {result.digest} {result.operations} operations, {result.unknown} unknown, "
        f"{sum(result.fired.values())} faults, {result.installs} installs, {result.terms} terms, "
        f"{result.damages} damages, {result.deaths} stops{invalid}",
        flush=True,
    )


def _tell(report: Report, *, table: bool) -> None:
    if table:
        print(report.totals.text(KNOWN))
    fired = report.totals.fired
    print(_damage(report))
    print(
        f"{report.black_box} operations checked as a black box, {report.undecided} of {report.keys} keys "
        f"undecided; {report.watched} answers to watchers checked; "
        f"{report.lapsed} sessions ended unrenewed, none early or late"
    )
    print(
        f"{report.passed} passed, {len(report.failed)} failed {report.failed}, "
        f"{len(report.invalid)} invalid {report.invalid}; {report.operations} operations checked, "
        f"{report.unknown} unknown, {report.events} events, {report.virtual_s:.0f} virtual s, "
        f"{sum(name in fired for name in KNOWN)} of {len(KNOWN)} kinds of fault, "
        f"{report.damages} damages ({report.noticed} noticed, {report.repaired} whole again), "
        f"{report.rss_mb} MB, {report.took_s:.0f} s"
    )


def _damage(report: Report) -> str:
    """Every damage and how it ended; what disks said themselves; what crashes took that was not synced."""
    fired = report.totals.fired
    errors = sum(count for name, count in fired.items() if name.startswith(("eio-", "enospc-")))
    lost = sum(fired.get(name, 0) for name in ("unsynced-lost", "torn-write"))
    ends = ", ".join(f"{count} {end}" for end, count in report.damage.items())
    return (
        f"{sum(report.damage.values())} damages of disks: {ends}; {errors} errors told by disks, "
        f"{lost} crashes that lost or tore what was not synced"
    )


# -- keeping ---------------------------------------------------------------------------------------

_COLUMNS = (
    "| date | commit | seeds | passed | failed | invalid | operations | unknown | black-box | watched "
    "| virtual-hours | machine |"
)
_HEAD = f"""# Campaigns of the simulator

Each row is one command, `python tests/simulation/run.py --seeds N --from K --campaign`. Operations are
answered ones, each checked by its index; unknown are writes whose outcome their client never learnt; an
invalid run was too short of operations to prove anything. Black box: operations checked again without
believing an index, and the keys on which that came to no end. Watched: answers to watchers. Below each row:
how often each fault struck, and which pairs of operation and fault were rarest.

{_COLUMNS}
{"|---" * (_COLUMNS.count("|") - 1)}|
"""


def _commit() -> str:
    """The code that is running now, not what it has become when the campaign ends."""
    command = ["git", "describe", "--always", "--dirty"]
    return subprocess.run(command, capture_output=True, text=True, cwd=HERE, check=False).stdout.strip()


def _keep(report: Report, commit: str, first: int, aimed: str) -> None:
    if not RESULTS.exists():
        RESULTS.write_text(_HEAD)
    seeds = report.passed + len(report.failed) + len(report.invalid)
    share = 100 * report.unknown / max(1, report.operations + report.unknown)
    failed = f"{len(report.failed)} {report.failed}" if report.failed else "0"
    fired = ", ".join(f"{name} {report.totals.fired.get(name, 0)}" for name in KNOWN)
    row = (
        f"| {datetime.now(UTC):%Y-%m-%d} | {commit} | {first} to {first + seeds - 1} | {report.passed} | "
        f"{failed} | {len(report.invalid)} | {report.operations} | {share:.2f} % | "
        f"{report.black_box}, {report.undecided} of {report.keys} keys undecided | {report.watched} | "
        f"{report.virtual_s / 3600:.1f} | {os.cpu_count()} cores {platform.machine()}, "
        f"Python {platform.python_version()}, {report.took_s:.0f} s |"
    )
    target = f"Aimed with `{aimed.strip()}`.\n\n" if aimed else ""
    head, _, tail = RESULTS.read_text().partition("\n\n## ")
    rarest = ", ".join(f"{a} x {b} {count}" for count, a, b in report.totals.rarest(KNOWN, RAREST))
    detail = (
        f"\n\n## {commit}, seeds {first} to {first + seeds - 1}\n\n{target}{fired}.\n\n{_damage(report)}.\n\n"
        f"{report.lapsed} sessions ended unrenewed, none of them early or late.\n\n"
        f"Operation x fault, the rarest of all cells: {rarest}.\n"
    )
    lines = head.rstrip("\n").split("\n")
    last_row = max(at for at, line in enumerate(lines) if line.startswith("|"))
    lines.insert(last_row + 1, row)
    RESULTS.write_text("\n".join(lines) + detail + (f"\n## {tail}" if tail else ""))
