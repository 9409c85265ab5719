"""One record of the log: a fixed header, the payload as it was given, an end mark. Pure.

    offset  size  field
         0     4  magic
         4     4  CRC-32 of the rest of the header, begun with the segment's salt
         8     1  kind: batch, reset or seal (3 bytes of zeros follow)
        12     4  payload length
        16     4  CRC-32 of the payload
        20     8  serial: counts every record of this log's life from 1, never goes back
        28     8  first index    36  8  last index
        44     8  term of the first entry    52  8  of the last    60  8  of the one before the first
        68    24  the newest record known to be synced when this one was written: serial, index, chain
        92     8  chain of the record before
       100     4  three zeros and a mark that is not zero
       104        the payload, and one mark that is not zero

Integers are little-endian. A record begins on a sector and no two share one, so writing one never
touches a sector that was synced for another. The chain of a record is BLAKE2b-64 over its header,
which holds the payload's CRC and the chain before it: equal chains mean equal histories.

The salt comes from the segment's own chain. Without it, a stored value that looks like a header
could be taken for one when the sectors after a tear are searched.
"""

from __future__ import annotations

import struct
from enum import IntEnum
from hashlib import blake2b
from zlib import crc32

import msgspec

from gemot.server.storage.disk import sectors

_LAYOUT = struct.Struct("<4sIB3xIIQQQQQQQQ8s8s3xB")
HEADER_BYTES = _LAYOUT.size
_CHECKED_FROM = 8
RECORD_MAGIC = b"GmR\x01"
_END = 0xA5
_END_MARK = bytes((_END,))

MAX_PAYLOAD = 256 << 20
"""Far above any batch (raft's own limit is 64 MiB of uncommitted entries)."""

NO_CHAIN = bytes(8)


class Kind(IntEnum):
    BATCH = 1
    """Entries. Those of the log at its first index and above are replaced by it."""
    RESET = 2
    """The log is empty from here, and goes on after `last` of `last_term`: a snapshot was installed."""
    SEAL = 3
    """The end of a segment: how many records came before, and where they ended."""


class Mark(msgspec.Struct, frozen=True):
    """A point in the log's history: the record, the log's last index after it, and its chain."""

    serial: int
    index: int
    chain: bytes


ORIGIN = Mark(0, 0, NO_CHAIN)


class Header(msgspec.Struct, frozen=True):
    kind: int
    length: int
    payload_crc: int
    serial: int
    first: int
    last: int
    first_term: int
    last_term: int
    prev_term: int
    durable: Mark
    prev_chain: bytes


class Found(msgspec.Struct, frozen=True):
    """A header that was read, its own CRC and its record's chain."""

    header: Header
    crc: int
    chain: bytes


def record_bytes(length: int) -> int:
    """What a record with this payload takes on disk, in whole sectors."""
    return sectors(HEADER_BYTES + length + 1)


def encode_record(header: Header, payload: bytes, salt: int) -> tuple[bytes, Found]:
    """The record without its padding: the zeros after it are on disk already."""
    rest = _pack(header)[_CHECKED_FROM:]
    crc = crc32(rest, salt)
    raw = b"".join((RECORD_MAGIC, crc.to_bytes(4, "little"), rest, payload, _END_MARK))
    return raw, Found(header, crc, blake2b(rest, digest_size=8).digest())


def decode_header(raw: bytes, salt: int) -> Found | None:
    """The header in these bytes; None if this is none, or not as it was written."""
    if len(raw) < HEADER_BYTES or raw[:4] != RECORD_MAGIC:
        return None
    raw = raw[:HEADER_BYTES]
    fields = _LAYOUT.unpack(raw)
    if fields[1] != crc32(raw[_CHECKED_FROM:], salt) or fields[-1] != _END:
        return None
    kind, length, payload_crc, serial, first, last, *terms = fields[2:11]
    header = Header(
        kind, length, payload_crc, serial, first, last, terms[0], terms[1], terms[2],
        Mark(*fields[11:14]), fields[14],
    )  # fmt: skip
    return Found(header, fields[1], _chain(raw))


def _pack(h: Header) -> bytes:
    """The header, its CRC still zero."""
    d = h.durable
    return _LAYOUT.pack(
        RECORD_MAGIC, 0, h.kind, h.length, h.payload_crc, h.serial, h.first, h.last,
        h.first_term, h.last_term, h.prev_term, d.serial, d.index, d.chain, h.prev_chain, _END,
    )  # fmt: skip


def _chain(raw: bytes) -> bytes:
    return blake2b(raw[_CHECKED_FROM:], digest_size=8).digest()


def encode_mark(mark: Mark) -> bytes:
    """The `durable_hash` that the vote file keeps beside `durable_index`: serial and chain."""
    return mark.serial.to_bytes(8, "big") + mark.chain


def decode_mark(index: int, raw: bytes) -> Mark:
    """The mark of `encode_mark`; b"" is the origin. Raises ValueError for another length."""
    if not raw:
        return ORIGIN
    if len(raw) != 16:
        raise ValueError(f"a durable hash has 16 bytes, not {len(raw)}")
    return Mark(int.from_bytes(raw[:8], "big"), index, raw[8:])
