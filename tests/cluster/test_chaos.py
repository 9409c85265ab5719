"""Faults of every kind on real processes: one order explains all answers. `make chaos` runs longer."""

from __future__ import annotations

from pathlib import Path

import pytest
from cluster.chaos import Chaos
from simulation.register import Outcome
from simulation.witness import Violation
from support.nemesis import KINDS, WIPE, schedule

SECONDS = 45
SEED = 28


def test_one_order_explains_every_answer_through_all_faults(tmp_path: Path) -> None:
    """Linearizable if no index is believed, as the logs say, nothing acknowledged lost, equal states."""
    result = Chaos(tmp_path, seed=SEED).run(SECONDS)
    print(result)
    assert result.operations > 1_000
    assert sum(result.fired.values()) == len(schedule(SEED, SECONDS)) >= 7
    # Far below what is usual (19 of 20), so that only a cluster that stands still fails and no busy machine.
    assert result.progress >= result.windows // 4, "a connected majority makes progress"


def test_the_same_without_fsync_loses_writes(tmp_path: Path) -> None:
    """The test above can fail: with syncs that do nothing, killing all takes what was acknowledged."""
    with pytest.raises(Violation, match=f"not linearizable.*{Outcome.DONE}"):
        Chaos(tmp_path, seed=SEED, no_sync=True).run(3)


def test_a_stale_read_is_found(tmp_path: Path) -> None:
    """And with reads that ask nobody whether they are fresh, some follower tells an old value."""
    with pytest.raises(Violation, match="not linearizable"):
        Chaos(tmp_path, seed=SEED, plant="stale-read").run(5)


def test_a_schedule_is_the_same_each_time_and_leaves_no_kind_out() -> None:
    assert schedule(7, 60) == schedule(7, 60) != schedule(8, 60)
    long = schedule(7, 600)
    assert {fault.kind for fault in long} == set(KINDS)
    assert {fault.kind for fault in long[: len(KINDS)]} == set(KINDS), "each once before any comes again"
    assert WIPE in {fault.kind for fault in schedule(7, 600, wipe=True)}
    ends = [fault.at_s + fault.lasts_s for fault in long]
    assert all(end < later.at_s for end, later in zip(ends, long[1:], strict=False)), "one at a time"
    assert ends[-1] <= 600
