"""What the end of the log's last segment is: clean, torn by a crash, or damaged.

A crash may lose any sectors of the records written since the last sync, and leaves zeros there (the
segment was zeroed and synced before). Damage changes sectors that were synced. So:

- only zeros after the last good record: clean;
- a record there that was known to be synced, by the vote file or by any later header: damaged;
- a bad record of which some sector or the end is missing (zeros): torn. Records after it, written in the
  same unsynced group, go with it: none of them was acknowledged;
- a bad record of which everything is there, but not as it was written: damaged.

(etcd judges an all-zero sector the same way. The one case that looks alike is a synced last record
zeroed by the disk within the second before its mark reaches the vote file.)
"""

from __future__ import annotations

import msgspec

from gemot.server.storage.disk import SECTOR
from gemot.server.storage.record import (
    HEADER_BYTES,
    RECORD_MAGIC,
    Mark,
    decode_header,
    record_bytes,
)
from gemot.server.storage.segment import Segment

_BLOCK = 1 << 20


class Tail(msgspec.Struct, frozen=True):
    """Torn, damaged (and how), or neither: clean."""

    torn: bool
    damage: str


def judge_tail(segment: Segment, good: Mark, known: Mark) -> Tail:
    """Judge what stands after the last good record, whose mark is `good`."""
    at = segment.end
    used, durable = _survey(segment, good.serial)
    durable = max(durable, known.serial)
    if durable > good.serial:
        return Tail(False, f"record {good.serial + 1} was synced and is not there as it was written")
    if used == at:
        return Tail(False, "")
    if _is_torn(segment, good):
        return Tail(True, "")
    return Tail(False, f"record {good.serial + 1} is there in full, but not as it was written")


def used_end(segment: Segment) -> int:
    """Where the last byte that is not zero ends; the segment's `end` if there is none after it."""
    return _survey(segment, 0)[0]


def _survey(segment: Segment, good_serial: int) -> tuple[int, int]:
    """Where the bytes after the last good record end, and the newest serial that one there calls synced."""
    used = offset = segment.end
    durable = 0
    limit = good_serial + (segment.size - offset) // SECTOR
    while offset < segment.size:
        block = segment.file.pread(min(_BLOCK, segment.size - offset), offset)
        if not block:
            break
        kept = block.rstrip(b"\0")
        if kept:
            used = offset + len(kept)
        at = kept.find(RECORD_MAGIC)
        while at >= 0:
            if at % SECTOR == 0:
                found = decode_header(block[at : at + HEADER_BYTES], segment.salt)
                if found and found.header.durable.serial < found.header.serial <= limit:
                    durable = max(durable, found.header.durable.serial)
            at = kept.find(RECORD_MAGIC, at + 1)
        offset += len(block)
    return used, durable


def _is_torn(segment: Segment, good: Mark) -> bool:
    at = segment.end
    sector = segment.file.pread(SECTOR, at)
    if not sector.strip(b"\0"):
        return True
    found = decode_header(sector, segment.salt)
    if found is None:
        return sector[HEADER_BYTES - 1 :].strip(b"\0") == b""
    header = found.header
    if header.serial != good.serial + 1 or header.prev_chain != good.chain:
        return False
    end = at + HEADER_BYTES + header.length + 1
    if at + record_bytes(header.length) > segment.size:
        return False
    if segment.file.pread(1, end - 1) == b"\0":
        return True
    return any(not segment.file.pread(min(SECTOR, end - o), o).strip(b"\0") for o in range(at, end, SECTOR))
