"""Archives for tests: one of a real state, and the same with something wrong in it."""

from __future__ import annotations

import zlib
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path

import apsw
import msgspec
from support.one_state import OneState

from gemot.server.storage.archive import MAGIC, Head
from gemot.server.storage.blobs import Blobs
from gemot.server.storage.realdisk import RealDisk
from gemot.server.storage.sqlite import CHECKSUM_VFS


def blobs_at(folder: Path) -> Blobs:
    return Blobs.open(RealDisk(sync=False), str(folder), CHECKSUM_VFS)


def archive_of(one: OneState, folder: Path) -> bytes:
    """As a server gives it out."""
    blobs = blobs_at(folder)
    one.state.settle()
    export = blobs.export(one.file, 1, ("a", "b"), "cluster", "1.0")
    whole, piece = b"", b"?"
    while piece:
        piece = blobs.read_export(1, len(whole))
        whole += piece
    blobs.drop_export(1)
    assert len(whole) == export.size
    return whole


def parts(archive: bytes) -> tuple[Head, bytes]:
    """Head and state of a whole archive."""
    text = zlib.decompress(archive, 31)
    assert text.startswith(MAGIC)
    line, _, state = text[len(MAGIC) :].partition(b"\n")
    return msgspec.json.decode(line, type=Head), state


def packed(head: Head, state: bytes, *, magic: bytes = MAGIC) -> bytes:
    packer = zlib.compressobj(1, zlib.DEFLATED, 31)
    return packer.compress(magic + msgspec.json.encode(head) + b"\n" + state) + packer.flush()


def fitting(head: Head, state: bytes) -> bytes:
    """An archive whose head says the truth of the state's bytes, whatever they are."""
    digest = sha256(state).hexdigest()
    return packed(msgspec.structs.replace(head, size=len(state), sha256=digest), state)


def altered(archive: bytes, folder: Path, change: Callable[[apsw.Connection], None]) -> bytes:
    """The archive of a state that was altered by SQLite itself, so that its pages and hash fit."""
    head, state = parts(archive)
    path = folder / "altered.db"
    path.write_bytes(state)
    connection = apsw.Connection(str(path), vfs=CHECKSUM_VFS)
    connection.execute("pragma journal_mode=delete").get  # noqa: B018 - run to its end
    change(connection)
    connection.close()
    return fitting(head, path.read_bytes())


def take_in(blobs: Blobs, archive: bytes, *, piece: int = 1 << 16) -> str:
    """Have it taken in, and tell its SHA-256. Raises what the server would answer."""
    for at in range(0, len(archive), piece):
        blobs.take_in(7, archive[at : at + piece])
    if not archive:
        blobs.take_in(7, b"")
    return blobs.finish(7).sha256
