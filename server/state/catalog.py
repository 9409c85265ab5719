"""The rules of the catalog: nodes and service instances, and which indexes a change of them moves.

Indexes: `nodes` and `services` are moved by any change of their rows. Each service name has its own
(`latest`, kind "service"), moved by its instances, their checks, and by changes of their nodes and of
those nodes' own checks; it goes when the last instance goes, which moves the extinction index. Each node
has its own too (kind "node"), moved by all that belongs to it. A registration that changes nothing moves
nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec

from gemot.server.model.catalog import (
    SERF_HEALTH,
    Deregister,
    Node,
    NodeDetail,
    NodeInfo,
    Nodes,
    Register,
    Service,
    ServiceNode,
    ServiceNodes,
    Services,
)
from gemot.server.model.errors import RuleFailed
from gemot.server.model.health import Check
from gemot.server.state import coordinate, digest, health, session
from gemot.server.state.instances import has_meta, instances_of
from gemot.server.state.latest import (
    forget_node,
    node_index,
    service_index,
    touch_left_service,
    touch_node,
    touch_service,
    touch_services_of,
)
from gemot.server.state.names import fold, topic_key
from gemot.server.state.permission import readable
from gemot.server.state.scope import Reading, Writing
from gemot.server.state.tables import Cursor
from gemot.server.state.watch import may_be_id

_NODE = b"node"
_SERVICE = b"service"
_ANY_ADDRESS = ("0.0.0.0", "::", "[::]")
_encode = msgspec.msgpack.Encoder().encode
_decode_node = msgspec.msgpack.Decoder(Node).decode
_decode_service = msgspec.msgpack.Decoder(Service).decode
_replace = msgspec.structs.replace


# -- registering -----------------------------------------------------------------------------------


def register(writing: Writing, command: Register) -> bool:
    """Register. May refuse half-way: run it where it can be undone."""
    given = command.node
    if not given.node:
        raise RuleFailed("Must provide node")
    if not given.address and not command.skip_node_update:
        raise RuleFailed("Must provide address if SkipNodeUpdate is not set")
    for service in command.services:
        _check_service(service)
    for check in command.checks:
        if check.node and fold(check.node) != fold(given.node):
            raise RuleFailed(f'check node "{check.node}" does not match node "{given.node}"')
    if not command.skip_node_update or node_of(writing.cursor, given.node) is None:
        _put_node(writing, given)
    for service in command.services:
        _put_service(writing, given.node, service)
    for check in command.checks:
        health.put_check(writing, _with_service(writing, given.node, check))
    return True


def _check_service(service: Service) -> None:
    if service.id and not service.service:
        raise RuleFailed("Must provide service name with ID")
    if not service.service:
        raise RuleFailed("Must provide service name")
    if service.address in _ANY_ADDRESS:
        raise RuleFailed("Invalid service address")


def _put_node(writing: Writing, given: Node) -> None:
    cursor, index = writing.cursor, writing.index
    old = node_of(cursor, given.node)
    if given.id and (same := node_of_id(cursor, given.id)) is not None:
        if fold(same.node) != fold(given.node):
            _refuse_taken_name(cursor, given, old, renaming=True)
            remove_node(writing, same.node)
        old = same
    elif given.id:
        _refuse_taken_name(cursor, given, old, renaming=False)
    elif old is not None:
        # A registration that knows no id (an external tool's) does not take the agent's id away.
        given = _replace(given, id=old.id)
    created = old.create_index if old is not None else index
    node = _replace(given, create_index=created, modify_index=index)
    if old is not None and node == _replace(old, modify_index=index):
        return
    _write_node(writing, node)


def _refuse_taken_name(cursor: Cursor, given: Node, holder: Node | None, *, renaming: bool) -> None:
    """A name belongs to its node id until that node's serfHealth is critical.

    A node without an id gives its name up to one that registers under it, but not to one that is renamed.
    """
    if holder is None or holder.id.lower() == given.id.lower() or (not holder.id and not renaming):
        return
    serf = health.check_of(cursor, holder.node, SERF_HEALTH)
    if serf is not None and serf.status == "critical":
        return
    raise RuleFailed(
        f"Node name {given.node} is reserved by node {holder.id} with name {holder.node} ({holder.address})"
    )


def _write_node(writing: Writing, node: Node) -> None:
    cursor, name = writing.cursor, fold(node.node)
    before: bytes | None = cursor.execute("select row from node where name = ?", (name,)).get
    row = _encode(node)
    if before is not None:
        writing.take(_NODE, before)
        _touch_id(writing, _decode_node(before).id)
    writing.add(_NODE, row)
    cursor.execute("insert or replace into node values (?, ?, ?)", (name, node.id.lower(), row))
    writing.record("node", topic_key(name), "set", row)
    writing.meta.nodes_index = writing.index
    writing.touched.append(("nodes", b""))
    _touch_id(writing, node.id)
    touch_node(writing, name)
    touch_services_of(writing, name)


def _touch_id(writing: Writing, node_id: str) -> None:
    if node_id:
        writing.touched.append(("node-id", topic_key(node_id)))


def _put_service(writing: Writing, node: str, given: Service) -> None:
    cursor, index, name = writing.cursor, writing.index, fold(node)
    service_id = given.id or given.service
    before: bytes | None = cursor.execute(
        "select row from service where node = ? and id = ?", (name, fold(service_id))
    ).get
    old = _decode_service(before) if before is not None else None
    created = old.create_index if old is not None else index
    service = _replace(given, id=service_id, create_index=created, modify_index=index)
    if old is not None and service == _replace(old, modify_index=index):
        return
    row = _encode(service)
    if before is not None:
        _hash_service(writing, name, before, -1)
    _hash_service(writing, name, row, 1)
    cursor.execute(
        "insert or replace into service values (?, ?, ?, ?)",
        (name, fold(service_id), fold(service.service), row),
    )
    writing.record("service", topic_key(name, service_id), "set", row)
    writing.meta.services_index = index
    writing.touched.append(("services", b""))
    touch_service(writing, service.service)
    if old is not None and (old.service, old.tags) != (service.service, service.tags):
        if fold(old.service) != fold(service.service):
            touch_left_service(writing, old.service)
        health.copy_service(writing, name, service)
    touch_node(writing, name)


def _with_service(writing: Writing, node: str, check: Check) -> Check:
    """The check as it is kept: with its defaults, and name and tags of the service it speaks for."""
    check = _replace(check, node=node, check_id=check.check_id or check.name)
    if not check.check_id:
        raise RuleFailed("Must provide check ID or name")
    if not check.service_id:
        return _replace(check, service_name="", service_tags=())
    service = service_of(writing.cursor, node, check.service_id)
    if service is None:
        raise RuleFailed("Missing service registration")
    return _replace(check, service_id=service.id, service_name=service.service, service_tags=service.tags)


# -- deregistering ---------------------------------------------------------------------------------


def deregister(writing: Writing, command: Deregister) -> bool:
    """Deregister: a service wins over a check, a check over the node. What is not there is gone already."""
    if command.service_id:
        _remove_service(writing, command.node, command.service_id)
    elif command.check_id:
        health.remove_check(writing, command.node, command.check_id)
    else:
        remove_node(writing, command.node)
    return True


def remove_node(writing: Writing, node: str) -> None:
    """The node with all its services and checks, and its coordinate."""
    cursor, name = writing.cursor, fold(node)
    row: bytes | None = cursor.execute("select row from node where name = ?", (name,)).get
    if row is None:
        return
    ids = cursor.execute("select id from service where node = ? order by id", (name,)).fetchall()
    for (service_id,) in ids:
        _remove_service(writing, name, service_id)
    ids = cursor.execute("select id from health where node = ? order by id", (name,)).fetchall()
    for (check_id,) in ids:
        health.remove_check(writing, name, check_id)
    coordinate.remove(writing, name)
    session.end_with_node(writing, name)
    cursor.execute("delete from node where name = ?", (name,))
    writing.take(_NODE, row)
    writing.record("node", topic_key(name), "delete", None)
    writing.meta.nodes_index = writing.index
    writing.touched.append(("nodes", b""))
    _touch_id(writing, _decode_node(row).id)
    forget_node(writing, name)


def _remove_service(writing: Writing, node: str, service_id: str) -> None:
    cursor, name, folded = writing.cursor, fold(node), fold(service_id)
    row: bytes | None = cursor.execute(
        "select row from service where node = ? and id = ?", (name, folded)
    ).get
    if row is None:
        return
    checks = cursor.execute(
        "select id from health where node = ? and service_id = ? order by id", (name, folded)
    ).fetchall()
    for (check_id,) in checks:
        health.remove_check(writing, name, check_id)
    cursor.execute("delete from service where node = ? and id = ?", (name, folded))
    _hash_service(writing, name, row, -1)
    writing.record("service", topic_key(name, service_id), "delete", None)
    writing.meta.services_index = writing.index
    writing.touched.append(("services", b""))
    touch_left_service(writing, _decode_service(row).service)
    touch_node(writing, name)


def _hash_service(writing: Writing, node: str, row: bytes, sign: int) -> None:
    """A service's row does not tell its node: the hash takes both."""
    writing.meta.rows_sum += sign * digest.of_values(_SERVICE, node, row)


