"""A feed of what is no key: it stands where its view does, though nothing that it tells has changed."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import pytest
from support.followed import events_in
from support.http_agent import PATIENCE_S, run
from support.local_servers import LocalServers, local_servers

from gemot.agent.feeds.feed import Feed
from gemot.agent.feeds.feeds import Feeds
from gemot.agent.feeds.reader import Reader
from gemot.agent.feeds.rows import Rows
from gemot.agent.feeds.wire import Place
from gemot.agent.views import Views
from gemot.server.model.catalog import HealthService, Instance, Node, Register, Service
from gemot.server.model.health import Check, Status


def items(value: list[Instance]) -> dict[bytes, bytes]:
    return {each.service.id.encode(): b"%d" % each.service.port for each in value}


class Scene:
    """The passing instances of `web`, as they are watched on one agent."""

    def __init__(self, servers: LocalServers) -> None:
        self.servers = servers
        self.views = Views(servers=servers, limit=10)
        self.feeds = Feeds(now=lambda: 0.0)

    async def reader(self, place: Place | None = None) -> Reader:
        query = HealthService("web", passing=True)

        def make(feed: Feed) -> Rows:
            return Rows(feed, views=self.views, query=query, items=items)

        return await self.feeds.follow("web", make, place)

    async def register(self, id: str, status: Status, **changes: Any) -> int:
        check = Check("n1", id, id, status, service_id=id)
        service = Service(id, "web", **changes)
        return (await self.servers.apply(Register(Node("n1", "10.0.0.1"), (service,), (check,)))).index


def in_scene(work: Callable[[Scene], Coroutine[Any, Any, None]]) -> None:
    async def inside() -> None:
        with local_servers() as servers:
            scene = Scene(servers)
            try:
                async with asyncio.timeout(PATIENCE_S):
                    await work(scene)
            finally:
                scene.feeds.stop()
                scene.views.stop()

    run(inside())


@pytest.mark.parametrize(
    ("id", "status", "changes"),
    [("sick", "critical", {}), ("well", "passing", {"meta": {"not": "shown"}})],
    ids=["the answer is the same", "no item differs"],
)
def test_a_place_that_another_agent_told_is_known_though_nothing_is_to_be_told(
    monkeypatch: pytest.MonkeyPatch, id: str, status: Status, changes: dict[str, Any]
) -> None:
    monkeypatch.setattr("gemot.agent.feeds.reader.CATCH_UP_S", 0)

    async def work(scene: Scene) -> None:
        await scene.register("well", "passing")
        await scene.reader()
        index = await scene.register(id, status, **changes)
        pieces = aiter(await scene.reader(Place(index, 0)))
        await anext(pieces)
        coming = asyncio.ensure_future(anext(pieces))
        for _ in range(50):
            await asyncio.sleep(0)
        assert not coming.done(), coming.result()
        later = await scene.register("other", "passing")
        (event,) = events_in(await coming)
        assert (event.kind, event.id, event.changes) == ("change", f"0-{later}", [("set", "other")])

    in_scene(work)


def test_a_bookmark_tells_how_far_nothing_happened() -> None:
    async def work(scene: Scene) -> None:
        await scene.register("well", "passing")
        pieces = aiter(await scene.reader())
        while not events_in(await anext(pieces)):
            pass
        index = await scene.register("sick", "critical")
        (feed,) = scene.feeds._feeds.values()
        feed.bookmark()
        (event,) = events_in(await anext(pieces))
        assert (event.kind, event.id) == ("bookmark", f"0-{index}")

    in_scene(work)
