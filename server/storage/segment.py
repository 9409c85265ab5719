"""One file of the log: a header sector, records, zeros up to its full size, made and synced beforehand.

A segment comes into being whole: it is written beside, synced and renamed, so a `.seg` file with an
unreadable header is damaged, never half made. The name is `<number>-<first index>.seg`: the number
orders them (a replaced suffix can give two segments the same first index), the index is for people.
"""

from __future__ import annotations

import errno
import re
import struct
from collections.abc import Iterator
from contextlib import suppress
from zlib import crc32

import msgspec

from gemot.server.model.errors import Corrupt, DiskFailed
from gemot.server.storage.disk import SECTOR, Disk, File, write_zeros
from gemot.server.storage.format import LOG_FORMAT, check_format
from gemot.server.storage.record import (
    HEADER_BYTES,
    MAX_PAYLOAD,
    Found,
    Kind,
    decode_header,
    record_bytes,
)

_LAYOUT = struct.Struct("<8sIIQQQQQ8s")
_MAGIC = b"GEMOTLOG"
_NAME = re.compile(r"(\d{10})-(\d{20})\.seg")
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
SEAL_BYTES = record_bytes(16)
"""Kept free in every segment for its seal."""


_SPARE_STEP_BYTES = 1 << 20
"""Synced in steps: one sync of a whole segment would hold up those of the log on the same disk."""


class Base(msgspec.Struct, frozen=True):
    """The log as it was before a segment's first record."""

    index: int
    term: int
    serial: int
    chain: bytes


class Place(msgspec.Struct, frozen=True):
    """A good record, and where it stands."""

    offset: int
    found: Found
    payload: bytes


class Segment:
    """An open segment. `end` is where the next record goes (known once it was scanned)."""

    __slots__ = ("base", "end", "file", "number", "path", "records", "salt", "sealed", "size")

    def __init__(self, *, number: int, path: str, file: File, base: Base, size: int) -> None:
        self.number = number
        self.path = path
        self.file = file
        self.base = base
        self.size = size
        self.salt = crc32(base.chain)
        self.end = SECTOR
        self.records = 0
        self.sealed = False

    def fits(self, length: int) -> bool:
        return self.end + record_bytes(length) + SEAL_BYTES <= self.size

    def scan(self) -> Iterator[Place]:
        """Every good record in turn, each of the chain before it; ends after the seal or before what is none.

        `end` is the record at hand while it is handled, and moves past it when the next is asked for.
        Lengths are held against the file before a byte is read for them.
        """
        serial, chain = self.base.serial, self.base.chain
        while (place := self.read_at(self.end)) is not None:
            header = place.found.header
            if header.serial != serial + 1 or header.prev_chain != chain:
                return
            serial, chain = header.serial, place.found.chain
            if header.kind == Kind.SEAL:
                self.sealed = place.payload == self.seal_payload()
                if self.sealed:
                    yield place
                return
            yield place
            self.end += record_bytes(header.length)
            self.records += 1

    def read_at(self, offset: int) -> Place | None:
        found = decode_header(self.file.pread(HEADER_BYTES, offset), self.salt)
        if found is None or found.header.length > min(MAX_PAYLOAD, self.size - offset - HEADER_BYTES - 1):
            return None
        payload = self.file.pread(found.header.length, offset + HEADER_BYTES)
        if len(payload) != found.header.length or crc32(payload) != found.header.payload_crc:
            return None
        return Place(offset, found, payload)

    def seal_payload(self) -> bytes:
        return struct.pack("<QQ", self.records, self.end)


def segment_names(disk: Disk, directory: str) -> list[tuple[int, str]]:
    """The segments of a folder, oldest first, as (number, name). Other files are left out."""
    found = [(_NAME.fullmatch(name), name) for name in disk.listdir(directory)]
    return sorted((int(match[1]), name) for match, name in found if match)


def size_for(segment_bytes: int, length: int) -> int:
    """The size of a new segment whose first record has this payload."""
    return max(segment_bytes, SECTOR + record_bytes(length) + SEAL_BYTES)


