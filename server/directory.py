"""Where the servers are: id to member, learnt from hellos, join answers, and the catalog."""

from __future__ import annotations

from gemot.server.rpc.message import Member

MOST_SERVERS = 256
"""Of more there is no second-hand word: anybody can invent one."""


class Directory:
    """The newest word on each server. An address may change; an id never does."""

    def __init__(self, me: Member) -> None:
        self._me = me
        self._servers: dict[str, Member] = {me.id: me}
        self._answers: dict[str, str] = {me.rpc: me.id}

    def learn(self, member: Member) -> None:
        """First-hand word of a server replaces what was known of it; about ourselves we know best.

        At one address there is one server: one that was known there under another id is no more.
        """
        if member.role != "server" or member.id == self._me.id:
            return
        for id in [m.id for m in self._servers.values() if m.rpc == member.rpc and m.id != member.id]:
            if id != self._me.id:
                del self._servers[id]
        self._servers[member.id] = member
        self._answers[member.rpc] = member.id

    def hint(self, member: Member) -> None:
        """Second-hand word fills a gap only; it does not bring back who is known to be no more."""
        room = len(self._servers) < MOST_SERVERS
        if room and member.role == "server" and self._answers.get(member.rpc, member.id) == member.id:
            self._servers.setdefault(member.id, member)

    def get(self, id: str) -> Member | None:
        return self._servers.get(id)

    def servers(self) -> tuple[Member, ...]:
        """Ourselves first, the others by id."""
        others = [m for id, m in sorted(self._servers.items()) if id != self._me.id]
        return (self._me, *others)

    def name(self, id: str) -> str:
        member = self._servers.get(id)
        return member.name if member is not None else id
