"""gemot-config(5): the keys from the schema itself, the prose around them from pages/gemot-config.txt.

What is said of a key is its docstring in agent/config/schema.py, so that a key cannot be added without a word
on the page. What a schema does not know, an example of each key and the words on fields of services and
checks, is here; a key without one fails.
"""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple, cast

import msgspec
from msgspec import inspect
from roff import escape, head, item, kept, line, page

from gemot.agent import check_registration, registration
from gemot.agent.config import document, known, load, resolve, rules, schema
from gemot.agent.config.reload import is_reloadable
from gemot.agent.config.schema import Config
from gemot.agent.duration import format_duration

SOURCE = Path(__file__).parent / "pages/gemot-config.txt"

BY_FLAG_ALONE = ("dev_mode",)
"""What no file may set."""

EXAMPLES = {
    "node_name": "node_name: web1",
    "node_id": "node_id: 5f2b6c1e-8d1a-4c57-9a3e-0d7f8a6b4c21",
    "node_meta": "node_meta: {rack: r7, os: debian-12}",
    "datacenter": "datacenter: berlin",
    "tagged_addresses": "tagged_addresses: {wan: 198.51.100.7}",
    "data_dir": "data_dir: /var/lib/gemot",
    "server": "server: true",
    "bootstrap": "bootstrap: true",
    "bootstrap_expect": "bootstrap_expect: 3",
    "performance.raft_multiplier": "performance: {raft_multiplier: 3}",
    "performance.rpc_hold_timeout": "performance: {rpc_hold_timeout: 10s}",
    "autopilot.cleanup_dead_servers": "autopilot: {cleanup_dead_servers: false}",
    "autopilot.last_contact_threshold": "autopilot: {last_contact_threshold: 500ms}",
    "autopilot.max_trailing_logs": "autopilot: {max_trailing_logs: 1000}",
    "autopilot.min_quorum": "autopilot: {min_quorum: 3}",
    "autopilot.server_stabilization_time": "autopilot: {server_stabilization_time: 30s}",
    "raft_snapshot_threshold": "raft_snapshot_threshold: 8192",
    "raft_trailing_logs": "raft_trailing_logs: 20000",
    "mass_failure.percent": "mass_failure: {percent: 20}",
    "mass_failure.least": "mass_failure: {least: 10}",
    "mass_failure.window": "mass_failure: {window: 1m}",
    "mass_failure.hold": "mass_failure: {hold: 30s}",
    "kv_history.revisions": "kv_history: {revisions: 200}",
    "kv_history.keep": "kv_history: {keep: 2160h}",
    "kv_history.max_bytes": "kv_history: {max_bytes: 536870912}",
    "snapshot_agent.enabled": "snapshot_agent: {enabled: true}",
    "snapshot_agent.interval": "snapshot_agent: {interval: 6h}",
    "snapshot_agent.retain": "snapshot_agent: {retain: 28}",
    "snapshot_agent.path": "snapshot_agent: {path: /srv/backup/gemot}",
    "snapshot_agent.verify": "snapshot_agent: {verify: false}",
    "raft_log_segment_bytes": "raft_log_segment_bytes: 16777216",
    "unsafe_no_fsync": "unsafe_no_fsync: true",
    "session_ttl_min": "session_ttl_min: 5s",
    "session_ttl_multiplier": "session_ttl_multiplier: 2",
    "bind_addr": "bind_addr: 10.0.0.17",
    "advertise_addr": "advertise_addr: '{{ GetInterfaceIP \"eth1\" }}'",
    "client_addr": "client_addr: 127.0.0.1 ::1",
    "addresses.dns": "addresses: {dns: 127.0.0.1 172.17.0.1}",
    "addresses.http": "addresses: {http: 127.0.0.1}",
    "ports.dns": "ports: {dns: 53}",
    "ports.http": "ports: {http: -1}",
    "ports.server": "ports: {server: 7300}",
    "ports.serf_lan": "ports: {serf_lan: 7301}",
    "retry_join": 'retry_join: [10.0.0.1, servers.example.com, "[2001:db8::1]:8301"]',
    "retry_interval": "retry_interval: 10s",
    "retry_max": "retry_max: 20",
    "reconnect_timeout": "reconnect_timeout: 24h",
    "advertise_reconnect_timeout": "advertise_reconnect_timeout: 30m",
    "gossip_lan.probe_interval": "gossip_lan: {probe_interval: 2s}",
    "gossip_lan.probe_timeout": "gossip_lan: {probe_timeout: 300ms}",
    "gossip_lan.suspicion_mult": "gossip_lan: {suspicion_mult: 6}",
    "gossip_lan.gossip_interval": "gossip_lan: {gossip_interval: 100ms}",
    "gossip_lan.gossip_nodes": "gossip_lan: {gossip_nodes: 4}",
    "gossip_lan.retransmit_mult": "gossip_lan: {retransmit_mult: 5}",
    "gossip_label": "gossip_label: shop",
    "encrypt": "encrypt: nOMbKzVJ3Y1p8kcz7oCd0Jv5mXk2Wq9sTgUeRfYhBxA=",
    "encrypt_verify_incoming": "encrypt_verify_incoming: false",
    "encrypt_verify_outgoing": "encrypt_verify_outgoing: false",
    "disable_keyring_file": "disable_keyring_file: true",
    "leave_on_terminate": "leave_on_terminate: true",
    "skip_leave_on_interrupt": "skip_leave_on_interrupt: false",
    "rejoin_after_leave": "rejoin_after_leave: true",
    "disable_coordinates": "disable_coordinates: true",
    "services": "services: [{name: web, port: 80}]",
    "checks": "checks: [{name: backup, ttl: 25h}]",
    "templates": "templates: [{contents: '{{ key(\"motd\") }}', destination: /etc/motd}]",
    "enable_script_checks": "enable_script_checks: true",
    "enable_local_script_checks": "enable_local_script_checks: true",
    "check_update_interval": "check_update_interval: 1m",
    "check_output_max_size": "check_output_max_size: 1024",
    "discard_check_output": "discard_check_output: true",
    "domain": "domain: example.internal",
    "alt_domain": "alt_domain: example.internal",
    "dns_config.node_ttl": "dns_config: {node_ttl: 30s}",
    "dns_config.service_ttl": 'dns_config: {service_ttl: {"*": 2s, "db*": 0s}}',
    "dns_config.only_passing": "dns_config: {only_passing: true}",
    "dns_config.udp_answer_limit": "dns_config: {udp_answer_limit: 8}",
    "dns_config.a_record_limit": "dns_config: {a_record_limit: 1}",
    "dns_config.enable_truncate": "dns_config: {enable_truncate: true}",
    "dns_config.enable_additional_node_meta_txt": "dns_config: {enable_additional_node_meta_txt: false}",
    "dns_config.soa.refresh": "dns_config: {soa: {refresh: 1800}}",
    "dns_config.soa.retry": "dns_config: {soa: {retry: 300}}",
    "dns_config.soa.expire": "dns_config: {soa: {expire: 43200}}",
    "dns_config.soa.min_ttl": "dns_config: {soa: {min_ttl: 5}}",
    "http_config.response_headers": "http_config: {response_headers: {X-Frame-Options: DENY}}",
    "http_config.allowed_hosts": "http_config: {allowed_hosts: [gemot.example.com]}",
    "limits.http_max_conns_per_client": "limits: {http_max_conns_per_client: 1000}",
    "limits.rpc_max_conns_per_client": "limits: {rpc_max_conns_per_client: 500}",
    "limits.rpc_handshake_timeout": "limits: {rpc_handshake_timeout: 2s}",
    "limits.kv_max_value_size": "limits: {kv_max_value_size: 1048576}",
    "limits.txn_max_ops": "limits: {txn_max_ops: 512}",
    "limits.txn_max_req_len": "limits: {txn_max_req_len: 1048576}",
    "limits.disk_reserve_bytes": "limits: {disk_reserve_bytes: 1073741824}",
    "limits.scrub_bytes_per_second": "limits: {scrub_bytes_per_second: 33554432}",
    "limits.scrub_interval": "limits: {scrub_interval: 12h}",
    "default_query_time": "default_query_time: 1m",
    "max_query_time": "max_query_time: 5m",
    "log_level": "log_level: DEBUG",
    "log_json": "log_json: true",
    "log_file": "log_file: /var/log/gemot/agent.log",
    "pid_file": "pid_file: /run/gemot/agent.pid",
}

