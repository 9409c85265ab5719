"""What came of holding the planted bugs against the killers: verdicts.json, and RESULTS.md of it for people.

CI goes by verdicts.json: what is known to kill a bug, so that it needs one seed and not sixty.
"""

from __future__ import annotations

import os
import platform
import subprocess
from datetime import UTC, datetime
from pathlib import Path

import msgspec
from mutants.bugs.every import BUGS
from mutants.killers import KILLERS, Verdict

HERE = Path(__file__).parent
RESULTS = HERE / "RESULTS.md"
VERDICTS = HERE / "verdicts.json"
CONTROL = "control"


class Line(msgspec.Struct):
    """One bug, or the control, and what each killer that was tried says."""

    name: str
    verdicts: list[Verdict]
    date: str = ""
    commit: str = ""

    @property
    def killed(self) -> bool:
        return any(verdict.outcome == "killed" for verdict in self.verdicts)

    @property
    def as_it_should(self) -> bool:
        if self.name == CONTROL:
            return all(verdict.outcome == "survived" for verdict in self.verdicts)
        return self.killed

    @property
    def quickest(self) -> Verdict | None:
        """What kills it soonest. A seed comes last: with each change of the simulator it is another run."""
        found = [verdict for verdict in self.verdicts if verdict.outcome == "killed"]
        return min(found, key=lambda v: (v.seed > 0, v.cpu_s), default=None)

    def of(self, killer: str) -> Verdict | None:
        return next((verdict for verdict in self.verdicts if verdict.killer == killer), None)


def known() -> dict[str, Line]:
    return msgspec.json.decode(VERDICTS.read_bytes(), type=dict[str, Line]) if VERDICTS.exists() else {}


def record(line: Line) -> None:
    """Take it into both files. What killers said that were not tried now stays; bugs that are gone go."""
    lines = known()
    said = {
        v.killer: v for before in (lines.get(line.name), line) if before is not None for v in before.verdicts
    }
    verdicts = [said[killer] for killer in KILLERS if killer in said]
    lines[line.name] = Line(line.name, verdicts, f"{datetime.now(UTC):%Y-%m-%d}", _commit())
    lines = {name: lines[name] for name in (CONTROL, *BUGS) if name in lines}
    VERDICTS.write_bytes(msgspec.json.format(msgspec.json.encode(lines), indent=2) + b"\n")
    RESULTS.write_text(_table(lines))


def _commit() -> str:
    command = ["git", "rev-parse", "--short", "HEAD"]
    return subprocess.run(command, capture_output=True, text=True, cwd=HERE, check=False).stdout.strip()


_HEAD = """# Planted bugs

Written by `tests/mutants/run.py --every --record`: each bug is one rule of Gemot left out, planted in a
process of its own and held against the killers that can reach it. A number is how many were tried until one
saw it (scripts, states, tests, seeds), or that none of so many did; empty was not tried. Where something
else had seen it, the simulator was given a few seeds only. Rows: the list in
`tests/raft/testdata/README.md`. Machine: {machine}.

**{killed} of {all} killed**: {by}{spread}. The control, all killers without a bug: {control}.

| bug | rows | {killers} | CPU s | seen as | recorded |
|{line}
"""


def _table(lines: dict[str, Line]) -> str:
    bugs = [line for name, line in lines.items() if name != CONTROL]
    seeds = sorted(v.tried for line in bugs if (v := line.of("simulator")) and v.outcome == "killed")
    control = lines.get(CONTROL)
    tried = [f"{v.killer} {v.outcome} {v.tried:,}" for v in control.verdicts] if control is not None else []
    head = _HEAD.format(
        machine=f"{os.cpu_count()} cores {platform.machine()}, Python {platform.python_version()}",
        killed=sum(line.killed for line in bugs),
        all=len(BUGS),
        by=", ".join(f"{killer} {sum(_kills(line, killer) for line in bugs)}" for killer in KILLERS),
        spread=f"; seeds needed: median {seeds[len(seeds) // 2]}, most {seeds[-1]}" if seeds else "",
        control=", ".join(tried) or "not recorded",
        killers=" | ".join(KILLERS),
        line="---|" * (len(KILLERS) + 5),
    )
    return head + "".join(map(_row, bugs))


def _kills(line: Line, killer: str) -> bool:
    verdict = line.of(killer)
    return verdict is not None and verdict.outcome == "killed"


def _row(line: Line) -> str:
    bug = BUGS[line.name]
    cells = " | ".join(_cell(line.of(killer)) for killer in KILLERS)
    best = next((v for v in reversed(line.verdicts) if v.outcome == "killed"), None)
    seen = f"{best.by}: {best.told}" if best is not None else "**survives**"
    spent = sum(verdict.cpu_s for verdict in line.verdicts)
    rows = ", ".join(map(str, bug.rows))
    seen = seen.replace("|", "/").replace("_", "\\_")
    return f"| {bug.name} | {rows} | {cells} | {spent:.0f} | {seen} | {line.date}, {line.commit} |\n"


def _cell(verdict: Verdict | None) -> str:
    if verdict is None:
        return ""
    if verdict.outcome == "survived":
        return f"not in {verdict.tried:,}"
    return f"{verdict.tried:,}" if verdict.outcome == "killed" else verdict.outcome
