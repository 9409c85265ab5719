"""The family of transactions: `/v1/txn`. Source: Consul, Txn API.

A list of operations is read here and bounded; what they do is the state's. One that only reads goes as a
read, with a read's parameters. Ours are the verbs `check-fence` and `fence-guard` beside those of keys.
"""

from __future__ import annotations

import asyncio
from base64 import b64decode
from collections.abc import Callable, Sequence
from typing import Any, get_args

import msgspec

from gemot.agent.http import catalog, fence, kv, parse, render
from gemot.agent.http.body import FAILED, convert, read_json
from gemot.agent.http.listing import SHORT_BYTES, SHORT_ROWS
from gemot.agent.http.message import Request, Response, Route
from gemot.agent.servers import Servers
from gemot.server.model import txn as words
from gemot.server.model.catalog import Node
from gemot.server.model.errors import BadRequest, TooLarge

KINDS = ("KV", "Node", "Service", "Check")

_FAILED = "Failed to parse body: "
_KV_VERBS = (*get_args(words.KvVerb), "check-fence", "fence-guard")
_VERBS = get_args(words.Verb)
_SETS = ("set", "cas", "lock", "unlock")
_TREES = ("get-tree", "delete-tree")


class KvBody(msgspec.Struct, rename="pascal"):
    """`fence`, `resource` and `ttl` are ours."""

    verb: str = ""
    key: str = ""
    value: str = ""
    flags: int = 0
    index: int = 0
    session: str = ""
    fence: int = 0
    resource: str = ""
    ttl: str = msgspec.field(name="TTL", default="")


class HostBody(msgspec.Struct, rename="pascal"):
    id: str = ""
    node: str = ""
    address: str = ""
    datacenter: str = ""
    tagged_addresses: dict[str, str] = {}
    meta: dict[str, str] = {}
    modify_index: int = 0


class NodeBody(msgspec.Struct, rename="pascal"):
    verb: str = ""
    node: HostBody = msgspec.field(default_factory=HostBody)


class ServiceOpBody(msgspec.Struct, rename="pascal"):
    verb: str = ""
    node: str = ""
    service: catalog.ServiceBody = msgspec.field(default_factory=catalog.ServiceBody)


class CheckOpBody(msgspec.Struct, rename="pascal"):
    verb: str = ""
    check: catalog.CheckBody = msgspec.field(default_factory=catalog.CheckBody)


class Limits(msgspec.Struct, frozen=True):
    """`max_bytes` of a whole body, or what one value may have, if that is more; of a value as elsewhere."""

    max_ops: int = words.DEFAULT_OPS
    max_bytes: int = 512 * 1024
    max_value_bytes: int = kv.DEFAULT_MAX_VALUE_BYTES


DEFAULT_LIMITS = Limits()


def routes(*, servers: Servers, datacenter: str = "dc1", limits: Limits = DEFAULT_LIMITS) -> list[Route]:
    family = _Txn(servers=servers, reader=Reader(datacenter=datacenter, limits=limits))
    return [
        Route(
            path="/v1/txn",
            handlers={"PUT": family.put},
            permission={"PUT": "key:write"},
            max_body=max(limits.max_bytes, limits.max_value_bytes),
            limit_name="limits.txn_max_req_len",
        )
    ]


class _Txn:
    def __init__(self, *, servers: Servers, reader: Reader) -> None:
        self._servers = servers
        self._reader = reader

    async def put(self, request: Request) -> Response:
        options = parse.read_options(request, datacenter=self._reader.datacenter)
        ops = self._reader.read(request.body)
        if nameless := _without_key(ops):
            return await _shown(request, ops, words.TxnAnswer((), nameless), {})
        if all(map(words.reads, ops)):
            options = msgspec.structs.replace(options, index=0, wait_ms=0)
            answer = await self._servers.query(words.ReadTxn(ops), options)
            headers = render.read_headers(answer, options)
            del headers["X-Consul-Index"]
            also = b',"Index":%d,"LastContact":%d,"KnownLeader":%b' % (
                answer.index,
                answer.last_contact_ms * 1_000_000,
                b"true" if answer.known_leader else b"false",
            )
            return await _shown(request, ops, answer.value, headers, also)
        named = parse.idempotency_key(request)
        applied = await self._servers.apply(words.Txn(ops), token=request.token, key=named)
        return await _shown(request, ops, words.decode(applied.value), render.write_headers(applied, named))


