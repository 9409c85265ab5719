"""A push watch as its reader sees it: events, taken from whole pieces."""

from __future__ import annotations

import asyncio
import json
from collections import deque
from collections.abc import AsyncIterator
from typing import Any, NamedTuple

from support.http_agent import PATIENCE_S, Connection


class Event(NamedTuple):
    kind: str
    id: str
    data: Any

    @property
    def changes(self) -> list[tuple[str, str]]:
        """What was done to which key."""
        return [(change["Op"], change["Key"]) for change in self.data["Changes"]]


def events_in(text: bytes) -> list[Event]:
    """Every event of a stream that is whole so far."""
    found = []
    for block in text.split(b"\n\n")[:-1]:
        fields = dict(line.partition(": ")[::2] for line in block.decode().split("\n"))
        if "event" in fields:
            found.append(Event(fields["event"], fields.get("id", ""), json.loads(fields["data"])))
    return found


class Followed:
    """Reads events one by one, of an async iterator of pieces or of a connection that was sent a request."""

    def __init__(self, pieces: AsyncIterator[bytes]) -> None:
        self._pieces = pieces
        self._left = b""
        self._events: deque[Event] = deque()

    @classmethod
    def over(cls, connection: Connection) -> Followed:
        return cls(_pieces(connection))

    async def next(self) -> Event:
        """The next one that is no bookmark."""
        while True:
            while self._events:
                if (event := self._events.popleft()).kind != "bookmark":
                    return event
            async with asyncio.timeout(PATIENCE_S):
                text = self._left + await anext(self._pieces)
            whole, mark, self._left = text.rpartition(b"\n\n")
            self._events += events_in(whole + mark)


async def _pieces(connection: Connection) -> AsyncIterator[bytes]:
    """Bodies of chunks, whatever the reads cut."""
    left = b""
    while b"\r\n\r\n" not in left:
        left += await connection.piece()
    left = left.partition(b"\r\n\r\n")[2]
    while True:
        size, mark, rest = left.partition(b"\r\n")
        if mark and len(rest) >= int(size, 16) + 2:
            if not int(size, 16):
                return
            yield rest[: int(size, 16)]
            left = rest[int(size, 16) + 2 :]
            continue
        piece = await connection.piece()
        if not piece:
            return
        left += piece
