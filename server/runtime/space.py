"""The `DiskSpace` port: one look at the file system a second, on a thread: a disk may keep one waiting."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from gemot.server.model.errors import DiskFailed
from gemot.server.runtime.disk import Tell, Worker
from gemot.server.runtime.timer import Ticker
from gemot.server.storage.disk import Disk

EVERY_MS = 1_000


class DiskWatch:
    """Not the worker of snapshots: while one is copied, room must be looked at more than ever."""

    def __init__(
        self,
        *,
        loop: asyncio.AbstractEventLoop,
        disk: Disk,
        directory: str,
        applied: Callable[[], int],
        tell: Tell,
        fatal: Callable[[BaseException], None],
    ) -> None:
        self._disk = disk
        self._path = directory
        self._applied = applied
        self._measured: tuple[int, int, int] | None = None
        self._looking = False
        self._worker = Worker(loop=loop, tell=tell, fatal=fatal, name="gemot-space")
        self._ticker = Ticker(loop=loop, every_ms=EVERY_MS, callback=self._look)

    def start(self) -> None:
        self._worker.start()
        self._ticker.start()
        self._look()

    def stop(self) -> None:
        """Blocks until a look under way is over; `stop_ticking` comes first, on the loop."""
        self._worker.stop()

    def stop_ticking(self) -> None:
        self._ticker.stop()

    def measured(self) -> tuple[int, int, int] | None:
        return self._measured

    def _look(self) -> None:
        if self._looking:
            return  # the disk keeps us waiting: what was seen last stands
        self._looking = True
        applied = self._applied()  # before the look: what is applied while it lasts may not be in it
        self._worker.submit(lambda: self._work(applied))

    def _work(self, applied: int) -> Callable[[], None]:
        try:
            found = self._disk.free_bytes(self._path), self._disk.disk_bytes(self._path), applied
        except DiskFailed:
            return lambda: self._seen(None)  # whoever writes there will fail, and say why
        return lambda: self._seen(found)

    def _seen(self, found: tuple[int, int, int] | None) -> None:
        self._measured, self._looking = found, False
