"""A process that runs one template to its end, and can kill itself right before any step on the disk.

Arguments: a directory, the value the servers tell ("" for servers that never answer), and which step (counted
from 1: opening to write, making, renaming, removing, starting a program) it does not survive (0: none). It
prints the number of steps it took. Run as a program by the crash tests.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from support.fed_servers import FedServers
from support.template_bench import entry, until

from gemot.agent.template.definition import parse_template
from gemot.agent.template.runner import TemplateRunner
from gemot.agent.views import Views
from gemot.server.model.kv import KvGet

STEPS = ("open", "os.mkdir", "os.rename", "os.remove", "os.chmod", "os.link", "subprocess.Popen")


class Fuse:
    def __init__(self, root: Path, blow_at: int) -> None:
        self.steps = 0
        self._root = str(root)
        self._blow_at = blow_at
        self._armed = True

    def __call__(self, event: str, arguments: tuple[object, ...]) -> None:
        if not self._armed or event not in STEPS:
            return
        if event == "open" and not (isinstance(arguments[2], int) and arguments[2] & os.O_ACCMODE):
            return
        if event != "subprocess.Popen" and not str(arguments[0]).startswith(self._root):
            return
        self.steps += 1
        if self.steps == self._blow_at:
            os.kill(os.getpid(), signal.SIGKILL)

    def disarm(self) -> None:
        self._armed = False


async def run(root: Path, value: str, fuse: Fuse) -> None:
    servers = FedServers()
    if value:
        servers.tell(KvGet(b"a"), entry("a", value))
    views = Views(servers=servers, limit=10)
    out, log = root / "out" / "file", root / "log"
    command = f"cat {out} >> {log}"
    definition = parse_template(
        {"contents": "{{ key('a') }}\n", "destination": str(out), "command": command, "backup": True}
    )
    runner = TemplateRunner(definitions=[definition], views=views, data_dir=root / "data")
    await runner.start()

    def settled() -> bool:
        status = runner.status()[0]
        return (bool(status.rendered_at) or not value) and not status.pending_command

    await until(settled, "an end of the work")
    fuse.disarm()
    await runner.stop()
    views.stop()


def main() -> None:
    root, value, step = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
    fuse = Fuse(root, step)
    sys.addaudithook(fuse)
    asyncio.run(run(root, value, fuse))
    print(fuse.steps)


if __name__ == "__main__":
    main()
