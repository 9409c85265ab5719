"""Planted bugs, one at a time, against everything that ought to see them.

python tests/mutants/run.py                     each bug until something kills it, cheapest first
python tests/mutants/run.py --only no-sync --every     one bug, with what each killer says
python tests/mutants/run.py --every --record    each bug against all killers that can see it, into RESULTS.md

Each try is a process of its own, so that no plant outlives it. First comes the control: the same killers
without a bug, and nothing may be killed.
"""

from __future__ import annotations

import argparse
import resource
import signal
import subprocess
import sys
from pathlib import Path

import msgspec

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).parent.parent)

from mutants import results
from mutants.bug import Bug, planted
from mutants.bugs.every import BUGS
from mutants.killers import KILLERS, Limits, Verdict, held_against

CONTROL_SEEDS = 12
ENOUGH_SEEDS = 10
"""Where something else has killed it, the simulator has only so many."""

MOST_CPU_S = 150
MOST_BYTES = 4 << 30
"""What a process may take: a bug may make it turn for ever, or write without end."""


def main() -> int:
    options = _parse()
    if options.hold:
        return _hold(options)
    lines: list[results.Line] = []
    for name in _chosen(options):
        line = _control() if name == results.CONTROL else _try_all(BUGS[name], options)
        lines.append(line)
        if options.record:
            results.record(line)
        if not options.json:
            _tell(line)
    wrong = [line.name for line in lines if not line.as_it_should]
    if options.json:
        print(msgspec.json.encode(lines).decode())
    else:
        print(f"{len(lines)} held against what can see them; not as it should be: {wrong}")
    return 1 if wrong else 0


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", default="", help="bugs by name, with commas")
    parser.add_argument("--rotation", default="", help="K/N: each N-th bug from the K-th on")
    parser.add_argument("--seeds", type=int, default=60, help="seeds of the simulator before a bug survives")
    parser.add_argument("--json", action="store_true", help="print JSON, and nothing else")
    parser.add_argument("--against", choices=list(KILLERS), help="hold them against this killer alone")
    parser.add_argument("--every", action="store_true", help="try all killers, not until one has killed")
    parser.add_argument("--record", action="store_true", help="keep it in RESULTS.md")
    parser.add_argument("--hold", default="", help=argparse.SUPPRESS)
    parser.add_argument("--from", dest="first", type=int, default=1, help=argparse.SUPPRESS)
    parser.add_argument("--known", action="store_true", help=argparse.SUPPRESS)
    return parser.parse_args()


def _chosen(options: argparse.Namespace) -> list[str]:
    """The control goes along when all bugs are tried, and when it is named."""
    if options.only:
        return str(options.only).split(",")
    if options.rotation:
        number, step = (int(part) for part in options.rotation.split("/"))
        return list(BUGS)[number::step]
    return [results.CONTROL, *BUGS]


# -- one process -----------------------------------------------------------------------------------


def _hold(options: argparse.Namespace) -> int:
    bug = None if options.hold == results.CONTROL else BUGS[options.hold]
    limits = Limits(options.first, options.seeds, options.known)
    resource.setrlimit(resource.RLIMIT_CPU, (MOST_CPU_S, MOST_CPU_S))
    resource.setrlimit(resource.RLIMIT_AS, (MOST_BYTES, MOST_BYTES))
    with planted(bug):
        verdict = held_against(options.against, bug, limits)
    print(msgspec.json.encode(verdict).decode())
    return 0


def hold(name: str, killer: str, limits: Limits) -> Verdict:
    """Plant it in a fresh process and hold it against that killer."""
    command = [sys.executable, str(Path(__file__)), "--hold", name, "--against", killer]
    command += ["--from", str(limits.first), "--seeds", str(limits.seeds)]
    command += ["--known"] if limits.known_only else []
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode in (-signal.SIGXCPU, -signal.SIGKILL):
        return Verdict(killer, "hung")
    last = done.stdout.splitlines()[-1:]
    if done.returncode or not last:
        return Verdict(killer, "broken", told="".join(done.stderr.splitlines()[-1:]))
    return msgspec.json.decode(last[0], type=Verdict)


# -- all of them -----------------------------------------------------------------------------------


def _control() -> results.Line:
    limits = Limits(1, CONTROL_SEEDS)
    return results.Line(results.CONTROL, [hold(results.CONTROL, killer, limits) for killer in KILLERS])


def _try_all(bug: Bug, options: argparse.Namespace) -> results.Line:
    """Cheapest first; until one has killed it, or all that can when it is told or kept."""
    line = results.Line(bug.name, [])
    for killer in [options.against] if options.against else list(KILLERS):
        if killer not in bug.killers or (killer == "model" and line.killed and not bug.scope):
            continue
        if line.killed and not options.every:
            break
        seeds = min(options.seeds, ENOUGH_SEEDS) if line.killed else options.seeds
        line.verdicts.append(hold(bug.name, killer, Limits(1, seeds)))
    return line


def _tell(line: results.Line) -> None:
    print(f"{line.name}: {'as it should be' if line.as_it_should else 'NOT AS IT SHOULD BE'}")
    for verdict in line.verdicts:
        by = f" by {verdict.by}: {verdict.told}" if verdict.by or verdict.told else ""
        print(
            f"    {verdict.killer}: {verdict.outcome}{by} ({verdict.tried} tried, {verdict.cpu_s} s)",
            flush=True,
        )


if __name__ == "__main__":
    sys.exit(main())
