"""Jepsen's lock-set in the simulator: two seeds in CI, `make lock-set WRITES=n` for as many as wanted."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from simulation.families.lock_set import CHECKED, GUARDED, UNFENCED
from simulation.lock_set import Report, run_one
from support.lossy_vfs import registered

PROGRAM = Path(__file__).parent / "lock_set.py"
SEEDS = (3, 6)


@pytest.fixture(scope="module")
def report() -> Report:
    report = Report()
    with registered("gemot-sim") as vfs:
        for seed in SEEDS:
            run_one(seed, vfs, report)
    return report


def test_a_lock_alone_loses_what_its_holders_wrote(report: Report) -> None:
    """The control: the same holders, the same stops, in the same run."""
    assert report.stops > 0
    assert report.ways[UNFENCED].lost > 0


@pytest.mark.parametrize("way", [CHECKED, GUARDED])
def test_fenced_writes_lose_nothing(report: Report, way: str) -> None:
    tally = report.ways[way]
    assert tally.told >= 500
    assert tally.refused > 0, "no holder was late: this shows nothing"
    assert tally.lost == 0


def test_restores_take_back_what_came_after_their_snapshots(report: Report) -> None:
    """So what the others show, they show through restores."""
    assert report.restores > 10
    assert all(tally.taken_back > 0 for tally in report.ways.values())


FOUND = {
    "a-fence-is-never-looked-at": "are lost",
    "a-guard-forgets-its-greatest-fence": "are lost",
    "a-fence-is-the-lock-index": "was given before",
}


@pytest.mark.parametrize("bug", FOUND)
def test_a_fence_that_does_not_hold_loses_some(bug: str) -> None:
    """What is planted is found by the set alone: no model says what a fence is."""
    command = [sys.executable, str(PROGRAM), "--plant", bug, "--writes", "12000", "--from", str(SEEDS[0])]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 1
    assert FOUND[bug] in done.stdout, done.stdout + done.stderr
