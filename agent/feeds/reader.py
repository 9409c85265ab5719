"""One reader of a feed: where it stands, and the pieces it is sent.

It begins with a snapshot, or goes on from a place: by the ring of this agent, else by the servers' change
table; or it is told that the history is gone, and begins anew. A reader slower than the ring goes on like one
that comes back.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import aclosing
from types import AsyncGeneratorType
from typing import cast

from gemot.agent.feeds import wire
from gemot.agent.feeds.feed import Feed
from gemot.agent.feeds.wire import Place
from gemot.server.model.errors import Busy, GemotError, Unavailable

RETRY_S = 0.5
"""Between two tries to learn what a reader missed, while no server answers."""

CATCH_UP_S = 10.0
"""How long an agent that lags behind a reader's place is waited for."""

_GONE = "the changes since then are not kept any more"
AHEAD = "no such index is known here: it may be of another cluster"


class Reader:
    """`place` None begins with a snapshot. Pieces are whole events, one or more, or parts of a snapshot."""

    def __init__(self, feed: Feed, place: Place | None) -> None:
        self._feed = feed
        self._place = place
        self._position: int | None = None
        self._begins = False
        """Is a snapshot to come next?"""
        self._write: Callable[[bytes], bool] | None = None
        self._abort: Callable[[], None] | None = None
        self._is_cut = False

    def attach(self, write: Callable[[bytes], bool], abort: Callable[[], None] | None = None) -> None:
        """`write` sends a piece at once, or says False and does nothing where the connection is full or the
        piece is long. `abort` ends the connection, and lets go of the piece that is being sent."""
        self._write, self._abort = write, abort

    def cut(self) -> None:
        self._is_cut = True
        if self._abort is not None:
            self._abort()

    async def __aiter__(self) -> AsyncIterator[bytes]:
        """Pieces that were not written at once, until the caller stops asking; or the feed fails: that is
        told, and the end. A piece counts as held until the next one is asked for."""
        feed = self._feed
        feed.join()
        pieces = cast(AsyncGeneratorType[bytes, None], self._pieces())
        try:
            async for piece in pieces:
                feed.hand(self, piece)
                yield piece
                if self._is_cut:
                    return  # it comes back
                feed.taken(self)
        finally:
            if not pieces.ag_running:  # as it is where the loop went away under what waits in it
                await pieces.aclose()
            feed.taken(self)
            feed.leave()

    async def _pieces(self) -> AsyncGenerator[bytes]:
        feed = self._feed
        try:
            yield wire.RETRY
            while feed.failure is None or self._position is not None:
                piece = await self._enter() if self._position is None else self._next(self._position)
                if piece:
                    yield piece
                if self._begins and feed.failure is None:
                    async with aclosing(self._snapshot()) as pieces:
                        async for piece in pieces:
                            yield piece
                    if self._begins:
                        return  # it was cut, and comes back
                elif not piece and self._position == feed.ring.next:
                    if feed.failure is not None:
                        break
                    await feed.news(self._take)
            assert feed.failure is not None, "it goes on until then"
            yield wire.error(feed.failure.message)
        except Busy as error:
            yield wire.comment(error.message)  # no `error`: it comes back
        except GemotError as error:
            yield wire.error(error.message)

    def _take(self) -> bool:
        """Who waits has all before the news, so they may be written by whoever brings them."""
        if self._write is None or self._position is None:
            return False
        piece = self._feed.ring.since(self._position)
        if piece is None or (piece and not self._write(piece)):
            return False
        self._position, self._place = self._feed.ring.next, self._feed.place
        return True

    def _next(self, position: int) -> bytes:
        """What the ring has from there on, not all at once: a slow reader holds it, beside the ring. Nothing,
        and no position, where it has gone on without us."""
        feed = self._feed
        found = feed.ring.some(position)
        if found is None:
            self._position = None
            begun_at, why = feed.anew
            return self._anew(why) if position < begun_at else b""
        piece, self._position, index = found
        self._place = feed.place if self._position == feed.ring.next else Place(index, feed.place.epoch)
        return piece

    async def _enter(self) -> bytes:
        """Find the position in the ring, and give what lies before it."""
        feed, place = self._feed, self._place
        if place is None:
            self._begins = True
            return b""
        if self._is_to_come(place) and not await self._caught_up(place):
            return self._anew(AHEAD)
        if place.epoch not in (-1, feed.place.epoch):
            is_ahead = feed.epochs_grow and place.epoch > feed.place.epoch
            return self._anew(AHEAD if is_ahead else feed.other_epoch)
        if (position := feed.ring.behind(place.index)) is not None:
            return self._next(position)
        try:
            found = await feed.source.history(place)
        except (Unavailable, Busy):
            await asyncio.sleep(RETRY_S)
            return b""
        if found is None:
            return self._anew(_GONE)
        piece, self._place = found
        return piece

    def _anew(self, why: str) -> bytes:
        self._begins = True
        return wire.compacted(why)

    async def _snapshot(self) -> AsyncGenerator[bytes]:
        """With a word on how old it may be: without servers the agent tells what it has. What happens while
        it is sent comes behind it."""
        feed = self._feed
        snapshot, standing = feed.open_snapshot(), feed.standing()
        self._position, self._place = feed.ring.next, feed.place
        try:
            async for piece in snapshot.pieces():
                if piece.endswith(wire.SNAPSHOT_TAIL):
                    self._begins = False
                    yield piece + standing
                elif piece:
                    yield piece
        finally:
            feed.close_snapshot(snapshot)

    def _is_to_come(self, place: Place) -> bool:
        """Has this agent yet to come there? With a restore that it has not heard of, if need be: what it has
        now is older than what the reader has."""
        now = self._feed.place
        same = place.epoch in (-1, now.epoch)
        return place.index > now.index and (same or (self._feed.epochs_grow and place.epoch > now.epoch))

    async def _caught_up(self, place: Place) -> bool:
        """Has this agent come to that place? It may lag behind the one that the reader comes from."""
        try:
            async with asyncio.timeout(CATCH_UP_S):
                while self._feed.place.index < place.index:
                    await self._feed.moved()
        except TimeoutError:
            return False
        return True
