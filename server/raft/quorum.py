"""Majority arithmetic. Only voters count: callers hand in the voters' values and nobody else's."""

from __future__ import annotations

from collections.abc import Collection, Sequence


def majority(count: int) -> int:
    """How many of `count` voters decide."""
    assert count > 0, "nobody decides nothing"
    return count // 2 + 1


def reached(values: Sequence[int]) -> int:
    """The highest value that a majority has reached, one value for each voter."""
    return sorted(values, reverse=True)[majority(len(values)) - 1]


def won(voters: Collection[str], granted: Collection[str]) -> bool:
    return sum(1 for voter in voters if voter in granted) >= majority(len(voters))


def lost(voters: Collection[str], refused: Collection[str]) -> bool:
    """No majority is left that could still grant."""
    return sum(1 for voter in voters if voter not in refused) < majority(len(voters))
