"""SQLite as it is here: which versions, with checksums in its pages, and its errors as ours.

Versions from 3.7.0 to 3.51.2 are refused: a race of two connections could reset a log that was still needed
(sqlite.org/wal.html, "The WAL-reset bug").
"""

from __future__ import annotations

import contextlib
from pathlib import Path
from types import TracebackType

import apsw
import apsw.sqlite_extra

from gemot.server.model.errors import Corrupt, DiskFailed, StorageFailed

CHECKSUM_VFS = "cksmvfs"
_FIXED_IN = 3_051_003


def refuse_old_sqlite(version: str) -> None:
    """Raise StorageFailed for a SQLite whose WAL can lose commits. `version` as "3.51.3"."""
    parts = [int(part) for part in version.split(".")] + [0, 0]
    number = parts[0] * 1_000_000 + parts[1] * 1_000 + parts[2]
    if number < _FIXED_IN:
        raise StorageFailed(
            f"SQLite {version} can lose commits (the WAL-reset bug of 3.7.0 to 3.51.2): "
            "install apsw 3.51.3 or newer"
        )


def load_checksums() -> None:
    """Register cksumvfs, over whatever VFS is the default now. Once a process."""
    if CHECKSUM_VFS not in apsw.vfs_names():
        apsw.sqlite_extra.load(apsw.Connection(":memory:"), "cksumvfs")


class Explained:
    """Turns SQLite's errors into ours; what is no matter of the disk goes through as it is.

    `note` is a file that a damaged page leaves for the next start, see `damage_note`.
    """

    __slots__ = ("_note", "_path")

    def __init__(self, path: Path, note: Path | None = None) -> None:
        self._path = path
        self._note = note

    def __enter__(self) -> None:
        pass

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if isinstance(error, apsw.Error) and (ours := explain(error, self._path)) is not None:
            if self._note is not None and isinstance(ours, Corrupt):
                with contextlib.suppress(OSError):
                    self._note.touch()
            raise ours from error


def explain(error: apsw.Error, path: Path) -> StorageFailed | None:
    """What an error of SQLite means for the node, or None if it is a mistake in our own SQL."""
    if isinstance(error, apsw.CorruptError | apsw.NotADBError):
        return Corrupt(f"the state file {path} is damaged: {error}")
    if isinstance(error, apsw.IOError):
        if getattr(error, "extendedresult", 0) == apsw.SQLITE_IOERR_DATA:
            return Corrupt(f"a page of the state file {path} does not fit its checksum")
        return DiskFailed(f"reading or writing the state file {path} failed: {error}")
    if isinstance(error, apsw.FullError):
        return DiskFailed(f"no space is left for the state file {path}: {error}")
    if isinstance(error, apsw.CantOpenError | apsw.ReadOnlyError | apsw.PermissionsError):
        return DiskFailed(f"the state file {path} cannot be opened for writing: {error}")
    if isinstance(error, apsw.BusyError | apsw.LockedError):
        return DiskFailed(f"the state file {path} is locked by another process: {error}")
    return None


def damage_note(path: Path) -> Path:
    """The empty file whose presence says that a damaged page was met in the state file `path`."""
    return path.with_name(path.name + ".damaged")
