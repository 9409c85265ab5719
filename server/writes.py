"""A write's way to the leader and back: hold, forward once, retry what is surely undone or named.

Each write is tried until it is answered or its hold time is over. Between tries the rule is: an error that
says "surely not done" (`Unavailable`) may always be tried again; a broken connection says nothing, and is
tried again only because the write carries a retry id that the state applies at most once, or does no harm
when it is applied twice.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from gemot.server.model.command import Command, IdempotencyKey, RetryId, may_be_repeated, weight
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
from gemot.server.model.query import Applied
from gemot.server.ports import Random, Timer

RETRY_MS = 25
MAX_HELD = 20_000
"""Writes under way or waiting for a leader, at most; more are refused (`Busy`)."""

MAX_HELD_BYTES = 64 << 20
"""And the memory they take: without a quorum nothing else bounds what waits for the hold time to end."""

Done = Callable[[Applied | GemotError], None]
Name = RetryId | IdempotencyKey | None


class Proposer(Protocol):
    """The replica of this server."""

    @property
    def leads(self) -> bool: ...

    def leader_id(self) -> str: ...

    def propose(self, command: Command, accessor: str, retry: Name, done: Done) -> None: ...


class Forwarder(Protocol):
    def forward(self, to: str, command: Command, accessor: str, retry: Name, done: Done) -> None:
        """Ask that server to propose; `done(OutcomeUnknown)` when the connection breaks first."""


class RetryIds:
    """Mints the names of this process's writes, and knows up to where all were answered."""

    def __init__(self, origin: bytes) -> None:
        self._origin = origin
        self._next = 1
        self._acknowledged = 0
        self._answered: dict[int, None] = {}

    def mint(self) -> RetryId:
        sequence = self._next
        self._next += 1
        return RetryId(self._origin, sequence, self._acknowledged)

    def refresh(self, retry: RetryId) -> RetryId:
        """The same write, with today's watermark."""
        return RetryId(retry.origin, retry.sequence, self._acknowledged)

    def answered(self, retry: RetryId) -> None:
        """This write will not be tried again."""
        self._answered[retry.sequence] = None
        while self._acknowledged + 1 in self._answered:
            self._acknowledged += 1
            del self._answered[self._acknowledged]


class Writes:
    """Writes asked of this server, by its own agent or by a client agent's RPC."""

    def __init__(
        self,
        *,
        proposer: Proposer,
        forwarder: Forwarder,
        ids: RetryIds,
        timer: Timer,
        random: Random,
        hold_ms: int,
        waiting: Callable[[], str] = str,
    ) -> None:
        """`waiting` tells what keeps this server from a leader, for people."""
        self._proposer = proposer
        self._forwarder = forwarder
        self._ids = ids
        self._timer = timer
        self._random = random
        self._hold_ms = hold_ms
        self._waiting = waiting
        self._held: dict[_Write, None] = {}
        self._held_bytes = 0

    def apply(self, command: Command, accessor: str, retry: Name, done: Done, *, hold_ms: int = 0) -> None:
        """Write, through the leader wherever it is; `done` is called exactly once, within the hold time.

        A caller that has less time than this server would give says so in `hold_ms`.
        """
        if len(self._held) >= MAX_HELD:
            done(Busy(f"{MAX_HELD} writes are under way on this server: ask again later"))
            return
        size = weight(command)
        if self._held and self._held_bytes + size > MAX_HELD_BYTES:
            done(
                Busy(
                    f"{self._held_bytes} bytes of writes are under way on this server, the limit is "
                    f"{MAX_HELD_BYTES}: ask again later"
                )
            )
            return
        hold_ms = min(hold_ms, self._hold_ms) if hold_ms > 0 else self._hold_ms
        write = _Write(command, accessor, retry, done, self._timer.now_ms() + hold_ms)
        write.size = size
        self._held_bytes += size
        self._held[write] = None
        self._try(write)

    def on_tick(self) -> None:
        """End the writes whose hold time is over."""
        now = self._timer.now_ms()
        over = [w for w in self._held if w.deadline_ms <= now]
        if not over:
            return
        unknown, not_done = self._unknown(), NoLeader.because(self._waiting())
        for write in over:
            self._finish(write, unknown if write.perhaps_done or write.under_way else not_done)

    @property
    def held(self) -> int:
        return len(self._held)

    def _try(self, write: _Write) -> None:
        if write not in self._held:
            return
        write.under_way = True
        write.tries += 1
        attempt = write.tries

        def answered(result: Applied | GemotError) -> None:
            if attempt == write.tries:
                self._answered(write, result)

        if self._proposer.leads:
            self._proposer.propose(write.command, write.accessor, write.retry, answered)
            return
        leader = self._proposer.leader_id()
        if not leader:
            answered(NoLeader())
            return
        if write.retry is None and not may_be_repeated(write.command):
            write.retry = write.minted = self._ids.mint()
        elif write.minted is not None:
            write.retry = write.minted = self._ids.refresh(write.minted)
        self._forwarder.forward(leader, write.command, write.accessor, write.retry, answered)

    def _answered(self, write: _Write, result: Applied | GemotError) -> None:
        write.under_way = False
        if isinstance(result, OutcomeForgotten):
            retriable = False
        elif isinstance(result, OutcomeUnknown):
            write.perhaps_done = True
            retriable = write.retry is not None or may_be_repeated(write.command)
        else:
            retriable = isinstance(result, Unavailable) and not isinstance(result, Busy)
        if not retriable:
            # After a try that perhaps was done, what is said of this one alone would be a lie.
            lie = write.perhaps_done and isinstance(result, Busy | OlderRelease)
            self._finish(write, self._unknown() if lie else result)
            return
        delay_ms = RETRY_MS + int(self._random.random() * RETRY_MS)
        self._timer.call_after(delay_ms, lambda: self._try(write))

    def _unknown(self) -> OutcomeUnknown:
        waiting = waited_for(self._waiting())
        return OutcomeUnknown(f"{_UNKNOWN}; at present: {waiting}" if waiting else _UNKNOWN)

    def _finish(self, write: _Write, result: Applied | GemotError) -> None:
        if self._held.pop(write, _GONE) is _GONE:
            return
        self._held_bytes -= write.size
        if write.minted is not None:
            self._ids.answered(write.minted)
        write.done(result)


class _Write:
    """One write under way. Not a word: it lives and changes."""

    __slots__ = (
        "accessor",
        "command",
        "deadline_ms",
        "done",
        "minted",
        "perhaps_done",
        "retry",
        "size",
        "tries",
        "under_way",
    )

    def __init__(self, command: Command, accessor: str, retry: Name, done: Done, deadline_ms: int) -> None:
        self.command = command
        self.accessor = accessor
        self.retry = retry
        self.minted: RetryId | None = None
        self.done = done
        self.deadline_ms = deadline_ms
        self.perhaps_done = False
        self.under_way = False
        self.tries = 0
        self.size = 0


_GONE: object = object()

_UNKNOWN = (
    "this write was sent to a leader that did not answer in time; "
    "it may be done, or be done later, or never (repeat it with an Idempotency-Key to be safe)"
)
