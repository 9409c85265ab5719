"""One watched thing on this agent: what it holds now, its last events, and who follows them.

A source (`keys.py`, `rows.py`, `fired.py`) tells a feed what happened, once; the feed encodes it, once, for
all its readers. It keeps no queue for any of them.
"""

from __future__ import annotations

import asyncio
import logging
from bisect import bisect_left, bisect_right, insort
from collections.abc import Awaitable, Callable
from itertools import islice
from typing import Protocol

from gemot.agent.feeds import wire
from gemot.agent.feeds.in_hand import SHORT_BYTES, InHand, Taker
from gemot.agent.feeds.ring import Ring
from gemot.agent.feeds.sending import Sending
from gemot.agent.feeds.snapshot import MOST_KEPT_BYTES, Snapshot
from gemot.agent.feeds.turns import Turns
from gemot.agent.feeds.wire import Place
from gemot.server.model.errors import Busy, GemotError

log = logging.getLogger("gemot.agent")

MOST_ITEM_BYTES = 64 << 20
"""What one feed may hold."""

ENTRY_BYTES = 200
"""What an item or an event takes beside its own bytes: two objects and a place among the others."""

WAKE_SLICE = 500
"""Readers served in one go, so that ten thousand of them do not hold up a write's own reply."""

Weighed = Callable[["Feed", int, bool], bool]
"""Is told by how many bytes more or less a feed holds, and whether its items have grown. Is that too much?"""

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
    `weighed` may fail the feed, where too much is held. `turns` are shared with the other feeds.
    """

    def __init__(
        self, *, other_epoch: str = "", weighed: Weighed | None = None, turns: Turns | None = None
    ) -> None:
        self.epochs_grow = not other_epoch
        self.other_epoch = other_epoch or "a snapshot was restored since then"
        self.ring = Ring()
        self.held = 0
        """Bytes, about: the items, their snapshot if it is kept, the last events, and what is on its way: an
        answer that is not yet items, snapshots and pieces that readers have not taken yet."""
        self.turns = turns or Turns()
        self.queues = False
        """Does its beginning wait for those of others? Its source says so."""
        self.place = Place(0, 0)
        self.anew: tuple[int, str] = (0, "")
        """Readers from before that position begin anew, and why."""
        self.followers = 0
        self.told = 0
        self.source: Source
        self.failure: GemotError | None = None
        self.has_begun = False
        self._sending = Sending(self.turns)
        self._in_hand = InHand()
        self._arriving = 0
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

    def begin(
        self, items: dict[bytes, bytes], place: Place, why: str = "", *, size: int | None = None
    ) -> None:
        """This is all there is; the map is the feed's from now on. When it is not the first time, `why` says
        what readers missed. `size`, where it is known, is that of keys and items."""
        if self.failure is not None:
            return
        first, self.has_begun = not self.has_begun, True
        self._replace(items, _size(items) if size is None else size)
        self.place = place
        self._arriving = 0
        self._sending.outdate()
        self.ring.begin(place.index)
        if not first:
            self.anew = (self.ring.skip(), why)
        self._weigh()
        self._wake()

    def arriving(self, size: int, count: int) -> None:
        """So much, of so many entries, is here of the answer that it is to begin with. What takes the place
        of other items counts when it is more: few feeds begin anew at a time, and none is to end of that."""
        if self.failure is None:
            self._arriving = max(0, _weight(size, count) - _weight(self._bytes, len(self._items)))
            self._weigh()

    def change(self, place: Place, changes: list[bytes]) -> None:
        """All that one index brought; the items have been changed (`set`, `drop`)."""
        if self.failure is not None:
            return
        self.place = place
        self._sending.outdate()
        self.told += 1
        self._push(wire.change(place, changes))

    def advance(self, place: Place) -> None:
        """Nothing happened up to there."""
        if self.failure is not None:
            return
        self.place = place
        self._sending.outdate()
        self._weigh()
        self._tell_lagging()

    def bookmark(self) -> None:
        if self.has_begun and self.followers:
            self._push(self.standing())

    def standing(self) -> bytes:
        """A bookmark: how far all was told, and how old that may be."""
        known, ms = self.source.contact()
        return wire.bookmark(self.place, known_leader=known, last_contact_ms=ms)

    def fail(self, error: GemotError) -> None:
        """It cannot be followed: whoever does is told, and that is the end of it. It gives up what it holds,
        but for the events that its readers have not had, and the snapshots that they are being sent."""
        if self.failure is not None:
            return
        self._replace({}, 0)
        self.failure = error
        self._arriving = 0
        self._sending.outdate()
        if not self.followers:
            self.ring.begin(self.place.index)
        self._weigh()
        self._wake()

    def crash(self) -> None:
        """As `fail`, from within an `except`, of an error that is our own: a source that ended without a word
        would leave its readers to wait for ever."""
        log.exception("Watch ended: its source failed inside")
        self.fail(GemotError("Internal error: it is in the log of this agent"))

    def set(self, key: bytes, item: bytes) -> None:
        if self.failure is not None:
            return
        before = self._items.get(key)
        self._sending.replaced(key, before)
        self._bytes += len(item) - (-len(key) if before is None else len(before))
        self._items[key] = item
        if before is None and self._sorted is not None:
            insort(self._sorted, key)

    def drop(self, key: bytes) -> bool:
        item = self._items.pop(key, None)
        if item is None:
            return False
        self._sending.dropped(key, item)
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
            item = self._items.pop(key)
            self._bytes -= len(key) + len(item)
            self._sending.dropped(key, item)
        del keys[begin:end]

    @property
    def items(self) -> dict[bytes, bytes]:
        """JSON by key. Changed by `set`, `drop` and `drop_prefix`, or as a whole: they are counted."""
        return self._items

    @items.setter
    def items(self, items: dict[bytes, bytes]) -> None:
        if self.failure is None:
            self._replace(items, _size(items))
            self._sending.outdate()
            self._weigh()

    def _replace(self, items: dict[bytes, bytes], size: int) -> None:
        self._sending.replaced_all()
        self._items = items
        self._bytes = size
        self._sorted = None

    @property
    def size(self) -> int:
        """Bytes of the items and their keys."""
        return self._bytes

    # -- what readers ask --------------------------------------------------------------------------

    def join(self) -> None:
        self.followers += 1

    def leave(self) -> None:
        """The last one to leave a feed that has ended takes with it what was there for readers."""
        self.followers -= 1
        if self.failure is not None and not self.followers:
            self.ring.begin(self.place.index)
            self._weigh()

    def open_snapshot(self) -> Snapshot:
        """All there is now, for a reader that says `close_snapshot` when it has it. Raises Busy where there
        is no room for what that takes, a little for each item."""
        snapshot = self._sending.open(self.place, self._items, self._bytes)
        if self._weigh():
            self.close_snapshot(snapshot)
            raise Busy("the watches of this agent hold the most they may: watch fewer things, or try again")
        return snapshot

    def close_snapshot(self, snapshot: Snapshot) -> None:
        self._sending.close(snapshot)
        self._weigh()

    def hand(self, taker: Taker, piece: bytes) -> None:
        """It is being sent that piece, and says `taken` when it has it. Whoever does so quickly is not cut:
        nothing else happens meanwhile."""
        if len(piece) > SHORT_BYTES:
            self._in_hand.count(piece)
            self._weigh()
            self._in_hand.give(taker, piece)

    def taken(self, taker: Taker) -> None:
        if self._in_hand.take_back(taker):
            self._weigh()

    def forget(self) -> None:
        """Give up the last events. A reader that has not had them goes on like one that comes back."""
        if not self._due and self.failure is None:
            self.ring.begin(self.place.index)
            self._weigh()

    def cut_slow(self) -> None:
        """Have those come back that are still being sent how it was before."""
        self._sending.cut()
        self._weigh()

    def cut_waiting(self, excess: int) -> None:
        """Have those come back whose connections are full for longest, until so much less is held."""
        self._in_hand.cut(excess)
        self._weigh()

    async def begun(self) -> None:
        """Until it is known what there is. Raises what the servers refused it with."""
        while not self.has_begun and self.failure is None:
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

    def _weigh(self) -> bool:
        """Is it too much? A snapshot counts whether it is kept at the moment or not: reading one is not to
        end a feed."""
        items = _weight(self._bytes, len(self._items))
        events = _weight(self.ring.size, self.ring.next - self.ring.first)
        coming = items + self._arriving
        before, grew = self.held, coming > self._items_held
        self.held = coming + min(items, MOST_KEPT_BYTES) + events + self._sending.held + self._in_hand.held
        self._items_held = coming
        return self._weighed is not None and self._weighed(self, self.held - before, grew)

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


def _weight(size: int, count: int) -> int:
    return size + ENTRY_BYTES * count


def _size(items: dict[bytes, bytes]) -> int:
    return sum(map(len, items)) + sum(map(len, items.values()))
