"""A check as callers and configuration files write it, read into a `CheckDefinition`.

Both forms have the same fields (Consul, "Check definition"). What this agent cannot run is refused by name:
a check that silently never ran would be worse than none.
"""

from __future__ import annotations

from typing import Literal
from urllib.parse import urlsplit

import msgspec

from gemot.agent.fields import Fields, names
from gemot.checks.definition import CheckDefinition, CheckType
from gemot.checks.probes.tcp import split_address
from gemot.checks.schedule import MIN_INTERVAL_S
from gemot.server.model.catalog import SERF_HEALTH
from gemot.server.model.errors import RuleFailed
from gemot.server.model.health import NODE_MAINTENANCE, SERVICE_MAINTENANCE_PREFIX
from gemot.server.state.names import fold

MAX_ID_BYTES = 512
MAX_ARGS = 256
MAX_ARG_BYTES = 32 * 1024
MAX_HEADERS = 64
MIN_DEREGISTER_S = 60.0
DEFAULT_OUTPUT_BYTES = 4096
MAX_OUTPUT_BYTES = 64 * 1024

FIELDS = names(
    "id check_id name notes service_id token status args script_args http header method body",
    "disable_redirects tcp tcp_use_tls tls_server_name tls_skip_verify interval timeout ttl alias_node",
    "alias_service success_before_passing failures_before_warning failures_before_critical",
    "deregister_critical_service_after output_max_size namespace partition script shell docker_container_id",
    "grpc udp h2ping os_service",
)
IGNORED = names("grpc_use_tls h2ping_use_tls exposed_port proxy_http proxy_grpc")
"""Fields of Consul that are read and have no effect here."""

_UNSUPPORTED = {
    "grpc": "gRPC",
    "udp": "UDP",
    "dockercontainerid": "Docker",
    "h2ping": "H2PING",
    "osservice": "OSService",
}
_STATUSES = frozenset(("passing", "warning", "critical"))
_METHOD_MARKS = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZ-_")
_NO_TYPE = "says not how to check: give one of http, tcp, args (each with interval), ttl, alias_service"
_REMOTE_SCRIPT = (
    "Scripts are disabled on this agent from remote calls; define the check in a configuration file of this "
    "host and set enable_local_script_checks there"
)
_LOCAL_SCRIPT = (
    "Scripts are disabled on this agent; set enable_local_script_checks (or enable_script_checks) to true"
)


class Policy(msgspec.Struct, frozen=True):
    """What this agent allows: `scripts` for configuration files alone, never for the API."""

    scripts: bool = False
    output_max_bytes: int = DEFAULT_OUTPUT_BYTES


NO_SCRIPTS = Policy()


class Owner(msgspec.Struct, frozen=True):
    """The service a check is registered with, and the names the check has when it gives none itself."""

    service_id: str
    check_id: str
    name: str


def parse_check(
    raw: object, *, from_config: bool, policy: Policy = NO_SCRIPTS, owner: Owner | None = None
) -> CheckDefinition:
    """One check, of `owner`'s service or free-standing.

    Raises BadRequest, or RuleFailed for a script; for one of a file Mistakes, with all there are.
    """
    fields = Fields(raw, known=FIELDS, ignored=IGNORED, in_file=from_config)
    fields.default_only("namespace", "partition")
    check_id, name = _names(fields, owner)
    kind = _kind(fields)
    _check_timing(fields, kind)
    if kind == "script" and not (from_config and policy.scripts):
        why = _LOCAL_SCRIPT if from_config else _REMOTE_SCRIPT
        fields.refuse("Args", why, error=RuleFailed)
    check = CheckDefinition(
        check_id=check_id,
        name=name,
        type=kind or "ttl",
        notes=fields.text("Notes"),
        service_id=owner.service_id if owner else fields.text("ServiceID", limit=MAX_ID_BYTES),
        token=fields.text("Token"),
        status=_status(fields, owner),
        interval_s=max(MIN_INTERVAL_S, fields.duration_s("Interval")) if _is_probed(kind) else 0.0,
        timeout_s=fields.duration_s("Timeout") if _is_probed(kind) else 0.0,
        ttl_s=fields.duration_s("TTL") if kind == "ttl" else 0.0,
        http=_url(fields) if kind == "http" else "",
        method=_method(fields),
        header=_headers(fields),
        body=fields.text("Body"),
        disable_redirects=fields.flag("DisableRedirects"),
        tls_server_name=fields.text("TLSServerName", limit=255),
        tls_skip_verify=fields.flag("TLSSkipVerify"),
        tcp=_address(fields) if kind == "tcp" else "",
        tcp_use_tls=fields.flag("TCPUseTLS"),
        args=_args(fields) if kind == "script" else (),
        alias_service=fields.text("AliasService", limit=MAX_ID_BYTES) if kind == "alias" else "",
        success_before_passing=_count(fields, "SuccessBeforePassing"),
        failures_before_warning=_count(fields, "FailuresBeforeWarning"),
        failures_before_critical=_count(fields, "FailuresBeforeCritical"),
        deregister_after_s=_deregister_after(fields),
        output_max_bytes=_output_limit(fields, policy),
        from_config=from_config,
    )
    fields.end()
    return check


