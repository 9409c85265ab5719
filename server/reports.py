"""What each server tells the leader once a second: who is connected to it, its room, what it gathered.

And what is made of it where it arrives.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from gemot.server.connected import Connected
from gemot.server.consensus import Replica
from gemot.server.coordinates import CoordinateBatches
from gemot.server.directory import Directory
from gemot.server.features import Features
from gemot.server.members import Membership
from gemot.server.model.coordinate import NodeCoordinate
from gemot.server.ports import Peers
from gemot.server.rpc.message import FEATURES, Member, Report, fault_of
from gemot.server.space import Room, Space


class Reports:
    """What agents are connected here goes to `membership` while this server leads, else to who does."""

    def __init__(
        self,
        *,
        me: Member,
        cluster: Callable[[], str],
        replica: Replica,
        connected: Connected,
        directory: Directory,
        space: Space,
        peers: Peers,
        features: Features,
        coordinates: CoordinateBatches,
        leaving: Callable[[], str],
        membership: Membership,
    ) -> None:
        self._me = me
        self._cluster = cluster
        self._replica = replica
        self._connected = connected
        self._directory = directory
        self._space = space
        self._peers = peers
        self._features = features
        self._coordinates = coordinates
        self._leaving = leaving
        self._membership = membership
        self._reported: dict[str, frozenset[str]] = {}
        """Ids that the last report of each server told, by the id of that server."""

    def send(self) -> None:
        """Tell the leader who is connected here; without one, tell every server that this one is here.

        One that repairs does not campaign: nobody would hear of it, and it not that it was removed.
        """
        members = tuple(m for m in self._connected.members() if m.name != self._leaving())
        if self._replica.leads:
            for member in members:
                self.joined(member)
        elif (leader := self._directory.get(self._replica.raft.leader)) is not None:
            self._peers.call(leader, self._report(members, self._coordinates.hand_on()), _ignore)
        elif self._me in members and self._cluster():
            for server in self._directory.servers():
                if server.id != self._me.id:
                    self._peers.call(server, self._report((self._me,)), _ignore)

    def _report(self, members: tuple[Member, ...], coordinates: tuple[NodeCoordinate, ...] = ()) -> Report:
        room = self._space.own
        return Report(members, room.free, room.reserve, room.applied, FEATURES, coordinates)

    def hear(self, member: Member, report: Report) -> None:
        self._space.hear(member, Room(report.free_bytes, report.reserve_bytes, report.applied))
        self._features.hear(member.id, report.features)
        self._coordinates.take(report.coordinates)
        # Who speaks of itself alone is there, and does not leave (any more): its good-bye may have been
        # carried out without it hearing so. And who was not in the report before has just connected there.
        ids = frozenset(each.id for each in report.members)
        itself = ids == {member.id}
        before = self._reported.get(member.id, ids)
        self._reported[member.id] = ids
        for each in report.members:
            if not fault_of(each):
                self._directory.hint(each)
                if self._replica.leads:
                    self.joined(each, afresh=itself or each.id not in before)

    def joined(self, member: Member, *, afresh: bool = False) -> None:
        """Told again each second: what comes while the state is replaced is not missed."""
        if not self._replica.held:
            self._membership.joined(member, afresh=afresh)


def _ignore(_result: Any) -> None:
    """It is told again in a second."""
