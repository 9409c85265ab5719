"""The witness of real processes: what the log says against what clients were told, good and bad."""

from __future__ import annotations

import random

import pytest
from simulation.histories import Maker
from simulation.register import NEVER, Kind, Op, Outcome
from simulation.witness import Effect, Violation
from support.server_log import Names, check_effects

from gemot.server.model.command import RetryId

K, L = b"k", b"l"
EFFECTS = [
    Effect(5, "set", K, b"a", None),
    Effect(6, "set", L, b"x", None),
    Effect(7, "set", K, b"b", 5),
    Effect(8, "set", K, b"no", 5),
    Effect(9, "delete", L, None, None),
]


def _op(kind: Kind, began: int, value: bytes | None = None, key: bytes = K, answer: bool = True) -> Op:
    return Op(kind, key, began, began + 1, value, b"a" if kind is Kind.CAS else None, answer)


GOOD = [
    _op(Kind.PUT, 0, b"a"),
    _op(Kind.PUT, 10, b"x", L),
    _op(Kind.GET, 20, b"a"),
    _op(Kind.CAS, 30, b"b"),
    _op(Kind.CAS, 40, b"no", answer=False),
    _op(Kind.GET, 50, b"x", L),
    _op(Kind.DELETE, 60, None, L),
    _op(Kind.GET, 70, None, L),
    _op(Kind.GET, 80, b"b"),
]

BAD = {
    "acknowledged and not there": [_op(Kind.PUT, 0, b"lost")],
    "a delete that is not there": [_op(Kind.DELETE, 0)],
    "told true, refused by the log": [_op(Kind.CAS, 0, b"no")],
    "told false, done by the log": [_op(Kind.CAS, 0, b"b", answer=False)],
    "a stale read": [_op(Kind.CAS, 0, b"b"), _op(Kind.GET, 10, b"a")],
    "a read of nothing": [_op(Kind.PUT, 0, b"a"), _op(Kind.GET, 10, None)],
    "a read of what a compare did not write": [_op(Kind.GET, 0, b"no")],
    "two keys against the order of time": [
        _op(Kind.GET, 0, b"b"),
        _op(Kind.GET, 10, None, L),
        _op(Kind.PUT, 20, b"x", L),
    ],
    "another key's newer state was seen before": [_op(Kind.DELETE, 0, None, L), _op(Kind.GET, 10, b"a")],
    "a refused write was done": [Op(Kind.PUT, K, 0, 1, b"a", outcome=Outcome.REFUSED)],
}


def test_a_right_story_passes() -> None:
    assert check_effects(EFFECTS, GOOD) == len(GOOD)
    assert check_effects(EFFECTS, [Op(Kind.PUT, K, 0, NEVER, b"?", outcome=Outcome.UNKNOWN)]) == 0


@pytest.mark.parametrize("name", BAD)
def test_a_story_that_the_log_contradicts_is_refused(name: str) -> None:
    with pytest.raises(Violation):
        check_effects(EFFECTS, BAD[name])


def test_a_value_in_two_entries_was_applied_twice() -> None:
    with pytest.raises(Violation, match="applied before"):
        check_effects([*EFFECTS, Effect(11, "set", K, b"a", None)], [])


def test_writes_in_the_order_that_they_took_effect_always_pass() -> None:
    """Clients one at a time, their writes logged as they go: no such story is ever refused."""
    for seed in range(200):
        ops = Maker(random.Random(seed), clients=1).history(40)
        index, effects = 10, []
        indexes: dict[bytes | None, int] = {None: 0}
        for op in ops:
            index += 1
            if op.writes:
                indexes[op.value] = index
            if op.kind is not Kind.GET:
                compares = op.kind in (Kind.CAS, Kind.DELETE_CAS)
                cas = indexes[op.expected] if compares else None
                kind = "set" if op.writes else "delete"
                effects.append(Effect(index, kind, op.key, op.value, cas))
        assert check_effects(effects, ops) == 40


def test_a_second_try_of_a_write_has_no_effect_even_when_it_knows_more_answers() -> None:
    """A retry tells anew how many were answered; its name is its origin's and its number."""
    names = Names()
    assert names.is_first(RetryId(b"o", 1, 0))
    assert names.is_first(RetryId(b"o", 3, 0))
    assert not names.is_first(RetryId(b"o", 3, 1)), "a second try"
    assert not names.is_first(RetryId(b"o", 1, 1)), "answered long ago"
    assert names.is_first(RetryId(b"o", 4, 2))
    assert not names.is_first(RetryId(b"o", 2, 0)), "given up before it came"
    assert names.is_first(RetryId(b"other", 2, 0))
    assert names.is_first(None)
    assert names.is_first(None), "without a name each is its own"
