"""All that a feed held at one place, told as one event in pieces: the loop has its turn between them.

It is of one index whatever changes meanwhile: it keeps references to the items, and these never change.
"""

from __future__ import annotations

import heapq
from collections.abc import AsyncIterator, Iterator, Mapping
from itertools import pairwise

from gemot.agent.feeds import wire
from gemot.agent.feeds.turns import Turns
from gemot.agent.feeds.wire import Place

MOST_KEPT_BYTES = 1 << 20
"""A longer one is rendered anew for each reader: kept, it would double what the feed holds."""

PIECE_BYTES = 1 << 16
PIECE_ITEMS = 1_000
SORTED_AT_ONCE = 1_024
REFERENCES_BYTES = 16
"""What an item takes here: it is the feed's."""


class Snapshot:
    """Shared by all readers that begin at the same place. `size` is that of the items and their keys."""

    def __init__(self, place: Place, items: Mapping[bytes, bytes], size: int, turns: Turns) -> None:
        self.size = size
        self.is_short = size <= MOST_KEPT_BYTES
        self.is_cut = False
        self.outdated = 0
        """Bytes that are held here alone: items that the feed has no more; or a rendering, once that goes."""
        self._place = place
        self._turns = turns
        self._keys = list(items)
        self._items = list(items.values())
        self._references = REFERENCES_BYTES * len(items)
        self._sorted = 0
        self._runs: list[int] = []
        """Where each run of keys in order begins, among the first `_sorted`."""
        self._kept: list[bytes] = []
        self._whole = False
        self._rendering = self._render()

    @property
    def held(self) -> int:
        """Bytes, about, beside what the feed holds itself."""
        return self._references + self.outdated

    def cut(self) -> None:
        """Give up what it holds: who reads it is at its end, in the middle of the event."""
        self.is_cut = self._whole = True
        for held in (self._keys, self._items, self._kept):
            held.clear()

    async def pieces(self) -> AsyncIterator[bytes]:
        """Each takes the loop a millisecond or two at most. At the end look whether it `is_cut`."""
        if not self.is_short:
            rendering: Iterator[bytes] = self._render()
            while (piece := await self._next_of(rendering)) is not None:
                yield piece
            return
        if len(self._keys) <= PIECE_ITEMS and self.size <= PIECE_BYTES:
            while not self._whole:
                self._keep(next(self._rendering, None))
        number = 0
        while number < len(self._kept) or not self._whole:
            if number == len(self._kept):
                await self._keep_as_many(number + 1)
            else:
                yield self._kept[number]
                number += 1

    async def _next_of(self, rendering: Iterator[bytes]) -> bytes | None:
        async with self._turns.slice():
            return None if self.is_cut else next(rendering, None)

    async def _keep_as_many(self, number: int) -> None:
        """Whoever of the readers comes there first renders it, for all of them."""
        async with self._turns.slice():
            if len(self._kept) < number and not self._whole:
                self._keep(next(self._rendering, None))

    def _keep(self, piece: bytes | None) -> None:
        if piece:
            self._kept.append(piece)
        elif piece is None:
            self._whole = True
            self._keys.clear()
            self._items.clear()

    def _render(self) -> Iterator[bytes]:
        """Pieces of the event, in the order of the keys; empty ones while these are brought in order."""
        while self._sorted < len(self._keys):
            self._sort_some()
            yield b""
        piece, length, mark = [wire.snapshot_head(self._place)], 0, b""
        for key, item in self._in_order():
            piece.append(mark + wire.held_item(key, item))
            length += len(piece[-1])
            mark = b","
            if length >= PIECE_BYTES or len(piece) >= PIECE_ITEMS:
                yield b"".join(piece)
                piece, length = [], 0
        piece.append(wire.SNAPSHOT_TAIL)
        yield b"".join(piece)

    def _sort_some(self) -> None:
        """Most often they are in order as they are: as the servers gave them."""
        begin = self._sorted
        end = self._sorted = min(begin + SORTED_AT_ONCE, len(self._keys))
        keys = self._keys[begin:end]
        ordered = sorted(keys)
        if keys != ordered:
            by_key = dict(zip(keys, self._items[begin:end], strict=True))
            self._keys[begin:end] = ordered
            self._items[begin:end] = [by_key[key] for key in ordered]
        if not begin or ordered[0] < self._keys[begin - 1]:
            self._runs.append(begin)

    def _in_order(self) -> Iterator[tuple[bytes, bytes]]:
        bounds = pairwise([*self._runs, len(self._keys)])
        return heapq.merge(*[self._run(begin, end) for begin, end in bounds])

    def _run(self, begin: int, end: int) -> Iterator[tuple[bytes, bytes]]:
        for at in range(begin, end):
            yield self._keys[at], self._items[at]