# -- single rows -----------------------------------------------------------------------------------


def has_node(cursor: Cursor, name: str) -> bool:
    return cursor.execute("select 1 from node where name = ?", (fold(name),)).get is not None


def node_of(cursor: Cursor, name: str) -> Node | None:
    row: bytes | None = cursor.execute("select row from node where name = ?", (fold(name),)).get
    return _decode_node(row) if row is not None else None


def node_of_id(cursor: Cursor, node_id: str) -> Node | None:
    rows = cursor.execute(
        "select row from node where id = ? order by name limit 1", (node_id.lower(),)
    ).fetchall()
    return _decode_node(rows[0][0]) if rows else None


def service_of(cursor: Cursor, node: str, service_id: str) -> Service | None:
    row: bytes | None = cursor.execute(
        "select row from service where node = ? and id = ?", (fold(node), fold(service_id))
    ).get
    return _decode_service(row) if row is not None else None


def service_name(cursor: Cursor, node: str, service_id: str) -> str:
    service = service_of(cursor, node, service_id)
    return service.service if service is not None else ""


# -- queries ---------------------------------------------------------------------------------------


def nodes(reading: Reading, query: Nodes) -> tuple[list[Node], int]:
    rows = reading.rows("select row from node order by name limit ?")
    found = [_decode_node(row) for (row,) in rows]
    if query.meta:
        found = [node for node in found if has_meta(node, query.meta)]
    if (allowed := reading.allowed) is not None:
        found = [node for node in found if allowed(readable("node", node.node))]
    found = coordinate.near(reading, found, query.near, lambda node: node.node)
    return found, max(reading.meta.nodes_index, 1)


