"""One watched thing on this agent: what it holds now, its last events, and who follows them.

A source (`keys.py`, `rows.py`, `fired.py`) tells a feed what happened, once; the feed encodes it, once, for
all its readers. It keeps no queue for any of them.
"""

from __future__ import annotations

import asyncio
from bisect import bisect_left, bisect_right, insort
from collections.abc import Awaitable, Callable, Mapping
from itertools import islice
from typing import Protocol

from gemot.agent.feeds import wire
from gemot.agent.feeds.ring import Ring
from gemot.agent.feeds.wire import Place
from gemot.server.model.errors import GemotError

MOST_ITEM_BYTES = 64 << 20
"""What one feed may hold."""

MOST_SNAPSHOT_BYTES = 1 << 20
"""A longer snapshot is made anew for each reader that begins: kept, it would double what the feed holds."""

ENTRY_BYTES = 200
"""What an item or an event takes beside its own bytes: two objects and a place among the others."""

WAKE_SLICE = 500
"""Readers served in one go, so that ten thousand of them do not hold up a write's own reply."""

Weighed = Callable[["Feed", int, bool], None]
"""Is told by how many bytes more or less a feed holds, and whether its items have grown."""

Take = Callable[[], bool]
"""Gives a reader what is new on the spot, without waking its task; False if that cannot be."""


class Source(Protocol):
    """Where a feed's news come from, from `start` to `stop`."""

    def start(self) -> None: ...

    def stop(self) -> None: ...

    def begin_anew(self) -> None:
        """The servers are another cluster: what was told is of another one."""

    def contact(self) -> tuple[bool, int]:
        """Is a leader known, and for how many ms has nothing vouched for what the feed holds?"""

    def history(self, place: Place) -> Awaitable[tuple[bytes, Place] | None]:
        """Some of the events behind that place, and the place after them; None if they are not kept."""


