"""Archives on their way out, and blobs on their way in: the folders `export/` and `restore/`.

A blob is a state file that was checked and is kept until no restore needs it: `<sha256>.state`, and a
manifest `<sha256>.json` without which it does not exist. Everything else there is of no use after a restart,
and is removed. Methods that hash, pack or check take time with the size: they belong in a worker, one at a
time.

Room on the disk is looked at before it is used: running out of it would stop the log, and so this server.
"""

from __future__ import annotations

from pathlib import Path

import msgspec

from gemot.server.model.errors import (
    BadRequest,
    Corrupt,
    DiskFailed,
    GemotError,
    NotFound,
    StorageFailed,
    Unavailable,
)
from gemot.server.model.restore import Blob
from gemot.server.storage.archive import ARCHIVE_FORMAT, Head, Unpacker, as_damaged, as_refused, pack
from gemot.server.storage.disk import Disk, read_whole, write_beside
from gemot.server.storage.snapshot import CHUNK_BYTES, hash_file
from gemot.server.storage.standing import examine
from gemot.server.storage.statefile import StateFile

SPARE_BYTES = 256 << 20
"""Stays free, whatever is saved or restored: the log and the state must have room."""

_MANIFEST_LIMIT = 64 << 10


class Export(msgspec.Struct, frozen=True):
    """An archive that lies ready to be fetched."""

    id: int
    head: Head
    size: int


class Blobs:
    """The folders of one server. Open it with `Blobs.open`."""

    def __init__(self, *, disk: Disk, directory: str, vfs: str, blobs: dict[str, Blob]) -> None:
        self.disk = disk
        self._exports = f"{directory}/export"
        self._folder = f"{directory}/restore"
        self._vfs = vfs
        self._blobs = blobs
        self._coming: dict[int, _Coming] = {}

    @classmethod
    def open(cls, disk: Disk, directory: str, vfs: str) -> Blobs:
        """Read the manifests, remove what is no blob. No file is hashed yet."""
        folder = f"{directory}/restore"
        for each in (f"{directory}/export", folder):
            disk.makedirs(each)
        for name in disk.listdir(f"{directory}/export"):
            disk.remove(f"{directory}/export/{name}")
        names = disk.listdir(folder)
        found = {n[:-5]: _read_blob(disk, f"{folder}/{n}") for n in names if n.endswith(".json")}
        blobs = {name: blob for name, blob in found.items() if blob is not None and blob.sha256 == name}
        for name in names:
            if name.rpartition(".")[0] not in blobs or name.endswith(".tmp"):
                disk.remove(f"{folder}/{name}")
        return cls(disk=disk, directory=directory, vfs=vfs, blobs=blobs)

    # -- out ---------------------------------------------------------------------------------------

    def export(self, file: StateFile, id: int, voters: tuple[str, ...], cluster: str, build: str) -> Export:
        """Copy the state as it was committed last, check the copy, and pack it. Raises GemotError."""
        copy, archive = f"{self._exports}/{id}.state", f"{self._exports}/{id}.gz"
        self._need_room(3 * file.size(), "saved")
        try:
            file.snapshot_to(Path(copy))
            standing = examine(Path(copy), self._vfs)
            size, digest = hash_file(self.disk, copy)
            head = Head(
                format=ARCHIVE_FORMAT,
                index=standing.index,
                term=standing.applied_term,
                epoch=standing.epoch,
                voters=voters,
                cluster=cluster,
                created_by=build,
                size=size,
                sha256=digest,
            )
            return Export(id, head, pack(self.disk, copy, head, archive))
        except BaseException:
            self._remove(archive)
            raise
        finally:
            self._remove(copy)

    def read_export(self, id: int, offset: int) -> bytes:
        """A piece of it, b"" at its end. Raises NotFound."""
        return self._read(f"{self._exports}/{id}.gz", offset, f"the export {id}")

    def drop_export(self, id: int) -> None:
        self._remove(f"{self._exports}/{id}.gz")

    # -- in, as an archive -------------------------------------------------------------------------

    def take_in(self, id: int, data: bytes) -> None:
        """The next bytes of an archive. Raises GemotError, and forgets all of it."""
        coming = self._coming.get(id)
        try:
            if coming is None:
                coming = self._coming[id] = self._begin(id)
            coming.unpacker.feed(data)
        except BaseException:
            self.abandon(id)
            raise

    def finish(self, id: int) -> Blob:
        """All bytes came: check everything there is to check, and keep it, durably. Raises GemotError."""
        coming = self._coming.get(id)
        if coming is None:
            raise NotFound("the snapshot was not received: send it again")
        try:
            head = coming.unpacker.finish()
            coming.file.sync()
            coming.file.close()
            self.disk.sync_dir(self._folder)  # SQLite opens it by its name
            blob = self._examine(coming.path, head)
            self._publish(coming.path, blob)
            return blob
        finally:
            self.abandon(id)

    def abandon(self, id: int) -> None:
        coming = self._coming.pop(id, None)
        if coming is not None:
            coming.file.close()
            self._remove(coming.path)

    def _begin(self, id: int) -> _Coming:
        path = f"{self._folder}/{id}.up.tmp"
        self._remove(path)
        return _Coming(self, self.disk, path)

    def accept(self, head: Head) -> None:
        """Is there room for what this head announces: the blob, the snapshot made of it, the state?"""
        self._need_room(3 * head.size, "restored")

    def _examine(self, path: str, head: Head) -> Blob:
        try:
            standing = examine(Path(path), self._vfs)
        except DiskFailed:
            raise
        except StorageFailed as error:
            raise as_refused(error) from error
        said = (head.index, head.term, head.epoch)
        if (standing.index, standing.applied_term, standing.epoch) != said:
            raise as_damaged(
                f"its head speaks of index {head.index}, term {head.term}, epoch {head.epoch}, "
                f"its state is of {standing.index}, {standing.applied_term}, {standing.epoch}"
            )
        return Blob(head.sha256, head.size, head.index, head.term, head.epoch, head.created_by)

    # -- in, from another server -------------------------------------------------------------------

    def receive(self, blob: Blob) -> BlobReceiver:
        """Begin to fetch a blob that another server has. Raises BadRequest, Unavailable (no room)."""
        if len(blob.sha256) != 64 or not blob.sha256.isalnum() or blob.size <= 0:
            raise BadRequest("what was offered cannot be a blob")
        self._need_room(3 * blob.size, "restored")
        path = f"{self._folder}/{blob.sha256}.recv.tmp"
        self._remove(path)
        return BlobReceiver(blobs=self, disk=self.disk, blob=blob, path=path)

    def adopt(self, path: str, blob: Blob) -> None:
        """Keep what was fetched, if it is what it should be. Raises Corrupt."""
        if hash_file(self.disk, path) != (blob.size, blob.sha256):
            self._remove(path)
            raise Corrupt(f"the snapshot {blob.sha256[:16]} came damaged: it is fetched again")
        self._publish(path, blob)

    # -- what there is -----------------------------------------------------------------------------

    def all(self) -> tuple[Blob, ...]:
        return tuple(self._blobs.values())

    def has(self, sha256: str) -> bool:
        return sha256 in self._blobs

    def path(self, sha256: str) -> str:
        return f"{self._folder}/{sha256}.state"

    def read(self, sha256: str, offset: int) -> bytes:
        """Raises NotFound."""
        if sha256 not in self._blobs:
            raise NotFound(f"this server does not have the snapshot {sha256[:16]}")
        return self._read(self.path(sha256), offset, f"the snapshot {sha256[:16]}")

    def forget(self, sha256: str) -> None:
        """The manifest goes before what it stands for."""
        if self._blobs.pop(sha256, None) is not None:
            self._remove(f"{self._folder}/{sha256}.json")
            self.disk.sync_dir(self._folder)
            self._remove(self.path(sha256))

    # -- inside ------------------------------------------------------------------------------------

    def _publish(self, path: str, blob: Blob) -> None:
        manifest = f"{self._folder}/{blob.sha256}.json"
        self.disk.rename(path, self.path(blob.sha256))
        self.disk.sync_dir(self._folder)
        write_beside(self.disk, manifest, msgspec.json.encode(blob))
        self.disk.rename(f"{manifest}.tmp", manifest)
        self.disk.sync_dir(self._folder)
        self._blobs = {**self._blobs, blob.sha256: blob}

    def _read(self, path: str, offset: int, what: str) -> bytes:
        if not self.disk.exists(path):
            raise NotFound(f"{what} is not there any more: ask for another one")
        file = self.disk.open(path)
        try:
            return file.pread(CHUNK_BYTES, max(0, offset))
        finally:
            file.close()

    def _need_room(self, size: int, what: str) -> None:
        free = self.disk.free_bytes(self._folder)
        if free < size + SPARE_BYTES:
            raise Unavailable(
                f"there is no room for this snapshot to be {what}: {size + SPARE_BYTES} bytes are needed on "
                f"the disk of {self._folder}, {free} are free"
            )

    def _remove(self, path: str) -> None:
        if self.disk.exists(path):
            self.disk.remove(path)


