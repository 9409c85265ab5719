"""What the replica needs of the world, as Protocols.

`runtime.py` supplies the real ones; the simulator supplies its own. All calls return at once; what takes
time answers later by an event handler of the replica, on the same thread.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from gemot.server.model.query import Query
from gemot.server.raft.types import Batch, Entry, HardState, Message, SnapshotMeta


class Log(Protocol):
    """The durable log and vote. Saves finish in the order they were asked."""

    def save(self, hard_state: HardState | None, append: Batch | None, token: int) -> None:
        """Make both durable, then call the replica's `on_saved(token)`. Never fails: it stops the node."""

    def term(self, index: int) -> int | None:
        """The term of an entry still held (or of the snapshot just before the first one), else None."""

    def read(self, first: int, last: int, max_bytes: int) -> tuple[Entry, ...]:
        """Entries first..last, fewer when they pass `max_bytes` (at least one). Saved or being saved."""

    def compact(self, through: int) -> None:
        """Forget entries up to `through`, as far as whole segments allow; asked again later, it goes on."""

    def reset(self, meta: SnapshotMeta, token: int) -> None:
        """Forget every entry: the snapshot `meta` replaces them. Durable, then `on_saved(token)`."""


class Wire(Protocol):
    """Messages to other servers: they may be lost, doubled, late; never altered."""

    def send(self, to: str, message: Message) -> None: ...


class Timer(Protocol):
    def call_after(self, delay_ms: int, callback: Callable[[], None]) -> Callable[[], None]:
        """Run `callback` once after the delay; returns what cancels it."""

    def call_soon(self, callback: Callable[[], None]) -> None:
        """Run `callback` after the event at hand."""

    def now_ms(self) -> int:
        """Boot-time clock of this host in milliseconds: never goes back, counts suspended time."""


class Random(Protocol):
    def random(self) -> float: ...

    def randrange(self, stop: int) -> int: ...

    def randbytes(self, n: int) -> bytes: ...


class Reader(Protocol):
    """Long reads, away from the loop."""

    def submit(self, query: Query, done: Callable[[Any, int], None]) -> None:
        """Evaluate on a connection of its own; `done(value, index)` comes back on the loop."""
