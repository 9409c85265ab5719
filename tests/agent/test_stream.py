"""The client's Stream against whatever may answer it, and against a real agent."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import Any

import pytest
from support.dev_agent import await_sessions, dev_agent
from support.scripted_agent import BROKEN, HEAD, STAY, change, event, scripted, snapshot

from gemot.agent.client.agents import Agents
from gemot.agent.client.connection import ClientError, Connection, NotAnAgent, Refused
from gemot.agent.client.events import Bookmark, Change, Op, Snapshot, WatchEnded
from gemot.agent.client.sse import TooLong
from gemot.agent.client.stream import Stream

MOMENT_S = 2.0
"""How long some tests let a silence last. What is not silent has to answer within it."""


@contextmanager
def stream(*addresses: str, **more: Any) -> Iterator[tuple[Stream, list[ClientError], list[float]]]:
    """One that does not wait between tries, what broke it, and how long it would have waited."""
    broke: list[ClientError] = []
    waited: list[float] = []

    def trouble(error: ClientError, _delay_s: float) -> None:
        broke.append(error)

    made = Stream(Agents(addresses), {"prefix": ""}, trouble=trouble, sleep=waited.append, **more)
    with closing(made):
        yield made, broke, waited


@pytest.mark.parametrize(("broken", "why"), BROKEN.values(), ids=BROKEN.keys())
def test_it_goes_on_behind_what_it_handed_out_whatever_broke(broken: bytes, why: str) -> None:
    first = HEAD + snapshot(3, a=3) + change(5, "a", 5)
    with (
        scripted(first, broken, HEAD + change(6, "a", 6) + STAY) as agent,
        stream(agent.address) as (events, broke, _),
    ):
        assert next(events) == Snapshot("0-3", 3, {"a": 3})
        assert next(events) == Change("0-5", 5, [Op("set", "a", 5)])
        assert next(events) == Change("0-6", 6, [Op("set", "a", 6)])
        assert events.place == "0-6"
        assert why in str(broke[1])
    assert ["Last-Event-ID: 0-5\r\n" in head for head in agent.asked] == [False, True, True]


def test_nothing_for_so_long_is_a_broken_connection() -> None:
    with (
        scripted(HEAD + snapshot(3) + STAY, HEAD + change(4, "a", 4) + STAY) as agent,
        stream(agent.address, patience_s=MOMENT_S) as (events, broke, _),
    ):
        assert [next(events).index for _ in range(2)] == [3, 4]
        assert f"nothing came for {MOMENT_S:g} s" in str(broke[0])


def test_an_agent_that_takes_the_question_and_never_answers_is_left_for_the_next() -> None:
    with (
        scripted(STAY) as mute,
        scripted(HEAD + snapshot(3) + STAY) as other,
        stream(mute.address, other.address, patience_s=MOMENT_S) as (events, broke, _),
    ):
        assert next(events).index == 3
        assert f"no answer from the agent at {mute.address}" in str(broke[0])


def test_it_goes_on_at_the_next_agent() -> None:
    with (
        scripted(HEAD + snapshot(3)) as one,
        scripted(HEAD + change(4, "a", 4) + STAY) as other,
        stream(one.address, other.address) as (events, _, waited),
    ):
        assert [next(events).index for _ in range(2)] == [3, 4]
        assert len(waited) == 1
    assert "Last-Event-ID: 0-3\r\n" in other.asked[0]


def test_what_is_lost_is_told_with_the_snapshot_and_once() -> None:
    compacted = event("compacted", '{"Reason":"long ago"}')
    with (
        scripted(
            HEAD + snapshot(3),
            HEAD + compacted,
            HEAD + compacted + snapshot(9, a=9) + snapshot(9, a=9) + STAY,
        ) as agent,
        stream(agent.address) as (events, _, _),
    ):
        told = [next(events) for _ in range(3)]
    assert told[1:] == [Snapshot("0-9", 9, {"a": 9}, "long ago"), Snapshot("0-9", 9, {"a": 9})]
    assert ["0-3" in head for head in agent.asked] == [False, True, True]


def test_the_place_is_of_what_was_handed_out_not_of_what_arrived() -> None:
    with (
        scripted(
            HEAD + snapshot(3) + change(4, "a", 4) + event("bookmark", '{"Index":7}', "0-7") + STAY
        ) as it,
        stream(it.address) as (events, _, _),
    ):
        places = [(next(events), events.place)[1] for _ in range(3)]
    assert places == ["0-3", "0-4", "0-7"]


def test_kinds_of_later_releases_are_passed_over() -> None:
    later = event("weather", "rain") + b"data: no kind\n\n" + event("bookmark", '{"Index":3,"More":1}', "0-3")
    with scripted(HEAD + later + STAY) as agent, stream(agent.address) as (events, _, _):
        assert next(events) == Bookmark("0-3", 3)


def test_an_event_without_an_end_ends_the_watch_within_the_bound() -> None:
    with (
        scripted(HEAD + b"data: " + b"x" * 2_000_000) as agent,
        stream(agent.address, most_bytes=1_000_000) as (events, broke, _),
    ):
        with pytest.raises(TooLong, match="more than 1000000 bytes"):
            next(events)
        assert broke == []


def test_what_an_agent_will_not_do_is_raised() -> None:
    ended = HEAD + event("error", '{"Error":"more than 64 MiB are under this prefix"}')
    with (
        scripted(ended) as agent,
        stream(agent.address) as (events, _, _),
        pytest.raises(WatchEnded, match="more than 64 MiB"),
    ):
        next(events)
    with (
        scripted(b"HTTP/1.1 404 x\r\nContent-Length: 0\r\n\r\n") as agent,
        stream(agent.address) as (events, _, _),
        pytest.raises(Refused) as refused,
    ):
        next(events)
    assert refused.value.status == 404


def test_what_was_told_before_the_end_is_handed_out_before_the_error() -> None:
    ended = event("error", '{"Error":"more than 64 MiB are under this prefix"}')
    with (
        scripted(HEAD + snapshot(3) + change(4, "a", 4) + ended) as agent,
        stream(agent.address) as (it, _, _),
    ):
        assert [next(it).index for _ in range(2)] == [3, 4]
        with pytest.raises(WatchEnded, match="more than 64 MiB"):
            next(it)


def test_what_is_handed_out_does_not_wait_for_what_broke_behind_it() -> None:
    broken = HEAD + snapshot(3) + event("change", "x", "0-4")
    with (
        scripted(broken, HEAD + change(5, "a", 5) + STAY) as agent,
        stream(agent.address) as (events, broke, waited),
    ):
        assert next(events).index == 3
        assert (broke, waited) == ([], [])
        assert next(events).index == 5
        assert len(waited) == 1


def test_delays_grow_up_to_half_a_minute_and_begin_anew_after_an_event() -> None:
    bad = [HEAD + event("change", "x", "0-1")] * 8
    with (
        scripted(*bad, HEAD + snapshot(3), HEAD + snapshot(4)) as agent,
        stream(agent.address) as (events, broke, waited),
    ):
        next(events)
        next(events)
    assert all(isinstance(error, NotAnAgent) for error in broke[:8])
    for delay_s, most_s in zip(waited, [1, 2, 4, 8, 16, 30, 30, 30, 1], strict=True):
        assert most_s / 2 <= delay_s <= most_s


# -- a real agent ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with dev_agent(tmp_path_factory.mktemp("agent")) as address:
        await_sessions(address)  # its own node is in the catalog then
        yield address


@pytest.mark.parametrize(
    ("watched", "key"),
    [
        ({"nodes": ""}, "n1"),
        ({"services": ""}, "consul"),
        ({"service": "consul", "passing": True}, "n1/consul"),
        ({"checks": "passing"}, "n1/serfHealth"),
        ({"node": "n1"}, "service/consul"),
    ],
)
def test_items_are_named_in_a_snapshot_as_in_changes(address: str, watched: dict[str, Any], key: str) -> None:
    with closing(Stream(Agents(address), watched)) as events:
        first = next(events)
    assert isinstance(first, Snapshot)
    assert key in first.items


def test_each_change_is_told_once_though_the_stream_breaks_after_each(address: str) -> None:
    with (
        closing(Connection(address)) as agent,
        closing(Stream(Agents(address), {"prefix": "once/"})) as events,
    ):
        assert next(events).index
        for number in range(40):
            agent.request("PUT", f"/v1/kv/once/{number % 3}", body=b"%d" % number)
        told = []
        while len(told) < 40:
            found = next(events)
            if isinstance(found, Change):
                told += [(found.index, op.key, op.item["ModifyIndex"]) for op in found.changes]
            events.close()
    assert [key for _, key, _ in told] == [f"once/{number % 3}" for number in range(40)]
    assert [index for index, _, _ in told] == sorted({modified for _, _, modified in told})
