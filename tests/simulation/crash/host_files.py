"""The few files that go past our disk port: how a state file is replaced, in copies, renames and removals.

`storage/statefile.py` and `storage/restored.py` copy and rename files by the operating system's own calls.
Here these are points like all others, and what was copied is lost in a crash unless it was synced. Names
are made and removed durably, as everywhere above SQLite (`support/lossy_vfs.py`).
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from simulation.crash.server import TrapNode
from support.lossy_disk import Write

from gemot.server.storage import statefile


@contextmanager
def watched(nodes: list[TrapNode]) -> Iterator[None]:
    """For as long as the context lasts, these calls are points of the server whose files they change."""
    kept = (shutil.copyfile, os.replace, Path.unlink, statefile.sync_directory)
    homes = {f"{node.directory}/": node for node in nodes}

    def owner(path: object) -> TrapNode | None:
        return next((node for home, node in homes.items() if f"{path}/".startswith(home)), None)

    def point(action: str, path: object, call: Callable[[], Any]) -> Any:
        node = owner(path)
        if node is None:
            return call()
        with node.trap.around(node, f"{action} {str(path)[len(str(node.directory)) + 1 :]}"):
            return call()

    def copyfile(source: Any, target: Any) -> Any:
        node = owner(target)
        return point(
            "copy", target, lambda: kept[0](source, target) if node is None else _copy(node, source, target)
        )

    def replace(old: Any, new: Any) -> None:
        node = owner(new)
        if node is None:
            kept[1](old, new)
        else:
            node.lossy.follow(str(old), str(new), lambda: kept[1](old, new))

    def unlink(path: Path, missing_ok: bool = False) -> None:
        if path.exists():
            point("unlink", path, lambda: kept[2](path))
        else:
            kept[2](path, missing_ok=missing_ok)

    shutil.copyfile = copyfile  # type: ignore[assignment]
    os.replace = replace  # type: ignore[assignment]
    Path.unlink = unlink  # type: ignore[method-assign]
    statefile.sync_directory = lambda path: point("sync_dir", path, lambda: kept[3](path))
    try:
        yield
    finally:
        shutil.copyfile, os.replace, Path.unlink, statefile.sync_directory = kept  # type: ignore[method-assign, misc]


def _copy(node: TrapNode, source: Path, target: Path) -> None:
    """Unsynced bytes under a new name, of the bytes that readers of the old one see."""
    held = node.lossy.find(str(source))
    data = bytes(held.content) if held is not None else Path(source).read_bytes()
    Path(target).write_bytes(b"")
    node.lossy.forget(str(target))
    node.lossy.adopt(str(target)).write(Write(0, data))
