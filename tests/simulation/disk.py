"""One server's disk: the `Log` and `Identity` ports as the log thread works them, and what ails the disk.

`DiskFaults` outlives the process, as a bad disk does: it is asked before each write, sync and read of log,
vote, snapshots and state file alike.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from typing import TYPE_CHECKING

from simulation.world import World
from support.lossy_disk import Fenced, Inode, LossyDisk
from support.scars import Scar

from gemot.server.model.errors import DiskFailed
from gemot.server.raft.types import Batch, Entry, HardState, SnapshotMeta
from gemot.server.recovery import Opened
from gemot.server.storage.disk import SECTOR
from gemot.server.storage.durable import Save, Step

if TYPE_CHECKING:
    from simulation.node import Node

SYNC_MIN_US = 100
SYNC_MAX_US = 3_000
PREPARE_MAX_US = 200_000
PREPARE_AGAIN_US = 5_000_000
META_TAIL_EVERY_US = 1_000_000
MEMORY_ONLY = ("log/", "meta-")
"""What nobody but our own disk port reads needs no real file."""


PLENTY = 1 << 40


class PowerLost(Fenced):
    """The power went in the middle of an operation: the host is off from this write on."""


def part_of(path: str) -> str:
    """Which part of the data directory this file belongs to: meta, log, snap, keep or state."""
    folder, name = os.path.split(path)
    if name.startswith("meta-"):
        return "meta"
    if os.path.basename(folder) in ("export", "restore"):
        return "keep"
    if os.path.basename(folder) in ("log", "snap"):
        return os.path.basename(folder)
    return "state" if name.startswith("state.db") else "log"


class DiskFaults:
    """What is wrong with one server's disk. Armed by the faults, counted when it happens."""

    def __init__(self, world: World, fired: Callable[[str], None]) -> None:
        self._world = world
        self._fired = fired
        self.errors: dict[tuple[str, str], str] = {}
        """(write, sync or read; part): the name of the fault that fails the next one with EIO."""

        self.full: dict[str, str] = {}
        """Parts in which no file can grow, with the name of the fault."""

        self._disk: LossyDisk | None = None
        self._capacity: int | None = None
        """How many bytes the disk holds in all; None: more than will ever be written."""

        self.bent: tuple[str, str] | None = None
        """("lost" or "misdirected", part): what becomes of the next write there."""

        self.stalled_until_us = 0
        self.slow = 1
        self.bent_us = -1
        """When a write was last lost or misdirected."""

        self.cut_in: int | None = None
        """The power goes at the changing operation this many from now."""

        self.cut_name = ""

        self.power_lost = False
        self.damaged: Callable[[str, str, list[Scar]], None] = lambda _fault, _path, _scars: None
        """Told of each write that was lost or went astray, and what that left in its file."""

    def attach(self, disk: LossyDisk) -> None:
        self._disk = disk
        disk.on_change, disk.on_read, disk.on_write = self._on_change, self._on_read, self._on_write

    def cut_power_in(self, operations: int, name: str) -> None:
        self.cut_in, self.cut_name = operations, name

    def mend(self) -> None:
        """A new disk, or a patient one: what is armed goes, what has happened stays."""
        self.errors.clear()
        self.full.clear()
        self.bent = self.cut_in = self._capacity = None
        self.stalled_until_us, self.slow = 0, 1

    # -- room --------------------------------------------------------------------------------------

    def limit(self, free: int) -> None:
        """From now on so many bytes are free."""
        assert self._disk is not None
        self._capacity = self._disk.used_bytes() + free

    def unlimit(self) -> None:
        self._capacity = None

    def room(self) -> tuple[int, int]:
        """Bytes free, and bytes in all."""
        assert self._disk is not None
        if self._capacity is None:
            return PLENTY, 2 * PLENTY
        return max(0, self._capacity - self._disk.used_bytes()), self._capacity

    def sync_us(self) -> int:
        """How long the next sync takes."""
        wait = self._world.random.randrange(SYNC_MIN_US, SYNC_MAX_US) * self.slow
        return max(wait, self.stalled_until_us - self._world.now_us)

    def _on_change(self, action: str, path: str) -> None:
        if self.power_lost:
            raise PowerLost("there is no power")
        if self.cut_in is not None:
            self.cut_in -= 1
            if self.cut_in < 0:
                self.cut_in, self.power_lost = None, True
                self._fired(self.cut_name)
                raise PowerLost(f"the power went at: {action} {path}")
        if self.errors:
            self._maybe_fail("sync" if action == "sync_dir" else action, path)

    def _on_read(self, path: str) -> None:
        if self.errors:
            self._maybe_fail("read", path)

    def _maybe_fail(self, action: str, path: str) -> None:
        name = self.errors.pop((action, part_of(path)), None)
        if name is not None:
            self._fired(name)
            raise _failed(action, path, errno.EIO)

    def _on_write(self, path: str, inode: Inode, data: bytes, offset: int) -> list[tuple[int, bytes]]:
        if self.full and offset + len(data) > len(inode.content) and (part := part_of(path)) in self.full:
            self._fired(self.full[part])
            raise _failed("write", path, errno.ENOSPC)
        growth = offset + len(data) - len(inode.content)
        if self._capacity is not None and growth > 0 and self.room()[0] < growth:
            self._fired("enospc-filled")
            raise _failed("write", path, errno.ENOSPC)
        if self.bent is not None and self.bent[1] == part_of(path) and data.strip(b"\0"):
            (kind, part), self.bent, self.bent_us = self.bent, None, self._world.now_us
            name = f"{kind}-write" if part == "log" else f"{kind}-write-{part}"
            self._fired(name)
            places = (len(inode.durable) - len(data)) // SECTOR
            if kind == "lost" or places < 1:
                self.damaged(name, path, [inode.lose(data, offset)])
                return []
            astray = self._world.random.randrange(places) * SECTOR
            self.damaged(name, path, [inode.lose(data, offset), inode.scratch(data, astray)])
            return [(astray, data)]
        return [(offset, data)]


