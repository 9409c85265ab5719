"""Many push watchers at once, each with what it was told; and what must be so of all that they were told."""

from __future__ import annotations

import asyncio
import contextlib
from collections import defaultdict
from collections.abc import Callable, Iterable
from itertools import pairwise
from urllib.parse import quote

import msgspec

CONNECT_S = 0.1
SILENT_S = 45.0
"""Bookmarks come each 15 s: who hears nothing for so long has lost its agent."""


class Told(msgspec.Struct, frozen=True):
    """One event with an id: `content` is its data as it came; "" for what only moves the place."""

    index: int
    content: str


class PushWatcher:
    """Follows one prefix, on another agent after each break, from where it stood. Keeps all it was told."""

    def __init__(self, prefix: str, addresses: Callable[[int], str]) -> None:
        self.prefix = prefix
        self._addresses = addresses
        self.began_at = -1
        self.place = ""
        self.told: list[Told] = []
        self.snapshots = 0
        self.compacted: list[str] = []
        self.connections = 0
        self.bookmark = 0

    @property
    def index(self) -> int:
        """All up to there was told."""
        return int(self.place.rpartition("-")[2] or -1)

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            with contextlib.suppress(
                OSError, asyncio.IncompleteReadError, TimeoutError, _Refused, ValueError
            ):
                await self._follow(self._addresses(self.connections))
            self.connections += 1
            await asyncio.sleep(CONNECT_S)

    async def _follow(self, address: str) -> None:
        host, _, port = address.partition(":")
        reader, writer = await asyncio.open_connection(host, int(port), limit=1 << 22)
        try:
            place = f"Last-Event-ID: {self.place}\r\n" if self.place else ""
            target = f"/v1/gemot/watch?prefix={quote(self.prefix)}"
            writer.write(f"GET {target} HTTP/1.1\r\nHost: {address}\r\n{place}\r\n".encode())
            head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), SILENT_S)
            if not head.startswith(b"HTTP/1.1 200"):
                raise _Refused
            left = b""
            while True:
                async with asyncio.timeout(SILENT_S):
                    size = int(await reader.readuntil(b"\r\n"), 16)
                    piece = (await reader.readexactly(size + 2))[:-2]
                *events, left = (left + piece).split(b"\n\n")
                for event in events:
                    self._take(event)
        finally:
            writer.close()

    def _take(self, event: bytes) -> None:
        fields = dict(line.partition(": ")[::2] for line in event.decode().split("\n"))
        kind = fields.get("event", "")
        if kind == "compacted":
            self.compacted.append(fields["data"])
        elif kind == "error":
            raise _Refused
        elif kind:
            index = int(fields["id"].rpartition("-")[2])
            if kind == "change":
                self.told.append(Told(index, fields["data"]))
            elif kind == "snapshot":
                self.snapshots += 1
                if self.began_at < 0:
                    self.began_at = index
            elif kind == "bookmark":
                self.bookmark = index
            self.place = fields["id"]


class _Refused(Exception):
    """Not an answer to go on with."""


def faults(watchers: Iterable[PushWatcher], acknowledged: Iterable[tuple[int, str]]) -> list[str]:
    """What is not as promised; `acknowledged` are writes that were answered: index and key.

    Ordered and unique: each watcher's indexes rise. Whole: all who were told of an index in one prefix were
    told the same. Complete: each was told of every acknowledged write in its prefix, and of all that another
    watcher of it was told, from where it began to where it stands.
    """
    found: list[str] = []
    by_prefix: dict[str, list[PushWatcher]] = defaultdict(list)
    for watcher in watchers:
        by_prefix[watcher.prefix].append(watcher)
        rising = pairwise(told.index for told in watcher.told)
        found += [f"{watcher.prefix}: told {b} behind {a}" for a, b in rising if b <= a]
        if watcher.compacted or watcher.snapshots != 1:
            found.append(f"{watcher.prefix}: {watcher.snapshots} snapshots, {watcher.compacted}")
    writes = list(acknowledged)
    for prefix, of_prefix in by_prefix.items():
        truth: dict[int, str] = {}
        for told in (told for watcher in of_prefix for told in watcher.told):
            if truth.setdefault(told.index, told.content) != told.content:
                found.append(f"{prefix}: index {told.index} was told in two ways")
        for index, key in writes:
            if (
                key.startswith(prefix)
                and index not in truth
                and any(w.began_at < index <= w.index for w in of_prefix)
            ):
                found.append(f"{prefix}: nobody was told of the write at {index}")
        for watcher in of_prefix:
            has = {told.index for told in watcher.told}
            due = {index for index in truth if watcher.began_at < index <= watcher.index}
            if has != due:
                found.append(f"{prefix}: lost {sorted(due - has)[:5]}, too many {sorted(has - due)[:5]}")
    return found
