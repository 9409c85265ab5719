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
from gemot.server.model.errors import BadRequest, RuleFailed
from gemot.server.model.health import NODE_MAINTENANCE, SERVICE_MAINTENANCE_PREFIX
from gemot.server.state.names import fold

MAX_ID_BYTES = 512
MAX_ARGS = 256
MAX_ARG_BYTES = 32 * 1024
MAX_HEADERS = 64
MIN_DEREGISTER_S = 60.0
DEFAULT_OUTPUT_BYTES = 4096
MAX_OUTPUT_BYTES = 64 * 1024

_FIELDS = names(
    "id checkid name notes serviceid token status args scriptargs http header method body disableredirects "
    "tcp tcpusetls tlsservername tlsskipverify interval timeout ttl aliasnode aliasservice "
    "successbeforepassing failuresbeforewarning failuresbeforecritical deregistercriticalserviceafter "
    "outputmaxsize namespace partition script shell dockercontainerid grpc udp h2ping osservice"
)
IGNORED = names("grpcusetls h2pingusetls exposedport proxyhttp proxygrpc")
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
    """One check, of `owner`'s service or free-standing. Raises BadRequest, or RuleFailed for a script."""
    fields = Fields(raw, what=_what(raw, from_config), known=_FIELDS, ignored=IGNORED)
    fields.default_only("namespace", "partition")
    check_id, name = _names(fields, owner)
    kind = _kind(fields)
    _check_timing(fields, kind)
    if kind == "script" and not (from_config and policy.scripts):
        raise RuleFailed(_LOCAL_SCRIPT if from_config else _REMOTE_SCRIPT)
    return CheckDefinition(
        check_id=check_id,
        name=name,
        type=kind,
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


def _what(raw: object, from_config: bool) -> str:
    if not from_config:
        return "Request decode failed"
    name = raw.get("name") or raw.get("id") if isinstance(raw, dict) else None
    return f'check "{name}"' if isinstance(name, str) else "check"


def printable(what: str, value: str) -> str:
    """An identifier that can be shown and named in a path. Raises BadRequest."""
    if not value.isprintable():
        raise BadRequest(f"Invalid {what}: it holds characters that cannot be printed")
    return value


def _names(fields: Fields, owner: Owner | None) -> tuple[str, str]:
    name = fields.text("Name", limit=MAX_ID_BYTES)
    given = fields.text("CheckID", limit=MAX_ID_BYTES) or fields.text("ID", limit=MAX_ID_BYTES)
    if owner is None and not name:
        raise BadRequest("Missing check name")
    check_id = given or (owner.check_id if owner else name)
    folded = fold(check_id)
    if folded in (fold(SERF_HEALTH), NODE_MAINTENANCE) or folded.startswith(SERVICE_MAINTENANCE_PREFIX):
        raise BadRequest(f'Invalid check: the check ID "{check_id}" is reserved, choose another one')
    return printable("check ID", check_id), name or (owner.name if owner else "")


def _kind(fields: Fields) -> CheckType:
    """The type, by Consul's order when several are given. Raises BadRequest for one we do not run."""
    if fields.raw("Script"):
        raise BadRequest("Invalid check: the field script is no longer used: give args, a list, instead")
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
        raise BadRequest(
            f"Invalid check: {_UNSUPPORTED[kind]} checks are not supported: use http, tcp, ttl, alias, or a "
            "script in a configuration file"
        )
    if kind == "alias" and fields.text("AliasNode"):
        raise BadRequest(
            "Invalid check: alias_node is not supported: an alias follows services of this agent"
        )
    if not kind:
        raise BadRequest("Invalid check: TTL must be > 0 for TTL checks")
    kinds: dict[str, CheckType] = {
        "http": "http",
        "ttl": "ttl",
        "tcp": "tcp",
        "alias": "alias",
        "script": "script",
    }
    return kinds[kind]


def _is_probed(kind: CheckType) -> bool:
    return kind in ("http", "tcp", "script")


def _check_timing(fields: Fields, kind: CheckType) -> None:
    interval_s, ttl_s = fields.duration_s("Interval"), fields.duration_s("TTL")
    if interval_s > 0 and ttl_s > 0:
        raise BadRequest("Invalid check: Interval and TTL cannot both be specified: a TTL check is not run")
    if _is_probed(kind) and interval_s <= 0:
        raise BadRequest("Invalid check: Interval must be > 0 for Script, HTTP, or TCP checks")
    if kind == "alias" and (interval_s > 0 or ttl_s > 0):
        raise BadRequest("Invalid check: Interval and TTL cannot be set for Alias checks")
    warning, critical = _count(fields, "FailuresBeforeWarning"), _count(fields, "FailuresBeforeCritical")
    if warning > critical:
        raise BadRequest("Invalid check: FailuresBeforeWarning can't be higher than FailuresBeforeCritical")


def _status(fields: Fields, owner: Owner | None) -> Literal["passing", "warning", "critical"]:
    status = fields.text("Status") or "critical"
    if status not in _STATUSES:
        raise BadRequest(
            "Status for checks must 'passing', 'warning', 'critical'" if owner else "Bad check status"
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
        raise BadRequest(
            f"Invalid check: HTTP wants a URL such as http://127.0.0.1:8080/health, not {text!r:.99}"
        )
    return text


def _address(fields: Fields) -> str:
    text = fields.text("TCP")
    try:
        split_address(text)
    except ValueError as error:
        raise BadRequest(f"Invalid check: TCP {error!s:.200}") from error
    return text


def _method(fields: Fields) -> str:
    method = (fields.text("Method", limit=32) or "GET").upper()
    if not _METHOD_MARKS.issuperset(method):
        raise BadRequest(f"Invalid check: Method {method!r} is not an HTTP method")
    return method


def _headers(fields: Fields) -> dict[str, tuple[str, ...]]:
    headers: dict[str, tuple[str, ...]] = {}
    for name, given in fields.table("Header", limit=MAX_HEADERS).items():
        values = given if isinstance(given, list) else [given]
        if not name or not name.isascii() or not name.isprintable() or any(mark in name for mark in " :"):
            raise BadRequest(f"Invalid check: Header {name!r:.64} is not a header's name")
        if len(values) > MAX_HEADERS or not all(_is_header_value(value) for value in values):
            raise BadRequest(
                f"Invalid check: Header {name} wants up to {MAX_HEADERS} texts without line breaks, "
                "each at most 4096 bytes"
            )
        headers[name] = tuple(str(value) for value in values)
    return headers


def _is_header_value(value: object) -> bool:
    return isinstance(value, str) and value.isascii() and len(value) <= 4096 and not set(value) & {*"\r\n\0"}


def _args(fields: Fields) -> tuple[str, ...]:
    args = fields.texts("Args", limit=MAX_ARGS, each=MAX_ARG_BYTES)
    args = args or fields.texts("ScriptArgs", limit=MAX_ARGS, each=MAX_ARG_BYTES)
    if not args[0] or any("\0" in arg for arg in args):
        raise BadRequest("Invalid check: Args wants a program and its arguments, without NUL characters")
    return args


def _count(fields: Fields, name: str) -> int:
    count = fields.number(name)
    if count < 0:
        raise BadRequest(f"Invalid check: {name} must be >= 0")
    return count


def _deregister_after(fields: Fields) -> float:
    after_s = fields.duration_s("DeregisterCriticalServiceAfter")
    return max(MIN_DEREGISTER_S, after_s) if after_s > 0 else 0.0


def _output_limit(fields: Fields, policy: Policy) -> int:
    given = fields.number("OutputMaxSize")
    if given < 0:
        raise BadRequest("Invalid check: OutputMaxSize must be >= 0")
    limit = min(policy.output_max_bytes, MAX_OUTPUT_BYTES)
    return min(given, limit) if given else limit
