"""Snapshot files: a state file of one index, with a manifest that says what it must be.

`snap/<index>.snap` is the copy, `snap/<index>.json` its manifest (format, index, term, voters, epoch, size,
SHA-256). A snapshot exists once its manifest does: the copy is synced and renamed before. The newest two
that were verified are kept, so that one bad file is never the only one.

Methods that hash or copy take time with the size of the state: they belong in a worker, one at a time.
"""

from __future__ import annotations

import re
from hashlib import sha256

import msgspec

import gemot
from gemot.server.model.errors import Corrupt, NotFound
from gemot.server.raft.types import SnapshotMeta
from gemot.server.storage.disk import Disk, read_whole, write_beside
from gemot.server.storage.format import SNAPSHOT_FORMAT, check_format

CHUNK_BYTES = 1 << 20
"""The most that is read or hashed at a time."""

MAX_SNAPSHOT_BYTES = 64 << 30
_MANIFEST_LIMIT = 64 << 10
_NAME = re.compile(r"(\d{20})\.json")
_KEPT = 2


class Manifest(msgspec.Struct, frozen=True):
    """What a snapshot must be. `check` is for the file alone: the SHA-256 of the rest."""

    format: int
    index: int
    term: int
    voters: tuple[str, ...]
    epoch: int
    size: int
    sha256: str
    created_by: str
    check: str = ""

    @property
    def meta(self) -> SnapshotMeta:
        return SnapshotMeta(self.index, self.term, self.voters)


class _OnlyFormat(msgspec.Struct, frozen=True):
    """As much of a manifest as any release can read."""

    format: int


