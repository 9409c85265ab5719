"""The agents with a connection to this server, and this server itself: whom it reports to the leader.

Not who is alive: that the leader decides (`members.py`), of what all servers report.
"""

from __future__ import annotations

from gemot.server.rpc.message import Member
from gemot.server.state.names import fold


def same_place(before: Member, member: Member) -> bool:
    """Two servers that say they listen at one address: one was wiped, or both are configured alike."""
    return before.id != member.id and before.rpc == member.rpc != ""


class Connected:
    """The agents with a connection to this server, and this server itself."""

    def __init__(self, me: Member) -> None:
        self._me = me
        self._members: dict[str, Member] = {}
        self._connections: dict[str, int] = {}

    def add(self, member: Member) -> None:
        """Where a server listened before, it is no more: its connection only has not broken yet."""
        for gone in [m.id for m in self._members.values() if same_place(m, member)]:
            del self._members[gone]
        self._members[member.id] = member
        self._connections[member.id] = self._connections.get(member.id, 0) + 1

    def remove(self, member: Member) -> None:
        left = self._connections.get(member.id, 0) - 1
        if left > 0:
            self._connections[member.id] = left
        else:
            self._connections.pop(member.id, None)
            self._members.pop(member.id, None)

    def forget(self, node: str, id: str = "") -> None:
        """This node said that it leaves: its still open connection is no sign of life any more.

        Another id under its name stays; without an id nobody is another.
        """
        named = [m.id for m in self._members.values() if fold(m.name) == fold(node)]
        for each in named:
            if id in ("", each):
                del self._members[each]

    def members(self) -> tuple[Member, ...]:
        return (self._me, *self._members.values())
