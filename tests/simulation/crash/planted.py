"""Bugs of durability, planted on purpose to see that the crash points find them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from simulation.planted import BUGS as OF_THE_SIMULATOR

from gemot.server.storage.disk import Disk
from gemot.server.storage.log import SegmentLog
from gemot.server.storage.meta import MetaFile
from gemot.server.storage.snapshot import Snapshots
from gemot.server.storage.statefile import StateFile


class _Unsynced:
    """A disk whose files are never synced, for who is handed it."""

    def __init__(self, disk: Disk) -> None:
        self._disk = disk

    def open(self, path: str, *, create: bool = False) -> Any:
        file: Any = self._disk.open(path, create=create)
        file.sync = lambda: None
        return file

    def __getattr__(self, name: str) -> Any:
        return getattr(self._disk, name)


def _meta_unsynced() -> None:
    """The copies of the vote file are written and not synced."""
    original = MetaFile._write

    def write(self: MetaFile, meta: Any) -> None:
        disk, self._disk = self._disk, _Unsynced(self._disk)  # type: ignore[assignment]
        try:
            original(self, meta)
        finally:
            self._disk = disk

    MetaFile._write = write  # type: ignore[method-assign]


def _snapshot_unsynced() -> None:
    """A received snapshot gets its name, and the log is reset to it, before its bytes are durable."""
    Snapshots._sync = lambda self, path: None  # type: ignore[method-assign]


def _state_unsynced() -> None:
    """The copy that takes the place of the state file is renamed before it is durable."""
    StateFile._sync_file = lambda self, path: None  # type: ignore[method-assign]


def _newest_segment_first() -> None:
    """Segments are removed, the newest first: what is left after a crash has a hole."""
    original = SegmentLog._drop_below

    def drop(self: SegmentLog, keep: int) -> None:
        disk = self._disk
        removed: list[str] = []
        self._disk = _Removing(disk, removed)  # type: ignore[assignment]
        try:
            original(self, keep)
        finally:
            self._disk = disk
        for path in reversed(removed):
            disk.remove(path)
            disk.sync_dir(self._directory)

    SegmentLog._drop_below = drop  # type: ignore[method-assign]


class _Removing:
    def __init__(self, disk: Disk, removed: list[str]) -> None:
        self._disk = disk
        self.remove = removed.append

    def sync_dir(self, path: str) -> None:
        """Nothing was removed yet."""


BUGS: dict[str, Callable[[], None]] = {
    "ack-before-sync": OF_THE_SIMULATOR["ack-before-sync"],
    "vote-twice": OF_THE_SIMULATOR["vote-twice"],
    "meta-unsynced": _meta_unsynced,
    "snapshot-unsynced": _snapshot_unsynced,
    "state-unsynced": _state_unsynced,
    "newest-segment-first": _newest_segment_first,
}