class Snapshots:
    """The snapshots of one server. Open it with `Snapshots.open`."""

    def __init__(self, *, disk: Disk, directory: str, manifests: dict[int, Manifest]) -> None:
        self._disk = disk
        self._directory = directory
        self._manifests = manifests
        self._verified: frozenset[int] = frozenset()

    @classmethod
    def open(cls, disk: Disk, directory: str) -> Snapshots:
        """Read the manifests and remove what was never finished. No file is hashed yet.

        A snapshot whose manifest is damaged, or whose copy is missing or of another size, is left out.
        Raises NewerFormat.
        """
        disk.makedirs(directory)
        names = disk.listdir(directory)
        for name in names:
            if name.endswith(".tmp"):
                disk.remove(f"{directory}/{name}")
        disk.sync_dir(directory)
        read = {i: _read_manifest(disk, f"{directory}/{i:020d}.json", i) for i in _indexes(names)}
        good = {index: manifest for index, manifest in read.items() if manifest is not None}
        for name in names:
            if name.endswith(".snap") and f"{name[:-5]}.json" not in names:
                disk.remove(f"{directory}/{name}")
        return cls(disk=disk, directory=directory, manifests=good)

    # -- what there is -----------------------------------------------------------------------------

    def newest(self) -> SnapshotMeta | None:
        return max((m.meta for m in self._manifests.values()), key=lambda meta: meta.index, default=None)

    def all(self) -> tuple[SnapshotMeta, ...]:
        """Every snapshot, oldest first. The log may be compacted up to the first of two."""
        return tuple(self._manifests[index].meta for index in sorted(self._manifests))

    def path(self, meta: SnapshotMeta) -> str:
        return self._file(meta.index, "snap")

    def manifest(self, meta: SnapshotMeta) -> Manifest:
        manifest = self._manifests.get(meta.index)
        if manifest is None or manifest.term != meta.term:
            raise NotFound(f"there is no snapshot of entry {meta.index} of term {meta.term} any more")
        return manifest

    def verify(self, meta: SnapshotMeta) -> bool:
        """Read the whole copy: is it what its manifest says?"""
        manifest = self.manifest(meta)
        good = hash_file(self._disk, self.path(meta)) == (manifest.size, manifest.sha256)
        self._verified = self._verified | {meta.index} if good else self._verified - {meta.index}
        return good

    def distrust(self, meta: SnapshotMeta) -> None:
        """It was found damaged: it is of no use beside a good one, and goes when the next is made."""
        self._verified = self._verified - {meta.index}

    def read_chunk(self, meta: SnapshotMeta, offset: int, n: int) -> bytes:
        """Up to `n` bytes (at most CHUNK_BYTES) from `offset`; b"" at the end. Raises NotFound if pruned."""
        self.manifest(meta)
        file = self._disk.open(self.path(meta))
        try:
            return file.pread(max(0, min(n, CHUNK_BYTES)), max(0, offset))
        finally:
            file.close()

    # -- making one --------------------------------------------------------------------------------

    def stage(self, meta: SnapshotMeta) -> str:
        """The path to write the copy to (SQLite's VACUUM INTO); nothing is there."""
        return self._staging(meta, "stage")

    def commit(self, meta: SnapshotMeta, *, epoch: int) -> Manifest:
        """Make the staged copy a snapshot, durably, and drop those that are not needed any more."""
        staged = f"{self.path(meta)}.stage.tmp"
        self._sync(staged)
        size, digest = hash_file(self._disk, staged)
        manifest = Manifest(
            SNAPSHOT_FORMAT, meta.index, meta.term, meta.voters, epoch, size, digest, gemot.__version__
        )  # fmt: skip
        self._publish(staged, manifest)
        return manifest

    def receive(self, manifest: Manifest) -> Receiver:
        """Begin to take in a snapshot of a peer, in place of any other that was not finished.

        Raises NewerFormat, Corrupt (it cannot be).
        """
        check_format("the snapshot that was offered", manifest.format, SNAPSHOT_FORMAT)
        if not 0 < manifest.size <= MAX_SNAPSHOT_BYTES or manifest.index <= 0:
            raise Corrupt(
                f"a snapshot of {manifest.size} bytes was offered, at most {MAX_SNAPSHOT_BYTES} are taken"
            )
        for name in self._disk.listdir(self._directory):
            if name.endswith(".recv.tmp"):  # one comes in at a time: what an earlier try left is of no use
                self._disk.remove(f"{self._directory}/{name}")
        return Receiver(
            snapshots=self, disk=self._disk, manifest=manifest, path=self._staging(manifest.meta, "recv")
        )

    def _staging(self, meta: SnapshotMeta, purpose: str) -> str:
        path = f"{self.path(meta)}.{purpose}.tmp"
        if self._disk.exists(path):
            self._disk.remove(path)
        return path

    def _sync(self, path: str) -> None:
        file = self._disk.open(path)
        try:
            file.sync()
        finally:
            file.close()

    def adopt(self, path: str, manifest: Manifest) -> None:
        """Make a received copy a snapshot. Raises Corrupt, and removes it, if it is not what it should be."""
        self._sync(path)
        found = hash_file(self._disk, path)
        if found != (manifest.size, manifest.sha256):
            self._disk.remove(path)
            raise Corrupt(
                f"the snapshot of entry {manifest.index} came damaged: {found[0]} bytes of {manifest.size}, "
                f"SHA-256 {found[1][:16]} instead of {manifest.sha256[:16]}; fetch it again"
            )
        self._publish(path, manifest)

    def _publish(self, staged: str, manifest: Manifest) -> None:
        meta = manifest.meta
        path = self.path(meta)
        stem = path.removesuffix(".snap")
        if meta.index in self._manifests:
            # The pair is replaced as a pair: without its manifest the old copy is no snapshot any more.
            self._disk.remove(f"{stem}.json")
            self._disk.sync_dir(self._directory)
        write_beside(self._disk, f"{stem}.json", _encode(manifest))
        self._disk.rename(staged, path)
        self._disk.sync_dir(self._directory)
        self._disk.rename(f"{stem}.json.tmp", f"{stem}.json")
        self._disk.sync_dir(self._directory)
        self._manifests = {**self._manifests, meta.index: manifest}
        self._verified = self._verified | {meta.index}
        self._prune()

    def _prune(self) -> None:
        """Keep the newest two good ones, and a bad one only while no good one is newer than it.

        The manifest goes before its copy.
        """
        good: list[int] = []
        for index in sorted(self._manifests, reverse=True):
            if len(good) == _KEPT:
                self._drop(index)
            elif index in self._verified or self.verify(self._manifests[index].meta):
                good.append(index)
            elif good:
                self._drop(index)
        for index in _indexes(self._disk.listdir(self._directory)):
            if index not in self._manifests and good and index < good[0]:
                self._drop(index)  # a start left it out: nothing but its files was there

    def _drop(self, index: int) -> None:
        self._manifests = {i: m for i, m in self._manifests.items() if i != index}
        self._disk.remove(self._file(index, "json"))
        self._disk.sync_dir(self._directory)
        if self._disk.exists(copy := self._file(index, "snap")):
            self._disk.remove(copy)

    def _file(self, index: int, kind: str) -> str:
        return f"{self._directory}/{index:020d}.{kind}"


