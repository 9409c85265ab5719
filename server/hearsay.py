"""Servers that this one has merely heard of, by gossip: whom to ask while it belongs to no cluster.

Anybody may say that a server is there. So they are few, who has failed is asked no more, and none of them
counts for anything before it has answered itself (`bootstrap.py`, `joining.py`).
"""

from __future__ import annotations

from gemot.server.rpc.message import Member

MOST = 32
"""More servers than any cluster has. Of more the last ones that were heard of are asked."""


class Hearsay:
    def __init__(self, me: Member) -> None:
        self._me = me
        self._servers: dict[str, Member] = {}

    def hear(self, member: Member, *, lives: bool) -> None:
        self._servers.pop(member.id, None)
        if lives and member.role == "server" and member.id != self._me.id:
            if len(self._servers) >= MOST:
                del self._servers[next(iter(self._servers))]
            self._servers[member.id] = member

    def servers(self) -> tuple[Member, ...]:
        return tuple(self._servers.values())
