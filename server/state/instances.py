"""Instances joined with their nodes, as far as they have the tags and meta asked for and may be seen."""

from __future__ import annotations

import msgspec

from gemot.server.model.catalog import Node, Service, ServiceNode
from gemot.server.state.names import fold
from gemot.server.state.permission import readable
from gemot.server.state.scope import Reading

_decode_node = msgspec.msgpack.Decoder(Node).decode
_decode_service = msgspec.msgpack.Decoder(Service).decode

_JOIN = "select s.node, n.row, s.row from service s cross join node n on n.name = s.node"
_OF_ONE = f"{_JOIN} where s.name = ? order by s.node, s.id limit ?"
_OF_ALL = f"{_JOIN} order by s.name, s.node, s.id limit ?"


def instances_of(
    reading: Reading, name: str, node_meta: dict[str, str], tags: tuple[str, ...] = ()
) -> list[ServiceNode]:
    """Instances of one service (folded name) by node and id; of all, by service first, for ""."""
    rows = reading.rows(_OF_ONE, (name,)) if name else reading.rows(_OF_ALL)
    wanted = [fold(tag) for tag in tags]
    decoded: dict[str, Node] = {}
    found: list[ServiceNode] = []
    for node_name, node_row, row in rows:
        if (node := decoded.get(node_name)) is None:
            node = decoded[node_name] = _decode_node(node_row)
        service = _decode_service(row)
        if wanted and not _has_tags(service, wanted):
            continue
        if has_meta(node, node_meta) and _may_see(reading, node, service):
            found.append(ServiceNode(node, service))
    return found


def has_meta(node: Node, wanted: dict[str, str]) -> bool:
    """Does the node's meta hold every one of these pairs?"""
    return all(node.meta.get(key) == value for key, value in wanted.items())


def _has_tags(service: Service, wanted: list[str]) -> bool:
    tags = [fold(tag) for tag in service.tags]
    return all(tag in tags for tag in wanted)


def _may_see(reading: Reading, node: Node, service: Service) -> bool:
    allowed = reading.allowed
    return allowed is None or (
        allowed(readable("node", node.node)) and allowed(readable("service", service.service))
    )