def _failed(action: str, path: str, code: int) -> DiskFailed:
    return DiskFailed(f"cannot {action} {path}: {os.strerror(code)} ({errno.errorcode[code]})")


class SimulatedSpace:
    """The `DiskSpace` port: measured in the moment that it is asked for."""

    def __init__(self, faults: DiskFaults, opened: Opened) -> None:
        self._faults = faults
        self._opened = opened

    def measured(self) -> tuple[int, int, int]:
        return (*self._faults.room(), self._opened.state.applied_index)


class SimulatedLog:
    """The `Log` and `Identity` ports: group commit as the log thread does it, syncs that take their time."""

    def __init__(self, world: World, node: Node, opened: Opened) -> None:
        self._world = world
        self._node = node
        self._life = node.life
        self._durable = opened.durable
        self._queue: list[Save | Step] = []
        self._busy = False
        self._preparing = False
        self._meta_written_us = world.now_us
        self._cluster = opened.durable.meta.meta.cluster_id
        self._pledge = opened.durable.meta.meta.promised_cluster

    def save(self, hard_state: HardState | None, append: Batch | None, token: int) -> None:
        self._add(Save(hard_state, append, token))

    def term(self, index: int) -> int | None:
        return self._durable.log.term(index)

    def read(self, first: int, last: int, max_bytes: int) -> tuple[Entry, ...]:
        return self._durable.log.read(first, last, max_bytes)

    def compact(self, base: SnapshotMeta) -> None:
        self._add(Step(lambda: self._durable.compact(base)))

    def reset(self, meta: SnapshotMeta, done: Callable[[], None]) -> None:
        self._add(Step(lambda: self._reset(meta), done))

    def flush(self, done: Callable[[], None]) -> None:
        self._add(Step(lambda: None, done))

    def cluster(self) -> str:
        return self._cluster

    def adopt(self, cluster: str) -> None:
        self._cluster = cluster
        self._add(Step(lambda: self._durable.write_meta(cluster_id=cluster)))

    def pledge(self) -> bytes:
        return bytes.fromhex(self._pledge)

    def keep_pledge(self, pledge: bytes, done: Callable[[], None]) -> None:
        self._pledge = pledge.hex()
        self._add(Step(lambda: self._durable.write_meta(promised_cluster=pledge.hex()), done))

    def repaired(self) -> None:
        self._add(Step(lambda: self._durable.write_meta(repairing=False)))

    def _reset(self, meta: SnapshotMeta) -> None:
        self._durable.reset(meta)
        self._node.look_at_log()

    def _add(self, item: Save | Step) -> None:
        if self._node.life != self._life:
            raise Fenced(f"{self._node.name} writes after its death")
        self._queue.append(item)
        if not self._busy:
            self._busy = True
            self._world.soon(self._begin, self._node)

    def _take(self) -> list[Save | Step]:
        """Saves that stand together, and the steps that follow them: their order is kept."""
        at = 0
        while at < len(self._queue) and isinstance(self._queue[at], Save):
            at += 1
        while at < len(self._queue) and isinstance(self._queue[at], Step):
            at += 1
        items, self._queue = self._queue[:at], self._queue[at:]
        return items

    def _begin(self) -> None:
        if self._node.life != self._life:
            return
        items = self._take()
        saves = [item for item in items if isinstance(item, Save)]
        self._durable.append(saves)
        label = f"{self._node.name} sync"
        self._world.at(self._node.disk.sync_us(), label, lambda: self._finish(items, saves), self._node)

    def _finish(self, items: list[Save | Step], saves: list[Save]) -> None:
        if self._node.life != self._life:
            return
        self._durable.sync()
        voted = self._durable.keep_vote(saves)
        for save in saves:
            if save.append is not None:
                self._node.note_durable(save.append)
        for item in items:
            if isinstance(item, Step):
                item.work()
                if item.done is not None:
                    self._world.soon(item.done, self._node)
        if saves and self._node.server is not None:
            self._node.server.replica.on_saved(saves[-1].token)
        self._keep_mark(voted)
        self._busy = bool(self._queue)
        if self._busy:
            self._world.soon(self._begin, self._node)
        if self._durable.log.wants_spare and not self._preparing:
            self._preparing = True
            self._prepare_in(self._world.random.randrange(PREPARE_MAX_US))

    def _keep_mark(self, voted: bool) -> None:
        """The mark of the durable tail goes to the vote file each second, as the log thread has it."""
        if not voted and self._world.now_us - self._meta_written_us < META_TAIL_EVERY_US:
            return
        self._meta_written_us = self._world.now_us
        if not voted:
            self._durable.write_meta()
        self._node.marked_us = self._world.now_us

    def _prepare_in(self, delay_us: int) -> None:
        self._world.at(delay_us, f"{self._node.name} spare", self._prepare, self._node)

    def _prepare(self) -> None:
        if self._node.life != self._life:
            return
        try:
            spare = self._durable.log.make_spare()
        except DiskFailed:
            # Nothing is lost yet: what is free may still do when the segment is full.
            self._prepare_in(PREPARE_AGAIN_US)
            return
        self._add(Step(lambda: self._durable.log.keep_spare(spare), self._prepared))

    def _prepared(self) -> None:
        self._preparing = False
