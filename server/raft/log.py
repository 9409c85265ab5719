"""The log as the core sees it: recent batches in memory, older ones through a read-only port.

What it is: terms, truncation, what is handed out to be saved, and what is durable. What it is not: it writes
nothing. Terms are kept as runs (a few numbers for millions of entries), so `term` never reads the disk.

Durable is known by save tokens. A save that was handed out before a truncation still finishes after it;
it then vouches only for what it saved *below* the truncation, whatever stands above by now (the ABA case:
append, truncate, append again, and only then the old save's word).
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections import deque
from typing import Protocol

from gemot.server.raft.types import Batch, Entry, SnapshotMeta, entry_size
from gemot.server.raft.voters import VoterHistory

_SCAN_BYTES = 1 << 20


class LogReader(Protocol):
    """What is on disk or on its way there."""

    def term(self, index: int) -> int | None:
        """The term of an entry still held (or of the snapshot just before the first one), else None."""

    def read(self, first: int, last: int, max_bytes: int) -> tuple[Entry, ...]:
        """Entries first..last, fewer when they pass `max_bytes` (at least one)."""


class _Save:
    __slots__ = ("last", "token")

    def __init__(self, token: int, last: int) -> None:
        self.token = token
        self.last = last


class RaftLog:
    """Entries `base`+1..`last`. The term of `base` itself is known too, its entry is gone."""

    def __init__(
        self, *, reader: LogReader, snapshot: SnapshotMeta, last_index: int, window_bytes: int
    ) -> None:
        assert last_index >= snapshot.index, "a log that ends before the snapshot is reset before the start"
        self.snapshot = snapshot
        self.last = last_index
        self.durable = last_index
        self.base = _find_base(reader, snapshot)
        self.voters = VoterHistory(snapshot)
        self._reader = reader
        self._window_bytes = window_bytes
        self._run_first, self._run_term = _find_runs(reader, snapshot, self.base, last_index)
        assert self.term(snapshot.index) == snapshot.term, "log and snapshot agree where they meet"
        self._batches: list[Batch] = []
        self._firsts: list[int] = []
        self._bytes = 0
        self._taken = last_index
        self._saves: deque[_Save] = deque()
        self._scan_voters()

    # -- reading -----------------------------------------------------------------------------------

    def term(self, index: int) -> int | None:
        """The term at `index`; None below the base and above the end."""
        if index < self.base or index > self.last:
            return None
        return self._run_term[bisect_right(self._run_first, index) - 1]

    @property
    def last_term(self) -> int:
        return self._run_term[-1]

    @property
    def taken(self) -> int:
        """The last index handed out to be saved."""
        return self._taken

    @property
    def memory_first(self) -> int:
        return self._firsts[0] if self._firsts else self.last + 1

    def floor(self, index: int, term: int) -> int:
        """The highest index at or below `index` whose term is at most `term`, as far as terms are known.

        Below the base they are not: an index there is answered as it is, and where the base's own term
        is too high, the answer is the index before it.
        """
        if index < self.base:
            return index
        at = min(index, self.last)
        run = bisect_right(self._run_first, at) - 1
        while self._run_term[run] > term:
            if run == 0:
                return self.base - 1
            at = self._run_first[run] - 1
            run -= 1
        return at

    def batch_from(self, first: int, max_bytes: int) -> Batch:
        """Entries from `first` on, up to `max_bytes` but at least one.

        Where a batch in memory starts at `first` it is handed out itself, so that it is encoded once
        for all followers and the disk.
        """
        assert self.base < first <= self.last, f"entry {first} is not in {self.base + 1}..{self.last}"
        if first < self.memory_first:
            return Batch(self._reader.read(first, min(self.last, self.memory_first - 1), max_bytes))
        at = bisect_right(self._firsts, first) - 1
        if self._firsts[at] != first:
            batch = self._batches[at]
            return _cut(batch.entries[first - batch.first :], max_bytes)
        return self._join_from(at, max_bytes)

    def entries(self, first: int, last: int, max_bytes: int) -> tuple[Entry, ...]:
        """Entries first..last, fewer when they pass `max_bytes` or the memory's start, but at least one."""
        assert self.base < first <= last <= self.last, f"{first}..{last} is not in {self.base}..{self.last}"
        if first < self.memory_first:
            return tuple(self._reader.read(first, min(last, self.memory_first - 1), max_bytes))
        found: list[Entry] = []
        size = 0
        at = bisect_right(self._firsts, first) - 1
        while at < len(self._batches) and self._batches[at].first <= last:
            batch = self._batches[at]
            for entry in batch.entries[max(first - batch.first, 0) : last - batch.first + 1]:
                size += entry_size(entry)
                if found and size > max_bytes:
                    return tuple(found)
                found.append(entry)
            at += 1
        return tuple(found)

    # -- writing -----------------------------------------------------------------------------------

    def append(self, batch: Batch) -> None:
        """Put the batch at its place; what stands there and above is replaced."""
        assert self.base < batch.first <= self.last + 1, "no gap in the log"
        if batch.first <= self.last:
            self._truncate(batch.first)
        assert batch.entries[0].term >= self.last_term, "terms never go back along the log"
        self.voters.note(batch.entries)
        self._batches.append(batch)
        self._firsts.append(batch.first)
        self._bytes += batch.size
        for entry in batch.entries:
            if entry.term != self._run_term[-1]:
                self._run_first.append(entry.index)
                self._run_term.append(entry.term)
        self.last = batch.last

    @property
    def has_unsaved(self) -> bool:
        """Something waits to be handed out by `take`."""
        return self._taken < self.last

    def take(self, token: int, max_bytes: int) -> Batch:
        """What is to be saved next, noted under `token`."""
        assert self._taken < self.last, "nothing to save"
        assert not self._saves or self._saves[-1].token < token, "tokens grow"
        batch = self._join_from(bisect_left(self._firsts, self._taken + 1), max_bytes)
        assert batch.first == self._taken + 1, "what is saved has no gap"
        self._taken = batch.last
        self._saves.append(_Save(token, batch.last))
        return batch

    def saved(self, token: int) -> None:
        """The saves up to `token` are done. A token that saved no entries changes nothing."""
        while self._saves and self._saves[0].token <= token:
            self.durable = max(self.durable, self._saves.popleft().last)
        assert self.durable <= self._taken, "only what was handed out can be durable"

    def trim(self, applied: int) -> None:
        """Let go of the oldest batches in memory when they pass the window.

        What is applied goes first; four windows are the end of the patience. The disk has them all.
        """
        if self._bytes <= self._window_bytes:
            return
        limit = self.durable if self._bytes > 4 * self._window_bytes else min(applied, self.durable)
        target = self._window_bytes * 7 // 8
        drop = 0
        while drop < len(self._batches) and self._bytes > target and self._batches[drop].last <= limit:
            self._bytes -= self._batches[drop].size
            drop += 1
        del self._batches[:drop], self._firsts[:drop]

    def compact(self, through: int, snapshot: SnapshotMeta) -> None:
        """Entries up to `through` are gone; `snapshot` is the newest one to offer."""
        assert through <= snapshot.index <= self.durable, "the log is cut only below a durable snapshot"
        self.snapshot = snapshot
        self.voters.compact(min(through, snapshot.index))
        if through <= self.base:
            return
        run = bisect_right(self._run_first, through) - 1
        del self._run_first[:run], self._run_term[:run]
        self._run_first[0] = through
        self.base = through
        drop = 0
        while drop < len(self._batches) and self._batches[drop].last <= through:
            self._bytes -= self._batches[drop].size
            drop += 1
        del self._batches[:drop], self._firsts[:drop]

    def reset(self, snapshot: SnapshotMeta) -> None:
        """A snapshot replaced every entry, durably."""
        assert not self.has_unsaved, "nothing is appended while a snapshot is installed"
        self.snapshot = snapshot
        self.voters = VoterHistory(snapshot)
        self.base = self.last = self.durable = self._taken = snapshot.index
        self._run_first, self._run_term = [snapshot.index], [snapshot.term]
        self._batches, self._firsts, self._bytes = [], [], 0
        self._saves.clear()

    # -- inside ------------------------------------------------------------------------------------

    def _truncate(self, first: int) -> None:
        while self._batches and self._batches[-1].last >= first:
            batch = self._batches.pop()
            self._firsts.pop()
            self._bytes -= batch.size
            if batch.first < first:
                kept = Batch(batch.entries[: first - batch.first])
                self._batches.append(kept)
                self._firsts.append(kept.first)
                self._bytes += kept.size
        while self._run_first[-1] >= first:
            self._run_first.pop()
            self._run_term.pop()
        self.voters.truncate(first)
        self.last = first - 1
        self.durable = min(self.durable, self.last)
        self._taken = min(self._taken, self.last)
        for save in self._saves:
            save.last = min(save.last, self.last)

    def _join_from(self, at: int, max_bytes: int) -> Batch:
        end = at + 1
        size = self._batches[at].size
        while end < len(self._batches) and size + self._batches[end].size <= max_bytes:
            size += self._batches[end].size
            end += 1
        return Batch.join(self._batches[at:end])

    def _scan_voters(self) -> None:
        first = self.snapshot.index + 1
        while first <= self.last:
            entries = self._reader.read(first, self.last, _SCAN_BYTES)
            assert entries, "the log is held to its end"
            assert entries[0].index == first, "the log is held without gaps"
            self.voters.note(entries)
            first = entries[-1].index + 1


