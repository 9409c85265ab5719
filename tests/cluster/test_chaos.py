"""Faults of every kind on real processes: one order explains all answers. `make chaos` runs longer."""

from __future__ import annotations

from pathlib import Path

import pytest
from cluster.chaos import Chaos
from simulation.register import Outcome
from simulation.witness import Violation
from support.nemesis import KINDS, schedule

SECONDS = 45
SEED = 1116


def test_one_order_explains_every_answer_through_all_faults(tmp_path: Path) -> None:
    """Linearizable if no index is believed, as the logs say, nothing acknowledged lost, equal states.

    And watchers are told each last change, in order, and never what was not so.
    """
    result = Chaos(tmp_path, seed=SEED).run(SECONDS)
    print(result)
    # How many of each is what a busy machine reaches, too: far below what is usual, and not nothing.
    assert result.operations > 500
    assert sum(result.fired.values()) >= 7, "a wipe waits for the voters, so the last ones may be left out"
    assert result.replaced >= 1, "a server lost its disk, and votes again"
    assert result.refusals >= 1, "the one that kept its id was refused until its peer was removed"
    assert result.acquired >= 1, "locks were taken"
    assert result.transacted >= 20, "transactions and fenced writes were carried out"
    assert result.woken > 50, "watchers were told of changes through all of it"
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


def test_a_fence_that_nobody_looks_at_is_found(tmp_path: Path) -> None:
    """And one who is late writes, which by the log's own rules was not to be done."""
    with pytest.raises(Violation):
        Chaos(tmp_path, seed=SEED, plant="a-fence-is-never-looked-at").run(8)


def test_a_schedule_is_the_same_each_time_and_leaves_no_kind_out() -> None:
    assert schedule(7, 60) == schedule(7, 60) != schedule(8, 60)
    long = schedule(7, 600)
    assert {fault.kind for fault in long} == set(KINDS)
    assert {fault.kind for fault in long[: len(KINDS)]} == set(KINDS), "each once before any comes again"
    ends = [fault.at_s + fault.lasts_s for fault in long]
    assert all(end < later.at_s for end, later in zip(ends, long[1:], strict=False)), "one at a time"
    assert ends[-1] <= 600
