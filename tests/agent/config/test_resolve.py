"""What follows from the configuration and its host."""

from __future__ import annotations

import msgspec
import pytest

from gemot.agent.config.address import HostFacts, listed
from gemot.agent.config.fault import ConfigFaults
from gemot.agent.config.flags import parse
from gemot.agent.config.load import load
from gemot.agent.config.merge import overlay
from gemot.agent.config.resolve import dns_settings, gossip_timing, listening, resolve
from gemot.agent.config.schema import Addresses, Config, DnsConfig, GossipLan, Ports, Soa
from gemot.agent.gossip.suspicion import Suspicion
from gemot.agent.gossip.timing import LAN, LOCAL

HOST = HostFacts("web1", (("lo", "127.0.0.1"), ("lo", "::1"), ("eth0", "10.0.0.5"), ("eth0", "2001:4860::5")))


def _resolved(host: HostFacts = HOST, **given: object) -> Config:
    return resolve(msgspec.structs.replace(Config(data_dir="/d"), **given), host)


def test_the_node_is_named_after_the_host_unless_it_has_a_name() -> None:
    assert _resolved().node_name == "web1"
    assert _resolved(node_name="n").node_name == "n"


def test_a_host_without_a_name_must_be_given_one() -> None:
    with pytest.raises(ConfigFaults, match="node_name: must be set"):
        _resolved(HostFacts("", HOST.addresses))


def test_the_one_private_address_is_advertised_when_every_one_is_bound() -> None:
    config = _resolved()
    assert config.advertise_addr == "10.0.0.5"
    assert config.tagged_addresses == dict.fromkeys(("lan", "lan_ipv4", "wan", "wan_ipv4"), "10.0.0.5")


def test_a_bound_address_is_advertised() -> None:
    assert _resolved(bind_addr="10.9.9.9").advertise_addr == "10.9.9.9"


def test_what_is_given_is_advertised_and_tags_that_are_given_stay() -> None:
    config = _resolved(advertise_addr="1.2.3.4", tagged_addresses={"wan": "5.6.7.8"})
    assert config.advertise_addr == "1.2.3.4"
    assert config.tagged_addresses["wan"] == "5.6.7.8"
    assert config.tagged_addresses["lan"] == "1.2.3.4"


def test_of_several_private_addresses_none_is_guessed() -> None:
    host = HostFacts("h", (("eth0", "10.0.0.5"), ("docker0", "172.17.0.1")))
    with pytest.raises(ConfigFaults, match=r"advertise_addr: must be set: .*10\.0\.0\.5, 172\.17\.0\.1"):
        _resolved(host)


def test_without_a_private_address_one_must_be_given() -> None:
    with pytest.raises(ConfigFaults, match="this host has no private IPv4 address"):
        _resolved(HostFacts("h", (("lo", "127.0.0.1"), ("eth0", "8.8.8.8"))))


def test_bound_to_every_ipv6_address_the_global_one_is_advertised() -> None:
    config = _resolved(bind_addr="::")
    assert config.advertise_addr == "2001:4860::5"
    assert config.tagged_addresses["lan_ipv6"] == "2001:4860::5"


@pytest.mark.parametrize(
    ("template", "address"),
    [
        ("{{ GetPrivateIP }}", "10.0.0.5"),
        ("{{GetPrivateIP}}", "10.0.0.5"),
        ('{{ GetInterfaceIP "eth0" }}', "10.0.0.5"),
        ('{{- GetInterfaceIP "lo" -}}', "127.0.0.1"),
    ],
)
def test_a_template_becomes_an_address_of_the_host(template: str, address: str) -> None:
    assert _resolved(bind_addr=template).bind_addr == address


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("{{ GetPublicIP }}", "finds no address"),
        ('{{ GetInterfaceIP "eth9" }}', "finds no address"),
        ("{{ GetAllInterfaces | sort }}", "is not understood"),
        ("{{ GetInterfaceIP }}", "is not understood"),
        ("{{ GetPrivateIP", "is not understood"),
    ],
)
def test_a_template_that_gives_no_address_is_a_fault(template: str, message: str) -> None:
    with pytest.raises(ConfigFaults, match=message):
        _resolved(advertise_addr=template)


