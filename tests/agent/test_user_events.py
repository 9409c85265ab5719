"""User events between agents: heard once by those that are members, late or not, and kept by those meant."""

from __future__ import annotations

import asyncio
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gemot.agent.gossip.events import KEPT, TOPIC
from gemot.agent.gossip.loop import Freight
from gemot.agent.gossip.message import News
from gemot.agent.user_events import AGED, BURST, EACH_S, UserEvents
from gemot.server.model.catalog import Service
from gemot.server.model.errors import BadRequest, TooLarge


class Host:
    """One agent's events, and what it wants told by datagram. Time is stepped."""

    def __init__(self, name: str = "host", services: tuple[Service, ...] = ()) -> None:
        self.now_s = 1_000.0
        self.told: list[News] = []
        self.freight: Freight | None = None
        self.events = UserEvents(
            node=name,
            services=lambda: {each.id: each for each in services},
            now_s=lambda: self.now_s,
            gossip=self,
        )
        self.events.start()
        assert self.freight is self.events

    def carry(self, freight: Freight) -> None:
        self.freight = freight

    def tell(self, subject: str, news: News) -> None:
        self.told.append(news)

    def names(self) -> list[str]:
        return [each.event.name for each in self.events.list()]


def exchange(one: Host, other: Host) -> None:
    clock, news = one.events.clock, one.events.recent()
    one.events.on_exchange(other.events.clock, other.events.recent())
    other.events.on_exchange(clock, news)


def members(*names: str) -> list[Host]:
    hosts = [Host(name) for name in names]
    for host in hosts[1:]:
        exchange(hosts[0], host)
    return hosts


def test_what_is_fired_is_told_to_others_and_kept_here() -> None:
    host = Host()
    host.events.fire("deploy", b"7")
    assert [news.topic for news in host.told] == [TOPIC]
    assert host.names() == ["deploy"]
    assert (host.events.fired, host.events.heard) == (1, 1)


def test_what_is_heard_is_passed_on_once_and_kept_once_however_often_it_comes() -> None:
    one, other = members("a", "b")
    one.events.fire("deploy")
    for _ in range(3):
        other.events.on_news(one.told[0])
        exchange(one, other)
    assert other.names() == ["deploy"]
    assert other.told == one.told
    assert other.events.heard == 1


def test_a_member_that_missed_the_datagrams_hears_it_in_an_exchange() -> None:
    one, other, third = members("a", "b", "c")
    one.events.fire("deploy")
    exchange(one, other)
    assert other.names() == ["deploy"]
    exchange(other, third)
    assert third.names() == ["deploy"]


def test_it_is_passed_on_though_it_is_not_meant_for_this_host() -> None:
    one, other = members("a", "b")
    one.events.fire("deploy", node="^c$")
    other.events.on_news(one.told[0])
    assert other.names() == []
    assert other.told == one.told


def test_services_and_their_tags_are_those_of_the_moment() -> None:
    host = Host(services=(Service("web-1", "web", ("v1",)),))
    host.events.fire("by-name", service="^web$")
    host.events.fire("by-id", service="^web-1$")
    host.events.fire("by-tag", service="web", tag="^v1$")
    host.events.fire("by-other-tag", service="web", tag="v2")
    assert host.names() == ["by-name", "by-tag"]


# -- who comes later -----------------------------------------------------------------------------------------


def test_a_newcomer_does_not_hear_what_was_fired_before_it_joined() -> None:
    old, newcomer = Host("old"), Host("new")
    old.events.fire("before")
    newcomer.events.on_news(old.told[0])
    exchange(old, newcomer)
    newcomer.events.on_news(old.told[0])
    exchange(old, newcomer)
    assert newcomer.names() == []
    old.events.fire("after")
    newcomer.events.on_news(old.told[1])
    assert newcomer.names() == ["after"]


