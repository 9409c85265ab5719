"""The coordinate family: `/v1/coordinate/`. Source: Consul, coordinate API.

There is one datacenter, and no pool of servers across several: its servers are told with the coordinates that
they have in it; one that has not said any yet, with that of one that has measured nothing.
"""

from __future__ import annotations

from typing import Any

import msgspec

from gemot.agent.http import listing, parse, render
from gemot.agent.http.body import decode_body
from gemot.agent.http.message import Handler, Permission, Request, Response, Route
from gemot.agent.http.reading import Reads
from gemot.agent.servers import Servers
from gemot.server.model.catalog import SERVER_SERVICE, NodeInfo, ServiceNodes
from gemot.server.model.coordinate import (
    ERROR_MAX,
    HEIGHT_MIN_S,
    Coordinate,
    CoordinateOf,
    Coordinates,
    NodeCoordinate,
)
from gemot.server.model.errors import BadRequest, RuleFailed
from gemot.server.model.query import Options

_DISABLED = "Coordinate support disabled"
_MAX_BODY = 64 << 10


class CoordBody(msgspec.Struct, rename="pascal"):
    vec: tuple[float, ...] = ()
    error: float = ERROR_MAX
    adjustment: float = 0.0
    height: float = HEIGHT_MIN_S


class UpdateBody(msgspec.Struct, rename="pascal"):
    node: str = ""
    segment: str = ""
    coord: CoordBody | None = None
    datacenter: str = ""


def routes(*, servers: Servers, datacenter: str, disabled: bool = False) -> list[Route]:
    """`disabled`: every route says so (`disable_coordinates`)."""
    family = _Coordinate(servers=servers, reads=Reads(servers=servers, datacenter=datacenter))
    table: list[tuple[str, str, Handler, Permission]] = [
        ("GET", "/v1/coordinate/datacenters", family.datacenters, "node:read"),
        ("GET", "/v1/coordinate/nodes", family.nodes, "node:read"),
        ("GET", "/v1/coordinate/node/", family.node, "node:read"),
        ("PUT", "/v1/coordinate/update", family.update, "node:write"),
    ]
    return [
        Route(
            path,
            {method: _refuse if disabled else handler},
            {method: needs},
            max_body=_MAX_BODY if method == "PUT" else 0,
        )
        for method, path, handler, needs in table
    ]


def _refuse(_request: Request) -> Response:
    return Response(status=401, body=_DISABLED.encode())


class _Coordinate:
    def __init__(self, *, servers: Servers, reads: Reads) -> None:
        self._servers = servers
        self._reads = reads

    async def nodes(self, request: Request) -> Response:
        answer, headers = await self._reads.read(request, Coordinates())
        rows = answer.value if not parse.first(request, "segment") else []
        return await listing.json_rows(request, rows, render.node_coordinate, headers=headers)

    async def node(self, request: Request) -> Response:
        """A list of one; of a node without any, 404."""
        query = CoordinateOf(parse.name_in(request, "Missing node name"))
        answer, headers = await self._reads.read(request, query)
        if answer.value is None or parse.first(request, "segment"):
            return Response(status=404, headers=headers)
        return render.json_response(request, [render.node_coordinate(answer.value)], headers=headers)

    async def datacenters(self, request: Request) -> Response:
        rows, headers = await self._reads.read(request, Coordinates())
        tier, _ = await self._reads.read(request, ServiceNodes(SERVER_SERVICE))
        known = {row.node: row for row in rows.value}
        servers = [row.node.node for row in tier.value]
        found = [
            render.node_coordinate(known.get(name) or NodeCoordinate(name, Coordinate())) for name in servers
        ]
        shown: dict[str, Any] = {
            "Datacenter": self._reads.datacenter,
            "AreaID": "wan",
            "Coordinates": found,
        }
        return render.json_response(request, [shown], headers=headers)

    async def update(self, request: Request) -> Response:
        parse.check_scope(request, datacenter=self._reads.datacenter)
        body = decode_body(request.body, UpdateBody)
        if body.datacenter and body.datacenter.lower() != self._reads.datacenter.lower():
            raise RuleFailed("No path to datacenter")
        if not body.node:
            raise BadRequest("Node is missing: name the node that stands there")
        if body.segment:
            raise BadRequest("Network segments are not supported: leave Segment out")
        row = NodeCoordinate(body.node, _coordinate(body.coord))
        # A server passes over who is in no catalog, and it may not have what was registered just before.
        await self._servers.query(NodeInfo(body.node), Options(token=request.token))
        await self._servers.locate(row, token=request.token)
        return Response()


def _coordinate(given: CoordBody | None) -> Coordinate:
    if given is None:
        raise BadRequest("Coord is missing: say where the node stands")
    try:
        return Coordinate(given.vec, given.error, given.adjustment, given.height)
    except ValueError as error:
        raise BadRequest(f"Invalid coordinate: {error}") from error
