"""What a restore takes back, and what it brings back."""

from __future__ import annotations

import pytest
from simulation.lineage import Lineage

CASES: list[tuple[str, list[tuple[int, int]], set[int]]] = [
    ("without a restore all lives", [], set(range(60))),
    ("what came after the snapshot is gone", [(40, 20)], {*range(21), *range(40, 60)}),
    ("an older one takes more", [(30, 20), (40, 10)], {*range(11), *range(40, 60)}),
    ("one of after a restore keeps both", [(30, 20), (50, 40)], {*range(21), *range(30, 41), *range(50, 60)}),
    ("one of before a restore undoes it", [(30, 10), (50, 25)], {*range(26), *range(50, 60)}),
    ("twice the same is as once", [(30, 20), (40, 20)], {*range(21), *range(40, 60)}),
]


@pytest.mark.parametrize(
    ("restores", "living"), [case[1:] for case in CASES], ids=[case[0] for case in CASES]
)
def test_what_lives_is_what_made_the_present_state(restores: list[tuple[int, int]], living: set[int]) -> None:
    lineage = Lineage()
    for at, of in restores:
        lineage.restore(at, of)
    assert {index for index in range(60) if lineage.lives(index)} == living
