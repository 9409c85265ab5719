"""User events: heard once by those who were there, shown to those who are meant, within bounds."""

from __future__ import annotations

import time
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gemot.agent.gossip.events import (
    KEPT,
    MAX_BYTES,
    MOST_AT_ONE_TIME,
    REMEMBERED,
    TOPIC,
    Events,
    UserEvent,
    _compiled,
    is_meant,
)
from gemot.agent.gossip.lamport import MOST, MOST_AHEAD, STEP, LamportClock
from gemot.agent.gossip.message import News
from gemot.server.model.errors import BadRequest, TooLarge


def event(number: int = 1, **fields: object) -> UserEvent:
    return UserEvent(str(UUID(int=number)), "deploy", **fields)  # type: ignore[arg-type]


def heard(events: Events, news: News) -> int | None:
    """The number of the event that this brought, if it is new."""
    fired = events.hear(news)
    return None if fired is None else UUID(fired.event.id).int


def test_whoever_hears_an_event_a_second_time_has_heard_it() -> None:
    sender, receiver = Events(), Events()
    news = sender.fire(event())
    assert heard(receiver, news) == 1
    assert heard(receiver, news) is None
    assert heard(sender, news) == 1, "it hears its own as everybody does"


def test_events_of_several_members_at_one_time_are_all_heard() -> None:
    receiver = Events()
    assert [heard(receiver, Events().fire(event(n))) for n in range(1, 6)] == [1, 2, 3, 4, 5]
    assert receiver.clock.time == 1


def test_a_later_event_has_a_later_time_wherever_it_is_fired() -> None:
    one, other = Events(), Events()
    for number in range(1, 9):
        other.hear(one.fire(event(number)))
    fired = one.hear(other.fire(event(99)))
    assert fired is not None
    assert fired.time == 9


def test_what_was_fired_before_it_joined_is_not_for_it() -> None:
    old, newcomer = Events(), Events()
    before = [old.fire(event(n)) for n in (1, 2, 3)]
    newcomer.ignore_before(old.clock.time)
    assert [heard(newcomer, news) for news in before] == [None] * 3
    assert heard(newcomer, old.fire(event(4))) == 4


def test_an_event_of_a_time_before_it_joined_is_left_until_its_age_is_told() -> None:
    old, newcomer, behind = Events(), Events(), Events()
    before = [old.fire(event(n)) for n in (1, 2, 3)]
    newcomer.ignore_before(old.clock.time, before)
    later = behind.fire(event(4))
    assert heard(newcomer, later) is None
    assert newcomer.hear(later, aged=True) is not None
    assert heard(newcomer, later) is None
    assert [newcomer.hear(news, aged=True) for news in before] == [None] * 3


def test_what_is_too_old_to_be_told_from_something_heard_is_not_heard_again() -> None:
    sender, receiver = Events(), Events()
    first = sender.fire(event(1))
    assert heard(receiver, first) == 1
    for number in range(2, 3 * REMEMBERED):
        receiver.hear(sender.fire(event(number)))
    assert heard(receiver, first) is None
    assert receiver.dropped == 1, "it is told that it was lost, if it was"
    assert len(receiver._ids) <= 2 * REMEMBERED + 1


def test_what_may_not_be_taken_is_as_if_it_had_not_come() -> None:
    sender, receiver = Events(), Events()
    news = sender.fire(event(1))
    assert receiver.hear(news, lambda: False) is None
    assert receiver.dropped == 1
    assert heard(receiver, news) == 1
    assert receiver.hear(news, pytest.fail) is None, "what is not new asks for nothing"


def test_a_flood_at_one_time_ends() -> None:
    receiver = Events()
    new = [heard(receiver, Events().fire(event(n))) for n in range(1, MOST_AT_ONE_TIME + 20)]
    assert len([each for each in new if each is not None]) == MOST_AT_ONE_TIME
    assert receiver.dropped == 19


def test_the_list_has_the_newest() -> None:
    events = Events()
    for number in range(1, KEPT + 9):
        fired = events.hear(events.fire(event(number)))
        assert fired is not None
        events.accept(fired)
    assert len(events.heard) == KEPT
    assert UUID(events.heard[0].event.id).int == 9


# -- what may be fired ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        (UserEvent(str(UUID(int=1)), ""), "Missing name"),
        (event(tag="x"), "tag filter without service filter"),
        (event(node="("), "node filter"),
        (event(service="a{9999}"), "service filter"),
        (event(service="web", tag="(?=x)"), "tag filter"),
        (event(node=r"\pL{10}"), "within 32 KiB"),
    ],
)
def test_what_cannot_be_fired_is_refused_with_the_reason(wrong: UserEvent, told: str) -> None:
    events = Events()
    with pytest.raises(BadRequest, match=told):
        events.fire(wrong)
    assert events.clock.time == 0


def test_an_event_that_is_too_long_says_how_long_it_is_and_what_to_do() -> None:
    with pytest.raises(TooLarge, match=rf"has \d+ bytes.*limit is {MAX_BYTES}.*KV store"):
        Events().fire(event(payload=bytes(MAX_BYTES)))
    assert len(Events().fire(event(payload=bytes(400))).body) <= MAX_BYTES


# -- whom it is for ------------------------------------------------------------------------------------------


SERVICES = (("web", ("v1", "blue")), ("db", ()))


