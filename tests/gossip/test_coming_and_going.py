"""Members that say good-bye, are pruned, forgotten, wiped, and those for whom there is room or none."""

from __future__ import annotations

from random import Random

import msgspec
import pytest
from support.one_member import SOMEWHERE, One, facts

from gemot.agent.gossip.message import (
    Ack,
    Alive,
    Dead,
    Ping,
    Record,
    Status,
)
from gemot.agent.gossip.packet import decode
from gemot.agent.gossip.swim import Swim
from gemot.agent.gossip.timing import LAN
from gemot.agent.gossip.view import MOST_MEMBERS, RESERVED


def test_a_good_bye_is_told_and_then_nothing_more_is_said() -> None:
    one = One()
    one.swim.leave(one.now_ms)
    assert not one.swim.said_goodbye
    one.pass_ms(2_000)
    assert one.swim.said_goodbye
    assert one.words(Dead) == [Dead("id1", 0, "id1", left=True)]
    one.hear(Dead("id1", 0, "id2"))
    one.forget()
    one.pass_ms(5_000)
    assert one.told(Alive) == one.told(Ping) == []


def test_new_facts_do_not_take_a_good_bye_back() -> None:
    one = One()
    one.swim.leave(one.now_ms)
    one.swim.update(msgspec.structs.replace(facts(1), meta=b"new"), one.now_ms)
    one.pass_ms(1_000)
    assert one.told(Alive) == []
    assert one.words(Dead) == [Dead("id1", 0, "id1", left=True)]


def test_strangers_are_let_in_as_far_as_there_is_room_and_they_are_admitted() -> None:
    swim = Swim(me=facts(1), timing=LAN, random=Random(1), now_ms=0, admits=lambda one: one.name != "node7")
    swim.on_words([Alive(0, facts(7)), Alive(0, facts(8))], SOMEWHERE, 10)
    swim.merge([Record(facts(7), 0, Status.FAILED)], facts(8), 10)
    assert [record.facts.id for record in swim.members] == ["id1", "id8"]
    many = [
        Record(msgspec.structs.replace(facts(9), id=f"x{n}"), 0, Status.FAILED) for n in range(MOST_MEMBERS)
    ]
    swim.merge(many, facts(8), 20)
    assert len(swim.members) == MOST_MEMBERS - RESERVED
    assert swim.view.turned_away == 2 + 2 + RESERVED


def test_an_operator_ends_the_waiting_for_one_that_failed_and_for_none_that_lives() -> None:
    one = One()
    assert not one.swim.expect_no_more("id2", one.now_ms)
    assert not one.swim.expect_no_more("id9", one.now_ms)
    one.hear(Dead("id2", 0, "id3"))
    one.forget()
    assert one.swim.expect_no_more("id2", one.now_ms)
    one.pass_ms(1_000)
    assert one.changes == [("left", "id2")]
    assert one.words(Dead) == [Dead("id2", 0, "id1", left=True)]


def test_pruned_is_off_the_list_and_does_not_come_back_by_hearsay() -> None:
    one = One()
    one.hear(Dead("id2", 2, "id3"))
    assert one.swim.expect_no_more("id2", one.now_ms, prune=True)
    one._take()
    assert one.status(2) is None
    assert one.changes[-2:] == [("left", "id2"), ("reaped", "id2")]
    one.forget()
    one.swim.merge([Record(facts(2), 2, Status.FAILED)], facts(3), one.now_ms)
    one.hear(Alive(2, facts(2)))
    assert one.status(2) is None
    one.hear(Alive(3, facts(2)))
    assert one.status(2) is Status.ALIVE, "it is alive after all"


def test_an_answer_of_one_that_was_pruned_while_it_was_asked_makes_it_known_to_nobody_again() -> None:
    """It would stay among those that have answered for as long as this process lives."""
    one = One()
    while not one.told(Ping):
        one.pass_ms(20)
    ((place, ping),) = one.told(Ping)
    id = ping.to  # type: ignore[attr-defined]
    one.hear(Dead(id, 0, "id9"), Dead(id, 0, "id9", left=True, prune=True))
    one.forget()
    one.hear(Ack(ping.seq), source=place)  # type: ignore[attr-defined]
    assert one.swim.asks is None, "it is an answer"
    assert not one.swim.view._is_real(id)
    assert one.out.acks == []


def test_the_forgotten_are_told_so_when_they_come_themselves() -> None:
    one = One()
    one.hear(Dead("id2", 4, "id3"), Dead("id2", 4, "id3", left=True, prune=True))
    told = one.swim.records(facts(2))
    assert Record(facts(2), 4, Status.FAILED) in told
    assert Record(facts(2), 4, Status.FAILED) not in one.swim.records(facts(3))


def test_a_wiped_host_takes_the_place_of_its_former_self() -> None:
    """Its name, under a new id, once the old one has failed; while that lives both stand in the list."""
    one = One()
    wiped = msgspec.structs.replace(facts(8), name="node2")
    one.hear(Alive(0, wiped))
    assert one.status(2) is one.status(8) is Status.ALIVE
    one.hear(Dead("id2", 0, "id3"), Dead("id8", 0, "id3"))
    one.forget()
    one.hear(Alive(1, wiped))
    assert one.status(2) is None
    assert one.changes == [("joined", "id8"), ("reaped", "id2")]


def test_one_that_is_here_is_not_forgotten_by_a_word_but_may_refute_it() -> None:
    one = One()
    one.hear(Dead("id2", 0, "id3", left=True, prune=True))
    assert one.status(2) is Status.LEFT
    one.hear(Alive(1, facts(2)))
    assert one.changes == [("left", "id2"), ("joined", "id2")]


def test_whoever_did_not_hear_of_a_prune_is_told_when_it_brings_the_pruned_back() -> None:
    one = One()
    one.hear(Dead("id2", 3, "id3"), Dead("id2", 3, "id3", left=True, prune=True))
    one.pass_ms(30_000, answered=True)
    one.forget()
    one.swim.merge([Record(facts(2), 3, Status.FAILED)], facts(3), one.now_ms)
    one.pass_ms(500)
    assert one.status(2) is None
    assert one.words(Dead) == [Dead("id2", 3, "id1", left=True, prune=True)]


def test_the_forgotten_that_ping_are_told_what_they_are_taken_for() -> None:
    one = One()
    one.hear(Dead("id2", 3, "id3"), Dead("id2", 3, "id3", left=True, prune=True))
    one.forget()
    one.hear(Ping(5, "id1", "id2"))
    (_, data) = one.out.datagrams[0]
    assert decode(data)[:2] == [Ack(5), Dead("id2", 3, "id1")]


@pytest.mark.parametrize(("left", "hours"), [(False, 72), (True, 24)])
def test_those_that_are_gone_are_forgotten_in_the_end(left: bool, hours: int) -> None:
    one = One(others=1)
    one.hear(Dead("id2", 0, "id3", left=left))
    one.forget()
    one.pass_ms((hours * 3_600 - 60) * 1_000, step_ms=10_000)
    assert one.status(2) is not None
    one.pass_ms(120_000, step_ms=10_000)
    assert one.status(2) is None
    assert one.changes == [("reaped", "id2")]


def test_a_member_may_ask_to_be_forgotten_sooner() -> None:
    one = One(others=0)
    brief = msgspec.structs.replace(facts(2), reconnect_timeout_ms=600_000)
    one.hear(Alive(0, brief), Dead("id2", 0, "id3"))
    one.pass_ms(700_000, step_ms=5_000)
    assert one.status(2) is None
