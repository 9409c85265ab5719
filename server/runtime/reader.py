"""The `Reader` port over a thread: long lists, each on a connection of its own."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable

import apsw

from gemot.server.model.errors import Busy, GemotError, StorageFailed
from gemot.server.model.query import Query
from gemot.server.runtime.disk import Tell, Worker
from gemot.server.runtime.timer import LoopTimer
from gemot.server.state.store import Found, State
from gemot.server.storage.statefile import StateFile

OLD_US = 1_000_000
"""How long a read goes on in any case. Those of keys let go of the log as often by themselves."""


class ReaderThread:
    """Not the worker of snapshots and checkpoints: who asks for a list does not wait for a copy to end.

    A connection lives for one read: opening it costs less than a tenth of reading a thousand rows, and
    none is in the way when the state file is replaced or closed. Once the state's write-ahead log has passed
    its limit, a read that is in the way of it and old is broken off, and its asker told to ask again.
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
        self._lock = threading.Lock()
        self._under_way: tuple[apsw.Connection, int] | None = None
        self.broken_off = 0
        file.held_up = self.break_off

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

    def break_off(self) -> None:
        """End the read under way if it is old. Called on the loop."""
        with self._lock:
            if self._under_way is not None and self._timer.stopwatch_us() - self._under_way[1] >= OLD_US:
                self._under_way[0].interrupt()

    def _read(self, query: Query, accessor: str, from_index: int) -> Found | GemotError:
        with contextlib.closing(self._file.reader()) as connection:
            with self._lock:
                self._under_way = connection, self._timer.stopwatch_us()
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
            except apsw.InterruptError:
                self.broken_off += 1
                return Busy(_BROKEN_OFF)
            finally:
                # Before it is closed: what is closed cannot be interrupted.
                with self._lock:
                    self._under_way = None


_BROKEN_OFF = (
    "this list was read for so long that the state's write-ahead log passed its limit: ask again, or for less"
)
