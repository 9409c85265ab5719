"""Readers of one feed over the real state: whatever their pace and wherever they go on, they miss nothing."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.change_rows import changes_after
from support.followed import Event, Followed, events_in
from support.http_agent import run, until
from support.local_servers import LocalServers, local_servers

from gemot.agent.feeds import feed as feed_module
from gemot.agent.feeds.feed import Feed
from gemot.agent.feeds.feeds import Feeds
from gemot.agent.feeds.keys import RETRY_MIN_S, Keys
from gemot.agent.feeds.reader import Reader
from gemot.agent.feeds.ring import Ring
from gemot.agent.feeds.wire import Place, read_place
from gemot.server.model.errors import Busy, Forbidden, Unavailable
from gemot.server.model.kv import KvDelete, KvDeletePrefix, KvSet
from gemot.server.model.txn import KvOp, Txn
from gemot.server.model.upkeep import TrimChanges


class Scene:
    """One agent's feeds over a state; `follow` reads the prefix `w/`."""

    def __init__(self, servers: LocalServers) -> None:
        self.servers = servers
        self.now_s = 0.0
        self.feeds = Feeds(now=lambda: self.now_s)

    async def reader(self, place: Place | None = None, key: bytes = b"w/", prefix: bool = True) -> Reader:
        make = partial(Keys, servers=self.servers, key=key, prefix=prefix, token="")
        return await self.feeds.follow((key, prefix), make, place)

    async def follow(self, place: str = "", **what: Any) -> Followed:
        return Followed(aiter(await self.reader(read_place(place), **what)))

    async def set(self, key: str, value: bytes = b"") -> int:
        return (await self.servers.apply(KvSet(key.encode(), value))).index


def with_scene(work: Callable[[Scene], Coroutine[Any, Any, None]]) -> None:
    async def inside() -> None:
        with local_servers() as servers:
            scene = Scene(servers)
            try:
                await work(scene)
            finally:
                scene.feeds.stop()

    run(inside())


def test_a_stream_begins_with_what_there_is_and_goes_on_with_each_change() -> None:
    async def work(scene: Scene) -> None:
        first = await scene.set("w/a", b"1")
        followed = await scene.follow()
        snapshot = await followed.next()
        assert (snapshot.kind, snapshot.id) == ("snapshot", f"0-{first}")
        assert [item["Key"] for item in snapshot.data["Items"]] == ["w/a"]
        await scene.set("other")
        index = await scene.set("w/b", b"2")
        change = await followed.next()
        assert (change.kind, change.id, change.changes) == ("change", f"0-{index}", [("set", "w/b")])
        assert change.data["Changes"][0]["Item"]["Value"] == "Mg=="

    with_scene(work)


def test_all_that_one_entry_did_is_one_event() -> None:
    async def work(scene: Scene) -> None:
        followed = await scene.follow()
        await followed.next()
        ops = (KvOp("set", b"w/a"), KvOp("set", b"other"), KvOp("set", b"w/b"), KvOp("delete", b"w/a"))
        await scene.servers.apply(Txn(ops))
        assert (await followed.next()).changes == [("set", "w/a"), ("set", "w/b"), ("delete", "w/a")]

    with_scene(work)


def test_a_reader_goes_on_by_the_ring_or_by_the_servers_or_is_told_that_it_cannot() -> None:
    async def work(scene: Scene) -> None:
        first = await scene.set("w/a", b"0")
        indexes = [await scene.set("w/a", b"%d" % n) for n in range(1, 4)]
        by_servers = await scene.follow(f"0-{first}")
        assert [(await by_servers.next()).id for _ in range(3)] == [f"0-{index}" for index in indexes]
        last = await scene.set("w/a", b"new")
        assert (await by_servers.next()).id == f"0-{last}"
        by_ring = await scene.follow(f"0-{indexes[-1]}")
        assert (await by_ring.next()).id == f"0-{last}"
        await scene.servers.apply(TrimChanges(indexes[1]))
        too_old = await scene.follow(f"0-{first}")
        await scene.set("w/a", b"newer")
        assert [(await too_old.next()).kind for _ in range(2)] == ["compacted", "snapshot"]
        of_another_epoch = await scene.follow(f"1-{indexes[-1]}")
        told = [await of_another_epoch.next() for _ in range(2)]
        assert [event.kind for event in told] == ["compacted", "snapshot"]
        assert "another cluster" in told[0].data["Reason"]

    with_scene(work)


