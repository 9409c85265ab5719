"""SQLite on a disk that forgets: what was written and not synced is lost in a crash.

An apsw VFS over `unix`. Below the folders that are attached, the bytes of databases, logs and journals live
in a `LossyDisk` and reach the real file only at xSync; locks and the shared memory of WAL mode stay the real
file's, so that readers work. All connections of the process share the bytes of a path. Everything else
goes to `unix` as it is.

The names of files are made and removed at once, and durably (a crash that loses them is `LossyDisk`'s part).
A file that was replaced or removed behind SQLite is seen at the next open.

`registered()` comes before cksumvfs is loaded, which wraps the default VFS of that moment; one that is loaded
already is taken away, to be loaded again (no connection may be open on it).

After `crash` close the old connections, which fail from then on, before opening new ones: SQLite shares its
shared memory between all of them, and a power loss would have cleared that too.
"""

from __future__ import annotations

import contextlib
import gc
import os
from collections.abc import Iterator

import apsw
from support.lossy_disk import Fenced, Inode, LossyDisk, Random

from gemot.server.model.errors import DiskFailed

_HELD = (
    apsw.SQLITE_OPEN_MAIN_DB
    | apsw.SQLITE_OPEN_WAL
    | apsw.SQLITE_OPEN_MAIN_JOURNAL
    | apsw.SQLITE_OPEN_SUPER_JOURNAL
)
_CHECKSUMS = "cksmvfs"


def _failure(code: int, message: str) -> apsw.IOError:
    error = apsw.IOError(message)
    vars(error)["extendedresult"] = code
    return error


def _explained(code: int, error: Exception) -> apsw.Error:
    if "ENOSPC" in str(error):
        return apsw.FullError(str(error))
    return _failure(code, str(error))


class LossyVfs(apsw.VFS):
    """Get it with `registered`."""

    def __init__(self, name: str, default: bool) -> None:
        self.name = name
        self._disks: dict[str, LossyDisk] = {}
        self._open: set[LossyVfsFile] = set()
        super().__init__(name, "unix", makedefault=default)

    def attach(self, root: str, disk: LossyDisk | None = None) -> LossyDisk:
        """Hold what is written below `root` in `disk`, or in a new one; it must be rooted there."""
        root = os.path.realpath(root)
        disk = disk or LossyDisk(root)
        assert disk.root == root, "the disk is rooted elsewhere"
        self._disks[root] = disk
        return disk

    def detach(self, root: str) -> None:
        """Leave the folder alone from now on. What was not synced is not on the real disk."""
        self._disks.pop(os.path.realpath(root), None)

    def crash(self, root: str, random: Random | None = None) -> LossyDisk:
        """Lose what is unsynced below `root`; the disk of the next life is attached and returned."""
        root = os.path.realpath(root)
        return self.attach(root, self._disks[root].crash(random))

    # -- SQLite asks -------------------------------------------------------------------------------

    def xOpen(self, name: str | apsw.URIFilename | None, flags: list[int]) -> apsw.VFSFile:
        path = name.filename() if isinstance(name, apsw.URIFilename) else name
        disk = self._disk_of(path)
        if disk is None or path is None or not flags[0] & _HELD:
            return apsw.VFSFile("unix", name, flags)
        if self._has_zombies(disk):
            raise _failure(apsw.SQLITE_IOERR, f"connections from before the crash are open below {disk.root}")
        if not os.path.exists(path):
            disk.forget(path)
        file = LossyVfsFile(self._open, disk, path, name, flags)
        self._open.add(file)
        return file

    def xDelete(self, filename: str, syncdir: bool) -> None:
        disk = self._disk_of(filename)
        if disk is not None:
            if self._has_zombies(disk):
                raise _failure(apsw.SQLITE_IOERR_DELETE, f"{filename} belongs to a node that crashed")
            try:
                disk.delete(filename, lambda: super(LossyVfs, self).xDelete(filename, syncdir))
            except (DiskFailed, Fenced) as error:
                raise _explained(apsw.SQLITE_IOERR_DELETE, error) from error
            return
        super().xDelete(filename, syncdir)

    def xAccess(self, pathname: str, flags: int) -> bool:
        disk = self._disk_of(pathname)
        if disk is not None and flags == apsw.SQLITE_ACCESS_EXISTS and os.path.exists(pathname):
            # `unix` calls a file of no bytes missing; here its bytes may be unsynced.
            return len(_inode_of(disk, pathname).content) > 0
        return super().xAccess(pathname, flags)

    def _disk_of(self, path: str | None) -> LossyDisk | None:
        while path and path != "/":
            path = os.path.dirname(path)
            if (disk := self._disks.get(path)) is not None:
                return disk
        return None

    def _has_zombies(self, disk: LossyDisk) -> bool:
        return any(file.disk.fenced for file in self._open if file.disk.root == disk.root)