@pytest.mark.parametrize(
    ("filters", "meant"),
    [
        ({}, True),
        ({"node": "^host7$"}, True),
        ({"node": "host"}, True),
        ({"node": "^other"}, False),
        ({"service": "we."}, True),
        ({"service": "cache"}, False),
        ({"service": "web", "tag": "^blue$"}, True),
        ({"service": "db", "tag": "blue"}, False),
        ({"node": "host", "service": "cache"}, False),
        ({"node": "("}, False),
        ({"node": "^.{1,200}$", "service": r"(?i)^\pL+$"}, True),
        ({"node": "^(" + "|".join(f"host{number}" for number in range(40)) + ")$"}, True),
    ],
)
def test_filters_are_regular_expressions_on_the_receiver(filters: dict[str, str], meant: bool) -> None:
    assert is_meant(event(**filters), "host7", SERVICES) is meant


def test_no_filter_of_a_stranger_takes_longer_than_its_text() -> None:
    """Where a backtracking engine would need longer than anybody lives."""
    began = time.process_time()
    assert not is_meant(event(node="(a+)+$"), "a" * 10_000 + "b", ())
    assert time.process_time() - began < 5


HOSTILE = [
    r"(\pL{10}){10}",
    r"(\pL{10}){2}",
    r"(?:\pL|\pN){200}",
    "((((a{30}){30}){30}))",
    r"(\pL{100})" * 10,
    "(",
]


@pytest.mark.parametrize("pattern", HOSTILE)
def test_what_would_take_long_to_compile_is_a_filter_that_matches_nothing(pattern: str) -> None:
    assert not is_meant(event(node=pattern), "a" * 200, SERVICES)
    assert not is_meant(event(service=pattern), "host7", (("a" * 200, ()),))


def test_only_filters_that_decide_are_compiled_and_each_once() -> None:
    _compiled.cache_clear()
    hostile = event(node="^other$", service=HOSTILE[0], tag=HOSTILE[1])
    assert not is_meant(hostile, "host7", SERVICES)
    assert _compiled.cache_info().misses == 1, "the filter on the node has decided"
    assert not is_meant(event(node="^host7$", service="^cache$", tag=HOSTILE[1]), "host7", SERVICES)
    assert _compiled.cache_info().misses == 3, "no service is left whose tags there are to look at"
    assert is_meant(event(service="web", tag="blue"), "host7", SERVICES * 40)
    assert is_meant(event(), "host7", SERVICES)
    assert _compiled.cache_info().misses == 5


def test_what_strangers_filter_by_does_not_stay_for_ever() -> None:
    for number in range(1_000):
        is_meant(event(node=f"^{number}$"), "host7", SERVICES)
    assert _compiled.cache_info().currsize <= 128


# -- what comes from outside ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "body", [b"", b"\xc1", b"\x92\x01\x90", b"\x92\x01\x97", b"\x00" * 600, b"\x92" * 400, b"\xff" * 40]
)
def test_what_is_no_event_is_dropped_and_counted(body: bytes) -> None:
    events = Events()
    assert events.hear(News(TOPIC, body)) is None
    assert events.dropped == 1
    assert events.clock.time == 0


@pytest.mark.parametrize(
    "id",
    [
        "\n\n" + "1" * 30 + "-" * 4,
        "+1_1" + "1" * 28 + "-" * 4,
        " b54fe110-7af5-cafc-d1fb-afc8ba432b1",
        "b54fe110-7af5-cafc-d1fb-afc8ba432b1c\n",
        "B54FE110-7AF5-CAFC-D1FB-AFC8BA432B1C",
        "b54fe1107af5-cafc-d1fb-afc8-ba432b1c",
        "b54fe110-7af5-cafc-d1fb-afc8ba432b1\N{ARABIC-INDIC DIGIT ONE}",
        "",
    ],
)
def test_an_id_is_a_uuid_as_it_is_written_or_no_event(id: str) -> None:
    receiver = Events()
    assert receiver.hear(Events().fire(UserEvent(id, "deploy"))) is None
    assert receiver.dropped == 1


@given(body=st.binary(max_size=600))
def test_any_bytes_are_an_event_or_none(body: bytes) -> None:
    Events().hear(News(TOPIC, body))


def test_news_of_another_topic_is_no_event() -> None:
    assert Events().hear(News(TOPIC + 1, Events().fire(event()).body)) is None


def test_a_time_that_no_clock_can_have_reached_is_no_events() -> None:
    receiver, sender = Events(), Events()
    sender.clock.time = MOST_AHEAD
    assert heard(receiver, sender.fire(event(1))) is None
    assert (receiver.dropped, receiver.clock.time) == (1, 0)
    sender.clock.time = MOST_AHEAD - 1
    assert heard(receiver, sender.fire(event(2))) == 2
    assert receiver.clock.time == MOST_AHEAD


def test_what_is_not_taken_moves_no_clock() -> None:
    receiver, sender = Events(), Events()
    sender.clock.time = 1_000
    assert receiver.hear(sender.fire(event()), lambda: False) is None
    assert receiver.clock.time == 0


def test_a_clock_catches_up_by_steps_and_never_leaves_the_numbers() -> None:
    clock = LamportClock()
    clock.catch_up(7)
    assert clock.time == 7
    for step in (1, 2):
        clock.catch_up(1 << 63)
        assert clock.time == 7 + step * STEP
    clock.catch_up(3)
    assert clock.time == 7 + 2 * STEP
    clock.time = MOST - MOST_AHEAD - 1
    clock.catch_up(1 << 63)
    assert clock.time == MOST - MOST_AHEAD