_META = f"letters, digits, - and _, {rules.MAX_META_KEY} at most; values of {rules.MAX_META_VALUE} characters"
NARROWER = {
    "node_name": f"{rules.NAME_BYTES} bytes, printable, no slash; letters, digits and dashes for DNS",
    "node_id": "a UUID",
    "node_meta": f"{rules.MAX_META_PAIRS} pairs; keys of {_META}",
    "datacenter": "64 letters, digits, dashes and underscores",
    "tagged_addresses": "IP addresses",
    "bind_addr": "one address",
    "advertise_addr": "one address",
    "client_addr": "addresses separated by spaces",
    "addresses.dns": "addresses separated by spaces",
    "addresses.http": "addresses separated by spaces",
    "ports.dns": "but 0; -1 turns it off",
    "ports.http": "but 0; -1 turns it off",
    "ports.server": "but 0; -1 turns it off, not on a server",
    "ports.serf_lan": "but 0; -1 turns it off",
    "retry_join": "each host or host:port",
    "advertise_reconnect_timeout": "not on a server",
    "gossip_lan.probe_timeout": "shorter than probe_interval",
    "gossip_lan.gossip_interval": "not longer than probe_interval",
    "gossip_label": "64 bytes, printable",
    "encrypt": "base64 of 16, 24 or 32 bytes",
    "domain": "128 characters",
    "alt_domain": "128 characters, not the domain",
    "default_query_time": "not longer than max_query_time",
    "http_config.response_headers": "values of 4096 printable characters",
}
"""What the rules ask beyond the type (agent/config/rules.py)."""

