"""Snapshots in pieces: one event of one index, whatever changes meanwhile, and what they hold is counted."""

from __future__ import annotations

import asyncio
import random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.followed import events_in
from support.http_agent import run

from gemot.agent.client.sse import EventReader
from gemot.agent.feeds import snapshot as snapshot_module
from gemot.agent.feeds.feed import Feed
from gemot.agent.feeds.keys import Keys
from gemot.agent.feeds.reader import Reader
from gemot.agent.feeds.sending import Sending
from gemot.agent.feeds.snapshot import MOST_KEPT_BYTES, PIECE_BYTES, Snapshot
from gemot.agent.feeds.turns import Turns
from gemot.agent.feeds.wire import Place
from gemot.server.model.errors import Busy

LONG = 40
"""So many items of 64 KB are no short snapshot."""


def fed_by_hand(items: dict[bytes, bytes]) -> Feed:
    """A feed whose source was never started: the test tells the news."""
    feed = Feed()
    feed.source = Keys(feed, servers=None, key=b"k", prefix=False, token="")  # type: ignore[arg-type]
    feed.begin(items, Place(1, 0))
    return feed


def long_items(mark: bytes = b"old") -> dict[bytes, bytes]:
    return {b"k%02d" % n: b'"%b"' % mark.ljust(PIECE_BYTES) for n in range(LONG)}


def told(pieces: list[bytes]) -> list[tuple[str, str]]:
    """Keys, and what their items begin with."""
    (event,) = [event for event in events_in(b"".join(pieces)) if event.kind == "snapshot"]
    return [(each["Key"], each["Item"].split()[0]) for each in event.data["Items"]]


async def begun(feed: Feed) -> tuple[Any, bytes]:
    """A reader that has the first piece of the snapshot, and is slow to take the next."""
    pieces = aiter(Reader(feed, None))
    await anext(pieces)
    return pieces, await anext(pieces)


async def rest(pieces: Any, first: bytes) -> list[bytes]:
    taken = [first]
    while b"event: bookmark" not in taken[-1]:
        taken.append(await anext(pieces))
    return taken


def test_what_changes_while_it_is_sent_comes_behind_it() -> None:
    async def work() -> None:
        feed = fed_by_hand(long_items())
        pieces, first = await begun(feed)
        feed.set(b"k20", b'"new"')
        feed.drop(b"k30")
        feed.set(b"k99", b'"new"')
        feed.change(Place(2, 0), [b"{}"])
        taken = await rest(pieces, first)
        assert told(taken) == [(f"k{n:02}", "old") for n in range(LONG)]
        assert [event.id for event in events_in(b"".join(taken))] == ["0-1", "0-1"], "the bookmark as well"
        (change,) = events_in(await anext(pieces))
        assert (change.kind, change.id) == ("change", "0-2")
        await pieces.aclose()

    run(work())


def test_all_else_has_its_turn_between_two_pieces_however_many_begin() -> None:
    async def work() -> None:
        feed = fed_by_hand(long_items())
        loop = asyncio.get_running_loop()
        turns, rendered = 0, list[int]()

        def turn() -> None:
            nonlocal turns
            turns += 1
            if running:
                loop.call_soon(turn)

        async def read() -> None:
            async for _ in feed.open_snapshot().pieces():
                rendered.append(turns)

        running = True
        turn()
        await asyncio.gather(*[read() for _ in range(3)])
        running = False
        assert len(rendered) > 3 * LONG
        assert max(rendered.count(one) for one in rendered) == 1, "two pieces in one turn of the loop"

    run(work())


def test_no_piece_is_much_longer_than_an_item() -> None:
    async def work() -> None:
        items = {b"%06d" % n: b'"some"' for n in range(60_000)}
        snapshot = Snapshot(Place(1, 0), items, MOST_KEPT_BYTES + 1, Turns())
        assert max([len(piece) async for piece in snapshot.pieces()]) < 2 * PIECE_BYTES

    run(work())


