"""What is the same of every push watch, whether a thread (`stream.py`) or a task (`aio/stream.py`) reads it.

Where it goes on after a break, when it is tried again, and what trying again would not mend. What is left to
the two forms are sockets and waiting.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable
from typing import Any

import msgspec

from gemot.agent.client.agents import passes
from gemot.agent.client.connection import CannotConnect, ClientError, ConnectionBroke, NotAnAgent
from gemot.agent.client.events import Compacted, Event, Snapshot, read_event
from gemot.agent.client.sse import EventReader

PATH = "/v1/gemot/watch"
PATIENCE_S = 45.0
"""An agent says something every 15 s: of one that is silent for so long the connection is broken."""

RETRY_S = 1.0
RETRY_MAX_S = 30.0
PIECE_BYTES = 1 << 16
"""Read at once, at most."""

Trouble = Callable[[ClientError, float], None]
"""Told what broke, and in how many seconds it is tried again."""


class WatchBroke(ConnectionBroke):
    """The connection ended, or nothing came over it, after events had begun."""


class Resuming:
    """The events that arrived, and the place behind which those after them are asked for."""

    def __init__(
        self,
        watched: dict[str, Any],
        *,
        place: str,
        trouble: Trouble | None,
        patience_s: float,
        most_bytes: int,
    ) -> None:
        """As `stream.Stream`."""
        self.place = place
        """Of the event handed out last."""
        self._watched = watched
        self._trouble = trouble
        self._patience_s = patience_s
        self._most_bytes = most_bytes
        self._failures = 0
        self._arrived: deque[Event] = deque()
        self._reader = EventReader(most_bytes)
        self._lost = ""
        self._kept: ClientError | None = None

    def _headers(self) -> dict[str, str]:
        """Of a request. Only when all that arrived is handed out: `place` is where to go on."""
        asked = {"Accept": "text/event-stream", "Accept-Encoding": "identity"}
        return asked | ({"Last-Event-ID": self.place} if self.place else {})

    def _begin(self, content_type: str | None) -> None:
        """An answer begins. Raises NotAnAgent for one that is no event stream."""
        kind = content_type or ""
        if kind.partition(";")[0].strip() != "text/event-stream":
            raise NotAnAgent(f"the answer is no event stream but {kind[:60]!r}: is this the API of an agent?")
        self._reader, self._lost = EventReader(self._most_bytes), ""

    def _take(self, piece: bytes) -> None:
        """What was read; b"" at the end. Raises WatchBroke, NotAnAgent, TooLong, WatchEnded."""
        if not piece:
            raise WatchBroke("the watch broke: the agent ended it")
        try:
            self._arrive(piece)
        except ClientError as error:
            if not self._arrived:
                raise
            self._kept = error

    def _raise_kept(self) -> None:
        """What is wrong behind the events that arrived, once they are handed out."""
        error, self._kept = self._kept, None
        if error is not None:
            raise error

    def _arrive(self, piece: bytes) -> None:
        for told in self._reader.feed(piece):
            event = read_event(told)
            if isinstance(event, Compacted):
                self._lost = event.reason or "it is not told why"
                continue
            if isinstance(event, Snapshot) and self._lost:
                event = msgspec.structs.replace(event, lost=self._lost)
                self._lost = ""
            if event is not None:
                self._arrived.append(event)
                self._failures = 0

    def _hand_out(self) -> Event:
        event = self._arrived.popleft()
        self.place = event.place
        return event

    def _broken(self, how: str) -> WatchBroke:
        return WatchBroke(f"the watch broke: {how}")

    def _silent(self) -> WatchBroke:
        return self._broken(f"nothing came for {self._patience_s:g} s")

    def _cut(self) -> WatchBroke:
        return self._broken("it was cut")

    def _delay_s(self, error: ClientError) -> float:
        """How long to wait until it is tried again. Raises what trying again would not mend.

        Not all watchers of an agent that was restarted are to come back in one moment.
        """
        if not (passes(error) or isinstance(error, NotAnAgent)):
            raise error
        most_s = min(RETRY_S * float(2 ** min(self._failures, 10)), RETRY_MAX_S)
        delay_s = most_s * random.uniform(0.5, 1.0)
        self._failures += 1
        if self._trouble is not None:
            self._trouble(error, delay_s)
        return delay_s


def turned_already(error: ClientError) -> bool:
    """Where no answer began, whoever asked has gone to the next agent by itself."""
    return isinstance(error, CannotConnect | ConnectionBroke) and not isinstance(error, WatchBroke)
