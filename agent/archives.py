"""Snapshots through the tier: an archive fetched piece by piece, and one sent to be restored.

The same over RPC and in one process: all that is needed is a way to make a call. One piece is on its way at a
time, so memory holds one, however large the state is and however slow the caller.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Callable
from typing import Any

import msgspec

from gemot.server.model.errors import PeerBroke
from gemot.server.model.restore import Restored
from gemot.server.rpc.message import ArchivePiece, Call, ReadArchive, Upload

PIECE_BYTES = 1 << 20

Ask = Callable[[Call], asyncio.Future[Any]]


class Saved(msgspec.Struct, frozen=True):
    """A snapshot that was made. `pieces` are its bytes; they fail if the server that has it is lost."""

    index: int
    epoch: int
    size: int
    known_leader: bool
    last_contact_ms: int
    pieces: AsyncIterator[bytes]


async def save(ask: Ask, *, stale: bool, token: str) -> Saved:
    """Have a snapshot made that holds all that was acknowledged before, unless `stale`. Raises GemotError."""
    first: ArchivePiece = await ask(ReadArchive(0, 0, stale, token))

    async def pieces() -> AsyncIterator[bytes]:
        piece, reached = first, 0
        while True:
            if piece.offset != reached or not piece.data:
                raise PeerBroke("the server sent another piece of the snapshot than the one asked for")
            yield piece.data
            reached += len(piece.data)
            if reached >= first.size:
                return
            piece = await ask(ReadArchive(first.id, reached, token=token))

    return Saved(
        first.index, first.epoch, first.size, first.known_leader, first.last_contact_ms, pieces()
    )  # fmt: skip


async def restore(ask: Ask, archive: AsyncIterator[bytes], *, epoch: int, token: str) -> Restored:
    """Send an archive, and wait until it is the state. Raises GemotError."""
    id = int.from_bytes(os.urandom(7), "big")
    waiting = bytearray()
    offset = 0
    async for data in archive:
        waiting += data
        while len(waiting) >= PIECE_BYTES:
            piece = bytes(waiting[:PIECE_BYTES])
            del waiting[:PIECE_BYTES]
            await ask(Upload(id, offset, piece, False, token=token))
            offset += len(piece)
    done: Restored = await ask(Upload(id, offset, bytes(waiting), True, epoch, token))
    return done
