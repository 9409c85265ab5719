"""The disk of this host. The only file of the tier that calls the operating system about files.

`RealDisk(sync=False)` is for `-dev`: everything is the same, but nothing waits for the disk.
"""

from __future__ import annotations

import errno
import fcntl
import os
import stat

from gemot.server.model.errors import DiskFailed, StorageFailed


class _Naming:
    """A context: an OSError inside leaves as DiskFailed, which names the path and the errno."""

    __slots__ = ("_action", "_path")

    def __init__(self, action: str, path: str) -> None:
        self._action = action
        self._path = path

    def __enter__(self) -> None:
        pass

    def __exit__(self, _kind: object, error: BaseException | None, _trace: object) -> None:
        if isinstance(error, OSError):
            code = errno.errorcode.get(error.errno or 0, str(error.errno))
            raise DiskFailed(f"cannot {self._action} {self._path}: {error.strerror} ({code})") from error


class RealFile:
    """A file descriptor. It closes itself when the last one who reads it lets go."""

    def __init__(self, path: str, fd: int, sync: bool) -> None:
        self._path = path
        self._fd = fd
        self._sync = sync

    def pwrite(self, data: bytes, offset: int) -> None:
        view = memoryview(data)
        with _Naming("write", self._path):
            while view:
                n = os.pwrite(self._fd, view, offset)
                view = view[n:]
                offset += n

    def pread(self, n: int, offset: int) -> bytes:
        with _Naming("read", self._path):
            data = os.pread(self._fd, n, offset)
            while 0 < len(data) < n:
                more = os.pread(self._fd, n - len(data), offset + len(data))
                if not more:
                    break
                data += more
            return data

    def sync(self) -> None:
        if self._sync:
            with _Naming("sync", self._path):
                os.fdatasync(self._fd)

    def truncate(self, size: int) -> None:
        with _Naming("truncate", self._path):
            os.ftruncate(self._fd, size)

    def size(self) -> int:
        with _Naming("look at", self._path):
            return os.fstat(self._fd).st_size

    def close(self) -> None:
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)

    def __del__(self) -> None:
        self.close()


class RealLock:
    """An flock held until released, or until the process ends in whatever way."""

    def __init__(self, path: str, fd: int) -> None:
        self._path = path
        self._fd = fd

    def release(self) -> None:
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)


class RealDisk:
    def __init__(self, *, sync: bool = True) -> None:
        self._sync = sync

    def open(self, path: str, *, create: bool = False) -> RealFile:
        flags = os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW | (os.O_CREAT if create else 0)
        with _Naming("open", path):
            fd = os.open(path, flags, 0o600)
        file = RealFile(path, fd, self._sync)
        with _Naming("restrict the mode of", path):
            if stat.S_IMODE(os.fstat(fd).st_mode) & 0o177:
                os.fchmod(fd, 0o600)
        return file

    def rename(self, old: str, new: str) -> None:
        with _Naming(f"rename to {new}", old):
            os.rename(old, new)

    def remove(self, path: str) -> None:
        with _Naming("remove", path):
            os.unlink(path)

    def exists(self, path: str) -> bool:
        return os.path.lexists(path)

    def listdir(self, path: str) -> list[str]:
        with _Naming("list", path):
            return sorted(os.listdir(path)) if os.path.isdir(path) else []

    def makedirs(self, path: str) -> None:
        """Each new folder is durable in its parent when this returns."""
        if not os.path.isdir(path):
            parent = os.path.dirname(os.path.abspath(path))
            if not os.path.isdir(parent):
                self.makedirs(parent)
            with _Naming("make the folder", path):
                os.mkdir(path, 0o700)
            self.sync_dir(parent)
        with _Naming("close to other users (mode 0700) the folder", path):
            if stat.S_IMODE(os.stat(path).st_mode) & 0o077:
                os.chmod(path, 0o700)

    def sync_dir(self, path: str) -> None:
        if not self._sync:
            return
        with _Naming("sync the folder", path):
            fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                os.fsync(fd)
            finally:
                os.close(fd)

    def free_bytes(self, path: str) -> int:
        with _Naming("look at the disk of", path):
            disk = os.statvfs(os.path.dirname(path))
        return disk.f_bavail * disk.f_frsize

    def disk_bytes(self, path: str) -> int:
        with _Naming("look at the disk of", path):
            disk = os.statvfs(os.path.dirname(path))
        return disk.f_blocks * disk.f_frsize

    def lock(self, path: str) -> RealLock:
        with _Naming("open", path):
            fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            holder = os.pread(fd, 32, 0).decode("ascii", "replace").strip() or "unknown"
            os.close(fd)
            if error.errno not in (errno.EWOULDBLOCK, errno.EACCES):
                raise DiskFailed(f"cannot lock {path}: {error.strerror}") from error
            raise StorageFailed(
                f"data directory {os.path.dirname(path)} is in use by pid {holder}: "
                f"stop that process, or give this one another data_dir"
            ) from error
        with _Naming("write", path):
            os.ftruncate(fd, 0)
            os.pwrite(fd, f"{os.getpid()}\n".encode(), 0)
        return RealLock(path, fd)
