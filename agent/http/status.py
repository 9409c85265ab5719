"""The status family: who leads and who votes. No permission is needed. Source: Consul, status API."""

from __future__ import annotations

from gemot.agent.http import parse, render
from gemot.agent.http.message import Request, Response, Route
from gemot.agent.servers import Servers


def routes(*, servers: Servers, datacenter: str) -> list[Route]:
    async def leader(request: Request) -> Response:
        parse.check_scope(request, datacenter=datacenter)
        return render.json_response(request, await servers.leader())

    async def peers(request: Request) -> Response:
        parse.check_scope(request, datacenter=datacenter)
        return render.json_response(request, await servers.peers())

    return [
        Route(path="/v1/status/leader", handlers={"GET": leader}, permission={"GET": "none"}),
        Route(path="/v1/status/peers", handlers={"GET": peers}, permission={"GET": "none"}),
    ]