# -- what is asked ---------------------------------------------------------------------------------


class Reader:
    """Bodies to operations. Raises BadRequest or TooLarge, which say which operation is wrong."""

    def __init__(self, *, datacenter: str, limits: Limits) -> None:
        self.datacenter = datacenter
        self._max_ops = limits.max_ops
        self._max_value_bytes = limits.max_value_bytes
        self._read: dict[str, Callable[[Any], words.TxnOp]] = {
            "KV": self._kv,
            "Node": self._node,
            "Service": self._service,
            "Check": self._check,
        }

    def read(self, body: bytes) -> tuple[words.TxnOp, ...]:
        try:
            found = read_json(body)
        except BadRequest as error:
            raise BadRequest(_FAILED + error.message.removeprefix(FAILED)) from error
        if not isinstance(found, list):
            raise BadRequest(f"{_FAILED}json: want a list of operations")
        if len(found) > self._max_ops:
            raise TooLarge(
                f"Transaction contains too many operations ({len(found)} > {self._max_ops}). The limit is "
                f"limits.txn_max_ops, which goes up to {words.MAX_OPS}: raise it or split the transaction."
            )
        return tuple([self._operation(number, raw) for number, raw in enumerate(found)])

    def _operation(self, number: int, raw: object) -> words.TxnOp:
        try:
            kind, inside = _kind_of(raw)
            return self._read[kind](inside)
        except TooLarge:
            raise
        except BadRequest as error:
            raise BadRequest(f"{_FAILED}operation {number}: {error.message.removeprefix(FAILED)}") from error

    def _kv(self, raw: Any) -> words.TxnOp:
        body = convert(raw, KvBody)
        _check_verb("KV", body.verb, _KV_VERBS)
        if body.verb == "fence-guard":
            resource = _bytes_of(body.resource, "Resource")
            if not 0 < len(resource) <= words.MAX_RESOURCE_BYTES:
                raise BadRequest(f"a Resource has 1 to {words.MAX_RESOURCE_BYTES} bytes, not {len(resource)}")
            return words.FenceGuard(resource, fence.checked(body.fence, "Fence"))
        key = parse.check_key(_bytes_of(body.key, "Key"))
        session = parse.session_id(body.session)
        if body.verb == "check-fence":
            return words.CheckFence(key, fence.checked(body.fence, "Fence"), session)
        if body.fence or body.resource:
            raise BadRequest(f"Fence and Resource are for check-fence and fence-guard, not for {body.verb}")
        if body.ttl and body.verb not in _SETS:
            raise BadRequest(f"TTL is for {', '.join(_SETS)}, not for {body.verb}")
        verb: Any = body.verb
        value, ttl_ms = self._value(body), parse.ttl_ms(body.ttl) if body.ttl else 0
        flags, index = _uint64(body.flags, "Flags"), _uint64(body.index, "Index")
        return words.KvOp(verb, key, value, flags, index, session, ttl_ms)

    def _value(self, body: KvBody) -> bytes:
        try:
            # Go's decoder reads over line breaks, with which some encoders wrap what they write.
            value = b64decode(body.value.replace("\n", "").replace("\r", ""), validate=True)
        except ValueError as error:
            raise BadRequest(f'Value of key "{body.key:.256}" is not base64: {error}') from error
        if len(value) > self._max_value_bytes:
            raise TooLarge(
                f'Value for key "{body.key:.256}" is too large ({len(value)} > {self._max_value_bytes} '
                "bytes). The limit is limits.kv_max_value_size."
            )
        return value

    def _node(self, raw: Any) -> words.TxnOp:
        body = convert(raw, NodeBody)
        verb, of = _check_verb("Node", body.verb, _VERBS), body.node
        catalog.check_datacenter(of.datacenter, self.datacenter)
        node = Node(of.node, of.address, of.id, self.datacenter, of.tagged_addresses, of.meta)
        return words.NodeOp(verb, _at(node, of.modify_index))

    def _service(self, raw: Any) -> words.TxnOp:
        body = convert(raw, ServiceOpBody)
        verb = _check_verb("Service", body.verb, _VERBS)
        service = catalog.to_service(body.service)
        return words.ServiceOp(verb, body.node, _at(service, body.service.modify_index))

    def _check(self, raw: Any) -> words.TxnOp:
        body = convert(raw, CheckOpBody)
        verb = _check_verb("Check", body.verb, _VERBS)
        return words.CheckOp(verb, _at(catalog.to_check(body.check, ""), body.check.modify_index))


