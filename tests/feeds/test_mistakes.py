"""A source that fails inside ends its feed: whoever follows is told, and whoever comes next has a new one."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
from support.followed import Event, events_in
from support.http_agent import PATIENCE_S, run
from support.local_servers import LocalServers, local_servers

from gemot.agent.feeds.feed import Feed
from gemot.agent.feeds.feeds import Feeds, SourceOf
from gemot.agent.feeds.fired import FiredEvents
from gemot.agent.feeds.keys import Keys
from gemot.agent.feeds.rows import Rows
from gemot.agent.user_events import UserEvents
from gemot.agent.views import Views
from gemot.server.model.catalog import Node, Nodes, Register
from gemot.server.model.errors import GemotError
from gemot.server.model.kv import KvSet

TOLD = "Internal error: it is in the log of this agent"


class Mistake:
    """Something that works until it is told to fail, as only our own mistakes do."""

    def __init__(self) -> None:
        self.made = False

    def perhaps(self) -> None:
        if self.made:
            raise RuntimeError("ours")


def key(servers: LocalServers, mistake: Mistake) -> tuple[SourceOf, Callable[[], Any]]:
    query = servers.query

    def failing(*args: Any) -> Any:
        mistake.perhaps()
        return query(*args)

    servers.query = failing  # type: ignore[method-assign]
    return partial(Keys, servers=servers, key=b"k", prefix=False, token=""), partial(
        servers.apply, KvSet(b"k", b"v")
    )


def rows(servers: LocalServers, mistake: Mistake) -> tuple[SourceOf, Callable[[], Any]]:
    def items(_: Any) -> dict[bytes, bytes]:
        mistake.perhaps()
        return {}

    views = Views(servers=servers, limit=10)
    make: SourceOf = lambda feed: Rows(feed, views=views, query=Nodes(), items=items)  # noqa: E731
    return make, partial(servers.apply, Register(Node("n1", "10.0.0.1")))


def fired(_: LocalServers, mistake: Mistake) -> tuple[SourceOf, Callable[[], Any]]:
    events = UserEvents(node="n1", services=dict, now_s=lambda: 0.0, gossip=None)

    def shown(_: Any) -> bytes:
        mistake.perhaps()
        return b"1"

    async def fire() -> None:
        events.fire("deploy")

    def make(feed: Feed) -> FiredEvents:
        return FiredEvents(feed, events=events, name="", epoch=1, shown=shown)

    return make, fire


@pytest.mark.parametrize("of", [key, rows, fired])
def test_readers_are_told_of_a_source_that_failed_inside_and_the_next_one_begins_anew(
    of: Any, caplog: pytest.LogCaptureFixture
) -> None:
    async def work() -> None:
        with local_servers() as servers:
            mistake, feeds = Mistake(), Feeds(now=lambda: 0.0)
            make, change = of(servers, mistake)
            reader = aiter(await feeds.follow("it", make, None))
            events: list[Event] = []
            async with asyncio.timeout(PATIENCE_S):
                while not events:
                    events += events_in(await anext(reader))
                mistake.made = True
                await change()
                events += [event async for piece in reader for event in events_in(piece)]
                assert (events[-1].kind, events[-1].data) == ("error", {"Error": TOLD})
                with pytest.raises(GemotError, match=TOLD):
                    await feeds.follow("it", make, None)
                mistake.made = False
                await feeds.follow("it", make, None)
            feeds.stop()

    run(work())
    assert "RuntimeError: ours" in caplog.text
