"""Each of these is a mistake: it is told with its file, its path and what to do, and nothing else is told."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from support.config_files import faults_of, one_file, write

from gemot.server.model.txn import MAX_OPS

UUID = "5f2b6c1e-8d1a-4c57-9a3e-0d7f8a6b4c21"

BAD: list[tuple[dict[str, Any], str, str]] = [
    # Wrong types
    ({"server": "true"}, "server", 'expected true or false, got the text "true": write true, without quotes'),
    ({"server": "no"}, "server", 'got the text "no": write false, without quotes'),
    ({"server": "maybe"}, "server", 'got the text "maybe"'),
    ({"server": 1}, "server", "expected true or false, got the number 1"),
    ({"node_name": 7}, "node_name", "expected text, got the number 7"),
    ({"node_name": ["a"]}, "node_name", "expected text, got a list"),
    ({"node_name": {"a": 1}}, "node_name", "expected text, got a map"),
    ({"retry_join": "10.0.0.1"}, "retry_join", 'expected a list, got the text "10.0.0.1": write [10.0.0.1]'),
    ({"retry_join": [None]}, "retry_join[0]", "expected text, got nothing"),
    ({"retry_join": [["a"]]}, "retry_join[0]", "expected text, got a list"),
    ({"ports": 8500}, "ports", "expected a map, got the number 8500"),
    ({"ports": [{"http": 1}, {"dns": 2}]}, "ports", "expected a map, got a list"),
    (
        {"ports": {"http": "8500"}},
        "ports.http",
        'a whole number, got the text "8500": write 8500, without quotes',
    ),
    ({"ports": {"http": "http"}}, "ports.http", 'a whole number, got the text "http"'),
    ({"ports": {"http": 8500.0}}, "ports.http", "expected a whole number"),
    ({"ports": {"http": True}}, "ports.http", "expected a whole number, got true"),
    ({"node_meta": {"a": 1}}, "node_meta.a", "expected text, got the number 1"),
    ({"node_meta": ["a"]}, "node_meta", "expected a map, got a list"),
    ({"dns_config": {"service_ttl": {"web": 5}}}, "dns_config.service_ttl.web", "expected a duration"),
    ({"retry_interval": 30}, "retry_interval", 'expected a duration such as "10s", got the number 30'),
    ({"retry_interval": "30"}, "retry_interval", "expected a duration"),
    ({"retry_interval": "30 s"}, "retry_interval", "expected a duration"),
    ({"retry_interval": ""}, "retry_interval", "expected a duration"),
    ({"log_level": "LOUD"}, "log_level", "expected one of DEBUG, ERROR, INFO, TRACE, WARN"),
    ({"log_level": 1}, "log_level", "expected one of"),
    ({"services": "web"}, "services", 'expected a map, got the text "web"'),
    (
        {"services": {"web": {"port": 80}}},
        "services",
        'expected a list of maps ("- name: web"), got a map of maps',
    ),
    ({"services": [1]}, "services[0]", "expected a map, got the number 1"),
    # Out of range
    ({"ports": {"http": 65536}}, "ports.http", "must be from -1 to 65535"),
    ({"ports": {"dns": -2}}, "ports.dns", "(-1 turns it off)"),
    ({"ports": {"dns": 0}}, "ports.dns", "-1 turns the listener off"),
    ({"ports": {"http": 10**30}}, "ports.http", "must be from -1 to 65535"),
    ({"bootstrap_expect": -1}, "bootstrap_expect", "must be from 0 to 99"),
    ({"performance": {"raft_multiplier": 0}}, "performance.raft_multiplier", "must be from 1 to 10"),
    ({"performance": {"raft_multiplier": 11}}, "performance.raft_multiplier", "must be from 1 to 10"),
    ({"session_ttl_min": "900ms"}, "session_ttl_min", "must be from 1s to 24h0m0s, got 900ms"),
    ({"session_ttl_multiplier": 0}, "session_ttl_multiplier", "must be from 1 to 10, got 0"),
    ({"check_update_interval": "-1s"}, "check_update_interval", "must be from 0s"),
    ({"check_output_max_size": 0}, "check_output_max_size", "must be from 1 to 65536"),
    ({"limits": {"kv_max_value_size": 2**30}}, "limits.kv_max_value_size", "must be from 1 to 8388608"),
    ({"limits": {"txn_max_ops": 0}}, "limits.txn_max_ops", f"must be from 1 to {MAX_OPS}, got 0"),
    ({"limits": {"txn_max_ops": MAX_OPS + 1}}, "limits.txn_max_ops", f"must be from 1 to {MAX_OPS}"),
    ({"limits": {"http_max_conns_per_client": 0}}, "limits.http_max_conns_per_client", "must be from 1"),
    ({"dns_config": {"soa": {"min_ttl": -1}}}, "dns_config.soa.min_ttl", "must be from 0 to 2147483647"),
    ({"raft_trailing_logs": 0}, "raft_trailing_logs", "must be from 16"),
    # Unknown keys
    ({"datacentre": "dc1"}, "datacentre", "unknown key; did you mean datacenter?"),
    ({"ports": {"htp": 1}}, "ports.htp", "unknown key; did you mean http?"),
    ({"acl": {"enable": True}}, "acl.enable", "unknown key; did you mean enabled?"),
    ({"limits": {"frobnicate": 1}}, "limits.frobnicate", "unknown key"),
    ({"<<": {}}, "<<", "unknown key"),
    ({"": 1}, "", "unknown key"),
    ({"Node_Name": "a", "node_name": "b"}, "node_name", "is set twice"),
    # Refused, since ignoring would be less safe
    ({"acl": {"enabled": True}}, "acl.enabled", "refused: access control"),
    ({"acl": [{"enabled": True}]}, "acl.enabled", "refused: access control"),
    ({"ACL": {"Enabled": True}}, "acl.enabled", "refused: access control"),
    ({"acl": {"enabled": "true"}}, "acl.enabled", "refused: access control"),
    ({"acl_default_policy": "deny"}, "acl_default_policy", "refused: access control"),
    ({"acl_datacenter": "dc1"}, "acl_datacenter", "refused: it turns on access control"),
    ({"verify_incoming": True}, "verify_incoming", "refused: TLS"),
    ({"verify_outgoing": True}, "verify_outgoing", "refused: TLS"),
    ({"ca_file": "/ca.pem"}, "ca_file", "refused: TLS"),
    (
        {"tls": {"internal_rpc": {"verify_incoming": True}}},
        "tls.internal_rpc.verify_incoming",
        "refused: TLS",
    ),
    ({"auto_encrypt": {"tls": True}}, "auto_encrypt.tls", "refused: TLS"),
    ({"serf_lan_allowed_cidrs": ["10.0.0.0/8"]}, "serf_lan_allowed_cidrs", "refused: joining is not limited"),
    ({"http_config": {"block_endpoints": ["/v1/kv"]}}, "http_config.block_endpoints", "refused: no endpoint"),
    (
        {"http_config": {"allow_write_http_from": ["127.0.0.0/8"]}},
        "http_config.allow_write_http_from",
        "refused: writes are not limited",
    ),
    ({"limits": {"request_limits": {"mode": "enforcing"}}}, "limits.request_limits.mode", "refused: no rate"),
    ({"audit": {"enabled": True}}, "audit.enabled", "refused: there is no audit log"),
    ({"read_replica": True}, "read_replica", "refused: a server joins as a voter"),
    ({"addresses": {"https": "0.0.0.0"}}, "addresses.https", "refused: there is no HTTPS listener"),
    ({"dev_mode": True}, "dev_mode", "is set by the flag -dev alone"),
    # What does not go together, or is no address, name or id
    ({"encrypt": "Zm9v"}, "encrypt", "the key has 3 bytes, and not 16, 24 or 32"),
    ({"encrypt": "no base64!"}, "encrypt", "the key is not base64: give one that `gemot keygen` has made"),
    ({"encrypt": ["Zm9v"]}, "encrypt", "expected text, got a list"),
    ({"encrypt_verify_incoming": "no"}, "encrypt_verify_incoming", "write false, without quotes"),
    (
        {"encrypt": "Zm9vYmFyZm9vYmFyZm9vYg==", "ports": {"serf_lan": -1}},
        "encrypt, ports.serf_lan",
        "nothing would be encrypted",
    ),
    ({"gossip_label": "ä" * 33}, "gossip_label", "at most 64 bytes"),
    ({"gossip_label": "a\n"}, "gossip_label", "printable characters"),
    ({"gossip_lan": {"probe_interval": "50ms"}}, "gossip_lan.probe_interval", "from 100ms to 1m0s"),
    (
        {"gossip_lan": {"probe_timeout": "1s"}},
        "gossip_lan.probe_timeout, gossip_lan.probe_interval",
        "must be shorter than the interval",
    ),
    (
        {"gossip_lan": {"probe_interval": "400ms", "probe_timeout": "500ms"}},
        "gossip_lan.probe_timeout, gossip_lan.probe_interval",
        "must be shorter",
    ),
    (
        {"gossip_lan": {"gossip_interval": "2s"}},
        "gossip_lan.gossip_interval, gossip_lan.probe_interval",
        "at least as frequent as probes",
    ),
    ({"gossip_lan": {"suspicion_mult": 1}}, "gossip_lan.suspicion_mult", "must be from 2 to 30"),
    ({"gossip_lan": {"gossip_nodes": 0}}, "gossip_lan.gossip_nodes", "must be from 1 to 20"),
    ({"gossip_lan": {"retransmit_mult": 0}}, "gossip_lan.retransmit_mult", "must be from 1 to 20"),
    ({"gossip_lan": {"retransmit": 4}}, "gossip_lan.retransmit", "did you mean retransmit_mult?"),
    ({"reconnect_timeout": "7h59m"}, "reconnect_timeout", "must be from 8h0m0s to 744h0m0s"),
    (
        {"advertise_reconnect_timeout": "1h", "server": True},
        "advertise_reconnect_timeout, server",
        "can only be used on a client agent",
    ),
    (
        {"bind_addr": "::", "advertise_addr": "10.0.0.1"},
        "bind_addr, advertise_addr",
        ":: takes IPv6 alone, so 10.0.0.1 would not be answered: bind 0.0.0.0",
    ),
    ({"advertise_addr": "fd00::1"}, "bind_addr, advertise_addr", "0.0.0.0 takes IPv4 alone"),
    ({"node_name": "ä" * 65}, "node_name", "has 130 bytes; 128 at most"),
    ({"data_dir": ""}, "data_dir", "must be set"),
    ({"bootstrap": True}, "bootstrap, server", "bootstrap needs server = true"),
    ({"bootstrap_expect": 3}, "bootstrap_expect, server", "bootstrap_expect needs server = true"),
    (
        {"server": True, "bootstrap": True, "bootstrap_expect": 1},
        "bootstrap, bootstrap_expect",
        "exclude each other",
    ),
    ({"server": True, "ports": {"server": -1}}, "ports.server, server", "a server needs this port"),
    ({"unsafe_no_fsync": True}, "unsafe_no_fsync", "only with -dev"),
    (
        {"enable_script_checks": True, "client_addr": "0.0.0.0"},
        "enable_script_checks, client_addr",
        "on 0.0.0.0",
    ),
    (
        {"enable_script_checks": True, "client_addr": "127.0.0.1 ::"},
        "enable_script_checks, client_addr",
        "on ::",
    ),
    (
        {"enable_script_checks": True, "client_addr": "{{ GetPrivateIP }}"},
        "enable_script_checks, client_addr",
        "listen on loopback only",
    ),
    (
        {"enable_script_checks": True, "addresses": {"http": "10.0.0.1"}},
        "enable_script_checks, addresses.http",
        "use enable_local_script_checks",
    ),
    ({"node_name": "a\nb"}, "node_name", "printable characters"),
    ({"node_name": "a" * 129}, "node_name", "128 at most"),
    ({"node_name": "a/b"}, "node_name", "without slashes"),
    ({"node_id": "web1"}, "node_id", "must be a UUID"),
    ({"node_id": UUID + "\n"}, "node_id", "must be a UUID"),
    ({"datacenter": "dc.1"}, "datacenter", "must be 1 to 64 letters"),
    ({"datacenter": ""}, "datacenter", "must be 1 to 64 letters"),
    ({"node_meta": {f"k{n}": "" for n in range(65)}}, "node_meta", "has 65 pairs; 64 at most"),
    ({"node_meta": {"a b": ""}}, "node_meta.a b", "letters, digits"),
    ({"node_meta": {"consul-x": ""}}, "node_meta.consul-x", "reserved"),
    ({"node_meta": {"a": "v" * 513}}, "node_meta.a", "has 513 characters; 512 at most"),
    ({"domain": "a..b"}, "domain", "must be a domain name"),
    ({"domain": ""}, "domain", "must be a domain name"),
    ({"domain": "-a"}, "domain", "must be a domain name"),
    ({"alt_domain": "é"}, "alt_domain", "must be a domain name"),
    ({"alt_domain": "Consul"}, "domain, alt_domain", "are the same"),
    ({"bind_addr": "localhost"}, "bind_addr", 'must be one IP address, got "localhost"'),
    ({"bind_addr": "10.0.0.1 10.0.0.2"}, "bind_addr", "must be one IP address"),
    ({"bind_addr": "10.0.0.01"}, "bind_addr", "must be one IP address"),
    ({"bind_addr": ""}, "bind_addr", "must be an IP address"),
    ({"bind_addr": "{{ GetPrivateIP }}0"}, "bind_addr", "must be one IP address"),
    ({"bind_addr": "fe80::1%eth0"}, "bind_addr", "must be one IP address"),
    ({"tls": 5}, "tls", "expected a map, got the number 5"),
    ({"advertise_addr": "0.0.0.0"}, "advertise_addr", "cannot be reached by others"),
    ({"advertise_addr": "::"}, "advertise_addr", "cannot be reached by others"),
    ({"client_addr": " "}, "client_addr", "must be an IP address"),
    ({"client_addr": "127.0.0.1 here"}, "client_addr", 'separated by spaces, got "here"'),
    ({"client_addr": "127.0.0.1,::1"}, "client_addr", "separated by spaces"),
    ({"addresses": {"http": "unix:///run/x.sock"}}, "addresses.http", "unix sockets are not served"),
    ({"tagged_addresses": {"wan": "example.com"}}, "tagged_addresses.wan", "must be an IP address"),
    ({"ports": {"http": 8600}}, "ports.dns, ports.http", "both use port 8600"),
    ({"ports": {"server": 8301}}, "ports.server, ports.serf_lan", "both use port 8301"),
    ({"ports": {"server": 8500}}, "ports.http, ports.server", "both use port 8500"),
    ({"retry_join": ["provider=aws tag_key=x"]}, "retry_join[0]", "not looked up in clouds"),
    ({"retry_join": ["a", "b:"]}, "retry_join[1]", "must be host or host:port"),
    ({"retry_join": ["a:99999"]}, "retry_join[0]", "must be host or host:port"),
    ({"retry_join": ["[::1"]}, "retry_join[0]", "must be host or host:port"),
    ({"retry_join": [""]}, "retry_join[0]", "must be host or host:port"),
    ({"retry_join": ["http://a"]}, "retry_join[0]", "must be host or host:port"),
    ({"default_query_time": "11m"}, "default_query_time, max_query_time", "longer than the longest"),
    (
        {"http_config": {"response_headers": {"X-A": "1\r\nSet-Cookie: x"}}},
        "http_config.response_headers.X-A",
        "on one line",
    ),
    (
        {"http_config": {"response_headers": {"X A": "1"}}},
        "http_config.response_headers.X A",
        "no name for a header",
    ),
    ({"http_config": {"allowed_hosts": ["a b"]}}, "http_config.allowed_hosts[0]", "must be a host name"),
    # Stanzas
    ({"service": {}}, "service", "name"),
    ({"service": {"name": "web", "port": 70000}}, 'service "web"', "port"),
    ({"service": {"name": "web", "prot": 80}}, 'service "web"', "prot"),
    ({"check": {"name": "c"}}, 'check "c"', ""),
    ({"check": {"name": "c", "args": ["x"], "interval": "10s"}}, 'check "c"', "enable_local_script_checks"),
    ({"template": {"destination": "/etc/x"}}, 'template "/etc/x"', "source"),
    (
        {"services": [{"name": "web"}, {"name": "web"}]},
        "services[1]",
        'service id "web" is already taken by services[0]',
    ),
    (
        {"checks": [{"id": "c", "name": "a", "ttl": "10s"}, {"id": "c", "name": "b", "ttl": "10s"}]},
        "checks[1]",
        'check id "c" is already taken',
    ),
    (
        {"templates": [{"contents": "a", "destination": "/b"}, {"contents": "c", "destination": "/b"}]},
        "templates[1]",
        'destination "/b" is already taken',
    ),
]


@pytest.mark.parametrize(("raw", "path", "message"), BAD, ids=[str(raw)[:60] for raw, _, _ in BAD])
def test_a_mistake_is_told_once_with_its_file_and_path(
    tmp_path: Path, raw: dict[str, Any], path: str, message: str
) -> None:
    write(tmp_path, a_json={"data_dir": "/d"} | raw)
    (told,) = faults_of(tmp_path)
    where = f"a.json: {path}: " if path else "a.json: "
    assert told.startswith(where)
    assert message in told


GOOD: list[dict[str, Any]] = [
    {"retry_join": ["a", "a.b.example", "10.0.0.1", "10.0.0.1:8301", "::1", "[::1]", "[::1]:8301", "a_b:1"]},
    {"enable_script_checks": True, "client_addr": "127.0.0.1 ::1 127.0.0.53"},
    {"enable_script_checks": True, "client_addr": "0.0.0.0", "addresses": {"http": "127.0.0.1"}},
    {"enable_script_checks": True, "client_addr": "0.0.0.0", "ports": {"http": -1}},
    {"enable_local_script_checks": True, "client_addr": "0.0.0.0"},
    {"ports": {"http": 8600, "dns": -1}},
    {"ports": {"http": 8300}, "bind_addr": "10.0.0.1"},
    {"ports": {"dns": -1, "http": -1}},
    {"node_id": UUID.upper()},
    {"domain": "Example.Com.", "alt_domain": "consul"},
    {"server": True, "bootstrap_expect": 3},
    {"telemetry": {"prefix_filter": ["+a", "-b"], "metrics_prefix": "gemot"}},
    {"http_config": {"allowed_hosts": ["gemot.example.com", ".example.org", "*"]}},
    {"http_config": {"response_headers": {"Access-Control-Allow-Origin": "*", "X-Empty": ""}}},
    {"retry_interval": "1m30s", "node_name": None, "ports": None},
    {"bind_addr": "{{ GetPrivateIP }}", "client_addr": '127.0.0.1 {{ GetInterfaceIP "eth0" }}'},
    {"dns_config": {"service_ttl": {"*": "5s", "web*": "1.5s"}, "node_ttl": "0s"}},
]


@pytest.mark.parametrize("raw", GOOD, ids=[str(raw)[:60] for raw in GOOD])
def test_what_looks_alike_and_is_right_is_taken(tmp_path: Path, raw: dict[str, Any]) -> None:
    assert one_file(tmp_path, raw).config.data_dir == "/var/lib/gemot"
