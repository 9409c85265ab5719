"""A disk for one Raft server: saves finish later, in order; a crash loses those that have not."""

from __future__ import annotations

from collections import deque
from typing import NamedTuple

from gemot.server.raft.types import Batch, Entry, HardState, SnapshotMeta

NO_SNAPSHOT = SnapshotMeta(0, 0, ())


class Save(NamedTuple):
    token: int
    hard_state: HardState | None
    append: Batch | None


class Tail:
    """Entries after a base; `base_term` is the term just before the first."""

    def __init__(self) -> None:
        self.base = 0
        self.base_term = 0
        self.entries: list[Entry] = []

    @property
    def last(self) -> int:
        return self.base + len(self.entries)

    def copy(self) -> Tail:
        other = Tail()
        other.base, other.base_term, other.entries = self.base, self.base_term, list(self.entries)
        return other

    def put(self, batch: Batch) -> None:
        assert self.base < batch.first <= self.last + 1, "a save leaves no gap"
        del self.entries[batch.first - self.base - 1 :]
        self.entries.extend(batch.entries)

    def term(self, index: int) -> int | None:
        if index == self.base:
            return self.base_term
        return self.entries[index - self.base - 1].term if self.base < index <= self.last else None


class Disk:
    """What survives a crash (`durable`), and what is on its way there."""

    def __init__(self) -> None:
        self.hard_state = HardState(0, "")
        self.snapshot = NO_SNAPSHOT
        self.durable = Tail()
        self.pending: deque[Save] = deque()
        self._view = Tail()
        self.reads = 0

    # -- the core's LogReader: saved or being saved --------------------------------------------------

    def term(self, index: int) -> int | None:
        return self._view.term(index)

    def read(self, first: int, last: int, max_bytes: int) -> tuple[Entry, ...]:
        assert self._view.base < first <= last <= self._view.last, "only what is held is read"
        self.reads += 1
        found: list[Entry] = []
        size = 0
        for entry in self._view.entries[first - self._view.base - 1 : last - self._view.base]:
            size += len(entry.data) + 24
            if found and size > max_bytes:
                break
            found.append(entry)
        return tuple(found)

    # -- what the driver does ------------------------------------------------------------------------

    def save(self, save: Save) -> None:
        self.pending.append(save)
        if save.append is not None:
            self._view.put(save.append)

    def finish(self) -> Save:
        """The oldest save becomes durable."""
        save = self.pending.popleft()
        if save.hard_state is not None:
            self.hard_state = save.hard_state
        if save.append is not None:
            self.durable.put(save.append)
        return save

    def crash(self) -> None:
        self.pending.clear()
        self._view = self.durable.copy()

    def install(self, meta: SnapshotMeta) -> None:
        assert not self.pending, "a reset follows the saves before it"
        self.snapshot = meta
        self.durable = Tail()
        self.durable.base, self.durable.base_term = meta.index, meta.term
        self._view = self.durable.copy()

    def take_snapshot(self, meta: SnapshotMeta) -> None:
        self.snapshot = meta

    def compact(self, through: int) -> None:
        assert through <= self.snapshot.index
        for tail in (self.durable, self._view):
            term = tail.term(through)
            assert term is not None
            del tail.entries[: through - tail.base]
            tail.base, tail.base_term = through, term

    def lose_tail(self, keep: int) -> None:
        """Damage: durable entries after `keep` are found unreadable."""
        assert not self.pending
        del self.durable.entries[max(keep - self.durable.base, 0) :]
        self._view = self.durable.copy()
