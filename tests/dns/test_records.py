"""Rows to records: who is healthy, which address speaks, what an SRV record points at."""

from __future__ import annotations

import struct

import pytest
from support.dns_catalog import make_instance, make_node

from gemot.dns import records, wire
from gemot.dns.config import DnsConfig
from gemot.dns.records import Choice
from gemot.dns.wire import Record
from gemot.server.model.catalog import Instance, Weights
from gemot.server.model.health import Status

ZONE = records.make_zone(("consul",), "dc1")
CONFIG = DnsConfig(enable_additional_node_meta_txt=False)
WEB = b"\x03web\x07service\x06consul\0"


def encode(name: str) -> bytes:
    encoded = wire.encode_name(tuple(name.split(".")))
    assert encoded is not None
    return encoded


def addresses(choices: tuple[Choice, ...]) -> list[str]:
    return [record.data.hex() for choice in choices for record in choice.records]


def srv(*instances: Instance) -> list[tuple[int, int, str]]:
    """Weight, port and target of each SRV record."""
    found = []
    for choice in records.make_srv_choices(WEB, instances, ZONE, CONFIG, 0):
        (record,) = choice.records
        priority, weight, port = struct.unpack("!HHH", record.data)
        assert priority == 1
        found.append((weight, port, ".".join(wire.split_name(record.names[0]))))
    return found


@pytest.mark.parametrize(
    ("statuses", "kept", "kept_if_only_passing"),
    [
        ((), True, True),
        (("passing",), True, True),
        (("passing", "warning"), True, False),
        (("passing", "critical"), False, False),
        (("warning", "critical"), False, False),
    ],
)
def test_critical_instances_are_dropped_and_warning_ones_if_asked(
    statuses: tuple[Status, ...], kept: bool, kept_if_only_passing: bool
) -> None:
    one = make_instance(statuses=statuses)
    assert bool(records.keep_healthy([one], only_passing=False)) is kept
    assert bool(records.keep_healthy([one], only_passing=True)) is kept_if_only_passing


def test_tags_are_compared_whole_and_without_case() -> None:
    one = make_instance(tags=("V1.Blue", "primary"))
    assert records.keep_tagged([one], "") == [one]
    assert records.keep_tagged([one], "v1.blue") == [one]
    assert records.keep_tagged([one], "PRIMARY") == [one]
    assert records.keep_tagged([one], "blue") == []
    assert records.is_part_of_tag([one], "blue")
    assert not records.is_part_of_tag([one], "v1")
    assert not records.is_part_of_tag([one], "primary")


def test_an_address_is_told_once_however_many_instances_share_it() -> None:
    shared = [make_instance(port=80), make_instance(port=81), make_instance(make_node("n2", "10.0.0.2"))]
    choices = records.make_address_choices(WEB, wire.A, shared, 7)
    assert addresses(choices) == ["0a000001", "0a000002"]
    assert all(record.ttl_s == 7 for choice in choices for record in choice.records)


def test_a_service_address_goes_before_the_node_address() -> None:
    one = make_instance(make_node(address="10.0.0.1"), address="10.9.9.9")
    assert addresses(records.make_address_choices(WEB, wire.A, [one], 0)) == ["0a090909"]


@pytest.mark.parametrize(("qtype", "expected"), [(wire.A, 4), (wire.AAAA, 16)])
def test_the_tagged_address_of_the_other_family_answers_for_it(qtype: int, expected: int) -> None:
    tagged = {"lan_ipv4": "10.0.0.1", "lan_ipv6": "2001:db8::1"}
    for one in (
        make_instance(make_node(address="10.0.0.1", tagged=tagged)),
        make_instance(make_node(address="2001:db8::1", tagged=tagged)),
        make_instance(address="10.0.0.1", tagged=tagged),
        make_instance(address="2001:db8::1", tagged=tagged),
    ):
        (choice,) = records.make_address_choices(WEB, qtype, [one], 0)
        assert [len(record.data) for record in choice.records] == [expected]


def test_the_tagged_addresses_of_a_node_say_nothing_about_a_service_with_its_own() -> None:
    node = make_node(tagged={"lan_ipv6": "2001:db8::1"})
    assert records.make_address_choices(WEB, wire.AAAA, [make_instance(node, address="10.0.0.9")], 0) == ()


def test_a_host_name_becomes_an_alias_only_if_no_instance_has_an_ip_address() -> None:
    named = make_instance(address="db.example.com")
    (choice,) = records.make_address_choices(WEB, wire.A, [named], 3)
    assert choice.records == (Record(WEB, wire.CNAME, 3, names=(encode("db.example.com"),)),)
    both = [named, make_instance(address="10.0.0.9")]
    assert addresses(records.make_address_choices(WEB, wire.A, both, 0)) == ["0a000009"]
    assert records.make_address_choices(WEB, wire.AAAA, both, 0) == ()


@pytest.mark.parametrize("address", ["no such host", "a..b", "-x.example", "caf\xe9.example", "a" * 64])
def test_an_address_that_is_neither_ip_nor_host_name_is_left_out(address: str) -> None:
    one = make_instance(address=address)
    assert records.make_address_choices(WEB, wire.A, [one], 0) == ()
    assert srv(one) == []


def test_an_srv_record_points_at_the_node_whose_address_it_uses() -> None:
    assert srv(make_instance("n1", port=8080)) == [(1, 8080, "n1.node.dc1.consul")]


