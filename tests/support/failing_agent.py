"""An agent whose disk fails when it is told to: `python failing_agent.py ERRNO FLAGS`.

After SIGUSR1 the next sync of the log, the vote or a snapshot fails with this errno, once.
"""

from __future__ import annotations

import errno
import signal
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

from support.lossy_disk import LossyDisk
from support.lossy_vfs import registered

from gemot.agent.cli.agent import run
from gemot.agent.config.flags import parse


def main() -> int:
    code = getattr(errno, sys.argv[1])
    flags = parse(sys.argv[2:])
    root = Path(flags.overrides["data_dir"])
    root.mkdir(parents=True, exist_ok=True)
    disk = LossyDisk(str(root))

    def fail(_number: int, _frame: object) -> None:
        disk.fail_sync = code

    signal.signal(signal.SIGUSR1, fail)
    with registered() as vfs:
        vfs.attach(str(root), disk)
        return run(flags, disk=disk)


if __name__ == "__main__":
    sys.exit(main())