def test_nor_from_one_whom_it_asks_later() -> None:
    """Two that begin at once meet each other first, and an old member afterwards."""
    old, one, other = Host("old"), Host("a"), Host("b")
    old.events.fire("before")
    old.now_s += 5
    exchange(one, other)
    for host in (old, one, other):
        host.now_s += 4
    exchange(one, old)
    exchange(other, one)
    assert one.names() == other.names() == []
    old.events.fire("after")
    exchange(old, one)
    exchange(one, other)
    assert one.names() == other.names() == ["after"]


def test_what_is_fired_later_by_one_whose_clock_is_behind_is_not_from_before() -> None:
    """b has not heard what a had when c joined by it: it fires later, and at an earlier time of Lamport's."""
    a, b = members("a", "b")
    c = Host("c")
    for _ in range(5):
        a.events.fire("before")
    for host in (a, b, c):
        host.now_s += 1
    exchange(a, c)
    for host in (a, b, c):
        host.now_s += 10
    b.events.fire("later")
    assert b.events.list()[0].time < c.events.clock
    for _ in range(2):
        c.events.on_news(b.told[0])
        exchange(b, c)
    assert c.names() == ["later"]


def test_what_was_there_when_it_joined_is_from_before_however_late_others_hear_it() -> None:
    """The age that a member tells begins with its hearing: of one that hung it is too short."""
    a, hung, newcomer = *members("a", "b"), Host("c")
    a.events.fire("before")
    a.now_s += 5
    exchange(a, newcomer)
    for host in (a, hung, newcomer):
        host.now_s += 5
    hung.events.on_news(a.told[0])
    newcomer.events.on_news(hung.told[0])
    exchange(hung, newcomer)
    assert newcomer.names() == []


def test_an_agent_that_was_started_again_does_not_hear_again_what_it_heard() -> None:
    one, other = members("a", "b")
    one.events.fire("deploy")
    exchange(one, other)
    other_again = Host("b")
    for host in (one, other_again):
        host.now_s += 60
    other_again.events.on_news(one.told[0])
    exchange(other_again, one)
    other_again.events.on_news(one.told[0])
    exchange(other_again, one)
    assert other_again.names() == []


def test_what_was_fired_while_a_member_was_cut_off_is_told_when_it_is_back() -> None:
    one, other = members("a", "b")
    for host in (one, other):
        host.now_s += 3_600
    one.events.fire("deploy")
    for host in (one, other):
        host.now_s += 3_000
    exchange(one, other)
    assert other.names() == ["deploy"]


