"""The Raft log on disk: batches appended to CRC-chained segments, read back, and dropped when old.

What it is: the durable log of one server, synchronous, with one writer. What it is not: it knows no
vote (`meta.py`), takes no snapshot, and decides nothing about consensus.

How it truncates: a batch whose first index is at or below the last one replaces that entry and all after
it. Nothing is changed in place; the record itself says what it replaces, so a crash leaves either the old
suffix or the new one.

Threads: all methods that change something, and `sync`, are called by one thread at a time. The properties,
`term` and `read` may be called by another thread meanwhile, for what was appended before the call
(`places.py` has the rule). A read finds what was appended, synced or not.

A write or sync that fails stops the log for good: what is on disk since the last sync is unknown then, and
a second sync that succeeds would prove nothing (Rebello et al., "Can Applications Recover from fsync
Failures?", USENIX ATC 2020).
"""

from __future__ import annotations

from zlib import crc32

import msgspec

from gemot.server.model.errors import Corrupt, DiskFailed, TooLarge
from gemot.server.raft.types import Batch, Entry
from gemot.server.storage.disk import Disk
from gemot.server.storage.places import Places, Spot
from gemot.server.storage.record import (
    MAX_PAYLOAD,
    Found,
    Header,
    Kind,
    Mark,
    decode_mark,
    encode_mark,
    encode_record,
    record_bytes,
)
from gemot.server.storage.recovery import Damage, Findings, Torn, put_aside, read_log, term_runs
from gemot.server.storage.segment import Base, Segment, Spare, create_segment, make_spare, size_for

SEGMENT_BYTES = 64 << 20


class Start(msgspec.Struct, frozen=True):
    """The entry before the first one held: a snapshot holds it, or it is 0 of term 0."""

    index: int
    term: int


