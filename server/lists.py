"""Long lists, in turn: which of them is read next, and which waiters that read may answer.

What it is: the queue before the port `Reader`, of askers (`reads.py` has one for each query) that found
their list too long for the loop. What it is not: it reads nothing, and answers no one.

One list is read at a time, so that there is never more than one huge answer in the making, and askers come
in turn, so that one that changes all the time does not hold up the others. Reads of one asker follow each
other: what it finds never goes back. A read answers whoever waited before it began, no one else: an
asker's `began` counts its reads, a waiter keeps the number of the first that may answer it.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Generic, Protocol, TypeVar

from gemot.server.model.errors import GemotError
from gemot.server.model.query import Query
from gemot.server.ports import Reader
from gemot.server.state.store import Found


class Asker(Hashable, Protocol):
    """One query of one accessor. `began` counts the reads that were begun for it."""

    query: Query
    accessor: str
    began: int


A = TypeVar("A", bound=Asker)


class LongLists(Generic[A]):
    """`begins` is told before each read, `found` after it."""

    def __init__(
        self, *, reader: Reader, begins: Callable[[A], None], found: Callable[[A, Found | GemotError], None]
    ) -> None:
        self._reader = reader
        self._begins = begins
        self._found = found
        self._due: dict[A, None] = {}
        self._out: A | None = None
        self._held = False

    @property
    def reading(self) -> bool:
        """Is a read under way?"""
        return self._out is not None

    def owes(self, asker: A) -> bool:
        """Will this asker be told something of what it asked already?"""
        return asker is self._out or asker in self._due

    def is_out(self, asker: A) -> bool:
        return asker is self._out

    def ask(self, asker: A) -> None:
        """Read for it, after all who asked before; a read that has begun for it already does not count."""
        self._due[asker] = None
        self._next()

    def forget(self, asker: A) -> None:
        """Nobody waits there any more. A read under way goes on, and its end is told."""
        self._due.pop(asker, None)

    def hold(self) -> None:
        """Begin no read until `resume`."""
        self._held = True

    def resume(self) -> None:
        self._held = False
        self._next()

    def _next(self) -> None:
        if self._out is not None or self._held or not self._due:
            return
        asker = next(iter(self._due))
        del self._due[asker]
        self._out = asker
        asker.began += 1
        self._begins(asker)
        self._reader.submit(asker.query, asker.accessor, lambda found: self._came(asker, found))

    def _came(self, asker: A, found: Found | GemotError) -> None:
        assert asker is self._out, "one read at a time"
        self._out = None
        self._found(asker, found)
        self._next()
