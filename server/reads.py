"""Reads: stale, default, consistent; the blocking read; and `subscribe`, on which everything live stands.

The way of a blocking read: confirm that the state is fresh, join the group of those who ask the same,
evaluate once for the whole group, answer whoever's index is passed, and look again whenever the watch
hub wakes the group. A waiter joins before the state is read, so no change falls between.

A read that times out confirms again before it answers, so that even "nothing changed" is true.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import msgspec

from gemot.server.confirm import Confirmations
from gemot.server.model.errors import Busy, GemotError, StorageFailed, Unavailable
from gemot.server.model.query import DEFAULT_WAIT_MS, MAX_WAIT_MS, Answer, Options, Query
from gemot.server.ports import Random, Timer
from gemot.server.state.store import State
from gemot.server.state.watch import Hub, Topic, topics

WAKE_SLICE = 500
"""Waiters answered in one go, so that a thousand of them do not hold up a write's own reply."""

MAX_WAITERS = 100_000
"""Blocking reads and subscriptions on one server, at most."""

Done = Callable[[Answer | GemotError], None]
Cancel = Callable[[], None]


class Contact(Protocol):
    """What a read tells about the leader. The replica fulfils it."""

    def last_contact_ms(self) -> int: ...

    def knows_leader(self) -> bool: ...


class _Waiter:
    """One blocking read or subscription; `index` is the newest its caller has seen."""

    __slots__ = ("cancel_timer", "cancelled", "done", "group", "index", "once")

    def __init__(self, group: _Group, index: int, done: Done, once: bool) -> None:
        self.group = group
        self.index = index
        self.done = done
        self.once = once
        self.cancel_timer: Cancel | None = None
        self.cancelled = False


class _Group:
    """All waiters of one query under one accessor: evaluated once, woken together."""

    __slots__ = ("accessor", "key", "query", "topics", "waiters")

    def __init__(self, query: Query, accessor: str, key: tuple[bytes, str]) -> None:
        self.query = query
        self.accessor = accessor
        self.key = key
        self.topics = topics(query)
        self.waiters: dict[_Waiter, None] = {}


