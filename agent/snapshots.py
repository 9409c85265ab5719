"""The snapshot agent: the leader saves the state to files by itself, checks each, and keeps the newest.

It runs on every server that is told to and works on the one that leads, so it moves with the leadership.
A failure is told in the log (`event=snapshot-agent-failed`), in `gemot status` and in metrics, and is tried
again soon; it never harms the server. Nothing here knows how a snapshot is made: it is fetched like anyone's.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import re
import shutil
import tempfile
from collections.abc import Awaitable, Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from time import time

import msgspec

from gemot.agent.archives import Saved
from gemot.agent.durable import sync_folder
from gemot.server.model.errors import Corrupt, GemotError
from gemot.server.runtime.cause import failure_of
from gemot.server.storage import inspection
from gemot.server.storage.realdisk import RealDisk

log = logging.getLogger("gemot.agent")

LOOK_EVERY_S = 1.0
AGAIN_S = 60.0
"""After a failure, if the interval is not shorter."""

_NAME = re.compile(r"gemot-(\d{20})-(\d{8}T\d{6}Z)\.snap")
_UNVERIFIED = ".unverified"
_SCRATCH = ".gemot-snapshot-agent-"
_PIECE_BYTES = 1 << 20


class Plan(msgspec.Struct, frozen=True):
    """What the configuration says. Of the files in `path`, `retain` stay."""

    path: str
    interval_s: float
    retain: int
    verify: bool


class SnapshotAgent:
    """Works from `start` to `stop`. `wall` tells the time that names files, in seconds."""

    def __init__(
        self,
        *,
        plan: Plan,
        leads: Callable[[], bool],
        save: Callable[[], Awaitable[Saved]],
        wall: Callable[[], float] = time,
        look_every_s: float = LOOK_EVERY_S,
    ) -> None:
        self._plan = plan
        self._leads = leads
        self._save = save
        self._wall = wall
        self._look_every_s = look_every_s
        self._task: asyncio.Task[None] | None = None
        self._due_s = 0.0
        self.taken = 0
        self.failures = 0
        self.last_index = 0
        self.last_s = 0.0
        self.last_failure = ""

    async def start(self) -> None:
        self._task = asyncio.get_running_loop().create_task(self._run())

    async def stop(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    def stats(self) -> dict[str, str]:
        """For `gemot status`, `gemot info` and `/v1/agent/self`."""
        at = datetime.fromtimestamp(self.last_s, UTC).isoformat(timespec="seconds") if self.last_s else ""
        return {
            "path": self._plan.path,
            "leads": str(self._leads()).lower(),
            "taken": str(self.taken),
            "failures": str(self.failures),
            "last_index": str(self.last_index),
            "last_time": at,
            "last_failure": self.last_failure,
        }

    async def _run(self) -> None:
        led = False
        while True:
            leads = self._leads()
            if leads and not led:
                self._due_s = await asyncio.to_thread(self._due_at_first)
            led = leads
            if leads and self._wall() >= self._due_s:
                await self._take_one()
            await asyncio.sleep(self._look_every_s)

    def _due_at_first(self) -> float:
        """An interval after the newest file here: leadership that comes back takes none too many."""
        with contextlib.suppress(OSError):
            if found := _files(Path(self._plan.path)):
                return found[-1].stat().st_mtime + self._plan.interval_s
        return 0.0

    async def _take_one(self) -> None:
        began = self._wall()
        try:
            await self._take(began)
        except (GemotError, OSError) as error:
            self.failures += 1
            self.last_failure = failure_of(error)
            self._due_s = began + min(self._plan.interval_s, AGAIN_S)
            log.error(
                "agent: snapshot not taken: event=snapshot-agent-failed path=%s error=%s",
                self._plan.path,
                self.last_failure,
            )
        else:
            self.last_failure = ""
            self._due_s = began + self._plan.interval_s
            # Counted when all of it is done: whoever sees the count sees the folder as it is to be.
            self.taken += 1

    async def _take(self, now_s: float) -> None:
        folder = Path(self._plan.path)
        await asyncio.to_thread(_prepare, folder)
        saved = await self._save()
        stamp = datetime.fromtimestamp(now_s, UTC).strftime("%Y%m%dT%H%M%SZ")
        target = folder / f"gemot-{saved.index:020d}-{stamp}.snap"
        unverified = target.with_name(target.name + _UNVERIFIED)
        try:
            await _write(unverified, saved)
            if self._plan.verify:
                await asyncio.to_thread(_verify, unverified, saved.index)
            await asyncio.to_thread(_publish, unverified, target)
        except BaseException:
            unverified.unlink(missing_ok=True)
            raise
        self.last_index, self.last_s = saved.index, now_s
        log.info("agent: snapshot taken: index=%d file=%s", saved.index, target)
        await asyncio.to_thread(_remove_oldest, folder, self._plan.retain)


def _prepare(folder: Path) -> None:
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    for name in os.listdir(folder):
        if name.endswith(_UNVERIFIED) and _NAME.fullmatch(name.removesuffix(_UNVERIFIED)):
            (folder / name).unlink(missing_ok=True)
        elif name.startswith(_SCRATCH):
            shutil.rmtree(folder / name, ignore_errors=True)


async def _write(path: Path, saved: Saved) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        async for piece in saved.pieces:
            await asyncio.to_thread(file.write, piece)
        file.flush()
        await asyncio.to_thread(os.fsync, file.fileno())


def _verify(path: Path, index: int) -> None:
    with tempfile.TemporaryDirectory(prefix=_SCRATCH, dir=path.parent) as folder:
        found = inspection.inspect(_pieces(path), RealDisk(sync=False), f"{folder}/state")
    if found.head.index != index:
        raise Corrupt(f"{path} is of index {found.head.index}, not {index}")


def _pieces(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        while piece := file.read(_PIECE_BYTES):
            yield piece


def _publish(unverified: Path, target: Path) -> None:
    os.replace(unverified, target)
    sync_folder(target.parent)


def _files(folder: Path) -> list[Path]:
    """The snapshots there, oldest first; whatever else lies there is not touched."""
    found = ((m[2], m[1], name) for name in os.listdir(folder) if (m := _NAME.fullmatch(name)))
    return [folder / name for _, _, name in sorted(found)]


def _remove_oldest(folder: Path, retain: int) -> None:
    for path in _files(folder)[:-retain]:
        path.unlink(missing_ok=True)