class _Coming:
    """One archive that comes in."""

    __slots__ = ("file", "path", "unpacker")

    def __init__(self, blobs: Blobs, disk: Disk, path: str) -> None:
        self.path = path
        self.file = disk.open(path, create=True)
        self.unpacker = Unpacker(write=self.file.pwrite, accept=blobs.accept)


class BlobReceiver:
    """One blob on its way from another server. Pieces come in order."""

    def __init__(self, *, blobs: Blobs, disk: Disk, blob: Blob, path: str) -> None:
        self._blobs = blobs
        self._path = path
        self._file = disk.open(path, create=True)
        self._reached = 0
        self.blob = blob

    def write(self, offset: int, data: bytes) -> None:
        """Raises Corrupt if it is not the next piece, or more than there is."""
        if offset != self._reached or offset + len(data) > self.blob.size:
            raise Corrupt(f"a piece of the snapshot {self.blob.sha256[:16]} does not fit: fetched again")
        self._file.pwrite(data, offset)
        self._reached += len(data)

    def finish(self) -> GemotError | None:
        """Check and keep it: what is wrong with it, if it could not be kept. Raises DiskFailed."""
        self._file.sync()
        self._file.close()
        try:
            self._blobs.adopt(self._path, self.blob)
        except DiskFailed:
            raise
        except GemotError as error:
            return error
        return None


def _read_blob(disk: Disk, path: str) -> Blob | None:
    """None if it is damaged, or what it stands for is missing or of another size."""
    try:
        blob = msgspec.json.decode(read_whole(disk, path, _MANIFEST_LIMIT), type=Blob)
    except (Corrupt, msgspec.DecodeError):
        return None
    state = f"{path.removesuffix('.json')}.state"
    if not disk.exists(state):
        return None
    file = disk.open(state)
    try:
        return blob if file.size() == blob.size else None
    finally:
        file.close()