class Reads:
    """Answers queries from this server's state, once it is as fresh as the caller asked."""

    def __init__(
        self,
        *,
        state: State,
        hub: Hub[_Group],
        contact: Contact,
        confirmations: Confirmations,
        timer: Timer,
        random: Random,
        default_wait_ms: int = DEFAULT_WAIT_MS,
        max_wait_ms: int = MAX_WAIT_MS,
    ) -> None:
        self._state = state
        self._hub = hub
        self._contact = contact
        self._confirmations = confirmations
        self._timer = timer
        self._random = random
        self._default_wait_ms = default_wait_ms
        self._max_wait_ms = max_wait_ms
        self._groups: dict[tuple[bytes, str], _Group] = {}
        self._due: list[tuple[_Waiter, Answer | GemotError]] = []
        self._count = 0

    # -- asking ------------------------------------------------------------------------------------

    def query(self, query: Query, options: Options, accessor: str, done: Done, *, hold_ms: int = 0) -> Cancel:
        """Read as `options` say; returns what takes a waiting read away again.

        For a leader it waits `hold_ms`, or as long as this server gives (0).
        """
        if options.consistency == "stale" and self._fresh_enough(options.max_stale_ms):
            return self._look_or_wait(query, options, accessor, done)
        cancelled = False
        cancel_wait: Cancel | None = None

        def confirmed(error: Unavailable | None) -> None:
            nonlocal cancel_wait
            if cancelled:
                return
            if error is not None:
                done(error)
            else:
                cancel_wait = self._look_or_wait(query, options, accessor, done)

        def cancel() -> None:
            nonlocal cancelled
            cancelled = True
            if cancel_wait is not None:
                cancel_wait()

        self._confirmations.confirm(confirmed, hold_ms=hold_ms)
        return cancel

    def subscribe(self, query: Query, accessor: str, from_index: int, done: Done) -> Cancel:
        """Answer at once if newer than `from_index`, then after every change, until cancelled.

        Answers come from this server's state without a confirmation: they are ordered and gap-free in
        their last state, and as fresh as this server's contact with the leader.
        """
        if self._count >= MAX_WAITERS:
            done(_too_many())
            return _nothing
        waiter = self._join(query, accessor, from_index, done, once=False)
        self._evaluate(waiter.group, only=waiter)
        return lambda: self._cancel(waiter)

    # -- what the replica tells --------------------------------------------------------------------

    def on_applied(self, touched: list[Topic]) -> None:
        self._confirmations.on_applied()
        for group in self._hub.wake(touched):
            self._evaluate(group)

    def on_replaced(self) -> None:
        """The state was replaced by a snapshot: everyone looks again."""
        self._confirmations.on_applied()
        for group in self._hub.wake_all():
            self._evaluate(group)

    @property
    def telling(self) -> bool:
        """Are there answers that are due and not yet told?"""
        return bool(self._due)

    @property
    def waiting(self) -> int:
        return self._count

    @property
    def woken(self) -> int:
        """Groups of equal waiters that were woken so far."""
        return self._hub.woken

    # -- waiting -----------------------------------------------------------------------------------

    def _fresh_enough(self, max_stale_ms: int) -> bool:
        return max_stale_ms == 0 or self._contact.last_contact_ms() <= max_stale_ms

    def _look_or_wait(self, query: Query, options: Options, accessor: str, done: Done) -> Cancel:
        if options.index == 0:
            done(self._look(query, accessor))
            return _nothing
        if self._count >= MAX_WAITERS:
            done(_too_many())
            return _nothing
        waiter = self._join(query, accessor, options.index, done, once=True)
        answer = self._look(query, accessor)
        if isinstance(answer, GemotError) or answer.index > options.index:
            self._leave(waiter)
            done(answer)
            return _nothing
        wait_ms = min(options.wait_ms if options.wait_ms > 0 else self._default_wait_ms, self._max_wait_ms)
        wait_ms += int(self._random.random() * wait_ms / 16)
        waiter.cancel_timer = self._timer.call_after(wait_ms, lambda: self._time_out(waiter, options))
        return lambda: self._cancel(waiter)

    def _cancel(self, waiter: _Waiter) -> None:
        """Its caller is gone: nothing is told any more, wherever the answer is on its way."""
        waiter.cancelled = True
        self._leave(waiter)

    def _time_out(self, waiter: _Waiter, options: Options) -> None:
        if waiter not in waiter.group.waiters:
            return
        self._leave(waiter)
        behind = self._state.applied_index < options.index
        again = Options(
            # One who has seen more elsewhere than this server has is not answered from here unconfirmed.
            consistency="default" if behind else options.consistency,
            max_stale_ms=options.max_stale_ms,
        )

        def answered(result: Answer | GemotError) -> None:
            if waiter.cancelled:
                return
            if isinstance(result, Answer) and result.index < options.index <= self._state.applied_index:
                # Nothing changed since what the caller has seen: the index must not go back.
                result = msgspec.structs.replace(result, index=options.index)
            waiter.done(result)

        self.query(waiter.group.query, again, waiter.group.accessor, answered)

    def _join(self, query: Query, accessor: str, index: int, done: Done, *, once: bool) -> _Waiter:
        key = (_encoder.encode(query), accessor)
        group = self._groups.get(key)
        if group is None:
            group = self._groups[key] = _Group(query, accessor, key)
            self._hub.add(group.topics, group)
        waiter = _Waiter(group, index, done, once)
        group.waiters[waiter] = None
        self._count += 1
        return waiter

    def _leave(self, waiter: _Waiter) -> None:
        group = waiter.group
        if group.waiters.pop(waiter, _GONE) is _GONE:
            return
        self._count -= 1
        if waiter.cancel_timer is not None:
            waiter.cancel_timer()
        if not group.waiters:
            self._hub.remove(group)
            del self._groups[group.key]

    # -- evaluating --------------------------------------------------------------------------------

    def _look(self, query: Query, accessor: str) -> Answer | GemotError:
        """The state's answer or its refusal. A state that cannot be read is raised: the node stops."""
        try:
            value, index = self._state.read(query, accessor)
        except StorageFailed:
            raise
        except GemotError as error:
            return error
        return Answer(value, index, self._contact.knows_leader(), self._contact.last_contact_ms())

    def _evaluate(self, group: _Group, only: _Waiter | None = None) -> None:
        """Read once for the whole group; whoever's index is passed is due an answer."""
        answer = self._look(group.query, group.accessor)
        idle = not self._due
        for waiter in [only] if only is not None else list(group.waiters):
            if isinstance(answer, GemotError):
                self._leave(waiter)
            elif answer.index > waiter.index:
                waiter.index = answer.index
                if waiter.once:
                    self._leave(waiter)
            else:
                continue
            self._due.append((waiter, answer))
        if idle and self._due:
            self._tell_slice()

    def _tell_slice(self) -> None:
        now, self._due = self._due[:WAKE_SLICE], self._due[WAKE_SLICE:]
        if self._due:
            self._timer.call_soon(self._tell_slice)
        for waiter, answer in now:
            if not waiter.cancelled:
                waiter.done(answer)


_GONE: Any = object()
_encoder = msgspec.msgpack.Encoder()  # queries with dicts inside have no hash; equal bytes mean equal queries


def _nothing() -> None:
    """Cancels a read that has been answered."""


def _too_many() -> Busy:
    return Busy(f"this server has {MAX_WAITERS} blocking reads and subscriptions: no more are taken")