def test_an_agent_that_lags_behind_a_reader_is_waited_for() -> None:
    async def work(scene: Scene) -> None:
        index = await scene.set("w/a", b"1")
        ahead = await scene.follow(f"0-{index + 1}")
        waiting = asyncio.ensure_future(ahead.next())
        await scene.set("w/a", b"2")
        third = await scene.set("w/a", b"3")
        assert (await waiting).id == f"0-{third}", "the second is what the reader has"

    with_scene(work)


def test_a_reader_from_behind_a_restore_is_not_led_back_before_it() -> None:
    """Its agent has not heard of the restore yet: it waits, and tells nothing that is older."""

    async def work() -> None:
        feed = Feed()
        feed.source = Keys(feed, servers=None, key=b"k", prefix=False, token="")  # type: ignore[arg-type]
        feed.begin({b"w/a": b'"old"'}, Place(10, 0))
        followed = Followed(aiter(Reader(feed, Place(20, 1))))
        told = asyncio.ensure_future(followed.next())
        await asyncio.sleep(0)
        feed.change(Place(11, 0), [])
        feed.begin({b"w/a": b'"restored"'}, Place(20, 1), "restored")
        feed.change(Place(21, 1), [])
        assert (await told).id == "1-21"

    run(work())


def test_a_place_of_another_agents_epoch_is_not_waited_for() -> None:
    """Of what each agent counts for itself, a greater epoch is not one to come."""

    async def work() -> None:
        feed = Feed(other_epoch="another agent")
        feed.source = Keys(feed, servers=None, key=b"k", prefix=False, token="")  # type: ignore[arg-type]
        feed.begin({}, Place(1, 5))
        followed = Followed(aiter(Reader(feed, Place(9, 7))))
        assert (await followed.next()).data == {"Reason": "another agent"}

    run(work())


