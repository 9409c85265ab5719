"""The operator family: who votes, and how the servers are and are looked after. Source: Consul, operator API.

`/v1/gemot/raft/health` is ours: it answers without a leader, from what the server that is asked sees. A
server that runs and is removed by hand comes back as a learner, as in Consul: stop it first.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import msgspec

from gemot.agent.age import NEVER_MS
from gemot.agent.duration import format_duration, parse_nanoseconds
from gemot.agent.http import parse, render
from gemot.agent.http.body import decode_body
from gemot.agent.http.message import Permission, Request, Response, Route
from gemot.agent.servers import Servers
from gemot.server.model.autopilot import AutopilotConfig, AutopilotRow, GetAutopilot, SetAutopilot
from gemot.server.model.errors import BadRequest
from gemot.server.model.query import Options
from gemot.server.rpc.message import UNKNOWN_MS, Operate, ServerSeen, Survey, Surveyed

MAX_BODY_BYTES = 64 << 10
UNHEALTHY = 429
_UNKNOWN = "(unknown)"
_NS_PER_MS = 1_000_000


def routes(*, servers: Servers, datacenter: str, wall: Callable[[], float]) -> list[Route]:
    """`wall` is the time of day in seconds: what became stable when is told by it."""
    family = _Operator(servers=servers, datacenter=datacenter, wall=wall)
    read: Permission = "operator:read"
    write: Permission = "operator:write"
    return [
        Route("/v1/operator/raft/configuration", {"GET": family.configuration}, {"GET": read}),
        Route("/v1/operator/raft/peer", {"DELETE": family.remove_peer}, {"DELETE": write}),
        Route(
            "/v1/operator/raft/transfer-leader",
            {"POST": family.transfer_leader, "PUT": family.transfer_leader},
            {"POST": write, "PUT": write},
        ),
        Route(
            "/v1/operator/autopilot/configuration",
            {"GET": family.get_config, "PUT": family.set_config},
            {"GET": read, "PUT": write},
            max_body=MAX_BODY_BYTES,
        ),
        Route("/v1/operator/autopilot/health", {"GET": family.health}, {"GET": read}),
        Route("/v1/operator/autopilot/state", {"GET": family.state}, {"GET": read}),
        Route("/v1/gemot/raft/health", {"GET": family.own_health}, {"GET": read}),
    ]


class ConfigBody(msgspec.Struct, rename="pascal"):
    """What may be set. The last three are of another edition: only what means nothing is taken."""

    cleanup_dead_servers: bool | None = None
    last_contact_threshold: str | int | None = None
    max_trailing_logs: int | None = None
    min_quorum: int | None = None
    server_stabilization_time: str | int | None = None
    redundancy_zone_tag: str = ""
    disable_upgrade_migration: bool = False
    upgrade_version_tag: str = ""


class _Operator:
    def __init__(self, *, servers: Servers, datacenter: str, wall: Callable[[], float]) -> None:
        self._servers = servers
        self._datacenter = datacenter
        self._wall = wall

    # -- raft --------------------------------------------------------------------------------------

    async def configuration(self, request: Request) -> Response:
        found = await self._survey(request, here=parse.flag(request, "stale"))
        shown = [
            {
                "ID": server.id,
                "Node": _name(server),
                "Address": server.address,
                "Leader": server.leader,
                "ProtocolVersion": "3",
                "Voter": server.voter,
                "LastIndex": server.last_index,
            }
            for server in found.servers
        ]
        return render.json_response(request, {"Servers": shown, "Index": found.index})

    async def remove_peer(self, request: Request) -> Response:
        parse.check_scope(request, datacenter=self._datacenter)
        id, address = parse.first(request, "id") or "", parse.first(request, "address") or ""
        if not id and not address:
            raise BadRequest(
                "Must specify either ?id with the server's ID or ?address with IP:port of peer to remove"
            )
        if id and address:
            raise BadRequest("Must specify only one of ?id or ?address")
        await self._servers.operate(Operate("remove-peer", id, address))
        return Response()

    async def transfer_leader(self, request: Request) -> Response:
        parse.check_scope(request, datacenter=self._datacenter)
        await self._servers.operate(Operate("transfer", parse.first(request, "id") or ""))
        return render.json_response(request, {"Success": True})

    # -- autopilot ---------------------------------------------------------------------------------

    async def get_config(self, request: Request) -> Response:
        row = await self._row(parse.read_options(request, datacenter=self._datacenter))
        return render.json_response(request, _config(row))

    async def set_config(self, request: Request) -> Response:
        parse.check_scope(request, datacenter=self._datacenter)
        given = decode_body(request.body, ConfigBody)
        cas = parse.first(request, "cas")
        index = parse.uint64(cas) if cas is not None else None
        # What is not named stays as it is.
        before = (await self._row(Options(token=request.token))).config
        command = SetAutopilot(_changed(before, given), index)
        applied = await self._servers.apply(command, token=request.token)
        return render.json_response(request, applied.value, headers=render.write_headers(applied))

    async def _row(self, options: Options) -> AutopilotRow:
        answer = await self._servers.query(GetAutopilot(), msgspec.structs.replace(options, index=0))
        return answer.value or AutopilotRow(AutopilotConfig(), 0, 0)

    async def health(self, request: Request) -> Response:
        found = await self._survey(request)
        return render.json_response(request, self._health(found), status=200 if found.healthy else UNHEALTHY)

    async def own_health(self, request: Request) -> Response:
        """From here, with a leader or without; beside Consul's fields who says so, and what is waited for."""
        found = await self._survey(request, here=True)
        leader = next((server.name for server in found.servers if server.leader), "")
        shown = self._health(found) | {"SeenBy": found.by, "Leader": leader, "Waiting": found.waiting}
        return render.json_response(request, shown, status=200 if found.healthy else UNHEALTHY)

    async def state(self, request: Request) -> Response:
        found = await self._survey(request)
        shown = {
            "Healthy": found.healthy,
            "FailureTolerance": found.failure_tolerance,
            "OptimisticFailureTolerance": found.failure_tolerance,
            "Servers": {server.id: self._state_of(server) for server in found.servers},
            "Leader": next((server.id for server in found.servers if server.leader), ""),
            "Voters": [server.id for server in found.servers if server.voter],
        }
        return render.json_response(request, shown)

    # -- inside ------------------------------------------------------------------------------------

    async def _survey(self, request: Request, *, here: bool = False) -> Surveyed:
        parse.check_scope(request, datacenter=self._datacenter)
        found: Surveyed = await self._servers.operate(Survey(here=here))
        return found

    def _health(self, found: Surveyed) -> dict[str, Any]:
        shown = [
            {
                "ID": server.id,
                "Name": _name(server),
                "Address": server.address,
                "SerfStatus": server.status,
                "Version": server.build,
                "Leader": server.leader,
                "LastContact": _contact(server.last_contact_ms),
                "LastTerm": server.last_term,
                "LastIndex": server.last_index,
                "Healthy": server.healthy,
                "Voter": server.voter,
                "StableSince": self._since(server),
            }
            for server in found.servers
        ]
        return {
            "Healthy": found.healthy,
            "FailureTolerance": found.failure_tolerance,
            "Servers": shown,
        }

    def _state_of(self, server: ServerSeen) -> dict[str, Any]:
        role = "voter" if server.voter else "non-voter"
        return {
            "ID": server.id,
            "Name": _name(server),
            "Address": server.address,
            "NodeStatus": server.status,
            "Version": server.build,
            "LastContact": _duration(server.last_contact_ms),
            "LastTerm": server.last_term,
            "LastIndex": server.last_index,
            "Healthy": server.healthy,
            "StableSince": self._since(server),
            "ReadReplica": False,
            "Status": "leader" if server.leader else role,
            "Meta": server.meta,
            "NodeType": "voter",
        }

    def _since(self, server: ServerSeen) -> str:
        at = datetime.fromtimestamp(self._wall() - server.stable_ms / 1000, UTC)
        return at.strftime("%Y-%m-%dT%H:%M:%SZ")