class LossyVfsFile(apsw.VFSFile):
    def __init__(
        self,
        open_files: set[LossyVfsFile],
        disk: LossyDisk,
        path: str,
        name: str | apsw.URIFilename | None,
        flags: list[int],
    ) -> None:
        super().__init__("unix", name, flags)
        self._open_files = open_files
        self._path = path
        self.disk = disk
        self._inode = _inode_of(disk, path)

    def xRead(self, amount: int, offset: int) -> bytes:
        if self.disk.fenced:
            raise _failure(apsw.SQLITE_IOERR_READ, "this node crashed")
        try:
            return self.disk.read(self._path, self._inode, amount, offset)
        except (DiskFailed, Fenced) as error:
            raise _explained(apsw.SQLITE_IOERR_READ, error) from error

    def xWrite(self, data: bytes, offset: int) -> None:
        try:
            self.disk.write(self._path, self._inode, bytes(data), offset)
        except (DiskFailed, Fenced) as error:
            raise _explained(apsw.SQLITE_IOERR_WRITE, error) from error

    def xTruncate(self, newsize: int) -> None:
        try:
            self.disk.truncate(self._path, self._inode, newsize)
        except (DiskFailed, Fenced) as error:
            raise _explained(apsw.SQLITE_IOERR_TRUNCATE, error) from error

    def xSync(self, flags: int) -> None:
        try:
            self.disk.sync(self._path, self._inode)
        except (DiskFailed, Fenced) as error:
            raise _explained(apsw.SQLITE_IOERR_FSYNC, error) from error

    def xFileSize(self) -> int:
        if self.disk.fenced:
            raise _failure(apsw.SQLITE_IOERR_FSTAT, "this node crashed")
        return len(self._inode.content)

    def xClose(self) -> None:
        self._open_files.discard(self)
        super().xClose()


def _inode_of(disk: LossyDisk, path: str) -> Inode:
    """The bytes of a real file that exists; those held are dropped if another file took the name."""
    number = os.stat(path).st_ino
    inode = disk.find(path)
    if inode is not None and inode.number not in (0, number):
        disk.forget(path)
        inode = None
    if inode is None:
        inode = disk.adopt(path)
    inode.number = number
    return inode


@contextlib.contextmanager
def registered(name: str = "lossy", default: bool = True) -> Iterator[LossyVfs]:
    """Register the VFS for as long as the context lasts, as the default one that cksumvfs will wrap.

    Afterwards cksumvfs is taken away too: SQLite keeps a bare pointer to the VFS beneath it, and would call
    into freed memory at its next use. Whoever opened databases has closed them by then.
    """
    if default:
        _unload_checksums()
    vfs = LossyVfs(name, default)
    try:
        yield vfs
    finally:
        # Connections of a node that crashed may hang on a cycle.
        gc.collect()
        if default:
            _unload_checksums()
            apsw.set_default_vfs("unix")
        vfs.unregister()


def _unload_checksums() -> None:
    if _CHECKSUMS in apsw.vfs_names():
        apsw.unregister_vfs(_CHECKSUMS)
