"""What is registered on this agent: services, checks, TTL pushes, maintenance, local health. Source: Consul,
agent service and check API. What the agent says of itself (`self`, `members`, ...) is another file's.
"""

from __future__ import annotations

import asyncio
import logging
import random
from typing import Protocol

from gemot.agent.duration import parse_duration
from gemot.agent.fields import Fields, names
from gemot.agent.http import agent_render, parse, render
from gemot.agent.http.body import read_json
from gemot.agent.http.message import Handler, Permission, Request, Response, Route
from gemot.agent.local import Change, LocalState
from gemot.agent.registration import NO_SCRIPTS, Policy, parse_check, parse_service
from gemot.agent.sync import Sync
from gemot.checks.status import Status
from gemot.server.model.catalog import Service
from gemot.server.model.errors import BadRequest, NotFound
from gemot.server.model.query import DEFAULT_WAIT_MS, MAX_WAIT_MS

MAX_BODY = 512 * 1024
_BOOLEANS: dict[str, bool] = {
    **dict.fromkeys(("1", "t", "T", "true", "TRUE", "True"), True),
    **dict.fromkeys(("0", "f", "F", "false", "FALSE", "False"), False),
}
_STATUSES: dict[str, Status] = {"passing": "passing", "warning": "warning", "critical": "critical"}
_JITTER_SHARE = 16
_log = logging.getLogger(__name__)


class Flush(Protocol):
    async def flush(self) -> None:
        """Wait until every registration so far is on disk."""


def routes(
    *,
    local: LocalState,
    sync: Sync,
    registry: Flush,
    policy: Policy = NO_SCRIPTS,
    datacenter: str = "dc1",
) -> list[Route]:
    family = _Agent(local=local, sync=sync, registry=registry, policy=policy, datacenter=datacenter)
    base = "/v1/agent/"
    return [
        _route("GET", base + "services", family.services, "service:read"),
        _route("GET", base + "service/", family.service, "service:read"),
        _route("PUT", base + "service/register", family.register_service, "service:write", MAX_BODY),
        _route("PUT", base + "service/deregister/", family.deregister_service, "service:write"),
        _route("PUT", base + "service/maintenance/", family.maintain_service, "service:write"),
        _route("GET", base + "checks", family.checks, "node:read"),
        _route("PUT", base + "check/register", family.register_check, "service:write", MAX_BODY),
        _route("PUT", base + "check/deregister/", family.deregister_check, "service:write"),
        _route("PUT", base + "check/pass/", family.pass_check, "service:write"),
        _route("PUT", base + "check/warn/", family.warn_check, "service:write"),
        _route("PUT", base + "check/fail/", family.fail_check, "service:write"),
        _route("PUT", base + "check/update/", family.update_check, "service:write", MAX_BODY),
        _route("PUT", base + "maintenance", family.maintain_node, "node:write"),
        _route("PUT", base + "token/", family.set_token, "agent:write", MAX_BODY),
        _route("GET", base + "health/service/id/", family.health_by_id, "service:read"),
        _route("GET", base + "health/service/name/", family.health_by_name, "service:read"),
    ]


def _route(method: str, path: str, handler: Handler, permission: Permission, max_body: int = 0) -> Route:
    return Route(path, {method: handler}, {method: permission}, max_body)