def _name(server: ServerSeen) -> str:
    """An id without a name is that of a server that no agent knows any more."""
    return _UNKNOWN if server.name in ("", server.id) else server.name


def _contact(ms: int) -> str:
    """A duration; of a server that is asked itself also "" for what it does not know, and "never"."""
    return "" if ms == UNKNOWN_MS else "never" if ms >= NEVER_MS else _duration(ms)


def _duration(ms: int) -> str:
    return format_duration(ms / 1000)


def _config(row: AutopilotRow) -> dict[str, Any]:
    config = row.config
    return {
        "CleanupDeadServers": config.cleanup_dead_servers,
        "LastContactThreshold": _duration(config.last_contact_threshold_ms),
        "MaxTrailingLogs": config.max_trailing_logs,
        "MinQuorum": config.min_quorum,
        "ServerStabilizationTime": _duration(config.server_stabilization_time_ms),
        "RedundancyZoneTag": "",
        "DisableUpgradeMigration": False,
        "UpgradeVersionTag": "",
        "CreateIndex": row.create_index,
        "ModifyIndex": row.modify_index,
    }


def _changed(before: AutopilotConfig, given: ConfigBody) -> AutopilotConfig:
    if given.redundancy_zone_tag or given.upgrade_version_tag:
        raise BadRequest("RedundancyZoneTag and UpgradeVersionTag are not supported: leave them empty")
    changes: dict[str, Any] = {}
    if given.cleanup_dead_servers is not None:
        changes["cleanup_dead_servers"] = given.cleanup_dead_servers
    for name in ("max_trailing_logs", "min_quorum"):
        if (count := getattr(given, name)) is not None:
            if not 0 <= count < 1 << 31:
                raise BadRequest(f"{name} is {count}: it may be from 0 to 2147483647")
            changes[name] = count
    for name in ("last_contact_threshold", "server_stabilization_time"):
        if (text := getattr(given, name)) is not None:
            # A part of a millisecond counts as a whole one: 0 would call every server unhealthy.
            changes[f"{name}_ms"] = -(-_positive(name, text) // _NS_PER_MS)
    return msgspec.structs.replace(before, **changes)


def _positive(name: str, text: str | int) -> int:
    try:
        found = parse_nanoseconds(text)
    except BadRequest as error:
        raise BadRequest(f"{name}: {error.message}") from error
    if found < 0:
        raise BadRequest(f"{name} is {text}: it may not be negative")
    return found
