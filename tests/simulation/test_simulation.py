"""Seeds of the simulator in CI. `make sim SEEDS=n FROM=k` runs as many as wanted."""

from __future__ import annotations

import os
import subprocess
import sys

import msgspec
import pytest
from simulation.campaign import Report
from simulation.faults.every import FAULTS, KNOWN
from support.seeds_beside import RUN, SEEDS, SeedsBeside

SEED_S = 30
MOST = 30
"""Seeds within which a planted bug is met."""

AIMED = 10
"""Seeds in which a fault strikes that is aimed at."""

PLANTED = (
    "a-restore-begins-no-epoch",
    "ack-before-sync",
    "amnesia",
    "apply-twice",
    "deletes-are-refused-for-want-of-space",
    "early-bookmark",
    "early-list",
    "lost-wake-up",
    "no-sync",
    "stale-read",
    "stale-read-in-a-black-box",
    "stale-watch",
    "vote-twice",
    "wake-for-nothing",
)
"""In every run; all the others have their turn in `tests/mutants/`."""


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


@pytest.fixture(scope="module")
def report(seeds_beside: SeedsBeside) -> Report:
    """One run of them, on all cores; it began with the session."""
    return msgspec.json.decode(seeds_beside.finish(), type=Report)


def test_no_seed_breaks_an_invariant(report: Report) -> None:
    """Every seed ends with one state everywhere, progress, and a history that the log explains."""
    assert report.failed == [], f"replay: python {RUN} --from {report.failed[0]} --trace"
    assert report.passed == SEEDS, (
        f"this machine did {report.passed} seeds in {report.took_s:.0f} s: too slow"
    )


def test_every_seed_did_enough_to_prove_something(report: Report) -> None:
    """300 operations of 3 kinds in 60 virtual seconds; what falls short counts as invalid, not as passed."""
    assert report.invalid == []
    assert report.virtual_s >= 60 * report.passed


def test_histories_are_checked_without_believing_an_index(report: Report) -> None:
    """A key on which the search comes to no end is a fault of the test: fewer than one in a thousand."""
    assert report.black_box >= 300 * report.passed
    assert report.undecided * 1_000 <= report.keys


def test_watchers_are_told_every_change_and_nothing_else(report: Report) -> None:
    assert report.watched >= 100 * report.passed


def test_every_damage_of_a_disk_came_to_an_end_that_is_known(report: Report) -> None:
    """One that was believed fails its seed; each of the usual ends must have been met."""
    assert sum(report.damage.values()) >= report.passed
    assert all(report.damage[end] for end in ("noticed", "overwritten", "gone", "unsynced"))


def test_every_kind_of_fault_struck(report: Report) -> None:
    """The rarest meet nobody whom they may strike in one set of seeds of a hundred: those are aimed at."""
    assert len(FAULTS) >= 40
    missed = [name for name in KNOWN if name not in report.totals.fired]
    assert len(missed) <= 2
    assert [name for name in missed if not _strikes(name)] == []


def _strikes(fault: str) -> bool:
    process = _run("--seeds", str(AIMED), "--faults", fault, "--json")
    aimed = msgspec.json.decode(_finish(process, AIMED).splitlines()[-1], type=Report)
    return aimed.failed == [] and aimed.totals.fired.get(fault, 0) > 0


def test_each_operation_met_each_group_of_faults(report: Report) -> None:
    """The table has no empty line: whatever struck, operations were under way."""
    met = {fault for row in report.totals.table.values() for fault in row}
    assert [fault for fault in FAULTS if report.totals.fired.get(fault, 0) >= 20 and fault not in met] == []


def test_memory_does_not_grow_with_the_seeds(report: Report) -> None:
    assert report.rss_mb < 600


def test_a_seed_gives_the_same_run_to_the_last_event() -> None:
    """In two processes with different hash seeds: nothing hangs on the order of a set or a dict."""
    runs = [_run("--seeds", "4", "--from", "7", "--jobs", "1", hash_seed=str(n)) for n in (1, 2)]
    first, second = (_finish(run, 4).splitlines() for run in runs)
    digests = [line.split()[2] for line in first if line.startswith("seed ")]
    assert digests == [line.split()[2] for line in second if line.startswith("seed ")]
    assert len(set(digests)) == 4


@pytest.mark.parametrize("bug", PLANTED)
def test_a_planted_bug_is_found(bug: str) -> None:
    """The simulator can fail: each of these breaks what it watches within a few seeds."""
    process = _run("--seeds", str(MOST), "--plant", bug, "--stop-at-first")
    output = _finish(process, MOST)
    assert process.returncode == 1, f"{bug} survived {MOST} seeds:\n{output}"
    assert "Violation: " in output, f"{bug} broke the simulator instead of what it watches:\n{output}"
