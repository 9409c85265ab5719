"""Crash points: every write, sync, rename and port call of three scripts, with the server ended at each.

python tests/simulation/crash_points.py --jobs 2                          all of them
python tests/simulation/crash_points.py --scenario snapshot --every 10    a tenth of one script's
python tests/simulation/crash_points.py --scenario election --list        the points of a script
python tests/simulation/crash_points.py --scenario election --victim srv2 --at 17 --how power-before --trace

A run without a trap lists the points of each server. Then there is one run for each of them and each way to
fall there, the same to the event up to that point; the server comes back, the script goes on, and all that
was promised must hold. What a point is, and how a server falls at it, is in `crash/trap.py`; the scripts are
in `crash/scenarios.py`; what must hold afterwards is in `crash/stage.py`.
"""

from __future__ import annotations

import argparse
import os
import platform
import subprocess
import sys
import time
from collections import Counter
from datetime import UTC, datetime
from pathlib import Path

import msgspec

sys.path.insert(0, str(Path(__file__).parent.parent))

from simulation.crash.planted import BUGS
from simulation.crash.run import Case, Run, cases, digest_of, run, run_case
from simulation.crash.scenarios import SCENARIOS
from simulation.crash.trap import HOWS, Trap, kind_of
from simulation.planting import add_plant
from support.lossy_vfs import LossyVfs, registered

RESULTS = Path(__file__).parent / "RESULTS.md"
HEADING = "\n## Crash points\n"


class Line(msgspec.Struct):
    """What a process tells: a case that failed, or, at the end of a script, how many it ran."""

    scenario: str
    failed: Case | None = None
    error: str = ""
    digest: str = ""
    points: int = 0
    kinds: dict[str, int] = {}
    crashes: int = 0
    cpu_s: float = 0.0


class Failure(msgspec.Struct):
    case: Case
    error: str


class Report(msgspec.Struct):
    """What all of it came to; `--json` prints it."""

    scripts: dict[str, Line] = {}
    failures: list[Failure] = []
    took_s: float = 0.0

    def add(self, line: Line) -> None:
        if line.failed is not None:
            self.failures.append(Failure(line.failed, line.error))
            return
        known = self.scripts.setdefault(line.scenario, line)
        if known is line:
            return
        if known.digest != line.digest:
            raise RuntimeError(f"two processes list other points of {line.scenario}: it is not deterministic")
        known.crashes += line.crashes
        known.cpu_s += line.cpu_s

    def failed(self, scenario: str) -> int:
        return sum(failure.case.scenario == scenario for failure in self.failures)


def main() -> int:
    options = _parse()
    if options.at:
        return _replay(options)
    if options.list:
        return _list(options)
    if options.worker:
        return _work(options)
    began, commit = time.monotonic(), _commit()
    report = _share_out(options)
    report.took_s = time.monotonic() - began
    if options.json:
        print(msgspec.json.encode(report).decode())
    if options.campaign:
        _keep(report, commit, options)
    return 1 if report.failures else 0


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else "")
    parser.add_argument("--scenario", choices=sorted(SCENARIOS), help="this script alone")
    parser.add_argument("--victim", default="", help="this server alone")
    parser.add_argument("--how", choices=HOWS, help="this way to fall alone")
    parser.add_argument("--named", default="", help="only points whose names hold this text")
    parser.add_argument(
        "--from", dest="first", type=int, default=0, help="leave out so many cases of a script"
    )
    parser.add_argument("--every", type=int, default=1, help="of the cases one in so many")
    parser.add_argument("--turn", type=int, default=0, help="which one of them")
    parser.add_argument("--jobs", type=int, default=1, help="how many processes")
    parser.add_argument("--within", type=float, default=0.0, help="begin no case after so many seconds")
    parser.add_argument("--stop-at-first", action="store_true", help="end with the first case that fails")
    parser.add_argument(
        "--at", type=int, default=0, help="replay this point, with --scenario, --victim, --how"
    )
    parser.add_argument("--again", type=int, default=0, help="fall again at that point of the return")
    parser.add_argument("--trace", action="store_true", help="print every event, for people")
    parser.add_argument("--list", action="store_true", help="print the points, run none")
    parser.add_argument("--json", action="store_true", help="print the report as JSON, and nothing else")
    parser.add_argument("--campaign", action="store_true", help="add rows to RESULTS.md")
    add_plant(parser, BUGS)
    parser.add_argument("--worker", default="", help=argparse.SUPPRESS)
    return parser.parse_args()


def _chosen(options: argparse.Namespace) -> list[str]:
    return [options.scenario] if options.scenario else list(SCENARIOS)


# -- one case, or the points ---------------------------------------------------------------------------


def _replay(options: argparse.Namespace) -> int:
    """In this process, so that a mistake shows where it was made."""
    with registered("gemot-crash") as vfs:
        names = run(SCENARIOS[options.scenario], Trap(), vfs).names[options.victim]
        _plant(options)
        name = names[options.at - 1]
        case = Case(options.scenario, options.victim, options.at, options.how, name, options.again)
        ended = run_case(case, vfs, trace=options.trace)
    print(f"{case.told}: no violation; {ended.acknowledged} writes acknowledged in {ended.virtual_s:.1f} s")
    return 0


def _list(options: argparse.Namespace) -> int:
    with registered("gemot-crash") as vfs:
        for scenario in _chosen(options):
            for server, names in sorted(run(SCENARIOS[scenario], Trap(), vfs).names.items()):
                for number, name in enumerate(names, 1):
                    print(f"{scenario} {server} {number}: {name}")
    return 0


