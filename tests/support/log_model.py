"""What a Raft log should hold, in a list; and batches to feed to it."""

from __future__ import annotations

from support.lossy_disk import LossyDisk

from gemot.server.raft.types import Batch, Entry, EntryKind
from gemot.server.storage.log import Recovery, SegmentLog

SEGMENT = 8192
DIRECTORY = "/data/log"


def batch(first: int, terms: list[int], size: int = 40) -> Batch:
    """Entries from `first` on, one for each term; the data says which entry it is."""
    return Batch([entry(first + i, term, size) for i, term in enumerate(terms)])


def entry(index: int, term: int, size: int) -> Entry:
    return Entry(term, index, EntryKind.COMMAND, f"{index}/{term}:".encode().ljust(size, b"\xee"))


def open_log(
    disk: LossyDisk, durable_index: int = 0, durable_hash: bytes = b"", segment_bytes: int = SEGMENT
) -> Recovery:
    return SegmentLog.open(
        disk=disk,
        directory=DIRECTORY,
        segment_bytes=segment_bytes,
        durable_index=durable_index,
        durable_hash=durable_hash,
    )


class LogModel:
    """The entries after (`start`, `start_term`), in order."""

    def __init__(self, start: int = 0, start_term: int = 0) -> None:
        self.start = start
        self.start_term = start_term
        self.entries: list[Entry] = []

    @property
    def last(self) -> int:
        return self.start + len(self.entries)

    @property
    def last_term(self) -> int:
        return self.entries[-1].term if self.entries else self.start_term

    def append(self, new: Batch) -> None:
        del self.entries[new.first - self.start - 1 :]
        self.entries.extend(new.entries)

    def copy(self) -> LogModel:
        other = LogModel(self.start, self.start_term)
        other.entries = list(self.entries)
        return other


def held(log: SegmentLog) -> list[Entry]:
    return list(log.read(log.first_index, log.last_index, 1 << 40))


def assert_same(log: SegmentLog, model: LogModel) -> None:
    """The log holds what the model does, but for older entries that a compaction may have dropped."""
    assert log.last_index == model.last
    assert log.last_term == model.last_term
    dropped = log.first_index - 1 - model.start
    assert dropped >= 0
    assert held(log) == model.entries[dropped:]
    for at in range(log.first_index, log.last_index + 1):
        assert log.term(at) == model.entries[at - model.start - 1].term
    assert log.start.term == (model.entries[dropped - 1].term if dropped else model.start_term)
    assert log.term(log.start.index) == log.start.term
    assert log.term(log.last_index + 1) is None
