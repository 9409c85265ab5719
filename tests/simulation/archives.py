"""The `Archives` port of one simulated server: saved snapshots and the blobs of restores, in virtual time.

What takes a thread some time is two events, as in `upkeep.py`: the work at a moment of its own, its answer
later. A disk that fails is told to who asked, but for what changes the state (`server/runtime/archives.py`).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from simulation.upkeep import SimulatedUpkeep

from gemot.server.copies import prepare_restored, put_restored
from gemot.server.model.errors import DiskFailed, GemotError, NotFound, Unavailable
from gemot.server.model.restore import Blob
from gemot.server.ports import Inbox
from gemot.server.raft.types import SnapshotMeta
from gemot.server.recovery import Opened
from gemot.server.state.restore import Placement
from gemot.server.storage.blobs import BlobReceiver, Blobs, Export
from gemot.server.storage.sqlite import CHECKSUM_VFS

if TYPE_CHECKING:
    from simulation.node import Node

ARCHIVE_US = 60_000


class SimulatedArchives:
    def __init__(self, node: Node, opened: Opened, upkeep: SimulatedUpkeep) -> None:
        self._node = node
        self._opened = opened
        self._upkeep = upkeep
        self._blobs = Blobs.open(node.lossy, str(node.directory), CHECKSUM_VFS)

    # -- out ---------------------------------------------------------------------------------------

    def export(
        self, id: int, voters: tuple[str, ...], cluster: str, done: Callable[[Export | GemotError], None]
    ) -> None:
        opened = self._opened
        opened.state.settle()
        self._do("export", lambda: self._blobs.export(opened.file, id, voters, cluster, "sim"), done)

    def read_export(self, id: int, offset: int) -> bytes:
        return self._blobs.read_export(id, offset)

    def drop_export(self, id: int) -> None:
        self._do("drop export", lambda: self._blobs.drop_export(id), _told)

    # -- in ----------------------------------------------------------------------------------------

    def take_in(self, id: int, data: bytes, done: Callable[[GemotError | None], None]) -> None:
        self._do("take in", lambda: self._blobs.take_in(id, data), done)

    def finish(self, id: int, done: Callable[[Blob | GemotError], None]) -> None:
        self._do("finish", lambda: self._blobs.finish(id), done)

    def abandon(self, id: int) -> None:
        self._do("abandon", lambda: self._blobs.abandon(id), _told)

    def blobs(self) -> tuple[Blob, ...]:
        return self._blobs.all()

    def read_blob(self, sha256: str, offset: int) -> bytes:
        return self._blobs.read(sha256, offset)

    def blob_inbox(self, blob: Blob) -> Inbox:
        return _Inbox(self._blobs.receive(blob), self._do)

    def forget(self, sha256: str) -> None:
        self._do("forget", lambda: self._blobs.forget(sha256), _told)

    # -- in place of the state ---------------------------------------------------------------------

    def prepare(
        self,
        sha256: str,
        place: Placement,
        voters: tuple[str, ...],
        done: Callable[[SnapshotMeta | GemotError], None],
    ) -> None:
        opened, node = self._opened, self._node
        (blob,) = [blob for blob in self._blobs.all() if blob.sha256 == sha256]
        node.told_restore(node, place, blob)

        def prepare() -> None:
            result: SnapshotMeta | GemotError
            try:
                result = prepare_restored(
                    opened.file, opened.snapshots, self._blobs, CHECKSUM_VFS, sha256, place, voters
                )
            except NotFound as error:
                self._blobs.forget(sha256)
                result = error
            self._upkeep.work("prepared", lambda: done(result), us=ARCHIVE_US)

        self._upkeep.work("prepare", prepare, "restore", ARCHIVE_US)

    def replace(self, meta: SnapshotMeta, done: Callable[[], None]) -> None:
        opened, node = self._opened, self._node
        node.replacing = True

        def replace() -> None:
            put_restored(opened.file, opened.snapshots, meta)
            self._upkeep.work("restored", restored, us=ARCHIVE_US)

        def restored() -> None:
            node.replacing = False
            node.restores += 1
            opened.state.reload()
            done()

        self._upkeep.work("put restored", replace, "restore", ARCHIVE_US)

    def _do(self, label: str, do: Callable[[], Any], done: Callable[[Any], None], stage: str = "") -> None:
        def work() -> None:
            try:
                result = do()
            except DiskFailed as error:
                result = Unavailable(error.message)
            except GemotError as error:
                result = error
            self._upkeep.work(label, lambda: done(result), us=ARCHIVE_US)

        self._upkeep.work(label, work, stage, ARCHIVE_US)


class _Inbox:
    """A blob of another server, verified somewhat later."""

    def __init__(self, receiver: BlobReceiver, do: Callable[..., None]) -> None:
        self._receiver = receiver
        self._do = do
        self.write = receiver.write

    def finish(self, done: Callable[[GemotError | None], None]) -> None:
        self._do("stage", self._receiver.finish, done, "stage")


def _told(_result: object) -> None:
    """Nobody waits for it."""
