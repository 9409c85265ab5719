"""Who is connected to one simulated server: a sign of life, for as long as something comes."""

from __future__ import annotations

from simulation.world import World

from gemot.server.rpc.message import Member
from gemot.server.server import Server

SILENT_US = 5_000_000
"""A connection that brings nothing for so long, not even a ping, is broken (`server/runtime/`)."""


class Connections:
    """By id: who it is, which life of it, and when it was heard of last."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._open: dict[str, tuple[Member, int, int]] = {}

    def clear(self) -> None:
        self._open.clear()

    def heard(self, server: Server, life: int, member: Member) -> None:
        """Something came from it. A process that was started again has a connection of its own."""
        _, before, _ = self._open.get(member.id, (member, 0, 0))
        self._open[member.id] = (member, life, self._world.now_us)
        if before != life:
            if before:
                server.endpoint.on_disconnected(member)
            server.endpoint.on_connected(member)

    def hang_up(self, server: Server) -> None:
        """Those that bring nothing are taken for broken."""
        for id, (member, _, heard_us) in list(self._open.items()):
            if self._world.now_us - heard_us >= SILENT_US:
                del self._open[id]
                server.endpoint.on_disconnected(member)
