"""The invariants of the simulator find what is wrong, and nothing else."""

from __future__ import annotations

import pytest
from simulation.invariants import lost_entries

KEPT = {3: 1, 4: 1, 5: 2}
"""Synced before: entries 3 to 5, of these terms."""


@pytest.mark.parametrize(
    ("now", "lost"),
    [
        pytest.param({3: 1, 4: 1, 5: 2}, [], id="all there"),
        pytest.param({3: 1, 4: 1, 5: 2, 6: 2}, [], id="and one more that was not synced"),
        pytest.param({4: 1, 5: 2}, [], id="the first is in a snapshot"),
        pytest.param({3: 1, 4: 1}, [5], id="the last is lost"),
        pytest.param({3: 1}, [4, 5], id="the end is lost"),
        pytest.param({3: 1, 5: 2}, [4], id="one in the middle is lost"),
        pytest.param({3: 1, 4: 3, 5: 3}, [], id="a later leader replaced the end"),
        pytest.param({3: 1, 4: 3}, [], id="a later leader replaced the end by less"),
        pytest.param({3: 1, 4: 2}, [5], id="a leader of the same term did"),
        pytest.param({3: 1, 4: 1, 5: 1}, [5], id="an earlier leader did"),
    ],
)
def test_a_synced_entry_is_there_unless_a_later_leader_replaced_it(
    now: dict[int, int], lost: list[int]
) -> None:
    assert lost_entries(KEPT, now, min(now), max(now)) == lost
