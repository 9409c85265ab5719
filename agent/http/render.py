"""Rows as JSON in Consul's spelling, and the headers that come with every read."""

from __future__ import annotations

from binascii import b2a_base64
from collections.abc import Sequence
from typing import Any

import msgspec

from gemot.agent.duration import format_nanoseconds
from gemot.agent.http.message import Request, Response
from gemot.server.model.catalog import Instance, Node, Service, ServiceNode
from gemot.server.model.command import IdempotencyKey
from gemot.server.model.coordinate import Coordinate, NodeCoordinate
from gemot.server.model.health import Check
from gemot.server.model.kv import KvEntry
from gemot.server.model.query import Answer, Applied, Options
from gemot.server.model.session import Session

JSON = "application/json"
encode = msgspec.json.Encoder().encode
EPOCH = "X-Gemot-Epoch"
"""Counts the restores of the cluster."""

MAX_HEADER_TEXT = 2_000

_EFFECTIVE = {"default": "leader", "consistent": "consistent", "stale": "stale"}


def read_headers(answer: Answer, options: Options) -> dict[str, str]:
    return {
        "X-Consul-Index": str(answer.index),
        **age_headers(answer),
        "X-Consul-Effective-Consistency": _EFFECTIVE[options.consistency],
        EPOCH: str(answer.epoch),
    }


def age_headers(answer: Answer) -> dict[str, str]:
    """What tells a reader how old an answer may be."""
    return {
        "X-Consul-Knownleader": "true" if answer.known_leader else "false",
        "X-Consul-Lastcontact": str(answer.last_contact_ms),
    }


def write_headers(applied: Applied, named: IdempotencyKey | None = None) -> dict[str, str]:
    """`named` is the caller's own name for the write, told back: a real Consul would not."""
    headers = {"X-Gemot-Index": str(applied.index)}
    if named is not None:
        headers["X-Gemot-Idempotency-Key"] = named.key
    return headers


def header_text(text: str) -> str:
    """A sentence as a header may hold it: ASCII on one line, what is not escaped as in Python."""
    shown = "".join(each if each.isprintable() else " " for each in text)
    return shown.encode("ascii", "backslashreplace")[:MAX_HEADER_TEXT].decode()


def json_response(
    request: Request, value: Any, *, status: int = 200, headers: dict[str, str] | None = None
) -> Response:
    """`value` as compact JSON; indented when the request says `?pretty`."""
    return json_bytes(request, encode(value), status=status, headers=headers)


def json_bytes(
    request: Request, body: bytes, *, status: int = 200, headers: dict[str, str] | None = None
) -> Response:
    for name, _ in request.query:
        if name == "pretty":
            body = msgspec.json.format(body, indent=4) + b"\n"
            break
    return Response(status=status, body=body, content_type=JSON, headers=headers or {})


def kv_entries(entries: Sequence[KvEntry]) -> bytes:
    return b"[" + b",".join([kv_entry(entry) for entry in entries]) + b"]"


def kv_entry(entry: KvEntry) -> bytes:
    """One key as JSON. Bytes of a key that are not UTF-8 show as U+FFFD; an empty value is null.

    `Fence` and `TTL` are ours: only shown of a key that was locked once, and of one that expires.
    """
    value = b'"' + b2a_base64(entry.value, newline=False) + b'"' if entry.value else b"null"
    session = b',"Session":' + encode(entry.session) if entry.session else b""
    fence = b',"Fence":%d' % entry.fence if entry.fence else b""
    ttl = b',"TTL":"%b"' % duration(entry.ttl_ms).encode() if entry.ttl_ms else b""
    return (b'{"LockIndex":%d%b,"Key":%b,"Flags":%d,"Value":%b%b%b,"CreateIndex":%d,"ModifyIndex":%d}') % (
        entry.lock_index,
        fence,
        encode(key(entry.key)),
        entry.flags,
        value,
        session,
        ttl,
        entry.create_index,
        entry.modify_index,
    )


def duration(ms: int) -> str:
    """As Go writes it."""
    return format_nanoseconds(ms * 1_000_000)


def key(found: bytes) -> str:
    return found.decode("utf-8", "replace")


