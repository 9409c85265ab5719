"""How feeds begin and end: a few at a time, counted from the first byte to the last reader."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import pytest
from support.followed import events_in
from support.http_agent import run, until
from support.local_servers import LocalServers, local_servers

from gemot.agent.feeds import keys as keys_module
from gemot.agent.feeds.feed import ENTRY_BYTES
from gemot.agent.feeds.feeds import Feeds
from gemot.agent.feeds.keys import Keys
from gemot.agent.feeds.reader import Reader
from gemot.agent.feeds.turns import PREFIXES_AT_ONCE
from gemot.server.model.errors import Busy, Forbidden, TooLarge
from gemot.server.model.kv import KvGet, KvList, KvSet

MIB = 1 << 20


class Scene:
    """The feeds of an agent whose servers may hold their first answers back."""

    def __init__(self, servers: LocalServers) -> None:
        self.servers = servers
        self.feeds = Feeds(now=lambda: 0.0, most_bytes=4 * MIB)
        self.asked = 0
        self.held_back: list[Callable[[], None]] = []
        self._query = servers.query

    async def reader(self, token: str, *, prefix: bool = True) -> Reader:
        make = partial(Keys, servers=self.servers, key=b"w/", prefix=prefix, token=token)
        return await self.feeds.follow((prefix, token), make, None)

    async def fill(self, count: int, length: int) -> None:
        for n in range(count):
            await self.servers.apply(KvSet(b"w/%d" % n, bytes(length)))

    def hold_back(self, of: type = KvList) -> None:
        def query(query: Any, options: Any) -> asyncio.Future[Any]:
            future = self._query(query, options)
            if not isinstance(query, of):
                return future
            self.asked += 1
            held: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
            self.held_back.append(
                lambda: future.add_done_callback(lambda _: held.set_result(future.result()))
            )
            return held

        self.servers.query = query  # type: ignore[method-assign]


@asynccontextmanager
async def scene() -> AsyncIterator[Scene]:
    with local_servers() as servers:
        it = Scene(servers)
        try:
            yield it
        finally:
            it.feeds.stop()


def in_scene(work: Callable[[Scene], Coroutine[Any, Any, None]]) -> None:
    async def inside() -> None:
        async with scene() as it:
            await work(it)

    run(inside())


def test_the_servers_are_asked_for_a_few_prefixes_at_a_time_and_all_have_their_turn() -> None:
    async def work(scene: Scene) -> None:
        await scene.fill(2, 10)
        scene.hold_back()
        readers = [asyncio.ensure_future(scene.reader(f"t{n}")) for n in range(9)]
        for answered in range(9):
            await until(lambda: scene.held_back)
            for _ in range(50):
                await asyncio.sleep(0)
            assert scene.asked - answered <= PREFIXES_AT_ONCE
            scene.held_back.pop(0)()
        assert len(await asyncio.gather(*readers)) == 9

    in_scene(work)


def test_a_key_does_not_wait_for_long_prefixes() -> None:
    async def work(scene: Scene) -> None:
        scene.hold_back()
        readers = [asyncio.ensure_future(scene.reader(f"t{n}")) for n in range(9)]
        await until(lambda: len(scene.held_back) == PREFIXES_AT_ONCE)
        await scene.reader("", prefix=False)
        for reader in readers:
            reader.cancel()

    in_scene(work)


def test_whose_turn_does_not_come_in_time_is_told_so_and_asks_for_nothing_any_more(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("gemot.agent.feeds.feeds.BEGIN_S", 0.05)

    async def work(scene: Scene) -> None:
        scene.hold_back()
        outcomes = await asyncio.gather(*[scene.reader(f"t{n}") for n in range(5)], return_exceptions=True)
        told = [outcome for outcome in outcomes if isinstance(outcome, Busy)]
        assert len(told) == 5 - PREFIXES_AT_ONCE
        assert all("a few at a time: try again" in one.message for one in told)
        assert len(scene.feeds) == PREFIXES_AT_ONCE, "those that were asked for are kept for who comes back"
        for answer in scene.held_back:
            answer()
        await until(lambda: all(feed.has_begun for feed in scene.feeds._feeds.values()))
        assert scene.asked == PREFIXES_AT_ONCE

    in_scene(work)


def test_a_reader_that_goes_while_it_waits_for_its_turn_leaves_nothing_behind() -> None:
    async def work(scene: Scene) -> None:
        scene.hold_back()
        readers = [asyncio.ensure_future(scene.reader(f"t{n}")) for n in range(5)]
        await until(lambda: len(scene.held_back) == PREFIXES_AT_ONCE)
        readers[-1].cancel()
        await asyncio.wait(readers[-1:])
        assert len(scene.feeds) == 4
        for reader in readers:
            reader.cancel()

    in_scene(work)


def test_servers_that_say_nothing_do_not_keep_the_turn_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    async def work(scene: Scene) -> None:
        scene.hold_back()
        silent = [scene.reader(f"t{n}") for n in range(2 * PREFIXES_AT_ONCE)]
        with monkeypatch.context() as short:
            short.setattr(keys_module, "READ_S", 0.01)
            outcomes = await asyncio.gather(*silent, return_exceptions=True)
        assert all("have not said in time" in str(outcome) for outcome in outcomes)
        scene.servers.query = scene._query  # type: ignore[method-assign]
        await scene.reader("later")

    in_scene(work)


def test_an_answer_counts_as_soon_as_it_is_here(monkeypatch: pytest.MonkeyPatch) -> None:
    rendered: list[Any] = []
    monkeypatch.setattr(keys_module, "kv_entry", rendered.append)

    async def work(scene: Scene) -> None:
        await scene.fill(10, 500_000)
        with pytest.raises(Busy, match="hold 4 MiB"):
            await scene.reader("")
        assert not rendered
        assert scene.feeds.held == 0

    in_scene(work)


def test_an_answer_of_too_many_bytes_for_one_feed_is_refused_before_it_is_rendered(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(keys_module, "MOST_ITEM_BYTES", MIB)
    rendered: list[Any] = []
    monkeypatch.setattr(keys_module, "kv_entry", rendered.append)

    async def work(scene: Scene) -> None:
        await scene.fill(3, 500_000)
        with pytest.raises(TooLarge, match="watch narrower prefixes"):
            await scene.reader("")
        assert not rendered
        await until(lambda: scene.feeds.held == 0)

    in_scene(work)


def test_what_is_not_yet_an_item_counts_beside_what_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keys_module, "RENDERED_AT_ONCE", 1)
    held: list[int] = []
    render = keys_module.kv_entry

    async def work(scene: Scene) -> None:
        monkeypatch.setattr(
            keys_module, "kv_entry", lambda entry: held.append(scene.feeds.held) or render(entry)
        )
        await scene.fill(10, 100_000)
        await scene.reader("")
        assert len(held) == 10
        assert held == sorted(held), "as base64 they are longer"
        assert MIB * 0.9 < held[0] < held[-1] < MIB * 1.4

    in_scene(work)


def test_many_small_entries_count_as_much_while_they_arrive_as_later(monkeypatch: pytest.MonkeyPatch) -> None:
    render, held = keys_module.kv_entry, list[int]()

    async def work(scene: Scene) -> None:
        monkeypatch.setattr(
            keys_module, "kv_entry", lambda entry: held.append(scene.feeds.held) or render(entry)
        )
        await scene.fill(500, 0)
        await scene.reader("")
        (feed,) = scene.feeds._feeds.values()
        assert held[0] > 500 * ENTRY_BYTES
        scene.feeds.begin_anew()
        await until(lambda: len(held) == 1_000)
        assert scene.feeds.held == feed.held == held[-1], "what takes the place of as many counts no more"

    in_scene(work)


def test_a_feed_that_begins_anew_in_a_full_agent_goes_on() -> None:
    """As all do after a restore: for a moment there are both, of a few feeds."""

    async def work(scene: Scene) -> None:
        await scene.fill(4, 400_000)
        reader = aiter(await scene.reader(""))
        await anext(reader)
        snapshot = b""
        while b"bookmark" not in snapshot:
            snapshot += await anext(reader)
        scene.feeds.begin_anew()
        told = await anext(reader)
        assert events_in(told)[0].data == {"Reason": "the servers are another cluster"}
        await reader.aclose()  # type: ignore[attr-defined]

    in_scene(work)


def test_an_answer_that_is_given_up_for_that_of_another_cluster_counts_no_more(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    render, arrived = keys_module.kv_entry, list[int]()

    async def work(scene: Scene) -> None:
        def rendered_in_the_midst(entry: Any) -> bytes:
            if not arrived:
                arrived.append(scene.feeds._feeds[True, "late"].held)
                scene.hold_back()
                scene.feeds.begin_anew()
            return render(entry)

        for n in range(PREFIXES_AT_ONCE):
            await scene.reader(f"t{n}")  # they are asked for before it, then
        await scene.fill(3, 100_000)
        monkeypatch.setattr(keys_module, "kv_entry", rendered_in_the_midst)
        reading = asyncio.ensure_future(scene.reader("late"))
        await until(lambda: arrived)
        feed = scene.feeds._feeds[True, "late"]
        await until(lambda: feed.queues)
        assert arrived[0] > 300_000
        assert feed.held == 0
        reading.cancel()
        await asyncio.wait([reading])
        scene.feeds._drop_idle(0.0)
        assert (scene.feeds.held, len(scene.feeds._ended)) == (0, 0)

    in_scene(work)


def test_a_feed_that_has_ended_gives_up_its_items_and_counts_until_its_last_reader_is_gone() -> None:
    async def work(scene: Scene) -> None:
        await scene.fill(4, 400_000)
        reader = aiter(await scene.reader(""))
        await anext(reader)
        await anext(reader)  # in the middle of the snapshot
        (feed,) = scene.feeds._feeds.values()
        feed.fail(Forbidden("denied"))
        assert not feed.items
        assert scene.feeds.held == feed.held > 4 * 400_000, "it is being sent"
        rest = [piece async for piece in reader]
        assert events_in(rest[-1])[-1].data == {"Error": "denied"}, "it had all, and then the reason"
        assert (feed.held, scene.feeds.held) == (0, 0)

    in_scene(work)


def test_events_that_a_reader_has_not_had_are_kept_over_the_end_and_counted() -> None:
    async def work(scene: Scene) -> None:
        reader = aiter(await scene.reader(""))
        await anext(reader)
        await anext(reader)
        await scene.fill(1, 100_000)
        (feed,) = scene.feeds._feeds.values()
        await until(lambda: feed.told == 1)
        scene.feeds._leave((True, ""), feed)
        feed.fail(Forbidden("denied"))
        feed.source.stop()
        assert 100_000 < scene.feeds.held == feed.held < 200_000
        assert [events_in(piece)[-1].kind async for piece in reader] == ["change", "error"]
        assert (scene.feeds.held, len(scene.feeds._ended)) == (0, 0)

    in_scene(work)


def test_what_slow_readers_of_ended_feeds_hold_makes_room_for_others() -> None:
    async def work(scene: Scene) -> None:
        await scene.fill(4, 400_000)
        slow = aiter(await scene.reader("one"))
        await anext(slow)
        await anext(slow)
        (feed,) = scene.feeds._feeds.values()
        feed.fail(Forbidden("denied"))
        await scene.reader("two")
        assert scene.feeds.held <= 4 * MIB
        assert not [event for piece in [piece async for piece in slow] for event in events_in(piece)]

    in_scene(work)


def test_a_value_that_is_asked_for_alone_begins_as_well() -> None:
    async def work(scene: Scene) -> None:
        await scene.servers.apply(KvSet(b"w/", b"1"))
        scene.hold_back(KvGet)
        asking = asyncio.ensure_future(scene.reader("", prefix=False))
        await until(lambda: scene.held_back)
        scene.held_back.pop()()
        reader = aiter(await asking)
        await anext(reader)
        assert events_in(await anext(reader))[0].data["Items"][0]["Item"]["Value"] == "MQ=="

    in_scene(work)
