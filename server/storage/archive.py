"""The archive of a snapshot, as people keep it: a gzip stream of two lines of text and a state file.

    GEMOT SNAPSHOT
    {"format":1,"index":...,"size":...,"sha256":"..."}
    <the bytes of an SQLite database>

What it is: packing a copy of the state, and unpacking one that may be damaged, endless or made to harm: in
bounded memory, to a file of no more bytes than it declares, and refused as early as it can be told. What it
is not: it does not look into the database (`standing.py`).
"""

from __future__ import annotations

import contextlib
import zlib
from collections.abc import Callable
from hashlib import sha256

import msgspec

from gemot.server.model.errors import BadRequest, Corrupt, StorageFailed, TooLarge
from gemot.server.model.restore import MOST_EPOCH
from gemot.server.storage.disk import Disk
from gemot.server.storage.snapshot import CHUNK_BYTES, MAX_SNAPSHOT_BYTES

ARCHIVE_FORMAT = 1
MAGIC = b"GEMOT SNAPSHOT\n"
HEAD_LIMIT = 64 << 10
"""Bytes of the two lines, at most."""

_INSTEAD = "copy or save it again, or take another one"

_LEVEL = 3
_GZIP_BEGINS = b"\x1f\x8b"
_GZIP = 31
"""zlib's code for a window of 32 KiB in a gzip wrapper."""

_PAGE_BYTES = 4096
_RESERVED_BYTES = 8
_SQLITE = b"SQLite format 3\0"


class Head(msgspec.Struct, frozen=True):
    """What an archive says of itself. `index` is the one that readers know, `size` and `sha256` the state's.

    `cluster` and `voters` tell where it comes from: a restore takes over neither.
    """

    format: int
    index: int
    term: int
    epoch: int
    voters: tuple[str, ...]
    cluster: str
    created_by: str
    size: int
    sha256: str

    @property
    def id(self) -> str:
        """A name for people: of which term and index, and of which bytes."""
        return f"{self.term}-{self.index}-{self.sha256[:12]}"


class _OnlyFormat(msgspec.Struct, frozen=True):
    """As much of a head as any release can read."""

    format: int


def pack(disk: Disk, state: str, head: Head, archive: str) -> int:
    """Write the archive of the state file `state`, and tell its size. For a worker; nothing is synced."""
    packer = zlib.compressobj(_LEVEL, zlib.DEFLATED, _GZIP)
    source, target = disk.open(state), disk.open(archive, create=True)
    written = 0
    try:
        data = packer.compress(MAGIC + msgspec.json.encode(head) + b"\n")
        offset = 0
        while True:
            if data:
                target.pwrite(data, written)
                written += len(data)
            piece = source.pread(CHUNK_BYTES, offset)
            if not piece:
                break
            offset += len(piece)
            data = packer.compress(piece)
        data = packer.flush()
        target.pwrite(data, written)
        return written + len(data)
    finally:
        source.close()
        target.close()


def as_damaged(why: str) -> BadRequest:
    return BadRequest(f"the snapshot is damaged: {why}: {_INSTEAD}")


def as_refused(error: StorageFailed) -> BadRequest:
    """What the checks of a state file found in one that came as a snapshot."""
    if isinstance(error, Corrupt):
        return as_damaged(error.message)
    return BadRequest(f"the snapshot cannot be read: {error.message}")


def _as_none_of_ours(why: str) -> BadRequest:
    return BadRequest(f"not a snapshot of Gemot: {why}: give a file that `gemot snapshot save` wrote")


