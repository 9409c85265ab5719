"""The hosts as the catalog has them, for the tier's own use: who is a server, who is called alive."""

from __future__ import annotations

from gemot.server.members import SERVERS
from gemot.server.model.catalog import SERF_HEALTH, Instance, Node, NodeDetail, NodeInfo
from gemot.server.model.health import Check
from gemot.server.rpc.message import Member
from gemot.server.state.names import fold
from gemot.server.state.store import State


class Hosts:
    """Looks at the state as it is applied here."""

    def __init__(self, state: State) -> None:
        self._state = state

    def servers(self) -> list[Member]:
        """The servers that the catalog knows: so a restart finds the others without being told."""
        return [_member(instance) for instance in self._instances()]

    def living_servers(self) -> list[Member]:
        """Those of them that have not failed, as the leader said last."""
        return [_member(instance) for instance in self._instances() if _lives(instance.checks)]

    def node(self, name: str) -> NodeDetail | None:
        """By its name alone, where a query would take the beginning of an id as well."""
        detail, _ = self._state.read(NodeInfo(name), "")
        return detail if detail is not None and fold(detail.node.node) == fold(name) else None

    def alive(self) -> list[tuple[Node, Check]]:
        """Every node whose serfHealth does not say that it failed, with that check."""
        return [(node, check) for node, check in self._state.with_check(SERF_HEALTH) if _passes(check)]

    def _instances(self) -> list[Instance]:
        instances, _ = self._state.read(SERVERS, "")
        return [instance for instance in instances if instance.node.id]


def _member(server: Instance) -> Member:
    node = server.node
    rpc = f"{node.address}:{server.service.port}"
    return Member(node.id, node.node, node.address, "server", node.datacenter, "", rpc)


def _lives(checks: tuple[Check, ...]) -> bool:
    return any(check.check_id == SERF_HEALTH and _passes(check) for check in checks)


def _passes(check: Check) -> bool:
    return check.status != "critical"
