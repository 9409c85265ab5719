"""What one member makes of what it hears, word by word: the rules of SWIM and Lifeguard, and ours."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
import pytest
from support.one_member import One, facts

from gemot.agent.gossip.limits import INCARNATION_MAX
from gemot.agent.gossip.message import (
    Ack,
    Alive,
    Dead,
    Nack,
    News,
    Ping,
    Record,
    Relay,
    Status,
    Suspect,
    Word,
)
from gemot.agent.gossip.packet import decode
from gemot.agent.gossip.timing import LAN
from gemot.agent.gossip.view import CEILING, Change, Place


def test_a_member_it_hears_of_joins_and_is_told_to_others() -> None:
    one = One()
    one.hear(Alive(0, facts(7)))
    one.pass_ms(1_000)
    assert one.changes == [("joined", "id7")]
    assert one.words(Alive) == [Alive(0, facts(7))]


def test_news_is_told_a_bounded_number_of_times() -> None:
    one = One()
    one.hear(Alive(0, facts(7)))
    one.pass_ms(60_000, step_ms=100)
    assert len(one.told(Alive)) == LAN.retransmits(5) == 4


@pytest.mark.parametrize(
    ("held", "heard", "then"),
    [
        # Newer news of the same kind, and the same again.
        ([], [Alive(0, facts(2))], ("alive", 0, [])),
        ([], [Alive(3, facts(2))], ("alive", 3, [])),
        # A suspicion, its refutation, and a refutation that is too old.
        ([], [Suspect("id2", 0, "id3")], ("suspect", 0, ["suspected"])),
        ([Suspect("id2", 0, "id3")], [Alive(0, facts(2))], ("suspect", 0, [])),
        ([Suspect("id2", 0, "id3")], [Alive(1, facts(2))], ("alive", 1, ["refuted"])),
        ([Alive(2, facts(2))], [Suspect("id2", 1, "id3")], ("alive", 2, [])),
        ([], [Suspect("id2", 4, "id3")], ("suspect", 4, ["suspected"])),
        # A failure; who failed is suspected no more, and comes back by a newer incarnation alone.
        ([], [Dead("id2", 0, "id3")], ("failed", 0, ["failed"])),
        ([Dead("id2", 0, "id3")], [Dead("id2", 0, "id4")], ("failed", 0, [])),
        ([Dead("id2", 0, "id3")], [Suspect("id2", 0, "id4")], ("failed", 0, [])),
        ([Dead("id2", 0, "id3")], [Alive(0, facts(2))], ("failed", 0, [])),
        ([Dead("id2", 0, "id3")], [Alive(1, facts(2))], ("alive", 1, ["joined"])),
        ([Alive(2, facts(2))], [Dead("id2", 1, "id3")], ("alive", 2, [])),
        # A good-bye; it outlasts a failure, and is not undone by one.
        ([], [Dead("id2", 0, "id2", left=True)], ("left", 0, ["left"])),
        ([Dead("id2", 0, "id3")], [Dead("id2", 0, "id3", left=True)], ("left", 0, ["left"])),
        ([Dead("id2", 0, "id2", left=True)], [Dead("id2", 0, "id3")], ("left", 0, [])),
        ([Dead("id2", 0, "id2", left=True)], [Alive(1, facts(2))], ("alive", 1, ["joined"])),
    ],
)
def test_what_is_held_of_a_member_after_what_is_heard(
    held: Sequence[Word], heard: Sequence[Word], then: tuple[str, int, list[str]]
) -> None:
    one = One()
    one.hear(*held)
    one.forget()
    one.hear(*heard)
    record = one.swim.members.get("id2")
    assert record is not None
    assert (record.status.name.lower(), record.incarnation, [change for change, _ in one.changes]) == then


def test_new_facts_of_a_member_are_an_update() -> None:
    one = One()
    moved = msgspec.structs.replace(facts(2), host="10.0.0.99", meta=b"new")
    one.hear(Alive(1, moved))
    assert one.changes == [("updated", "id2")]
    assert one.swim.members.get("id2") == Record(moved, 1)


def test_whoever_is_not_known_is_neither_suspected_nor_failed() -> None:
    one = One()
    one.hear(Suspect("id9", 0, "id2"), Dead("id9", 0, "id2"))
    assert one.changes == []
    assert one.status(9) is None


# -- about itself -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "word",
    [
        Suspect("id1", 0, "id2"),
        Dead("id1", 0, "id2"),
        Dead("id1", 0, "id2", left=True),
        Suspect("id1", 6, "id2"),
        Alive(6, facts(1)),
        Alive(0, msgspec.structs.replace(facts(1), host="10.66.0.1")),
    ],
)
def test_what_is_wrong_about_itself_is_refuted_by_a_newer_incarnation(word: Word) -> None:
    one = One()
    one.hear(word)
    one.pass_ms(1_000)
    newer = max(word.incarnation, 0) + 1  # type: ignore[union-attr]
    assert one.words(Alive) == [Alive(newer, facts(1))]
    assert one.swim.awareness.score == 1, "it is slow, or badly reached"


def test_a_lie_that_could_never_be_refuted_is_not_believed_about_itself() -> None:
    one = One()
    one.hear(Suspect("id1", INCARNATION_MAX, "id3"), Dead("id1", CEILING + 1, "id3"))
    one.swim.merge([Record(facts(1), INCARNATION_MAX, Status.FAILED)], facts(3), one.now_ms)
    assert one.swim.incarnation == 0
    one.hear(Suspect("id1", CEILING, "id3"))
    assert one.swim.incarnation == CEILING + 1


def test_hearsay_that_is_far_ahead_is_not_believed_but_its_subject_is_asked() -> None:
    """One lie made it go so far; what it says itself, at its own place, is believed."""
    one = One()
    far = CEILING + 1
    one.hear(Suspect("id2", far, "id3"), Dead("id2", far, "id3"), Alive(far, facts(2)))
    one.swim.merge([Record(facts(2), INCARNATION_MAX, Status.FAILED)], facts(3), one.now_ms)
    one._take()
    assert one.changes == []
    assert one.swim.members.get("id2") == Record(facts(2))
    assert one.out.exchanges == [facts(2)], "once, whatever is said"
    one.swim.merge([Record(facts(2), far)], facts(2), one.now_ms)
    assert one.swim.members.get("id2") == Record(facts(2)), "anybody can say so who comes here"
    one.swim.merge([Record(facts(2), far)], facts(2), one.now_ms, dialled=Place("10.0.0.2", 8301))
    assert one.swim.members.get("id2") == Record(facts(2), far)


def test_old_doubts_about_itself_are_answered_by_what_it_said_already() -> None:
    """Whoever has them has not heard its refutation yet."""
    one = One()
    one.hear(Suspect("id1", 4, "id2"))
    one.pass_ms(20_000, answered=True)
    one.forget()
    one.hear(Suspect("id1", 3, "id3"), Dead("id1", 4, "id3"), Alive(5, facts(1)))
    one.pass_ms(1_000, answered=True)
    assert one.swim.incarnation == 5
    assert one.swim.awareness.score == 0
    one.hear(Dead("id1", 4, "id3"))
    one.pass_ms(500)
    assert one.words(Alive) == [Alive(5, facts(1))]


def test_own_new_facts_are_told_under_a_new_incarnation() -> None:
    one = One()
    new = msgspec.structs.replace(facts(1), meta=b"new")
    one.swim.update(new, one.now_ms)
    one.pass_ms(1_000)
    assert one.words(Alive) == [Alive(1, new)]


# -- probing ------------------------------------------------------------------------------------------------


def test_everybody_is_probed_in_turn() -> None:
    one = One(others=4)
    asked: list[Place] = []
    for _ in range(400):
        one.pass_ms(20)
        for place, ping in one.told(Ping):
            asked.append(place)
            one.hear(Ack(ping.seq), source=place)
        one.forget()
    assert len(asked) == 8, "one an interval"
    assert {place.host for place in asked} == {f"10.0.0.{n}" for n in (2, 3, 4, 5)}


def test_a_ping_is_answered_to_where_it_came_from() -> None:
    one = One()
    one.hear(Ping(77, "id1", "id2"), source=Place("10.0.0.2", 9))
    assert one.told(Ack) == [(Place("10.0.0.2", 9), Ack(77))]


def test_who_pings_and_is_not_known_is_asked_who_else_there_is_but_not_by_each_ping() -> None:
    one = One()
    source = Place("10.0.0.8", 8301)
    one.hear(Ping(77, "id1", "id8"), Ping(78, "id1", "id9"), source=source)
    assert [(each.id, each.host, each.port) for each in one.out.exchanges] == [("id8", *source)]
    assert len(one.told(Ack)) == 2


def test_a_ping_for_another_is_not_answered() -> None:
    one = One()
    one.hear(Ping(77, "id8", "id2"))
    assert one.out.datagrams == []


def probe(one: One) -> tuple[Place, Ping]:
    """The next ping it sends."""
    one.forget()
    while not one.told(Ping):
        one.pass_ms(20)
    place, ping = one.told(Ping)[0]
    one.forget()
    return place, ping


def test_without_an_answer_in_time_others_and_tcp_are_tried() -> None:
    one = One(others=5)
    place, ping = probe(one)
    one.pass_ms(LAN.probe_timeout_ms - 40)
    assert one.told(Relay) == []
    one.pass_ms(40)
    relays = one.told(Relay)
    assert len({to for to, _ in relays}) == LAN.indirect_probes
    assert place not in [to for to, _ in relays]
    assert {(word.to, word.host, word.seq) for _, word in relays} == {(ping.to, place.host, ping.seq)}
    assert one.out.streams == [(place, ping)]


@pytest.mark.parametrize("way", ["direct", "helper", "stream"])
def test_any_answer_by_the_end_of_the_interval_will_do(way: str) -> None:
    one = One()
    _, ping = probe(one)
    one.pass_ms(LAN.probe_interval_ms - 60)
    if way == "stream":
        one.swim.on_stream_ack(ping.seq, one.now_ms)
    else:
        one.hear(Ack(ping.seq))
    one.pass_ms(100)
    assert one.changes == []


def test_without_any_answer_it_is_suspected_and_fails_when_its_time_is_over() -> None:
    one = One(others=1)
    _, ping = probe(one)
    one.pass_ms(LAN.probe_interval_ms)
    assert one.changes == [("suspected", ping.to)]
    one.pass_ms(LAN.suspicion_min_ms(2) - 60)
    assert len(one.changes) == 1
    one.pass_ms(60)
    assert one.changes == [("suspected", ping.to), ("failed", ping.to)]
    assert Dead(ping.to, 0, "id1") in one.words(Dead) or one.swim.members.here == 1


def test_confirmations_shorten_the_wait_and_are_passed_on() -> None:
    one = One(others=6)
    one.hear(Suspect("id2", 0, "id3"))
    one.hear(Suspect("id2", 0, "id4"), Suspect("id2", 0, "id5"))
    one.pass_ms(LAN.suspicion_min_ms(7) + 40, answered=False)
    assert ("failed", "id2") in one.changes
    assert Suspect("id2", 0, "id5") in one.words(Suspect)


def test_a_newer_incarnation_that_is_suspected_has_all_its_time() -> None:
    """It proves that the older suspicion was refuted, though the refutation was not heard here."""
    one = One(others=6)
    one.hear(Suspect("id2", 0, "id3"))
    one.pass_ms(3_900, answered=True)
    one.hear(Suspect("id2", 1, "id4"), Suspect("id2", 1, "id5"), Suspect("id2", 1, "id6"))
    one.pass_ms(LAN.suspicion_min_ms(7) - 100, answered=True)
    assert one.swim.members.get("id2") == Record(facts(2), 1, Status.SUSPECT)
    one.pass_ms(200, answered=True)
    assert one.changes == [("suspected", "id2"), ("failed", "id2")]


@pytest.mark.parametrize("theirs", [Status.SUSPECT, Status.FAILED])
def test_an_exchange_begins_a_suspicion_and_confirms_none(theirs: Status) -> None:
    """The sender may have it from hearsay, too."""
    one = One(others=6)
    for number in (3, 4, 5, 6):
        one.swim.merge([Record(facts(2), 0, theirs)], facts(number), one.now_ms)
    one.pass_ms(LAN.suspicion_max_ms(7) - 100, answered=True)
    assert one.status(2) is Status.SUSPECT


def test_facts_that_come_after_later_news_are_taken_all_the_same() -> None:
    one = One()
    moved = msgspec.structs.replace(facts(2), host="10.0.0.99")
    one.hear(Suspect("id2", 1, "id3"), Alive(1, moved))
    assert one.swim.members.get("id2") == Record(moved, 1, Status.SUSPECT)
    one.hear(Dead("id2", 3, "id2", left=True))
    again = msgspec.structs.replace(facts(2), meta=b"again")
    one.swim.merge([Record(again, 3, Status.LEFT)], facts(3), one.now_ms)
    assert one.swim.members.get("id2") == Record(again, 3, Status.LEFT)


def test_a_lonely_suspicion_lasts_six_times_as_long() -> None:
    one = One(others=6)
    one.hear(Suspect("id2", 0, "id3"))
    one.pass_ms(LAN.suspicion_max_ms(7) - 60, answered=True)
    assert ("failed", "id2") not in one.changes
    one.pass_ms(60, answered=True)
    assert ("failed", "id2") in one.changes


def test_who_is_suspected_is_told_so_by_the_very_next_ping() -> None:
    one = One(others=1)
    one.hear(Suspect("id2", 0, "id9"))
    one.pass_ms(1_000)
    data = next(data for _, data in one.out.datagrams if any(isinstance(w, Ping) for w in decode(data)))
    assert Suspect("id2", 0, "id1") in decode(data)


def test_who_is_taken_for_failed_and_pings_is_told_so() -> None:
    one = One()
    one.hear(Dead("id2", 3, "id3"))
    one.forget()
    one.hear(Ping(5, "id1", "id2"))
    (_, data) = one.out.datagrams[0]
    assert decode(data)[:2] == [Ack(5), Dead("id2", 3, "id1")]


# -- for others ---------------------------------------------------------------------------------------------


def test_a_probe_for_another_is_passed_on_and_so_is_its_answer() -> None:
    one = One()
    asker = Place("10.0.0.3", 8301)
    one.hear(Relay(9, "id2", "10.0.0.2", 8301, "id3"), source=asker)
    ((to, ping),) = one.told(Ping)
    assert (to, ping.to, ping.sender) == (Place("10.0.0.2", 8301), "id2", "id1")
    one.forget()
    one.hear(Ack(ping.seq), source=to)
    assert one.told(Ack) == [(asker, Ack(9))]


def test_who_asked_is_told_in_time_that_nothing_was_heard() -> None:
    one = One()
    asker = Place("10.0.0.3", 8301)
    one.hear(Relay(9, "id2", "10.0.0.2", 8301, "id3"), source=asker)
    one.pass_ms(380)
    assert one.told(Nack) == []
    one.pass_ms(40)
    assert one.told(Nack) == [(asker, Nack(9))]


@pytest.mark.parametrize(("nacks", "score"), [(3, 0), (1, 2), (0, 3)])
def test_whose_helpers_do_not_even_say_no_doubts_itself(nacks: int, score: int) -> None:
    one = One(others=6)
    _, ping = probe(one)
    one.pass_ms(600)
    one.hear(*[Nack(ping.seq)] * nacks)
    one.pass_ms(600)
    assert ("suspected", ping.to) in one.changes
    assert one.swim.awareness.score == score


def test_who_doubts_itself_waits_longer() -> None:
    one = One(others=5)
    one.swim.awareness.note(2)
    probe(one)
    one.pass_ms(3 * LAN.probe_timeout_ms - 60)
    assert one.told(Relay) == []
    one.pass_ms(80)
    assert one.told(Relay) != []


# -- time that was not there --------------------------------------------------------------------------------


def test_who_was_stopped_itself_takes_nobody_for_failed() -> None:
    """SIGSTOP, or a suspended host: it heard no answer and no refutation, because it was not there."""
    one = One(others=1)
    probe(one)
    one.hear(Suspect("id2", 0, "id9"))
    one.forget()
    one.pass_ms(60_000, step_ms=60_000)
    assert one.changes == []
    one.hear(Alive(1, facts(2)))
    assert one.changes == [("refuted", "id2")]


# -- exchanges ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("mine", "theirs", "then"),
    [
        (None, Status.ALIVE, ("ALIVE", ["joined"])),
        (None, Status.SUSPECT, ("SUSPECT", ["joined", "suspected"])),
        # It was gone before: it stands in the list, and nothing happens to it here.
        (None, Status.FAILED, ("FAILED", [])),
        (None, Status.LEFT, ("LEFT", [])),
        # Whom others take for failed may still refute it here.
        (Status.ALIVE, Status.FAILED, ("SUSPECT", ["suspected"])),
        (Status.ALIVE, Status.LEFT, ("LEFT", ["left"])),
        (Status.FAILED, Status.LEFT, ("LEFT", ["left"])),
        (Status.FAILED, Status.ALIVE, ("FAILED", [])),
        (Status.LEFT, Status.FAILED, ("LEFT", [])),
    ],
)
def test_what_an_exchange_makes_of_a_member(
    mine: Status | None, theirs: Status, then: tuple[str, list[str]]
) -> None:
    one = One()
    if mine is not None:
        one.hear(Alive(0, facts(8)))
    if mine is Status.FAILED:
        one.hear(Dead("id8", 0, "id3"))
    if mine is Status.LEFT:
        one.hear(Dead("id8", 0, "id8", left=True))
    one.forget()
    one.swim.merge([Record(facts(8), 0, theirs)], facts(3), one.now_ms)
    one._take()
    status = one.status(8)
    assert status is not None
    assert (status.name, [change for change, _ in one.changes]) == then


def test_news_that_is_not_about_members_is_handed_out_and_passed_on_when_told_to() -> None:
    one = One()
    one.hear(News(1, b"deploy"))
    assert one.out.news == [News(1, b"deploy")]
    one.swim.tell("event", News(1, b"deploy"))
    one.pass_ms(500)
    assert one.words(News) == [News(1, b"deploy")]


def test_a_flood_of_other_news_does_not_hold_up_word_of_a_member() -> None:
    one = One()
    for number in range(5_000):
        one.swim.tell(f"event {number}", News(1, bytes(500)))
    one.hear(Dead("id3", 0, "id2"))
    one.forget()
    one.pass_ms(250)
    assert one.words(Dead) == [Dead("id3", 0, "id2")]
    assert decode(one.out.datagrams[0][1])[0] == Dead("id3", 0, "id2"), "before all else"


def test_an_answer_tells_how_far_away_the_other_is() -> None:
    one = One()
    _, ping = probe(one)
    one.now_ms += 7
    one.hear(Ack(ping.seq, b"place"))
    assert one.out.acks == [(ping.to, pytest.approx(7, abs=20), b"place")]


def test_every_change_has_a_word() -> None:
    assert {change.value for change in Change} == {
        "joined",
        "updated",
        "suspected",
        "refuted",
        "failed",
        "left",
        "reaped",
    }
