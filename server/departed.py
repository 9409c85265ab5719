"""Servers that will not come back: one that failed and has no vote any more goes out of the catalog.

A chore of the leader, and the end of what autopilot or an operator began by taking the vote: in Consul the
clean-up of a dead server has its member leave, which takes its node out; here gossip is told of it. A server
that lives without a vote stays, and so does a host that is no server: it may be started again. Whoever comes
back is registered anew.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from gemot.server.consensus import Replica
from gemot.server.members import FAILED_AFTER_MS, SERVERS, Membership
from gemot.server.model.autopilot import AutopilotConfig
from gemot.server.model.catalog import SERF_HEALTH, Deregister, Instance
from gemot.server.state.store import State


class Departed:
    """What is kept is soft: a new leader waits for everybody anew."""

    def __init__(
        self,
        *,
        replica: Replica,
        state: State,
        membership: Membership,
        config: Callable[[], AutopilotConfig],
        now_ms: Callable[[], int],
    ) -> None:
        self._replica = replica
        self._state = state
        self._membership = membership
        self._config = config
        self._now_ms = now_ms
        self._since_ms: dict[str, int] = {}

    def on_leadership(self) -> None:
        self._since_ms = {}

    def on_second(self) -> None:
        """Take out who was gone for as long as a voter is before its vote is taken."""
        if not self._replica.leads or self._replica.held or not self._config().cleanup_dead_servers:
            return
        now = self._now_ms()
        gone = self._gone()
        self._since_ms = {id: self._since_ms.get(id, now) for id in gone}
        due_ms = FAILED_AFTER_MS + self._config().server_stabilization_time_ms
        for id, name in gone.items():
            if now - self._since_ms[id] >= due_ms:
                self._since_ms[id] = now
                self._replica.propose(Deregister(name), "", None, _ignore)
                self._membership.gossip.expect_no_more(id)

    def _gone(self) -> dict[str, str]:
        """Name by id."""
        voters, heard = self._replica.raft.voters, self._membership.servers()
        instances, _ = self._state.read(SERVERS, "")
        return {
            instance.node.id: instance.node.node
            for instance in instances
            if instance.node.id and _failed(instance) and instance.node.id not in {*voters, *heard}
        }


def _failed(instance: Instance) -> bool:
    return any(check.check_id == SERF_HEALTH and check.status == "critical" for check in instance.checks)


def _ignore(_result: Any) -> None:
    """What the catalog says is looked at again."""
