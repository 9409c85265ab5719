"""A member that is far away, on one host: each datagram that it sends leaves late.

So a round trip with it takes that much longer, whoever begins.
"""

from __future__ import annotations

import asyncio
from typing import Any

from support.gossiping import Gossiper


class LongWay:
    """A socket's sending side, with a delay."""

    def __init__(self, socket: asyncio.DatagramTransport, delay_s: float) -> None:
        self._socket = socket
        self._delay_s = delay_s

    def sendto(self, data: bytes, place: Any) -> None:
        asyncio.get_running_loop().call_later(self._delay_s, self._on, data, place)

    def _on(self, data: bytes, place: Any) -> None:
        if not self._socket.is_closing():
            self._socket.sendto(data, place)

    def is_closing(self) -> bool:
        return self._socket.is_closing()

    def close(self) -> None:
        self._socket.close()


async def start_far(member: Gossiper, delay_s: float) -> None:
    await member.start()
    socket: Any = member.gossip._socket
    member.gossip._socket = LongWay(socket, delay_s)  # type: ignore[assignment]
