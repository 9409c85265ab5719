"""Reading the log back: what is good, what a crash tore, what is damaged; and putting the bad aside.

Reading changes nothing but the leftovers of segments that were never used. Putting aside keeps a copy
of everything it takes away, as `.broken` files beside the segments.
"""

from __future__ import annotations

from typing import Literal

import msgspec

from gemot.server.model.errors import Corrupt
from gemot.server.raft.types import Batch, Entry
from gemot.server.storage.disk import Disk, write_zeros
from gemot.server.storage.format import NewerFormat
from gemot.server.storage.places import Places, Spot
from gemot.server.storage.record import ORIGIN, Header, Kind, Mark
from gemot.server.storage.segment import Base, Place, Segment, open_segment, segment_names
from gemot.server.storage.tail import judge_tail, used_end

_KINDS = frozenset(Kind)
_COPY_BLOCK = 1 << 20

DamageKind = Literal["bad-record", "bad-segment", "missing-segment", "lost", "other-history"]


class Damage(msgspec.Struct, frozen=True):
    """Something that was synced is not there as it was written: this node lost part of its log.

    `first_bad_index` is the lowest entry after those that are good; a lost record may have replaced
    lower ones, so what is before it may be older than what was acknowledged.
    """

    kind: DamageKind
    first_bad_index: int
    path: str
    message: str


class Torn(msgspec.Struct, frozen=True):
    """A crash tore the last unsynced writes: `size` bytes at `offset` were cut off; `copy` holds them."""

    path: str
    offset: int
    size: int
    copy: str


class Findings:
    """Good: `places`, up to `tail`. Not good: `segment` from its `end` to `used`, and the files `later`."""

    def __init__(self) -> None:
        self.places = Places(0, 0, {})
        self.tail = ORIGIN
        self.segment: Segment | None = None
        self.used = 0
        self.later: list[str] = []
        self.torn = False
        self.damage: Damage | None = None


class _Bad(Exception):
    def __init__(self, kind: DamageKind, path: str, problem: str) -> None:
        super().__init__(problem)
        self.kind = kind
        self.path = path
        self.problem = problem


def read_log(disk: Disk, directory: str, known: Mark) -> Findings:
    """Read every record. `known` is the newest mark that the vote file remembers as synced."""
    for name in disk.listdir(directory):
        if name.endswith(".tmp"):
            disk.remove(f"{directory}/{name}")
    findings = Findings()
    try:
        _read_segments(disk, directory, known, findings)
    except _Bad as bad:
        first = findings.places.last + 1
        message = f"the Raft log is damaged from entry {first} on: {bad.path}: {bad.problem}"
        findings.damage = Damage(bad.kind, first, bad.path, message)
    if findings.segment is not None:
        findings.used = findings.segment.end if findings.segment.sealed else used_end(findings.segment)
    return findings


def _read_segments(disk: Disk, directory: str, known: Mark, findings: Findings) -> None:
    names = segment_names(disk, directory)
    for position, (number, name) in enumerate(names):
        findings.later = [later for _, later in names[position:]]
        segment = _open_next(disk, directory, number, name, findings, known)
        findings.later.pop(0)
        findings.segment = segment
        findings.places.segments[number] = segment
        for place in segment.scan():
            _take(segment, place, findings, known)
        if segment.sealed:
            continue
        tail = judge_tail(segment, findings.tail, known)
        if findings.later:
            raise _Bad("bad-record", segment.path, tail.damage or "its records end before its seal")
        if tail.damage:
            raise _Bad("bad-record", segment.path, tail.damage)
        findings.torn = tail.torn
    if known.serial > findings.tail.serial:
        raise _Bad(
            "lost", directory, f"record {known.serial} (up to entry {known.index}) was synced and is gone"
        )


