"""An agent whose unsynced bytes are lost when it is killed: `python lossy_agent.py [--no-sync] FLAGS`.

A SIGKILL keeps the page cache, so it shows nothing of durability. Here log, vote, snapshots and SQLite all
write through a layer that holds bytes in this process until they are synced; the kill takes them along.
With --no-sync the layer's syncs do nothing: the planted bug that the cluster test must catch.

From SIGUSR1 to SIGUSR2 no sync of log and vote ends, as of a disk that hangs; the process lives on.
"""

from __future__ import annotations

import signal
import sys
import threading
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

from support.lossy_disk import LossyDisk
from support.lossy_vfs import registered

from gemot.agent.cli.agent import run
from gemot.agent.config.flags import parse


def main() -> int:
    arguments = sys.argv[1:]
    sync_works = "--no-sync" not in arguments
    arguments = [a for a in arguments if a != "--no-sync"]
    flags = parse(arguments)
    root = Path(flags.overrides["data_dir"])
    root.mkdir(parents=True, exist_ok=True)
    disk = LossyDisk(str(root), sync_works=sync_works)
    stall_on_signals(disk)
    with registered() as vfs:
        vfs.attach(str(root), disk)
        return run(flags, disk=disk)


def stall_on_signals(disk: LossyDisk) -> None:
    works = threading.Event()
    works.set()

    def wait(action: str, _path: str) -> None:
        if action == "sync" and threading.current_thread().name == "gemot-log":
            works.wait()

    disk.on_change = wait
    signal.signal(signal.SIGUSR1, lambda _number, _frame: works.clear())
    signal.signal(signal.SIGUSR2, lambda _number, _frame: works.set())


if __name__ == "__main__":
    sys.exit(main())