@given(
    keys=st.lists(st.integers(0, 500), unique=True, max_size=60),
    short=st.booleans(),
    together=st.integers(1, 3),
)
def test_items_come_in_the_order_of_their_keys_to_each_reader(
    keys: list[int], short: bool, together: int
) -> None:
    async def work() -> list[bytes]:
        items = {b"%03d" % key: b'"%d"' % key for key in keys}
        size = 1 if short else MOST_KEPT_BYTES + 1
        snapshot = Snapshot(Place(7, 1), items, size, Turns())

        async def read() -> bytes:
            return b"".join([piece async for piece in snapshot.pieces()])

        return list(await asyncio.gather(*[read() for _ in range(together)]))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(snapshot_module, "SORTED_AT_ONCE", 4)
        patch.setattr(snapshot_module, "PIECE_ITEMS", 3)
        pieces = asyncio.run(work())
    (event,) = {piece: events_in(piece) for piece in pieces}.values()
    assert event[0].data == {
        "Index": 7,
        "Items": [{"Key": f"{key:03}", "Item": str(key)} for key in sorted(keys)],
    }


def test_a_short_one_is_rendered_once_and_a_long_one_for_each_reader(monkeypatch: pytest.MonkeyPatch) -> None:
    async def work(items: dict[bytes, bytes]) -> int:
        rendered.clear()
        feed = fed_by_hand(items)
        for _ in range(3):
            pieces, first = await begun(feed)
            await rest(pieces, first)
            await pieces.aclose()
        return len(rendered)

    rendered: list[bytes] = []
    render = snapshot_module.wire.held_item
    monkeypatch.setattr(
        snapshot_module.wire, "held_item", lambda key, item: rendered.append(key) or render(key, item)
    )
    assert asyncio.run(work({b"%d" % n: b"1" for n in range(5)})) == 5
    assert asyncio.run(work(long_items())) == 3 * LONG


def test_what_is_gone_without_a_change_is_in_no_snapshot_after_it() -> None:
    """So user events go that are too old to be kept."""

    async def work() -> None:
        feed = fed_by_hand({b"a": b'"old"', b"b": b'"some"'})
        pieces, first = await begun(feed)
        await pieces.aclose()
        feed.items = {b"b": b'"some"'}
        pieces, second = await begun(feed)
        assert (told([first]), told([second])) == ([("a", "old"), ("b", "some")], [("b", "some")])
        await pieces.aclose()

    run(work())


def test_what_a_slow_reader_keeps_alive_is_counted_until_it_has_it() -> None:
    async def work() -> None:
        feed = fed_by_hand(long_items())
        before = feed.held
        (slow, first), (slower, _) = await begun(feed), await begun(feed)
        before += 2 * (piece := len(first))
        assert 0 < feed.held - before < 10_000, "references, and the piece that each is being sent"
        for n in range(10):
            feed.set(b"k%02d" % n, b'"%b"' % b"new".ljust(PIECE_BYTES))
        feed.change(Place(2, 0), [])
        held = feed.held - before
        assert 10 * PIECE_BYTES < held < 11 * PIECE_BYTES, "once for both"
        for n in range(10):
            feed.set(b"k%02d" % n, b'"%b"' % b"newer".ljust(PIECE_BYTES))
        feed.change(Place(3, 0), [])
        assert feed.held - before < held + 1_000, "no snapshot has what came between"
        await rest(slow, first)
        await slow.aclose()
        before -= piece
        assert feed.held - before > 10 * PIECE_BYTES
        before -= piece
        await slower.aclose()
        assert feed.held - before < 2_000, "the two changes"

    run(work())


@given(steps=st.lists(st.tuples(st.sampled_from(["open", "close", "put", "drop", "all"]), st.integers(0, 5))))
def test_what_is_counted_is_at_least_what_is_kept_alive(steps: list[tuple[str, int]]) -> None:
    """And nothing once all are sent."""
    sending, items = Sending(Turns()), dict[bytes, bytes]()
    open_: list[tuple[Snapshot, list[bytes]]] = []
    size = MOST_KEPT_BYTES

    def weight() -> int:
        return sum(len(key) + len(item) for key, item in items.items())

    for number, (what, of) in enumerate(steps):
        key = b"%d" % of
        if what == "open":
            open_.append((sending.open(Place(number, 0), items, weight()), list(items.values())))
        elif what == "close" and open_:
            sending.close(open_.pop(of % len(open_))[0])
        elif what == "all":
            sending.replaced_all()
            items.clear()
        else:
            before = items.pop(key, None)
            if what == "put":
                items[key] = b"%d" % number * size
                sending.replaced(key, before)
            elif before is not None:
                sending.dropped(key, before)
        if what in ("put", "drop", "all"):
            sending.outdate()
        alive = {id(item): len(item) for snapshot, held in open_ if not snapshot.is_short for item in held}
        for item in items.values():
            alive.pop(id(item), None)
        assert sending.held >= sum(alive.values())
        assert sending._new <= items.keys()
    for snapshot, _ in open_:
        sending.close(snapshot)
    assert sending.held == 0


