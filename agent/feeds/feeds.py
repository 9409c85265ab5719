"""All feeds of this agent: one for each thing that is watched, however many watch it.

What they hold together is bounded, what is on its way to them and to their readers included. Past it, those
that nobody follows go first, then the last events of the others (their readers are told them by the servers,
or get a snapshot), then what slow readers are still being sent (they come back); then whatever grows is
refused.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Hashable
from functools import partial

from gemot.agent.feeds.feed import Feed, Source
from gemot.agent.feeds.reader import Reader
from gemot.agent.feeds.turns import Turns
from gemot.agent.feeds.wire import Place
from gemot.server.model.errors import Busy, Unavailable

MAX_FEEDS = 4_096
MOST_BYTES = 256 << 20
"""What all feeds may hold: see `Feed.held`. One event more may pass it, however long it is."""

BOOKMARK_S = 15.0
BEGIN_S = 7.0
"""How long a reader waits for the servers to say what there is, and for the turn of its feed to ask them: as
long as other requests are held."""

IDLE_S = 60.0
"""A feed that nobody has followed for so long gives up what it holds."""

SourceOf = Callable[[Feed], Source]


class Feeds:
    """For one event loop. `now` is a clock in seconds that never goes back."""

    def __init__(
        self,
        *,
        now: Callable[[], float],
        bookmark_s: float = BOOKMARK_S,
        limit: int = MAX_FEEDS,
        most_bytes: int = MOST_BYTES,
    ) -> None:
        self._now = now
        self._bookmark_s = bookmark_s
        self._limit = limit
        self._most_bytes = most_bytes
        self.held = 0
        """Bytes, about; those of feeds that have ended and have readers left count too."""
        self._turns = Turns()
        self._ended: dict[Feed, None] = {}
        self._feeds: dict[Hashable, Feed] = {}
        self._left_at: dict[Hashable, float] = {}
        self._told_before = 0
        self._timer: asyncio.TimerHandle | None = None
        self._stopped = False

    def __len__(self) -> int:
        return len(self._feeds)

    @property
    def followers(self) -> int:
        return sum(feed.followers for feed in self._feeds.values())

    @property
    def told(self) -> int:
        """Changes told so far, each counted once, however many heard it."""
        return self._told_before + sum(feed.told for feed in self._feeds.values())

    async def follow(
        self, what: Hashable, make: SourceOf, place: Place | None, *, other_epoch: str = ""
    ) -> Reader:
        """The stream of that thing, from `place` on or from a snapshot, once it is known what there is.

        Raises Busy at the limit of things or of bytes or where too many begin at once, Unavailable without
        servers, and what they refuse it with.
        """
        feed = self._feeds.get(what)
        if feed is not None and feed.failure is not None:
            self._drop(what, feed)
            feed = None
        if feed is None:
            feed = self._open(what, make, other_epoch)
        feed.join()
        try:
            async with asyncio.timeout(BEGIN_S):
                await feed.begun()
        except TimeoutError:
            raise self._not_begun(feed) from None
        finally:
            feed.leave()
            if feed.failure is not None or (feed.queues and not feed.followers):
                self._drop(what, feed)
        return Reader(feed, place)

    def _not_begun(self, feed: Feed) -> Busy | Unavailable:
        if feed.queues:
            return Busy("this agent reads what other watches begin with, a few at a time: try again")
        return Unavailable("no server has said yet what there is to be watched: try again")

    def begin_anew(self) -> None:
        for feed in list(self._feeds.values()):
            feed.source.begin_anew()

    def stop(self) -> None:
        self._stopped = True
        if self._timer is not None:
            self._timer.cancel()
        for what, feed in list(self._feeds.items()):
            self._drop(what, feed)
        self._ended.clear()
        self.held = 0

    def _open(self, what: Hashable, make: SourceOf, other_epoch: str) -> Feed:
        if len(self._feeds) >= self._limit and not self._drop_idle(0.0):
            raise Busy(
                f"{self._limit} different things are watched on this agent, the most there may be: watch "
                "fewer (a prefix in place of many keys)"
            )
        if self.held >= self._most_bytes and not self._make_room(None):
            raise self._no_room()
        weighed = partial(self._on_weighed, what)
        feed = self._feeds[what] = Feed(other_epoch=other_epoch, weighed=weighed, turns=self._turns)
        feed.source = make(feed)
        feed.source.start()
        if self._timer is None and not self._stopped:
            self._arm()
        return feed

    def _drop(self, what: Hashable, feed: Feed) -> None:
        if self._feeds.get(what) is feed:
            self._leave(what, feed)
            feed.source.stop()

    def _leave(self, what: Hashable, feed: Feed) -> None:
        del self._feeds[what]
        if feed.held:
            self._ended[feed] = None
        self._told_before += feed.told
        self._left_at.pop(what, None)

    # -- what they hold together -------------------------------------------------------------------

    def _on_weighed(self, what: Hashable, feed: Feed, more: int, grew: bool) -> bool:
        """Events alone end no feed: the next of another one makes them go."""
        if self._stopped:
            return False
        self.held += more
        if not feed.held:
            self._ended.pop(feed, None)
        elif self._feeds.get(what) is not feed:
            self._ended[feed] = None
        if more <= 0 or self.held <= self._most_bytes or self._make_room(feed):
            return False
        if grew and self._feeds.get(what) is feed:
            self._leave(what, feed)
            feed.fail(self._no_room())
            # Not at once: its source may be the one that tells this, in the middle of its start.
            asyncio.get_running_loop().call_soon(feed.source.stop)
        return True

    def _make_room(self, but: Feed | None) -> bool:
        """Of all the others, and of slow readers of any; whether there is some now."""
        self._drop_idle(0.0, but)
        if self.held > self._most_bytes:
            for feed in list(self._feeds.values()):  # to weigh one may make others go
                if feed is not but:
                    feed.forget()
        if self.held > self._most_bytes:
            for feed in [*self._ended, *self._feeds.values()]:
                feed.cut_slow()
        if self.held > self._most_bytes:
            for feed in [*self._ended, *self._feeds.values()]:
                feed.cut_waiting(self.held - self._most_bytes)
        return self.held <= self._most_bytes

    def _no_room(self) -> Busy:
        return Busy(
            f"the watches of this agent hold {self._most_bytes >> 20} MiB, the most they may: watch fewer or "
            "narrower things, or by another agent"
        )

    # -- time --------------------------------------------------------------------------------------

    def _arm(self) -> None:
        self._timer = asyncio.get_running_loop().call_later(self._bookmark_s, self._on_timer)

    def _on_timer(self) -> None:
        self._timer = None
        self._drop_idle(IDLE_S)
        for what, feed in list(self._feeds.items()):
            if feed.failure is not None:
                self._drop(what, feed)
            else:
                feed.bookmark()
        if self._feeds:
            self._arm()

    def _drop_idle(self, idle_s: float, but: Feed | None = None) -> bool:
        """Those that nobody has followed since so long; whether there was one."""
        now, dropped = self._now(), False
        for what, feed in list(self._feeds.items()):
            if feed.followers or feed is but:
                self._left_at.pop(what, None)
            elif now - self._left_at.setdefault(what, now) >= idle_s:
                self._drop(what, feed)
                # For a reader that was given it and has not begun: it would wait for news that never come.
                feed.fail(Busy("this watch gave way to others before it was read: watch again"))
                dropped = True
        return dropped
