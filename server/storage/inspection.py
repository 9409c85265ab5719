"""A snapshot on somebody's disk, looked into without a server: is it whole, and what is in it?

It is unpacked beside nothing that is in use, into a folder that the caller gives and takes away again, and
put to every check that a restore puts it to.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

import msgspec

from gemot.server.model.errors import DiskFailed, StorageFailed
from gemot.server.model.kv import KvEntry
from gemot.server.storage.archive import Head, Unpacker, as_damaged, as_refused
from gemot.server.storage.disk import Disk
from gemot.server.storage.sqlite import CHECKSUM_VFS
from gemot.server.storage.standing import examine, opened

KINDS: tuple[tuple[str, str, str], ...] = (
    ("KVS", "kv", "length(row)"),
    ("Node", "node", "length(row)"),
    ("Service", "service", "length(row)"),
    ("Check", "health", "length(row)"),
    ("Coordinate", "coordinate", "length(row)"),
    ("Session", "session", "length(row)"),
    ("Lease", "lease", "length(row)"),
    ("Held", "held", "length(session) + length(key)"),
    ("LockDelay", "lock_delay", "length(key) + 8"),
    ("FenceGuard", "guard", "length(resource) + 8"),
    ("OldRevision", "old", "length(key) + length(row)"),
    ("AbsentKey", "absent", "length(key) + 16"),
    ("RangeEnd", "range_end", "length(prefix) + 16"),
    ("Expiry", "expiry", "length(key) + 16"),
    ("Tombstone", "tombstone", "length(key) + 8"),
    ("DeletedPrefix", "mask", "length(prefix) + 8"),
    ("Index", "latest", "length(kind) + length(name) + 8"),
    ("Change", "change", "coalesce(length(row), 0) + length(key) + 16"),
    ("RetryOrigin", "retry_origin", "length(origin) + 16"),
    ("RetryResult", "retry", "length(results)"),
    ("IdempotencyKey", "idempotency", "length(row)"),
)
"""What is counted: the name for people, the table, and the bytes of a row that are its own."""

_kv = msgspec.msgpack.Decoder(KvEntry)


class Count(msgspec.Struct, frozen=True):
    """How many of a kind there are, and their bytes."""

    name: str
    count: int
    size: int


class Inspection(msgspec.Struct, frozen=True):
    """A snapshot that is whole. `archive_size` is the file's; `keys` by how they begin, if asked for."""

    head: Head
    archive_size: int
    kinds: tuple[Count, ...]
    keys: tuple[Count, ...]


def unpack(archive: Iterable[bytes], disk: Disk, state: str) -> tuple[Head, int]:
    """Unpack to the file `state`; the head, and the size of the archive. Raises BadRequest, DiskFailed."""
    target, size = disk.open(state, create=True), 0
    try:
        unpacker = Unpacker(write=target.pwrite)
        for data in archive:
            unpacker.feed(data)
            size += len(data)
        return unpacker.finish(), size
    finally:
        target.close()


def inspect(
    archive: Iterable[bytes],
    disk: Disk,
    state: str,
    *,
    depth: int = 0,
    prefix: bytes = b"",
    vfs: str = CHECKSUM_VFS,
) -> Inspection:
    """Check all of it, unpacked to the file `state`, and count what is in it.

    With `depth` > 0 keys are counted by their first parts, too.
    """
    head, archive_size = unpack(archive, disk, state)
    try:
        standing = examine(Path(state), vfs)
        if (standing.index, standing.applied_term, standing.epoch) != (head.index, head.term, head.epoch):
            raise as_damaged("its head and its state do not belong together")
        with opened(Path(state), vfs) as connection:
            counted = [
                Count(
                    name, *connection.execute(f"select count(*), coalesce(sum({size}), 0) from {table}").get
                )
                for name, table, size in KINDS
            ]
            rows = connection.execute("select row from kv order by key") if depth else ()
            keys = _by_beginning((_kv.decode(row) for (row,) in rows), depth, prefix)
    except DiskFailed:
        raise
    except StorageFailed as error:
        raise as_refused(error) from error
    kinds = tuple(sorted((one for one in counted if one.count), key=lambda one: -one.size))
    return Inspection(head, archive_size, kinds, keys)


def _by_beginning(entries: Iterator[KvEntry], depth: int, prefix: bytes) -> tuple[Count, ...]:
    counts: dict[bytes, tuple[int, int]] = {}
    for entry in entries:
        if not entry.key.startswith(prefix):
            continue
        name = b"/".join(entry.key.split(b"/")[:depth])
        count, size = counts.get(name, (0, 0))
        counts[name] = (count + 1, size + len(entry.key) + len(entry.value))
    ordered = sorted(counts.items(), key=lambda item: (-item[1][1], item[0]))
    return tuple(Count(name.decode("utf-8", "replace"), *figures) for name, figures in ordered)
