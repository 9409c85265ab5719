"""The hosts as the catalog has them, for the tier's own use: who is a server, who is called alive."""

from __future__ import annotations

from gemot.server.members import SERVERS
from gemot.server.model.catalog import SERF_HEALTH, NodeDetail, NodeInfo, Nodes
from gemot.server.rpc.message import Member
from gemot.server.state.store import State


class Hosts:
    """Looks at the state as it is applied here."""

    def __init__(self, state: State) -> None:
        self._state = state

    def servers(self) -> list[Member]:
        """The servers that the catalog knows: so a restart finds the others without being told."""
        instances, _ = self._state.read(SERVERS, "")
        return [
            Member(
                instance.node.id,
                instance.node.node,
                instance.node.address,
                "server",
                instance.node.datacenter,
                "",
                f"{instance.node.address}:{instance.service.port}",
            )
            for instance in instances
            if instance.node.id
        ]

    def node(self, name: str) -> NodeDetail | None:
        detail, _ = self._state.read(NodeInfo(name), "")
        return detail if detail is not None and detail.node.node == name else None

    def alive(self) -> list[NodeDetail]:
        """Every node whose serfHealth does not say that it failed."""
        nodes, _ = self._state.read(Nodes(), "")
        details = [self.node(node.node) for node in nodes]
        return [
            detail
            for detail in details
            if detail is not None
            and any(c.check_id == SERF_HEALTH and c.status != "critical" for c in detail.checks)
        ]
