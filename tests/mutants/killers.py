"""What a planted bug is held against: transcripts, model check, test modules, seeds of the simulator.

Killed means that a checker spoke: a line of a transcript changed, a law or an invariant broke, a test failed
by an assertion. An error of the plant itself (a name that is gone, a wrong argument) kills nothing: it is
told as broken, and the plant is to be mended.

With no bug (the control) the same code runs, and nothing may be killed.
"""

from __future__ import annotations

import re
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Literal, NamedTuple

import msgspec
import pytest
from mutants.bug import Bug
from mutants.bugs.every import BUGS
from simulation.run import run_seed
from support.lossy_vfs import registered
from support.raft_scopes import SCOPES, check
from support.raft_script import run as run_script

ROOT = Path(__file__).parent.parent.parent
SCRIPTS = ROOT / "tests/raft/testdata"
STATES = 40_000
FEW_STATES = 4_000
_FOLDERS = re.compile(r"/(tmp|dev/shm)/[^\s:'\"]*/")


class Verdict(msgspec.Struct):
    """`by` is the script, beginning, test or seed that killed; `tried` how many of them were, with that."""

    killer: str
    outcome: Literal["killed", "survived", "broken", "hung"] = "survived"
    by: str = ""
    told: str = ""
    tried: int = 0
    cpu_s: float = 0.0

    @property
    def seed(self) -> int:
        """The one that killed; 0 for what needs none."""
        return int(self.by.removeprefix("seed ")) if self.killer == "simulator" and self.by else 0


class Limits(NamedTuple):
    """The seeds that are tried, and whether only what is known to see the bug is."""

    first: int = 1
    seeds: int = 60
    known_only: bool = False


def is_verdict(error: BaseException) -> bool:
    """Did a checker speak, or is it a mistake of the plant? Invariants are assertions, the product's too.

    A test that looks at an answer which did not come (`told[0]`) says so as well.
    """
    if isinstance(error, BaseExceptionGroup):
        return any(is_verdict(one) for one in error.exceptions)
    if isinstance(error, LookupError | ValueError):
        return Path(_place_of(error)[0]).name.startswith("test_")
    return isinstance(error, AssertionError | pytest.fail.Exception)


def _place_of(error: BaseException) -> tuple[str, int]:
    """Where it was raised: file and line."""
    frames = traceback.extract_tb(error.__traceback__)
    return (frames[-1].filename, frames[-1].lineno or 0) if frames else ("", 0)


def transcripts(bug: Bug | None, limits: Limits) -> Verdict:
    verdict = Verdict("transcripts")
    paths = sorted(SCRIPTS.glob("*.txt"))
    if bug is not None and bug.script:
        about = [path for path in paths if path.stem == bug.script]
        paths = about if limits.known_only else about + [path for path in paths if path not in about]
    for path in paths:
        verdict.tried += 1
        written = path.read_text()
        try:
            now = run_script(written)
        except Exception as error:
            if _judged(verdict, path.stem, error):
                return verdict
            continue
        if now != written:
            return _killed(verdict, path.stem, _first_difference(written, now))
    return verdict


def _first_difference(written: str, now: str) -> str:
    pairs = zip(written.splitlines(), now.splitlines(), strict=False)
    before, after = next(((a, b) for a, b in pairs if a != b), ("the end", "more"))
    return f"{after.strip()!r} instead of {before.strip()!r}"


def model(bug: Bug | None, limits: Limits) -> Verdict:
    """The beginning that is known to lead to it, or some states of each."""
    verdict = Verdict("model")
    known = bug is not None and bug.scope
    for name, states in [(bug.scope, STATES)] if bug and known else [(name, FEW_STATES) for name in SCOPES]:
        try:
            _, result = check(name, states)
        except Exception as error:
            if _judged(verdict, name, error):
                return verdict
            continue
        verdict.tried += result.states
        if result.violation:
            return _killed(verdict, name, result.violation)
    return verdict


def tests(bug: Bug | None, limits: Limits) -> Verdict:
    verdict = Verdict("tests")
    paths = bug.tests if bug is not None else sorted({path for each in BUGS.values() for path in each.tests})
    judge = _Judge(verdict)
    quiet = ["-q", "--no-header", "--no-summary", "--show-capture=no", "--tb=no"]
    pytest.main([*quiet, "--rootdir", str(ROOT), *(str(ROOT / path) for path in paths)], plugins=[judge])
    return verdict


class _Judge:
    """Ends the run at the first test that fails by an assertion; what breaks otherwise is remembered."""

    def __init__(self, verdict: Verdict) -> None:
        self._verdict = verdict

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        self._verdict.tried += report.when == "call"

    def pytest_exception_interact(
        self, node: pytest.Item | pytest.Collector, call: pytest.CallInfo[object]
    ) -> None:
        assert call.excinfo is not None
        if _judged(self._verdict, node.nodeid, call.excinfo.value) and isinstance(node, pytest.Item):
            node.session.shouldstop = "killed"


def simulator(bug: Bug | None, limits: Limits) -> Verdict:
    verdict = Verdict("simulator")
    with registered("gemot-sim") as vfs:
        for seed in range(limits.first, limits.first + limits.seeds):
            verdict.tried += 1
            try:
                run_seed(seed, vfs)
            except Exception as error:
                if _judged(verdict, f"seed {seed}", error):
                    return verdict
    return verdict


KILLERS: dict[str, Callable[[Bug | None, Limits], Verdict]] = {
    "transcripts": transcripts,
    "model": model,
    "tests": tests,
    "simulator": simulator,
}
"""In the order of what they cost."""


def held_against(killer: str, bug: Bug | None, limits: Limits) -> Verdict:
    began = time.process_time()
    verdict = KILLERS[killer](bug, limits)
    verdict.cpu_s = round(time.process_time() - began, 1)
    return verdict


def _judged(verdict: Verdict, by: str, error: BaseException) -> bool:
    told = f"{type(error).__name__}: {error}"
    if is_verdict(error):
        _killed(verdict, by, told)
        return True
    file, line = _place_of(error)
    verdict.outcome, verdict.by = "broken", by
    verdict.told = _one_line(f"{Path(file).name}:{line}: {told}")
    return False


def _killed(verdict: Verdict, by: str, told: str) -> Verdict:
    verdict.outcome, verdict.by, verdict.told = "killed", by, _one_line(told)
    return verdict


def _one_line(text: str) -> str:
    """Without the folders that only this run had."""
    return _FOLDERS.sub("", " ".join(text.split("\n")[0].split()))[:160]
