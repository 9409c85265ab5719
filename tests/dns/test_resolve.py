"""Questions to plans: NXDOMAIN and NODATA told apart, aliases followed, what is not known named."""

from __future__ import annotations

import pytest
from support.dns_catalog import MemoryCatalog, make_farm, make_instance, make_node

from gemot.dns import wire
from gemot.dns.catalog import NodeAsk, ServiceAsk
from gemot.dns.config import DnsConfig, Soa
from gemot.dns.resolve import MAX_ALIASES, Plan, Resolved, Resolver


def make_catalog() -> MemoryCatalog:
    catalog = MemoryCatalog()
    catalog.put_node(make_node("n1", "10.0.0.1"))
    catalog.put_service("web", [make_instance("n1", tags=("v1.blue",))])
    catalog.put_service("sick", [make_instance("n1", service="sick", statuses=("critical",))])
    catalog.put_service("frail", [make_instance("n1", service="frail", statuses=("warning",))])
    catalog.put_service("consul", make_farm(5, service="consul"))
    return catalog


def plan(
    name: str, qtype: int, catalog: MemoryCatalog | None = None, config: DnsConfig | None = None
) -> Plan:
    resolver = Resolver(
        config=config or DnsConfig(), peek=(catalog or make_catalog()).peek, now_s=lambda: 1_700_000_000.5
    )
    labels = tuple(name.split("."))
    encoded = wire.encode_name(labels)
    assert encoded is not None
    resolved = resolver.resolve(encoded, labels, qtype)
    assert isinstance(resolved, Resolved)
    return resolved.plan


def types(made: Plan) -> list[list[int]]:
    return [[record.type for record in choice.records] for choice in made.choices]


@pytest.mark.parametrize(
    ("name", "qtype", "rcode"),
    [
        ("web.service.consul", wire.AAAA, wire.NOERROR),
        ("web.service.consul", wire.TXT, wire.NOERROR),
        ("web.service.consul", 65, wire.NOERROR),
        ("n1.node.consul", wire.AAAA, wire.NOERROR),
        ("n1.node.consul", wire.SRV, wire.NOERROR),
        ("service.consul", wire.A, wire.NOERROR),
        ("consul", wire.A, wire.NOERROR),
        ("ns.consul", wire.TXT, wire.NOERROR),
        ("0a000001.addr.consul", wire.AAAA, wire.NOERROR),
        ("blue.web.service.consul", wire.A, wire.NOERROR),
        ("green.web.service.consul", wire.A, wire.NXDOMAIN),
        ("sick.service.consul", wire.A, wire.NXDOMAIN),
        ("none.service.consul", wire.A, wire.NXDOMAIN),
        ("none.node.consul", wire.A, wire.NXDOMAIN),
        ("none.consul", wire.A, wire.NXDOMAIN),
        ("web.service.dc9.consul", wire.A, wire.NXDOMAIN),
    ],
)
def test_a_negative_answer_has_the_right_code_and_the_zones_soa(name: str, qtype: int, rcode: int) -> None:
    made = plan(name, qtype)
    assert made.rcode == rcode
    assert made.choices == ()
    assert made.authoritative
    (soa,) = made.authority
    assert (soa.type, soa.owner) == (wire.SOA, b"\x06consul\0")


def test_the_soa_of_a_negative_answer_lies_in_the_zone_that_was_asked() -> None:
    config = DnsConfig(alt_domain="corp.example.", soa=Soa(min_ttl_s=30))
    (soa,) = plan("none.service.corp.example", wire.A, config=config).authority
    assert soa.owner == b"\x04corp\x07example\0"
    assert soa.ttl_s == 30
    assert soa.names[0] == b"\x02ns\x04corp\x07example\0"


def test_the_target_of_an_srv_record_lies_in_the_zone_that_was_asked() -> None:
    made = plan("web.service.corp.example", wire.SRV, config=DnsConfig(alt_domain="corp.example."))
    assert made.choices[0].records[0].names == (b"\x02n1\x04node\x03dc1\x04corp\x07example\0",)


def test_a_foreign_name_is_refused_without_authority() -> None:
    made = plan("example.com", wire.A)
    assert (made.rcode, made.authoritative, made.authority) == (wire.REFUSED, False, ())


