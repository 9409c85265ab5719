"""What one member makes of what it hears, word by word: the rules of SWIM and Lifeguard, and ours."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random

import msgspec
import pytest

from gemot.agent.gossip.limits import INCARNATION_MAX
from gemot.agent.gossip.message import (
    Ack,
    Alive,
    Dead,
    Facts,
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
from gemot.agent.gossip.swim import Output, Swim
from gemot.agent.gossip.timing import LAN, Timing
from gemot.agent.gossip.view import CEILING, MOST_MEMBERS, RESERVED, Change, Place

SOMEWHERE = Place("10.9.9.9", 8301)


def facts(number: int) -> Facts:
    return Facts(f"id{number}", f"node{number}", f"10.0.0.{number}", 8301)


class One:
    """Member 1, and those that it knows; time goes on in steps."""

    def __init__(self, others: int = 3, timing: Timing = LAN) -> None:
        self.now_ms = 0
        self.swim = Swim(me=facts(1), timing=timing, random=Random(1), now_ms=0)
        self.out = Output([], [], [], [], [], [])
        self.hear(*(Alive(0, facts(number)) for number in range(2, 2 + others)))
        self.pass_ms(5_000, answered=True)
        self.forget()

    def hear(self, *words: Word, source: Place = SOMEWHERE) -> None:
        self.swim.on_words(words, source, self.now_ms)
        self._take()

    def pass_ms(self, ms: int, *, answered: bool = False, step_ms: int = 20) -> None:
        until = self.now_ms + ms
        while self.now_ms < until:
            self.now_ms = min(until, self.now_ms + step_ms)
            self.swim.on_tick(self.now_ms)
            self._take()
            if answered:
                for place, word in self.told(Ping):
                    self.hear(Ack(word.seq), source=place)
                self.out.datagrams.clear()

    def _take(self) -> None:
        for mine, new in zip(self.out, self.swim.take(), strict=True):
            mine.extend(new)  # type: ignore[attr-defined]

    def forget(self) -> None:
        self.out = Output([], [], [], [], [], [])

    def told(self, kind: type[Word]) -> list[tuple[Place, Word]]:
        return [
            (to, word) for to, data in self.out.datagrams for word in decode(data) if isinstance(word, kind)
        ]

    def words(self, kind: type[Word]) -> list[Word]:
        """What was passed on, each once."""
        return list({repr(word): word for _, word in self.told(kind)}.values())

    @property
    def changes(self) -> list[tuple[str, str]]:
        return [(event.change.value, event.record.facts.id) for event in self.out.events]

    def status(self, number: int) -> Status | None:
        record = self.swim.members.get(f"id{number}")
        return None if record is None else record.status


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


# -- about itself ------------------------------------------------------------------------------------------


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


# -- probing -----------------------------------------------------------------------------------------------


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


# -- for others --------------------------------------------------------------------------------------------


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


# -- time that was not there -------------------------------------------------------------------------------


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


# -- coming and going --------------------------------------------------------------------------------------


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


# -- exchanges ---------------------------------------------------------------------------------------------


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


# -- cut off -------------------------------------------------------------------------------------------------


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


# -- members that are invented -------------------------------------------------------------------------------


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
