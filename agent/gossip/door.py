"""Connections to 8301/tcp, sorted by their first byte: gossip's own, or what an older release asks there.

Nothing is read of a connection but what its protocol reads; who says nothing is sent away.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable
from typing import cast

Protocols = dict[bytes, Callable[[], asyncio.Protocol]]
"""By its first byte: who goes on with a connection."""

BUSY = "busy"
UNKNOWN = "stranger"
SILENT = "silent"
"""Why a connection went no further, in words for counting."""

MAX_CONNECTIONS = 1_024
MAX_PER_ADDRESS = 64
SILENT_S = 5.0


class Door:
    """Listens, and hands on. `refused` hears of whom one went no further, and why: a word, a sentence."""

    def __init__(
        self,
        *,
        loop: asyncio.AbstractEventLoop,
        protocols: Protocols,
        refused: Callable[[str, str, str], None],
    ) -> None:
        self._loop = loop
        self._protocols = protocols
        self._refused = refused
        self._server: asyncio.Server | None = None
        self._waiting: dict[_Entry, None] = {}
        self._open: Counter[str] = Counter()

    async def start(self, host: str, port: int) -> None:
        """Raises OSError when the address is in use."""
        make = lambda: _Entry(self)  # noqa: E731
        self._server = await self._loop.create_server(make, host, port, reuse_address=True, backlog=1024)

    def stop(self) -> None:
        """Nobody new comes in. Who was handed on is not this one's any more."""
        if self._server is not None:
            self._server.close()
        for entry in list(self._waiting):
            entry.close()

    # -- what an entry tells ---------------------------------------------------------------------------

    def came(self, entry: _Entry) -> None:
        why = ""
        if len(self._waiting) >= MAX_CONNECTIONS:
            why = f"more than {MAX_CONNECTIONS} connections that have said nothing"
        elif self._open[entry.address] >= MAX_PER_ADDRESS:
            why = f"more than {MAX_PER_ADDRESS} connections of one address that have said nothing"
        self._waiting[entry] = None
        self._open[entry.address] += 1
        if why:
            self._refused(entry.address, BUSY, why)
            entry.close()
        else:
            self._loop.call_later(SILENT_S, self._too_late, entry)

    def spoke(self, entry: _Entry, data: bytes) -> None:
        """Its first bytes: whoever knows them goes on with it."""
        make = self._protocols.get(data[:1])
        transport = entry.transport
        assert transport is not None, "it is open"
        self.went(entry)
        if make is None:
            why = f"a connection begins with byte {data[0]:#04x}, nothing known here"
            self._refused(entry.address, UNKNOWN, why)
            transport.abort()
            return
        protocol = make()
        transport.set_protocol(protocol)
        protocol.connection_made(transport)
        protocol.data_received(data)

    def went(self, entry: _Entry) -> None:
        if entry in self._waiting:
            del self._waiting[entry]
            self._open -= Counter((entry.address,))  # which drops those that come to 0

    def _too_late(self, entry: _Entry) -> None:
        if entry in self._waiting:
            self._refused(entry.address, SILENT, f"a connection that has said nothing in {SILENT_S:g} s")
            entry.close()


class _Entry(asyncio.Protocol):
    """A connection of which nothing has been heard yet."""

    def __init__(self, door: Door) -> None:
        self._door = door
        self.transport: asyncio.Transport | None = None
        self.address = "?"

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        peername = transport.get_extra_info("peername")
        self.address = str(peername[0]) if peername else "?"
        self._door.came(self)

    def data_received(self, data: bytes) -> None:
        if self.transport is not None and not self.transport.is_closing():
            self._door.spoke(self, data)

    def connection_lost(self, exc: Exception | None) -> None:
        self._door.went(self)

    def close(self) -> None:
        if self.transport is not None:
            self.transport.abort()
