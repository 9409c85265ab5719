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

from gemot.server.model.errors import BadRequest, TooLarge
from gemot.server.storage.disk import Disk
from gemot.server.storage.snapshot import CHUNK_BYTES, MAX_SNAPSHOT_BYTES

ARCHIVE_FORMAT = 1
MAGIC = b"GEMOT SNAPSHOT\n"
HEAD_LIMIT = 64 << 10
"""Bytes of the two lines, at most."""

_LEVEL = 3
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


class Unpacker:
    """Takes an archive piece by piece and hands on the state's bytes. Raises BadRequest for what is none.

    `write(data, offset)` gets the state; it gets at most as many bytes as the head declares. `accept` is
    told the head before the first of them, and may refuse.
    """

    def __init__(
        self, *, write: Callable[[bytes, int], None], accept: Callable[[Head], None] = lambda head: None
    ) -> None:
        self._write = write
        self._accept = accept
        self._inflate = zlib.decompressobj(_GZIP)
        self._lines = b""
        self._digest = sha256()
        self._first = b""
        self.head: Head | None = None
        self.size = 0

    def feed(self, data: bytes) -> None:
        """The next bytes of the archive. Inflated a MiB at a time, however small they were packed."""
        while data:
            if self._inflate.eof:
                raise BadRequest("not a snapshot as it was saved: more bytes follow its end")
            try:
                piece = self._inflate.decompress(data, CHUNK_BYTES)
            except zlib.error as error:
                raise BadRequest(_not_gzip(self.head, error)) from error
            data = self._inflate.unconsumed_tail or self._inflate.unused_data
            self._take(piece)

    def finish(self) -> Head:
        """All bytes were fed: is it whole, and is it what it says?"""
        with contextlib.suppress(zlib.error):
            while not self._inflate.eof and (piece := self._inflate.decompress(b"", CHUNK_BYTES)):
                self._take(piece)
        if self.head is None or not self._inflate.eof or self.size < self.head.size:
            of = f"; {self.size} bytes of {self.head.size} are there" if self.head is not None else ""
            raise BadRequest(f"the snapshot is cut short{of}: save it again, or take another one")
        if self._digest.hexdigest() != self.head.sha256:
            raise BadRequest(
                f"the snapshot is damaged: its SHA-256 is {self._digest.hexdigest()[:16]}..., "
                f"it should be {self.head.sha256[:16]}..."
            )
        return self.head

    def _take(self, piece: bytes) -> None:
        if self.head is None:
            self._lines += piece
            if self._lines[: len(MAGIC)] != MAGIC[: len(self._lines)]:
                raise BadRequest("not a snapshot of Gemot: it begins otherwise")
            end = self._lines.find(b"\n", len(MAGIC))
            if end < 0:
                if len(self._lines) > HEAD_LIMIT:
                    raise BadRequest(f"not a snapshot of Gemot: no head in its first {HEAD_LIMIT} bytes")
                return
            head = _read_head(self._lines[len(MAGIC) : end])
            self._accept(head)
            self.head, piece, self._lines = head, self._lines[end + 1 :], b""
        self._take_state(self.head, piece)

    def _take_state(self, head: Head, piece: bytes) -> None:
        if self.size + len(piece) > head.size:
            raise BadRequest(f"the snapshot is damaged: more than the {head.size} bytes that it should have")
        if not piece:
            return
        if len(self._first) < 100:
            self._first += piece[: 100 - len(self._first)]
            if len(self._first) == 100:
                _check_first_page(self._first, head.size)
        self._digest.update(piece)
        self._write(piece, self.size)
        self.size += len(piece)


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
        raise BadRequest(f"the snapshot is damaged: its head cannot be read ({error})") from error
    if head.size > MAX_SNAPSHOT_BYTES:
        raise TooLarge(f"a snapshot of {head.size} bytes: at most {MAX_SNAPSHOT_BYTES} are taken")
    numbers = (head.format, head.index, head.size)
    plausible = all(n > 0 for n in numbers) and head.term >= 0 and 0 <= head.epoch < MAX_EPOCH
    if not plausible or head.index > MAX_INDEX or head.size % _PAGE_BYTES or len(head.sha256) != 64:
        raise BadRequest("the snapshot is damaged: its head says what cannot be")
    return head


MAX_EPOCH = 1 << 31
MAX_INDEX = 1 << 60
"""Far beyond what any cluster reaches, far below what SQLite's integers hold."""


def _check_first_page(first: bytes, size: int) -> None:
    """What the first hundred bytes of a state file always are: so that most rubbish never fills a disk."""
    page = int.from_bytes(first[16:18], "big")
    pages = int.from_bytes(first[28:32], "big")
    if first[:16] != _SQLITE or page != _PAGE_BYTES or first[20] != _RESERVED_BYTES:
        raise BadRequest("the snapshot is damaged: what it holds is no state file")
    if pages * _PAGE_BYTES != size:
        raise BadRequest(f"the snapshot is damaged: a state file of {pages} pages in {size} bytes")


def _not_gzip(head: Head | None, error: zlib.error) -> str:
    if head is None and "header" in str(error):
        return f"not a snapshot of Gemot: it is no gzip stream ({error})"
    return f"the snapshot is damaged: {error}"
