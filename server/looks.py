"""Looks at the state that are owed: a few milliseconds of them now, the rest in later turns of the loop.

What it is: the queue before what `reads.py` has to look at, of which one moment may bring hundreds that have
nothing in common: they wait for what one write touches, one answer of the leader confirms them, or they time
out together. What it is not: it reads nothing, and answers no one.

A look may take ten milliseconds, so many in one go would hold up heartbeats, and cost the leader its place.
Where a slice ends has no part in what is told: a look sees the state of its own moment, so whoever is due one
is due no second one for what is written before it.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterable
from typing import Generic, TypeVar

from gemot.server.ports import Timer

SLICE_US = 2_000
"""No look is begun in a turn of the loop that has spent so long on them."""

L = TypeVar("L", bound=Hashable)


class Looks(Generic[L]):
    """`look` is called once for each that is due, in the order they became so."""

    def __init__(self, *, timer: Timer, look: Callable[[L], None]) -> None:
        self._timer = timer
        self._look = look
        # Taken from the front, which costs a plain dict all that was taken before.
        self._due: OrderedDict[L, None] = OrderedDict()
        self._held = False
        self._scheduled = False

    def __contains__(self, looker: L) -> bool:
        """Is it due a look?"""
        return looker in self._due

    def __len__(self) -> int:
        return len(self._due)

    def add(self, lookers: Iterable[L]) -> None:
        """All these are due. If nobody was, the first of them have had their look when this returns."""
        idle = not self._due
        self._due.update(dict.fromkeys(lookers))
        if idle:
            self._slice()

    def add_later(self, looker: L) -> None:
        """This one is due in the next turn of the loop, with all that come one by one in this one."""
        self._due[looker] = None
        self._schedule()

    def forget(self, looker: L) -> None:
        self._due.pop(looker, None)

    def hold(self) -> None:
        """Call `look` no more until `resume`. Who becomes due meanwhile stays so."""
        self._held = True

    def resume(self) -> None:
        self._held = False
        self._slice()

    def _slice(self) -> None:
        """One alone is not timed: that is what most writes bring."""
        ends_us = self._timer.stopwatch_us() + SLICE_US if len(self._due) > 1 else 0
        while self._due and not self._held:
            looker, _ = self._due.popitem(last=False)
            self._look(looker)
            if self._due and self._timer.stopwatch_us() >= ends_us:
                self._schedule()
                return

    def _schedule(self) -> None:
        if not self._scheduled:
            self._scheduled = True
            self._timer.call_soon(self._go_on)

    def _go_on(self) -> None:
        self._scheduled = False
        self._slice()
