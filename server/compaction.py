"""Keeps log and state file small: snapshots when there is enough to leave out, checkpoints of the state.

What it is: when the long work of `Upkeep` is begun, and what the log may forget afterwards. What it is not:
it copies and removes nothing itself.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from gemot.server.ports import Log, Timer, Upkeep
from gemot.server.raft.node import Raft
from gemot.server.raft.types import SnapshotMeta
from gemot.server.state.store import State

STORM = 16
"""Times `snapshot_entries`: with so many entries since the last snapshot the rest between two is over."""


class Bounds(Protocol):
    """What of a server's configuration matters here."""

    @property
    def snapshot_entries(self) -> int: ...

    @property
    def snapshot_rest_ms(self) -> int: ...

    @property
    def trailing_entries(self) -> int: ...

    @property
    def checkpoint_wal_bytes(self) -> int: ...


class Compaction:
    """Call `on_second` each second. `replacing` and `fits` say whether a snapshot may be taken now."""

    def __init__(
        self,
        *,
        bounds: Bounds,
        raft: Raft,
        log: Log,
        state: State,
        upkeep: Upkeep,
        timer: Timer,
        replacing: Callable[[], bool],
        fits: Callable[[], bool],
    ) -> None:
        self._bounds = bounds
        self._raft = raft
        self._log = log
        self._state = state
        self._upkeep = upkeep
        self._timer = timer
        self._replacing = replacing
        self._fits = fits
        self._snapshotting = False
        self._checkpointing = False
        self._begun_ms = -bounds.snapshot_rest_ms
        self._renew: int | None = None

    @property
    def busy(self) -> bool:
        """Is a copy or a checkpoint under way?"""
        return self._snapshotting or self._checkpointing

    def on_second(self) -> None:
        if self._replacing():
            return
        self._state.settle()
        if self._due() and not self._snapshotting and self._fits():
            self._snapshotting = True
            self._begun_ms = self._timer.now_ms()
            self._upkeep.take_snapshot(self._raft.voters_at, self.taken)
        if self._state.wal_bytes() >= self._bounds.checkpoint_wal_bytes and not self._checkpointing:
            self._checkpointing = True
            self._upkeep.checkpoint(self._checkpointed)

    def on_rot(self, through: int) -> None:
        """Damage was found in a snapshot, or in the log up to entry `through`: take a new snapshot soon."""
        self._renew = max(self._renew or 0, through)

    def _due(self) -> bool:
        """Something damaged is to be replaced, or there are enough entries since the last one.

        And under a storm of writes not a copy every few seconds.
        """
        applied = self._state.applied_index
        if self._renew is not None and applied >= max(self._renew, 1):
            return True
        newest = self._upkeep.newest_snapshot()
        since = applied - (newest.index if newest is not None else 0)
        rested = self._timer.now_ms() - self._begun_ms >= self._bounds.snapshot_rest_ms
        enough = self._bounds.snapshot_entries
        return since >= enough and (rested or since >= STORM * enough)

    def taken(self, meta: SnapshotMeta) -> None:
        """There is a new snapshot: the log may forget what is before the older one."""
        self._snapshotting = False
        oldest = self._upkeep.oldest_snapshot()
        assert oldest is not None, "a snapshot was just taken"
        through = min(oldest.index, self._state.applied_index - self._bounds.trailing_entries)
        if self._renew is not None and self._renew <= meta.index:
            # What is before the damage leads nowhere: the older snapshot does not need it.
            through, self._renew = max(through, self._renew), None
        term = self._raft.term_at(through)
        if through > 0 and term is not None:  # else a renewed snapshot let it forget more before
            self._log.compact(SnapshotMeta(through, term, self._raft.voters_at(through)))
        self._raft.compacted(max(through, 0), meta)

    def _checkpointed(self, _proven: int) -> None:
        self._checkpointing = False