# -- one process -----------------------------------------------------------------------------------------


def _work(options: argparse.Namespace) -> int:
    """Every so manieth case: a line for each that fails, and one at the end of each script."""
    number, step = (int(part) for part in options.worker.split("/"))
    until = time.monotonic() + options.within if options.within else float("inf")
    seen = 0
    with registered("gemot-crash") as vfs:
        all_listed = {scenario: run(SCENARIOS[scenario], Trap(), vfs) for scenario in _chosen(options)}
        _plant(options)
        for scenario, listed in all_listed.items():
            began = time.process_time()
            mine = _selected(options, scenario, listed, seen)
            seen += len(cases(scenario, listed))
            line = _line(scenario, listed)
            for case in mine[number::step]:
                if time.monotonic() > until:
                    break
                line.crashes += 1
                _run_one(case, vfs)
            line.cpu_s = time.process_time() - began
            _say(line)
    return 0


def _plant(options: argparse.Namespace) -> None:
    """The points are those of the sound product; what is found then is found by a crash."""
    if options.plant:
        BUGS[options.plant]()


def _selected(options: argparse.Namespace, scenario: str, listed: Run, seen: int) -> list[Case]:
    """Each so manieth of all cases, in the order of the scripts: the turns together are all of them."""
    found = [
        case
        for number, case in enumerate(cases(scenario, listed))
        if number >= options.first and (seen + number) % options.every == options.turn % options.every
    ]
    return [
        msgspec.structs.replace(case, again=options.again)
        for case in found
        if options.named in case.name
        and options.victim in ("", case.victim)
        and options.how in (None, case.how)
    ]


def _run_one(case: Case, vfs: LossyVfs) -> None:
    try:
        run_case(case, vfs)
    except Exception as error:
        _say(Line(case.scenario, case, f"{type(error).__name__}: {error}"))


def _line(scenario: str, listed: Run) -> Line:
    kinds: Counter[str] = Counter()
    for names in listed.names.values():
        kinds.update(map(kind_of, names))
    return Line(scenario, digest=digest_of(listed), points=kinds.total(), kinds=dict(kinds.most_common()))


def _say(line: Line) -> None:
    sys.stdout.write(msgspec.json.encode(line).decode() + "\n")
    sys.stdout.flush()


# -- all of them -----------------------------------------------------------------------------------------


def _share_out(options: argparse.Namespace) -> Report:
    report, jobs = Report(), options.jobs
    command = [sys.executable, str(Path(__file__)), *sys.argv[1:]]
    workers = [
        subprocess.Popen(
            [*command, "--worker", f"{n}/{jobs}"],
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ | {"PYTHONHASHSEED": str(n + 1)},
        )
        for n in range(jobs)
    ]
    try:
        for worker in workers:
            for raw in worker.stdout or ():
                line = msgspec.json.decode(raw, type=Line)
                report.add(line)
                if line.failed is not None and not options.json:
                    print(f"{line.failed.told}\n  {line.error}\n  replay: {line.failed.replay}", flush=True)
                if report.failures and options.stop_at_first:
                    return report
            if worker.wait():
                raise RuntimeError("a process that ran the cases broke down")
    finally:
        for worker in workers:
            worker.kill()
            worker.wait()
            if worker.stdout is not None:
                worker.stdout.close()
    if not options.json:
        for line in report.scripts.values():
            print(_told(line, report.failed(line.scenario)))
    return report


def _told(line: Line, failed: int) -> str:
    return (
        f"{line.scenario}: {line.points} points of {len(line.kinds)} kinds, {line.crashes} crashes, "
        f"{failed} violations, {line.cpu_s:.0f} CPU s"
    )


# -- keeping ---------------------------------------------------------------------------------------------

_HEAD = f"""{HEADING}
Each row is one script of `python tests/simulation/crash_points.py --campaign`. A point is a call of one
server to its disk or its ports; a crash is one run in which a server fell at one.

| date | commit | script | points | crashes | violations | CPU s | machine |
|---|---|---|---|---|---|---|---|
"""


def _commit() -> str:
    command = ["git", "describe", "--always", "--dirty"]
    return subprocess.run(
        command, capture_output=True, text=True, cwd=RESULTS.parent, check=False
    ).stdout.strip()


def _keep(report: Report, commit: str, options: argparse.Namespace) -> None:
    text = RESULTS.read_text() if RESULTS.exists() else ""
    if HEADING not in text:
        text = text.rstrip("\n") + "\n" + _HEAD
    part = f" (1 in {options.every})" if options.every > 1 else ""
    machine = f"{os.cpu_count()} cores {platform.machine()}, Python {platform.python_version()}"
    rows, details = "", ""
    for line in report.scripts.values():
        rows += (
            f"| {datetime.now(UTC):%Y-%m-%d} | {commit} | {line.scenario}{part} | {line.points} | "
            f"{line.crashes} | {report.failed(line.scenario)} | {line.cpu_s:.0f} | {machine} |\n"
        )
        kinds = ", ".join(f"{kind} {count}" for kind, count in line.kinds.items())
        details += f"\n{commit}, {line.scenario}: {kinds}.\n"
    head, table, rest = text.partition("| date | commit | script |")
    lines = rest.splitlines(keepends=True)
    end = next((n for n, row in enumerate(lines) if n and not row.startswith("|")), len(lines))
    RESULTS.write_text(head + table + "".join(lines[:end]) + rows + details + "".join(lines[end:]))


if __name__ == "__main__":
    sys.exit(main())
