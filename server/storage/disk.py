"""The port to a disk: what storage asks of files and folders, and nothing more.

What it is: two Protocols and the few helpers that are the same on every disk. What it is not: no
implementation; the real one is `realdisk.py`, the tests bring one that forgets what was not synced.

Promises that an implementation keeps, and that storage builds on:
- bytes are durable once `File.sync` has returned; names (created, renamed, removed files) once
  `Disk.sync_dir` of their folder has returned; until then any of them may be lost in a crash;
- a sector of 512 bytes, aligned in the file, is written wholly or not at all;
- a call that fails raises DiskFailed naming the path and the errno; nothing is tried again.
"""

from __future__ import annotations

from typing import Protocol

from gemot.server.model.errors import Corrupt

SECTOR = 512
"""Bytes that a disk writes as one (ATA and NVMe promise it for 512; disks of 4,096 do more)."""

ZERO_BLOCK = bytes(1 << 20)


class File(Protocol):
    """An open file. Offsets and sizes are in bytes."""

    def pwrite(self, data: bytes, offset: int) -> None:
        """Write all of `data`; the file grows as needed, with zeros in a gap."""

    def pread(self, n: int, offset: int) -> bytes:
        """Up to `n` bytes: fewer only at the end of the file. May be called while another thread writes."""

    def sync(self) -> None:
        """Return once every byte written so far, and the size, would survive a power loss."""

    def truncate(self, size: int) -> None: ...

    def size(self) -> int: ...

    def close(self) -> None:
        """Closing twice is harmless. A file that is let go of closes itself."""


class Lock(Protocol):
    def release(self) -> None: ...


class Disk(Protocol):
    """A tree of files. Paths are strings with `/`."""

    def open(self, path: str, *, create: bool = False) -> File:
        """Open to read and write; with `create` a missing file is made, empty, readable by its owner only."""

    def rename(self, old: str, new: str) -> None:
        """Within one folder; what stood at `new` is replaced."""

    def remove(self, path: str) -> None: ...

    def exists(self, path: str) -> bool: ...

    def listdir(self, path: str) -> list[str]:
        """Names in a folder, sorted; none if the folder is missing."""

    def makedirs(self, path: str) -> None:
        """Make the folder and its parents, open to their owner only; tighten the folder if it is there."""

    def sync_dir(self, path: str) -> None: ...

    def free_bytes(self, path: str) -> int:
        """How many bytes this process may still write where this path is, or would be."""

    def disk_bytes(self, path: str) -> int:
        """How many bytes the disk has there in all."""

    def lock(self, path: str) -> Lock:
        """Take the data directory's lock file for life, or raise StorageFailed naming the holder."""


def sectors(n: int) -> int:
    """`n` bytes rounded up to whole sectors."""
    return -(-n // SECTOR) * SECTOR


def write_zeros(file: File, start: int, end: int) -> None:
    """Zeros in [start, end): real bytes, so that later writes there change no metadata and lack no space."""
    while start < end:
        n = min(len(ZERO_BLOCK), end - start)
        file.pwrite(ZERO_BLOCK if n == len(ZERO_BLOCK) else bytes(n), start)
        start += n


def read_whole(disk: Disk, path: str, limit: int) -> bytes:
    """A small file. Raises Corrupt, before reading, if it is larger than `limit` bytes."""
    file = disk.open(path)
    try:
        size = file.size()
        if size > limit:
            raise Corrupt(f"{path} has {size} bytes, at most {limit} make sense: it is not what was written")
        return file.pread(size, 0)
    finally:
        file.close()


def write_beside(disk: Disk, path: str, data: bytes) -> None:
    """Write and sync `<path>.tmp`. The caller renames it, and syncs the folder."""
    temporary = f"{path}.tmp"
    if disk.exists(temporary):
        disk.remove(temporary)
    file = disk.open(temporary, create=True)
    try:
        file.pwrite(data, 0)
        file.sync()
    finally:
        file.close()
