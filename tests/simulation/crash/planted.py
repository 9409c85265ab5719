"""Bugs of durability, planted on purpose to see that the crash points find them.

Each makes syncs of one kind return and do nothing, as if the product had left them out. The call itself is
still a point, so that the run is the same up to where the server falls.
"""

from __future__ import annotations

import os
from collections.abc import Callable

from support.lossy_disk import Inode, LossyDisk


def _unsynced(of: Callable[[str, str], bool]) -> Callable[[], None]:
    """`of` is asked with folder and name of the file, or of the folder whose names are synced."""

    def plant() -> None:
        sync, sync_dir = LossyDisk.sync, LossyDisk.sync_dir

        def quietly(self: LossyDisk, path: str, call: Callable[[], None]) -> None:
            folder, name = os.path.split(path)
            works = self.sync_works
            self.sync_works = works and not of(os.path.basename(folder), name)
            try:
                call()
            finally:
                self.sync_works = works

        def file(self: LossyDisk, path: str, inode: Inode) -> None:
            quietly(self, path, lambda: sync(self, path, inode))

        def names(self: LossyDisk, path: str) -> None:
            quietly(self, f"{path}/", lambda: sync_dir(self, path))

        LossyDisk.sync = file  # type: ignore[method-assign]
        LossyDisk.sync_dir = names  # type: ignore[method-assign]

    return plant


BUGS: dict[str, Callable[[], None]] = {
    "log-unsynced": _unsynced(lambda folder, name: folder == "log" and name.endswith(".seg")),
    "segment-names-unsynced": _unsynced(lambda folder, name: folder == "log" and not name),
    "meta-unsynced": _unsynced(lambda _folder, name: name.startswith("meta-")),
    "received-snapshot-unsynced": _unsynced(lambda _folder, name: name.endswith(".recv.tmp")),
    "checkpoint-unsynced": _unsynced(lambda _folder, name: name in ("state.db", "state.db-wal")),
}
