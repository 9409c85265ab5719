"""One pass over everything that lies still: sealed log segments, kept snapshots, the state file's pages.

Damage in what is read often is met anyway; this finds it in what is not, while there is still a whole copy
elsewhere. It reads, in small steps, and changes nothing; what is done about damage others decide. For the
worker thread, which also makes snapshots and checkpoints, so that none of these moves under a step.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from hashlib import sha256
from typing import Literal

import msgspec

from gemot.server.model.errors import Corrupt, DiskFailed, NotFound, StorageFailed
from gemot.server.raft.types import SnapshotMeta
from gemot.server.storage.disk import Disk
from gemot.server.storage.log import SegmentLog
from gemot.server.storage.segment import open_segment, segment_names
from gemot.server.storage.snapshot import CHUNK_BYTES, Snapshots
from gemot.server.storage.statefile import PAGE_BYTES, StateFile

_PAGES = CHUNK_BYTES // PAGE_BYTES

Part = Literal["segment", "snapshot", "state"]
PARTS: tuple[Part, ...] = ("segment", "snapshot", "state")


class Rot(msgspec.Struct, frozen=True):
    """Damage found. `last` is the last entry of a segment."""

    part: Part
    message: str
    last: int = 0


class Scrub:
    """One pass: call `step` until `over`. `found` is what was found so far, `read` the bytes read."""

    def __init__(
        self, *, disk: Disk, directory: str, log: SegmentLog, snapshots: Snapshots, file: StateFile
    ) -> None:
        self._disk = disk
        self._log_directory = f"{directory}/log"
        self._log = log
        self._snapshots = snapshots
        self._file = file
        self._steps = self._pass()
        self.found: list[Rot] = []
        self.whole: list[SnapshotMeta] = []
        self.read = 0
        self.over = False

    def step(self, budget: int) -> None:
        """Read about so many bytes."""
        until = self.read + budget
        while not self.over and self.read < until:
            size = next(self._steps, None)
            if size is None:
                self.over = True
            else:
                self.read += size

    def rebuildable(self) -> bool:
        """Could the state be built again from what this pass found whole?"""
        fits = any(self._log.term(meta.index) == meta.term for meta in self.whole)
        return not any(rot.part == "segment" for rot in self.found) and (self._log.start.index == 0 or fits)

    def _pass(self) -> Iterator[int]:
        yield from self._read_segments()
        yield from self._read_snapshots()
        yield from self._read_state()

    def _read_segments(self) -> Iterator[int]:
        for number, name in segment_names(self._disk, self._log_directory):
            if number >= self._log.segment_number:
                return
            path = f"{self._log_directory}/{name}"
            last = self._log.last_of(number)
            try:
                segment = open_segment(self._disk, self._log_directory, number, name)
            except (Corrupt, DiskFailed) as error:
                if self._disk.exists(path):  # else it was compacted away
                    self.found.append(Rot("segment", error.message, last))
                continue
            with closing(segment.file):
                for place in segment.scan():
                    yield place.found.header.length
                if not segment.sealed and self._disk.exists(path):
                    told = f"{path} is damaged at byte {segment.end}: its records end before its seal"
                    self.found.append(Rot("segment", told, last))

    def _read_snapshots(self) -> Iterator[int]:
        for meta in self._snapshots.all():
            digest, size = sha256(), 0
            try:
                manifest = self._snapshots.manifest(meta)
                while data := self._snapshots.read_chunk(meta, size, CHUNK_BYTES):
                    digest.update(data)
                    size += len(data)
                    yield len(data)
                if self._snapshots.manifest(meta) is not manifest:
                    continue  # made anew meanwhile
            except NotFound:
                continue  # pruned meanwhile
            except DiskFailed as error:
                self.found.append(Rot("snapshot", error.message))
                continue
            if (size, digest.hexdigest()) == (manifest.size, manifest.sha256):
                self.whole.append(meta)
            else:
                self._snapshots.distrust(meta)
                told = f"{self._snapshots.path(meta)} is damaged: it is not what its manifest says"
                self.found.append(Rot("snapshot", told))

    def _read_state(self) -> Iterator[int]:
        first = 0
        while True:
            try:
                read = self._file.read_pages(first, _PAGES)
            except StorageFailed as error:
                self.found.append(Rot("state", error.message))
                return
            yield read * PAGE_BYTES
            if read < _PAGES:
                return
            first += read