def test_an_srv_record_points_at_the_hex_name_of_an_address_of_the_service_itself() -> None:
    assert srv(make_instance(address="10.0.0.255")) == [(1, 80, "0a0000ff.addr.dc1.consul")]
    long = srv(make_instance(address="2001:db8::1"))
    assert long == [(1, 80, "20010db8000000000000000000000001.addr.dc1.consul")]


def test_an_srv_record_points_at_a_host_name_itself() -> None:
    assert srv(make_instance(address="db.example.com.")) == [(1, 80, "db.example.com")]
    assert srv(make_instance(make_node(address="host.example"))) == [(1, 80, "host.example")]


def test_an_srv_record_never_points_at_a_node_name_that_is_no_dns_name() -> None:
    assert srv(make_instance(make_node("bad name!", "10.0.0.7"))) == [(1, 80, "0a000007.addr.dc1.consul")]


@pytest.mark.parametrize(
    ("statuses", "weight"), [((), 5), (("passing",), 5), (("passing", "warning"), 2), (("warning",), 2)]
)
def test_the_weight_is_that_of_the_worst_check(statuses: tuple[Status, ...], weight: int) -> None:
    one = make_instance(statuses=statuses, weights=Weights(passing=5, warning=2))
    assert srv(one) == [(weight, 80, "n1.node.dc1.consul")]


def test_a_weight_fits_its_field() -> None:
    assert srv(make_instance(weights=Weights(passing=1 << 20)))[0][0] == 65535
    assert srv(make_instance(weights=Weights(passing=-1)))[0][0] == 0


def test_srv_records_are_told_once_for_node_address_and_port() -> None:
    rows = [make_instance("n1"), make_instance("n1"), make_instance("n1", port=81), make_instance("n2")]
    assert [(port, target[:2]) for _, port, target in srv(*rows)] == [(80, "n1"), (81, "n1"), (80, "n2")]


def test_an_srv_record_brings_the_addresses_of_its_target() -> None:
    node = make_node(address="10.0.0.1", tagged={"lan_ipv6": "2001:db8::1"})
    (choice,) = records.make_srv_choices(WEB, [make_instance(node)], ZONE, CONFIG, 4)
    target = encode("n1.node.dc1.consul")
    assert [(extra.owner, extra.type, extra.ttl_s) for extra in choice.extras] == [
        (target, wire.A, 4),
        (target, wire.AAAA, 4),
    ]


def test_node_meta_goes_along_only_if_configured() -> None:
    one = make_instance(make_node(meta={"rack": "r1"}))
    (with_texts,) = records.make_srv_choices(WEB, [one], ZONE, DnsConfig(), 0)
    (without,) = records.make_srv_choices(WEB, [one], ZONE, CONFIG, 0)
    assert [text.data for text in with_texts.texts] == [b"\x07rack=r1"]
    assert without.texts == ()


@pytest.mark.parametrize(
    ("key", "value", "text"),
    [
        ("color", "blue", "color=blue"),
        ("a=b", "c", "a`=b=c"),
        ("a`b", "=", "a``b=="),
        (" a b ", " c ", "` a b` = c "),
        ("  ", "", "` ` ="),
        ("rfc1035-note", "v=spf1 -all", "v=spf1 -all"),
        ("RFC1035-note", "x", "x"),
        ("", "x", "=x"),
    ],
)
def test_node_meta_is_quoted_as_rfc_1464_says(key: str, value: str, text: str) -> None:
    (record,) = records.make_texts(WEB, {key: value}, 0)
    assert record.data == bytes((len(text),)) + text.encode()


def test_a_long_text_is_split_and_a_huge_one_left_out() -> None:
    (record,) = records.make_texts(WEB, {"k": "x" * 500}, 0)
    assert record.data[0] == 255
    assert record.data[256] == 502 - 255
    assert len(record.data) == 504
    assert records.make_texts(WEB, {"k": "x" * 5000}, 0) == ()


def test_a_node_answers_with_addresses_meta_or_its_host_name() -> None:
    name = encode("n1.node.consul")
    node = make_node(meta={"rack": "r1"})
    config = DnsConfig(node_ttl_s=9)
    (a,) = records.make_node_choices(name, wire.A, node, config)
    assert [(one.type, one.ttl_s) for one in a.records] == [(wire.A, 9)]
    assert [one.type for one in a.texts] == [wire.TXT]
    (text,) = records.make_node_choices(name, wire.TXT, node, config)
    assert [one.type for one in text.records] == [wire.TXT]
    (everything,) = records.make_node_choices(name, wire.ANY, node, config)
    assert [one.type for one in everything.records] == [wire.A, wire.TXT]
    assert records.make_node_choices(name, wire.AAAA, node, config) == ()
    assert records.make_node_choices(name, wire.SRV, node, config) == ()
    (alias,) = records.make_node_choices(name, wire.A, make_node(address="host.example"), config)
    assert [one.type for one in alias.records] == [wire.CNAME]


def test_name_servers_whose_names_are_no_dns_names_are_left_out() -> None:
    servers = [make_instance("s1", service="consul"), make_instance("bad name!", service="consul")]
    (choice,) = records.make_name_servers(ZONE.name, servers, ZONE, 0)
    assert choice.records[0].names == (encode("s1.node.dc1.consul"),)
    assert [extra.data for extra in choice.extras] == [bytes((10, 0, 0, 1))]
