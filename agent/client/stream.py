"""A push watch of one thing, as an iterator that goes on by itself: `/v1/gemot/watch`.

What is guaranteed: events come in the order of their indexes, and each has all that its index brought. Of a
key or a prefix each change is told once, never twice: after a break it goes on behind what was handed out
last, on whichever agent. Of all else it is told how it is; changes that follow each other at once may be
folded into one. Where the changes since the last place are not kept any more, the next event is a Snapshot
whose `lost` says why.

What is not: that what was handed out was acted upon. Who has to know that keeps `place` beside his own work,
and begins there.
"""

from __future__ import annotations

import http.client
import random
import re
import time
from collections import deque
from collections.abc import Callable
from typing import Any, Literal, TypeVar

import msgspec

from gemot.agent.client.agents import Agents, passes
from gemot.agent.client.connection import ClientError, ConnectionBroke, NotAnAgent, Refused, why
from gemot.agent.client.sse import MAX_EVENT_BYTES, EventReader, ServerEvent

PATH = "/v1/gemot/watch"
PATIENCE_S = 45.0
"""An agent says something every 15 s: of one that is silent for so long the connection is broken."""

RETRY_S = 1.0
RETRY_MAX_S = 30.0
_PIECE_BYTES = 1 << 16
_PLACE = re.compile(r"[0-9]{1,16}-[0-9]{1,16}")


class Snapshot(msgspec.Struct, frozen=True):
    """All there is, by key. `lost`: why the changes since the place before are not known, else ""."""

    place: str
    index: int
    items: dict[str, Any]
    lost: str = ""


class Op(msgspec.Struct, frozen=True, rename="pascal"):
    """What happened to a key, or to all that begin with it. `item` is None unless it was set."""

    op: Literal["set", "delete", "delete-prefix"]
    key: str
    item: Any = None


class Change(msgspec.Struct, frozen=True):
    """All that one index brought."""

    place: str
    index: int
    changes: list[Op]


class Bookmark(msgspec.Struct, frozen=True):
    """Nothing else happened up to there."""

    place: str
    index: int


_Word = TypeVar("_Word")

Event = Snapshot | Change | Bookmark
Trouble = Callable[[ClientError, float], None]
"""Told what broke, and in how many seconds it is tried again."""


class WatchEnded(ClientError):
    """The agent says that this cannot be watched any longer, and why."""