def _open_next(
    disk: Disk, directory: str, number: int, name: str, findings: Findings, known: Mark
) -> Segment:
    before, path = findings.segment, f"{directory}/{name}"
    if before is not None and number != before.number + 1:
        raise _Bad("missing-segment", path, f"segment {before.number + 1} is missing before it")
    try:
        segment = open_segment(disk, directory, number, name)
    except Corrupt as error:
        raise _Bad("bad-segment", path, error.message) from error
    places, tail = findings.places, findings.tail
    if before is None:
        if segment.base.serial == known.serial and segment.base.chain != known.chain:
            raise _Bad(
                "other-history", path, f"record {known.serial} before it is not the one that was synced"
            )
        findings.places = Places(segment.base.index, segment.base.term, {})
        findings.tail = Mark(segment.base.serial, segment.base.index, segment.base.chain)
    elif segment.base != Base(places.last, places.last_term, tail.serial, tail.chain):
        raise _Bad("bad-segment", path, f"it does not go on where {before.path} ends")
    return segment


def _take(segment: Segment, place: Place, findings: Findings, known: Mark) -> None:
    """Add one good record to what is known."""
    header = place.found.header
    if header.kind not in _KINDS:
        raise NewerFormat(
            f"{segment.path} has a record of kind {header.kind}, of a newer release: start that release again"
        )
    if header.serial == known.serial and place.found.chain != known.chain:
        raise _Bad("other-history", segment.path, f"record {header.serial} is not the one that was synced")
    places = findings.places
    if header.kind == Kind.RESET:
        places = Places(header.last, header.last_term, places.segments)
    elif header.kind == Kind.BATCH:
        if not 0 < header.first <= min(header.last, places.last + 1):
            raise _Bad(
                "bad-record", segment.path, f"record {header.serial} does not follow entry {places.last}"
            )
        if header.first <= places.last:
            places = places.cut(header.first, header.prev_term)
        spot = Spot(segment.number, segment.end, place.found.crc, header.first, header.last)
        places.add(spot, _terms(segment, header, place.payload))
    findings.places = places
    findings.tail = Mark(header.serial, places.last, place.found.chain)


def _terms(segment: Segment, header: Header, payload: bytes) -> list[tuple[int, int]]:
    if header.first_term == header.last_term:
        return [(header.first, header.first_term)]
    try:
        return term_runs(Batch.decode(payload).entries)
    except (msgspec.DecodeError, ValueError) as error:
        raise _Bad("bad-record", segment.path, f"record {header.serial}: {error}") from error


def term_runs(entries: tuple[Entry, ...]) -> list[tuple[int, int]]:
    """(first index, term) wherever the term changes."""
    runs: list[tuple[int, int]] = []
    for entry in entries:
        if not runs or runs[-1][1] != entry.term:
            runs.append((entry.index, entry.term))
    return runs


def put_aside(disk: Disk, directory: str, findings: Findings) -> str:
    """Take away what is not good, keeping copies. Returns the path of the last copy made, or "".

    Later segments first, newest first: if this is interrupted, what is left is still bad at the same place.
    """
    copy = ""
    for name in reversed(findings.later):
        copy = _free_name(disk, f"{directory}/{name}.broken")
        disk.rename(f"{directory}/{name}", copy)
        disk.sync_dir(directory)
    segment = findings.segment
    if segment is not None and findings.used > segment.end:
        copy = _free_name(disk, f"{segment.path}.{segment.end}.broken")
        _copy_range(disk, segment, findings.used, copy)
        disk.sync_dir(directory)
        write_zeros(segment.file, segment.end, findings.used)
        segment.file.sync()
    findings.later = []
    return copy


def _free_name(disk: Disk, path: str) -> str:
    """`path`, or with a number when an earlier damage left that name."""
    candidate, n = path, 1
    while disk.exists(candidate):
        n += 1
        candidate = f"{path}.{n}"
    return candidate


def _copy_range(disk: Disk, segment: Segment, end: int, path: str) -> None:
    temporary = f"{path}.tmp"
    copy = disk.open(temporary, create=True)
    try:
        offset = segment.end
        while offset < end:
            data = segment.file.pread(min(_COPY_BLOCK, end - offset), offset)
            if not data:
                break
            copy.pwrite(data, offset - segment.end)
            offset += len(data)
        copy.sync()
    finally:
        copy.close()
    disk.rename(temporary, path)
