"""Majorities, by table."""

from __future__ import annotations

import pytest

from gemot.server.raft import quorum


@pytest.mark.parametrize(("count", "expected"), [(1, 1), (2, 2), (3, 2), (4, 3), (5, 3), (6, 4), (7, 4)])
def test_a_majority_is_more_than_half(count: int, expected: int) -> None:
    assert quorum.majority(count) == expected


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([7], 7),
        ([7, 3], 3),
        ([7, 3, 5], 5),
        ([0, 0, 9], 0),
        ([9, 9, 0], 9),
        ([1, 2, 3, 4], 2),
        ([5, 4, 3, 2, 1], 3),
        ([-1, -1, 8], -1),
    ],
)
def test_reached_is_the_highest_value_that_a_majority_has(values: list[int], expected: int) -> None:
    assert quorum.reached(values) == expected


def test_nobody_decides_nothing() -> None:
    with pytest.raises(AssertionError):
        quorum.majority(0)


@pytest.mark.parametrize(
    ("voters", "granted", "won"),
    [
        ("a", "a", True),
        ("ab", "a", False),
        ("abc", "ab", True),
        ("abc", "a", False),
        ("abc", "axyz", False),
        ("abcde", "abc", True),
        ("abcd", "ab", False),
    ],
)
def test_only_voters_win_a_vote(voters: str, granted: str, won: bool) -> None:
    assert quorum.won(voters, granted) is won


@pytest.mark.parametrize(
    ("voters", "refused", "lost"),
    [
        ("abc", "b", False),
        ("abc", "bc", True),
        ("abc", "bxyz", False),
        ("abcd", "ab", True),
        ("a", "", False),
    ],
)
def test_a_vote_is_lost_when_no_majority_is_left(voters: str, refused: str, lost: bool) -> None:
    assert quorum.lost(voters, refused) is lost