class Stream:
    """Events of one watched thing, for ever. Not for two threads at once."""

    def __init__(
        self,
        agents: Agents,
        watched: dict[str, Any],
        *,
        place: str = "",
        trouble: Trouble | None = None,
        patience_s: float = PATIENCE_S,
        most_bytes: int = MAX_EVENT_BYTES,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        """`watched` is the query that says what: {"key": "a"}, {"service": "web", "passing": True}.

        `place` is that of an event had before, from whichever agent of the same cluster. An event of more
        than `most_bytes` is not taken in.
        """
        self.place = place
        """Of the event handed out last."""
        self._agents = agents.again()
        self._watched = watched
        self._trouble = trouble
        self._patience_s = patience_s
        self._most_bytes = most_bytes
        self._sleep = sleep
        self._failures = 0
        self._arrived: deque[Event] = deque()
        self._response: http.client.HTTPResponse | None = None
        self._reader = EventReader(most_bytes)
        self._lost = ""

    def __iter__(self) -> Stream:
        return self

    def __next__(self) -> Event:
        """The next event, however long it takes. What may pass is waited out, on the next agent if there
        are several. Raises Refused for what the agent will not do (404: it has no push watches),
        WatchEnded, TooLong."""
        while not self._arrived:
            try:
                self._response = self._response or self._connect()
                self._read(self._response)
            except ClientError as error:
                self.close()
                if not (passes(error) or isinstance(error, NotAnAgent)):
                    raise
                self._wait_out(error)
        event = self._arrived.popleft()
        self.place = event.place
        return event

    def close(self) -> None:
        """The next event, if one is asked for, comes over a new connection."""
        if self._response is not None:
            self._response.close()
            self._response = None

    def _connect(self) -> http.client.HTTPResponse:
        """Only when all that arrived is handed out: `place` is where to go on."""
        headers = {"Accept": "text/event-stream"} | ({"Last-Event-ID": self.place} if self.place else {})
        try:
            response = self._agents.stream(PATH, self._watched, headers=headers, timeout_s=self._patience_s)
        except (Refused, NotAnAgent):
            self._agents.turn()
            raise
        kind = response.headers.get("Content-Type", "")
        if kind.partition(";")[0].strip() != "text/event-stream":
            response.close()
            self._agents.turn()
            raise NotAnAgent(f"the answer is no event stream but {kind[:60]!r}: is this the API of an agent?")
        self._reader, self._lost = EventReader(self._most_bytes), ""
        return response

    def _read(self, response: http.client.HTTPResponse) -> None:
        """What is there, at least one byte."""
        try:
            if not (piece := response.read1(_PIECE_BYTES)):
                raise ConnectionBroke("the watch broke: the agent ended it")
            for told in self._reader.feed(piece):
                if (event := self._event(told)) is not None:
                    self._arrived.append(event)
                    self._failures = 0
        except (OSError, http.client.HTTPException, ValueError) as error:
            self._agents.turn()
            raise ConnectionBroke(f"the watch broke: {self._how(error)}") from error
        except ClientError:
            self._agents.turn()
            raise

    def _how(self, error: Exception) -> str:
        if isinstance(error, TimeoutError):
            return f"nothing came for {self._patience_s:g} s"
        if isinstance(error, http.client.IncompleteRead):
            return "it was cut"
        return why(error)

    def _wait_out(self, error: ClientError) -> None:
        """Not all watchers of an agent that was restarted are to come back in one moment."""
        delay_s = min(RETRY_S * 2 ** min(self._failures, 10), RETRY_MAX_S) * random.uniform(0.5, 1.0)
        self._failures += 1
        if self._trouble is not None:
            self._trouble(error, delay_s)
        self._sleep(delay_s)

    def _event(self, told: ServerEvent) -> Event | None:
        """None for what only prepares the next, and for kinds of later releases."""
        match told.kind:
            case "snapshot":
                snapshot = _decode(told, _SNAPSHOT)
                items = {each.key: each.item for each in snapshot.items}
                lost, self._lost = self._lost, ""
                return Snapshot(_place(told), snapshot.index, items, lost)
            case "change":
                change = _decode(told, _CHANGE)
                return Change(_place(told), change.index, change.changes)
            case "bookmark":
                return Bookmark(_place(told), _decode(told, _BOOKMARK).index)
            case "compacted":
                self._lost = _decode(told, _COMPACTED).reason or "it is not told why"
            case "error":
                raise WatchEnded(_decode(told, _ERROR).error)
        return None


class _Item(msgspec.Struct, rename="pascal"):
    key: str
    item: Any


class _Snapshot(msgspec.Struct, rename="pascal"):
    index: int
    items: list[_Item]


class _Change(msgspec.Struct, rename="pascal"):
    index: int
    changes: list[Op]


class _Bookmark(msgspec.Struct, rename="pascal"):
    index: int


class _Compacted(msgspec.Struct, rename="pascal"):
    reason: str


class _Error(msgspec.Struct, rename="pascal"):
    error: str


_SNAPSHOT = msgspec.json.Decoder(_Snapshot)
_CHANGE = msgspec.json.Decoder(_Change)
_BOOKMARK = msgspec.json.Decoder(_Bookmark)
_COMPACTED = msgspec.json.Decoder(_Compacted)
_ERROR = msgspec.json.Decoder(_Error)


def _decode(told: ServerEvent, decoder: msgspec.json.Decoder[_Word]) -> _Word:
    try:
        return decoder.decode(told.data)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise NotAnAgent(
            f"an event {told.kind!r} that is not as an agent writes it ({error}): {_start(told.data)!r}"
        ) from error


def _place(told: ServerEvent) -> str:
    """It is sent back as a header, so it is looked at."""
    if not _PLACE.fullmatch(told.id):
        raise NotAnAgent(f"an event {told.kind!r} with the id {told.id[:60]!r}: an agent's is like 0-1234")
    return told.id


def _start(data: bytes) -> str:
    return data[:60].decode(errors="replace")
