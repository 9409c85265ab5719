"""Feeds of user events: who comes back has each event once, however long the feed itself was gone."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any

import pytest
from support.followed import Followed
from support.http_agent import run

from gemot.agent.feeds.feeds import Feeds
from gemot.agent.feeds.fired import LOST, OTHER_AGENT, FiredEvents
from gemot.agent.feeds.wire import read_place
from gemot.agent.gossip.events import KEPT, Fired
from gemot.agent.user_events import UserEvents


class Scene:
    """One agent's events and its feeds."""

    def __init__(self) -> None:
        self.events = UserEvents(node="n1", services=dict, gossip=None)
        self.feeds = Feeds(now=lambda: 0.0)

    def fire(self, name: str, *payloads: int) -> None:
        for payload in payloads:
            self.events.fire(name, b"%d" % payload)

    async def follow(self, place: str = "", name: str = "deploy", epoch: int = 7) -> Followed:
        make = partial(FiredEvents, events=self.events, name=name, epoch=epoch, shown=_payload)
        reader = await self.feeds.follow(name, make, read_place(place), other_epoch=OTHER_AGENT)
        return Followed(aiter(reader))

    def forget_feeds(self) -> None:
        """As a minute after the last reader went."""
        self.feeds.stop()
        self.feeds = Feeds(now=lambda: 0.0)


def _payload(fired: Fired) -> bytes:
    return fired.event.payload


def with_scene(work: Callable[[Scene], Coroutine[Any, Any, None]]) -> None:
    async def inside() -> None:
        scene = Scene()
        try:
            await work(scene)
        finally:
            scene.feeds.stop()

    run(inside())


async def next_payloads(followed: Followed, count: int) -> tuple[list[int], str]:
    """Of so many changes, which bring one event each; and the id of the last."""
    payloads, id = [], ""
    for _ in range(count):
        event = await followed.next()
        assert event.kind == "change", event
        (change,) = event.data["Changes"]
        payloads.append(change["Item"])
        id = event.id
    return payloads, id


@pytest.mark.parametrize("name", ["deploy", ""])
def test_who_comes_back_after_the_feed_was_gone_has_what_was_fired_meanwhile(name: str) -> None:
    """They were lost without a word: each feed counted from the beginning."""

    async def work(scene: Scene) -> None:
        scene.fire("deploy", 1)
        id = (await (await scene.follow(name=name)).next()).id
        for first in (2, 12):
            scene.forget_feeds()
            scene.fire("other", 0)
            scene.fire("deploy", first, first + 1)
            wanted = [first, first + 1] if name else [0, first, first + 1]
            followed = await scene.follow(id, name)
            told, id = await next_payloads(followed, len(wanted))
            assert told == wanted
            scene.fire("deploy", first + 2)
            told, id = await next_payloads(followed, 1)
            assert told == [first + 2], "and then what is new, once"

    with_scene(work)


def test_where_more_was_fired_than_is_kept_it_is_said() -> None:
    async def work(scene: Scene) -> None:
        scene.fire("deploy", 1)
        id = (await (await scene.follow()).next()).id
        scene.forget_feeds()
        scene.fire("deploy", *range(2, KEPT + 2))
        told, _ = await next_payloads(await scene.follow(id), KEPT)
        assert told == list(range(2, KEPT + 2)), "all that are kept came behind that place"
        scene.forget_feeds()
        scene.fire("deploy", KEPT + 2)
        followed = await scene.follow(id)
        assert (await followed.next()).kind == "compacted"
        items = (await followed.next()).data["Items"]
        assert sorted(item["Item"] for item in items) == list(range(3, KEPT + 3))

    with_scene(work)


def test_more_events_at_once_than_are_kept_are_no_silent_gap_for_who_follows() -> None:
    async def work(scene: Scene) -> None:
        followed = await scene.follow()
        assert (await followed.next()).kind == "snapshot"
        waits = asyncio.ensure_future(followed.next())
        await asyncio.sleep(0)
        scene.fire("deploy", *range(KEPT + 1))
        event = await waits
        assert (event.kind, event.data) == ("compacted", {"Reason": LOST})
        assert len((await followed.next()).data["Items"]) == KEPT
        scene.fire("deploy", 1)
        assert (await next_payloads(followed, 1))[0] == [1]

    with_scene(work)


def test_events_of_other_names_are_no_gap_and_a_place_among_them_is_known() -> None:
    async def work(scene: Scene) -> None:
        followed = await scene.follow()
        everything = await scene.follow(name="")
        for each in (followed, everything):
            assert (await each.next()).kind == "snapshot"
        for number in range(KEPT + 1):
            scene.fire("other", number)
            await next_payloads(everything, 1)
        scene.fire("other", 0)
        _, id = await next_payloads(everything, 1)
        scene.fire("deploy", 1)
        assert (await next_payloads(followed, 1))[0] == [1], "it is told of no gap"
        again = await scene.follow(id)
        assert (await next_payloads(again, 1))[0] == [1], "nor is that place unknown"

    with_scene(work)


def test_a_place_of_another_agent_or_another_start_says_nothing_here() -> None:
    async def work(scene: Scene) -> None:
        scene.fire("deploy", 1)
        id = (await (await scene.follow()).next()).id
        scene.forget_feeds()
        followed = await scene.follow(id, epoch=8)
        event = await followed.next()
        assert (event.kind, event.data) == ("compacted", {"Reason": OTHER_AGENT})
        assert (await followed.next()).kind == "snapshot"

    with_scene(work)
