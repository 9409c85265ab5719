"""The one thread that writes and syncs the log and the vote, and the worker that copies the state.

Natural group commit: while a sync runs, saves gather; then all of them are written and synced together.
Any failure here is the end of the node: it is told to `fatal`, never tried again (a sync that failed once
and then "works" has lost what it was asked to keep; USENIX ATC 2020, "Can Applications Recover from fsync
Failures?").
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Callable
from queue import SimpleQueue

from gemot.server.model.errors import DiskFailed
from gemot.server.raft.types import Batch, Entry, HardState, SnapshotMeta
from gemot.server.storage.durable import DurableLog, Save, Step

log = logging.getLogger("gemot.server")

META_TAIL_EVERY_S = 1.0
PREPARE_AGAIN_S = 60.0

Done = Callable[[], None]
Tell = Callable[[Done], None]
"""Runs on the loop what a thread has to tell there, and minds its failure."""


class LogThread:
    """The `Log` and `Identity` ports over a real disk. `on_saved(token)` is called on the loop."""

    def __init__(
        self,
        *,
        loop: asyncio.AbstractEventLoop,
        durable: DurableLog,
        on_saved: Callable[[int], None],
        tell: Tell,
        fatal: Callable[[BaseException], None],
        worker: Worker,
    ) -> None:
        self._loop = loop
        self._durable = durable
        self._log = durable.log
        self._on_saved = on_saved
        self._tell = tell
        self._fatal = fatal
        self._worker = worker
        self._preparing = False
        self._queue: SimpleQueue[Save | Step | None] = SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="gemot-log", daemon=True)
        # What the meta file will hold once the queue is worked off; read on the loop.
        self._cluster = durable.meta.meta.cluster_id
        self._pledge = durable.meta.meta.promised_cluster
        self._meta_written_s = time.monotonic()
        self.sync_s = 0.0
        self.syncs = 0

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Work off the queue, then end the thread. Blocks until it has."""
        self._queue.put(None)
        if self._thread.is_alive():
            self._thread.join()

    # -- Log ---------------------------------------------------------------------------------------

    def save(self, hard_state: HardState | None, append: Batch | None, token: int) -> None:
        self._queue.put(Save(hard_state, append, token))

    def term(self, index: int) -> int | None:
        return self._log.term(index)

    def read(self, first: int, last: int, max_bytes: int) -> tuple[Entry, ...]:
        return self._log.read(first, last, max_bytes)

    def compact(self, base: SnapshotMeta) -> None:
        self._queue.put(Step(lambda: self._durable.compact(base)))

    def reset(self, meta: SnapshotMeta, done: Done) -> None:
        self._queue.put(Step(lambda: self._durable.reset(meta), done))

    def flush(self, done: Done) -> None:
        self._queue.put(Step(_nothing, done))

    # -- Identity ----------------------------------------------------------------------------------

    def cluster(self) -> str:
        return self._cluster

    def adopt(self, cluster: str) -> None:
        self._cluster = cluster
        self._queue.put(Step(lambda: self._durable.write_meta(cluster_id=cluster)))

    def pledge(self) -> bytes:
        return bytes.fromhex(self._pledge)

    def keep_pledge(self, pledge: bytes, done: Done) -> None:
        self._pledge = pledge.hex()
        self._queue.put(Step(lambda: self._durable.write_meta(promised_cluster=pledge.hex()), done))

    def repaired(self) -> None:
        """The log is whole again: it may be believed from now on."""
        self._queue.put(Step(lambda: self._durable.write_meta(repairing=False)))

    # -- the thread --------------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            while self._work_once():
                pass
        except BaseException as error:
            self._loop.call_soon_threadsafe(self._fatal, error)

    def _work_once(self) -> bool:
        items = [self._queue.get()]
        while not self._queue.empty():
            items.append(self._queue.get())
        saves: list[Save] = []
        for item in items:
            if isinstance(item, Save):
                saves.append(item)
                continue
            self._save_all(saves)
            saves = []
            if item is None:
                self._durable.write_meta()
                return False
            item.work()
            if item.done is not None:
                self._loop.call_soon_threadsafe(self._tell, item.done)
        self._save_all(saves)
        return True

    def _save_all(self, saves: list[Save]) -> None:
        """Write every save, sync once, and tell the newest token."""
        if not saves:
            return
        if self._durable.append(saves):
            began = time.monotonic()
            self._durable.sync()
            self.sync_s += time.monotonic() - began
            self.syncs += 1
        voted = self._durable.keep_vote(saves)
        self._loop.call_soon_threadsafe(self._on_saved, saves[-1].token)
        # Nobody waits for the mark of the tail: it comes after the word.
        now = time.monotonic()
        if voted:
            self._meta_written_s = now
        elif now - self._meta_written_s >= META_TAIL_EVERY_S:
            self._durable.write_meta()
            self._meta_written_s = now
        if self._log.wants_spare and not self._preparing:
            self._preparing = True
            self._worker.submit(self._prepare)

    # -- the next segment, on the worker -------------------------------------------------------------

    def _prepare(self) -> Done:
        """Writing 64 MiB of zeros takes long; done beforehand, no write waits for it."""
        try:
            spare = self._log.make_spare()
        except DiskFailed as error:
            # Nothing is lost yet: what is free may still do when the segment is full.
            log.warning("server: the next log segment cannot be prepared: %s", error)
            return self._prepare_later
        self._queue.put(Step(lambda: self._log.keep_spare(spare), self._prepared))
        return _nothing

    def _prepared(self) -> None:
        self._preparing = False

    def _prepare_later(self) -> None:
        self._loop.call_later(PREPARE_AGAIN_S, self._prepared)


class Worker:
    """One thread for long work on files; pieces of work run one after the other."""

    def __init__(
        self,
        *,
        loop: asyncio.AbstractEventLoop,
        tell: Tell,
        fatal: Callable[[BaseException], None],
        name: str = "gemot-worker",
    ) -> None:
        self._loop = loop
        self._tell = tell
        self._fatal = fatal
        self._queue: SimpleQueue[Callable[[], Callable[[], None]] | None] = SimpleQueue()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._queue.put(None)
        if self._thread.is_alive():
            self._thread.join()

    def submit(self, work: Callable[[], Callable[[], None]]) -> None:
        """Run `work` on the thread, and what it returns on the loop."""
        self._queue.put(work)

    def _run(self) -> None:
        while (work := self._queue.get()) is not None:
            try:
                told = work()
            except BaseException as error:
                self._loop.call_soon_threadsafe(self._fatal, error)
                return
            self._loop.call_soon_threadsafe(self._tell, told)


def _nothing() -> None:
    """There is nothing to tell."""
