"""The `Archives` port of one simulated life: what the archive thread and the worker do, each at a moment."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from simulation.world import World

import gemot
from gemot.server.copies import prepare_restored, put_restored
from gemot.server.model.errors import GemotError, NotFound
from gemot.server.model.restore import Blob
from gemot.server.ports import Inbox
from gemot.server.raft.types import SnapshotMeta
from gemot.server.recovery import Opened
from gemot.server.state.restore import Placement
from gemot.server.storage.blobs import BlobReceiver, Blobs, Export
from gemot.server.storage.statefile import CHECKSUM_VFS

if TYPE_CHECKING:
    from simulation.node import Node

WORK_US = 60_000


class SimulatedArchives:
    """No disk fails here but by the end of the process, so a failure of it always ends the event."""

    def __init__(self, world: World, node: Node, opened: Opened) -> None:
        self._world = world
        self._node = node
        self._opened = opened
        self._blobs = Blobs.open(node.lossy, str(node.directory), CHECKSUM_VFS)

    # -- out ---------------------------------------------------------------------------------------

    def export(
        self, id: int, voters: tuple[str, ...], cluster: str, done: Callable[[Export | GemotError], None]
    ) -> None:
        opened = self._opened
        opened.state.settle()
        self._do("export", lambda: self._blobs.export(opened.file, id, voters, cluster, _build()), done)

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
        return _Inbox(self, self._blobs.receive(blob))

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
        file, snapshots = self._opened.file, self._opened.snapshots

        def make() -> SnapshotMeta:
            try:
                return prepare_restored(file, snapshots, self._blobs, CHECKSUM_VFS, sha256, place, voters)
            except NotFound:
                self._blobs.forget(sha256)
                raise

        self._do("prepare", make, done)

    def replace(self, meta: SnapshotMeta, done: Callable[[], None]) -> None:
        node = self._node
        node.replacing = True

        def replaced(_result: object) -> None:
            node.replacing = False
            self._opened.state.reload()
            done()

        self._do("replace", lambda: put_restored(self._opened.file, self._opened.snapshots, meta), replaced)

    def _do(self, label: str, do: Callable[[], Any], done: Callable[[Any], None]) -> None:
        def run() -> None:
            try:
                result = do()
            except GemotError as error:
                self._node.lossy.check()
                result = error.with_traceback(None)
            self._later(f"{label} done", lambda: done(result))

        self._later(label, run)

    def _later(self, label: str, action: Callable[[], None]) -> None:
        delay = self._world.random.randrange(WORK_US)
        self._node.later(delay, f"{self._node.name} {label}", action)


class _Inbox:
    def __init__(self, archives: SimulatedArchives, receiver: BlobReceiver) -> None:
        self._archives = archives
        self._receiver = receiver
        self.write = receiver.write

    def finish(self, done: Callable[[GemotError | None], None]) -> None:
        self._archives._do("verify blob", self._receiver.finish, done)


def _build() -> str:
    return gemot.__version__


def _told(_result: object) -> None:
    """Nobody waits for it."""
