"""When a majority of the voters counts as connected: the seconds in which progress is due hang on it."""

from __future__ import annotations

import itertools

from support.reach import Reach

NAMES = ("a", "b", "c", "d", "e")


def _whole(reach: Reach) -> bool:
    return reach.majority[-1][1]


def test_two_of_five_may_be_down_and_three_may_not() -> None:
    reach = Reach(NAMES)
    assert _whole(reach)
    reach.down("a", "b")
    assert _whole(reach)
    reach.down("c")
    assert not _whole(reach)
    reach.up("a")
    assert _whole(reach)


def test_a_majority_is_connected_each_to_each_both_ways() -> None:
    reach = Reach(NAMES)
    reach.cut([(a, b) for a, b in itertools.permutations(NAMES, 2) if b == "a"])
    assert _whole(reach), "the four others are"
    beside = {frozenset(pair) for pair in zip(NAMES, NAMES[1:] + NAMES[:1], strict=True)}
    reach.cut([pair for pair in itertools.permutations(NAMES, 2) if frozenset(pair) not in beside])
    assert not _whole(reach), "in a ring each sees two, and no three see each other"
    reach.cut(())
    assert _whole(reach)


def test_only_voters_make_a_majority() -> None:
    reach = Reach(NAMES)
    reach.down("a", "b")
    reach.voters(("a", "b", "c"))
    assert not _whole(reach), "two of three voters are down, whatever else is up"
    reach.voters(("a", "c", "d"))
    assert _whole(reach)


def test_a_voter_that_is_gone_counts_and_is_not_up() -> None:
    reach = Reach(NAMES)
    reach.voters(("a", "b", "c", "an old id", "another"))
    assert _whole(reach)
    reach.down("a")
    assert not _whole(reach)


def test_nothing_is_noted_while_the_voters_stay() -> None:
    reach = Reach(NAMES)
    before = len(reach.majority)
    reach.voters(reversed(NAMES))
    assert len(reach.majority) == before