class SegmentLog:
    """Open it with `SegmentLog.open`."""

    def __init__(self, *, disk: Disk, directory: str, segment_bytes: int, findings: Findings) -> None:
        self._disk = disk
        self._directory = directory
        self._segment_bytes = segment_bytes
        self._places = findings.places
        self._active = findings.segment
        self._tail = findings.tail
        self._durable = findings.tail
        self._damaged: Findings | None = findings if findings.damage else None
        self._spare: Spare | None = None
        self._stopping = _Stopping()

    @classmethod
    def open(
        cls, *, disk: Disk, directory: str, segment_bytes: int = SEGMENT_BYTES, durable_index: int = 0,
        durable_hash: bytes = b"",
    ) -> Recovery:  # fmt: skip
        """Read the log back and check all of it; what is found is durable when this returns.

        What the vote file remembers as durable is handed in.

        With damage, nothing on disk is changed before the first write: the caller first saves
        `repairing` with this log's `durable_index` and `durable_hash` in the vote file, then goes on.
        Raises NewerFormat, DiskFailed.
        """
        disk.makedirs(directory)
        findings = read_log(disk, directory, decode_mark(durable_index, durable_hash))
        torn = None
        if findings.torn and findings.segment is not None:
            segment, size = findings.segment, findings.used - findings.segment.end
            torn = Torn(segment.path, segment.end, size, put_aside(disk, directory, findings))
        if findings.segment is not None:
            # A process that was killed leaves bytes and names that can be read but may not be durable yet.
            findings.segment.file.sync()
            disk.sync_dir(directory)
        log = cls(disk=disk, directory=directory, segment_bytes=segment_bytes, findings=findings)
        return Recovery(log, torn, findings.damage)

    # -- what is known; any thread -----------------------------------------------------------------

    @property
    def start(self) -> Start:
        places = self._places
        return Start(places.start_index, places.start_term)

    @property
    def first_index(self) -> int:
        """The lowest entry held; `last_index` + 1 when there is none."""
        return self._places.start_index + 1

    @property
    def last_index(self) -> int:
        return self._places.last

    @property
    def last_term(self) -> int:
        return self._places.last_term

    @property
    def tail_hash(self) -> bytes:
        """Names the history up to the last record written (16 bytes: serial and chain)."""
        return encode_mark(self._tail)

    @property
    def durable_index(self) -> int:
        """The log's last index at the last sync; with `durable_hash`, what the vote file should remember."""
        return self._durable.index

    @property
    def durable_hash(self) -> bytes:
        return encode_mark(self._durable)

    @property
    def segment_number(self) -> int:
        """Grows when a segment is sealed: time to save the durable mark. 0 before the first is made."""
        return self._active.number if self._active else 0

    def last_of(self, segment: int) -> int:
        """The last entry that this segment, or any before it, holds."""
        return self._places.lowest_in_or_above(segment + 1) - 1

    def term(self, index: int) -> int | None:
        """The term of an entry held, or of `start`; else None."""
        return self._places.term(index)

    def read(self, first: int, last: int, max_bytes: int) -> tuple[Entry, ...]:
        """Entries `first` to `last`: fewer when their data passes `max_bytes`, yet at least one.

        Only those held: empty if `first` is not. Every record is checked again. Raises Corrupt.
        """
        places = self._places
        found: list[Entry] = []
        size = 0
        while first <= last and (spot := places.find(first)) is not None:
            entries = self._entries(places, spot).entries
            for entry in entries[first - entries[0].index : min(last, spot.last) - entries[0].index + 1]:
                size += len(entry.data)
                if found and size > max_bytes:
                    return tuple(found)
                found.append(entry)
            first = spot.last + 1
        return tuple(found)

    def _entries(self, places: Places, spot: Spot) -> Batch:
        segment = places.segments[spot.segment]
        place = segment.read_at(spot.offset)
        if place is None or place.found.crc != spot.crc:
            raise Corrupt(
                f"{segment.path} is damaged at byte {spot.offset}: entry {spot.first} is not what was written"
            )
        try:
            batch = Batch.decode(place.payload)
        except (msgspec.DecodeError, ValueError) as error:
            raise Corrupt(f"{segment.path} holds no batch at byte {spot.offset}: {error}") from error
        if batch.first != spot.first or batch.last < spot.last:
            raise Corrupt(f"{segment.path} holds another batch at byte {spot.offset} than its header says")
        return batch

    # -- changes; one thread -----------------------------------------------------------------------

    def begin(self) -> None:
        """Make the first segment of a log that has none, so that a disk without room for it is known now.

        Not for a damaged log: nothing of that is changed before its first write. Raises DiskFailed.
        """
        if self._active is None and self._damaged is None:
            with self._stopping:
                self._next_segment(0)

    def append(self, batch: Batch) -> None:
        """Write a batch; it is durable after the next `sync`.

        Raises ValueError for one that does not follow an entry held, TooLarge, DiskFailed.
        """
        places = self._places
        first, last = batch.first, batch.last
        if not places.start_index < first <= places.last + 1:
            raise ValueError(
                f"batch {first}..{last} does not follow: the log holds {self.first_index}..{places.last}"
            )
        if len(batch.body) > MAX_PAYLOAD:
            raise TooLarge(f"a batch has {len(batch.body)} bytes, the limit of a log record is {MAX_PAYLOAD}")
        prev_term = places.term(first - 1)
        assert prev_term is not None, "the entry before is held, or is the start"
        runs = term_runs(batch.entries)
        with self._stopping:
            segment, offset, found = self._write(
                Kind.BATCH, batch.body, (first, last), (runs[0][1], runs[-1][1], prev_term)
            )
        if first <= places.last:
            places = places.cut(first, prev_term)
        places.add(Spot(segment.number, offset, found.crc, first, last), runs)
        self._places = places
        self._tail = Mark(found.header.serial, last, found.chain)

    def sync(self) -> None:
        """Return once all that was appended is durable. Raises DiskFailed, and from then on always."""
        with self._stopping:
            if self._durable.serial < self._tail.serial and self._active is not None:
                self._active.file.sync()
            self._durable = self._tail

    def compact(self, through: int) -> None:
        """Drop the oldest segments that hold no entry above `through`. Asked again later, it goes on.

        The log then starts where the first segment left says, durably. The caller has a durable
        snapshot of entry `through`.
        """
        places = self._places
        assert self._active is not None or not places.segments
        keep = min(places.segments, default=0)
        while keep < self.segment_number and places.lowest_in_or_above(keep + 1) - 1 <= through:
            keep += 1
        with self._stopping:
            self._drop_below(keep)

    def reset(self, index: int, term: int) -> None:
        """Forget every entry: a snapshot of entry `index` replaces them. Durable when it returns."""
        with self._stopping:
            segment, _, found = self._write(Kind.RESET, b"", (index + 1, index), (term, term, term))
            segment.file.sync()
            self._places = Places(index, term, self._places.segments)
            self._tail = self._durable = Mark(found.header.serial, index, found.chain)
            self._drop_below(segment.number)

    @property
    def wants_spare(self) -> bool:
        """The active segment is half full, and nothing is prepared to follow it."""
        active = self._active
        return self._spare is None and active is not None and active.end > active.size // 2

    def make_spare(self) -> Spare:
        """Prepare the next segment's file; for any thread, one at a time. Raises DiskFailed, and goes on."""
        return make_spare(self._disk, self._directory, self._segment_bytes)

    def keep_spare(self, spare: Spare) -> None:
        """Use it for the next segment."""
        self._spare = spare

    def close(self) -> None:
        """Close the files. What was not synced may be lost, as in a crash."""
        for segment in self._places.segments.values():
            segment.file.close()
        self._stopping.failure = self._stopping.failure or "the log was closed"

    # -- writing -----------------------------------------------------------------------------------

    def _write(
        self, kind: Kind, payload: bytes, span: tuple[int, int], terms: tuple[int, int, int]
    ) -> tuple[Segment, int, Found]:
        if self._damaged is not None:
            put_aside(self._disk, self._directory, self._damaged)
            self._damaged = None
        segment = self._active
        if segment is None or segment.sealed or not segment.fits(len(payload)):
            segment = self._next_segment(len(payload))
        offset = segment.end
        found = self._put(segment, kind, payload, span, terms)
        segment.records += 1
        segment.end += record_bytes(len(payload))
        return segment, offset, found

    def _put(
        self, segment: Segment, kind: Kind, payload: bytes, span: tuple[int, int], terms: tuple[int, int, int]
    ) -> Found:
        header = Header(
            kind,
            len(payload),
            crc32(payload),
            self._tail.serial + 1,
            *span,
            *terms,
            self._durable,
            self._tail.chain,
        )
        raw, found = encode_record(header, payload, segment.salt)
        segment.file.pwrite(raw, segment.end)
        return found

    def _next_segment(self, length: int) -> Segment:
        """Seal and sync the active segment, if there is one, and make the next."""
        places, active = self._places, self._active
        last, term = places.last, places.last_term
        if active is not None and not active.sealed:
            found = self._put(active, Kind.SEAL, active.seal_payload(), (last + 1, last), (term, term, term))
            active.file.sync()
            active.sealed = True
            self._tail = self._durable = Mark(found.header.serial, last, found.chain)
        base = Base(last, term, self._tail.serial, self._tail.chain)
        size = size_for(self._segment_bytes, length)
        spare = self._spare
        segment = create_segment(self._disk, self._directory, self.segment_number + 1, base, size, spare)
        if spare is not None and spare.size == size:
            self._spare = None
        places.segments[segment.number] = segment
        self._active = segment
        return segment

    def _drop_below(self, keep: int) -> None:
        """Remove older segments, oldest first and each durably: a gap would look like a loss."""
        places = self._places
        paths = [places.segments[number].path for number in sorted(places.segments) if number < keep]
        if not paths:
            return
        self._places = places.without_segments_below(keep)
        for path in paths:
            self._disk.remove(path)
            self._disk.sync_dir(self._directory)


class _Stopping:
    """A context: a disk that fails inside stops the log for good."""

    __slots__ = ("failure",)

    def __init__(self) -> None:
        self.failure = ""

    def __enter__(self) -> None:
        if self.failure:
            raise DiskFailed(self.failure)

    def __exit__(self, _kind: object, error: BaseException | None, _trace: object) -> None:
        if isinstance(error, DiskFailed):
            self.failure = error.message


class Recovery(msgspec.Struct, frozen=True):
    """What opening found: with neither `torn` nor `damage` the log was closed or stopped cleanly.

    Torn is ordinary after a power loss. With damage this node is repairing: it neither votes, acknowledges
    nor serves until it has caught up with its peers.
    """

    log: SegmentLog
    torn: Torn | None
    damage: Damage | None
