"""The checker itself: good histories pass, each kind of bad one is caught."""

from __future__ import annotations

import pytest
from simulation.families.kv import check
from simulation.witness import Effect, Seen, Violation


def _set(
    index: int, value: bytes, began: int, ended: int, cas: int | None = None, result: object = True
) -> Seen:
    return Seen("set", b"k", began, ended, index, value, cas, result)


def _get(index: int, result: bytes | None, began: int, ended: int) -> Seen:
    return Seen("get", b"k", began, ended, index, None, None, result)


def _effect(index: int, value: bytes, cas: int | None = None) -> Effect:
    return Effect(index, "set", b"k", value, cas)


GOOD = [_set(5, b"a", 0, 10), _get(5, b"a", 11, 12), _set(7, b"b", 13, 20), _get(9, b"b", 21, 22)]
EFFECTS = [_effect(5, b"a"), _effect(7, b"b")]


def test_a_history_in_order_is_explained() -> None:
    assert check(GOOD, EFFECTS) == 4


@pytest.mark.parametrize(
    ("history", "effects", "why"),
    [
        ([_set(5, b"a", 0, 10)], [], "acknowledged"),
        ([_set(5, b"a", 0, 10)], [_effect(5, b"x")], "acknowledged"),
        ([*GOOD, _get(5, b"a", 30, 31)], EFFECTS, "took effect before"),
        ([*GOOD, _get(9, b"a", 30, 31)], EFFECTS, "read"),
        ([*GOOD, _get(9, None, 30, 31)], EFFECTS, "read"),
        ([_set(5, b"a", 0, 10, cas=3, result=True)], [_effect(5, b"a", cas=3)], "rules say"),
        ([_set(5, b"a", 0, 10, cas=0, result=False)], [_effect(5, b"a", cas=0)], "rules say"),
        ([_set(5, b"a", 0, 10), _set(4, b"b", 11, 12)], [_effect(5, b"a"), _effect(4, b"b")], "before"),
        ([], [_effect(5, b"a"), _effect(5, b"b")], "two effects"),
    ],
)
def test_a_bad_history_is_caught(history: list[Seen], effects: list[Effect], why: str) -> None:
    with pytest.raises(Violation, match=why):
        check(history, effects)


def test_an_unknown_write_may_have_happened_or_not() -> None:
    assert check([_get(8, b"u", 0, 1)], [_effect(6, b"u")]) == 1
    assert check([_get(8, None, 0, 1)], []) == 1
