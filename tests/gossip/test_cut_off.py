"""A member that hears nobody: what it keeps to itself, and what it says again once it hears somebody."""

from __future__ import annotations

import msgspec
from support.one_member import One, facts

from gemot.agent.gossip.message import (
    Ack,
    Alive,
    Dead,
    Nack,
    Ping,
    Status,
    Suspect,
)
from gemot.agent.gossip.packet import decode
from gemot.agent.gossip.timing import LAN


def cut_off(ms: int) -> One:
    """A member that hears nobody for so long, and had nothing to tell before."""
    one = One()
    one.pass_ms(ms)
    return one


def test_whoever_hears_nobody_keeps_its_news_for_somebody_who_hears_them() -> None:
    one = cut_off(4_000)
    one.forget()
    one.swim.update(msgspec.structs.replace(facts(1), meta=b"new"), one.now_ms)
    one.pass_ms(3_000)
    assert one.told(Alive) == []
    assert one.told(Ping), "it goes on asking"
    one.hear(Nack(0))
    one.pass_ms(1_000)
    assert [word.facts.meta for word in one.words(Alive)] == [b"new"]  # type: ignore[attr-defined]


def test_whoever_hears_nobody_tells_nobody_that_the_others_failed() -> None:
    """It lists them as failed; whoever it hears at that very moment is not told so."""
    one = One()
    while one.swim.members.here > 1:
        one.pass_ms(100)
    assert sorted(change for change, _ in one.changes) == ["failed"] * 3 + ["suspected"] * 3
    one.forget()
    one.hear(Alive(0, facts(5)))
    one.pass_ms(5_000, step_ms=100)
    assert one.words(Alive) == [Alive(0, facts(5))]
    assert one.told(Dead) == []


def test_whoever_hears_somebody_again_tells_its_suspicions_again_and_gives_them_all_their_time() -> None:
    """Two members, so that a suspicion lasts its shortest time from the beginning."""
    one = One(others=1)
    one.pass_ms(4_000)
    assert one.status(2) is Status.SUSPECT
    one.forget()
    one.hear(Nack(0))
    for _ in range(3):
        one.pass_ms(1_000)
        one.hear(Nack(0))
    assert one.words(Suspect) == [Suspect("id2", 0, "id1")]
    assert one.status(2) is Status.SUSPECT
    one.pass_ms(1_200)
    assert one.status(2) is Status.FAILED
    assert one.words(Dead) == [Dead("id2", 0, "id1")]


def test_whoever_asks_seldom_being_slow_is_not_cut_off_for_hearing_others_as_seldom() -> None:
    """Most others crashed: it asks one each 8 s, and hears a survivor now and then."""
    one = One()
    one.swim.awareness.note(LAN.awareness_max)
    one.hear(Nack(0))
    one.pass_ms(15_000)
    assert not one.swim.deaf
    one.pass_ms(2_000)
    assert one.swim.deaf


def test_what_fails_in_the_silence_does_not_make_it_a_usual_one() -> None:
    one = One()
    one.hear(Nack(0))
    one.pass_ms(2_100)
    assert one.swim.awareness.score > 0
    assert one.swim.deaf


def test_whoever_is_told_that_it_was_taken_for_failed_tells_its_suspicions_again() -> None:
    one = One()
    one.hear(Suspect("id2", 0, "id1"))
    one.pass_ms(1_900, answered=True)
    one.forget()
    one.hear(Dead("id1", 0, "id4"))
    one.pass_ms(1_000)
    assert one.words(Suspect) == [Suspect("id2", 0, "id1")]


def test_a_suspected_member_that_asks_is_told_with_the_answer() -> None:
    """It may not have heard it, and can refute it now: the buddy system, the other way round."""
    one = One()
    one.hear(Suspect("id2", 0, "id3"))
    one.pass_ms(1_900, answered=True)
    one.forget()
    one.hear(Ping(9, "id1", "id2"))
    (answer,) = [decode(data) for _, data in one.out.datagrams]
    assert answer[:2] == [Ack(9), Suspect("id2", 0, "id1")]


def test_one_that_knows_nobody_has_nothing_to_do_between_two_probes() -> None:
    one = One(others=0)
    one.swim.update(msgspec.structs.replace(facts(1), meta=b"new"), one.now_ms)
    ticks = 0
    until = one.now_ms + 10_000
    while one.now_ms < until:
        one.now_ms = one.swim.next_ms
        one.swim.on_tick(one.now_ms)
        ticks += 1
    assert ticks <= 11
