"""The catalog family: `/v1/catalog/`. Source: Consul, catalog API."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec

from gemot.agent.http import listing, parse, render
from gemot.agent.http.body import decode_body
from gemot.agent.http.message import Handler, Permission, Request, Response, Route
from gemot.agent.http.reading import CONSULS_WAITS, Reads, Views, Waits
from gemot.agent.servers import Servers
from gemot.server.model import catalog as words
from gemot.server.model.errors import BadRequest, RuleFailed
from gemot.server.model.health import Check, Status

_MAX_BODY = 512 * 1024
_STATUSES: tuple[Status, ...] = ("passing", "warning", "critical")


Uint16 = Annotated[int, msgspec.Meta(ge=0, le=65535)]


class WeightsBody(msgspec.Struct, rename="pascal"):
    passing: Uint16 = 0
    warning: Uint16 = 0


class AddressBody(msgspec.Struct, rename="pascal"):
    address: str = ""
    port: Uint16 = 0


class ServiceBody(msgspec.Struct, rename="pascal"):
    id: str = ""
    service: str = ""
    tags: tuple[str, ...] = ()
    meta: dict[str, str] = {}
    address: str = ""
    port: Uint16 = 0
    socket_path: str = ""
    weights: WeightsBody = msgspec.field(default_factory=WeightsBody)
    enable_tag_override: bool = False
    tagged_addresses: dict[str, AddressBody] = {}
    kind: str = ""
    datacenter: str = ""
    proxy: Any = None
    connect: Any = None
    modify_index: int = 0


class CheckBody(msgspec.Struct, rename="pascal"):
    node: str = ""
    check_id: str = ""
    name: str = ""
    status: str = ""
    notes: str = ""
    output: str = ""
    service_id: str = ""
    service_name: str = ""
    service_tags: tuple[str, ...] = ()
    type: str = ""
    interval: str = ""
    timeout: str = ""
    exposed_port: Uint16 = 0
    definition: Any = None
    modify_index: int = 0


class RegisterBody(msgspec.Struct, rename="pascal"):
    datacenter: str = ""
    id: str = ""
    node: str = ""
    address: str = ""
    tagged_addresses: dict[str, str] = {}
    node_meta: dict[str, str] = {}
    service: ServiceBody | None = None
    check: CheckBody | None = None
    checks: tuple[CheckBody, ...] = ()
    skip_node_update: bool = False


class DeregisterBody(msgspec.Struct, rename="pascal"):
    datacenter: str = ""
    node: str = ""
    address: str = ""
    service_id: str = ""
    check_id: str = ""


def routes(
    *,
    servers: Servers,
    datacenter: str,
    node: str = "",
    views: Views | None = None,
    waits: Waits = CONSULS_WAITS,
) -> list[Route]:
    """`node` is this agent's own: `near=_agent` means it."""
    reading = Reads(servers=servers, datacenter=datacenter, views=views, waits=waits)
    family = _Catalog(servers=servers, reads=reading, node=node)
    reads: list[tuple[str, Handler, Permission]] = [
        ("/v1/catalog/datacenters", family.datacenters, "none"),
        ("/v1/catalog/nodes", family.nodes, "node:read"),
        ("/v1/catalog/services", family.services, "service:read"),
        ("/v1/catalog/service/", family.service, "service:read"),
        ("/v1/catalog/connect/", family.connect, "service:read"),
        ("/v1/catalog/node/", family.node, "node:read"),
        ("/v1/catalog/node-services/", family.node_services, "node:read"),
    ]
    writes = [("/v1/catalog/register", family.register), ("/v1/catalog/deregister", family.deregister)]
    found = [Route(path=path, handlers={"GET": get}, permission={"GET": needs}) for path, get, needs in reads]
    for path, put in writes:
        permission: dict[str, Permission] = {"PUT": "node:write"}
        found.append(Route(path=path, handlers={"PUT": put}, permission=permission, max_body=_MAX_BODY))
    return found


