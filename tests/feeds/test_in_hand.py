"""Events that slow readers have in hand: counted once, cut where room is needed, the slowest first."""

from __future__ import annotations

import asyncio
from typing import Any

from support.followed import events_in
from support.http_agent import run
from support.told_source import Told

from gemot.agent.feeds.feeds import Feeds
from gemot.agent.feeds.reader import Reader
from gemot.agent.feeds.wire import Place

LONG = 1 << 20
EVENT = b'{"Op":"set","Key":"k","Item":"%b"}' % (b"v" * LONG)


class _Slow:
    """A reader whose connection is full from the first event on."""

    def __init__(self, reader: Reader) -> None:
        self.aborted = False
        reader.attach(lambda _piece: False, self._abort)
        self.pieces: Any = aiter(reader)

    def _abort(self) -> None:
        self.aborted = True

    async def begin(self) -> None:
        await anext(self.pieces)
        await anext(self.pieces)
        self._next = asyncio.ensure_future(anext(self.pieces))
        await asyncio.sleep(0)

    async def piece(self) -> bytes:
        return await self._next


async def _slow(feeds: Feeds) -> _Slow:
    slow = _Slow(await feeds.follow("k", Told, None))
    await slow.begin()
    return slow


def test_an_event_is_the_same_object_for_all_and_counts_once_until_the_last_has_taken_it() -> None:
    async def work() -> None:
        feeds = Feeds(now=lambda: 0.0)
        slow = [await _slow(feeds) for _ in range(3)]
        (feed,) = feeds._feeds.values()
        feed.change(Place(2, 0), [EVENT])
        pieces = [await each.piece() for each in slow]
        assert pieces[0] is pieces[1] is pieces[2]
        for index in range(3, 12):
            feed.change(Place(index, 0), [EVENT])
        in_ring = feed.ring.size
        assert feeds.held == feed.held
        assert LONG < feed.held - in_ring < 2 * LONG, "it is in the ring no more"
        for each in slow:
            assert feed.held - in_ring > LONG
            await each.pieces.aclose()
        assert feed.held - in_ring < 10_000
        feeds.stop()

    run(work())


def test_short_events_are_joined_and_a_long_one_is_given_by_itself() -> None:
    async def work() -> None:
        feeds = Feeds(now=lambda: 0.0)
        slow = await _slow(feeds)
        (feed,) = feeds._feeds.values()
        for index, event in enumerate((b"{}", b"{}", EVENT, b"{}"), 2):
            feed.change(Place(index, 0), [event])
        pieces = [await slow.piece(), await anext(slow.pieces), await anext(slow.pieces)]
        assert [[event.id for event in events_in(piece)] for piece in pieces] == [
            ["0-2", "0-3"],
            ["0-4"],
            ["0-5"],
        ]
        await slow.pieces.aclose()
        feeds.stop()

    run(work())


def test_who_has_not_taken_an_event_for_longest_is_cut_where_room_is_needed() -> None:
    async def work() -> None:
        feeds = Feeds(now=lambda: 0.0, most_bytes=8 * LONG)
        readers = []
        for index in range(2, 14):
            slow = await _slow(feeds)
            (feed,) = feeds._feeds.values()
            feed.change(Place(index, 0), [EVENT])
            await slow.piece()
            readers.append(slow)
            assert feeds.held <= 9 * LONG
        cut = [each.aborted for each in readers]
        assert cut == sorted(cut, reverse=True)
        assert 2 < sum(cut) < 12
        for each in readers:
            if each.aborted:
                assert [piece async for piece in each.pieces] == [], "it comes back"
            await each.pieces.aclose()
        assert (feed.followers, feed._in_hand.held) == (0, 0)
        feeds.stop()

    run(work())