class Spare(msgspec.Struct, frozen=True):
    """A file of zeros, synced, that will become a segment. Left behind by a crash, it is removed."""

    path: str
    file: File
    size: int


def make_spare(disk: Disk, directory: str, size: int) -> Spare:
    """The long part of making a segment, for a thread that nobody waits for. Raises DiskFailed."""
    path = f"{directory}/next.tmp"
    if (free := disk.free_bytes(path)) < 2 * size:
        # What is only a preparation must not take the last room from what cannot wait.
        raise DiskFailed(f"{free} bytes are free at {path}, {2 * size} are wanted there")
    file = disk.open(path, create=True)
    try:
        for start in range(0, size, _SPARE_STEP_BYTES):
            write_zeros(file, start, min(start + _SPARE_STEP_BYTES, size))
            file.sync()
    except DiskFailed:
        file.close()
        with suppress(DiskFailed):
            disk.remove(path)
        raise
    return Spare(path, file, size)


def create_segment(
    disk: Disk, directory: str, number: int, base: Base, size: int, spare: Spare | None = None
) -> Segment:
    """A new segment: made of `spare` if it has the right size.

    Raises DiskFailed, and then leaves nothing behind: what it took of a full disk is given back.
    """
    path = f"{directory}/{number:010d}-{base.index + 1:020d}.seg"
    prepared = spare is not None and spare.size == size
    if spare is None or not prepared:
        spare = Spare(f"{path}.tmp", disk.open(f"{path}.tmp", create=True), size)
    file = spare.file
    try:
        if not prepared:
            write_zeros(file, 0, size)
        file.pwrite(_encode_header(number, base, size), 0)
        file.sync()
    except DiskFailed as error:
        file.close()
        with suppress(DiskFailed):
            disk.remove(spare.path)
        raise DiskFailed(_unmade(disk, path, size, error)) from error
    disk.rename(spare.path, path)
    # Under its own name from now on: errors tell it.
    file.close()
    file = disk.open(path)
    disk.sync_dir(directory)
    return Segment(number=number, path=path, file=file, base=base, size=size)


def _unmade(disk: Disk, path: str, size: int, error: DiskFailed) -> str:
    """What keeps this segment from being; of one that finds no room, how much it needs and what helps."""
    if not isinstance(error.__cause__, OSError) or error.__cause__.errno not in _NO_ROOM:
        return error.message
    try:
        free = f"{disk.free_bytes(path)} are free there"
    except DiskFailed:
        free = "how many are free there cannot be told"
    return (
        f"the log segment {path} finds no room: {size} bytes are needed, {free} ({error.message}). Make room "
        "on that disk, keep data_dir on a larger one, or set raft_log_segment_bytes lower"
    )


def open_segment(disk: Disk, directory: str, number: int, name: str) -> Segment:
    """Raises Corrupt if its header is not what was written, NewerFormat if a newer release wrote it."""
    path = f"{directory}/{name}"
    file = disk.open(path)
    raw = file.pread(SECTOR, 0)
    if len(raw) < SECTOR or raw[:8] != _MAGIC:
        raise Corrupt(f"{path} does not begin as a log segment")
    _, crc, format_number, named, size, index, term, serial, chain = _LAYOUT.unpack_from(raw)
    if crc != crc32(raw[12:]):
        raise Corrupt(f"the header of {path} fails its checksum")
    check_format(path, format_number, LOG_FORMAT)
    if named != number:
        raise Corrupt(f"{path} holds segment {named}: a file was renamed or written in the wrong place")
    if size != file.size():
        raise Corrupt(f"{path} has {file.size()} bytes, it was made with {size}")
    base = Base(index, term, serial, chain)
    return Segment(number=number, path=path, file=file, base=base, size=size)


def _encode_header(number: int, base: Base, size: int) -> bytes:
    raw = _LAYOUT.pack(
        _MAGIC, 0, LOG_FORMAT, number, size, base.index, base.term, base.serial, base.chain
    ).ljust(SECTOR, b"\0")  # fmt: skip
    return raw[:8] + struct.pack("<I", crc32(raw[12:])) + raw[12:]
