"""What all feeds hold together is bounded: who gives way, who is refused, and that nobody misses a change."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any

import pytest
from support.followed import Followed
from support.http_agent import run
from support.local_servers import LocalServers, local_servers
from support.told_source import Told

from gemot.agent.feeds.feed import Feed
from gemot.agent.feeds.feeds import Feeds
from gemot.agent.feeds.keys import Keys
from gemot.agent.feeds.reader import Reader
from gemot.agent.feeds.wire import Place
from gemot.server.model.errors import Busy
from gemot.server.model.kv import KvDelete, KvSet

MIB = 1 << 20
MOST = 4 * MIB


class Room:
    def __init__(self, servers: LocalServers) -> None:
        self.servers = servers
        self.feeds = Feeds(now=lambda: 0.0, most_bytes=MOST)
        self._sets = 0

    async def reader(self, key: bytes, token: str = "") -> Reader:
        make = partial(Keys, servers=self.servers, key=key, prefix=True, token=token)
        reader = await self.feeds.follow((key, token), make, None)
        self.check_sum()
        return reader

    async def follow(self, key: bytes, token: str = "") -> Followed:
        followed = Followed(aiter(await self.reader(key, token)))
        assert (await followed.next()).kind == "snapshot"
        return followed

    async def set(self, key: bytes, length: int) -> int:
        """To what it was not: the same value again is no change."""
        self._sets += 1
        return (await self.servers.apply(KvSet(key, (b"%d" % self._sets).ljust(length)))).index

    def check_sum(self) -> None:
        ended = list(self.feeds._ended)
        assert self.feeds.held == sum(feed.held for feed in [*self.feeds._feeds.values(), *ended])


def with_room(work: Callable[[Room], Coroutine[Any, Any, None]]) -> None:
    async def inside() -> None:
        with local_servers() as servers:
            room = Room(servers)
            try:
                await work(room)
                room.check_sum()
            finally:
                room.feeds.stop()
            assert room.feeds.held == 0

    run(inside())


async def changed(followed: Followed) -> int:
    """The index of the next change."""
    while (event := await followed.next()).kind == "bookmark":
        pass
    assert event.kind == "change", event
    return int(event.data["Index"])


def test_copies_for_made_up_tokens_end_in_clear_words_and_those_left_are_given_up_first() -> None:
    async def work(room: Room) -> None:
        for n in range(3):
            await room.set(b"w/%d" % n, 250_000)
        readers: list[Any] = []

        async def copy(n: int) -> None:
            readers.append(aiter(await room.reader(b"w/", f"made-up-{n}")))
            await anext(readers[-1])

        await copy(0)
        outcomes = await asyncio.gather(*[copy(n) for n in range(1, 5)], return_exceptions=True)
        for refused in filter(None, outcomes):
            with pytest.raises(Busy, match="hold 4 MiB, the most they may: watch fewer"):
                raise refused
        assert 0 < len(readers) < 4
        assert len(room.feeds) == len(readers)
        assert room.feeds.held <= MOST
        await readers.pop(0).aclose()
        assert len(room.feeds) == len(readers) + 1, "it is kept for who comes back"
        await room.follow(b"w/", "another")
        assert len(room.feeds) == len(readers) + 1

    with_room(work)


def test_what_grows_past_it_is_ended_with_a_word_and_the_others_go_on() -> None:
    async def work(room: Room) -> None:
        quiet, greedy = await room.follow(b"quiet"), await room.follow(b"greedy/")
        told = []
        for n in range(9):
            await room.set(b"greedy/%d" % n, 450_000)
            if (event := await greedy.next()).kind == "error":
                break
            told.append(event)
        assert told, "it was followed as long as there was room"
        assert "watch fewer" in event.data["Error"]
        assert len(room.feeds) == 1
        for n in range(9):
            await room.set(b"greedy/%d" % n, 450_000)
        index = await room.set(b"quiet", 1)
        assert await changed(quiet) == index
        with pytest.raises(Busy):
            await room.reader(b"greedy/")
        for n in range(9):
            await room.servers.apply(KvDelete(b"greedy/%d" % n))
        await room.follow(b"greedy/")

    with_room(work)


def test_last_events_make_room_and_nobody_misses_one() -> None:
    async def work(room: Room) -> None:
        keys = [b"a", b"b", b"c"]
        followed = [await room.follow(key) for key in keys]
        indexes: dict[bytes, list[int]] = {key: [] for key in keys}
        for _ in range(6):
            for key in keys:
                indexes[key].append(await room.set(key, 200_000))
                await asyncio.sleep(0)
            assert room.feeds.held <= MOST + MIB
        assert any(feed.ring.behind(2) is None for feed in room.feeds._feeds.values()), "some gave way"
        for key, reader in zip(keys, followed, strict=True):
            assert [await changed(reader) for _ in range(6)] == indexes[key]

    with_room(work)


def test_a_reader_that_was_given_a_feed_that_gave_way_is_told() -> None:
    async def work(room: Room) -> None:
        reader = await room.reader(b"a")
        assert room.feeds._drop_idle(0.0)
        followed = Followed(aiter(reader))
        told = await followed.next()
        assert (told.kind, "watch again" in told.data["Error"]) == ("error", True)

    with_room(work)


def test_a_feed_tells_what_it_holds_with_every_step() -> None:
    told: list[int] = []
    grew: list[bool] = []

    def weighed(_feed: Feed, more: int, grown: bool) -> bool:
        told.append(more)
        grew.append(grown)
        return False

    feed = Feed(weighed=weighed)
    feed.begin({b"a": b"1"}, Place(1, 0))
    feed.set(b"b", b"x" * 1_000)
    feed.change(Place(2, 0), [b"{}"])
    feed.drop(b"b")
    feed.change(Place(3, 0), [b"{}"])
    assert grew == [True, True, False]
    assert told[0] > 0
    assert told[1] > 2_000, "an item and its part of a snapshot"
    assert told[2] < -1_800, "which go; the event that says so stays"
    feed.forget()
    assert sum(told) == feed.held == told[0]


def test_making_room_finds_nothing_that_was_not_weighed() -> None:
    """A snapshot is outdated where nothing happens but an index, and holds more from then on."""

    async def work(room: Room) -> None:
        readers = [aiter(await room.feeds.follow(name, Told, None)) for name in "ba"]
        followed, left = (room.feeds._feeds[name] for name in "ba")
        await anext(readers[0])
        followed.items = {b"k%d" % n: b'"%b"' % bytes(100_000) for n in range(9)}
        followed.change(Place(2, 0), [b"{}"])
        await anext(readers[0])  # the first piece of a snapshot
        followed.advance(Place(3, 0))
        room.check_sum()
        left.arriving(3 * MIB, 1)
        assert isinstance(left.failure, Busy)
        assert followed.failure is None
        await readers[0].aclose()  # type: ignore[attr-defined]

    with_room(work)
