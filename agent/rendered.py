"""Consul's JSON read back into our words: for each query, where it is asked and what the answer means.

The inverse of `http/render.py`, for a program that has an agent's HTTP API and nothing else. Fields that the
words do not have are passed over, so that a newer agent can be read.
"""

from __future__ import annotations

from binascii import a2b_base64
from typing import Any
from urllib.parse import quote, urlencode

import msgspec
from msgspec import field

from gemot.agent.client.path import escape
from gemot.agent.duration import parse_nanoseconds
from gemot.server.model.autopilot import GetAutopilot
from gemot.server.model.catalog import (
    HealthService,
    Instance,
    Node,
    NodeDetail,
    NodeInfo,
    Nodes,
    Service,
    ServiceAddress,
    ServiceNode,
    ServiceNodes,
    Services,
    Weights,
)
from gemot.server.model.changes import KvChanges
from gemot.server.model.coordinate import CoordinateOf, Coordinates
from gemot.server.model.errors import BadRequest, PeerBroke
from gemot.server.model.health import Check, HealthChecks, HealthNode, HealthState, Status
from gemot.server.model.history import KvAsOf, KvRevisions
from gemot.server.model.kv import KvEntry, KvGet, KvKeys, KvKeysPage, KvList, KvListPage
from gemot.server.model.query import Query
from gemot.server.model.session import SessionInfo, Sessions
from gemot.server.model.txn import ReadTxn


class _Entry(msgspec.Struct, rename="pascal"):
    key: str
    value: str | None = None
    flags: int = 0
    lock_index: int = 0
    session: str = ""
    create_index: int = 0
    modify_index: int = 0
    fence: int = 0
    ttl: str = field(name="TTL", default="")


class _Node(msgspec.Struct, rename="pascal"):
    node: str
    address: str = ""
    id: str = field(name="ID", default="")
    datacenter: str = ""
    tagged_addresses: dict[str, str] | None = None
    meta: dict[str, str] | None = None
    create_index: int = 0
    modify_index: int = 0


class _Address(msgspec.Struct, rename="pascal"):
    address: str = ""
    port: int = 0


class _Weights(msgspec.Struct, rename="pascal"):
    passing: int = 1
    warning: int = 1


class _Service(msgspec.Struct, rename="pascal"):
    id: str = field(name="ID")
    service: str
    tags: tuple[str, ...] | None = None
    address: str = ""
    port: int = 0
    meta: dict[str, str] | None = None
    tagged_addresses: dict[str, _Address] | None = None
    weights: _Weights | None = None
    enable_tag_override: bool = False
    kind: str = ""
    socket_path: str = ""
    create_index: int = 0
    modify_index: int = 0


class _ServiceNode(msgspec.Struct, rename="pascal"):
    node: str
    service_id: str = field(name="ServiceID")
    service_name: str
    id: str = field(name="ID", default="")
    address: str = ""
    datacenter: str = ""
    tagged_addresses: dict[str, str] | None = None
    node_meta: dict[str, str] | None = None
    service_tags: tuple[str, ...] | None = None
    service_address: str = ""
    service_port: int = 0
    service_meta: dict[str, str] | None = None
    service_tagged_addresses: dict[str, _Address] | None = None
    service_weights: _Weights | None = None
    service_enable_tag_override: bool = False
    service_kind: str = ""
    service_socket_path: str = ""
    create_index: int = 0
    modify_index: int = 0


class _Check(msgspec.Struct, rename="pascal"):
    node: str
    check_id: str = field(name="CheckID")
    name: str = ""
    status: Status = "critical"
    notes: str = ""
    output: str = ""
    service_id: str = field(name="ServiceID", default="")
    service_name: str = ""
    service_tags: tuple[str, ...] | None = None
    type: str = ""
    interval: str = ""
    timeout: str = ""
    create_index: int = 0
    modify_index: int = 0


