"""Whose turn it is among members of whom most were never heard: those that were are not drowned."""

from __future__ import annotations

from random import Random

import pytest

from gemot.agent.gossip.members import Members
from gemot.agent.gossip.message import Facts, Record, Status
from gemot.agent.gossip.turns import CROWD, Turns


def record(number: int, status: Status = Status.ALIVE) -> Record:
    return Record(Facts(f"id{number}", f"node{number}", "10.0.0.1", 8301), 0, status)


def turns(count: int, real: int) -> tuple[Turns, Members]:
    """Member 0 among so many, of whom those from 1 on are real."""
    members = Members()
    for number in range(count):
        members.put(record(number), 0)
    made = Turns(me="id0", members=members, random=Random(count))
    for number in range(1, real + 1):
        made.answered(f"id{number}")
    return made, members


def asked(made: Turns, times: int) -> list[str]:
    return [record.facts.id for _ in range(times) if (record := made.next()) is not None]


@pytest.mark.parametrize(("count", "real"), [(30, 3), (CROWD, 5), (500, 300), (500, 0)])
def test_in_no_crowd_everybody_has_one_turn_in_a_round(count: int, real: int) -> None:
    made, _ = turns(count, real)
    assert sorted(asked(made, count - 1)) == sorted(f"id{number}" for number in range(1, count))


def test_in_a_crowd_every_other_turn_is_a_real_ones_and_all_others_have_theirs() -> None:
    made, _ = turns(1_000, 10)
    told = asked(made, 2 * 999)
    real = [id for id in told if int(id[2:]) <= 10]
    assert len(real) >= 999
    assert min(real.count(f"id{number}") for number in range(1, 11)) >= 99
    assert len(set(told)) == 999


def test_in_a_crowd_the_real_ones_are_asked_and_told_and_some_of_anyone() -> None:
    made, _ = turns(1_000, 10)
    for _ in range(50):
        assert all(int(each.facts.id[2:]) <= 10 for each in made.some(3, lambda each: each.facts.id != "id0"))
    mixed = [int(each.facts.id[2:]) for _ in range(50) for each in made.some(3, lambda _: True, anyone=1)]
    assert 90 <= sum(1 <= number <= 10 for number in mixed) <= 110
    assert len(mixed) >= 140


def test_whoever_is_gone_has_no_turn_and_whoever_is_forgotten_is_real_no_more() -> None:
    made, members = turns(1_000, 10)
    members.put(record(4, Status.FAILED), 1)
    assert "id4" not in asked(made, 200)
    assert made.is_real("id4")
    made.forget("id4")
    made.forget("id4")
    assert not made.is_real("id4")
    assert all(made.is_real(f"id{number}") for number in (0, 1, 2, 3, 5, 10))
    assert "id10" in asked(made, 60)
