"""Names: what each form looks up, what is empty, what is unknown, what is not ours."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gemot.dns.names import (
    Apex,
    Empty,
    EncodedAddress,
    Foreign,
    Lookup,
    NameServers,
    NodeName,
    ServiceName,
    Unknown,
    locate,
)

ZONES = (("corp", "example"), ("consul",))


def look(name: str) -> Lookup:
    return locate(tuple(name.split(".")) if name else (), ZONES, "dc1")[1]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("consul", Apex()),
        ("corp.example", Apex()),
        ("ns.consul", NameServers()),
        ("n1.node.consul", NodeName("n1")),
        ("n1.node.dc1.consul", NodeName("n1")),
        ("n1.node.dc1.dc.consul", NodeName("n1")),
        ("n1.node.default.ns.default.ap.dc1.dc.consul", NodeName("n1")),
        ("rack.n1.node.consul", NodeName("rack.n1")),
        ("addr.node.consul", NodeName("addr")),
        ("n1.node.corp.example", NodeName("n1")),
        ("web.service.consul", ServiceName("web", "")),
        ("web.service.dc1.consul", ServiceName("web", "")),
        ("web.service.dc1.dc.consul", ServiceName("web", "")),
        ("v1.web.service.consul", ServiceName("web", "v1")),
        ("v1.blue.web.service.consul", ServiceName("web", "v1.blue")),
        ("service.service.consul", ServiceName("service", "")),
        ("my_web.service.consul", ServiceName("my_web", "")),
        ("_web._tcp.service.consul", ServiceName("web", "")),
        ("_web._udp.service.consul", ServiceName("web", "udp")),
        ("_web._v1.service.dc1.consul", ServiceName("web", "v1")),
        ("_web._tcp.consul", ServiceName("web", "")),
        ("_web._v1.dc1.consul", ServiceName("web", "v1")),
        ("0a000001.addr.consul", EncodedAddress(bytes((10, 0, 0, 1)))),
        ("0a000001.addr.dc1.consul", EncodedAddress(bytes((10, 0, 0, 1)))),
        (
            "20010db8000000000000000000000001.addr.consul",
            EncodedAddress(b"\x20\x01\x0d\xb8" + bytes(11) + b"\1"),
        ),
    ],
)
def test_a_form_of_name_looks_up_what_it_says(name: str, expected: Lookup) -> None:
    assert look(name) == expected


@pytest.mark.parametrize(
    "name",
    [
        "service.consul",
        "node.consul",
        "addr.consul",
        "_tcp.service.consul",
        "_tcp.consul",
        "dc1.consul",
        "dc.consul",
        "dc1.dc.consul",
        "service.dc1.consul",
        "service.dc1.dc.consul",
        "node.corp.example",
    ],
)
def test_a_name_that_only_has_names_below_it_is_empty(name: str) -> None:
    assert look(name) == Empty()


@pytest.mark.parametrize(
    "name",
    [
        "nothing.consul",
        "web.consul",
        "web.service.dc2.consul",
        "web.service.dc2.dc.consul",
        "web.service.dc1.extra.consul",
        "web.service.dc1.extra.words.consul",
        "web.service.other.ns.consul",
        "n1.node.dc1.peer.consul",
        "dc2.consul",
        "0a00000.addr.consul",
        "0a00000g.addr.consul",
        "x.0a000001.addr.consul",
        "_._tcp.service.consul",
        "_web._.service.consul",
        "v1._web._tcp.service.consul",
        "web._tcp.service.consul",
        "web.query.consul",
        "web.connect.consul",
        "web.ingress.consul",
        "web.virtual.consul",
        "we b.service.consul",
        "web\0.service.consul",
        "caf\xe9.service.consul",
        "a.ns.consul",
    ],
)
def test_a_name_that_cannot_exist_is_unknown(name: str) -> None:
    assert look(name) == Unknown()


@pytest.mark.parametrize(
    "name", ["", "example.com", "consul.example", "example", "notconsul", "web.service.consul.org"]
)
def test_a_name_outside_the_zones_is_foreign(name: str) -> None:
    assert look(name) == Foreign()


def test_the_longest_zone_wins() -> None:
    zones = (("sub", "consul"), ("consul",))
    assert locate(("n1", "node", "sub", "consul"), zones, "dc1") == (("sub", "consul"), NodeName("n1"))


def test_a_datacenter_is_compared_without_case() -> None:
    assert locate(("n1", "node", "east", "consul"), ZONES, "East")[1] == NodeName("n1")


@given(st.lists(st.text(max_size=8), max_size=12))
def test_any_labels_get_some_lookup(labels: list[str]) -> None:
    locate((*labels, "consul"), ZONES, "dc1")
