"""What the catalog says of a host's life, by the check `serfHealth`, and the commands that make it say so.

Source: Consul, reconciliation of members with the catalog.
"""

from __future__ import annotations

from gemot.server.model.catalog import SERF_HEALTH, SERVER_SERVICE, Node, NodeDetail, Register, Service
from gemot.server.model.health import Check, Status
from gemot.server.model.txn import NodeOp, Txn
from gemot.server.rpc.message import Member

ALIVE_OUTPUT = "Agent alive and reachable"
FAILED_OUTPUT = "Agent not live or unreachable"
SUSPECT_OUTPUT = "Suspect: unreachable like many other hosts at once, and kept in service for now"


def register_alive(member: Member, known: NodeDetail | None) -> Register | None:
    """What makes the catalog say that this member lives; None when it says so already."""
    node = Node(
        node=member.name,
        address=member.address,
        id=member.id,
        datacenter=member.datacenter,
        tagged_addresses=member.tagged_addresses,
        meta=member.meta,
    )
    check = _serf_health(member.name, "passing", ALIVE_OUTPUT)
    services = (_server_service(member),) if member.role == "server" else ()
    if known is not None and _says(known, node, check, services):
        return None
    return Register(node=node, services=services, checks=(check,))


def register_failed(known: NodeDetail | None) -> Register | None:
    """What makes the catalog say that this node failed; None when it does, or does not know it."""
    if known is None or (serf := _serf_of(known)) is None or serf.status == "critical":
        return None
    return _failed(known.node)


def give_up_name(known: NodeDetail, member: Member, *, by_txn: bool) -> Register | Txn | None:
    """What makes the catalog give this member its name; None when that has it, or nobody has.

    Another host that had it goes, with its services, checks and sessions: under the name they would stand at
    this member's address. Only as it is known here, so that nothing goes of one that has it meanwhile: that
    takes a transaction, of which servers of the first releases know nothing (`by_txn`).

    A node without `serfHealth` is no agent's. Nothing of it goes, but it would keep the name for ever: the
    catalog gives nobody the name of a node with another id, unless the `serfHealth` of that is critical.
    """
    if known.node.id.lower() in ("", member.id.lower()):
        return None
    serf = _serf_of(known)
    if serf is not None and by_txn:
        return Txn((NodeOp("delete-cas", known.node),))
    return None if serf is not None and serf.status == "critical" else _failed(known.node)


def register_suspect(known: NodeDetail | None) -> Register | None:
    """What marks this node as suspect and keeps it in service; None when it is, or is not known."""
    if known is None or output_of(known) in ("", SUSPECT_OUTPUT):
        return None
    suspect = _serf_health(known.node.node, "passing", SUSPECT_OUTPUT)
    return Register(node=known.node, checks=(suspect,), skip_node_update=True)


def _says(known: NodeDetail, node: Node, check: Check, services: tuple[Service, ...]) -> bool:
    same_node = (
        known.node.node == node.node
        and known.node.address == node.address
        and known.node.id == node.id
        and known.node.meta == node.meta
        and known.node.tagged_addresses == node.tagged_addresses
    )
    passing = any(
        c.check_id == SERF_HEALTH and (c.status, c.output) == (check.status, check.output)
        for c in known.checks
    )
    served = [(s.id, s.address, s.port, s.meta) for s in known.services]
    return same_node and passing and all((s.id, s.address, s.port, s.meta) in served for s in services)


def serves_at(known: NodeDetail, member: Member) -> bool:
    """Is there a server in the catalog under this name where this one listens?"""
    port = _server_service(member).port
    ports = [service.port for service in known.services if service.id == SERVER_SERVICE]
    return known.node.address == member.address and ports == [port]


def output_of(known: NodeDetail) -> str:
    serf = _serf_of(known)
    return serf.output if serf is not None else ""


def _serf_of(known: NodeDetail) -> Check | None:
    return next((check for check in known.checks if check.check_id == SERF_HEALTH), None)


def _failed(node: Node) -> Register:
    failed = _serf_health(node.node, "critical", FAILED_OUTPUT)
    return Register(node=node, checks=(failed,), skip_node_update=True)


def _serf_health(node: str, status: Status, output: str) -> Check:
    return Check(node=node, check_id=SERF_HEALTH, name="Serf Health Status", status=status, output=output)


def _server_service(member: Member) -> Service:
    port = int(member.rpc.rpartition(":")[2] or 0)
    return Service(
        id=SERVER_SERVICE,
        service=SERVER_SERVICE,
        port=port,
        meta={"version": member.build, "raft_version": "3"},
    )