def test_a_place_that_never_comes_is_told_of(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gemot.agent.feeds.reader.CATCH_UP_S", 0.01)

    async def work(scene: Scene) -> None:
        ahead = await scene.follow("0-99999")
        assert [(await ahead.next()).kind for _ in range(2)] == ["compacted", "snapshot"]

    with_scene(work)


def test_a_deleted_range_leaves_the_next_reader_nothing_of_it() -> None:
    async def work(scene: Scene) -> None:
        await scene.set("w/a/1")
        await scene.set("w/b")
        followed = await scene.follow()
        await followed.next()
        await scene.servers.apply(KvDeletePrefix(b"w/a"))
        assert (await followed.next()).changes == [("delete-prefix", "w/a")]
        later = await scene.follow()
        assert [item["Key"] for item in (await later.next()).data["Items"]] == ["w/b"]

    with_scene(work)


def test_a_thousand_readers_cost_the_servers_one_wait() -> None:
    async def work(scene: Scene) -> None:
        readers = [await scene.follow() for _ in range(1_000)]
        for reader in readers:
            await reader.next()
        assert (len(scene.feeds), scene.feeds.followers) == (1, 1_000)
        assert scene.servers.waiting == 1
        told = [asyncio.ensure_future(reader.next()) for reader in readers]
        index = await scene.set("w/a")
        assert {(await one).id for one in told} == {f"0-{index}"}

    with_scene(work)


def test_a_feed_that_nobody_follows_gives_up_what_it_holds() -> None:
    async def work(scene: Scene) -> None:
        reader = aiter(await scene.reader())
        await anext(reader)
        scene.feeds._drop_idle(60.0)
        scene.now_s = 100.0
        scene.feeds._drop_idle(60.0)
        assert len(scene.feeds) == 1, "it is followed"
        await reader.aclose()  # type: ignore[attr-defined]
        scene.feeds._drop_idle(60.0)
        scene.now_s = 200.0
        scene.feeds._drop_idle(60.0)
        assert len(scene.feeds) == 0
        await until(lambda: scene.servers.waiting == 0)

    with_scene(work)


def test_more_things_than_may_be_watched_are_refused_in_clear_words() -> None:
    async def work(scene: Scene) -> None:
        scene.feeds = Feeds(now=lambda: 0.0, limit=1)
        reader = aiter(await scene.reader())
        await anext(reader)
        with pytest.raises(Busy, match="watch fewer"):
            await scene.reader(key=b"other")

    with_scene(work)


@pytest.mark.parametrize("failure", [Unavailable("no leader"), Forbidden("denied")])
def test_what_the_servers_refuse_at_first_is_the_readers_answer(failure: Exception) -> None:
    async def work(scene: Scene) -> None:
        scene.servers.failure = failure  # type: ignore[assignment]
        with pytest.raises(type(failure)):
            await scene.reader()
        scene.servers.failure = None
        assert (await (await scene.follow()).next()).kind == "snapshot", "the next one is asked anew"

    with_scene(work)


def test_servers_that_are_away_are_waited_for_and_nothing_is_missed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gemot.agent.feeds.keys.RETRY_MIN_S", 0.001)

    async def work(scene: Scene) -> None:
        followed = await scene.follow()
        await followed.next()
        scene.servers.unreadable = Unavailable("no leader")
        indexes = [await scene.set("w/a", b"%d" % n) for n in range(3)]
        told = asyncio.ensure_future(followed.next())
        await asyncio.sleep(0)
        scene.servers.unreadable = None
        assert (await told).id == f"0-{indexes[0]}"
        assert [(await followed.next()).id for _ in range(2)] == [f"0-{index}" for index in indexes[1:]]

    with_scene(work)


def test_who_was_answered_asks_again_as_soon_as_the_first_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each wait for servers that are away is longer than the one before; an answer ends that."""
    waits: list[float] = []
    sleep = asyncio.sleep

    async def no_sleep(delay: float) -> None:
        if delay >= RETRY_MIN_S:
            waits.append(delay)
        await sleep(0)

    async def work(scene: Scene) -> None:
        followed = await scene.follow()
        await followed.next()
        for times in range(2):
            waits.clear()
            scene.servers.unreadable = Unavailable("no leader")
            await scene.set("w/a", b"%d while they are away" % times)
            await until(lambda: len(waits) >= 3)
            assert waits[:3] == [RETRY_MIN_S, 2 * RETRY_MIN_S, 4 * RETRY_MIN_S]
            scene.servers.unreadable = None
            await scene.set("w/a", b"%d" % times)
            assert [(await followed.next()).kind for _ in range(2)] == ["change", "change"]

    monkeypatch.setattr(asyncio, "sleep", no_sleep)
    with_scene(work)


def test_what_can_no_longer_be_read_ends_the_stream_with_a_word() -> None:
    async def work(scene: Scene) -> None:
        followed = await scene.follow()
        await followed.next()
        scene.servers.unreadable = Forbidden("denied")
        await scene.set("w/a")
        assert (await followed.next()).kind == "change"
        assert (await followed.next()).data == {"Error": "denied"}

    with_scene(work)


def test_history_that_goes_away_while_the_servers_are_is_told_and_all_is_told_anew(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("gemot.agent.feeds.keys.RETRY_MIN_S", 0.001)

    async def work(scene: Scene) -> None:
        followed = await scene.follow()
        await followed.next()
        scene.servers.unreadable = Unavailable("no leader")
        await scene.set("w/a", b"1")  # answered to the read that waits already
        assert (await followed.next()).kind == "change"
        last = [await scene.set("w/a", b"%d" % n) for n in range(2, 5)][-1]
        await scene.servers.apply(TrimChanges(last))
        scene.servers.unreadable = None
        compacted, snapshot = await followed.next(), await followed.next()
        assert (compacted.kind, snapshot.kind, snapshot.id) == ("compacted", "snapshot", f"0-{last}")

    with_scene(work)


def test_without_servers_a_reader_is_refused_in_time_or_told_how_old_it_may_be(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def work(scene: Scene) -> None:
        first = aiter(await scene.reader())
        await anext(first)
        # From now on nobody answers; until then the servers had to.
        monkeypatch.setattr("gemot.agent.feeds.feeds.BEGIN_S", 0.01)
        scene.servers.query = lambda query, options: asyncio.get_running_loop().create_future()  # type: ignore[method-assign]
        with pytest.raises(Unavailable, match="try again"):
            await scene.reader(key=b"other")
        assert len(scene.feeds) == 2
        second = aiter(await scene.reader())
        await anext(second)
        snapshot, standing = events_in(await anext(second))
        assert (snapshot.kind, standing.kind) == ("snapshot", "bookmark")
        assert set(standing.data) == {"Index", "KnownLeader", "LastContact"}

    with_scene(work)


def test_a_reader_that_comes_back_while_no_server_answers_waits_and_misses_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("gemot.agent.feeds.reader.RETRY_S", 0.001)

    async def work(scene: Scene) -> None:
        first = await scene.set("w/a", b"0")
        later = [await scene.set("w/a", b"%d" % n) for n in range(1, 3)]
        await (await scene.follow()).next()
        scene.servers.unreadable = Unavailable("no leader")
        back = await scene.follow(f"0-{first}")
        told = asyncio.ensure_future(back.next())
        await asyncio.sleep(0.01)
        assert not told.done()
        scene.servers.unreadable = None
        assert (await told).id == f"0-{later[0]}"

    with_scene(work)


def test_a_key_whose_neighbours_change_is_followed_in_peace() -> None:
    async def work(scene: Scene) -> None:
        index = await scene.set("jobs/leader", b"me")
        for number in range(3):
            await scene.set(f"jobs/leader/.queue/{number}")
        await scene.servers.apply(TrimChanges(index + 2))
        followed = await scene.follow(key=b"jobs/leader", prefix=False)
        assert (await followed.next()).kind == "snapshot"
        changed = await scene.set("jobs/leader", b"you")
        assert (await followed.next()).id == f"0-{changed}"

    with_scene(work)


class _Full:
    """A connection that takes `room` pieces at once, and then none."""

    def __init__(self) -> None:
        self.room = 0
        self.written = b""

    def write(self, piece: bytes) -> bool:
        assert piece, "an empty chunk would end the stream"
        if not self.room:
            return False
        self.room -= 1
        self.written += piece
        return True


def _fed_by_hand() -> Feed:
    """A feed whose source was never started: the test tells the news."""
    feed = Feed()
    feed.source = Keys(feed, servers=None, key=b"k", prefix=False, token="")  # type: ignore[arg-type]
    feed.begin({}, Place(1, 0))
    return feed


async def _parked(feed: Feed) -> tuple[_Full, asyncio.Task[bytes]]:
    """A reader that has the snapshot and waits for news, with a connection that takes all."""
    full, reader = _Full(), Reader(feed, None)
    full.room = 99
    reader.attach(full.write)
    pieces = aiter(reader)
    await anext(pieces)
    await anext(pieces)
    waiting = asyncio.ensure_future(anext(pieces))
    await asyncio.sleep(0)
    return full, waiting


def test_news_is_written_to_who_waits_without_waking_its_task_each_once_and_in_order(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(feed_module, "WAKE_SLICE", 1)

    async def work() -> None:
        feed = _fed_by_hand()
        readers = [await _parked(feed) for _ in range(3)]
        for index in (2, 3):
            feed.change(Place(index, 0), [b"{}"])
        for index in (4, 5):
            await asyncio.sleep(0.001)
            feed.change(Place(index, 0), [b"{}"])
        await until(lambda: not feed._due)
        for full, waiting in readers:
            assert not waiting.done()
            assert [event.id for event in events_in(full.written)] == ["0-2", "0-3", "0-4", "0-5"]
            waiting.cancel()

    run(work())


def test_who_cannot_be_written_to_at_once_is_woken_and_has_all(monkeypatch: pytest.MonkeyPatch) -> None:
    async def work() -> None:
        feed = _fed_by_hand()
        full, waiting = await _parked(feed)
        full.room = 1
        for index in (2, 3, 4):
            feed.change(Place(index, 0), [b"{}"])
        assert [event.id for event in events_in(full.written + await waiting)] == ["0-2", "0-3", "0-4"]

    run(work())


WRITES = st.one_of(
    st.builds(lambda n: KvSet(b"w/%d" % (n % 4), b"%d" % n), st.integers(0, 99)),
    st.builds(lambda n: KvDelete(b"w/%d" % n), st.integers(0, 3)),
    st.just(KvDeletePrefix(b"w/")),
    st.just(KvSet(b"other", b"")),
    st.just(Txn((KvOp("set", b"w/0", b"t"), KvOp("set", b"w/1", b"t")))),
)
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("write"), st.lists(WRITES, min_size=1, max_size=3)),
        st.tuples(st.just("turn"), st.integers(0, 2)),
        st.tuples(st.just("room"), st.integers(0, 2)),
        st.tuples(st.just("leave"), st.integers(0, 2)),
        st.tuples(st.just("bookmark"), st.none()),
    ),
    max_size=30,
)


@settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=STEPS, most=st.integers(1, 3))
def test_readers_of_any_pace_that_leave_and_come_back_are_told_each_change_once(
    steps: list[tuple[str, Any]], most: int
) -> None:
    """Three readers; each is written to at once where its connection has room, else pulls its pieces."""

    async def work(scene: Scene) -> None:
        readers = [_Paced(scene) for _ in range(3)]
        for reader in readers:
            await reader.enter()
        for what, of in steps:
            if what == "write":
                for command in of:
                    await scene.servers.apply(command)
                await asyncio.sleep(0)
            elif what == "turn":
                await readers[of].pull()
            elif what == "room":
                readers[of].full.room += 1
            elif what == "leave":
                await readers[of].leave()
            else:
                for feed in scene.feeds._feeds.values():
                    feed.bookmark()
        last = await scene.set("w/last", b"")
        truth = sorted(
            {row[0] for row in changes_after(scene.servers.state, 10, 1_000) if row[3] != b"other"}
        )
        for reader in readers:
            await reader.enter()
            while reader.index < last:
                await reader.pull()
            assert [int(event.id[2:]) for event in reader.changes] == [n for n in truth if n > reader.began]
            await reader.leave()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(feed_module, "Ring", partial(Ring, most_events=most))
        patch.setattr(feed_module, "WAKE_SLICE", 1)
        with_scene(work)


class _Paced:
    """A reader that is pulled by hand, may leave at any time and comes back with the place it has."""

    def __init__(self, scene: Scene) -> None:
        self._scene = scene
        self._pieces: Any = None
        self._pull: asyncio.Task[bytes] | None = None
        self._before = b""
        self.full = _Full()
        self.began = -1

    async def enter(self) -> None:
        if self._pieces is None:
            reader = await self._scene.reader(read_place(self._place) if self._place else None)
            reader.attach(self.full.write)
            self._pieces = aiter(reader)

    async def pull(self) -> None:
        """Let its task go on as far as it can: one piece at most."""
        await self.enter()
        if self._pull is None:
            self._pull = asyncio.ensure_future(anext(self._pieces))
        for _ in range(20):
            await asyncio.sleep(0)
        if self._pull.done():
            self.full.written += self._pull.result()
            self._pull = None
            if self.began < 0 and self._events:
                self.began = self.index

    async def leave(self) -> None:
        if self._pieces is None:
            return
        if self._pull is not None and not self._pull.done():
            self._pull.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._pull
        elif self._pull is not None:
            self.full.written += self._pull.result()
        self._pull = None
        await self._pieces.aclose()
        self._pieces = None
        if self.began < 0 and self._events:
            self.began = self.index

    @property
    def _events(self) -> list[Event]:
        return events_in(self.full.written)

    @property
    def changes(self) -> list[Event]:
        assert all(event.kind in ("snapshot", "change", "bookmark") for event in self._events)
        return [event for event in self._events if event.kind == "change"]

    @property
    def _place(self) -> str:
        return next((event.id for event in reversed(self._events) if event.id), "")

    @property
    def index(self) -> int:
        return int(self._place.rpartition("-")[2] or -1)