def _kind_of(raw: object) -> tuple[str, Any]:
    """Which of the kinds an operation is, and what stands in it."""
    if not isinstance(raw, dict):
        raise BadRequest("json: want an object")
    named = {name.lower(): name for name in KINDS}
    if unknown := [name for name in raw if name.lower() not in named]:
        raise BadRequest(f'json: unknown field "{unknown[0]:.100}"; want one of {", ".join(KINDS)}')
    given = [(named[name.lower()], inside) for name, inside in raw.items() if inside is not None]
    if len(given) != 1:
        raise BadRequest(f"want exactly one of {', '.join(KINDS)}, found {len(given)}")
    return given[0]


def _without_key(ops: tuple[words.TxnOp, ...]) -> tuple[words.TxnError, ...]:
    """Those that lack the key they need. Consul tells all of these at once, and does nothing then."""
    return tuple(
        words.TxnError(number, "Must provide key")
        for number, op in enumerate(ops)
        if (isinstance(op, words.CheckFence) and not op.key)
        or (isinstance(op, words.KvOp) and not op.key and op.verb not in _TREES)
    )


def _check_verb(kind: str, verb: str, known: Sequence[str]) -> Any:
    if verb not in known:
        raise BadRequest(f'unknown {kind} verb "{verb:.64}", want one of {", ".join(known)}')
    return verb


def _at(row: Any, index: int) -> Any:
    """A row as its caller saw it last: what cas compares."""
    return msgspec.structs.replace(row, modify_index=_uint64(index, "ModifyIndex"))


def _uint64(number: int, name: str) -> int:
    if not 0 <= number <= parse.MAX_UINT64:
        raise BadRequest(f"{name} must be from 0 to {parse.MAX_UINT64}, not {number}")
    return number


def _bytes_of(text: str, name: str) -> bytes:
    try:
        return text.encode()
    except UnicodeEncodeError as error:
        raise BadRequest(f"{name} holds half of a surrogate pair: write valid Unicode") from error


# -- what is told ----------------------------------------------------------------------------------


async def _shown(
    request: Request,
    ops: tuple[words.TxnOp, ...],
    answer: words.TxnAnswer,
    headers: dict[str, str],
    also: bytes = b"",
) -> Response:
    if answer.errors:
        errors = [{"OpIndex": error.op, "What": error.what} for error in answer.errors]
        body = b'{"Results":null,"Errors":%b%b}' % (render.encode(errors), also)
        return render.json_bytes(request, body, status=409, headers=headers)
    fences = [str(op.fence) for op in ops if isinstance(op, words.CheckFence)]
    if fences:
        headers[fence.CHECKED] = ", ".join(fences)
    size = sum([len(found.row.value) for found in answer.results if isinstance(found, words.FoundKey)])
    if len(answer.results) <= SHORT_ROWS and size <= SHORT_BYTES:
        return _joined(request, answer, headers, also)
    return await asyncio.to_thread(_joined, request, answer, headers, also)


def _joined(request: Request, answer: words.TxnAnswer, headers: dict[str, str], also: bytes) -> Response:
    results = b",".join([_result(found) for found in answer.results])
    return render.json_bytes(request, b'{"Results":[%b],"Errors":null%b}' % (results, also), headers=headers)


def _result(found: words.TxnResult) -> bytes:
    if isinstance(found, words.FoundKey):
        return b'{"KV":%b}' % render.kv_entry(found.row)
    if isinstance(found, words.FoundNode):
        return b'{"Node":%b}' % render.encode(render.node(found.row))
    if isinstance(found, words.FoundService):
        return b'{"Service":%b}' % render.encode(render.service(found.row))
    return b'{"Check":%b}' % render.encode(render.check(found.row))