def session(row: Session) -> dict[str, Any]:
    checks = row.service_checks
    return {
        "ID": row.id,
        "Name": row.name,
        "Node": row.node,
        "LockDelay": row.lock_delay_ns,
        "Behavior": row.behavior,
        "TTL": row.ttl,
        "NodeChecks": row.node_checks,
        "ServiceChecks": None if checks is None else [{"ID": id, "Namespace": ns} for id, ns in checks],
        "CreateIndex": row.create_index,
        "ModifyIndex": row.modify_index,
    }


def node(row: Node) -> dict[str, Any]:
    return {
        "ID": row.id,
        "Node": row.node,
        "Address": row.address,
        "Datacenter": row.datacenter,
        "TaggedAddresses": row.tagged_addresses,
        "Meta": row.meta,
        "CreateIndex": row.create_index,
        "ModifyIndex": row.modify_index,
    }


def service(row: Service) -> dict[str, Any]:
    """An instance as health and node answers show it (Consul's NodeService)."""
    shown: dict[str, Any] = {
        "ID": row.id,
        "Service": row.service,
        "Tags": row.tags,
        "Address": row.address,
        "TaggedAddresses": _addresses(row),
        "Meta": row.meta,
        "Port": row.port,
        "Weights": {"Passing": row.weights.passing, "Warning": row.weights.warning},
        "EnableTagOverride": row.enable_tag_override,
        "Proxy": {"Mode": "", "MeshGateway": {}, "Expose": {}},
        "Connect": {},
        "PeerName": "",
        "CreateIndex": row.create_index,
        "ModifyIndex": row.modify_index,
    }
    if row.kind:
        shown["Kind"] = row.kind
    if row.socket_path:
        shown["SocketPath"] = row.socket_path
    return shown


def _addresses(row: Service) -> dict[str, dict[str, Any]]:
    return {name: {"Address": at.address, "Port": at.port} for name, at in row.tagged_addresses.items()}


def service_node(row: ServiceNode) -> dict[str, Any]:
    """An instance as `/v1/catalog/service` shows it: its host's fields beside its own."""
    host, of = row.node, row.service
    return {
        "ID": host.id,
        "Node": host.node,
        "Address": host.address,
        "Datacenter": host.datacenter,
        "TaggedAddresses": host.tagged_addresses,
        "NodeMeta": host.meta,
        "ServiceKind": of.kind,
        "ServiceID": of.id,
        "ServiceName": of.service,
        "ServiceTags": of.tags,
        "ServiceAddress": of.address,
        "ServiceTaggedAddresses": _addresses(of),
        "ServiceWeights": {"Passing": of.weights.passing, "Warning": of.weights.warning},
        "ServiceMeta": of.meta,
        "ServicePort": of.port,
        "ServiceSocketPath": of.socket_path,
        "ServiceEnableTagOverride": of.enable_tag_override,
        "ServiceProxy": {"Mode": "", "MeshGateway": {}, "Expose": {}},
        "ServiceConnect": {},
        "ServiceLocality": None,
        "CreateIndex": of.create_index,
        "ModifyIndex": of.modify_index,
    }


def check(row: Check) -> dict[str, Any]:
    return {
        "Node": row.node,
        "CheckID": row.check_id,
        "Name": row.name,
        "Status": row.status,
        "Notes": row.notes,
        "Output": row.output,
        "ServiceID": row.service_id,
        "ServiceName": row.service_name,
        "ServiceTags": row.service_tags,
        "Type": row.type,
        "Interval": row.interval,
        "Timeout": row.timeout,
        "ExposedPort": 0,
        "Definition": {},
        "CreateIndex": row.create_index,
        "ModifyIndex": row.modify_index,
    }


def coordinate(at: Coordinate) -> dict[str, Any]:
    return {"Vec": at.vec, "Error": at.error, "Adjustment": at.adjustment, "Height": at.height}


def node_coordinate(row: NodeCoordinate) -> dict[str, Any]:
    return {"Node": row.node, "Segment": "", "Coord": coordinate(row.coordinate)}


def instance(row: Instance) -> dict[str, Any]:
    return {
        "Node": node(row.node),
        "Service": service(row.service),
        "Checks": [check(one) for one in row.checks],
    }