class Receiver:
    """One snapshot on its way in. Chunks come in order; what does not fit is not written."""

    def __init__(self, *, snapshots: Snapshots, disk: Disk, manifest: Manifest, path: str) -> None:
        self._snapshots = snapshots
        self._disk = disk
        self._path = path
        self._file = disk.open(path, create=True)
        self.manifest = manifest
        self.next_offset = 0

    @property
    def key(self) -> tuple[int, int, str]:
        return (self.manifest.index, self.manifest.term, self.manifest.sha256)

    def write(self, key: tuple[int, int, str], offset: int, data: bytes) -> int:
        """Take one chunk; returns the offset wanted next.

        A chunk of another snapshot, one that came before, one after a gap, one that is too large or goes
        past the end: nothing of it is written, and the answer tells the sender where to go on.
        """
        fits = len(data) <= CHUNK_BYTES and offset + len(data) <= self.manifest.size
        if key == self.key and offset == self.next_offset and fits:
            self._file.pwrite(data, offset)
            self.next_offset += len(data)
        return self.next_offset

    @property
    def complete(self) -> bool:
        return self.next_offset == self.manifest.size

    def finish(self) -> SnapshotMeta:
        """Verify all of it and make it a snapshot. Raises Corrupt: nothing was changed then."""
        self._file.close()
        self._snapshots.adopt(self._path, self.manifest)
        return self.manifest.meta

    def cancel(self) -> None:
        self._file.close()
        if self._disk.exists(self._path):
            self._disk.remove(self._path)


def _indexes(names: list[str]) -> list[int]:
    """Of the manifests among these names."""
    return [int(m[1]) for m in map(_NAME.fullmatch, names) if m]


def hash_file(disk: Disk, path: str) -> tuple[int, str]:
    """Size and SHA-256; (0, "") for a file that is not there."""
    if not disk.exists(path):
        return 0, ""
    digest, size = sha256(), 0
    file = disk.open(path)
    try:
        while data := file.pread(CHUNK_BYTES, size):
            digest.update(data)
            size += len(data)
    finally:
        file.close()
    return size, digest.hexdigest()


def _checksum(manifest: Manifest) -> str:
    return sha256(msgspec.json.encode(msgspec.structs.replace(manifest, check=""))).hexdigest()


def _encode(manifest: Manifest) -> bytes:
    whole = msgspec.structs.replace(manifest, check=_checksum(manifest))
    return msgspec.json.format(msgspec.json.encode(whole), indent=2) + b"\n"


def _is_known_but_for_its_format(raw: bytes) -> bool:
    """The checksum fits with a format of ours: then the number is damaged, and no newer release wrote it."""
    try:
        manifest = msgspec.json.decode(raw, type=Manifest)
    except msgspec.DecodeError:
        return False
    ours = (msgspec.structs.replace(manifest, format=known) for known in range(1, SNAPSHOT_FORMAT + 1))
    return any(_checksum(one) == manifest.check for one in ours)


def _read_manifest(disk: Disk, path: str, index: int) -> Manifest | None:
    """None if it is damaged, or its copy is missing or of another size. Raises NewerFormat."""
    try:
        raw = read_whole(disk, path, _MANIFEST_LIMIT)
        found = msgspec.json.decode(raw, type=_OnlyFormat).format
        if found > SNAPSHOT_FORMAT and _is_known_but_for_its_format(raw):
            return None
        check_format(path, found, SNAPSHOT_FORMAT)
        manifest = msgspec.json.decode(raw, type=Manifest)
    except (Corrupt, msgspec.DecodeError, UnicodeDecodeError):
        return None
    if manifest.index != index or manifest.check != _checksum(manifest):
        return None
    copy = f"{path.removesuffix('.json')}.snap"
    if not disk.exists(copy):
        return None
    file = disk.open(copy)
    try:
        whole = file.size() == manifest.size
        return msgspec.structs.replace(manifest, check="") if whole else None
    finally:
        file.close()