SERVICE_FIELDS = {
    "name": f"text, required, {registration.MAX_ID_BYTES} bytes. What it is asked for: web.service.consul.",
    "id": "text, default the name. Names the instance on this host; two instances of a service need two ids.",
    "port": "whole number, 0 to 65535, default 0. Told in SRV records and by the API.",
    "address": f"text, {registration.MAX_ADDRESS_BYTES} bytes, default the node's address. An IP address or "
    "a name that others can connect to; 0.0.0.0 is refused.",
    "tags": f"list of text, {registration.MAX_TAGS} at most. `v2` makes v2.web.service.consul.",
    "meta": f"map of text to text, {registration.MAX_META_PAIRS} pairs; keys of {registration.MAX_META_KEY} "
    f"letters, digits, - and _, values of {registration.MAX_META_VALUE} characters. For filters.",
    "weights": "map of `passing` (1 to 65535, default 1) and `warning` (0 to 65535, default 1). The weight "
    "in SRV records, by the state of its checks.",
    "check": "map. One check, as in `checks`.",
    "checks": f"list of maps, {registration.MAX_CHECKS} at most: the fields of CHECKS. The instance is in "
    "the answers while none of them is critical.",
    "tagged_addresses": f"map, {registration.MAX_TAGGED_ADDRESSES} at most, of a purpose (`lan`, `wan`) to a "
    "map of `address` and `port`. Other addresses of the instance.",
    "enable_tag_override": "true or false, default false. Tags that others set in the catalog stay.",
    "socket_path": "text. A unix socket in place of address and port; told as it is.",
    "kind": "text. Empty or `typical`; the kinds of Consul's mesh are stored and have no effect.",
    "token": "text. Carried along; without effect while there is no access control.",
    "namespace": "text. Empty or `default`: there is one.",
    "partition": "text. Empty or `default`: there is one.",
}

