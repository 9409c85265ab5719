"""Why things are as they are: a service in or out of the answers, a template written or not.

The rules are functions of what was read; `Why` reads it. What these words say is also said as text, in
`explain`, since people read it first.
"""

from __future__ import annotations

import difflib
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Protocol

import msgspec

from gemot.agent.age import age_ms, as_of
from gemot.dns.records import keep_healthy
from gemot.server.model.catalog import SERF_HEALTH, HealthService, Instance, Services
from gemot.server.model.health import NODE_MAINTENANCE, SERVICE_MAINTENANCE_PREFIX, Check
from gemot.server.model.query import Answer, Options, Query
from gemot.server.serf_health import SUSPECT_OUTPUT

MAX_OUTPUT = 300
"""Characters of a check's output that an explanation shows."""

_NEAR = 3


class FailingCheck(msgspec.Struct, frozen=True, rename="pascal"):
    """A check that is not passing. `since_index` is the index of its last change."""

    check_id: str = msgspec.field(name="CheckID")
    name: str
    status: str
    output: str
    since_index: int
    meaning: str


class InstanceWhy(msgspec.Struct, frozen=True, rename="pascal"):
    """One instance: whether healthy-only answers have it (`in_passing`), and DNS has it (`in_dns`)."""

    node: str
    id: str = msgspec.field(name="ID")
    address: str
    port: int
    node_alive: bool
    in_passing: bool
    in_dns: bool = msgspec.field(name="InDNS")
    failing: tuple[FailingCheck, ...]
    explanation: str


class ServiceWhy(msgspec.Struct, frozen=True, rename="pascal"):
    """A service name. `nearest` has names that are there, when this one is not.

    `age_ms` is how long ago the server that was asked heard a leader, 0 if it hears one now.
    """

    service: str
    exists: bool
    nearest: tuple[str, ...]
    dns: str = msgspec.field(name="DNS")
    instances: tuple[InstanceWhy, ...]
    age_ms: int
    explanation: tuple[str, ...]


class TemplateWhy(msgspec.Struct, frozen=True, rename="pascal"):
    """One template of the agent. Times are RFC 3339, "" for never.

    `age_ms` is for how long nothing vouches for the oldest of its values, 0 while they are kept current.
    """

    source: str
    destination: str
    state: str
    waiting_for: tuple[str, ...]
    error: str
    pending_command: tuple[str, ...]
    command_error: str
    rendered_at: str
    written_at: str
    age_ms: int
    explanation: str


class TemplateStatus(Protocol):
    """How a template is (`template/runner.py`). Times are seconds of the wall clock, 0 for never."""

    @property
    def source(self) -> str: ...
    @property
    def destination(self) -> str: ...
    @property
    def waiting_for(self) -> tuple[str, ...]: ...
    @property
    def error(self) -> str: ...
    @property
    def rendered_at(self) -> float: ...
    @property
    def written_at(self) -> float: ...
    @property
    def age_s(self) -> float: ...
    @property
    def failures(self) -> int: ...
    @property
    def pending_command(self) -> tuple[str, ...]: ...
    @property
    def command_error(self) -> str: ...


class Reads(Protocol):
    """What is needed of the servers."""

    def query(self, query: Query, options: Options) -> Any:
        """An awaitable Answer."""