def printable(fields: Fields, name: str, what: str, value: str) -> str:
    """An identifier that can be shown and named in a path; any other is refused."""
    if not value.isprintable():
        fields.refuse(name, f"Invalid {what}: it holds characters that cannot be printed")
    return value


def _names(fields: Fields, owner: Owner | None) -> tuple[str, str]:
    name = fields.text("Name", limit=MAX_ID_BYTES)
    given = fields.text("CheckID", limit=MAX_ID_BYTES) or fields.text("ID", limit=MAX_ID_BYTES)
    if owner is None and not name:
        fields.refuse("Name", "Missing check name")
    check_id = given or (owner.check_id if owner else name)
    folded = fold(check_id)
    if folded in (fold(SERF_HEALTH), NODE_MAINTENANCE) or folded.startswith(SERVICE_MAINTENANCE_PREFIX):
        why = f'Invalid check: the check ID "{check_id}" is reserved, choose another one'
        fields.refuse("CheckID" if fields.raw("CheckID") else "ID", why)
    return printable(fields, "CheckID", "check ID", check_id), name or (owner.name if owner else "")


def _kind(fields: Fields) -> CheckType | None:
    """The type, by Consul's order when several are given. One that we do not run is refused."""
    if fields.raw("Script"):
        fields.refuse(
            "Script", "Invalid check: the field script is no longer used: give args, a list, instead"
        )
        return None
    has_args = bool(fields.items("Args", limit=MAX_ARGS) or fields.items("ScriptArgs", limit=MAX_ARGS))
    alias = bool(fields.text("AliasService") or fields.text("AliasNode"))
    order: tuple[tuple[str, bool], ...] = (
        ("grpc", bool(fields.raw("grpc"))),
        ("http", bool(fields.raw("http"))),
        ("ttl", fields.duration_s("TTL") > 0),
        ("tcp", bool(fields.raw("tcp"))),
        ("udp", bool(fields.raw("udp"))),
        ("alias", alias),
        ("dockercontainerid", bool(fields.raw("dockercontainerid"))),
        ("script", has_args),
        ("h2ping", bool(fields.raw("h2ping"))),
        ("osservice", bool(fields.raw("osservice"))),
    )
    kind = next((name for name, given in order if given), "")
    if kind in _UNSUPPORTED:
        fields.refuse(
            kind,
            f"Invalid check: {_UNSUPPORTED[kind]} checks are not supported: use http, tcp, ttl, alias, or a "
            "script in a configuration file",
        )
    if kind == "alias" and fields.text("AliasNode"):
        fields.refuse(
            "AliasNode",
            "Invalid check: alias_node is not supported: an alias follows services of this agent",
        )
    if not kind and not fields.refused("TTL", "HTTP", "TCP", "Args", "ScriptArgs", "AliasService"):
        # Consul's words for a request; a file is told what there is to choose from.
        fields.refuse("", _NO_TYPE if fields.in_file else "Invalid check: TTL must be > 0 for TTL checks")
    kinds: dict[str, CheckType] = {
        "http": "http",
        "ttl": "ttl",
        "tcp": "tcp",
        "alias": "alias",
        "script": "script",
    }
    return kinds.get(kind)


def _is_probed(kind: CheckType | None) -> bool:
    return kind in ("http", "tcp", "script")


