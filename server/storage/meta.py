"""The vote file: what a server must never forget, in two copies, `meta-a` and `meta-b`.

Term, vote and identity are in both copies before `save` returns, written one after the other; the mark of
the durable log, which grows all the time, goes to one copy in turn. So one damaged, lost or outdated copy
never takes a vote away: the other has it. With both unreadable this server may have voted in a term that
it does not remember; it must not run (`Corrupt`, and the message says what to do).

A copy fits in one sector as long as its names are short, so a crash leaves it old or new. A longer one
may tear; then the other copy holds what was durable before.
"""

from __future__ import annotations

import struct
from zlib import crc32

import msgspec

from gemot.server.model.errors import Corrupt
from gemot.server.raft.types import SnapshotMeta
from gemot.server.storage.disk import SECTOR, Disk, File, read_whole, sectors
from gemot.server.storage.format import META_FORMAT, check_format
from gemot.server.storage.segment import segment_names

_LAYOUT = struct.Struct("<8sIII")
_MAGIC = b"GEMOTMET"
_LIMIT = 8 * SECTOR
_COPIES = ("meta-a", "meta-b")


class Meta(msgspec.Struct, frozen=True, array_like=True):
    """`vote` "" is none; `promised_cluster` is the one cluster this server agreed to found or join.

    `durable_index` and `durable_hash` are the log's own of those names, at some recent sync. `repairing`:
    part of the log was lost; no vote, no acknowledgement, no answer until it is refilled from peers.
    `epoch` grows with each restore of a backup. `sequence` is set by `MetaFile.save`. `base` is the entry up
    to which the log was last cut, and who votes then.
    """

    node_id: str = ""
    cluster_id: str = ""
    promised_cluster: str = ""
    term: int = 0
    vote: str = ""
    epoch: int = 1
    repairing: bool = False
    durable_index: int = 0
    durable_hash: bytes = b""
    sequence: int = 0
    base: SnapshotMeta = SnapshotMeta(0, 0, ())


class MetaFile:
    """The two copies. `meta` is what they hold; `warnings` are sentences about a copy that was bad.

    `fresh` says that nothing was ever saved: the server has not begun.
    """

    def __init__(
        self, *, disk: Disk, directory: str, meta: Meta | None, warnings: tuple[str, ...] = ()
    ) -> None:
        self._disk = disk
        self._directory = directory
        self.meta = meta or Meta()
        self.fresh = meta is None
        self.warnings = warnings

    @classmethod
    def open(cls, disk: Disk, directory: str) -> MetaFile:
        """Read the newest copy; it is durable when this returns.

        Raises Corrupt if no copy is readable although this server has begun.
        """
        disk.makedirs(directory)
        copies: list[Meta | None] = []
        problems: list[str] = []
        for name in _COPIES:
            try:
                copies.append(_read(disk, f"{directory}/{name}"))
            except Corrupt as error:
                copies.append(None)
                problems.append(error.message)
        good = [copy for copy in copies if copy is not None]
        if not good:
            if problems or segment_names(disk, f"{directory}/log"):
                raise Corrupt(_advice(directory, problems))
            return cls(disk=disk, directory=directory, meta=None)
        _make_durable(disk, directory)
        newest = max(good, key=lambda copy: copy.sequence)
        if len(good) == 1 and not problems:
            problems.append(f"one of {directory}/meta-a and meta-b is missing or empty")
        elif len(good) == 2 and abs(good[0].sequence - good[1].sequence) > 1:
            problems.append(f"one of {directory}/meta-a and meta-b is older than the last save but one")
        warnings = tuple(f"{problem}; the other copy is good and is used" for problem in problems)
        opened = cls(disk=disk, directory=directory, meta=newest, warnings=warnings)
        if len(good) == 2 and _without_mark(good[0]) != _without_mark(good[1]):
            # A save was cut short between its copies: until both have it, one damage takes it away.
            opened.meta = msgspec.structs.replace(newest, sequence=newest.sequence + 1)
            opened._write(opened.meta)
        return opened

    def save(self, meta: Meta) -> None:
        """Make `meta` durable; its `sequence` is set here. Raises ValueError, DiskFailed.

        ValueError is for what no correct caller does: a term that goes back, or a second vote in one term.
        """
        old = self.meta
        if meta.term < old.term:
            raise ValueError(f"the term would go back from {old.term} to {meta.term}")
        if meta.term == old.term and old.vote not in ("", meta.vote):
            raise ValueError(f"a second vote in term {meta.term}: {meta.vote!r} after {old.vote!r}")
        new = msgspec.structs.replace(meta, sequence=old.sequence + 1)
        self._write(new)
        if self.fresh or self.warnings or _without_mark(new) != _without_mark(old):
            new = msgspec.structs.replace(new, sequence=new.sequence + 1)
            self._write(new)
        self.meta, self.fresh, self.warnings = new, False, ()

    def _write(self, meta: Meta) -> None:
        """Write the copy whose turn it is."""
        path = f"{self._directory}/{_COPIES[meta.sequence % 2]}"
        raw = _encode(meta)
        if len(raw) > _LIMIT:
            raise ValueError(f"the vote file would have {len(raw)} bytes, the limit is {_LIMIT}")
        is_new = not self._disk.exists(path)
        file: File = self._disk.open(path, create=True)
        try:
            file.pwrite(raw, 0)
            if file.size() > len(raw):
                file.truncate(len(raw))
            file.sync()
        finally:
            file.close()
        if is_new:
            self._disk.sync_dir(self._directory)