class Unpacker:
    """Takes an archive piece by piece and hands on the state's bytes. Raises BadRequest for what is none.

    Sizes are told as of what: the bytes of the archive as it came, or of the state once unpacked.

    `write(data, offset)` gets the state; it gets at most as many bytes as the head declares. `accept` is
    told the head before the first of them, and may refuse.
    """

    def __init__(
        self, *, write: Callable[[bytes, int], None], accept: Callable[[Head], None] = lambda head: None
    ) -> None:
        self._write = write
        self._accept = accept
        self._inflate = zlib.decompressobj(_GZIP)
        self._begins = b""
        self._packed_size = 0
        self._lines = b""
        self._digest = sha256()
        self._first = b""
        self.head: Head | None = None
        self.size = 0

    def feed(self, data: bytes) -> None:
        """The next bytes of the archive. Inflated a MiB at a time, however small they were packed."""
        self._begins += data[: len(_GZIP_BEGINS) - len(self._begins)]
        self._packed_size += len(data)
        while data:
            if self._inflate.eof:
                raise as_damaged("more bytes follow its end")
            try:
                piece = self._inflate.decompress(data, CHUNK_BYTES)
            except zlib.error as error:
                raise self._explain(error) from error
            data = self._inflate.unconsumed_tail or self._inflate.unused_data
            self._take(piece)

    def finish(self) -> Head:
        """All bytes were fed: is it whole, and is it what it says?"""
        with contextlib.suppress(zlib.error):
            while not self._inflate.eof and (piece := self._inflate.decompress(b"", CHUNK_BYTES)):
                self._take(piece)
        if not self._inflate.eof:
            raise self._cut_short()
        if self.head is None:
            raise _as_none_of_ours("it ends within its first lines")
        if self.size < self.head.size:
            raise as_damaged(f"{self._held(self.head)}, and that is all of it")
        if self._digest.hexdigest() != self.head.sha256:
            raise as_damaged(
                f"its SHA-256 is {self._digest.hexdigest()[:16]}..., it should be {self.head.sha256[:16]}..."
            )
        return self.head

    def _take(self, piece: bytes) -> None:
        if self.head is None:
            self._lines += piece
            if self._lines[: len(MAGIC)] != MAGIC[: len(self._lines)]:
                raise _as_none_of_ours("it is a gzip stream that begins otherwise")
            end = self._lines.find(b"\n", len(MAGIC))
            if end < 0:
                if len(self._lines) > HEAD_LIMIT:
                    raise _as_none_of_ours(f"no head in its first {HEAD_LIMIT} bytes, unpacked")
                return
            head = _read_head(self._lines[len(MAGIC) : end])
            self._accept(head)
            self.head, piece, self._lines = head, self._lines[end + 1 :], b""
        self._take_state(self.head, piece)

    def _take_state(self, head: Head, piece: bytes) -> None:
        if self.size + len(piece) > head.size:
            raise as_damaged(f"its state has, unpacked, more than the {head.size} bytes that it should have")
        if not piece:
            return
        if len(self._first) < 100:
            self._first += piece[: 100 - len(self._first)]
            if len(self._first) == 100:
                _check_first_page(self._first, head.size)
        self._digest.update(piece)
        self._write(piece, self.size)
        self.size += len(piece)

    def _explain(self, error: zlib.error) -> BadRequest:
        """Why the stream cannot be unpacked; zlib's own words are for programmers.

        What the same call had unpacked before it came to the damage is lost: that may be a MiB.
        """
        if self._begins != _GZIP_BEGINS:
            return _as_none_of_ours("it is no gzip stream")
        if any(check in str(error) for check in ("data check", "length check")):
            return as_damaged("the checksum at the end of its gzip stream does not fit")
        there = (
            f": {self.size} of the {self.head.size} bytes of its state are before that" if self.head else ""
        )
        return as_damaged(f"its gzip stream holds what cannot be unpacked{there}")

    def _cut_short(self) -> BadRequest:
        if not self._packed_size:
            held = "it is empty"
        elif self.head is None:
            held = f"its {self._packed_size} bytes end within its first lines"
        else:
            held = f"{self._held(self.head)}, and the end is missing"
        return BadRequest(f"the snapshot is cut short: {held}: {_INSTEAD}")

    def _held(self, head: Head) -> str:
        return (
            f"its {self._packed_size} bytes hold, unpacked, {self.size} of the {head.size} bytes of the state"
        )


def _read_head(line: bytes) -> Head:
    try:
        found = msgspec.json.decode(line, type=_OnlyFormat).format
        if found > ARCHIVE_FORMAT:
            raise BadRequest(
                f"the snapshot was made by a newer release (format {found}, this one knows up to "
                f"{ARCHIVE_FORMAT}): restore it with that release"
            )
        head = msgspec.json.decode(line, type=Head)
    except (msgspec.DecodeError, RecursionError) as error:
        raise as_damaged(f"its head cannot be read ({error})") from error
    if head.size > MAX_SNAPSHOT_BYTES:
        raise TooLarge(f"a snapshot of {head.size} bytes, unpacked: at most {MAX_SNAPSHOT_BYTES} are taken")
    numbers = (head.format, head.index, head.size)
    plausible = all(n > 0 for n in numbers) and head.term >= 0 and 0 <= head.epoch < MOST_EPOCH
    if not plausible or head.index > MAX_INDEX or head.size % _PAGE_BYTES or len(head.sha256) != 64:
        raise as_damaged("its head says what cannot be")
    return head


MAX_INDEX = 1 << 60
"""Far beyond what any cluster reaches, far below what SQLite's integers hold."""


def _check_first_page(first: bytes, size: int) -> None:
    """What the first hundred bytes of a state file always are: so that most rubbish never fills a disk."""
    page = int.from_bytes(first[16:18], "big")
    pages = int.from_bytes(first[28:32], "big")
    if first[:16] != _SQLITE or page != _PAGE_BYTES or first[20] != _RESERVED_BYTES:
        raise as_damaged("what it holds is no state file")
    if pages * _PAGE_BYTES != size:
        raise as_damaged(f"a state file of {pages} pages in {size} bytes, unpacked")
