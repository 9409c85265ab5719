"""One server's state on a real file, fed with commands as if they had been agreed on."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from gemot.server.machine import Machine, Outcome
from gemot.server.model.command import (
    ENVELOPE_VERSION,
    Command,
    Envelope,
    IdempotencyKey,
    RetryId,
    encode,
)
from gemot.server.model.query import Applied, Query
from gemot.server.raft.types import Entry, EntryKind
from gemot.server.state.permission import ALLOW_ALL, Authorizer
from gemot.server.state.store import Found, State
from gemot.server.storage.statefile import StateFile


class OneState:
    """`index` is the last one given out; the file is never synced."""

    def __init__(self, folder: Path, *, authorizer: Authorizer = ALLOW_ALL, name: str = "state.db") -> None:
        self._authorizer = authorizer
        self.path = folder / name
        self.time_ms = 0
        self.at_ms = 0
        self.open()

    def open(self) -> None:
        self.file = StateFile(self.path, sync=False, cache_bytes=1 << 20)
        self.state = State(file=self.file, authorizer=self._authorizer)
        self.machine = Machine(state=self.state, authorizer=self._authorizer)
        self.index = self.state.applied_index

    def reopen(self) -> None:
        self.file.close()
        self.open()

    def close(self) -> None:
        self.file.close()

    def entry(
        self, command: Command, *, name: RetryId | IdempotencyKey | None = None, accessor: str = ""
    ) -> Entry:
        """The next entry of the log."""
        self.index += 1
        envelope = Envelope(ENVELOPE_VERSION, self.time_ms, accessor, name, command, self.at_ms)
        return Entry(1, self.index, EntryKind.COMMAND, encode(envelope))

    def skip(self, count: int = 1) -> None:
        """Entries that do nothing: the index moves on."""
        entries = [Entry(1, self.index + n, EntryKind.NOOP, b"") for n in range(1, count + 1)]
        self.index += count
        self.machine.apply(entries)

    def apply(self, *commands: Command) -> list[Outcome]:
        """All in one batch."""
        return self.machine.apply([self.entry(command) for command in commands])

    def result(
        self, command: Command, *, name: RetryId | IdempotencyKey | None = None, accessor: str = ""
    ) -> Any:
        """What one command in a batch of its own was answered: its value, or the error."""
        (outcome,) = self.machine.apply([self.entry(command, name=name, accessor=accessor)])
        return outcome.result.value if isinstance(outcome.result, Applied) else outcome.result

    def touched(self, command: Command) -> Sequence[tuple[str, bytes]]:
        return self.apply(command)[0].touched

    def read(self, query: Query, accessor: str = "") -> tuple[Any, int]:
        return self.state.read(query, accessor)

    def value(self, query: Query) -> Any:
        return self.state.read(query, "")[0]

    def read_elsewhere(
        self, query: Query, accessor: str = "", *, stopwatch_us: Callable[[], int] = lambda: 0
    ) -> Found:
        """As a worker reads: on a connection of its own."""
        with contextlib.closing(self.file.reader()) as connection:
            return self.state.read_on(connection, query, accessor, stopwatch_us=stopwatch_us)

    def at(self, query: Query) -> int:
        """The index that a read answers."""
        return self.state.read(query, "")[1]
