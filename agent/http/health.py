"""The health family: `/v1/health/`. Source: Consul, health API."""

from __future__ import annotations

from gemot.agent.http import listing, parse, render
from gemot.agent.http.message import Handler, Permission, Request, Response, Route
from gemot.agent.http.reading import CONSULS_WAITS, Reads, Views, Waits
from gemot.agent.servers import Servers
from gemot.server.model.catalog import HealthService
from gemot.server.model.errors import BadRequest
from gemot.server.model.health import HealthChecks, HealthNode, HealthState
from gemot.server.model.query import Query

_NO_SERVICE = "Missing service name"


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
    family = _Health(reads=reading, node=node)
    table: list[tuple[str, Handler, Permission]] = [
        ("/v1/health/service/", family.service, "service:read"),
        ("/v1/health/connect/", family.mesh, "service:read"),
        ("/v1/health/ingress/", family.mesh, "service:read"),
        ("/v1/health/checks/", family.checks, "service:read"),
        ("/v1/health/node/", family.node, "node:read"),
        ("/v1/health/state/", family.state, "node:read"),
    ]
    return [Route(path=path, handlers={"GET": get}, permission={"GET": needs}) for path, get, needs in table]


class _Health:
    def __init__(self, *, reads: Reads, node: str) -> None:
        self._reads = reads
        self._node = node

    async def service(self, request: Request) -> Response:
        query = self._service_query(request)
        answer, headers = await self._reads.read(request, query, cacheable=True)
        headers["X-Consul-Query-Backend"] = "blocking-query"
        return await listing.json_rows(request, answer.value, render.instance, headers=headers)

    async def mesh(self, request: Request) -> Response:
        """Sidecars and gateways of a service: there is no mesh, so none; it waits like the service itself."""
        _, headers = await self._reads.read(request, self._service_query(request))
        return render.json_response(request, [], headers=headers)

    async def checks(self, request: Request) -> Response:
        name = parse.name_in(request, _NO_SERVICE)
        return await self._list(request, HealthChecks(name, parse.node_meta(request), self._near(request)))

    async def node(self, request: Request) -> Response:
        return await self._list(request, HealthNode(parse.name_in(request, "Missing node name")))

    async def state(self, request: Request) -> Response:
        state = parse.name_in(request, "Missing check state")
        return await self._list(request, HealthState(state, parse.node_meta(request), self._near(request)))

    async def _list(self, request: Request, query: Query) -> Response:
        answer, headers = await self._reads.read(request, query)
        return await listing.json_rows(request, answer.value, render.check, headers=headers)

    def _near(self, request: Request) -> str:
        return parse.near(request, self._node)

    def _service_query(self, request: Request) -> HealthService:
        name = parse.name_in(request, _NO_SERVICE)
        if parse.first(request, "sg"):
            raise BadRequest('Sameness groups are not supported: leave the parameter "sg" out')
        return HealthService(
            name,
            parse.every(request, "tag"),
            parse.node_meta(request),
            parse.boolean(request, "passing"),
            self._near(request),
        )
