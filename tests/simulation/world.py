"""Virtual time: one heap of events, one seed, one hash of everything that happened.

Nothing in a simulation reads a clock or draws a number elsewhere, so the same seed gives the same run to
the last event, and its hash says so.
"""

from __future__ import annotations

import hashlib
import heapq
from collections.abc import Callable
from random import Random


class World:
    """Time in microseconds. After every event the invariants are looked at."""

    def __init__(self, seed: int) -> None:
        self.random = Random(seed)
        self.now_us = 0
        self.events = 0
        self._heap: list[tuple[int, int, str, Callable[[], None]]] = []
        self._next = 0
        self._hash = hashlib.blake2b(digest_size=16)
        self._soon: list[Callable[[], None]] = []
        self.after_event: Callable[[], None] = lambda: None
        self.trace: Callable[[str], None] | None = None

    def at(self, delay_us: int, label: str, action: Callable[[], None]) -> Callable[[], None]:
        """Do `action` after the delay; returns what calls it off."""
        alive = True

        def call_off() -> None:
            nonlocal alive
            alive = False

        self._next += 1
        item = (self.now_us + max(0, delay_us), self._next, label, lambda: action() if alive else None)
        heapq.heappush(self._heap, item)
        return call_off

    def soon(self, action: Callable[[], None]) -> None:
        """Do `action` at the end of the event at hand."""
        self._soon.append(action)

    def run(self, until_us: int) -> None:
        while self._heap and self._heap[0][0] <= until_us:
            self.now_us, _, label, action = heapq.heappop(self._heap)
            self.events += 1
            self._hash.update(f"{self.now_us} {label}\n".encode())
            if self.trace is not None:
                self.trace(f"{self.now_us / 1e6:10.6f} {label}")
            action()
            self._drain()
            self.after_event()
        self.now_us = until_us

    def note(self, text: str) -> None:
        """Put a fact into the hash: runs that differ in it are different runs."""
        self._hash.update(text.encode())

    def digest(self) -> str:
        return self._hash.hexdigest()

    def _drain(self) -> None:
        while self._soon:
            soon, self._soon = self._soon, []
            for action in soon:
                action()
