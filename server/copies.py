"""Snapshots going out and coming in: the state copied, pieces read for a peer, pieces put together.

Synchronous and without threads; the runtime calls `copy_state`, `keep_copy` and `Incoming.finish` on its
worker, and asks the loop between the first two who voted at the index that was copied.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import msgspec

from gemot.server.model.errors import DiskFailed, GemotError, NotFound
from gemot.server.raft.types import SnapshotMeta
from gemot.server.rpc.message import SnapshotChunk
from gemot.server.state.restore import Placement
from gemot.server.storage.blobs import Blobs
from gemot.server.storage.disk import Disk
from gemot.server.storage.restored import build
from gemot.server.storage.snapshot import CHUNK_BYTES, Manifest, Receiver, Snapshots, hash_file
from gemot.server.storage.standing import examine
from gemot.server.storage.statefile import StateFile


class Incoming:
    """A snapshot that is put together here: what an `Inbox` is made of."""

    def __init__(self, snapshots: Snapshots, meta: SnapshotMeta, first: SnapshotChunk) -> None:
        manifest = Manifest(
            format=first.format,
            index=meta.index,
            term=meta.term,
            voters=meta.voters,
            epoch=first.epoch,
            size=first.size,
            sha256=first.sha256,
            created_by=first.created_by,
        )
        self._receiver: Receiver = snapshots.receive(manifest)

    def write(self, offset: int, data: bytes) -> None:
        self._receiver.write(self._receiver.key, offset, data)

    def finish(self) -> GemotError | None:
        """Make it one of the kept snapshots. Takes as long as reading all of it; raises DiskFailed."""
        try:
            self._receiver.finish()
        except DiskFailed:
            raise
        except GemotError as error:
            return error
        return None


def chunk_of(snapshots: Snapshots, index: int, term: int, offset: int) -> SnapshotChunk:
    """One piece of a kept snapshot. Raises NotFound."""
    meta = next((s for s in snapshots.all() if s.index == index and s.term == term), None)
    if meta is None:
        raise NotFound(f"there is no snapshot of entry {index} of term {term} any more")
    manifest = snapshots.manifest(meta)
    return SnapshotChunk(
        format=manifest.format,
        epoch=manifest.epoch,
        size=manifest.size,
        sha256=manifest.sha256,
        created_by=manifest.created_by,
        offset=offset,
        data=snapshots.read_chunk(meta, offset, CHUNK_BYTES),
    )


_NO_INDEX_YET = SnapshotMeta((1 << 63) - 1, 0, ())
"""Names the file that a copy is written to: no copy can have this index."""


class Copy(msgspec.Struct, frozen=True):
    """A copied state that is no snapshot yet: who voted at its index is still to be asked."""

    index: int
    term: int
    staged: str


def copy_state(file: StateFile, snapshots: Snapshots) -> Copy:
    """Copy the state as it stands now. What index that is, only the copy itself can tell.

    Raises Corrupt for a copy whose rows do not fit their hash. Where a disk lost a write of the state file,
    or put it in a wrong place, each page is whole; the copy would be taken for the truth, here and elsewhere.
    """
    staged = snapshots.stage(_NO_INDEX_YET)
    index, term = file.snapshot_to(Path(staged))
    examine(Path(staged), file.vfs)
    return Copy(index, term, staged)


def keep_copy(
    snapshots: Snapshots, disk: Disk, copy: Copy, voters: tuple[str, ...], epoch: int
) -> SnapshotMeta:
    """Make a copy one of the kept snapshots. `voters` are those at its own index, not at a guess of it."""
    meta = SnapshotMeta(copy.index, copy.term, voters)
    disk.rename(copy.staged, snapshots.stage(meta))
    snapshots.commit(meta, epoch=epoch)
    return meta


def write_snapshot(
    file: StateFile,
    snapshots: Snapshots,
    disk: Disk,
    voters_at: Callable[[int], tuple[str, ...]],
    epoch: int,
) -> SnapshotMeta:
    """Both at once, where one thread does everything."""
    copy = copy_state(file, snapshots)
    return keep_copy(snapshots, disk, copy, voters_at(copy.index), epoch)


def prepare_restored(
    file: StateFile,
    snapshots: Snapshots,
    blobs: Blobs,
    vfs: str,
    sha256: str,
    place: Placement,
    voters: tuple[str, ...],
) -> SnapshotMeta:
    """Make the state as it will be after a restore a kept snapshot of that entry; it is not the state yet.

    Nothing is applied meanwhile; reads may go on. `put_restored` follows. A crash at any step of both leaves
    the old state, which comes to the same entry again, or the new one. Raises NotFound, with nothing done, if
    the blob is damaged.
    """
    if hash_file(blobs.disk, blobs.path(sha256))[1] != sha256:
        raise NotFound(f"the snapshot {sha256[:16]} was damaged on disk: it is fetched again")
    meta = SnapshotMeta(place.applied_index, place.applied_term, voters)
    staged = Path(snapshots.stage(meta))
    build(live=file, blob=Path(blobs.path(sha256)), out=staged, place=place, vfs=vfs)
    file.sync_copy(staged)
    snapshots.commit(meta, epoch=place.epoch)
    return meta


def put_restored(file: StateFile, snapshots: Snapshots, meta: SnapshotMeta) -> None:
    """Put the prepared state in place. Nobody reads or writes it until that is done."""
    file.succeed(Path(snapshots.path(meta)))
