"""The table of members, its shared beginning, and turns that miss nobody."""

from __future__ import annotations

from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gemot.agent.gossip.members import FEW, HERE, Members, Rounds
from gemot.agent.gossip.message import Facts, Record, Status


def record(number: int, status: Status = Status.ALIVE, incarnation: int = 0) -> Record:
    return Record(Facts(f"id{number}", f"node{number}", "10.0.0.1", 8301), incarnation, status)


def table(count: int, base: Members | None = None) -> Members:
    members = Members(base)
    for number in range(count):
        members.put(record(number), 0)
    return members


_steps = st.lists(st.tuples(st.integers(0, 7), st.sampled_from([*Status, None])), max_size=40)


@given(shared=st.integers(0, 6), steps=_steps)
def test_a_table_with_a_shared_beginning_is_like_any_other(
    shared: int, steps: list[tuple[int, Status | None]]
) -> None:
    """Whatever is put and dropped; and the one it shares stays what it was."""
    base = table(shared)
    one = Members(base)
    model = {f"id{number}": record(number) for number in range(shared)}
    for number, status in steps:
        if status is not None:
            one.put(record(number, status), 5)
            model[f"id{number}"] = record(number, status)
        elif f"id{number}" in model:
            one.drop(f"id{number}")
            del model[f"id{number}"]
    assert {each.facts.id: each for each in one} == model
    assert len(one) == len(model)
    assert one.here == sum(each.status in HERE for each in model.values())
    for status in (Status.FAILED, Status.LEFT):
        assert set(one.gone[status]) == {id for id, each in model.items() if each.status is status}
    assert list(base) == [record(number) for number in range(shared)]


def test_a_status_counts_from_when_it_changed() -> None:
    members = table(1)
    members.put(record(0, Status.FAILED), 70)
    members.put(record(0, Status.FAILED, 3), 90)
    assert members.changed_ms("id0") == 70


@pytest.mark.parametrize("places", [1, 2, 3, 30, 97, 1_000])
def test_in_each_round_everybody_has_a_turn(places: int) -> None:
    rounds = Rounds(Random(places))
    first, second = ([rounds.next(places) for _ in range(places)] for _ in range(2))
    assert sorted(first) == sorted(second) == list(range(places))


def test_rounds_differ() -> None:
    rounds = Rounds(Random(1))
    assert len({tuple(rounds.next(30) for _ in range(30)) for _ in range(20)}) > 15


def test_whoever_comes_or_goes_during_a_round_upsets_nothing() -> None:
    """Newcomers have their turn within two rounds; places that are gone are not asked for."""
    rounds = Rounds(Random(3))
    for _ in range(5):
        rounds.next(10)
    assert {rounds.next(12) for _ in range(5 + 12)} == set(range(12))
    assert all(rounds.next(4) < 4 for _ in range(20))


@pytest.mark.parametrize("count", [5, FEW, 500])
def test_some_are_drawn_evenly_and_none_twice(count: int) -> None:
    members, random = table(count), Random(7)
    seen: dict[str, int] = {}
    draws = 40 * count
    for _ in range(draws):
        some = members.some(3, random, lambda each: each.facts.id != "id0")
        assert len({each.facts.id for each in some}) == len(some) == 3
        for each in some:
            seen[each.facts.id] = seen.get(each.facts.id, 0) + 1
    mean = 3 * draws / (count - 1)
    assert "id0" not in seen
    assert len(seen) == count - 1
    assert all(0.5 * mean < times < 1.6 * mean for times in seen.values())


def test_of_few_that_fit_all_are_found() -> None:
    members = table(6)
    assert len(members.some(9, Random(1), lambda each: each.facts.id in ("id1", "id4"))) == 2