_PROBED = "required with http, tcp and args"
CHECK_FIELDS = {
    "name": "text. Required for a check that is not in a service.",
    "id": "text, default made of the service's id, or the name. Unique on the host.",
    "check_id": "text. As `id`.",
    "service_id": "text. The service of this host that the check speaks for; without it, for the whole host.",
    "notes": "text. For people.",
    "status": "`passing`, `warning` or `critical`, default `critical`. Holds until the first result.",
    "http": "text, a URL. Asked for: 2xx is passing, 429 warning, all else critical.",
    "method": "text, default GET.",
    "header": f"map of a name to a text or a list of them, {check_registration.MAX_HEADERS} at most.",
    "body": "text. Sent with the request.",
    "disable_redirects": "true or false, default false. A redirect is then the answer, not followed.",
    "tls_server_name": "text. The name that the certificate must have, when it is not the URL's.",
    "tls_skip_verify": "true or false, default false. Takes any certificate.",
    "tcp": "text, host:port. Passing if it can be connected to.",
    "tcp_use_tls": "true or false, default false. And if it then speaks TLS.",
    "args": f"list of text, {check_registration.MAX_ARGS} at most. A program and its arguments, run without "
    "a shell: exit code 0 is passing, 1 warning, all else critical. Needs enable_local_script_checks.",
    "script_args": "list of text. As `args`.",
    "ttl": "duration. The service itself reports, over the API; critical when it has not for so long.",
    "alias_service": "text. As healthy as that service of this host. Aliases that follow only each other are "
    "passing.",
    "interval": f"duration, at least 1s, {_PROBED}. From the end of one try to the next; "
    "the first comes within one, spread out.",
    "timeout": "duration, default 10s, for args 30s. A try that takes longer is critical.",
    "success_before_passing": "whole number, default 0. Results in a row before critical becomes passing.",
    "failures_before_warning": "whole number, default as before critical. Failures in a row for warning.",
    "failures_before_critical": "whole number, default 0. Failures in a row before passing becomes critical.",
    "deregister_critical_service_after": "duration, at least 1m, default never. Critical for so long, its "
    "service is taken out.",
    "output_max_size": "whole number, bytes. Lowers check_output_max_size for this check.",
    "token": "text. Carried along; without effect while there is no access control.",
    "namespace": "text. Empty or `default`: there is one.",
    "partition": "text. Empty or `default`: there is one.",
}
CHECK_REFUSED = ("script", "alias_node", "docker_container_id", "grpc", "udp", "h2ping", "os_service")
CHECK_UNUSED = ("shell",)

SEE_ALSO = "gemot(1), gemot-agent(1), gemot-template(5)"


class Key(NamedTuple):
    """A key that can be set. `kind` is type and limits in words; `default` is written as a file would."""

    path: str
    section: str
    kind: str
    default: str
    words: str


def config_page() -> str:
    figures = {
        "DEV": ", ".join(
            f"{key} {json.dumps(value).strip(chr(34))}"
            for key, value in resolve.DEV.items()
            if key in EXAMPLES
        ),
        "MAX_BYTES": document.MAX_BYTES,
        "MAX_DEPTH": document.MAX_DEPTH,
        "MAX_VALUES": document.MAX_VALUES,
        "MAX_FILES": load.MAX_FILES,
        "SERVICE_IGNORED": ", ".join(sorted(registration.IGNORED.values())),
        "CHECK_IGNORED": ", ".join(sorted((*check_registration.IGNORED.values(), *CHECK_UNUSED))),
        "CHECK_REFUSED": ", ".join(CHECK_REFUSED),
    }
    parts = {
        "keys": lambda _: _key_items(),
        "service_fields": lambda _: _fields(SERVICE_FIELDS),
        "check_fields": lambda _: _fields(CHECK_FIELDS),
        "ignored": lambda _: _verdicts("ignored"),
        "refused": lambda _: _verdicts("refused"),
    }
    lines = [
        *head("gemot-config", 5),
        ".SH NAME",
        r"gemot\-config \- the configuration of the agent: every key, and how files are put together",
        ".SH SYNOPSIS",
        r"/etc/gemot.d/*.json, *.yaml, *.yml",
    ]
    lines += page(SOURCE.read_text(), figures=figures, parts=parts)
    return "\n".join([*lines, ".SH SEE ALSO", SEE_ALSO]) + "\n"


def keys() -> Iterator[Key]:
    """Every key of the schema that a file may set, in its order."""
    yield from _keys(Config, Config(), "", "")


