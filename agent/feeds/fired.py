"""The source of a feed of user events: those that this agent has heard and still keeps, then each new one."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Protocol

from gemot.agent.feeds import wire
from gemot.agent.feeds.feed import Feed
from gemot.agent.feeds.wire import Place
from gemot.agent.gossip.events import Fired
from gemot.server.model.errors import GemotError

OTHER_AGENT = "each agent numbers the events by itself: these are all that this one has"


class Events(Protocol):
    def list(self, name: str = "") -> list[Fired]: ...

    def wait(self) -> Awaitable[None]: ...


class FiredEvents:
    """Feeds `feed` with the events of one name, or all. `epoch` is of this start of the agent."""

    def __init__(
        self, feed: Feed, *, events: Events, name: str, epoch: int, shown: Callable[[Fired], bytes]
    ) -> None:
        self._feed = feed
        self._events = events
        self._name = name
        self._epoch = epoch
        self._shown = shown
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        self._task = asyncio.get_running_loop().create_task(self._run())

    def stop(self) -> None:
        if self._task is not None:
            self._task.cancel()

    def begin_anew(self) -> None:
        """Events are none of the servers'."""

    def contact(self) -> tuple[bool, int]:
        return True, 0

    async def history(self, _place: Place) -> None:
        return None

    async def _run(self) -> None:
        feed = self._feed
        try:
            feed.begin(self._kept(), Place(1, self._epoch))
            while True:
                await self._events.wait()
                kept = self._kept()
                new = [(key, item) for key, item in kept.items() if key not in feed.items]
                feed.items = kept
                for key, item in new:
                    feed.change(Place(feed.place.index + 1, self._epoch), [wire.set_item(key, item)])
        except GemotError as error:
            feed.fail(error)
        except Exception:
            feed.crash()

    def _kept(self) -> dict[bytes, bytes]:
        return {each.event.id.encode(): self._shown(each) for each in self._events.list(self._name)}