def node_info(reading: Reading, query: NodeInfo) -> tuple[NodeDetail | None, int]:
    cursor, allowed = reading.cursor, reading.allowed
    node = node_of(cursor, query.node) or _node_of_id_prefix(cursor, query.node)
    if node is None:
        return None, node_index(reading, query.node)
    index = node_index(reading, node.node)
    if allowed is not None and not allowed(readable("node", node.node)):
        return None, index
    name = fold(node.node)
    rows = reading.rows("select row from service where node = ? order by id limit ?", (name,))
    services = tuple(_decode_service(row) for (row,) in rows)
    if allowed is not None:
        services = tuple(s for s in services if allowed(readable("service", s.service)))
    return NodeDetail(node, services, tuple(health.checks_of_node(reading, name))), index


def _node_of_id_prefix(cursor: Cursor, prefix: str) -> Node | None:
    """The only node whose id starts so; None if there is none, or more than one."""
    if not may_be_id(prefix):
        return None
    start = prefix.lower()
    rows = cursor.execute(
        "select row from node where id >= ? and id < ? limit 2", (start, start + "\x7f")
    ).fetchall()
    return _decode_node(rows[0][0]) if len(rows) == 1 else None


def services(reading: Reading, query: Services) -> tuple[dict[str, list[str]], int]:
    meta, allowed = reading.meta, reading.allowed
    index = max(meta.services_index, meta.nodes_index if query.node_meta else 0, 1)
    if query.node_meta or allowed is not None:
        instances = [entry.service for entry in instances_of(reading, "", query.node_meta)]
    else:
        found = reading.rows("select row from service order by name, node, id limit ?")
        instances = [_decode_service(row) for (row,) in found]
    tags: dict[str, dict[str, None]] = {}
    for service in instances:
        tags.setdefault(service.service, {}).update(dict.fromkeys(service.tags))
    return {name: sorted(found) for name, found in tags.items()}, index


def service_nodes(reading: Reading, query: ServiceNodes) -> tuple[list[ServiceNode], int]:
    rows = instances_of(reading, fold(query.service), query.node_meta, query.tags)
    rows = coordinate.near(reading, rows, query.near, lambda row: row.node.node)
    return rows, service_index(reading, query.service)


READERS: dict[type, Callable[[Reading, Any], tuple[Any, int]]] = {
    Nodes: nodes,
    NodeInfo: node_info,
    Services: services,
    ServiceNodes: service_nodes,
}