class Why:
    """Reads what there is now and explains it. `templates` tells the status of the agent's own."""

    def __init__(
        self,
        *,
        servers: Reads,
        templates: Callable[[], Sequence[TemplateStatus]] = tuple,
        node_id: str = "",
        checks: Callable[[], Mapping[str, Check]] = dict,
        domain: str = "consul.",
        only_passing: bool = False,
    ) -> None:
        """`checks` are this agent's own, on `node_id`: the servers hear some time later what they say."""
        self._servers = servers
        self._node_id = node_id
        self._checks = checks
        self._templates = templates
        self._domain = domain
        self._only_passing = only_passing

    def configure(self, *, only_passing: bool) -> None:
        """Explain by other settings of DNS from now on (a reload)."""
        self._only_passing = only_passing

    async def service(self, name: str, token: str = "") -> ServiceWhy:
        """Reads from any server: an explanation is wanted most when there is no leader."""
        options = Options(consistency="stale", token=token)
        found: Answer = await self._servers.query(HealthService(name), options)
        names: Iterable[str] = ()
        if not found.value:
            listed: Answer = await self._servers.query(Services(), options)
            names = listed.value
        return explain_service(
            name,
            self._up_to_date(found.value),
            names=names,
            domain=self._domain,
            only_passing=self._only_passing,
            age_ms=age_ms(found.last_contact_ms, known_leader=found.known_leader),
        )

    def _up_to_date(self, rows: Sequence[Instance]) -> Sequence[Instance]:
        """With the last outputs of own checks; their statuses stay those that the answers go by."""
        if all(row.node.id != self._node_id for row in rows):
            return rows
        own = self._checks()
        return [_with_outputs(row, own) if row.node.id == self._node_id else row for row in rows]

    def templates(self, destination: str = "") -> list[TemplateWhy]:
        """Those whose destination or source this is; all for ""."""
        return [
            explain_template(one)
            for one in self._templates()
            if destination in ("", one.destination, one.source)
        ]


def _with_outputs(row: Instance, own: Mapping[str, Check]) -> Instance:
    checks = tuple(
        msgspec.structs.replace(check, output=mine.output)
        if (mine := own.get(check.check_id)) is not None and mine.status == check.status
        else check
        for check in row.checks
    )
    return msgspec.structs.replace(row, checks=checks)


def explain_service(
    name: str,
    instances: Sequence[Instance],
    *,
    names: Iterable[str] = (),
    domain: str = "consul.",
    only_passing: bool = False,
    age_ms: int = 0,
) -> ServiceWhy:
    """`names` are all service names there are, for a name that has no instance."""
    in_dns = keep_healthy(instances, only_passing=only_passing)
    rows = tuple(_explain_instance(one, in_dns=one in in_dns) for one in instances)
    nearest = () if instances else nearest_names(name, names)
    dns = _explain_dns(f"{name}.service.{domain.strip('.')}", rows)
    lines = [row.explanation for row in rows]
    if not instances:
        hint = f"; near it: {', '.join(nearest)}" if nearest else ""
        lines.append(f"No instance of {name} is registered anywhere{hint}")
        lines.append("A name appears once an agent has registered it: see gemot services register -h")
    lines.append(f"DNS: {dns}")
    if age_ms:
        lines.append(f"All this is {as_of(age_ms)}: it may be otherwise by now, see gemot status")
    return ServiceWhy(name, bool(instances), nearest, dns, rows, age_ms, tuple(lines))


def nearest_names(name: str, names: Iterable[str]) -> tuple[str, ...]:
    """Names like it: the same in other letters first, then those spelled much alike."""
    wanted, known = name.lower(), sorted(names)
    folded = {one.lower(): one for one in known}
    near = difflib.get_close_matches(wanted, folded, n=_NEAR)
    return tuple(folded[one] for one in near)


def _explain_instance(row: Instance, *, in_dns: bool) -> InstanceWhy:
    failing = tuple(_failing(check) for check in row.checks if check.status != "passing")
    address, port = row.service.address or row.node.address, row.service.port
    alive = all(c.status != "critical" for c in row.checks if c.check_id == SERF_HEALTH)
    label = row.service.service if row.service.id == row.service.service else row.service.id
    where = f"{label} on {row.node.node} ({_joined(address, port)})"
    warns = [one for one in failing if one.status == "warning"]
    keeps_out = [one for one in failing if one not in warns] or warns
    reasons = "; ".join(map(_reason, keeps_out))
    if keeps_out != warns and warns:
        reasons += f"; besides, {'; '.join(map(_reason, warns))}"
    suspect = any(check.output == SUSPECT_OUTPUT for check in row.checks if check.check_id == SERF_HEALTH)
    if suspect and not failing:
        told = f"{where} is in the answers though {row.node.node} is unreachable: many hosts are, at once"
    elif not failing:
        told = f"{where} is in the answers: {_passing(row.checks)}"
    elif in_dns:
        told = f"{where} is in DNS answers, left out of passing-only ones: {reasons}"
    else:
        told = f"{where} is left out: {reasons}"
    return InstanceWhy(
        row.node.node, row.service.id, address, port, alive, not failing, in_dns, failing, told
    )


