"""The scrubber's pace: so many bytes a second, a pass a day at least, each step on the worker.

What is done about damage: a damaged snapshot is replaced by a new one, and a damaged log segment is dropped
behind a new snapshot (`Server.on_rot`). A damaged state file ends the process if it can be built again: what
opens the data directory does so, told by a mark. Until then nothing damaged is served: every page and every
record is checked again whenever it is read.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from datetime import UTC, datetime

from gemot.server.model.errors import Corrupt
from gemot.server.recovery import Opened, mark_state_damaged
from gemot.server.runtime.disk import Worker
from gemot.server.runtime.timer import Ticker
from gemot.server.server import Server
from gemot.server.storage.disk import Disk
from gemot.server.storage.scrub import PARTS, Part, Rot, Scrub

log = logging.getLogger("gemot.server")

STEP_MS = 250
DAY_S = 86_400.0


class Scrubber:
    """Start it and stop its ticking on the loop. `read`, `passes` and `damage` only grow."""

    def __init__(
        self,
        *,
        loop: asyncio.AbstractEventLoop,
        disk: Disk,
        directory: str,
        opened: Opened,
        server: Server,
        worker: Worker,
        bytes_per_s: int,
        every_s: float,
        fatal: Callable[[BaseException], None],
    ) -> None:
        self._disk = disk
        self._directory = directory
        self._opened = opened
        self._server = server
        self._worker = worker
        self._bytes_per_s = bytes_per_s
        self._every_s = every_s
        self._fatal = fatal
        self._ticker = Ticker(loop=loop, every_ms=STEP_MS, callback=self._tick)
        self._scrub: Scrub | None = None
        self._stepping = False
        self._began_s = 0.0
        self._due_s = 0.0
        self._told = 0
        self.read = 0
        self.passes = 0
        self.damage: dict[Part, int] = dict.fromkeys(PARTS, 0)

    def start(self) -> None:
        if self._bytes_per_s:
            self._due_s = time.monotonic()
            self._ticker.start()

    def stop(self) -> None:
        self._ticker.stop()

    def _tick(self) -> None:
        # While the state is replaced, or the log refilled, there is nothing that lies still.
        if self._stepping or self._server.installer.replacing or self._opened.raft.repairing:
            return
        now = time.monotonic()
        if self._scrub is None:
            if now < self._due_s:
                return
            self._begin(now)
        self._stepping = True
        self._worker.submit(self._step)

    def _begin(self, now: float) -> None:
        opened = self._opened
        self._began_s, self._told = now, 0
        self._due_s = now + self._every_s
        self._scrub = Scrub(
            disk=self._disk,
            directory=self._directory,
            log=opened.durable.log,
            snapshots=opened.snapshots,
            file=opened.file,
        )

    def _step(self) -> Callable[[], None]:
        scrub = self._scrub
        assert scrub is not None, "a pass is under way"
        before = scrub.read
        scrub.step(self._budget(scrub.read))
        return lambda: self._stepped(scrub, scrub.read - before)

    def _budget(self, read: int) -> int:
        """The pace that was set; more if the pass would take longer than a day by it."""
        late_s = time.monotonic() - self._began_s - DAY_S * 0.9
        pace = self._bytes_per_s if late_s < 0 else max(self._bytes_per_s, read // 3_600)
        return max(1, pace * STEP_MS // 1_000)

    def _stepped(self, scrub: Scrub, read: int) -> None:
        self._stepping = False
        self.read += read
        for rot in scrub.found[self._told :]:
            self._on_rot(rot, scrub)
        self._told = len(scrub.found)
        if not scrub.over:
            return
        self._scrub = None
        self.passes += 1
        said = f"{len(scrub.found)} damaged" if scrub.found else "no damage"
        self._server.status.scrubbed = (
            f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}, {scrub.read >> 20} MiB read, {said}"
        )

    def _on_rot(self, rot: Rot, scrub: Scrub) -> None:
        self.damage[rot.part] += 1
        log.error("server: scrub: damage found: %s", rot.message)
        if rot.part != "state":
            self._server.on_rot(rot.last)
        elif scrub.rebuildable():
            mark_state_damaged(self._directory)
            self._fatal(
                Corrupt(f"{rot.message}: stopped, so that nothing damaged is served; a start builds it again")
            )
        else:
            log.error(
                "server: scrub: the state cannot be built again, no snapshot with its log is whole: "
                "take this server out and let it join anew, or restore a backup"
            )