def _check_timing(fields: Fields, kind: CheckType | None) -> None:
    interval_s, ttl_s = fields.duration_s("Interval"), fields.duration_s("TTL")
    if interval_s > 0 and ttl_s > 0:
        fields.refuse(
            "Interval",
            "Invalid check: Interval and TTL cannot both be specified: a TTL check is not run",
        )
    if _is_probed(kind) and interval_s <= 0:
        fields.refuse("Interval", "Invalid check: Interval must be > 0 for Script, HTTP, or TCP checks")
    if kind == "alias" and (interval_s > 0 or ttl_s > 0):
        fields.refuse("Interval", "Invalid check: Interval and TTL cannot be set for Alias checks")
    warning, critical = _count(fields, "FailuresBeforeWarning"), _count(fields, "FailuresBeforeCritical")
    if warning > critical:
        fields.refuse(
            "FailuresBeforeWarning",
            "Invalid check: FailuresBeforeWarning can't be higher than FailuresBeforeCritical",
        )


def _status(fields: Fields, owner: Owner | None) -> Literal["passing", "warning", "critical"]:
    status = fields.text("Status") or "critical"
    if status not in _STATUSES:
        fields.refuse(
            "Status",
            "Status for checks must 'passing', 'warning', 'critical'"
            if owner or fields.in_file
            else "Bad check status",
        )
    return "passing" if status == "passing" else "warning" if status == "warning" else "critical"


def _url(fields: Fields) -> str:
    text = fields.text("HTTP")
    try:
        parts = urlsplit(text)
        usable = parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port or 1) > 0
    except ValueError:
        usable = False
    if not usable or not text.isprintable() or " " in text:
        fields.refuse(
            "HTTP", f"Invalid check: HTTP wants a URL such as http://127.0.0.1:8080/health, not {text!r:.99}"
        )
    return text


def _address(fields: Fields) -> str:
    text = fields.text("TCP")
    try:
        split_address(text)
    except ValueError as error:
        fields.refuse("TCP", f"Invalid check: TCP {error!s:.200}")
    return text


def _method(fields: Fields) -> str:
    method = (fields.text("Method", limit=32) or "GET").upper()
    if not _METHOD_MARKS.issuperset(method):
        fields.refuse("Method", f"Invalid check: Method {method!r} is not an HTTP method")
    return method


def _headers(fields: Fields) -> dict[str, tuple[str, ...]]:
    headers: dict[str, tuple[str, ...]] = {}
    for name, given in fields.table("Header", limit=MAX_HEADERS).items():
        values = given if isinstance(given, list) else [given]
        path = f"header.{name:.64}"
        if not name or not name.isascii() or not name.isprintable() or any(mark in name for mark in " :"):
            fields.refuse(path, f"Invalid check: Header {name!r:.64} is not a header's name")
        if len(values) > MAX_HEADERS or not all(_is_header_value(value) for value in values):
            fields.refuse(
                path,
                f"Invalid check: Header {name:.64} wants up to {MAX_HEADERS} texts without line breaks, "
                "each at most 4096 bytes",
            )
        headers[name] = tuple(str(value) for value in values)
    return headers


def _is_header_value(value: object) -> bool:
    return isinstance(value, str) and value.isascii() and len(value) <= 4096 and not set(value) & {*"\r\n\0"}


def _args(fields: Fields) -> tuple[str, ...]:
    args = fields.texts("Args", limit=MAX_ARGS, each=MAX_ARG_BYTES)
    args = args or fields.texts("ScriptArgs", limit=MAX_ARGS, each=MAX_ARG_BYTES)
    if not (args and args[0]) or any("\0" in arg for arg in args):
        fields.refuse("Args", "Invalid check: Args wants a program and its arguments, without NUL characters")
    return args


def _count(fields: Fields, name: str) -> int:
    count = fields.number(name)
    if count < 0:
        fields.refuse(name, f"Invalid check: {name} must be >= 0")
    return count


def _deregister_after(fields: Fields) -> float:
    after_s = fields.duration_s("DeregisterCriticalServiceAfter")
    return max(MIN_DEREGISTER_S, after_s) if after_s > 0 else 0.0


def _output_limit(fields: Fields, policy: Policy) -> int:
    given = fields.number("OutputMaxSize")
    if given < 0:
        fields.refuse("OutputMaxSize", "Invalid check: OutputMaxSize must be >= 0")
    limit = min(policy.output_max_bytes, MAX_OUTPUT_BYTES)
    return min(given, limit) if given else limit
