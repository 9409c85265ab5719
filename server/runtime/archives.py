"""The `Archives` port over threads: packing and unpacking on one of their own, a restore on the worker's.

Whoever saves a snapshot holds up no checkpoint. A restore, which replaces the state, takes its turn with the
snapshots and checkpoints of the worker.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Any

import gemot
from gemot.server.copies import prepare_restored, put_restored
from gemot.server.model.errors import DiskFailed, GemotError, NotFound, Unavailable
from gemot.server.model.restore import Blob
from gemot.server.ports import Inbox
from gemot.server.raft.types import SnapshotMeta
from gemot.server.runtime.disk import Tell, Worker
from gemot.server.state.restore import Placement
from gemot.server.state.store import State
from gemot.server.storage.blobs import BlobReceiver, Blobs, Export
from gemot.server.storage.snapshot import Snapshots
from gemot.server.storage.statefile import StateFile

log = logging.getLogger("gemot.server")


class ArchiveThread:
    """`worker` does what must not run beside snapshots and checkpoints."""

    def __init__(
        self,
        *,
        loop: asyncio.AbstractEventLoop,
        blobs: Blobs,
        file: StateFile,
        state: State,
        snapshots: Snapshots,
        vfs: str,
        worker: Worker,
        tell: Tell,
        fatal: Callable[[BaseException], None],
    ) -> None:
        self._blobs = blobs
        self._file = file
        self._state = state
        self._snapshots = snapshots
        self._vfs = vfs
        self._worker = worker
        self._own = Worker(loop=loop, tell=tell, fatal=fatal, name="gemot-archive")

    def start(self) -> None:
        self._own.start()

    def stop(self) -> None:
        """End the thread, after what is under way. Blocks until it has."""
        self._own.stop()

    # -- out ---------------------------------------------------------------------------------------

    def export(
        self, id: int, voters: tuple[str, ...], cluster: str, done: Callable[[Export | GemotError], None]
    ) -> None:
        self._state.settle()
        self._submit(lambda: self._blobs.export(self._file, id, voters, cluster, gemot.__version__), done)

    def read_export(self, id: int, offset: int) -> bytes:
        return self._blobs.read_export(id, offset)

    def drop_export(self, id: int) -> None:
        self._submit(lambda: self._blobs.drop_export(id), _told)

    # -- in ----------------------------------------------------------------------------------------

    def take_in(self, id: int, data: bytes, done: Callable[[GemotError | None], None]) -> None:
        self._submit(lambda: self._blobs.take_in(id, data), done)

    def finish(self, id: int, done: Callable[[Blob | GemotError], None]) -> None:
        self._submit(lambda: self._blobs.finish(id), done)

    def abandon(self, id: int) -> None:
        self._submit(lambda: self._blobs.abandon(id), _told)

    def blobs(self) -> tuple[Blob, ...]:
        return self._blobs.all()

    def read_blob(self, sha256: str, offset: int) -> bytes:
        return self._blobs.read(sha256, offset)

    def blob_inbox(self, blob: Blob) -> Inbox:
        return _Inbox(self._blobs.receive(blob), self._submit)

    def forget(self, sha256: str) -> None:
        self._submit(lambda: self._blobs.forget(sha256), _told)

    # -- in place of the state ---------------------------------------------------------------------

    def prepare(
        self,
        sha256: str,
        place: Placement,
        voters: tuple[str, ...],
        done: Callable[[SnapshotMeta | GemotError], None],
    ) -> None:
        def work() -> Callable[[], None]:
            try:
                meta = prepare_restored(
                    self._file, self._snapshots, self._blobs, self._vfs, sha256, place, voters
                )
            except NotFound as error:
                self._blobs.forget(sha256)
                refused = error
                return lambda: done(refused)
            return lambda: done(meta)

        self._worker.submit(work)

    def replace(self, meta: SnapshotMeta, done: Callable[[], None]) -> None:
        def work() -> Callable[[], None]:
            put_restored(self._file, self._snapshots, meta)
            return replaced

        def replaced() -> None:
            self._state.reload()
            done()

        self._worker.submit(work)

    def _submit(self, do: Callable[[], Any], done: Callable[[Any], None]) -> None:
        def work() -> Callable[[], None]:
            try:
                result = do()
            except DiskFailed as error:
                # Neither log nor state: who asked is told, and this server goes on.
                log.error("server: snapshot failed: event=snapshot-disk-failed error=%s", error)
                failed = Unavailable(error.message)
                return lambda: done(failed)
            except GemotError as error:
                refused = error
                return lambda: done(refused)
            return lambda: done(result)

        self._own.submit(work)


class _Inbox:
    """A blob of another server, written and verified by the thread."""

    def __init__(
        self, receiver: BlobReceiver, submit: Callable[[Callable[[], Any], Callable[[Any], None]], None]
    ) -> None:
        self._receiver = receiver
        self._submit = submit
        self.write = receiver.write

    def finish(self, done: Callable[[GemotError | None], None]) -> None:
        self._submit(self._receiver.finish, done)


def _told(_result: object) -> None:
    """Nobody waits for it."""
