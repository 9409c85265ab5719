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
import time
from collections.abc import Callable
from typing import Any

from gemot.agent.client.agents import Agents
from gemot.agent.client.connection import ClientError, why
from gemot.agent.client.events import Event
from gemot.agent.client.resuming import PATH, PATIENCE_S, PIECE_BYTES, Resuming, Trouble, turned_already
from gemot.agent.client.sse import MAX_EVENT_BYTES


class Stream(Resuming):
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
        super().__init__(watched, place=place, trouble=trouble, patience_s=patience_s, most_bytes=most_bytes)
        self._agents = agents.again()
        self._sleep = sleep
        self._response: http.client.HTTPResponse | None = None

    def __iter__(self) -> Stream:
        return self

    def __next__(self) -> Event:
        """The next event, however long it takes. What may pass is waited out, on the next agent if there
        are several. Raises Refused for what the agent will not do (404: it has no push watches),
        WatchEnded, TooLong."""
        while not self._arrived:
            try:
                self._raise_kept()
                self._take(self._read(self._response or self._connect()))
            except ClientError as error:
                self.close()
                if not turned_already(error):
                    self._agents.turn()
                self._sleep(self._delay_s(error))
        return self._hand_out()

    def close(self) -> None:
        """The next event, if one is asked for, comes over a new connection."""
        self._kept = None
        if self._response is not None:
            self._response.close()
            self._response = None

    def _connect(self) -> http.client.HTTPResponse:
        self._response = self._agents.stream(
            PATH, self._watched, headers=self._headers(), timeout_s=self._patience_s
        )
        self._begin(self._response.headers.get("Content-Type"))
        return self._response

    def _read(self, response: http.client.HTTPResponse) -> bytes:
        """What is there, at least one byte; b"" at the end."""
        try:
            return response.read1(PIECE_BYTES)
        except TimeoutError as error:
            raise self._silent() from error
        except http.client.IncompleteRead as error:
            raise self._cut() from error
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise self._broken(why(error)) from error