class _Catalog:
    def __init__(self, *, servers: Servers, reads: Reads, node: str) -> None:
        self._servers = servers
        self._node = node
        self._reads = reads

    def datacenters(self, request: Request) -> Response:
        return render.json_response(request, [self._reads.datacenter])

    async def nodes(self, request: Request) -> Response:
        query = words.Nodes(parse.node_meta(request), parse.near(request, self._node))
        answer, headers = await self._reads.read(request, query)
        return await listing.json_rows(request, answer.value, render.node, headers=headers)

    async def services(self, request: Request) -> Response:
        query = words.Services(parse.node_meta(request))
        answer, headers = await self._reads.read(request, query, cacheable=True)
        return await listing.json_pairs(request, answer.value, headers=headers)

    async def service(self, request: Request) -> Response:
        name = parse.name_in(request, "Missing service name")
        near = parse.near(request, self._node)
        query = words.ServiceNodes(name, parse.every(request, "tag"), parse.node_meta(request), near)
        answer, headers = await self._reads.read(request, query, cacheable=True)
        return await listing.json_rows(request, answer.value, render.service_node, headers=headers)

    async def connect(self, request: Request) -> Response:
        """Sidecars of a service: there is no mesh, so none; it waits like the service itself."""
        name = parse.name_in(request, "Missing service name")
        _, headers = await self._reads.read(request, words.ServiceNodes(name))
        return render.json_response(request, [], headers=headers)

    async def node(self, request: Request) -> Response:
        detail, headers = await self._node_detail(request)
        if detail is None:
            return render.json_response(request, None, headers=headers)
        shown = {
            "Node": render.node(detail.node),
            "Services": {s.id: render.service(s) for s in detail.services},
        }
        return render.json_response(request, shown, headers=headers)

    async def node_services(self, request: Request) -> Response:
        detail, headers = await self._node_detail(request)
        if detail is None:
            return render.json_response(request, {"Node": None, "Services": None}, headers=headers)
        shown = {"Node": render.node(detail.node), "Services": [render.service(s) for s in detail.services]}
        return render.json_response(request, shown, headers=headers)

    async def _node_detail(self, request: Request) -> tuple[words.NodeDetail | None, dict[str, str]]:
        name = parse.name_in(request, "Missing node name")
        answer, headers = await self._reads.read(request, words.NodeInfo(name))
        return answer.value, headers

    async def register(self, request: Request) -> Response:
        parse.check_scope(request, datacenter=self._reads.datacenter)
        body = decode_body(request.body, RegisterBody)
        command = to_register(body, datacenter=self._reads.datacenter)
        return await self._write(request, command)

    async def deregister(self, request: Request) -> Response:
        parse.check_scope(request, datacenter=self._reads.datacenter)
        body = decode_body(request.body, DeregisterBody)
        check_datacenter(body.datacenter, self._reads.datacenter)
        if not body.node:
            raise RuleFailed("Must provide node")
        check_id = "" if body.service_id else body.check_id
        return await self._write(request, words.Deregister(body.node, body.service_id, check_id))

    async def _write(self, request: Request, command: words.Register | words.Deregister) -> Response:
        key = parse.idempotency_key(request)
        applied = await self._servers.apply(command, token=request.token, key=key)
        headers = render.write_headers(applied, key)
        return render.json_response(request, bool(applied.value), headers=headers)


def to_register(body: RegisterBody, *, datacenter: str) -> words.Register:
    """The command of a registration, with what its parts leave out filled in from each other.

    Whether it may be registered so is for the state's rules to say.
    """
    check_datacenter(body.datacenter, datacenter)
    node = words.Node(body.node, body.address, body.id, datacenter, body.tagged_addresses, body.node_meta)
    services = (to_service(body.service),) if body.service is not None else ()
    given = (body.check, *body.checks) if body.check is not None else body.checks
    checks = tuple(to_check(one, body.node) for one in given)
    return words.Register(node, services, checks, body.skip_node_update)


def check_datacenter(wanted: str, ours: str) -> None:
    if wanted and wanted.lower() != ours.lower():
        raise RuleFailed("No path to datacenter")


def to_service(body: ServiceBody) -> words.Service:
    addresses = {
        name: words.ServiceAddress(at.address, at.port) for name, at in body.tagged_addresses.items()
    }
    return words.Service(
        body.id or body.service,
        body.service,
        body.tags,
        body.address,
        body.port,
        body.meta,
        addresses,
        _to_weights(body.weights),
        body.enable_tag_override,
        body.kind,
        body.socket_path,
    )


def _to_weights(body: WeightsBody) -> words.Weights:
    # Clients written in Go send both as 0 when their caller set none.
    if not body.passing and not body.warning:
        return words.Weights()
    if not body.passing:
        raise BadRequest("Invalid Weights: Passing must be 1 to 65535 and Warning 0 to 65535")
    return words.Weights(body.passing, body.warning)


def to_check(body: CheckBody, node: str) -> Check:
    status: Status = next((one for one in _STATUSES if one == body.status), "critical")
    if body.status and body.status != status:
        raise BadRequest(
            f'Check status is "{body.status:.100}": it must be "passing", "warning" or "critical"'
        )
    return Check(
        body.node or node,
        body.check_id or body.name,
        body.name or body.check_id,
        status,
        body.notes,
        body.output,
        body.service_id,
        body.service_name,
        body.service_tags,
        body.type,
        body.interval,
        body.timeout,
    )
