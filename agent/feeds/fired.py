"""The source of a feed of user events: those that this agent has heard and still keeps, then each new one."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Protocol

from gemot.agent.feeds import wire
from gemot.agent.feeds.feed import Feed
from gemot.agent.feeds.wire import Place
from gemot.agent.gossip.events import Fired
from gemot.server.model.errors import GemotError

OTHER_AGENT = "each agent numbers the events by itself: these are all that this one has"


LOST = "more events came than are kept"


class Events(Protocol):
    """Those that are kept, each with its number (`user_events.py`)."""

    def numbered(self, name: str = "") -> Sequence[tuple[int, Fired]]: ...

    @property
    def accepted(self) -> int: ...

    @property
    def forgotten(self) -> int: ...

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

    async def history(self, place: Place) -> tuple[bytes, Place] | None:
        """A feed goes some time after its last reader, the events stay: who comes back has them from here."""
        now = self._feed.place
        missed = [(n, fired) for n, fired in self._kept() if place.index < _index(n) <= now.index]
        if place.index < _index(self._events.forgotten):
            return None
        return b"".join(self._told(n, fired) for n, fired in missed), now

    async def _run(self) -> None:
        feed, events = self._feed, self._events
        try:
            feed.begin(self._items(), self._place(events.accepted))
            while True:
                await events.wait()
                before = feed.place.index
                if before < _index(events.forgotten):
                    feed.begin(self._items(), self._place(events.accepted), LOST)
                    continue
                feed.items = self._items()
                for number, fired in self._kept():
                    if _index(number) > before:
                        feed.change(self._place(number), [self._set(fired)])
                if feed.place.index < _index(events.accepted):  # by events of other names
                    feed.advance(self._place(events.accepted))
        except GemotError as error:
            feed.fail(error)
        except Exception:
            feed.crash()

    def _kept(self) -> Sequence[tuple[int, Fired]]:
        return self._events.numbered(self._name)

    def _items(self) -> dict[bytes, bytes]:
        return {fired.event.id.encode(): self._shown(fired) for _, fired in self._kept()}

    def _told(self, number: int, fired: Fired) -> bytes:
        return wire.change(self._place(number), [self._set(fired)])

    def _set(self, fired: Fired) -> bytes:
        return wire.set_item(fired.event.id.encode(), self._shown(fired))

    def _place(self, number: int) -> Place:
        return Place(_index(number), self._epoch)


def _index(number: int) -> int:
    """Indexes begin at 1, which is before the first event."""
    return number + 1
