"""The Stream for asyncio against whatever may answer it, and against a real agent."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from support.dev_agent import dev_agent
from support.scripted_agent import BROKEN, HEAD, STAY, change, event, scripted, snapshot

from gemot.agent.client.aio.agents import Agents
from gemot.agent.client.aio.kv import Kv
from gemot.agent.client.aio.stream import Stream
from gemot.agent.client.connection import ClientError, NotAnAgent, Refused
from gemot.agent.client.events import Bookmark, Change, Op, Snapshot, WatchEnded
from gemot.agent.client.mirror import Changed, Mirror
from gemot.agent.client.sse import TooLong

MOMENT_S = 2.0
"""How long some tests let a silence last. What is not silent has to answer within it."""

PATIENCE_S = 60.0
Followed = tuple[Stream, list[ClientError], list[float]]


def run(work: Callable[[], Awaitable[None]]) -> None:
    """Runs the decorated coroutine, for as long as no test is meant to take."""
    asyncio.run(asyncio.wait_for(work(), PATIENCE_S))


@asynccontextmanager
async def stream(*addresses: str, **more: Any) -> AsyncIterator[Followed]:
    """One that does not wait between tries, what broke it, and how long it would have waited."""
    broke: list[ClientError] = []
    waited: list[float] = []

    def trouble(error: ClientError, _delay_s: float) -> None:
        broke.append(error)

    async def sleep(delay_s: float) -> None:
        waited.append(delay_s)

    async with (
        Agents(addresses) as agents,
        Stream(agents, {"prefix": ""}, trouble=trouble, sleep=sleep, **more) as made,
    ):
        yield made, broke, waited


IN_ITS_WORDS = {"chunks of no size": "Invalid character in chunk size"}
"""aiohttp sees it before it hands out the head of the answer."""


@pytest.mark.parametrize("kind", BROKEN)
def test_it_goes_on_behind_what_it_handed_out_whatever_broke(kind: str) -> None:
    broken, why = BROKEN[kind]
    why = IN_ITS_WORDS.get(kind, why)
    first = HEAD + snapshot(3, a=3) + change(5, "a", 5)
    with scripted(first, broken, HEAD + change(6, "a", 6) + STAY) as agent:

        @run
        async def _() -> None:
            async with stream(agent.address) as (events, broke, _):
                assert await anext(events) == Snapshot("0-3", 3, {"a": 3})
                assert await anext(events) == Change("0-5", 5, [Op("set", "a", 5)])
                assert await anext(events) == Change("0-6", 6, [Op("set", "a", 6)])
                assert events.place == "0-6"
                assert why in str(broke[1])

    assert ["Last-Event-ID: 0-5\r\n" in head for head in agent.asked] == [False, True, True]


def test_nothing_for_so_long_is_a_broken_connection() -> None:
    with scripted(HEAD + snapshot(3) + STAY, HEAD + change(4, "a", 4) + STAY) as agent:

        @run
        async def _() -> None:
            async with stream(agent.address, patience_s=MOMENT_S) as (events, broke, _):
                assert [(await anext(events)).index for _ in range(2)] == [3, 4]
                assert f"nothing came for {MOMENT_S:g} s" in str(broke[0])


def test_an_agent_that_takes_the_question_and_never_answers_is_left_for_the_next() -> None:
    with scripted(STAY) as mute, scripted(HEAD + snapshot(3) + STAY) as other:

        @run
        async def _() -> None:
            async with stream(mute.address, other.address, patience_s=MOMENT_S) as (events, broke, _):
                assert (await anext(events)).index == 3
                assert f"no answer from the agent at {mute.address}" in str(broke[0])


def test_it_goes_on_at_the_next_agent_and_passes_by_one_that_is_away() -> None:
    with scripted(HEAD + snapshot(3)) as one, scripted(HEAD + change(4, "a", 4) + STAY) as other:

        @run
        async def _() -> None:
            async with stream(one.address, "127.0.0.1:1", other.address) as (events, _, waited):
                assert [(await anext(events)).index for _ in range(2)] == [3, 4]
                assert len(waited) == 1

    assert "Last-Event-ID: 0-3\r\n" in other.asked[0]


def test_where_the_stream_turns_the_other_requests_stay() -> None:
    """A stream that broke says nothing against the agent through which a lock is held."""
    found = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n[]"
    with scripted(HEAD + snapshot(3), found) as one, scripted(HEAD + snapshot(4) + STAY) as other:

        @run
        async def _() -> None:
            async with Agents([one.address, other.address]) as agents:
                async with Stream(agents, {"prefix": ""}, sleep=lambda _: asyncio.sleep(0)) as events:
                    assert [(await anext(events)).index for _ in range(2)] == [3, 4]
                assert await Kv(agents).get("x") is None

    assert len(one.asked) == 2


def test_what_is_lost_is_told_with_the_snapshot_and_once() -> None:
    compacted = event("compacted", '{"Reason":"long ago"}')
    again = HEAD + compacted + snapshot(9, a=9) + snapshot(9, a=9) + STAY
    with scripted(HEAD + snapshot(3), HEAD + compacted, again) as agent:

        @run
        async def _() -> None:
            async with stream(agent.address) as (events, _, _):
                told = [await anext(events) for _ in range(3)]
                assert told[1:] == [Snapshot("0-9", 9, {"a": 9}, "long ago"), Snapshot("0-9", 9, {"a": 9})]

    assert ["0-3" in head for head in agent.asked] == [False, True, True]


def test_the_place_is_of_what_was_handed_out_and_a_new_stream_begins_there() -> None:
    bookmark = event("bookmark", '{"Index":7}', "0-7")
    with scripted(HEAD + snapshot(3) + change(4, "a", 4) + bookmark + STAY, HEAD + bookmark + STAY) as agent:

        @run
        async def _() -> None:
            async with stream(agent.address) as (events, _, _):
                assert [(await anext(events), events.place)[1] for _ in range(2)] == ["0-3", "0-4"]
                place = events.place
            async with stream(agent.address, place=place) as (events, _, _):
                assert await anext(events) == Bookmark("0-7", 7)

    assert "Last-Event-ID: 0-4\r\n" in agent.asked[1]


def test_a_wait_that_is_cancelled_takes_no_event_with_it() -> None:
    with scripted(HEAD + snapshot(3) + STAY) as agent:

        @run
        async def _() -> None:
            async with stream(agent.address) as (events, broke, _):
                assert (await anext(events)).index == 3
                for _ in range(3):
                    with pytest.raises(TimeoutError):
                        await asyncio.wait_for(anext(events), 0.05)
                agent.say(change(4, "a", 4))
                assert (await anext(events)).index == 4
                assert broke == []


def test_what_an_agent_will_not_do_is_raised() -> None:
    ended = HEAD + event("error", '{"Error":"more than 64 MiB are under this prefix"}')
    endless = HEAD + b"data: " + b"x" * 2_000_000
    with (
        scripted(ended) as ends,
        scripted(b"HTTP/1.1 404 x\r\nContent-Length: 7\r\n\r\nNo such") as older,
        scripted(endless) as long,
    ):

        @run
        async def _() -> None:
            async with stream(ends.address) as (events, _, _):
                with pytest.raises(WatchEnded, match="more than 64 MiB"):
                    await anext(events)
            async with stream(older.address) as (events, _, _):
                with pytest.raises(Refused, match="No such") as refused:
                    await anext(events)
            assert refused.value.status == 404
            async with stream(long.address, most_bytes=1_000_000) as (events, broke, _):
                with pytest.raises(TooLong, match="more than 1000000 bytes"):
                    await anext(events)
                assert broke == []


ENDED = event("error", '{"Error":"more than 64 MiB are under this prefix"}')


@pytest.mark.parametrize(
    ("end", "error"), [(ENDED, WatchEnded), (change(5, "a" * 1000, 5), TooLong)], ids=["ended", "too long"]
)
def test_what_was_told_before_the_end_is_handed_out_before_the_error(
    end: bytes, error: type[ClientError]
) -> None:
    with scripted(HEAD + snapshot(3) + change(4, "a", 4) + end) as agent:

        @run
        async def _() -> None:
            async with stream(agent.address, most_bytes=500) as (events, _, _):
                assert [(await anext(events)).index for _ in range(2)] == [3, 4]
                with pytest.raises(error, match="more than"):
                    await anext(events)


def test_delays_grow_up_to_half_a_minute_and_begin_anew_after_an_event() -> None:
    bad = [HEAD + event("change", "x", "0-1")] * 8
    with scripted(*bad, HEAD + snapshot(3), HEAD + snapshot(4)) as agent:

        @run
        async def _() -> None:
            async with stream(agent.address) as (events, broke, waited):
                await anext(events)
                await anext(events)
                assert all(isinstance(error, NotAnAgent) for error in broke[:8])
                for delay_s, most_s in zip(waited, [1, 2, 4, 8, 16, 30, 30, 30, 1], strict=True):
                    assert most_s / 2 - 0.1 < delay_s <= most_s


def test_a_delay_whose_wait_is_cancelled_counts_on() -> None:
    with scripted(*[HEAD] * 6, HEAD + snapshot(3) + STAY) as agent:

        @run
        async def _() -> None:
            waits: list[float] = []
            long, over = asyncio.Event(), asyncio.Event()

            async def sleep(delay_s: float) -> None:
                waits.append(delay_s)
                if len(waits) >= 6:  # a quarter of a minute, and more
                    long.set()
                    await over.wait()

            async with Agents(agent.address) as agents, Stream(agents, {"prefix": ""}, sleep=sleep) as events:
                for _ in range(3):
                    waiting = asyncio.create_task(anext(events))
                    await long.wait()
                    long.clear()
                    waiting.cancel()
                    await asyncio.wait([waiting])
                assert len(agent.asked) == 6
                over.set()
                assert (await anext(events)).index == 3
                assert waits[5:] == sorted(waits[5:], reverse=True)
                assert len(waits) == 9


# -- a real agent ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with dev_agent(tmp_path_factory.mktemp("agent")) as address:
        yield address


def test_each_change_is_told_once_though_the_stream_breaks_after_each(address: str) -> None:
    @run
    async def _() -> None:
        async with Agents(address) as agents, Stream(agents, {"prefix": "once/"}) as events:
            assert (await anext(events)).index
            for number in range(40):
                await Kv(agents).put(f"once/{number % 3}", b"%d" % number)
            told = []
            while len(told) < 40:
                found = await anext(events)
                if isinstance(found, Change):
                    told += [(found.index, op.key, op.item["ModifyIndex"]) for op in found.changes]
                await events.close()
        assert [key for _, key, _ in told] == [f"once/{number % 3}" for number in range(40)]
        assert [index for index, _, _ in told] == sorted({modified for _, _, modified in told})


def test_a_mirror_takes_the_events_of_either_form(address: str) -> None:
    @run
    async def _() -> None:
        mirror, seen = Mirror(), list[Changed]()
        async with Agents(address) as agents, Stream(agents, {"prefix": "mirrored/"}) as events:
            assert mirror.take(await anext(events)) == []
            await Kv(agents).put("mirrored/a", b"1")
            await Kv(agents).delete("mirrored/a")
            async for event in events:
                seen += mirror.take(event)
                if len(seen) == 2:
                    break
        assert [(each.op, each.key, each.old is None) for each in seen] == [
            ("set", "mirrored/a", True),
            ("delete", "mirrored/a", False),
        ]
        assert mirror.items == {}
