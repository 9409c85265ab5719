"""The agent about itself: `/v1/agent/` self, members, version, host, metrics. Source: Consul, agent API."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, Protocol

from gemot.agent.http import parse, render
from gemot.agent.http.facts import API_LEVEL, Facts
from gemot.agent.http.host import describe_host
from gemot.agent.http.members import Known, list_members, own_member
from gemot.agent.http.message import Handler, Permission, Request, Response, Route
from gemot.agent.servers import Servers
from gemot.server.model.coordinate import Coordinate

_PROMETHEUS = "text/plain; version=0.0.4; charset=utf-8"

Stats = dict[str, dict[str, str]]


class Figures(Protocol):
    def text(self) -> bytes: ...

    def summary(self) -> dict[str, Any]: ...


def routes(
    *,
    servers: Servers,
    facts: Facts,
    metrics: Figures,
    stats: Callable[[], Stats] = dict,
    known: Known | None = None,
    where: Callable[[], Coordinate | None] = lambda: None,
) -> list[Route]:
    """`stats` are the agent's own figures for people, put beside those of the servers; `known` is gossip.

    `where` this agent stands; None if coordinates are off.
    """
    family = _Self(servers=servers, facts=facts, metrics=metrics, stats=stats, known=known, where=where)
    table: list[tuple[str, Handler, Permission]] = [
        ("/v1/agent/self", family.self, "agent:read"),
        ("/v1/agent/members", family.members, "node:read"),
        ("/v1/agent/version", family.version, "agent:read"),
        ("/v1/agent/host", family.host, "operator:read"),
        ("/v1/agent/metrics", family.metrics, "agent:read"),
        ("/metrics", family.metrics_text, "agent:read"),
    ]
    return [Route(path=path, handlers={"GET": get}, permission={"GET": needs}) for path, get, needs in table]


class _Self:
    def __init__(
        self,
        *,
        servers: Servers,
        facts: Facts,
        metrics: Figures,
        stats: Callable[[], Stats],
        known: Known | None,
        where: Callable[[], Coordinate | None],
    ) -> None:
        self._servers = servers
        self._facts = facts
        self._metrics = metrics
        self._stats = stats
        self._known = known
        self._where = where
        self._headers = {"X-Gemot-Version": facts.version}

    def self(self, request: Request) -> Response:
        facts, where = self._facts, self._where()
        shown = {
            "Config": self._config(),
            "DebugConfig": facts.config,
            "Coord": render.coordinate(where) if where is not None else None,
            "Member": own_member(facts),
            "Stats": {**self._servers.stats(), **self._stats()},
            "Meta": facts.meta,
            "xDS": {"SupportedProxies": {}, "Port": -1, "Ports": {"Plaintext": -1, "TLS": -1}},
        }
        return render.json_response(request, shown, headers=self._headers)

    def _config(self) -> dict[str, Any]:
        facts = self._facts
        return {
            "Datacenter": facts.datacenter,
            "PrimaryDatacenter": facts.datacenter,
            "NodeName": facts.node,
            "NodeID": facts.node_id,
            "Revision": "",
            "Server": facts.server,
            "Version": API_LEVEL,
            "BuildDate": "1970-01-01T00:00:00Z",
            "SessionTTLMin": facts.session_ttl_min_ns,
            "GemotVersion": facts.version,
        }

    async def members(self, request: Request) -> Response:
        if request.query:
            parse.read_options(request, datacenter=self._facts.datacenter)
        wan = parse.boolean(request, "wan")
        found = await list_members(self._servers, self._facts, self._known, token=request.token, wan=wan)
        headers = {**render.age_headers(found), "X-Consul-Effective-Consistency": "stale"}
        return render.json_response(request, found.value, headers=headers)

    def version(self, request: Request) -> Response:
        shown = {
            "SHA": "",
            "BuildDate": "1970-01-01T00:00:00Z",
            "HumanVersion": API_LEVEL,
            "FIPS": "",
            "GemotVersion": self._facts.version,
        }
        return render.json_response(request, shown, headers=self._headers)

    async def host(self, request: Request) -> Response:
        return render.json_response(request, await asyncio.to_thread(describe_host))

    def metrics(self, request: Request) -> Response:
        accept = request.headers.get("accept", "")
        if (
            parse.first(request, "format") == "prometheus"
            or "version=0.0.4" in accept
            or "openmetrics" in accept
        ):
            return self.metrics_text(request)
        return render.json_response(request, self._metrics.summary())

    def metrics_text(self, request: Request) -> Response:
        return Response(body=self._metrics.text(), content_type=_PROMETHEUS)
