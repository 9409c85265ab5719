"""Every key of Consul is either acted on, ignored with a word, or refused."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from gemot.agent.config import known
from gemot.agent.config.decode import decode
from gemot.agent.config.schema import Config
from gemot.agent.config.stanzas import KEYS

CONSUL = [
    "node_name", "node_id", "node_meta", "datacenter", "primary_datacenter", "data_dir", "server",
    "bootstrap", "bootstrap_expect", "domain", "alt_domain", "pid_file", "locality.region",
    "locality.zone", "tagged_addresses", "bind_addr", "advertise_addr", "advertise_addr_ipv4",
    "advertise_addr_ipv6", "advertise_addr_wan", "advertise_addr_wan_ipv4", "advertise_addr_wan_ipv6",
    "client_addr", "addresses.dns", "addresses.http", "addresses.https", "addresses.grpc",
    "addresses.grpc_tls", "serf_lan", "serf_wan", "serf_lan_allowed_cidrs", "serf_wan_allowed_cidrs",
    "translate_wan_addrs", "unix_sockets.user", "unix_sockets.group", "unix_sockets.mode", "ports.dns",
    "ports.http", "ports.https", "ports.grpc", "ports.grpc_tls", "ports.server", "ports.serf_lan",
    "ports.serf_wan", "ports.sidecar_min_port", "ports.sidecar_max_port", "ports.expose_min_port",
    "ports.expose_max_port", "start_join", "start_join_wan", "retry_join", "retry_interval", "retry_max",
    "retry_join_wan", "retry_interval_wan", "retry_max_wan", "rejoin_after_leave", "reconnect_timeout",
    "reconnect_timeout_wan", "advertise_reconnect_timeout", "leave_on_terminate",
    "skip_leave_on_interrupt", "service", "services", "check", "checks", "enable_script_checks",
    "enable_local_script_checks", "check_update_interval", "check_output_max_size", "discard_check_output",
    "enable_agent_tls_for_checks", "recursors", "dns_config.allow_stale", "dns_config.max_stale",
    "dns_config.node_ttl", "dns_config.service_ttl", "dns_config.only_passing",
    "dns_config.enable_truncate", "dns_config.udp_answer_limit", "dns_config.a_record_limit",
    "dns_config.recursor_timeout", "dns_config.recursor_strategy", "dns_config.disable_compression",
    "dns_config.enable_additional_node_meta_txt", "dns_config.soa.refresh", "dns_config.soa.retry",
    "dns_config.soa.expire", "dns_config.soa.min_ttl", "dns_config.use_cache", "dns_config.cache_max_age",
    "dns_config.prefer_namespace", "http_config.response_headers", "http_config.block_endpoints",
    "http_config.allow_write_http_from", "http_config.use_cache", "http_config.max_header_bytes",
    "disable_http_unprintable_char_filter", "default_query_time", "max_query_time", "discovery_max_stale",
    "cache.entry_fetch_rate", "cache.entry_fetch_max_burst", "acl.enabled", "acl.default_policy",
    "acl.down_policy", "acl.token_ttl", "acl.policy_ttl", "acl.role_ttl", "acl.enable_key_list_policy",
    "acl.enable_token_persistence", "acl.enable_token_replication", "acl.tokens.initial_management",
    "acl.tokens.agent", "acl.tokens.default", "acl.tokens.agent_recovery", "acl.tokens.replication",
    "acl.tokens.config_file_service_registration", "acl.tokens.dns", "acl.tokens.master", "acl_datacenter",
    "acl_master_token", "acl_default_policy", "acl_agent_master_token", "acl_agent_token", "acl_token",
    "acl_replication_token", "acl_down_policy", "acl_ttl", "acl_enforce_version_8",
    "enable_acl_replication", "encrypt", "encrypt_verify_incoming", "encrypt_verify_outgoing",
    "disable_keyring_file", "tls.defaults.ca_file", "tls.defaults.ca_path", "tls.defaults.cert_file",
    "tls.defaults.key_file", "tls.defaults.tls_min_version", "tls.defaults.tls_cipher_suites",
    "tls.defaults.verify_incoming", "tls.defaults.verify_outgoing", "tls.defaults.verify_server_hostname",
    "tls.internal_rpc.verify_server_hostname", "tls.internal_rpc.ca_file", "tls.https.verify_incoming",
    "tls.https.cert_file", "tls.grpc.use_auto_cert", "ca_file", "ca_path", "cert_file", "key_file",
    "verify_incoming", "verify_incoming_rpc", "verify_incoming_https", "verify_outgoing",
    "verify_server_hostname", "tls_min_version", "tls_cipher_suites", "tls_prefer_server_cipher_suites",
    "server_name", "auto_encrypt.tls", "auto_encrypt.allow_tls", "auto_encrypt.dns_san",
    "auto_encrypt.ip_san", "auto_config.enabled", "auto_config.intro_token",
    "auto_config.server_addresses", "performance.raft_multiplier", "performance.leave_drain_time",
    "performance.rpc_hold_timeout", "limits.http_max_conns_per_client", "limits.https_handshake_timeout",
    "limits.rpc_handshake_timeout", "limits.rpc_client_timeout", "limits.rpc_max_conns_per_client",
    "limits.rpc_rate", "limits.rpc_max_burst", "limits.kv_max_value_size", "limits.txn_max_req_len",
    "limits.request_limits.mode", "limits.request_limits.read_rate", "limits.request_limits.write_rate",
    "raft_snapshot_threshold", "raft_snapshot_interval", "raft_trailing_logs", "raft_protocol", "protocol",
    "raft_logstore.backend", "autopilot.cleanup_dead_servers", "gossip_lan.probe_interval",
    "gossip_wan.probe_interval", "session_ttl_min", "server_rejoin_age_max", "non_voting_server",
    "read_replica", "segment", "segments", "partition", "license_path", "log_level", "log_json",
    "log_file", "log_rotate_bytes", "log_rotate_duration", "log_rotate_max_files", "enable_syslog",
    "syslog_facility", "enable_debug", "auto_reload_config", "disable_host_node_id",
    "telemetry.statsd_address", "telemetry.statsite_address", "telemetry.dogstatsd_addr",
    "telemetry.dogstatsd_tags", "telemetry.prometheus_retention_time", "telemetry.disable_hostname",
    "telemetry.prefix_filter", "telemetry.metrics_prefix", "telemetry.filter_default",
    "telemetry.circonus_api_token", "telemetry.enable_host_metrics", "telemetry.retry_failed_connection",
    "ui", "ui_dir", "ui_content_path", "ui_config.enabled", "ui_config.content_path", "ui_config.dir",
    "watches", "disable_remote_exec", "disable_update_check", "disable_anonymous_signature",
    "disable_coordinates", "connect.enabled", "connect.ca_provider", "connect.ca_config",
    "peering.enabled", "config_entries.bootstrap", "xds.update_max_per_second", "use_streaming_backend",
    "rpc.enable_streaming", "audit.enabled", "reporting.license.enabled", "experiments",
    "cloud.resource_id",
]  # fmt: skip

SAFETY = [
    path
    for path in CONSUL
    if (path.startswith(("tls.", "acl.enabled", "auto_encrypt.")) and "min_version" not in path)
    or "verify_" in path or "cidrs" in path or path.endswith(("block_endpoints", "allow_write_http_from"))
]  # fmt: skip


def _raw(path: str, value: object) -> dict[str, Any]:
    for key in reversed(path.split(".")):
        value = {key: value}
    assert isinstance(value, dict)
    return value


@pytest.mark.parametrize("path", CONSUL)
def test_a_key_of_consul_is_known(path: str) -> None:
    found = decode(_raw(path, "an odd value"), "a.json")
    assert not any("unknown key" in fault.message for fault in found.faults)
    assert found.faults or found.warnings or found.given or found.stanzas


NOT_PROTECTING = ("encrypt_verify_", "serf_wan_allowed", "cipher_suites", "_san")
"""These are in the schema, or protect nothing that exists here: there is no WAN, and no TLS."""


@pytest.mark.parametrize("path", [p for p in SAFETY if not any(word in p for word in NOT_PROTECTING)])
def test_a_key_that_protects_is_refused_and_never_ignored(path: str) -> None:
    (fault,) = decode(_raw(path, True), "a.json").faults
    assert fault.path == path
    assert fault.message.startswith("refused: ")


def test_a_refused_value_is_never_shown() -> None:
    (fault,) = decode({"ca_file": "c2VjcmV0"}, "a.json").faults
    assert "c2VjcmV0" not in str(fault)


def test_an_ignored_key_is_told_once_with_its_reason() -> None:
    found = decode({"gossip_wan": {"probe_interval": "1s", "gossip_nodes": 9}}, "a.json")
    assert found.warnings == ("a.json: gossip_wan: ignored: clusters are not joined over a WAN",)


@pytest.mark.parametrize("empty", [None, "", [], {}])
@pytest.mark.parametrize("path", ["acl.enabled", "watches", "tls", "serf_lan_allowed_cidrs", "connect"])
def test_a_key_that_says_nothing_is_passed_over(path: str, empty: object) -> None:
    found = decode(_raw(path, empty), "a.json")
    assert (found.faults, found.warnings) == ((), ())


def test_no_key_is_both_in_the_schema_and_ignored() -> None:
    schema = set(_paths(Config(), ""))
    assert schema.isdisjoint(known.KNOWN)
    assert set(KEYS).isdisjoint(known.KNOWN)


def _paths(tree: msgspec.Struct, at: str) -> list[str]:
    found = []
    for field in msgspec.structs.fields(tree):
        inner = getattr(tree, field.name)
        path = at + field.encode_name
        found += _paths(inner, path + ".") if isinstance(inner, msgspec.Struct) else [path]
    return found


def test_every_reason_is_a_phrase_and_every_known_path_is_spelled_as_consul_spells() -> None:
    for path, word in known.KNOWN.items():
        assert path == path.lower()
        assert 10 < len(word.why) < 100, path
        assert not word.why.endswith("."), path
