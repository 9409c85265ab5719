"""The UDP side: a datagram in, a datagram out, without a task where the reply is known.

Lossy by nature: while the kernel takes no more, and beyond the bound of waiting questions, datagrams are
dropped rather than queued.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Any, cast

from gemot.dns.responder import DROPPED, Responder

_log = logging.getLogger(__name__)

Peer = tuple[str | Any, int]


class UdpEndpoint(asyncio.DatagramProtocol):
    """One socket. An asyncio protocol, so the base class is asyncio's own."""

    def __init__(self, responder: Responder) -> None:
        self._responder = responder
        self._transport: asyncio.DatagramTransport | None = None
        self._full = False
        self._tasks: dict[asyncio.Task[bytes], Peer] = {}

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.DatagramTransport, transport)

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None

    def pause_writing(self) -> None:
        self._full = True

    def resume_writing(self) -> None:
        self._full = False

    def error_received(self, exc: Exception) -> None:
        """An ICMP message about an earlier reply: the asker is gone, which is its own affair."""

    def datagram_received(self, data: bytes, addr: Peer) -> None:
        if self._full:
            self._responder.counts[DROPPED] += 1
            return
        try:
            reply = self._responder.respond(data, tcp=False)
        except Exception:
            _log.exception("dns: a question of %d bytes from %s could not be answered", len(data), addr)
            return
        if isinstance(reply, bytes):
            self._send(reply, addr)
        elif reply is not None:
            self._tasks[reply] = addr
            reply.add_done_callback(self._on_reply)

    def close(self) -> None:
        """No datagram goes out after this."""
        for task in list(self._tasks):
            task.cancel()
        if self._transport is not None:
            self._transport.close()

    def _on_reply(self, task: asyncio.Task[bytes]) -> None:
        addr = self._tasks.pop(task)
        if task.cancelled():
            return
        error = task.exception()
        if error is None:
            self._send(task.result(), addr)
        else:
            _log.error("dns: a question from %s could not be answered", addr, exc_info=error)

    def _send(self, reply: bytes, addr: Peer) -> None:
        if self._transport is None or self._full:
            self._responder.counts[DROPPED] += 1
            return
        self._transport.sendto(reply, addr)
