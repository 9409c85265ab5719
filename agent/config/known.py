"""Consul's keys that we take no notice of, and those we refuse because ignoring them would be less safe.

A path stands for everything under it that has no path of its own. Where the value is empty, or asks for what
is so anyway (`fine`), nothing is said: files written for Consul spell out its defaults. Whatever is neither
here nor in the schema is a mistake.
"""

from __future__ import annotations

from typing import Literal

import msgspec


class Known(msgspec.Struct, frozen=True):
    """`ignored` warns once a key; `refused` is a fault. `why` completes "ignored: " or "refused: "."""

    verdict: Literal["ignored", "refused"]
    why: str
    fine: tuple[object, ...] = ()


def _ignored(why: str, *fine: object) -> Known:
    return Known("ignored", why, fine)


def _refused(why: str, *fine: object) -> Known:
    return Known("refused", why, fine)


_MESH = _ignored("there is no service mesh", False)
_WAN = _ignored("clusters are not joined over a WAN")
_ONE_DC = _ignored("there is one datacenter")
_GRPC = _ignored("there is no gRPC interface", -1, 0)
_UI = _ignored("there are no web pages yet", False, "", "/ui/")
_ROTATE = _ignored("log files are not rotated here: logrotate does it", 0, "")
_RECURSION = _ignored("names outside the domain are not looked up for others")
_SINK = _ignored("metrics are fetched from /v1/agent/metrics, not pushed")
_CREDENTIALS = _ignored("no token is needed while access control is off")
_NO_ACL = _refused("access control is not there yet, so every caller would be let in", False, "", "allow")
_NO_TLS = _refused("TLS is not there yet, so traffic would go unencrypted and unchecked", False, "")

