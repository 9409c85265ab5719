"""The source of a feed of a key or a prefix: read once, then followed through the servers' change table.

Each change is told, however fast they come; whole entries, in their order. It asks for what came behind the
last index, and waits at a server until there is some: so it goes on at any other server where one is lost.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from itertools import groupby
from typing import Any, Protocol

from gemot.agent.feeds import wire
from gemot.agent.feeds.feed import ENTRY_BYTES, MOST_ITEM_BYTES, Feed
from gemot.agent.feeds.wire import Place
from gemot.agent.http.render import kv_entry
from gemot.server.model.changes import KvChange, KvChanges, Told
from gemot.server.model.errors import Busy, GemotError, TooLarge, Unavailable
from gemot.server.model.kv import KvEntry, KvGet, KvList
from gemot.server.model.query import Answer, Options, Query

log = logging.getLogger("gemot.agent")

WAIT_MS = 10_000
"""So long a server waits for changes: how far there were none is known as often."""

VOUCHED_MS = WAIT_MS * 17 // 16 + 2_000

MAX_STALE_MS = 5_000
"""A server that has not heard a leader for so long does not answer for the others."""

READ_S = 30.0
"""How long the servers have to say what there is: others wait for their turn meanwhile."""

COUNTED_AT_ONCE = 5_000
RENDERED_AT_ONCE = 1 << 17
"""Entries, and bytes of them, that take a millisecond or two."""

RETRY_MIN_S = 0.25
RETRY_MAX_S = 10.0


class Servers(Protocol):
    def query(self, query: Query, options: Options) -> asyncio.Future[Answer]: ...


class Keys:
    """Feeds `feed` with what happens to `key`, or to all that begin with it."""

    def __init__(
        self,
        feed: Feed,
        *,
        servers: Servers,
        key: bytes,
        prefix: bool,
        token: str,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self._feed = feed
        self._servers = servers
        self._key = key
        self._prefix = prefix
        self._token = token
        self._now = now
        self._answered_at = now()
        self._age_ms = 0
        """How old the last answer may have been when it came."""

        self._known_leader = True
        self._retry_s = RETRY_MIN_S
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        self._task = asyncio.get_running_loop().create_task(self._run())

    def stop(self) -> None:
        if self._task is not None:
            self._task.cancel()

    def begin_anew(self) -> None:
        self.stop()
        self._task = asyncio.get_running_loop().create_task(
            self._run("the servers are another cluster", first=False)
        )

    def contact(self) -> tuple[bool, int]:
        """An answer vouches until the next one is due: a server that waits for changes would tell of them."""
        since_ms = max(0, int(1000 * (self._now() - self._answered_at)))
        vouches = self._known_leader and since_ms <= VOUCHED_MS
        return self._known_leader, self._age_ms if vouches else self._age_ms + since_ms

    async def history(self, place: Place) -> tuple[bytes, Place] | None:
        answer = await self._servers.query(self._changes(place.index), Options(token=self._token))
        told: Told = answer.value
        if told.compacted or answer.epoch != self._feed.place.epoch:
            return None
        epoch = answer.epoch
        pieces = [
            wire.change(Place(index, epoch), [_shown(each) for each in entry])
            for index, entry in _by_entry(told.changes)
        ]
        return b"".join(pieces), Place(max(place.index, told.through), epoch)

    # -- following ---------------------------------------------------------------------------------

    async def _run(self, why: str = "", *, first: bool = True) -> None:
        """`why` is told to those who follow, where all is read anew."""
        while True:
            try:
                if first or why:
                    await self._begin(why)
                    first, why = False, ""
                why = await self._follow()
                await asyncio.sleep(RETRY_MIN_S)  # whatever it is that comes again and again
            except (Unavailable, Busy) as error:
                if first:
                    self._feed.fail(error)
                    return
                log.debug("agent: feed: key=%r waits: %s", self._key, error)
                self._known_leader = False
                await asyncio.sleep(self._retry_s)
                self._retry_s = min(2 * self._retry_s, RETRY_MAX_S)
            except GemotError as error:
                self._feed.fail(error)
                return
            except Exception:
                self._feed.crash()
                return

    async def _begin(self, why: str) -> None:
        """Read what there is: linearizable, and as of an index from which changes are followed.

        Only a few feeds do so at a time: until it is here nobody knows how much it is.
        """
        feed = self._feed
        feed.queues = not feed.has_begun
        async with feed.turns.prefixes if self._prefix else feed.turns.keys:
            feed.queues = False
            answer = await self._read()
            self._heard(answer)
            entries, place = _entries(answer.value), Place(answer.index, answer.epoch)
            del answer  # so that each entry goes as soon as it is an item
            try:
                items, size = await self._rendered(entries)
                feed.begin(items, place, why, size=size)
            finally:
                feed.arriving(0, 0)
            self._bound(feed.size)

    async def _read(self) -> Answer:
        query: Query = KvList(self._key) if self._prefix else KvGet(self._key)
        try:
            async with asyncio.timeout(READ_S):
                return await self._servers.query(query, Options(token=self._token))
        except TimeoutError:
            raise Unavailable("the servers have not said in time what there is to be watched") from None

    async def _rendered(self, entries: list[KvEntry]) -> tuple[dict[bytes, bytes], int]:
        """As items, some at a time, and how long they are. `entries` is emptied; what is left of it counts
        from the beginning."""
        feed, size, count = self._feed, 0, len(entries)
        for begin in range(0, len(entries), COUNTED_AT_ONCE):
            async with feed.turns.slice():
                counted = entries[begin : begin + COUNTED_AT_ONCE]
                size += sum([len(entry.key) + len(entry.value) for entry in counted])
                feed.arriving(size, begin + len(counted))
                self._bound(size)
        entries.reverse()
        items: dict[bytes, bytes] = {}
        while entries and feed.failure is None:
            async with feed.turns.slice():
                left = RENDERED_AT_ONCE
                while entries and left > 0:
                    entry = entries.pop()
                    items[entry.key] = item = kv_entry(entry)
                    size += len(item) - len(entry.value)
                    left -= len(entry.value) + ENTRY_BYTES
                feed.arriving(size, count)
                self._bound(size)
        return items, size

    async def _follow(self) -> str:
        """Until all has to be read anew, for the reason given."""
        feed = self._feed
        while True:
            after = feed.place
            options = Options(
                index=after.index,
                wait_ms=WAIT_MS,
                consistency="stale",
                max_stale_ms=MAX_STALE_MS,
                token=self._token,
            )
            answer = await self._servers.query(self._changes(after.index), options)
            told: Told = answer.value
            if answer.epoch != after.epoch:
                return feed.other_epoch
            if told.compacted:
                return "more changed than is kept while this agent was away from the servers"
            self._heard(answer)
            for index, entry in _by_entry(told.changes):
                self._take(entry)
                feed.change(Place(index, after.epoch), [_shown(each) for each in entry])
            if told.through > feed.place.index:
                feed.advance(Place(told.through, after.epoch))
            self._bound(feed.size)

    def _take(self, entry: list[KvChange]) -> None:
        for change in entry:
            if change.entry is not None:
                self._feed.set(change.key, kv_entry(change.entry))
            elif change.op == "delete":
                self._feed.drop(change.key)
            else:
                self._feed.drop_prefix(change.key)

    def _bound(self, size: int) -> None:
        if size > MOST_ITEM_BYTES:
            raise TooLarge(
                f"more than {MOST_ITEM_BYTES >> 20} MiB are under this prefix, the most that is followed "
                "as one: watch narrower prefixes"
            )

    def _changes(self, after: int) -> KvChanges:
        return KvChanges(self._key, self._prefix, after)

    def _heard(self, answer: Answer) -> None:
        self._retry_s = RETRY_MIN_S
        self._known_leader = answer.known_leader
        self._answered_at, self._age_ms = self._now(), answer.last_contact_ms


def _entries(value: Any) -> list[KvEntry]:
    """Of either query, a list of our own."""
    if isinstance(value, list):
        return list(value)
    return [] if value is None else [value]


def _by_entry(changes: list[KvChange]) -> list[tuple[int, list[KvChange]]]:
    return [(index, list(entry)) for index, entry in groupby(changes, key=lambda change: change.index)]


def _shown(change: KvChange) -> bytes:
    if change.op == "set":
        assert change.entry is not None, "what is set is told"
        return wire.set_item(change.key, kv_entry(change.entry))
    return wire.gone(change.key, change.op)
