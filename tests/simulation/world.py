"""Virtual time: one heap of events, one seed, one hash of everything that happened.

Nothing in a simulation reads a clock or draws a number elsewhere, so the same seed gives the same run to
the last event, and its hash says so.

An event may belong to somebody (`Owner`: a server). What belongs to a paused owner waits for it, in order;
what its disk does to it kills it and not the run; and only its invariants need to be looked at afterwards.
"""

from __future__ import annotations

import hashlib
import heapq
from collections.abc import Callable
from random import Random
from typing import Protocol

from support.lossy_disk import Fenced

from gemot.server.model.errors import StorageFailed

Action = Callable[[], None]

_HASHED_TOGETHER = 1_000
"""Events; an update of the hash each would cost as much as an event."""


class Owner(Protocol):
    """Whose event it is."""

    held: list[tuple[str, Action]] | None
    """The events that wait until it goes on; None while it runs."""

    def died(self, error: Exception) -> None:
        """A storage failure left one of its events: the process is over."""


class _Item:
    """One event to come. Compared by time, then by the order of asking."""

    __slots__ = ("action", "at_us", "label", "number", "owner")

    def __init__(self, at_us: int, number: int, label: str, action: Action, owner: Owner | None) -> None:
        self.at_us = at_us
        self.number = number
        self.label = label
        self.action: Action | None = action
        self.owner = owner

    def call_off(self) -> None:
        self.action = self.owner = None


class World:
    """Time in microseconds. After every event the invariants are looked at."""

    def __init__(self, seed: int) -> None:
        self.random = Random(seed)
        self.now_us = 0
        self.events = 0
        self._heap: list[tuple[int, int, _Item]] = []
        self._next = 0
        self._hash = hashlib.blake2b(digest_size=16)
        self._done: list[str] = []
        """What happened, and is not in the hash yet."""

        self._soon: list[tuple[Action, Owner | None]] = []
        self.after_event: Callable[[Owner | None], None] = lambda _: None
        self.trace: Callable[[str], None] | None = None

    def at(self, delay_us: int, label: str, action: Action, owner: Owner | None = None) -> Action:
        """Do `action` after the delay; returns what calls it off."""
        self._next += 1
        at_us = self.now_us + max(0, delay_us)
        item = _Item(at_us, self._next, label, action, owner)
        heapq.heappush(self._heap, (at_us, self._next, item))
        return item.call_off

    def soon(self, action: Action, owner: Owner | None = None) -> None:
        """Do `action` at the end of the event at hand."""
        self._soon.append((action, owner))

    def run(self, until_us: int) -> None:
        heap = self._heap
        while heap and heap[0][0] <= until_us:
            self.now_us, _, item = heapq.heappop(heap)
            action, owner = item.action, item.owner
            if action is None:
                continue
            if owner is not None and owner.held is not None:
                owner.held.append((item.label, action))
            else:
                self._do(item.label, action, owner)
        self.now_us = until_us

    def resume(self, owner: Owner) -> None:
        """Let a paused owner go on: all that waited for it happens now, in order."""
        held, owner.held = owner.held, None
        for label, action in held or []:
            self._do(label, action, owner)

    def note(self, text: str) -> None:
        """Put a fact into the hash: runs that differ in it are different runs."""
        self._done.append(text)

    def tell(self, text: str) -> None:
        """A line of the trace, for people; no part of the hash."""
        if self.trace is not None:
            self.trace(f"{self.now_us / 1e6:11.6f}   {text}")

    def digest(self) -> str:
        self._hash_done()
        return self._hash.hexdigest()

    def _hash_done(self) -> None:
        self._hash.update("".join(self._done).encode())
        self._done.clear()

    def forget(self) -> None:
        """The run is over: let go of every closure, so that nothing waits for the cycle collector."""
        self._heap.clear()
        self._soon.clear()
        self.after_event = lambda _: None

    def _do(self, label: str, action: Action, owner: Owner | None) -> None:
        self.events += 1
        self._done.append(f"{self.now_us} {label}\n")
        if len(self._done) >= _HASHED_TOGETHER:
            self._hash_done()
        if self.trace is not None:
            self.trace(f"{self.now_us / 1e6:11.6f} {label}")
        self._guarded(action, owner)
        while self._soon:
            soon, self._soon = self._soon, []
            for each, whose in soon:
                self._guarded(each, whose)
        self.after_event(owner)

    def _guarded(self, action: Action, owner: Owner | None) -> None:
        if owner is None:
            action()
            return
        try:
            action()
        except (StorageFailed, Fenced) as error:
            owner.died(error)