def _make_durable(disk: Disk, directory: str) -> None:
    """Sync what was read: a process killed before its sync left it in the page cache alone."""
    for path in (f"{directory}/{name}" for name in _COPIES):
        if disk.exists(path):
            file = disk.open(path)
            try:
                file.sync()
            finally:
                file.close()
    disk.sync_dir(directory)


def _without_mark(meta: Meta) -> Meta:
    return msgspec.structs.replace(meta, durable_index=0, durable_hash=b"", sequence=0)


def _encode(meta: Meta) -> bytes:
    """magic, CRC-32 of the rest, format, length, then `Meta` in MessagePack; padded to whole sectors."""
    body = _encoder.encode(meta)
    raw = _LAYOUT.pack(_MAGIC, 0, META_FORMAT, len(body)) + body
    return (raw[:8] + struct.pack("<I", crc32(raw[12:])) + raw[12:]).ljust(sectors(len(raw)), b"\0")


def _read(disk: Disk, path: str) -> Meta | None:
    """A copy; None if it was never written. Raises Corrupt, NewerFormat."""
    raw = read_whole(disk, path, _LIMIT) if disk.exists(path) else b""
    if not raw.strip(b"\0"):
        return None
    if len(raw) < _LAYOUT.size or raw[:8] != _MAGIC:
        raise Corrupt(f"{path} is damaged: it does not begin as a vote file")
    _, crc, format_number, length = _LAYOUT.unpack_from(raw)
    if length > len(raw) - _LAYOUT.size or crc != crc32(raw[12 : _LAYOUT.size + length]):
        raise Corrupt(f"{path} is damaged: it fails its checksum")
    check_format(path, format_number, META_FORMAT)
    try:
        return _decoder.decode(raw[_LAYOUT.size : _LAYOUT.size + length])
    except msgspec.DecodeError as error:
        raise Corrupt(f"{path} is damaged: {error}") from error


def _advice(directory: str, problems: list[str]) -> str:
    what = "; ".join(problems) or f"{directory} holds a Raft log, but meta-a and meta-b are missing"
    return (
        f"{what}. This server cannot know how it voted, so it must not take part under its old id. If the "
        f"other servers have a quorum, remove this one there, move {directory} away, and let it join as a "
        f"new server; if not, restore {directory} of this host from before the damage was done"
    )


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(Meta)
