"""Storms over pure nodes: many short seeds, every law after every event. A failure names its seed."""

from __future__ import annotations

import pytest
from support.raft_simulation import Storm

SEEDS = 200
_GROUP = 10


@pytest.mark.parametrize("first", range(0, SEEDS, _GROUP))
def test_no_storm_breaks_a_law_and_calm_brings_agreement(first: int) -> None:
    for seed in range(first, first + _GROUP):
        try:
            Storm(seed).run()
        except AssertionError as error:
            raise AssertionError(f"seed {seed}: {error}") from error