class _Instance(msgspec.Struct, rename="pascal"):
    node: _Node
    service: _Service
    checks: tuple[_Check, ...] | None = None


class _Detail(msgspec.Struct, rename="pascal"):
    node: _Node
    services: dict[str, _Service] | None = None


def locate(query: Query) -> str:
    """The path and parameters under which an agent answers this query."""
    match query:
        case KvGet(key=key):
            return f"/v1/kv/{escape(key)}"
        case KvList(prefix=prefix):
            return f"/v1/kv/{escape(prefix)}?recurse"
        case KvKeys(prefix=prefix, separator=separator):
            return f"/v1/kv/{escape(prefix)}?keys" + (f"&separator={escape(separator)}" if separator else "")
        case Nodes(meta=meta):
            return "/v1/catalog/nodes" + _params(meta)
        case NodeInfo(node=node):
            return f"/v1/catalog/node/{escape(node)}"
        case Services(node_meta=meta):
            return "/v1/catalog/services" + _params(meta)
        case ServiceNodes(service=service, tags=tags, node_meta=meta):
            return f"/v1/catalog/service/{escape(service)}" + _params(meta, tags)
        case HealthService(service=service, tags=tags, node_meta=meta, passing=passing):
            return f"/v1/health/service/{escape(service)}" + _params(meta, tags, passing=passing)
        case HealthNode(node=node):
            return f"/v1/health/node/{escape(node)}"
        case HealthChecks(service=service, node_meta=meta):
            return f"/v1/health/checks/{escape(service)}" + _params(meta)
        case HealthState(state=state, node_meta=meta):
            return f"/v1/health/state/{escape(state)}" + _params(meta)
        case GetAutopilot():
            return "/v1/operator/autopilot/configuration"
        case Coordinates():
            return "/v1/coordinate/nodes"
        case CoordinateOf(node=node):
            return f"/v1/coordinate/node/{escape(node)}"
        case SessionInfo(id=id):
            return f"/v1/session/info/{escape(id)}"
        case Sessions(node=node):
            return f"/v1/session/node/{escape(node)}" if node else "/v1/session/list"
        case KvRevisions(key=key):
            return f"/v1/gemot/history/{escape(key)}"
        case KvAsOf(prefix=key, index=index, alone=alone):
            return f"/v1/gemot/history/{escape(key)}?at={index}" + ("" if alone else "&recurse")
        case ReadTxn() | KvChanges() | KvListPage() | KvKeysPage():
            raise AssertionError(f"{type(query).__name__} is not read by its path")


def read_back(query: Query, body: bytes) -> Any:
    """The value of an Answer, from a body of status 200. For NodeInfo it lacks the node's checks.

    Raises PeerBroke when the body is not what an agent answers.
    """
    try:
        return _read_back(query, body)
    except (msgspec.DecodeError, UnicodeError, ValueError, BadRequest) as error:
        raise PeerBroke(f"{locate(query)}: the answer is not one of an agent: {error}") from error


def _read_back(query: Query, body: bytes) -> Any:
    match query:
        case KvGet(key=key):
            found = _decode(body, list[_Entry] | None)
            # The key's own bytes: in JSON those that are not UTF-8 are lost.
            return _entry(found[0], key) if found else None
        case KvList():
            return [_entry(raw, raw.key.encode()) for raw in _decode(body, list[_Entry] | None) or ()]
        case KvKeys():
            return [key.encode() for key in _decode(body, list[str] | None) or ()]
        case Nodes():
            return [_node(raw) for raw in _decode(body, list[_Node] | None) or ()]
        case NodeInfo():
            detail = _decode(body, _Detail | None)
            if detail is None:
                return None
            services = sorted((detail.services or {}).values(), key=lambda one: one.id)
            return NodeDetail(_node(detail.node), tuple(map(_service, services)), ())
        case Services():
            return {
                name: tags or [] for name, tags in (_decode(body, dict[str, list[str] | None]) or {}).items()
            }
        case ServiceNodes():
            return [_service_node(raw) for raw in _decode(body, list[_ServiceNode] | None) or ()]
        case HealthService():
            return [_instance(raw) for raw in _decode(body, list[_Instance] | None) or ()]
        case HealthNode() | HealthChecks() | HealthState():
            return [_check(raw) for raw in _decode(body, list[_Check] | None) or ()]


