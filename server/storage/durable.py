"""Log and meta kept in step: what must be durable together, in which order. Synchronous; no thread.

The log thread of the runtime and the simulator's disk both drive this one object.
"""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from gemot.server.raft.types import Batch, HardState, SnapshotMeta
from gemot.server.storage.log import SegmentLog
from gemot.server.storage.meta import MetaFile


class Save(msgspec.Struct, frozen=True):
    """One save asked by the replica; `token` tells which."""

    hard_state: HardState | None
    append: Batch | None
    token: int


class Step(msgspec.Struct, frozen=True):
    """Anything else that must happen in order with the saves; `done` is told on the loop."""

    work: Callable[[], None]
    done: Callable[[], None] | None = None


class DurableLog:
    """The segment log and the meta file of one server."""

    def __init__(self, *, log: SegmentLog, meta: MetaFile) -> None:
        self.log = log
        self.meta = meta

    def append(self, saves: list[Save]) -> bool:
        """Write the batches of these saves, unsynced; True if there were any."""
        batches = [save.append for save in saves if save.append is not None]
        for batch in batches:
            self.log.append(batch)
        return bool(batches)

    def sync(self) -> None:
        self.log.sync()

    def keep_vote(self, saves: list[Save]) -> bool:
        """Make the newest term and vote of these saves durable; True if there was one."""
        newest = next((s.hard_state for s in reversed(saves) if s.hard_state is not None), None)
        if newest is not None:
            self.write_meta(term=newest.term, vote=newest.vote)
        return newest is not None

    def write_meta(self, **changes: object) -> None:
        """Save the meta file with these changes and the log's durable tail as it is now."""
        tail = {"durable_index": self.log.durable_index, "durable_hash": self.log.durable_hash}
        self.meta.save(msgspec.structs.replace(self.meta.meta, **tail, **changes))

    def compact(self, base: SnapshotMeta) -> None:
        """Drop entries up to `base.index`: first is kept who votes then, which only they may tell."""
        self.write_meta(base=base)
        self.log.compact(base.index)

    def reset(self, meta: SnapshotMeta) -> None:
        """The snapshot `meta` takes the place of every entry."""
        self.log.reset(meta.index, meta.term)
        self.write_meta(base=meta)
