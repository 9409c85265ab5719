"""Disks that forget: what was not synced is lost in a crash, as a power loss would lose it.

`LossyDisk(root)` keeps unsynced bytes and names in this process's memory and writes them to the real files
below `root` only when they are synced: a `kill -9` then really loses them (the page cache would keep them).
Without a root it is all in memory: `MemoryDisk`, for the simulator.

`crash(random)` draws what a crash would leave of the unsynced: each write kept, dropped or torn at sectors;
of the name changes of each folder, any first part. The old object and its files then raise `Fenced` for
ever, and the disk of the next life is returned.

Simplifications: folders are durable as soon as they are made; a rename stays in its folder.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator
from typing import Protocol

from support.scars import Scar

from gemot.server.model.errors import DiskFailed, StorageFailed
from gemot.server.storage.disk import SECTOR


class Fenced(RuntimeError):
    """A part of a node that crashed still uses its disk."""


class Random(Protocol):
    def randrange(self, stop: int, /) -> int: ...


class Write:
    """One unsynced change of a file's bytes; `data` None sets the size to `offset`."""

    __slots__ = ("data", "offset")

    def __init__(self, offset: int, data: bytes | None) -> None:
        self.offset = offset
        self.data = data

    def apply(self, to: bytearray) -> None:
        data, at, size = self.data, self.offset, len(to)
        if data is None:
            del to[at:]
            to.extend(bytes(at - len(to)))
        elif at == size:
            to += data
        else:
            if at > size:
                to.extend(bytes(at - size))
            to[at : at + len(data)] = data

    def sectors(self) -> list[Write]:
        """The same, in pieces that a disk writes as one."""
        if self.data is None:
            return [self]
        pieces, at = [], self.offset
        while at < self.offset + len(self.data):
            end = min(at // SECTOR * SECTOR + SECTOR, self.offset + len(self.data))
            pieces.append(Write(at, self.data[at - self.offset : end - self.offset]))
            at = end
        return pieces


def runs(writes: list[Write]) -> Iterator[tuple[int, list[bytes] | None]]:
    """These writes, with those that go on where the one before ended put together; None sets the size."""
    begin, end, pieces = 0, -1, list[bytes]()
    for write in writes:
        if write.data is not None and write.offset == end:
            pieces.append(write.data)
            end += len(write.data)
            continue
        if pieces:
            yield begin, pieces
        begin, end, pieces = write.offset, -1, []
        if write.data is None:
            yield begin, None
        else:
            pieces, end = [write.data], begin + len(write.data)
    if pieces:
        yield begin, pieces


class Toll(Protocol):
    """What a crash took: counted by who wants to know."""

    lost: int
    torn: int


def survivors(writes: list[Write], random: Random | None, toll: Toll | None = None) -> list[Write]:
    """What a crash leaves of these writes; nothing without a `random`."""
    left: list[Write] = []
    if random is None:
        return left
    for write in writes:
        fate, pieces = random.randrange(4), write.sectors()
        if fate == 0:
            left.append(write)
        elif fate == 1:
            left.extend(pieces[: random.randrange(len(pieces) + 1)])
        elif fate == 2:
            left.extend(piece for piece in pieces if random.randrange(2))
        if toll is not None:
            toll.lost += fate == 3
            toll.torn += fate in (1, 2) and len(pieces) > 1
    return left


class Inode:
    """A file's bytes: as readers see them, and as they would survive; `home` is its durable name.

    `number` is the real file's inode number, for the layer that shares real files (0: not asked yet).
    """

    __slots__ = ("content", "durable", "home", "number", "scars", "unsynced")

    def __init__(self, durable: bytes = b"", home: str = "", scars: list[Scar] | None = None) -> None:
        self.durable = bytearray(durable)
        self.content = bytearray(durable)
        self.unsynced: list[Write] = []
        self.home = home
        self.number = 0
        self.scars = scars or []

    def write(self, write: Write) -> None:
        write.apply(self.content)
        self.unsynced.append(write)

    def lose(self, data: bytes, offset: int) -> Scar:
        """This is written, and the disk does not keep it."""
        return self._scar(Scar(offset, data, self._there(data, offset), older=self.unsynced))

    def scratch(self, data: bytes, offset: int) -> Scar:
        """Bytes that belong elsewhere are going to be written here."""
        there = self._there(data, offset).ljust(len(data), b"\0")
        return self._scar(Scar(offset, there, data, older=self.unsynced, foreign=data))

    def alter(self, wanted: bytes, offset: int) -> Scar:
        """Durable bytes were changed; what was there before is wanted."""
        return self._scar(Scar(offset, wanted, bytes(self.durable[offset : offset + len(wanted)])))

    def _there(self, data: bytes, offset: int) -> bytes:
        return bytes(memoryview(self.content)[offset : offset + len(data)])

    def _scar(self, scar: Scar) -> Scar:
        if scar.left:
            self.scars.append(scar)
        return scar

    def finish(self, end: str) -> None:
        """What is wrong with it will never matter again, for this reason."""
        for scar in self.scars:
            scar.finish(end)
        self.scars = []


Change = tuple[str, str, Inode | None]
"""A name change that is not synced: (path, "" or the name it came from, the file or None for removed)."""


class LossyFile:
    def __init__(self, disk: LossyDisk, path: str, inode: Inode) -> None:
        self._disk = disk
        self._path = path
        self._inode = inode
        self._closed = False

    def pwrite(self, data: bytes, offset: int) -> None:
        self._check("write")
        self._disk.write(self._path, self._inode, bytes(data), offset)

    def pread(self, n: int, offset: int) -> bytes:
        self._check("read")
        return self._disk.read(self._path, self._inode, n, offset)

    def sync(self) -> None:
        self._check("sync")
        self._disk.sync(self._path, self._inode)

    def truncate(self, size: int) -> None:
        self._check("truncate")
        self._disk.truncate(self._path, self._inode, size)

    def size(self) -> int:
        self._check("size")
        return len(self._inode.content)

    def close(self) -> None:
        self._closed = True

    def _check(self, action: str) -> None:
        if self._closed:
            raise ValueError(f"{action} on the closed file {self._path}")
        self._disk.check()


class LossyLock:
    def __init__(self, disk: LossyDisk, path: str) -> None:
        self._disk = disk
        self._path = path

    def release(self) -> None:
        self._disk.locked.discard(self._path)


class LossyDisk:
    """See the module. Faults to plant:

    - `sync_works=False`: `sync` and `sync_dir` return and do nothing;
    - `fail_sync`: the next sync fails with this errno, once (its bytes stay unsynced);
    - `space_left`: bytes that can still be written before ENOSPC (the write that passes it is cut);
    - `on_change`: called with the name of each changing operation and its path, before it is done;
      what it raises is raised to the caller;
    - `on_changed`: the same once it is done, before the caller knows;
    - `on_read`: the same for each read of a file;
    - `on_write`: asked what the disk makes of a write, as (offset, bytes) pieces: none at all (the write
      is lost), or another place (it is misdirected).

    The files whose paths below the root begin with one of `only_memory` have no real twin.
    """

    def __init__(
        self, root: str | None = None, *, sync_works: bool = True, only_memory: tuple[str, ...] = ()
    ) -> None:
        self.root = os.path.realpath(root) if root is not None else None
        self.only_memory = only_memory
        self.sync_works = sync_works
        self.fail_sync: int | None = None
        self.space_left: int | None = None
        self.on_change: Callable[[str, str], None] | None = None
        self.on_changed: Callable[[str, str], None] = lambda _action, _path: None
        self.on_read: Callable[[str], None] | None = None
        self.on_write: Callable[[str, Inode, bytes, int], list[tuple[int, bytes]]] | None = None
        self.lost = self.torn = 0
        """Writes that the crash of this disk lost whole, or in part."""

        self.locked: set[str] = set()
        self.fenced = False
        self._dirs: set[str] = set()
        self._durable: dict[str, Inode] = {}
        self._names: dict[str, Inode] = {}
        self._changes: dict[str, list[Change]] = {}
        if self.root is not None:
            self._load(self.root)

    def _load(self, root: str) -> None:
        for folder, _, names in os.walk(root):
            self._dirs.add(folder)
            for name in names:
                path = os.path.join(folder, name)
                with open(path, "rb") as file:
                    self._names[path] = self._durable[path] = Inode(file.read(), path)

    # -- the port ----------------------------------------------------------------------------------

    def open(self, path: str, *, create: bool = False) -> LossyFile:
        path = self._at(path)
        inode = self._names.get(path)
        if inode is None:
            if not create or os.path.dirname(path) not in self._dirs:
                raise DiskFailed(f"cannot open {path}: No such file or directory (ENOENT)")
            self._change("create", path)
            inode = self._names[path] = Inode()
            self._later(path, (path, "", inode))
            self.on_changed("create", path)
        return LossyFile(self, path, inode)

    def rename(self, old: str, new: str) -> None:
        old, new = self._at(old), self._at(new)
        assert os.path.dirname(old) == os.path.dirname(new), "a rename stays in its folder"
        if old not in self._names:
            raise DiskFailed(f"cannot rename {old}: No such file or directory (ENOENT)")
        self._change("rename", new)
        self._names[new] = self._names.pop(old)
        self._later(new, (new, old, self._names[new]))
        self.on_changed("rename", new)

    def remove(self, path: str) -> None:
        path = self._at(path)
        if path not in self._names:
            raise DiskFailed(f"cannot remove {path}: No such file or directory (ENOENT)")
        self._change("remove", path)
        del self._names[path]
        self._later(path, (path, "", None))
        self.on_changed("remove", path)

    def exists(self, path: str) -> bool:
        path = self._at(path)
        return path in self._names or path in self._dirs

    def listdir(self, path: str) -> list[str]:
        path = self._at(path)
        return sorted(os.path.basename(p) for p in [*self._names, *self._dirs] if os.path.dirname(p) == path)

    def makedirs(self, path: str) -> None:
        path = self._at(path)
        if path in self._dirs:
            return
        self._change("makedirs", path)
        if self.root is not None:
            os.makedirs(path, mode=0o700, exist_ok=True)
        folder = path
        while folder not in self._dirs and folder not in ("", "/"):
            self._dirs.add(folder)
            folder = os.path.dirname(folder)
        self.on_changed("makedirs", path)

    def sync_dir(self, path: str) -> None:
        path = self._at(path)
        self._change("sync_dir", path)
        self._maybe_fail_sync(path)
        if self.sync_works:
            for change in self._changes.pop(path, []):
                self._make_durable(change)
        self.on_changed("sync_dir", path)

    def free_bytes(self, path: str) -> int:
        return 1 << 40 if self.space_left is None else self.space_left

    def disk_bytes(self, path: str) -> int:
        return 1 << 41

    def used_bytes(self) -> int:
        return sum(len(inode.content) for inode in self._names.values())

    def lock(self, path: str) -> LossyLock:
        path = self._at(path)
        if path in self.locked:
            raise StorageFailed(f"data directory {os.path.dirname(path)} is in use by this process")
        self.locked.add(path)
        return LossyLock(self, path)

    # -- files -------------------------------------------------------------------------------------

    def read(self, path: str, inode: Inode, n: int, offset: int) -> bytes:
        if self.on_read is not None:
            self.on_read(path)
            self.check()
        if inode.scars:
            for scar in inode.scars:
                scar.met(offset, n)
        return bytes(memoryview(inode.content)[offset : offset + n])

    def write(self, path: str, inode: Inode, data: bytes, offset: int) -> None:
        self._change("write", path)
        self._write(path, inode, data, offset)
        self.on_changed("write", path)

    def _write(self, path: str, inode: Inode, data: bytes, offset: int) -> None:
        if self.on_write is not None:
            for at, piece in self.on_write(path, inode, data, offset):
                inode.write(Write(at, piece))
            return
        if self.space_left is not None:
            fits, full = data[: self.space_left], len(data) > self.space_left
            self.space_left -= len(fits)
            inode.write(Write(offset, fits))
            if full:
                full_disk = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
                raise DiskFailed(f"cannot write {path}: {full_disk.strerror} (ENOSPC)") from full_disk
            return
        inode.write(Write(offset, data))

    def truncate(self, path: str, inode: Inode, size: int) -> None:
        self._change("truncate", path)
        inode.write(Write(size, None))
        self.on_changed("truncate", path)

    def sync(self, path: str, inode: Inode) -> None:
        self._change("sync", path)
        self._maybe_fail_sync(path)
        if self.sync_works:
            writes, inode.unsynced = inode.unsynced, []
            self._settle(inode, writes)
            for scar in inode.scars:
                scar.synced()
        self.on_changed("sync", path)

    def adopt(self, path: str) -> Inode:
        """A real file that a layer above made, at once and durably (SQLite, in `lossy_vfs.py`)."""
        path = self._at(path)
        inode = self._names.get(path)
        if inode is None:
            with open(path, "rb") as file:
                inode = self._names[path] = self._durable[path] = Inode(file.read(), path)
            self._dirs.add(os.path.dirname(path))
        return inode

    def find(self, path: str) -> Inode | None:
        return self._names.get(self._at(path))

    def delete(self, path: str, unlink: Callable[[], None]) -> None:
        """A real file that a layer above removes, at once and durably."""
        self._change("delete", path)
        self.forget(path)
        unlink()
        self.on_changed("delete", path)

    def follow(self, old: str, new: str, replace: Callable[[], None]) -> None:
        """A real file that a layer above renames, at once and durably; what is unsynced of it stays so."""
        self._change("replace", new)
        inode = self._names.get(old)
        self.forget(old)
        self.forget(new)
        replace()
        if inode is not None:
            inode.home = new
            self._names[new] = self._durable[new] = inode
        self.on_changed("replace", new)

    def forget(self, path: str) -> None:
        """The opposite of `adopt`."""
        path = self._at(path)
        for inode in (self._names.pop(path, None), self._durable.pop(path, None)):
            if inode is not None:
                inode.finish("gone")

    # -- the crash ---------------------------------------------------------------------------------

    def crash(self, random: Random | None = None) -> LossyDisk:
        """Lose what a crash loses (everything unsynced without `random`); returns the disk after it."""
        self.check()
        for path in [path for path, inode in self._durable.items() if self._was_removed(inode)]:
            self.forget(path)
        self.fenced = True
        for folder in sorted(self._changes):
            changes = self._changes[folder]
            for change in changes[: random.randrange(len(changes) + 1) if random else 0]:
                self._make_durable(change)
        for path in sorted(self._durable):
            inode = self._durable[path]
            self._settle(inode, survivors(inode.unsynced, random, self))
        for inode in [*self._durable.values(), *self._names.values()]:
            for scar in inode.scars:
                scar.crashed(inode.durable, named=bool(inode.home))
            inode.scars = [scar for scar in inode.scars if not scar.end]
        after = LossyDisk(sync_works=self.sync_works, only_memory=self.only_memory)
        after.root = self.root
        after._dirs = set(self._dirs)
        after._durable = {
            path: Inode(bytes(inode.durable), path, inode.scars) for path, inode in self._durable.items()
        }
        after._names = dict(after._durable)
        return after

    def discard(self) -> None:
        """It is thrown away with all that is on it, and what is wrong with it."""
        self.fenced = True
        for inode in [*self._durable.values(), *self._names.values()]:
            inode.finish("gone")

    def kill(self) -> LossyDisk:
        """End the process and not the host: everything can still be read, and the unsynced stays unsynced."""
        self.check()
        self.fenced = True
        after = LossyDisk(sync_works=self.sync_works, only_memory=self.only_memory)
        after.root = self.root
        after._dirs, after._durable, after._names = self._dirs, self._durable, self._names
        after._changes = self._changes
        return after

    def check(self) -> None:
        if self.fenced:
            raise Fenced("this disk belongs to a node that crashed")

    def damage(self, path: str, change: Callable[[bytearray], None]) -> None:
        """Change the bytes of a file behind all backs, as a bad disk would; then nothing is unsynced."""
        inode = self._names[self._at(path)]
        change(inode.content)
        inode.unsynced = []
        before, inode.durable = len(inode.durable), bytearray(inode.content)
        self._mirror(inode, [Write(0, bytes(inode.durable))])
        if before > len(inode.durable):
            self._mirror(inode, [Write(len(inode.durable), None)])

    def decay(self, path: str, offset: int, data: bytes) -> None:
        """Put these bytes in place of durable ones, behind all backs; what is unsynced stays so."""
        inode = self._names[self._at(path)]
        assert offset + len(data) <= len(inode.durable), "only what was written can decay"
        for content in (inode.content, inode.durable):
            content[offset : offset + len(data)] = data[: max(0, len(content) - offset)]
        self._mirror(inode, [Write(offset, data)])

    # -- inside ------------------------------------------------------------------------------------

    def _at(self, path: str) -> str:
        self.check()
        return os.path.normpath(path)

    def _change(self, action: str, path: str) -> None:
        self.check()
        if self.on_change is not None:
            self.on_change(action, path)
            self.check()

    def _maybe_fail_sync(self, path: str) -> None:
        code, self.fail_sync = self.fail_sync, None
        if code is not None:
            raise DiskFailed(f"cannot sync {path}: {os.strerror(code)} ({errno.errorcode[code]})")

    def _later(self, path: str, change: Change) -> None:
        self._changes.setdefault(os.path.dirname(path), []).append(change)

    def _settle(self, inode: Inode, writes: list[Write]) -> None:
        for write in writes:
            write.apply(inode.durable)
        if inode.scars:
            for scar in inode.scars:
                scar.written(writes)
            inode.scars = [scar for scar in inode.scars if not scar.end]
        self._mirror(inode, writes)

    def _mirror(self, inode: Inode, writes: list[Write]) -> None:
        """Bring durable bytes to the real file, if there is one."""
        if not inode.home or not writes or not self._is_real(inode.home):
            return
        file = os.open(inode.home, os.O_RDWR)
        try:
            for offset, pieces in runs(writes):
                if pieces is None:
                    os.ftruncate(file, offset)
                else:
                    os.pwrite(file, b"".join(pieces), offset)
        finally:
            os.close(file)

    def _was_removed(self, inode: Inode) -> bool:
        """Is the real file gone, past this disk: unlinked by the state's own code?"""
        return bool(inode.home) and self._is_real(inode.home) and not os.path.exists(inode.home)

    def _is_real(self, path: str) -> bool:
        if self.root is None or not self.only_memory:
            return self.root is not None
        return not path.startswith(self.only_memory, len(self.root) + 1)

    def _make_durable(self, change: Change) -> None:
        path, old, inode = change
        real = self._is_real(path)
        if (replaced := self._durable.pop(path, None)) is not None:
            replaced.home = ""
            replaced.finish("gone")
        if inode is None:
            if real and replaced is not None:
                os.unlink(path)
            return
        if old:
            # What is renamed has a durable name already: the changes of a folder come in order.
            del self._durable[old]
            if real:
                os.rename(old, path)
        elif real:
            with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
                file.write(inode.durable)
        inode.home = path
        self._durable[path] = inode


def MemoryDisk(*, sync_works: bool = True) -> LossyDisk:
    """A LossyDisk with no real files, and the folder `/`."""
    disk = LossyDisk(sync_works=sync_works)
    disk.makedirs("/data")
    return disk
