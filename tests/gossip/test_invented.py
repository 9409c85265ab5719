"""Members that somebody invents keep no true one out, and no true failure hidden."""

from __future__ import annotations

import msgspec
from support.one_member import One, facts

from gemot.agent.gossip.message import (
    Alive,
    Dead,
    Facts,
    Ping,
    Record,
    Status,
)
from gemot.agent.gossip.view import MOST_MEMBERS, RESERVED


def invented(number: int) -> Facts:
    return msgspec.structs.replace(facts(9), id=f"x{number}", name=f"nowhere{number}")


def full() -> One:
    """Members 2, 3 and 4 have answered; the table is full of members that somebody invented."""
    one = One()
    one.hear(*(Alive(0, invented(number)) for number in range(MOST_MEMBERS)))
    assert len(one.swim.members) == MOST_MEMBERS - RESERVED
    one.forget()
    return one


def test_with_the_table_full_of_hearsay_whoever_comes_itself_is_let_in() -> None:
    one = full()
    one.hear(Alive(0, facts(5)))
    assert one.status(5) is None
    one.swim.merge([Record(facts(5)), Record(facts(6))], facts(5), one.now_ms)
    assert (one.status(5), one.status(6)) == (Status.ALIVE, None)


def test_those_that_are_gone_make_room_if_they_are_known_by_hearsay_alone_and_others_do_not() -> None:
    one = full()
    one.hear(Dead("id2", 0, "id3"), Dead("x7", 0, "id3"))
    one.hear(Alive(0, facts(5)), Alive(0, facts(6)))
    assert (one.status(5), one.status(6), one.status(2)) == (Status.ALIVE, None, Status.FAILED)
    assert one.swim.members.get("x7") is None
    assert one.changes == [("failed", "id2"), ("failed", "x7"), ("reaped", "x7"), ("joined", "id5")]


def test_what_is_remembered_of_those_that_were_pruned_makes_room() -> None:
    one = full()
    one.hear(Dead("x7", 0, "id3"), Dead("x7", 0, "id3", left=True, prune=True))
    assert "x7" in one.swim.view.forgotten
    one.hear(Alive(0, facts(5)))
    assert one.status(5) is Status.ALIVE


def test_of_one_that_is_gone_and_a_stranger_nobody_makes_room() -> None:
    one = full()
    one.hear(Dead("x7", 0, "id3"))
    one.swim.merge([Record(facts(5), 0, Status.FAILED)], facts(3), one.now_ms)
    assert one.status(5) is None


def test_among_many_invented_members_every_other_turn_is_for_one_that_has_answered() -> None:
    one = full()
    one.pass_ms(20_000, answered=False, step_ms=100)
    asked = [word.to for _, word in one.told(Ping)]  # type: ignore[attr-defined]
    assert sum(to in ("id2", "id3", "id4") for to in asked) >= len(asked) // 2 - 1
    assert sum(to.startswith("x") for to in asked) >= len(asked) // 2 - 1
