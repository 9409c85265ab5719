"""Small files of the agent that a crash leaves whole, as they were or as they are to be.

They are written beside, synced, and renamed; the name is durable once its folder is synced, too, which is
left to the caller: several files may share that. What is only worth keeping needs neither sync.
"""

from __future__ import annotations

import os
from pathlib import Path

BESIDE = ".tmp"
"""At the end of its name, until it is renamed."""


def replace(path: Path, data: bytes, *, sync: bool = True) -> None:
    """For its owner alone (0600). Raises OSError; the file is then as it was."""
    beside = path.with_name(path.name + BESIDE)
    handle = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    with open(handle, "wb") as file:
        os.fchmod(handle, 0o600)  # one left over from a crash keeps its mode
        file.write(data)
        file.flush()
        if sync:
            os.fsync(handle)
    beside.rename(path)


def sync_folder(folder: Path) -> None:
    """Make the names in it durable."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