def _failing(check: Check) -> FailingCheck:
    output = check.output.strip()
    if len(output) > MAX_OUTPUT:
        output = output[:MAX_OUTPUT] + "..."
    return FailingCheck(check.check_id, check.name, check.status, output, check.modify_index, _meaning(check))


def _meaning(check: Check) -> str:
    """What a check that membership or a maintenance switch drives stands for, "" for others."""
    if check.check_id == SERF_HEALTH:
        return f"no live agent is seen on {check.node}"
    reason = f" ({check.notes})" if check.notes else ""
    if check.check_id == NODE_MAINTENANCE:
        return f"node {check.node} is in maintenance{reason}"
    if check.check_id.startswith(SERVICE_MAINTENANCE_PREFIX):
        return f"the instance is in maintenance{reason}"
    return ""


def _reason(check: FailingCheck) -> str:
    since = f" (since index {check.since_index})" if check.since_index else ""
    if check.meaning:
        return f"{check.meaning}{since}"
    output = " ".join(check.output.split())
    return f'check "{check.check_id}" is {check.status}{since}' + (f": {output}" if output else "")


def _passing(checks: Sequence[Check]) -> str:
    if not checks:
        return "it has no checks"
    return "its check is passing" if len(checks) == 1 else f"all its {len(checks)} checks are passing"


def _explain_dns(name: str, rows: Sequence[InstanceWhy]) -> str:
    told = [row for row in rows if row.in_dns]
    if not rows:
        return f"{name} does not exist (NXDOMAIN)"
    if not told:
        return f"{name} has no healthy instance (NXDOMAIN)"
    addresses = list(dict.fromkeys(row.address for row in told))
    shown = ", ".join(addresses[:8]) + (", ..." if len(addresses) > 8 else "")
    return f"{name} answers {len(told)} of {len(rows)} instances: {shown}"


def explain_template(status: TemplateStatus) -> TemplateWhy:
    state, told = template_state(status)
    age = int(status.age_s * 1000)
    if age:
        told = f"{told}; its values are {as_of(age)}"
    return TemplateWhy(
        status.source,
        status.destination,
        state,
        status.waiting_for,
        status.error,
        status.pending_command,
        status.command_error,
        _stamp(status.rendered_at),
        _stamp(status.written_at),
        age,
        f"{status.destination} {told}",
    )


def template_state(status: TemplateStatus) -> tuple[str, str]:
    """ "up to date", "waiting", "failed" or "command owed"; and what is to be told of it."""
    old = f"; the file is as of {_stamp(status.written_at)}" if status.written_at else ""
    if status.error:
        times = f" ({status.failures} failures so far)" if status.failures > 1 else ""
        return "failed", f"is not up to date: {status.error}{times}{old}"
    if status.waiting_for:
        return "waiting", f"waits for {', '.join(status.waiting_for)}{old}"
    if status.pending_command:
        command = " ".join(status.pending_command)[:MAX_OUTPUT]
        why = f", which failed: {status.command_error}" if status.command_error else ""
        return "command owed", f"is written, but its command is still owed: {command}{why}"
    if not status.rendered_at:
        return "waiting", "has not been rendered yet"
    written = f"written {_stamp(status.written_at)}" if status.written_at else "unchanged since the start"
    return "up to date", f"is up to date: rendered {_stamp(status.rendered_at)}, {written}"


def _stamp(seconds: float) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(seconds)) if seconds else ""


def _joined(host: str, port: int) -> str:
    host = f"[{host}]" if ":" in host else host
    return f"{host}:{port}" if port else host