KNOWN: dict[str, Known] = {
    # Who and where
    "primary_datacenter": _ONE_DC,
    "locality": _ignored("answers are not ordered by region"),
    "disable_host_node_id": _ignored("node ids are never made from the hardware", True),
    "advertise_addr_ipv4": _ignored("set advertise_addr, or tagged_addresses.lan_ipv4"),
    "advertise_addr_ipv6": _ignored("set advertise_addr, or tagged_addresses.lan_ipv6"),
    "advertise_addr_wan": _ignored("set tagged_addresses.wan"),
    "advertise_addr_wan_ipv4": _ignored("set tagged_addresses.wan_ipv4"),
    "advertise_addr_wan_ipv6": _ignored("set tagged_addresses.wan_ipv6"),
    "translate_wan_addrs": _ignored("there is one datacenter", False),
    "serf_lan": _ignored("membership listens on bind_addr"),
    "serf_wan": _WAN,
    "serf_lan_allowed_cidrs": _refused("joining is not limited by address, so all would be let in"),
    "serf_wan_allowed_cidrs": _WAN,
    "unix_sockets": _ignored("listeners are TCP and UDP"),
    "addresses.https": _refused("there is no HTTPS listener yet; put a TLS proxy before HTTP", ""),
    "addresses.grpc": _GRPC,
    "addresses.grpc_tls": _GRPC,
    "ports.https": _ignored("there is no HTTPS listener yet", -1, 0),
    "ports.grpc": _GRPC,
    "ports.grpc_tls": _GRPC,
    "ports.serf_wan": _ignored("clusters are not joined over a WAN", -1, 0, 8302),
    "ports.sidecar_min_port": _MESH,
    "ports.sidecar_max_port": _MESH,
    "ports.expose_min_port": _MESH,
    "ports.expose_max_port": _MESH,
    # Joining
    "start_join": _ignored("retry_join joins at the start and keeps trying"),
    "start_join_wan": _WAN,
    "retry_join_wan": _WAN,
    "retry_interval_wan": _WAN,
    "retry_max_wan": _WAN,
    "reconnect_timeout_wan": _WAN,
    "server_rejoin_age_max": _ignored("a server that was away for long catches up or takes a snapshot"),
    "raft_protocol": _ignored("servers agree on their protocol by themselves", 3),
    "protocol": _ignored("agents agree on their protocol by themselves", 2, 3),
    "non_voting_server": _refused("a server joins as a voter once it has caught up", False),
    "read_replica": _refused("a server joins as a voter once it has caught up", False),
    "segment": _ignored("there is one segment", ""),
    "segments": _ignored("there is one segment"),
    "partition": _ignored("there are no partitions", "", "default"),
    "gossip_wan": _WAN,
    # Checks
    "enable_agent_tls_for_checks": _refused("checks present no certificate of the agent", False),
    "watches": _ignored("watches in files are not run; `templates` and blocking queries see every change"),
    # DNS
    "recursors": _RECURSION,
    "dns_config.allow_stale": _ignored("answers come from a view that is kept current", True),
    "dns_config.max_stale": _ignored("answers come from a view that is kept current"),
    "dns_config.recursor_timeout": _RECURSION,
    "dns_config.recursor_strategy": _RECURSION,
    "dns_config.disable_compression": _ignored("names are compressed whenever that is shorter", False),
    "dns_config.use_cache": _ignored("answers come from a view that is kept current"),
    "dns_config.cache_max_age": _ignored("answers come from a view that is kept current"),
    "dns_config.prefer_namespace": _ignored("there are no namespaces", False),
    # HTTP
    "http_config.block_endpoints": _refused("no endpoint can be blocked, so all would be open"),
    "http_config.allow_write_http_from": _refused("writes are not limited by address: all would be let in"),
    "http_config.use_cache": _ignored("`?cached` always answers from a view", True),
    "http_config.max_header_bytes": _ignored("the limit on headers is fixed", 0),
    "disable_http_unprintable_char_filter": _ignored("keys are bytes; none is filtered"),
    "discovery_max_stale": _ignored("views tell their age in X-Consul-LastContact"),
    "cache": _ignored("views are kept current, not fetched anew"),
    # Access control
    "acl.enabled": _NO_ACL,
    "acl.default_policy": _ignored("access control is off", "allow"),
    "acl.down_policy": _ignored("access control is off", "extend-cache"),
    "acl.token_ttl": _ignored("access control is off", "30s"),
    "acl.policy_ttl": _ignored("access control is off", "30s"),
    "acl.role_ttl": _ignored("access control is off", "30s"),
    "acl.enable_key_list_policy": _ignored("access control is off", False),
    "acl.enable_token_persistence": _ignored("access control is off", False),
    "acl.enable_token_replication": _ignored("access control is off", False),
    "acl.disabled_ttl": _ignored("access control is off"),
    "acl.msp_disable_bootstrap": _ignored("access control is off", False),
    "acl.tokens": _CREDENTIALS,
    "acl_datacenter": _refused("it turns on access control, which is not there yet", ""),
    "acl_master_token": _refused("it turns on access control, which is not there yet", ""),
    "acl_default_policy": _NO_ACL,
    "acl_enforce_version_8": _ignored("access control is off", True),
    "acl_agent_master_token": _CREDENTIALS,
    "acl_agent_token": _CREDENTIALS,
    "acl_replication_token": _CREDENTIALS,
    "acl_token": _CREDENTIALS,
    "acl_down_policy": _ignored("access control is off"),
    "acl_ttl": _ignored("access control is off"),
    "acl_enable_key_list_policy": _ignored("access control is off", False),
    "enable_acl_replication": _ignored("access control is off", False),
    # Encryption
    **{
        f"tls.{plane}.{name}": _NO_TLS
        for plane in ("defaults", "internal_rpc", "https", "grpc")
        for name in (
            "ca_file", "ca_path", "cert_file", "key_file",
            "verify_incoming", "verify_outgoing", "verify_server_hostname", "use_auto_cert",
        )
    },
    **{
        f"tls.{plane}.{name}": _ignored("TLS is not there yet")
        for plane in ("defaults", "internal_rpc", "https", "grpc")
        for name in ("tls_min_version", "tls_cipher_suites")
    },
    "ca_file": _NO_TLS,
    "ca_path": _NO_TLS,
    "cert_file": _NO_TLS,
    "key_file": _NO_TLS,
    "verify_incoming": _NO_TLS,
    "verify_incoming_rpc": _NO_TLS,
    "verify_incoming_https": _NO_TLS,
    "verify_outgoing": _NO_TLS,
    "verify_server_hostname": _NO_TLS,
    "tls_min_version": _ignored("TLS is not there yet"),
    "tls_cipher_suites": _ignored("TLS is not there yet"),
    "tls_prefer_server_cipher_suites": _ignored("TLS is not there yet"),
    "server_name": _ignored("TLS is not there yet", ""),
    "auto_encrypt.tls": _NO_TLS,
    "auto_encrypt.allow_tls": _NO_TLS,
    "auto_encrypt.dns_san": _ignored("TLS is not there yet"),
    "auto_encrypt.ip_san": _ignored("TLS is not there yet"),
    "auto_config.enabled": _refused("agents are not configured by servers: TLS and tokens would lack", False),
    "auto_config": _ignored("agents are not configured by servers"),
    # Work and limits
    "performance.leave_drain_time": _ignored("a leave waits for the answers under way"),
    "performance.grpc_keepalive_interval": _GRPC,
    "performance.grpc_keepalive_timeout": _GRPC,
    "limits.https_handshake_timeout": _ignored("there is no HTTPS listener yet"),
    "limits.rpc_client_timeout": _ignored("a request waits as long as its caller does"),
    "limits.rpc_rate": _ignored("an agent's own requests are not slowed", -1),
    "limits.rpc_max_burst": _ignored("an agent's own requests are not slowed"),
    "limits.request_limits.mode": _refused("no rate of requests is limited", "", "disabled", "permissive"),
    "limits.request_limits": _ignored("servers do not limit the rate of requests"),
    "raft_snapshot_interval": _ignored("raft_snapshot_threshold decides when to take one"),
    "raft_logstore": _ignored("there is one log store"),
    "raft_prevote_disabled": _ignored("pre-vote is always on", False),
    "raft_boltdb": _ignored("there is one log store"),
    "autopilot.redundancy_zone_tag": _refused("servers are not kept apart by zones", ""),
    "autopilot.disable_upgrade_migration": _ignored("servers are not exchanged by version", False, True),
    "autopilot.upgrade_version_tag": _ignored("servers are not exchanged by version", ""),
    "xds": _MESH,
    "use_streaming_backend": _ignored("views are always fed by a stream", True),
    "rpc": _ignored("views are always fed by a stream"),
    "license_path": _ignored("there is no licence to load", ""),
    "audit": _ignored("there is no audit log yet"),
    "audit.enabled": _refused("there is no audit log yet, so nothing would be recorded", False),
    "reporting": _ignored("nothing is reported to anyone"),
    "experiments": _ignored("there are no experiments to turn on"),
    "default_intention_policy": _MESH,
    # Running
    "log_rotate_bytes": _ROTATE,
    "log_rotate_duration": _ROTATE,
    "log_rotate_max_files": _ROTATE,
    "enable_syslog": _ignored("log lines go to standard error, which systemd's journal keeps", False),
    "syslog_facility": _ignored("log lines go to standard error, which systemd's journal keeps", "LOCAL0"),
    "enable_debug": _ignored("there are no profiling endpoints", False),
    "auto_reload_config": _ignored("a reload is asked for, by SIGHUP or `gemot reload`", False),
    "disable_remote_exec": _ignored("nothing can be run from afar", True),
    "disable_update_check": _ignored("no one is asked for updates", True),
    "disable_anonymous_signature": _ignored("no one is asked for updates"),
    "telemetry.metrics_prefix": _ignored("metrics have one name each, which begins with gemot_", "consul"),
    "telemetry.prefix_filter": _ignored("every metric is shown: choose where they are collected"),
    "telemetry.enable_host_metrics": _ignored("host figures are not among the metrics", False),
    "telemetry.disable_hostname": _ignored("no metric name carries the host's name", True),
    "telemetry.disable_per_tenancy_usage_metrics": _ignored("there are no tenants"),
    "telemetry.filter_default": _ignored("metrics without a rule are kept", True),
    "telemetry.prometheus_retention_time": _ignored("the Prometheus form is always on"),
    "telemetry.retry_failed_connection": _SINK,
    "telemetry.statsd_address": _SINK,
    "telemetry.statsite_address": _SINK,
    "telemetry.dogstatsd_addr": _SINK,
    "telemetry.dogstatsd_tags": _SINK,
    **{
        f"telemetry.circonus_{name}": _SINK
        for name in (
            "api_token", "api_app", "api_url", "submission_interval", "submission_url", "check_id",
            "check_force_metric_activation", "check_instance_id", "check_search_tag", "check_display_name",
            "check_tags", "broker_id", "broker_select_tag",
        )
    },
    "ui": _UI,
    "ui_dir": _UI,
    "ui_content_path": _UI,
    "ui_config": _UI,
    "ui_config.enabled": _UI,
    "ui_config.content_path": _UI,
    # Mesh, peers, cloud
    "connect": _MESH,
    "connect.enabled": _MESH,
    "peering": _ignored("clusters do not peer"),
    "peering.enabled": _ignored("clusters do not peer", False),
    "config_entries": _MESH,
    "cloud": _ignored("there is no cloud service to link to"),
    "counting": _ignored("nothing is reported to anyone"),
}  # fmt: skip


_MAPS = frozenset(path[:at] for path in KNOWN for at, letter in enumerate(path) if letter == ".")


def verdict(path: str) -> Known | None:
    """What is said of a path: its own word, or that of the nearest path above it."""
    while path:
        if path in KNOWN:
            return KNOWN[path]
        path = path.rpartition(".")[0]
    return None


def has_under(path: str) -> bool:
    """Whether keys are known below this path, so that a map there is looked into."""
    return path in _MAPS


def names_under(path: str) -> tuple[str, ...]:
    """The names known directly below a path ("" for the top): for "did you mean"."""
    start = path + "." if path else ""
    below = (known[len(start) :] for known in KNOWN if known.startswith(start))
    return tuple(dict.fromkeys(rest.split(".")[0] for rest in below))
