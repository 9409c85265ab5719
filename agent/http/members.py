"""The cluster's members, as this agent knows them: by gossip, and by the catalog where that knows more.

In the catalog a node with the check `serfHealth` is a member; it is a server when the servers' own service
stands on it. Source: Consul, agent API.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from typing import Any

from gemot.agent.gossip.message import Record, Status
from gemot.agent.http.facts import API_LEVEL, Facts
from gemot.agent.servers import Servers
from gemot.server.model.catalog import SERF_HEALTH, SERVER_SERVICE, Node, Nodes, ServiceNodes
from gemot.server.model.errors import GemotError
from gemot.server.model.health import HealthState
from gemot.server.model.query import Answer, Options
from gemot.server.rpc.message import Member

CATALOG_S = 1.0
"""What the servers may take to add those that gossip does not know: they may all be away."""

ALIVE, FAILED = 1, 4
_STATUS = {Status.ALIVE: ALIVE, Status.SUSPECT: ALIVE, Status.FAILED: FAILED, Status.LEFT: 3}
_PROTOCOL = {
    "ProtocolMin": 1,
    "ProtocolMax": 5,
    "ProtocolCur": 2,
    "DelegateMin": 2,
    "DelegateMax": 5,
    "DelegateCur": 4,
}


Known = Callable[[], Iterable[tuple[Member, Record]]]


async def list_members(
    servers: Servers, facts: Facts, known: Known | None, *, token: str, wan: bool
) -> Answer:
    """Every member by name; with `wan` the servers alone, under their names in the wide-area pool.

    It is as old as the oldest of the answers that it was told from: of now, where gossip knows them all.
    """
    heard = list(known()) if known is not None else []
    found = [_heard(member, record, facts, wan=wan) for member, record in heard if member.rpc or not wan]
    ids = {member.id for member, _ in heard}
    try:
        async with asyncio.timeout(CATALOG_S if heard else None):
            others = await _in_catalog(servers, facts, ids, token=token, wan=wan)
    except (GemotError, TimeoutError):
        if not heard:
            raise
        others = Answer([], 0, True, 0)
    rows = sorted([*found, *others.value], key=lambda row: str(row["Name"]))
    if not others.value:
        return Answer(rows, others.index, True, 0)
    return Answer(rows, others.index, others.known_leader, others.last_contact_ms)


def _heard(member: Member, record: Record, facts: Facts, *, wan: bool) -> dict[str, Any]:
    row = Node(member.name, member.address, member.id, member.datacenter)
    rpc_port = int(member.rpc.rpartition(":")[2]) if member.rpc else None
    status = _STATUS[record.status]
    return _member(row, status, rpc_port, facts, wan=wan, release=member.build, port=record.facts.port)


async def _in_catalog(servers: Servers, facts: Facts, heard: set[str], *, token: str, wan: bool) -> Answer:
    """Those that gossip does not know: agents of an older release, and all of them where it is off."""
    # Membership is each agent's own view in Consul, and must be seen without a leader too: so it is stale.
    options = Options(consistency="stale", token=token)
    health = await servers.query(HealthState("any"), options)
    status = {
        check.node: FAILED if check.status == "critical" else ALIVE
        for check in health.value
        if check.check_id == SERF_HEALTH
    }
    nodes = await servers.query(Nodes(), options)
    tier = await servers.query(ServiceNodes(SERVER_SERVICE), options)
    ports = {row.node.node: row.service.port for row in tier.value}
    # The catalog has the release of servers alone; of itself this agent knows it.
    releases = {row.node.node: row.service.meta.get("version", "") for row in tier.value}
    releases[facts.node] = facts.version
    found = [
        _member(
            row, status[row.node], ports.get(row.node), facts, wan=wan, release=releases.get(row.node, "")
        )
        for row in nodes.value
        if row.node in status and row.id not in heard and (row.node in ports or not wan)
    ]
    answers: list[Answer] = [health, nodes, tier]
    return Answer(
        found,
        max(answer.index for answer in answers),
        all(answer.known_leader for answer in answers),
        max(answer.last_contact_ms for answer in answers),
    )


async def failed_members(servers: Servers) -> dict[str, str]:
    """Of the catalog's members those that have failed, name by id. Raises GemotError."""
    options = Options(consistency="stale")
    health = await servers.query(HealthState("critical"), options)
    failed = {check.node for check in health.value if check.check_id == SERF_HEALTH}
    nodes = await servers.query(Nodes(), options) if failed else Answer([], 0, True, 0)
    return {row.id: row.node for row in nodes.value if row.node in failed}


def own_member(facts: Facts) -> dict[str, Any]:
    """This agent as a member: the same words, from its own knowledge."""
    row = Node(facts.node, facts.address, facts.node_id, facts.datacenter)
    rpc_port = facts.rpc_port if facts.server else None
    return _member(row, ALIVE, rpc_port, facts, wan=False, release=facts.version)


def _member(
    row: Node, status: int, rpc_port: int | None, facts: Facts, *, wan: bool, release: str, port: int = 0
) -> dict[str, Any]:
    """`release` is Gemot's own version on that host, "" where it is not known.

    It goes behind the colon of `build`, where Consul has a revision: before it clients read what is spoken.
    """
    tags = {
        "role": "node" if rpc_port is None else SERVER_SERVICE,
        "dc": row.datacenter,
        "id": row.id,
        "segment": "",
        "vsn": "2",
        "vsn_min": "2",
        "vsn_max": "3",
        "build": f"{API_LEVEL}:gemot{f'-{release}' if release else ''}",
    }
    if rpc_port is not None:
        tags |= {"port": str(rpc_port), "raft_vsn": "3", "acls": "0", "wan_join_port": str(facts.serf_port)}
        if facts.bootstrap_expect:
            tags["expect"] = str(facts.bootstrap_expect)
    return {
        "Name": f"{row.node}.{row.datacenter}" if wan else row.node,
        "Addr": row.address,
        "Port": port or facts.serf_port,
        "Tags": tags,
        "Status": status,
        **_PROTOCOL,
    }