def _keys(kind: type[msgspec.Struct], default: msgspec.Struct, at: str, section: str) -> Iterator[Key]:
    words, sections = _words(kind.__name__), _sections(kind.__name__)
    for field in cast(inspect.StructType, inspect.type_info(kind)).fields:
        section = section if at else sections[field.name]
        path = at + field.encode_name
        value = getattr(default, field.name)
        if isinstance(value, msgspec.Struct):
            yield from _keys(type(value), value, f"{path}.", section)
        elif path not in BY_FLAG_ALONE:
            narrower = f", {NARROWER[path]}" if path in NARROWER else ""
            yield Key(path, section, _kind(field) + narrower, _default(field, value), words[field.name])


def _words(name: str) -> dict[str, str]:
    """What the schema says of each field of a class: the text below it."""
    return {
        target.target.id: ast.literal_eval(text.value)
        for target, text in zip(_body(name), _body(name)[1:], strict=False)
        if isinstance(target, ast.AnnAssign)
        and isinstance(target.target, ast.Name)
        and isinstance(text, ast.Expr)
    }


def _sections(name: str) -> dict[str, str]:
    """For each field the comment that heads it and those after it."""
    source = Path(schema.__file__).read_text().splitlines()
    found, heading = {}, ""
    body = [each for each in _body(name) if isinstance(each, ast.AnnAssign)]
    for before, field in zip([None, *body], body, strict=False):
        start = before.lineno if before else 0
        for text in source[start : field.lineno - 1]:
            heading = text.removeprefix("    # ") if text.startswith("    # ") else heading
        found[cast(ast.Name, field.target).id] = heading
    return found


def _body(name: str) -> list[ast.stmt]:
    tree = ast.parse(Path(schema.__file__).read_text())
    return next(each.body for each in tree.body if isinstance(each, ast.ClassDef) and each.name == name)


def _kind(field: inspect.Field) -> str:
    """Type and limits in the words of the page."""
    match field.type:
        case inspect.BoolType():
            return "true or false"
        case inspect.StrType():
            return "text"
        case inspect.IntType(ge=low, le=high):
            return f"whole number, {low} to {high}"
        case inspect.FloatType(ge=low, le=high):
            return f"duration, {_short(cast(float, low))} to {_short(cast(float, high))}"
        case inspect.LiteralType(values=words):
            return f"one of {', '.join(map(str, words))}"
        case inspect.VarTupleType(item_type=inner):
            return "list of text" if isinstance(inner, inspect.StrType) else "list of maps"
        case inspect.DictType(value_type=inner):
            return f"map of text to {'text' if isinstance(inner, inspect.StrType) else 'duration'}"
    raise TypeError(f"{field.name}: the page has no words for {field.type}")


def _default(field: inspect.Field, value: object) -> str:
    if isinstance(field.type, inspect.FloatType):
        return _short(cast(float, value))
    if isinstance(value, bool):
        return "true" if value else "false"
    if value in ("", (), {}):
        return {str: '""', tuple: "[]", dict: "{}"}[type(value)]
    return str(value)


def _short(seconds: float) -> str:
    """A duration as a person writes it: 5m, not 5m0s."""
    text = re.sub(r"(?<=m)0s$", "", format_duration(seconds))
    return re.sub(r"(?<=h)0m$", "", text)


def _key_items() -> list[str]:
    lines, section = [], ""
    for key in keys():
        if key.path not in EXAMPLES:
            raise KeyError(f"the page wants an example of {key.path}: add it to EXAMPLES")
        if key.section != section:
            section = key.section
            lines.append(f".SS {escape(section)}")
        taken_up = "reload" if is_reloadable(key.path) else "restart"
        lines += item(key.path, f"{key.kind}; default {key.default}; {taken_up}.")
        lines += [".br", *(line(each.strip()) for each in key.words.splitlines())]
        lines += kept(f"  {EXAMPLES[key.path]}")
    return lines


def _fields(fields: dict[str, str]) -> list[str]:
    return [each for name, words in fields.items() for each in item(name, words)]


def _verdicts(verdict: str) -> list[str]:
    """Keys by what is said of them."""
    by_reason: dict[str, list[str]] = {}
    for path, word in known.KNOWN.items():
        if word.verdict == verdict:
            by_reason.setdefault(word.why, []).append(path)
    lines = []
    for why, paths in by_reason.items():
        lines += [".TP", escape(f"{why[0].upper()}{why[1:]}:"), escape(", ".join(paths))]
    return lines
