"""The rules of checks, and the reads that join instances with them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec

from gemot.server.model.catalog import HealthService, Instance, Node, Service
from gemot.server.model.health import Check, HealthChecks, HealthNode, HealthState
from gemot.server.state import coordinate, session
from gemot.server.state.instances import has_meta, instances_of
from gemot.server.state.latest import (
    node_index,
    service_index,
    touch_node,
    touch_service,
    touch_services_of,
)
from gemot.server.state.names import fold, topic_key
from gemot.server.state.permission import readable
from gemot.server.state.scope import Reading, Writing
from gemot.server.state.tables import Cursor

_TABLE = b"check"
_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(Check).decode
_decode_node = msgspec.msgpack.Decoder(Node).decode
_replace = msgspec.structs.replace


# -- commands --------------------------------------------------------------------------------------


def put_check(writing: Writing, given: Check) -> None:
    """Put a check whose node, service and defaults are settled; an equal one changes nothing."""
    cursor, index = writing.cursor, writing.index
    node, check_id = fold(given.node), fold(given.check_id)
    before: bytes | None = cursor.execute(
        "select row from health where node = ? and id = ?", (node, check_id)
    ).get
    old = _decode(before) if before is not None else None
    created = old.create_index if old is not None else index
    check = _replace(given, create_index=created, modify_index=index)
    if old is not None and check == _replace(old, modify_index=index):
        return
    row = _encode(check)
    if before is not None:
        writing.take(_TABLE, before)
    writing.add(_TABLE, row)
    cursor.execute(
        "insert or replace into health values (?, ?, ?, ?, ?, ?)",
        (node, check_id, fold(check.service_id), fold(check.service_name), check.status, row),
    )
    writing.record("check", topic_key(node, check_id), "set", row)
    if old is not None and fold(old.service_id) != fold(check.service_id):
        _touch(writing, old)
    _touch(writing, check)
    if check.status == "critical":
        session.end_with_check(writing, check.node, check.check_id)


def remove_check(writing: Writing, node: str, check_id: str) -> None:
    key = (fold(node), fold(check_id))
    row: bytes | None = writing.cursor.execute("select row from health where node = ? and id = ?", key).get
    if row is None:
        return
    writing.cursor.execute("delete from health where node = ? and id = ?", key)
    writing.take(_TABLE, row)
    writing.record("check", topic_key(node, check_id), "delete", None)
    _touch(writing, _decode(row))
    session.end_with_check(writing, node, check_id)


def copy_service(writing: Writing, node: str, service: Service) -> None:
    """An instance has another name or other tags: its checks repeat them."""
    rows = writing.cursor.execute(
        "select row from health where node = ? and service_id = ? order by id", (node, fold(service.id))
    ).fetchall()
    for (row,) in rows:
        put_check(writing, _replace(_decode(row), service_name=service.service, service_tags=service.tags))


def _touch(writing: Writing, check: Check) -> None:
    writing.meta.checks_index = writing.index
    writing.touched.append(("checks", b""))
    touch_node(writing, check.node)
    if check.service_id:
        touch_service(writing, check.service_name)
    else:
        touch_services_of(writing, check.node)


def check_of(cursor: Cursor, node: str, check_id: str) -> Check | None:
    row: bytes | None = cursor.execute(
        "select row from health where node = ? and id = ?", (fold(node), fold(check_id))
    ).get
    return _decode(row) if row is not None else None


def of_nodes(cursor: Cursor, check_id: str) -> list[tuple[Node, Check]]:
    """Every node that has this check, with it, by name: one pass, however many there are."""
    rows = cursor.execute(
        "select n.row, c.row from node n cross join health c on c.node = n.name and c.id = ? order by n.name",
        (fold(check_id),),
    )
    return [(_decode_node(node), _decode(check)) for node, check in rows]


# -- queries ---------------------------------------------------------------------------------------


def service(reading: Reading, query: HealthService) -> tuple[list[Instance], int]:
    index = service_index(reading, query.service)
    instances = instances_of(reading, fold(query.service), query.node_meta, query.tags)
    if not instances:
        return [], index
    of_node, of_instance = _checks_for(reading, fold(query.service))
    found: list[Instance] = []
    for entry in instances:
        node = fold(entry.node.node)
        checks = (*of_node.get(node, ()), *of_instance.get((node, fold(entry.service.id)), ()))
        if not query.passing or all(check.status == "passing" for check in checks):
            found.append(Instance(entry.node, entry.service, checks))
    return coordinate.near(reading, found, query.near, lambda row: row.node.node), index


def _checks_for(
    reading: Reading, service: str
) -> tuple[dict[str, list[Check]], dict[tuple[str, str], list[Check]]]:
    """Checks of the nodes that a service is on, by node; and of its instances, by node and id."""
    rows = reading.rows(
        """select c.node, c.service_id, c.row
        from (select distinct node from service where name = ?1) s cross join health c on c.node = s.node
        where c.service_id = '' or c.service = ?1 order by c.node, c.id limit ?""",
        (service,),
    )
    of_node: dict[str, list[Check]] = {}
    of_instance: dict[tuple[str, str], list[Check]] = {}
    for node, service_id, row in rows:
        if service_id:
            of_instance.setdefault((node, service_id), []).append(_decode(row))
        else:
            of_node.setdefault(node, []).append(_decode(row))
    return of_node, of_instance


def node(reading: Reading, query: HealthNode) -> tuple[list[Check], int]:
    return checks_of_node(reading, fold(query.node)), node_index(reading, query.node)


def checks(reading: Reading, query: HealthChecks) -> tuple[list[Check], int]:
    name = fold(query.service)
    rows = reading.rows(
        """select n.row, c.row from health c cross join node n on n.name = c.node
        where c.service = ? and c.service_id <> '' order by c.node, c.id limit ?""",
        (name,),
    )
    return _nearest(reading, _seen(reading, rows, query.node_meta), query.near), service_index(reading, name)


def state(reading: Reading, query: HealthState) -> tuple[list[Check], int]:
    join = "select n.row, c.row from health c cross join node n on n.name = c.node"
    if query.state == "any":
        rows = reading.rows(f"{join} order by c.node, c.id limit ?")
    else:
        reading.scans("health")
        rows = reading.rows(f"{join} where c.status = ? order by c.node, c.id limit ?", (query.state,))
    meta = reading.meta
    index = max(meta.checks_index, meta.nodes_index if query.node_meta else 0, 1)
    return _nearest(reading, _seen(reading, rows, query.node_meta), query.near), index


def _nearest(reading: Reading, found: list[Check], near: str) -> list[Check]:
    return coordinate.near(reading, found, near, lambda check: check.node)


def checks_of_node(reading: Reading, node: str) -> list[Check]:
    """Every check of a node (folded name) that may be seen, by id."""
    rows = reading.rows("select row from health where node = ? order by id limit ?", (node,))
    return [check for check in (_decode(row) for (row,) in rows) if _may_see(reading, check)]


def _seen(reading: Reading, rows: list[tuple[bytes, bytes]], node_meta: dict[str, str]) -> list[Check]:
    found = [_decode(row) for node, row in rows if not node_meta or _on(node, node_meta)]
    return [check for check in found if _may_see(reading, check)] if reading.allowed is not None else found


def _on(node: bytes, meta: dict[str, str]) -> bool:
    return has_meta(_decode_node(node), meta)


def _may_see(reading: Reading, check: Check) -> bool:
    allowed = reading.allowed
    if allowed is None:
        return True
    if not allowed(readable("node", check.node)):
        return False
    return not check.service_name or allowed(readable("service", check.service_name))


READERS: dict[type, Callable[[Reading, Any], tuple[Any, int]]] = {
    HealthService: service,
    HealthNode: node,
    HealthChecks: checks,
    HealthState: state,
}