def test_listeners_take_their_own_addresses_or_else_the_common_ones() -> None:
    config = _resolved(
        client_addr='127.0.0.1 {{ GetInterfaceIP "eth0" }}', addresses=Addresses(dns="{{ GetPrivateIP }}")
    )
    assert listening(config, "http") == (("127.0.0.1", 8500), ("10.0.0.5", 8500))
    assert listening(config, "dns") == (("10.0.0.5", 8600),)


def test_a_listener_that_is_off_listens_nowhere() -> None:
    assert listening(_resolved(ports=Ports(http=-1)), "http") == ()


def test_an_address_given_twice_is_bound_once() -> None:
    assert listening(_resolved(client_addr="::1 ::1"), "http") == (("::1", 8500),)


def test_names_get_one_spelling() -> None:
    config = _resolved(datacenter="DC1", domain="Example.COM", alt_domain="Consul.", node_id="ABCDEF" * 6)
    assert (config.datacenter, config.domain, config.alt_domain) == ("dc1", "example.com.", "consul.")
    assert config.node_id == "abcdef" * 6


def test_resolving_twice_changes_nothing() -> None:
    once = _resolved()
    assert resolve(once, HOST) == once


def test_dev_needs_nothing_of_the_host() -> None:
    config = resolve(load(parse(["-dev"])).config, HostFacts("h"))
    assert config.advertise_addr == "127.0.0.1"


def test_dns_is_told_whole_seconds() -> None:
    config = _resolved(dns_config=DnsConfig(node_ttl_s=1.9, service_ttl_s={"*": 5.0}, soa=Soa(min_ttl_s=7)))
    settings = dns_settings(config)
    assert (settings.node_ttl_s, settings.service_ttl_s, settings.soa.min_ttl_s) == (1, {"*": 5}, 7)
    assert settings.domain == "consul."


def test_a_template_is_one_address_of_a_list_though_it_has_spaces() -> None:
    assert listed('  a {{ GetInterfaceIP "x" }}  b') == ["a", '{{ GetInterfaceIP "x" }}', "b"]


def test_gossip_goes_at_consuls_timings_unless_something_is_set() -> None:
    assert gossip_timing(Config()) == LAN


def test_in_dev_mode_gossip_is_quick_and_can_be_set_all_the_same() -> None:
    assert gossip_timing(load(parse(["-dev"])).config) == LOCAL
    config = overlay(load(parse(["-dev"])).config, {"gossip_lan": {"probe_interval_s": 2.0}})
    assert gossip_timing(config) == msgspec.structs.replace(LOCAL, probe_interval_ms=2_000)


def test_each_timing_that_is_set_has_its_effect() -> None:
    given = GossipLan(2.0, 0.7, 5, 0.1, 4, 6)
    assert gossip_timing(Config(gossip_lan=given, reconnect_timeout_s=8 * 3600.0)) == msgspec.structs.replace(
        LAN,
        probe_interval_ms=2_000,
        probe_timeout_ms=700,
        suspicion_mult=5,
        gossip_interval_ms=100,
        gossip_nodes=4,
        retransmit_mult=6,
        reconnect_timeout_ms=8 * 3_600_000,
    )


@pytest.mark.parametrize("mult", [2, 3, 30])
@pytest.mark.parametrize("members", [1, 2, 10, 10_000])
def test_the_least_that_may_be_set_leaves_time_to_refute(mult: int, members: int) -> None:
    """Bounds of the schema: a suspicion lasts longer than it takes to be asked and to answer once."""
    timing = gossip_timing(Config(gossip_lan=GossipLan(0.1, 0.01, mult, 0.02, 1, 1)))
    least, most = timing.suspicion_min_ms(members), timing.suspicion_max_ms(members)
    assert least >= 2 * timing.probe_interval_ms
    expected = timing.suspicion_mult - 2
    suspicion = Suspicion(by="a", now_ms=0, expected=expected, least_ms=least, most_ms=most)
    for by in range(expected + 3):
        suspicion.confirm(str(by))
    assert suspicion.deadline_ms == least
    assert timing.retransmits(members) >= 1
