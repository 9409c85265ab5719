"""One call of a client agent to the servers: tried until it is answered, or its hold time is over.

What it is: the rule of when a call is tried again, and of what is told in the end. Each try takes along what
is left of the hold time, so that the server that holds it answers in that time and nothing adds up. What it
is not: it dials nobody (`remote.py`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, Protocol

from gemot.agent.in_process import settle
from gemot.server.model.errors import (
    Busy,
    GemotError,
    NoLeader,
    OlderRelease,
    OutcomeForgotten,
    OutcomeUnknown,
    Unavailable,
    waited_for,
)
from gemot.server.ports import Timer
from gemot.server.rpc.message import Apply, Ask, Call, Operate

RETRY_MS = 50
GRACE_MS = 500
"""A server answers at the end of the hold time that it was told. One that has not so much later stalls."""


class Way(Protocol):
    """The present link to a server, and what is known while there is none."""

    @property
    def ready(self) -> bool: ...

    @property
    def waiting_for(self) -> str:
        """What keeps this agent from the servers, or them from serving; "" for nothing."""

    def send(self, call: Call, done: Callable[[Any], None]) -> Callable[[], None]: ...

    def leave_leaderless(self) -> None:
        """The server of this link has no leader."""


class Asking:
    """`call` makes the call, given the milliseconds for which it may be held.

    One that `waits` may be under way much longer than that: its hold time begins anew when its connection
    breaks, and the server is given none.
    """

    def __init__(
        self,
        *,
        way: Way,
        timer: Timer,
        call: Callable[[int], Call],
        future: asyncio.Future[Any],
        hold_ms: int,
        waits: bool,
    ) -> None:
        self._way = way
        self._timer = timer
        self._make = call
        self._future = future
        self._hold_ms = hold_ms
        self._waits = waits
        self._deadline_ms = timer.now_ms() + hold_ms
        self._under_way: Call | None = None
        self._unknown: OutcomeUnknown | None = None
        self._cancel: Callable[[], None] = _nothing
        self._cancel_clock: Callable[[], None] = _nothing

    def start(self) -> None:
        self._future.add_done_callback(self._ended)
        if not self._waits:
            self._cancel_clock = self._timer.call_after(self._hold_ms + GRACE_MS, self._unanswered)
        self._attempt()

    def _ended(self, future: asyncio.Future[Any]) -> None:
        self._cancel_clock()
        if future.cancelled():
            self._cancel()

    def _attempt(self) -> None:
        if self._future.done():
            return
        if not self._way.ready:
            self._tried(Unavailable("No known server answers"))
            return
        left_ms = 0 if self._waits else max(1, self._deadline_ms - self._timer.now_ms())
        self._under_way = self._make(left_ms)
        self._cancel = self._way.send(self._under_way, self._answered)

    def _answered(self, result: Any) -> None:
        call, self._under_way = self._under_way, None
        if isinstance(call, Operate) and isinstance(result, OutcomeUnknown):
            # It bears no name that would have it done once, so it is not asked again.
            settle(self._future)(result)
            return
        if self._waits and type(result) is Unavailable:
            self._deadline_ms = self._timer.now_ms() + self._hold_ms
        elif isinstance(result, OutcomeUnknown) and not isinstance(result, OutcomeForgotten):
            self._unknown = result
        elif isinstance(result, NoLeader):
            self._way.leave_leaderless()
        self._tried(result)

    def _tried(self, result: Any) -> None:
        if isinstance(result, Busy | OlderRelease):
            # A limit holds for whoever asks: hundreds who ask again 20 times a second would not lessen it.
            # Nor does a release learn. Both are said of this try alone: one before it may have been done.
            settle(self._future)(self._verdict(result))
            return
        final = isinstance(result, OutcomeForgotten)
        if final or not isinstance(result, Unavailable | OutcomeUnknown):
            settle(self._future)(result)
        elif self._timer.now_ms() < self._deadline_ms:
            self._timer.call_after(RETRY_MS, self._attempt)
        else:
            settle(self._future)(self._verdict(result))

    def _unanswered(self) -> None:
        """Not even the hold time's end was told: the server stalls, or the way to it.

        A read under way may be long, or wait for its turn, and no harm comes of waiting with it: that the
        server lives is what the link's pings are for.
        """
        if self._future.done() or isinstance(self._under_way, Ask):
            return
        self._cancel()
        if isinstance(self._under_way, Apply | Operate):
            what = "write" if isinstance(self._under_way, Apply) else "request"
            self._unknown = OutcomeUnknown(_UNANSWERED.format(what=what))
        settle(self._future)(self._verdict(Unavailable("No known server answers in time")))

    def _verdict(self, result: Unavailable | OutcomeUnknown | OlderRelease) -> GemotError:
        waiting = waited_for(self._way.waiting_for)
        if self._unknown is not None:
            # After a try that perhaps was done, "surely not done" would be a lie.
            told = self._unknown.message
            known = not waiting or waiting in told
            return self._unknown if known else OutcomeUnknown(f"{told}; at present: {waiting}")
        if type(result) is Unavailable and waiting:
            return Unavailable(f"No known server answers: {waiting}")
        return result


_UNANSWERED = "the server did not answer this {what} in time; it may be done, or be done later, or never"


def _nothing() -> None:
    """Cancels what has not been sent."""
