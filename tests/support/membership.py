"""Membership of a leader over a real catalog, in virtual time."""

from __future__ import annotations

from pathlib import Path

from support.one_state import OneState
from support.virtual import VirtualTimer

from gemot.server.hosts import Hosts
from gemot.server.mass_failure import MassFailure, MassFailureConfig
from gemot.server.members import Membership, Standing
from gemot.server.model.catalog import SERF_HEALTH, Deregister, NodeDetail, NodeInfo
from gemot.server.model.command import Command
from gemot.server.rpc.message import Member

NEVER = MassFailureConfig(share=1.0)


class Heard:
    """What gossip says: members and how they stand, as the test has it."""

    def __init__(self) -> None:
        self.members: dict[str, tuple[Member, Standing]] = {}
        self.expected_no_more: list[str] = []

    def standing(self, id: str) -> Standing | None:
        return self.members[id][1] if id in self.members else None

    def member(self, id: str) -> Member | None:
        return self.members[id][0] if id in self.members else None

    def everyone(self) -> list[tuple[Member, Standing]]:
        return list(self.members.values())

    def expect_no_more(self, id: str) -> None:
        self.expected_no_more.append(id)


class Scene:
    """Membership over a real catalog: what it proposes is applied at once, or once it is no longer late."""

    def __init__(self, folder: Path, config: MassFailureConfig = NEVER) -> None:
        self._config = config
        self.one = OneState(folder)
        self.timer = VirtualTimer()
        self.proposed: list[Command] = []
        self.looks = 0
        self.refuses = False
        self.know_txn = True
        self.late: list[Command] | None = None
        self.former_leader = ("", 0)
        self.heard = Heard()
        self.membership = self.new_leader()

    def gossip(self, member: Member, standing: Standing) -> None:
        """Gossip comes to hold this of a member, and tells so."""
        self.heard.members[member.id] = member, standing
        self.membership.on_gossip(member, standing)

    def new_leader(self) -> Membership:
        membership = Membership(
            propose=self._propose,
            look=self._look,
            alive_in_catalog=Hosts(self.one.state).alive,
            former_leader=lambda: self.former_leader,
            take_out=self._take_out,
            guard=MassFailure(self._config),
            know_txn=lambda: self.know_txn,
            now_ms=self.timer.now_ms,
        )
        membership.gossip = self.heard
        return membership

    def _look(self, name: str) -> NodeDetail | None:
        self.looks += 1
        return Hosts(self.one.state).node(name)

    def _propose(self, command: Command) -> None:
        self.proposed.append(command)
        if self.late is not None:
            self.late.append(command)
        elif not self.refuses:
            self.one.apply(command)

    def _take_out(self, name: str) -> None:
        self.membership.left(name)
        self.one.apply(Deregister(name))

    def health(self, name: str) -> str:
        detail = self.one.value(NodeInfo(name))
        return "" if detail is None else next(c.status for c in detail.checks if c.check_id == SERF_HEALTH)

    def pass_ms(self, ms: int) -> None:
        self.timer.pass_ms(ms, tick=self.membership.on_tick)

    def output(self, name: str) -> str:
        detail = self.one.value(NodeInfo(name))
        return "" if detail is None else next(c.output for c in detail.checks if c.check_id == SERF_HEALTH)

    def come_true(self) -> None:
        """What was proposed and is late is committed now, in its order."""
        late, self.late = self.late or [], None
        for command in late:
            self.one.apply(command)
