"""Seeds of the simulator in CI. `make sim SEEDS=n FROM=k` runs as many as wanted."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from simulation.planted import BUGS

RUN = Path(__file__).parent / "run.py"
SEEDS = 50
HALF = SEEDS // 2
SEED_S = 20


def _run(*arguments: str, hash_seed: str = "0") -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, str(RUN), *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=os.environ | {"PYTHONHASHSEED": hash_seed},
    )


def _finish(process: subprocess.Popen[str], seeds: int) -> str:
    try:
        output, _ = process.communicate(timeout=seeds * SEED_S + 60)
    finally:
        process.kill()
        process.wait()
    return output


def test_no_seed_breaks_an_invariant() -> None:
    """Every seed ends with one state everywhere, progress, and a history that the log explains."""
    halves = [_run("--seeds", str(HALF), "--from", str(first)) for first in (1, 1 + HALF)]
    for process in halves:
        output = _finish(process, SEEDS)
        assert process.returncode == 0, output


def test_a_seed_gives_the_same_run_to_the_last_event() -> None:
    """In two processes with different hash seeds: nothing hangs on the order of a set or a dict."""
    runs = [_run("--seeds", "3", "--from", "7", hash_seed=str(n)) for n in (1, 2)]
    first, second = (_finish(run, 3) for run in runs)
    assert [line.split()[2] for line in first.splitlines()[:3]] == [
        line.split()[2] for line in second.splitlines()[:3]
    ]


@pytest.mark.parametrize("bug", sorted(BUGS))
def test_a_planted_bug_is_found(bug: str) -> None:
    """The simulator can fail: each of these breaks what it watches within a few seeds."""
    process = _run("--seeds", "12", "--from", "1", "--plant", bug, "--stop-at-first")
    output = _finish(process, 12)
    assert process.returncode == 1, f"{bug} survived 12 seeds:\n{output}"
    # A plant that no longer fits its place ends a run, too, and shows nothing.
    assert ": Violation: " in output, output