class Feed:
    """For one event loop. `source` is set by who makes both.

    `other_epoch` says what it means when a reader comes with a place of another epoch. Left out, epochs are
    those of the servers: they only grow, and indexes through them, so a greater one is yet to come here.
    `weighed` may fail the feed, where too much is held.
    """

    def __init__(self, *, other_epoch: str = "", weighed: Weighed | None = None) -> None:
        self.epochs_grow = not other_epoch
        self.other_epoch = other_epoch or "a snapshot was restored since then"
        self.ring = Ring()
        self.held = 0
        """Bytes, about: the items, a snapshot of them if it is kept, and the last events."""
        self.place = Place(0, 0)
        self.followers = 0
        self.told = 0
        self.source: Source
        self.failure: GemotError | None = None
        self._begun = False
        self._snapshot = b""
        self._weighed = weighed
        self._items: dict[bytes, bytes] = {}
        self._bytes = 0
        self._items_held = 0
        self._sorted: list[bytes] | None = None
        """The keys in order, from the first `drop_prefix` on: most feeds never need them."""
        self._waiting: dict[asyncio.Future[None], Take | None] = {}
        self._due: dict[asyncio.Future[None], None] = {}
        self._lagging: dict[asyncio.Future[None], None] = {}

    # -- what the source tells ---------------------------------------------------------------------

    def begin(self, items: Mapping[bytes, bytes], place: Place, why: str = "") -> None:
        """This is all there is. When it is not the first time, `why` says what readers missed."""
        first, self._begun, self.failure = not self._begun, True, None
        self.items = dict(items)
        self.place = place
        self._snapshot = b""
        self.ring.begin(place.index)
        if first:
            self._weigh()
            self._wake()
        else:
            self._push(wire.compacted(why) + self.snapshot())

    def change(self, place: Place, changes: list[bytes]) -> None:
        """All that one index brought; the items have been changed (`set`, `drop`)."""
        self.place = place
        self._snapshot = b""
        self.told += 1
        self._push(wire.change(place, changes))

    def advance(self, place: Place) -> None:
        """Nothing happened up to there."""
        self.place = place
        self._snapshot = b""
        self._tell_lagging()

    def bookmark(self) -> None:
        if self._begun and self.followers:
            self._push(self.standing())

    def standing(self) -> bytes:
        """A bookmark: how far all was told, and how old that may be."""
        known, ms = self.source.contact()
        return wire.bookmark(self.place, known_leader=known, last_contact_ms=ms)

    def fail(self, error: GemotError) -> None:
        """It cannot be followed: whoever does is told, and that is the end of it."""
        self.failure = error
        self._wake()

    def set(self, key: bytes, item: bytes) -> None:
        before = self._items.get(key)
        self._bytes += len(item) - (-len(key) if before is None else len(before))
        self._items[key] = item
        if before is None and self._sorted is not None:
            insort(self._sorted, key)

    def drop(self, key: bytes) -> bool:
        item = self._items.pop(key, None)
        if item is None:
            return False
        self._bytes -= len(key) + len(item)
        if self._sorted is not None:
            del self._sorted[bisect_left(self._sorted, key)]
        return True

    def drop_prefix(self, prefix: bytes) -> None:
        """All that begin with it, at the cost of those: not of a look at every item there is."""
        if self._sorted is None:
            self._sorted = sorted(self._items)
        keys, length = self._sorted, len(prefix)
        begin = bisect_left(keys, prefix)
        end = bisect_right(keys, prefix, lo=begin, key=lambda key: key[:length])
        for key in keys[begin:end]:
            self._bytes -= len(key) + len(self._items.pop(key))
        del keys[begin:end]

    @property
    def items(self) -> dict[bytes, bytes]:
        """JSON by key. Changed by `set`, `drop` and `drop_prefix`, or as a whole: they are counted."""
        return self._items

    @items.setter
    def items(self, items: dict[bytes, bytes]) -> None:
        self._items = items
        self._bytes = sum(map(len, items)) + sum(map(len, items.values()))
        self._sorted = None

    @property
    def is_full(self) -> bool:
        return self._bytes > MOST_ITEM_BYTES

    # -- what readers ask --------------------------------------------------------------------------

    def snapshot(self) -> bytes:
        """All there is now, as an event."""
        if self._snapshot:
            return self._snapshot
        told = wire.snapshot(self.place, sorted(self._items.items()))
        if len(told) <= MOST_SNAPSHOT_BYTES:
            self._snapshot = told
        return told

    def forget(self) -> None:
        """Give up the last events. A reader that has not had them goes on like one that comes back."""
        if not self._due:
            self.ring.begin(self.place.index)
            self._weigh()

    async def begun(self) -> None:
        """Until it is known what there is. Raises what the servers refused it with."""
        while not self._begun and self.failure is None:
            await self.news()
        if self.failure is not None:
            raise self.failure

    async def news(self, take: Take | None = None) -> None:
        """Until something was told that `take` did not take. Its reader looks again in any case."""
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting[waiter] = take
        try:
            await waiter
        finally:
            self._waiting.pop(waiter, None)

    async def moved(self) -> None:
        """Until something was told, or it was that nothing happened."""
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._lagging[waiter] = None
        try:
            await waiter
        finally:
            self._lagging.pop(waiter, None)

    def _push(self, event: bytes) -> None:
        self.ring.push(self.place.index, event)
        self._weigh()
        self._wake()

    def _weigh(self) -> None:
        """A snapshot counts whether it is kept at the moment or not: reading one is not to end a feed."""
        items = self._bytes + ENTRY_BYTES * len(self._items)
        events = self.ring.size + ENTRY_BYTES * (self.ring.next - self.ring.first)
        before, grew = self.held, items > self._items_held
        self.held, self._items_held = items + min(items, MOST_SNAPSHOT_BYTES) + events, items
        if self._weighed is not None:
            self._weighed(self, self.held - before, grew)

    def _wake(self) -> None:
        """Everybody, in slices; who has not had the event before this one gets both."""
        idle = not self._due
        self._due.update(dict.fromkeys(self._waiting))
        if idle:
            self._tell_slice()
        self._tell_lagging()

    def _tell_slice(self) -> None:
        now = list(islice(self._due, WAKE_SLICE))
        for waiter in now:
            del self._due[waiter]
        if self._due:
            asyncio.get_running_loop().call_soon(self._tell_slice)
        for waiter in now:
            take = self._waiting.get(waiter)
            if not waiter.done() and (take is None or self.failure is not None or not take()):
                waiter.set_result(None)

    def _tell_lagging(self) -> None:
        for waiter in self._lagging:
            if not waiter.done():
                waiter.set_result(None)
