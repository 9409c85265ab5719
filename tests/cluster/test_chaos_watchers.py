"""What watchers of the chaos run were told, judged by values and times alone: good and bad."""

from __future__ import annotations

import pytest
from simulation.register import Kind, Op, Outcome
from simulation.watches import Awoken, Watched
from simulation.witness import Effect, Violation
from support.chaos_clients import spell_of
from support.chaos_watchers import check_told

ONE, TWO, OTHER = b"chaos/7/0", b"chaos/7/1", b"chaos/8/0"
KEY = Watched(ONE)
SPELL = Watched(b"chaos/7/", prefix=True)

EFFECTS = [
    Effect(5, "set", ONE, b"a", None),
    Effect(6, "set", TWO, b"x", None),
    Effect(7, "set", OTHER, b"o", None),
    Effect(8, "set", ONE, b"b", 5),
    Effect(9, "delete", TWO, None, None),
]
OPS = [
    Op(Kind.PUT, ONE, 0, 10, b"a"),
    Op(Kind.PUT, TWO, 10, 20, b"x"),
    Op(Kind.CAS, ONE, 30, 40, b"b", b"a"),
    Op(Kind.CAS, ONE, 41, 42, b"never", b"a", answer=False),
    Op(Kind.PUT, ONE, 43, 44, b"lost", outcome=Outcome.UNKNOWN),
    Op(Kind.DELETE, TWO, 50, 60),
]


def _told(watched: Watched, began: int, asked: int, index: int, **values: bytes) -> Awoken:
    keys = {"one": ONE, "two": TWO}
    return Awoken("w", watched, began, asked, index, {keys[name]: value for name, value in values.items()})


GOOD = [
    _told(SPELL, 5, 0, 6, one=b"a", two=b"x"),
    _told(SPELL, 25, 6, 8, one=b"b", two=b"x"),
    _told(SPELL, 45, 8, 9, one=b"b"),
]

OLD = _told(KEY, 15, 0, 5, one=b"a")

BAD = {
    "the state is not that of its index": ([_told(SPELL, 45, 0, 8, one=b"a")], "not what was there"),
    "a compare was acknowledged before it asked": ([_told(KEY, 45, 0, 5, one=b"a")], "older than"),
    "nothing new, though a write was acknowledged": ([OLD, _told(KEY, 45, 5, 5, one=b"a")], "older than"),
    "woken by another spell": ([_told(SPELL, 15, 6, 7, one=b"a", two=b"x")], "nothing had changed"),
    "the index goes back": ([GOOD[1], _told(SPELL, 26, 0, 6, one=b"a", two=b"x")], "goes back"),
}


def test_a_right_story_passes_and_is_counted() -> None:
    assert check_told(GOOD, EFFECTS, OPS, {"w"}) == len(GOOD)
    assert check_told([], EFFECTS, OPS, set()) == 0


@pytest.mark.parametrize("name", BAD)
def test_a_broken_promise_is_seen(name: str) -> None:
    told, match = BAD[name]
    with pytest.raises(Violation, match=match):
        check_told(told, EFFECTS, OPS, set())


def test_only_who_was_asked_at_last_must_know_the_last_state() -> None:
    assert check_told(GOOD[:2], EFFECTS, OPS, set()) == 2
    with pytest.raises(Violation, match="was missed"):
        check_told(GOOD[:2], EFFECTS, OPS, {"w"})


def test_a_spell_is_of_itself_and_has_its_keys() -> None:
    assert spell_of(ONE) == spell_of(TWO) == spell_of(SPELL.key) == SPELL.key != spell_of(OTHER)