def test_a_slow_reader_has_no_more_of_the_last_events_at_once_than_of_a_snapshot() -> None:
    async def work() -> None:
        feed = fed_by_hand({})
        pieces, _ = await begun(feed)
        for n in range(60):
            feed.change(Place(2 + n, 0), [b'"%b"' % b"".ljust(PIECE_BYTES // 4)])
        taken = []
        for _ in range(5):
            taken.append(await anext(pieces))
            assert len(taken[-1]) < 2 * PIECE_BYTES
        feed.forget()
        feed.source.history = gone  # type: ignore[method-assign]
        assert events_in(await anext(pieces))[0].kind == "compacted"
        indexes = [event.data["Index"] for event in events_in(b"".join(taken))]
        assert indexes == list(range(2, 2 + len(indexes)))
        assert asked == [Place(indexes[-1], 0)], "it goes on behind what it had"
        await pieces.aclose()

    async def gone(place: Place) -> None:
        asked.append(place)

    asked: list[Place] = []
    run(work())


def test_keys_that_come_and_go_leave_nothing_behind_while_a_reader_is_slow() -> None:
    async def work() -> None:
        feed = fed_by_hand(long_items())
        pieces, _ = await begun(feed)
        for n in range(3_000):
            feed.set(b"job/%d" % n, b'"some"')
            feed.change(Place(2 + n, 0), [])
            feed.drop(b"job/%d" % n) if n % 2 else feed.drop_prefix(b"job/")
        assert not feed._sending._new
        await pieces.aclose()

    run(work())


def test_a_slow_reader_gives_way_in_the_middle_of_what_is_not_of_now() -> None:
    async def work() -> None:
        feed = fed_by_hand(long_items())
        before = feed.held
        pieces, first = await begun(feed)
        feed.cut_slow()
        assert await anext(pieces), "it is of now: nothing is won by it"
        feed.items = {}
        feed.change(Place(2, 0), [])
        feed.cut_slow()
        assert feed.held < before - LONG * PIECE_BYTES
        left = [piece async for piece in pieces]
        assert not events_in(b"".join([first, *left])), "half an event is none"
        assert not feed.followers

    run(work())


def test_a_reader_for_whose_snapshot_there_is_no_room_is_told_why_and_comes_back() -> None:
    """No `error`: for a reader that is the last word."""

    async def work() -> None:
        feed = fed_by_hand(long_items())
        feed._weighed = lambda _feed, more, _grew: more > 0
        pieces = aiter(Reader(feed, None))
        await anext(pieces)
        rest = [piece async for piece in pieces]
        assert [b"try again" in piece for piece in rest] == [True]
        assert not events_in(rest[0])
        assert not list(EventReader().feed(rest[0]))
        assert not feed.followers
        with pytest.raises(Busy):
            feed.open_snapshot()

    run(work())


def test_who_followed_a_feed_that_begins_anew_gets_the_reason_and_all_there_is() -> None:
    async def work() -> None:
        feed = fed_by_hand(long_items())
        pieces, first = await begun(feed)
        taken = await rest(pieces, first)
        waiting = asyncio.ensure_future(anext(pieces))
        await asyncio.sleep(0)
        feed.begin(long_items(b"other"), Place(1, 0), "another cluster")
        (compacted,) = events_in(await waiting)
        assert (compacted.kind, compacted.data) == ("compacted", {"Reason": "another cluster"})
        assert told(taken) != told(again := await rest(pieces, await anext(pieces)))
        assert {of for _, of in told(again)} == {"other"}
        feed.change(Place(2, 0), [b"{}"])
        assert events_in(await anext(pieces))[0].id == "0-2"
        await pieces.aclose()

    run(work())


def test_keys_in_any_order_are_sorted_some_at_a_time() -> None:
    keys = [b"%06d" % n for n in range(20_000)]
    random.Random(1).shuffle(keys)
    snapshot = Snapshot(Place(1, 0), dict.fromkeys(keys, b"1"), MOST_KEPT_BYTES + 1, Turns())
    sorting = 0
    for piece in snapshot._render():
        if piece:
            break
        sorting += 1
    assert sorting == 20
