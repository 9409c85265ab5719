"""What follows from the configuration and the host it runs on: names, addresses, spellings."""

from __future__ import annotations

from ipaddress import ip_address
from typing import Any, Literal

import msgspec

from gemot.agent.config.address import HostFacts, expand, listed, private_ipv4
from gemot.agent.config.fault import Fault, refuse
from gemot.agent.config.schema import Config
from gemot.agent.gossip.timing import LAN, LOCAL, Timing
from gemot.dns import config as dns
from gemot.server.kv_history import KvHistoryConfig
from gemot.server.mass_failure import MassFailureConfig
from gemot.server.model.autopilot import AutopilotConfig

DEV: dict[str, Any] = {
    "dev_mode": True,
    "server": True,
    "bootstrap": True,
    "bind_addr": "127.0.0.1",
    "raft_log_segment_bytes": 2**20,
    "unsafe_no_fsync": True,
    "limits": {"disk_reserve_bytes": 2**24},
    "performance": {"raft_multiplier": 1},
    "gossip_lan": {
        "probe_interval_s": LOCAL.probe_interval_ms / 1000,
        "probe_timeout_s": LOCAL.probe_timeout_ms / 1000,
        "suspicion_mult": LOCAL.suspicion_mult,
        "gossip_interval_s": LOCAL.gossip_interval_ms / 1000,
        "gossip_nodes": LOCAL.gossip_nodes,
        "retransmit_mult": LOCAL.retransmit_mult,
    },
}
"""How -dev differs from the defaults. Files and flags still come over it."""


def resolve(config: Config, host: HostFacts) -> Config:
    """The configuration with every derived value filled in. Raises ConfigFaults.

    Node name and datacenter get their final spelling, domains end in a dot, templates of addresses become
    addresses, and `advertise_addr` and the tagged addresses "lan" and "wan" are always set.
    """
    faults: list[Fault] = []
    bind = _expanded(config.bind_addr, "bind_addr", host, faults)
    advertise = _expanded(config.advertise_addr, "advertise_addr", host, faults) or _advertised(
        bind, host, faults
    )
    client = _expanded(config.client_addr, "client_addr", host, faults)
    for_dns = _expanded(config.addresses.dns, "addresses.dns", host, faults)
    for_http = _expanded(config.addresses.http, "addresses.http", host, faults)
    name = config.node_name or host.hostname
    if not name:
        faults.append(Fault("", "node_name", "must be set: this host has no name of its own"))
    refuse(faults)
    return msgspec.structs.replace(
        config,
        node_name=name,
        node_id=config.node_id.lower(),
        datacenter=config.datacenter.lower(),
        domain=_zone(config.domain),
        alt_domain=_zone(config.alt_domain) if config.alt_domain else "",
        bind_addr=bind,
        advertise_addr=advertise,
        client_addr=client,
        addresses=msgspec.structs.replace(config.addresses, dns=for_dns, http=for_http),
        tagged_addresses=_tagged(advertise) | config.tagged_addresses,
    )


def autopilot_settings(config: Config) -> AutopilotConfig:
    """The configuration's words in those of the servers."""
    given = config.autopilot
    return AutopilotConfig(
        cleanup_dead_servers=given.cleanup_dead_servers,
        last_contact_threshold_ms=max(1, round(given.last_contact_threshold_s * 1000)),
        max_trailing_logs=given.max_trailing_logs,
        min_quorum=given.min_quorum,
        server_stabilization_time_ms=round(given.server_stabilization_time_s * 1000),
    )


def mass_failure_settings(config: Config) -> MassFailureConfig:
    given = config.mass_failure
    return MassFailureConfig(
        share=given.percent / 100,
        least=given.least,
        window_ms=round(given.window_s * 1000),
        hold_ms=round(given.hold_s * 1000),
    )


def kv_history_settings(config: Config) -> KvHistoryConfig:
    given = config.kv_history
    return KvHistoryConfig(
        revisions=given.revisions, keep_ms=round(given.keep_s * 1000), max_bytes=given.max_bytes
    )


def gossip_timing(config: Config) -> Timing:
    """What is set, over the preset for what is not."""
    given = config.gossip_lan
    return msgspec.structs.replace(
        LOCAL if config.dev_mode else LAN,
        probe_interval_ms=round(given.probe_interval_s * 1000),
        probe_timeout_ms=round(given.probe_timeout_s * 1000),
        suspicion_mult=given.suspicion_mult,
        gossip_interval_ms=round(given.gossip_interval_s * 1000),
        gossip_nodes=given.gossip_nodes,
        retransmit_mult=given.retransmit_mult,
        reconnect_timeout_ms=round(config.reconnect_timeout_s * 1000),
    )


def listening(config: Config, family: Literal["dns", "http"]) -> tuple[tuple[str, int], ...]:
    """Where a listener of a resolved configuration binds: (address, port), none when it is off."""
    port: int = getattr(config.ports, family)
    addresses: str = getattr(config.addresses, family) or config.client_addr
    return () if port < 0 else tuple((address, port) for address in dict.fromkeys(listed(addresses)))


def dns_settings(config: Config) -> dns.DnsConfig:
    """What the DNS interface is told: times in whole seconds, what is over cut off as Consul does."""
    own = config.dns_config
    soa = dns.Soa(own.soa.refresh_s, own.soa.retry_s, own.soa.expire_s, own.soa.min_ttl_s)
    return dns.DnsConfig(
        domain=config.domain,
        alt_domain=config.alt_domain,
        datacenter=config.datacenter,
        node_ttl_s=int(own.node_ttl_s),
        service_ttl_s={name: int(ttl_s) for name, ttl_s in own.service_ttl_s.items()},
        only_passing=own.only_passing,
        udp_answer_limit=own.udp_answer_limit,
        a_record_limit=own.a_record_limit,
        enable_truncate=own.enable_truncate,
        enable_additional_node_meta_txt=own.enable_additional_node_meta_txt,
        soa=soa,
    )


def _expanded(text: str, path: str, host: HostFacts, faults: list[Fault]) -> str:
    try:
        return " ".join(expand(one, host) for one in listed(text))
    except ValueError as error:
        faults.append(Fault("", path, str(error)))
        return text


def _advertised(bind: str, host: HostFacts, faults: list[Fault]) -> str:
    """What others are told when nothing says: the bound address, or the one private address there is."""
    try:
        bound = ip_address(bind)
    except ValueError:
        return ""  # already a fault
    if not bound.is_unspecified:
        return bind
    found = private_ipv4(host) if bound.version == 4 else _global_ipv6(host)
    if len(found) == 1:
        return found[0]
    if found:
        why = f"must be set: this host has several addresses ({', '.join(found[:8])})"
    else:
        kind = "private IPv4" if bound.version == 4 else "global IPv6"
        why = f"must be set: {bind} is bound and this host has no {kind} address"
    faults.append(Fault("", "advertise_addr", why))
    return ""


def _global_ipv6(host: HostFacts) -> list[str]:
    parsed = ((text, ip_address(text)) for _, text in host.addresses)
    return [text for text, address in parsed if address.version == 6 and address.is_global]


def _tagged(advertise: str) -> dict[str, str]:
    family = f"ipv{ip_address(advertise).version}"
    return {name: advertise for name in ("lan", "wan", f"lan_{family}", f"wan_{family}")}


def _zone(domain: str) -> str:
    return domain.rstrip(".").lower() + "."
