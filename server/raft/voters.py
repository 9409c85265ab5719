"""Who votes, by log index: every VOTERS entry since the snapshot, so that truncation rolls it back.

A server uses the newest voter set in its log, committed or not (thesis 4.1); when that entry is truncated
it goes back to the one before. The first item comes from the snapshot.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import msgspec

from gemot.server.raft.types import Entry, EntryKind, SnapshotMeta, Voters

_decoder = msgspec.msgpack.Decoder(Voters)


def decode_voters(entry: Entry) -> tuple[str, ...]:
    """The set in a VOTERS entry. Raises msgspec.DecodeError or ValueError when it holds none."""
    voters = _decoder.decode(entry.data).voters
    if not voters or list(voters) != sorted(set(voters)) or "" in voters:
        raise ValueError(f"the voter set of entry {entry.index} is empty, unsorted, or names one twice")
    return voters


def by_hand(entry: Entry) -> str:
    """What a VOTERS entry says of having been written by hand, "" of any other."""
    return _decoder.decode(entry.data).by_hand if entry.kind == EntryKind.VOTERS else ""


class VoterHistory:
    """(index, voters) pairs, ascending; never empty."""

    def __init__(self, snapshot: SnapshotMeta) -> None:
        self._sets: list[tuple[int, tuple[str, ...]]] = [(snapshot.index, snapshot.voters)]

    @property
    def latest(self) -> tuple[str, ...]:
        return self._sets[-1][1]

    @property
    def latest_index(self) -> int:
        """Where the latest set stands in the log."""
        return self._sets[-1][0]

    def at(self, index: int) -> tuple[str, ...]:
        """The set in force at this index: what a snapshot up to it names."""
        found = self._sets[0][1]
        for start, voters in self._sets:
            if start > index:
                break
            found = voters
        return found

    def names_since(self, id: str, index: int) -> bool:
        """The server is in the set in force at `index`, or in any later one."""
        earlier = any(end > index and id in voters for (_, voters), (end, _) in pairwise(self._sets))
        return earlier or id in self.latest

    def note(self, entries: Sequence[Entry]) -> None:
        """Appended to the log."""
        for entry in entries:
            if entry.kind == EntryKind.VOTERS:
                assert entry.index > self.latest_index, "voter sets are noted in the log's order"
                self._sets.append((entry.index, decode_voters(entry)))

    def truncate(self, first: int) -> None:
        """Entries from `first` on are gone."""
        while len(self._sets) > 1 and self._sets[-1][0] >= first:
            self._sets.pop()
        assert self._sets[-1][0] < first, "a snapshot is never truncated"

    def compact(self, through: int) -> None:
        """No snapshot below `through` will be asked about any more."""
        while len(self._sets) > 1 and self._sets[1][0] <= through:
            self._sets.pop(0)
