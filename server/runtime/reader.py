"""The `Reader` port over a thread: long lists, each on a connection of its own."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable

from gemot.server.model.errors import GemotError, StorageFailed
from gemot.server.model.query import Query
from gemot.server.runtime.disk import Tell, Worker
from gemot.server.runtime.timer import LoopTimer
from gemot.server.state.store import Found, State
from gemot.server.storage.statefile import StateFile


class ReaderThread:
    """Not the worker of snapshots and checkpoints: who asks for a list does not wait for a copy to end.

    A connection lives for one read: opening it costs less than a tenth of reading a thousand rows, and
    none is in the way when the state file is replaced or closed.
    """

    def __init__(
        self,
        *,
        loop: asyncio.AbstractEventLoop,
        file: StateFile,
        state: State,
        timer: LoopTimer,
        tell: Tell,
        fatal: Callable[[BaseException], None],
    ) -> None:
        self._file = file
        self._state = state
        self._timer = timer
        self._fatal = fatal
        self._worker = Worker(loop=loop, tell=tell, fatal=fatal, name="gemot-reader")

    def start(self) -> None:
        self._worker.start()

    def stop(self) -> None:
        """End the thread, after the read under way. Blocks until it has."""
        self._worker.stop()

    def submit(self, query: Query, accessor: str, done: Callable[[Found | GemotError], None]) -> None:
        def work() -> Callable[[], None]:
            found = self._read(query, accessor, from_index)
            return lambda: done(found)

        # What was told from the present state must be there for this other connection too.
        try:
            self._state.settle()
        except StorageFailed as error:
            # It was undone, and this may be a caller's own call that no guard watches: the node must stop.
            self._fatal(error)
            raise
        from_index = self._state.applied_index
        self._worker.submit(work)

    def _read(self, query: Query, accessor: str, from_index: int) -> Found | GemotError:
        with contextlib.closing(self._file.reader()) as connection:
            try:
                return self._state.read_on(
                    connection,
                    query,
                    accessor,
                    stopwatch_us=self._timer.stopwatch_us,
                    from_index=from_index,
                )
            except StorageFailed:
                raise
            except GemotError as refusal:
                return refusal