def test_a_warning_instance_answers_unless_only_passing_ones_may() -> None:
    assert types(plan("frail.service.consul", wire.A)) == [[wire.A]]
    strict = plan("frail.service.consul", wire.A, config=DnsConfig(only_passing=True))
    assert strict.rcode == wire.NXDOMAIN


def test_the_apex_tells_its_soa_and_at_most_three_name_servers() -> None:
    assert types(plan("consul", wire.SOA)) == [[wire.SOA]]
    servers = plan("consul", wire.NS)
    assert (len(servers.choices), servers.most, servers.shuffled) == (5, 3, True)
    addresses = plan("ns.consul", wire.A)
    assert (len(addresses.choices), addresses.most) == (5, 3)


def test_the_a_record_limit_bounds_addresses_and_not_srv_records() -> None:
    catalog = make_catalog()
    catalog.put_service("web", make_farm(9))
    config = DnsConfig(a_record_limit=2)
    assert plan("web.service.consul", wire.A, catalog, config).most == 2
    assert plan("web.service.consul", wire.SRV, catalog, config).most == 0


def test_the_ttl_is_that_of_the_service() -> None:
    config = DnsConfig(service_ttl_s={"w*": 12}, node_ttl_s=34)
    (choice,) = plan("v1.blue.web.service.consul", wire.A, config=config).choices
    assert choice.records[0].ttl_s == 12
    (choice,) = plan("n1.node.consul", wire.A, config=config).choices
    assert choice.records[0].ttl_s == 34


def test_an_alias_into_our_own_zone_is_followed() -> None:
    catalog = make_catalog()
    catalog.put_service("ext", [make_instance(service="ext", address="web.service.consul")])
    assert types(plan("ext.service.consul", wire.A, catalog)) == [[wire.CNAME, wire.A]]
    assert types(plan("ext.service.consul", wire.CNAME, catalog)) == [[wire.CNAME]]


def test_an_alias_that_leads_away_is_told_as_it_is() -> None:
    catalog = make_catalog()
    catalog.put_service("ext", [make_instance(service="ext", address="www.example.com")])
    made = plan("ext.service.consul", wire.A, catalog)
    assert types(made) == [[wire.CNAME]]
    assert made.most == 1


def test_aliases_that_lead_in_a_circle_end() -> None:
    catalog = make_catalog()
    for here, there in (("a", "b"), ("b", "a")):
        row = make_instance(service=here, address=f"{there}.service.consul")
        catalog.put_service(here, [row])
    made = plan("a.service.consul", wire.A, catalog)
    assert types(made) == [[wire.CNAME, wire.CNAME]]


def test_a_fan_of_aliases_is_followed_only_so_far() -> None:
    catalog = MemoryCatalog(cold=True)
    rows = [make_instance(f"n{at}", service="fan", address=f"s{at}.service.consul") for at in range(50)]
    catalog.put_service("fan", rows)
    resolver = Resolver(config=DnsConfig(), peek=catalog.peek, now_s=lambda: 0.0)
    labels = ("fan", "service", "consul")
    name = wire.encode_name(labels)
    assert name is not None
    asked = 0
    while not isinstance(wanted := resolver.resolve(name, labels, wire.A), Resolved):
        asked += 1
        catalog.learn(wanted)
    assert asked == 1 + MAX_ALIASES
    assert len(wanted.plan.choices) == 50


def test_what_is_not_known_yet_is_named() -> None:
    resolver = Resolver(config=DnsConfig(), peek=lambda ask: None, now_s=lambda: 0.0)
    for labels, ask in (
        (("web", "service", "consul"), ServiceAsk("web")),
        (("n1", "node", "consul"), NodeAsk("n1")),
        (("ns", "consul"), ServiceAsk("consul")),
    ):
        name = wire.encode_name(labels)
        assert name is not None
        assert resolver.resolve(name, labels, wire.A) == ask


def test_a_plan_names_all_it_was_made_of() -> None:
    catalog = make_catalog()
    catalog.put_service("ext", [make_instance(service="ext", address="web.service.consul")])
    resolver = Resolver(config=DnsConfig(), peek=catalog.peek, now_s=lambda: 0.0)
    name = b"\x03ext\x07service\x06consul\0"
    resolved = resolver.resolve(name, wire.split_name(name), wire.A)
    assert isinstance(resolved, Resolved)
    assert resolved.found == (catalog.peek(ServiceAsk("ext")), catalog.peek(ServiceAsk("web")))
