"""The long work of one simulated server, each piece at a moment of its own: snapshots, checkpoints, lists.

What takes a worker some time is two events, with all that may happen between them: at its beginning the
stage is told (`Node.stage`), so that a fault can strike while it is under way.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from simulation.world import World

from gemot.server.copies import Incoming, chunk_of, write_snapshot
from gemot.server.model.errors import GemotError
from gemot.server.model.query import Query
from gemot.server.ports import Inbox
from gemot.server.raft.types import SnapshotMeta
from gemot.server.recovery import Opened
from gemot.server.rpc.message import SnapshotChunk
from gemot.server.state.store import Found

if TYPE_CHECKING:
    from simulation.node import Node

LIST_US = 40_000
WORK_US = 400_000
SNAPSHOT_US = 50_000
CHECKPOINT_US = 20_000
SLOWEST = 10
"""A slow disk makes long work no longer than that many times: it must be over before the calm is."""


class SimulatedReader:
    """The `Reader` port: begins at a moment of its own, holds its transaction for a while, then answers."""

    def __init__(self, world: World, node: Node, opened: Opened) -> None:
        self._world = world
        self._node = node
        self._life = node.life
        self._opened = opened

    def submit(self, query: Query, accessor: str, done: Callable[[Found | GemotError], None]) -> None:
        self._opened.state.settle()
        committed, label = self._opened.state.applied_index, f"{self._node.name} list"

        def answer(found: Found) -> None:
            if self._node.life != self._life:
                return
            self._node.lists += 1
            self._node.served = found.as_of
            done(found)
            self._node.served = None

        def read() -> None:
            if self._node.life != self._life:
                return
            assert not self._node.replacing, "the state file is read while it is replaced"
            with contextlib.closing(self._opened.file.reader()) as connection:
                found = self._opened.state.read_on(connection, query, accessor, from_index=committed)
            self._node.later(self._world.random.randrange(LIST_US), label, lambda: answer(found))

        self._node.later(self._world.random.randrange(LIST_US), label, read)


class SimulatedInbox:
    """An incoming snapshot, verified somewhat later."""

    def __init__(self, upkeep: SimulatedUpkeep, incoming: Incoming) -> None:
        self._upkeep = upkeep
        self._incoming = incoming
        self.write = incoming.write

    def finish(self, done: Callable[[GemotError | None], None]) -> None:
        def verify() -> None:
            refusal = self._incoming.finish()
            self._upkeep.work("verified", lambda: done(refusal))

        self._upkeep.work("verify", verify, "install")


class SimulatedUpkeep:
    """The `Upkeep` port of one life."""

    def __init__(self, world: World, node: Node, opened: Opened) -> None:
        self._world = world
        self._node = node
        self._opened = opened

    def take_snapshot(
        self, voters_at: Callable[[int], tuple[str, ...]], done: Callable[[SnapshotMeta], None]
    ) -> None:
        opened, state = self._opened, self._opened.state

        def take() -> None:
            meta = write_snapshot(opened.file, opened.snapshots, self._node.lossy, voters_at, state.epoch)
            self._node.snapshots += 1
            self.work("snapshot taken", lambda: done(meta), us=SNAPSHOT_US)

        self.work("snapshot", take, "snapshot", SNAPSHOT_US)

    def checkpoint(self, done: Callable[[int], None]) -> None:
        def run() -> None:
            proven = self._opened.file.checkpoint()
            self._node.checkpoints += 1
            self.work("checkpointed", lambda: done(proven), us=CHECKPOINT_US)

        self.work("checkpoint", run, "checkpoint", CHECKPOINT_US)

    def newest_snapshot(self) -> SnapshotMeta | None:
        return self._opened.snapshots.newest()

    def oldest_snapshot(self) -> SnapshotMeta | None:
        return next(iter(self._opened.snapshots.all()), None)

    def read_chunk(self, index: int, term: int, offset: int) -> SnapshotChunk:
        return chunk_of(self._opened.snapshots, index, term, offset)

    def inbox(self, meta: SnapshotMeta, first: SnapshotChunk) -> Inbox:
        return SimulatedInbox(self, Incoming(self._opened.snapshots, meta, first))

    def replace_state(self, meta: SnapshotMeta, done: Callable[[], None]) -> None:
        opened, node = self._opened, self._node
        node.replacing = True
        # Who reads or writes the state before it is replaced fails, as it would at the worst of moments.
        opened.file.close()

        def replaced() -> None:
            node.installs += 1
            node.replacing = False
            opened.state.reload()
            done()

        def replace() -> None:
            opened.file.install(Path(opened.snapshots.path(meta)))
            self.work("replaced", replaced)

        self.work("replace", replace, "install")

    def work(self, label: str, piece: Callable[[], None], stage: str = "", us: int = WORK_US) -> None:
        """The worker: one piece of its work, somewhat later, if the process still lives."""
        node = self._node
        delay = self._world.random.randrange(us) * min(node.disk.slow, SLOWEST)
        node.later(delay, f"{node.name} {label}", piece)
        if stage:
            node.stage(node, stage, delay)
