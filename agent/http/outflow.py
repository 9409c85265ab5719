"""An answer's way into its connection: never more at once than that has room for.

What a transport is given it holds until the other side takes it, and nothing here counts that. So it is
given a slice and no other before there is room again: of an answer to a client that does not read it holds
a slice and its high-water mark, however long the answer. The rest stays with whoever made it.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

from aiohttp.web import BaseRequest

from gemot.agent.http.stalled import Stalled

SLICE_BYTES = 64 * 1024
HIGH_WATER_BYTES = 16 * 1024
"""At which a transport is full. By itself it would be at 64 KiB, that of TLS at 512."""


class Outflow:
    """For one answer. With `chunked` each slice is a chunk of its own. A client that takes nothing at all
    for `patience_s` is cut; with 0 it is waited for."""

    def __init__(
        self, request: BaseRequest, transport: Any, *, chunked: bool = False, patience_s: float = 0.0
    ) -> None:
        self._protocol = request.protocol
        self._transport = transport
        self._chunked = chunked
        self._patience_s = patience_s
        transport.set_write_buffer_limits(HIGH_WATER_BYTES)

    def send_now(self, piece: bytes) -> bool:
        """All of it without waiting; or False, and nothing, where the connection is full or it is long."""
        if len(piece) > SLICE_BYTES or self._protocol._paused or self._transport.is_closing():
            return False
        self._transport.write(_chunk(piece) if self._chunked else piece)
        return True

    async def send(self, piece: bytes) -> None:
        """All of it, and there is room for more. Raises ConnectionError where the client is gone."""
        await self._room()
        if len(piece) <= SLICE_BYTES:
            self._transport.write(_chunk(piece) if self._chunked else piece)
            await self._room()
            return
        whole = memoryview(piece)
        for begin in range(0, len(piece), SLICE_BYTES):
            part = whole[begin : begin + SLICE_BYTES]
            # A copy: a view would keep the whole piece for as long as its last slice is not taken.
            self._transport.write(_framed(part) if self._chunked else bytes(part))
            await self._room()

    async def _room(self) -> None:
        if self._protocol._paused:
            stalled = Stalled(self._transport, self._patience_s) if self._patience_s else None
            try:
                await self._protocol._drain_helper()
            finally:
                if stalled is not None:
                    stalled.stop()
        if self._transport.is_closing():
            raise ConnectionResetError("the client is gone")


def _framed(part: bytes | memoryview) -> bytes:
    return b"".join((b"%x\r\n" % len(part), part, b"\r\n"))


_chunk = lru_cache(maxsize=4)(_framed)
"""One for all readers that are sent the same piece."""