def _cut(entries: tuple[Entry, ...], max_bytes: int) -> Batch:
    """The head of the entries up to `max_bytes`, at least one."""
    whole = Batch(entries)
    if whole.size <= max_bytes:
        return whole
    size = 0
    for count, entry in enumerate(entries):
        size += entry_size(entry)
        if count and size > max_bytes:
            return Batch(entries[:count])
    return whole


def _find_base(reader: LogReader, snapshot: SnapshotMeta) -> int:
    """The lowest index whose term is known: what is held is held without gaps up to the snapshot.

    A reader knows the term just before its first entry too, so the entry at the lowest may be gone.
    """
    if snapshot.index == 0 or reader.term(0) is not None:
        return 0  # only a log that still has its very first entry knows what stands before it
    low, high = 1, snapshot.index
    while low < high:
        middle = (low + high) // 2
        if reader.term(middle) is None:
            low = middle + 1
        else:
            high = middle
    return high


def _find_runs(
    reader: LogReader, snapshot: SnapshotMeta, base: int, last: int
) -> tuple[list[int], list[int]]:
    """Where each term begins, found by bisection: terms never go back along the log."""

    def term(index: int) -> int:
        if index == 0:
            return 0
        found = reader.term(index)
        if found is None and index == snapshot.index:
            return snapshot.term
        assert found is not None, f"entry {index} is held"
        return found

    firsts, terms = [base], [term(base)]
    while term(last) != terms[-1]:
        known = terms[-1]
        at = bisect_left(range(last + 1), True, lo=firsts[-1] + 1, key=lambda i: term(i) != known)
        firsts.append(at)
        terms.append(term(at))
    return firsts, terms