def test_what_was_fired_while_a_host_was_suspended_is_told_when_it_wakes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Suspended, the boot clock goes on and the monotonic one stands still."""
    slept_s = 0.0
    monkeypatch.setattr(
        time,
        "clock_gettime",
        lambda clock: time.monotonic() + (slept_s if clock == time.CLOCK_BOOTTIME else 0.0),
    )
    sleeper = UserEvents(node="b", services=dict, gossip=None)
    sleeper.on_exchange(0, ())
    slept_s = 3_600.0
    one = Host("a")
    one.events.fire("deploy")
    one.now_s += 1_800
    sleeper.on_exchange(one.events.clock, one.events.recent())
    assert [each.event.name for each in sleeper.list()] == ["deploy"]


def test_the_last_events_go_with_an_exchange_and_no_more() -> None:
    one, other = members("a", "b")
    for number in range(KEPT + 40):
        one.events.fire(f"e{number}")
    exchange(one, other)
    assert sorted(other.names()) == sorted(f"e{number}" for number in range(40, KEPT + 40))


# -- bounds --------------------------------------------------------------------------------------------------


def test_what_cannot_be_fired_is_neither_told_nor_kept() -> None:
    host = Host()
    with pytest.raises(TooLarge):
        host.events.fire("deploy", bytes(512))
    with pytest.raises(BadRequest):
        host.events.fire("deploy", node="(")
    assert (host.told, host.names(), host.events.fired) == ([], [], 0)


def test_a_flood_of_others_is_taken_at_a_bounded_pace_and_the_rest_counted() -> None:
    stranger, host = members("a", "b")
    for number in range(3 * BURST):
        stranger.events.fire(f"e{number}")

    def flood() -> tuple[int, int]:
        before = host.events.heard, host.events.dropped
        for news in stranger.told:
            host.events.on_news(news)
        return host.events.heard - before[0], host.events.dropped - before[1]

    assert flood() == (BURST, 2 * BURST)
    assert len(host.told) == BURST, "what is not taken is not passed on"
    host.now_s += 1
    assert flood() == (EACH_S, 2 * BURST - EACH_S)
    assert flood()[0] == 0
    host.events.fire("mine")
    assert host.names()[-1] == "mine", "its own are not counted among them"


def test_what_was_too_much_comes_again_with_exchanges() -> None:
    stranger, host, calm = members("a", "b", "c")
    for _ in range(BURST):
        stranger.events.fire("flood")
    for news in stranger.told:
        host.events.on_news(news)
    calm.events.fire("calm")
    host.events.on_news(calm.told[0])
    assert "calm" not in host.names()
    for each in (stranger, host, calm):
        each.now_s += 30
    exchange(host, calm)
    assert "calm" in host.names()


@given(st.binary(max_size=600), st.integers(0, 3), st.integers(0, 1 << 63))
def test_no_news_of_a_stranger_does_more_than_being_counted(body: bytes, topic: int, clock: int) -> None:
    host = Host()
    host.events.on_exchange(0, ())
    host.events.on_news(News(topic, body))
    host.events.on_exchange(clock, (News(topic, body), News(AGED, body)))
    assert host.names() == []
    host.events.fire("still")
    assert host.names() == ["still"]


def test_one_member_that_lies_about_its_clock_does_not_silence_the_others() -> None:
    one, other = members("a", "b")
    for _ in range(3):
        one.events.on_exchange(1 << 62, ())
    one.events.fire("deploy")
    other.events.on_news(one.told[0])
    exchange(one, other)
    assert one.names() == ["deploy"]
    assert other.names() == ["deploy"]
    newcomer = Host("c")
    newcomer.events.on_exchange(1 << 63, ())
    newcomer.events.fire("mine")
    assert newcomer.names() == ["mine"]


def test_a_newcomer_that_is_lied_to_at_first_is_heard_and_hears() -> None:
    a, liars_friend, newcomer = *members("a"), Host("b"), Host("c")
    liars_friend.events.on_exchange((1 << 63) - 1, ())
    liars_friend.events.fire("mine")
    a.events.on_exchange(0, ())
    a.now_s += 1
    a.events.on_news(liars_friend.told[0])
    assert a.names() == ["mine"]
    a.events.fire("yours")
    liars_friend.events.on_news(a.told[-1])
    assert liars_friend.names() == ["mine", "yours"]
    exchange(liars_friend, newcomer)
    newcomer.events.fire("ours")
    for host in (a, liars_friend):
        host.events.on_news(newcomer.told[0])
        assert host.names() == ["mine", "yours", "ours"]


def test_a_newcomer_comes_up_with_those_that_have_fired_for_ages() -> None:
    old, newcomer = members("old")[0], Host("new")
    old.events.on_exchange(0, ())
    for _ in range(9):
        old.events.on_exchange(1 << 62, ())
    exchange(old, newcomer)
    for host in (old, newcomer):
        host.now_s += 1
    old.events.fire("deploy")
    for _ in range(9):
        exchange(old, newcomer)
    assert newcomer.names() == ["deploy"]
    newcomer.events.fire("done")
    old.events.on_news(newcomer.told[-1])
    assert old.names() == ["deploy", "done"]


def test_a_reader_waits_for_the_next_one_that_is_kept() -> None:
    async def work() -> None:
        host = Host("a")
        waiting = asyncio.ensure_future(host.events.wait())
        await asyncio.sleep(0)
        host.events.fire("elsewhere", node="^b$")
        await asyncio.sleep(0)
        assert not waiting.done()
        host.events.fire("here")
        await waiting

    asyncio.run(work())
