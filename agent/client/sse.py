"""Server-Sent Events from bytes as they arrive, pure. Source: WHATWG HTML, section 9.2.6.

Lines end with LF or CR LF; a CR alone ends none here, since no agent writes it. An event that is not ended by
an empty line is none: it is dropped with the reader.
"""

from __future__ import annotations

from collections.abc import Iterator

import msgspec

from gemot.agent.client.connection import ClientError

MAX_EVENT_BYTES = 128 << 20
"""More than an agent sends in one event: it follows up to 64 MiB as one thing."""


class TooLong(ClientError):
    """An event of more bytes than are taken in: asking again is of no use."""


class ServerEvent(msgspec.Struct, frozen=True):
    """One event. `id` is "" where the event has none."""

    kind: str
    id: str
    data: bytes


class EventReader:
    """For one connection. Holds at most `most_bytes` of an event, plus the piece it is fed."""

    def __init__(self, most_bytes: int = MAX_EVENT_BYTES) -> None:
        self._most_bytes = most_bytes
        self._begun: list[bytes] = []
        """The line that has no end yet, as it came."""
        self._bytes = 0
        self._clear()

    def feed(self, piece: bytes) -> Iterator[ServerEvent]:
        """The events that end in this piece; go through all of them. Raises TooLong behind those before."""
        head, *more = piece.split(b"\n")
        self._take(head)
        for part in more:
            self._bytes += 1
            line = b"".join(self._begun).removesuffix(b"\r")
            self._begun.clear()
            if line:
                self._field(line)
            elif (event := self._end()) is not None:
                yield event
            self._take(part)

    def _take(self, part: bytes) -> None:
        self._bytes += len(part)
        if self._bytes > self._most_bytes:
            raise TooLong(
                f"an event of more than {self._most_bytes} bytes, the most that is taken in: is this the API "
                "of an agent? If so, watch less at once (a narrower prefix)"
            )
        self._begun.append(part)

    def _field(self, line: bytes) -> None:
        name, _, value = line.partition(b":")
        value = value.removeprefix(b" ")
        if name == b"data":
            self._data.append(value)
        elif name == b"event":
            self._kind = value.decode(errors="replace")
        elif name == b"id":
            self._id = value.decode(errors="replace")

    def _end(self) -> ServerEvent | None:
        event = ServerEvent(self._kind, self._id, b"\n".join(self._data)) if self._data else None
        self._clear()
        return event

    def _clear(self) -> None:
        self._kind, self._id = "message", ""
        self._data: list[bytes] = []
        self._bytes = 0