class _Agent:
    def __init__(
        self, *, local: LocalState, sync: Sync, registry: Flush, policy: Policy, datacenter: str
    ) -> None:
        self._local = local
        self._sync = sync
        self._registry = registry
        self._policy = policy
        self._datacenter = datacenter

    def services(self, request: Request) -> Response:
        self._check(request)
        shown = {
            service_id: agent_render.service(row, datacenter=self._datacenter)
            for service_id, row in sorted(self._local.services().items())
        }
        return render.json_response(request, shown)

    def checks(self, request: Request) -> Response:
        self._check(request)
        rows = sorted(self._local.checks().items())
        return render.json_response(request, {check_id: render.check(row) for check_id, row in rows})

    async def service(self, request: Request) -> Response:
        """One service; with `?hash=` of what the caller has, only once it differs or the wait is over."""
        self._check(request)
        service_id = parse.name_in(request, "Missing service ID")
        known, wait_s = parse.first(request, "hash"), _wait_s(request)
        if known and self._local.content_hash(service_id) == known:
            await self._differs(service_id, known, wait_s)
        row = self._local.service(service_id)
        if row is None:
            raise NotFound(f"unknown service ID: {service_id:.512}")
        content_hash = self._local.content_hash(service_id)
        shown = agent_render.service(row, datacenter=self._datacenter)
        shown["ContentHash"] = content_hash
        return render.json_response(request, shown, headers={"X-Consul-ContentHash": content_hash})

    async def _differs(self, service_id: str, known: str, wait_s: float) -> None:
        changed: asyncio.Future[None] = asyncio.get_running_loop().create_future()

        def on_change(change: Change) -> None:
            if change.kind != "service" or change.id != service_id or changed.done():
                return
            if self._local.content_hash(service_id) != known:
                changed.set_result(None)

        unlisten = self._local.listen(on_change)
        try:
            await asyncio.wait((changed,), timeout=wait_s + random.random() * wait_s / _JITTER_SHARE)
        finally:
            unlisten()

    async def register_service(self, request: Request) -> Response:
        self._check(request)
        registration = parse_service(read_json(request.body), from_config=False, policy=self._policy)
        if registration.ignored:
            _log.warning(
                "agent: service %s was registered with fields that have no effect here: %s",
                registration.service.id,
                ", ".join(registration.ignored),
            )
        replace = parse.boolean(request, "replace-existing-checks")
        self._local.add_service(registration, replace_checks=replace)
        return await self._done()

    async def deregister_service(self, request: Request) -> Response:
        self._check(request)
        self._local.remove_service(parse.name_in(request, "Missing service ID"))
        return await self._done()

    async def register_check(self, request: Request) -> Response:
        self._check(request)
        self._local.add_check(parse_check(read_json(request.body), from_config=False, policy=self._policy))
        return await self._done()

    async def deregister_check(self, request: Request) -> Response:
        self._check(request)
        self._local.remove_check(parse.name_in(request, "Missing check ID"))
        return await self._done()

    async def pass_check(self, request: Request) -> Response:
        return await self._push(request, "passing")

    async def warn_check(self, request: Request) -> Response:
        return await self._push(request, "warning")

    async def fail_check(self, request: Request) -> Response:
        return await self._push(request, "critical")

    async def _push(self, request: Request, status: Status) -> Response:
        self._check(request)
        check_id = parse.name_in(request, "Missing check ID")
        self._local.check_states.update_ttl(check_id, status, parse.first(request, "note") or "")
        await self._sync.settle()
        return Response()

    async def update_check(self, request: Request) -> Response:
        self._check(request)
        check_id = parse.name_in(request, "Missing check ID")
        fields = Fields(
            read_json(request.body),
            what="Request decode failed",
            known=names("status output"),
            ignored=names("checkid"),
        )
        given = fields.text("Status")
        status = _STATUSES.get(given)
        if status is None:
            raise BadRequest(f"Invalid check status: '{given:.64}'")
        self._local.check_states.update_ttl(check_id, status, fields.text("Output", limit=MAX_BODY))
        await self._sync.settle()
        return Response()

    async def maintain_node(self, request: Request) -> Response:
        self._check(request)
        self._local.maintain_node(enable=_enable(request), reason=parse.first(request, "reason") or "")
        return await self._done()

    async def maintain_service(self, request: Request) -> Response:
        self._check(request)
        service_id = parse.name_in(request, "Missing service ID")
        enable, reason = _enable(request), parse.first(request, "reason") or ""
        self._local.maintain_service(service_id, enable=enable, reason=reason)
        return await self._done()

    def set_token(self, request: Request) -> Response:
        """The agent's own tokens: without access control there are none; clients match this text."""
        return Response(status=401, body=b"ACL support disabled")

    def health_by_id(self, request: Request) -> Response:
        self._check(request)
        service_id = parse.name_in(request, "Missing serviceID")
        row = self._local.service(service_id)
        if row is None:
            raise NotFound(f"ServiceId {service_id:.512} not found")
        found = self._health(row)
        return _answer(request, str(found["AggregatedStatus"]), found)

    def health_by_name(self, request: Request) -> Response:
        self._check(request)
        name = parse.name_in(request, "Missing service Name")
        rows = [row for row in self._local.services().values() if row.service == name]
        if not rows:
            raise NotFound(f"ServiceName {name:.512} Not Found")
        found = [self._health(row) for row in sorted(rows, key=lambda row: row.id)]
        status = agent_render.worst([str(one["AggregatedStatus"]) for one in found])
        return _answer(request, status, found)

    def _health(self, row: Service) -> dict[str, object]:
        return agent_render.health(row, self._local.checks_of(row.id), datacenter=self._datacenter)

    def _check(self, request: Request) -> None:
        if not request.query:
            return
        parse.check_scope(request, datacenter=self._datacenter)
        if parse.first(request, "filter"):
            raise BadRequest("filter is not supported yet: leave it out and choose among the results")

    async def _done(self) -> Response:
        """Answer once the change was tried on the servers and is on this host's disk."""
        await self._sync.settle()
        await self._registry.flush()
        return Response()


def _answer(request: Request, status: str, found: object) -> Response:
    code = agent_render.HEALTH_CODES[status]
    headers = {"X-Consul-Reason": status}
    accepts = request.headers.get("accept", "")
    if parse.first(request, "format") == "text" or accepts.startswith("text/plain"):
        return Response(status=code, body=status.encode(), headers=headers)
    return render.json_response(request, found, status=code, headers=headers)


def _enable(request: Request) -> bool:
    given = parse.first(request, "enable")
    if not given:
        raise BadRequest("Missing value for enable")
    if given not in _BOOLEANS:
        raise BadRequest(f'Invalid value for enable: "{given:.64}"')
    return _BOOLEANS[given]


def _wait_s(request: Request) -> float:
    text = parse.first(request, "wait")
    if not text:
        return DEFAULT_WAIT_MS / 1000
    try:
        wait_s = parse_duration(text)
    except BadRequest as error:
        raise BadRequest("Invalid wait time") from error
    return min(wait_s, MAX_WAIT_MS / 1000) if wait_s > 0 else DEFAULT_WAIT_MS / 1000