_DECODERS: dict[Any, msgspec.json.Decoder[Any]] = {}


def _decode(body: bytes, kind: Any) -> Any:
    decoder = _DECODERS.get(kind)
    if decoder is None:
        decoder = _DECODERS[kind] = msgspec.json.Decoder(kind)
    return decoder.decode(body)


def _params(meta: dict[str, str], tags: tuple[str, ...] = (), *, passing: bool = False) -> str:
    pairs = [("tag", tag) for tag in tags] + [("node-meta", f"{key}:{meta[key]}") for key in sorted(meta)]
    text = urlencode(pairs, quote_via=quote)
    if passing:
        text = f"{text}&passing" if text else "passing"
    return f"?{text}" if text else ""


def _entry(raw: _Entry, key: bytes) -> KvEntry:
    value = a2b_base64(raw.value, strict_mode=True) if raw.value else b""
    return KvEntry(
        key,
        value,
        raw.flags,
        raw.lock_index,
        raw.session,
        raw.create_index,
        raw.modify_index,
        raw.fence,
        ttl_ms=parse_nanoseconds(raw.ttl) // 1_000_000 if raw.ttl else 0,
    )


def _node(raw: _Node) -> Node:
    return Node(
        raw.node,
        raw.address,
        raw.id,
        raw.datacenter,
        raw.tagged_addresses or {},
        raw.meta or {},
        raw.create_index,
        raw.modify_index,
    )


def _addresses(raw: dict[str, _Address] | None) -> dict[str, ServiceAddress]:
    return {name: ServiceAddress(at.address, at.port) for name, at in (raw or {}).items()}


def _weights(raw: _Weights | None) -> Weights:
    return Weights(raw.passing, raw.warning) if raw is not None else Weights()


def _service(raw: _Service) -> Service:
    return Service(
        id=raw.id,
        service=raw.service,
        tags=raw.tags or (),
        address=raw.address,
        port=raw.port,
        meta=raw.meta or {},
        tagged_addresses=_addresses(raw.tagged_addresses),
        weights=_weights(raw.weights),
        enable_tag_override=raw.enable_tag_override,
        kind=raw.kind,
        socket_path=raw.socket_path,
        create_index=raw.create_index,
        modify_index=raw.modify_index,
    )


def _service_node(raw: _ServiceNode) -> ServiceNode:
    node = Node(
        raw.node, raw.address, raw.id, raw.datacenter, raw.tagged_addresses or {}, raw.node_meta or {}
    )
    service = Service(
        id=raw.service_id,
        service=raw.service_name,
        tags=raw.service_tags or (),
        address=raw.service_address,
        port=raw.service_port,
        meta=raw.service_meta or {},
        tagged_addresses=_addresses(raw.service_tagged_addresses),
        weights=_weights(raw.service_weights),
        enable_tag_override=raw.service_enable_tag_override,
        kind=raw.service_kind,
        socket_path=raw.service_socket_path,
        create_index=raw.create_index,
        modify_index=raw.modify_index,
    )
    return ServiceNode(node, service)


def _check(raw: _Check) -> Check:
    return Check(
        raw.node,
        raw.check_id,
        raw.name,
        raw.status,
        raw.notes,
        raw.output,
        raw.service_id,
        raw.service_name,
        raw.service_tags or (),
        raw.type,
        raw.interval,
        raw.timeout,
        raw.create_index,
        raw.modify_index,
    )


def _instance(raw: _Instance) -> Instance:
    return Instance(_node(raw.node), _service(raw.service), tuple(map(_check, raw.checks or ())))
