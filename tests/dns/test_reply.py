"""Replies: order, number of answers, size at each boundary, what goes first, and the flags."""

from __future__ import annotations

import collections
import random

import dns.edns
import dns.flags
import dns.message
import dns.rcode
import dns.rdatatype
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.dns_catalog import MemoryCatalog, make_farm, make_instance, make_node

from gemot.dns import reply, wire
from gemot.dns.config import DnsConfig
from gemot.dns.reply import Room
from gemot.dns.resolve import Plan, Resolved, Resolver
from gemot.dns.wire import Query
from gemot.server.model.catalog import Instance

NAME = "web.service.consul"


def ask(qtype: str = "A", name: str = NAME, **options: object) -> bytes:
    message: bytes = dns.message.make_query(name, qtype, **options).to_wire()  # type: ignore[arg-type]
    return message


def make_plan(question: bytes, rows: list[Instance], config: DnsConfig) -> tuple[Query, Plan]:
    catalog = MemoryCatalog()
    catalog.put_service("web", rows)
    query = wire.parse_query(question)
    assert isinstance(query, Query)
    resolver = Resolver(config=config, peek=catalog.peek, now_s=lambda: 0.0)
    resolved = resolver.resolve(query.name, wire.split_name(query.name), query.type)
    assert isinstance(resolved, Resolved)
    return query, resolved.plan


def answer(
    question: bytes,
    rows: list[Instance],
    *,
    room: Room | None = None,
    tcp: bool = False,
    seed: int = 1,
    **settings: object,
) -> tuple[bytes, dns.message.Message]:
    """The reply's bytes, and the reply as another implementation reads it."""
    config = DnsConfig(**settings)  # type: ignore[arg-type]
    query, plan = make_plan(question, rows, config)
    room = room or reply.measure_room(config, query.edns, tcp=tcp)
    form = reply.compose(plan, query, room, truncate=config.enable_truncate, random=random.Random(seed))
    raw = form.fill(question, query.end)
    return raw, dns.message.from_wire(raw, one_rr_per_rrset=True)


def is_truncated(message: dns.message.Message) -> bool:
    return bool(message.flags & dns.flags.TC)


def targets(message: dns.message.Message) -> set[str]:
    return {rrset[0].target.to_text() for rrset in message.answer}


def owners(message: dns.message.Message, rdtype: int = dns.rdatatype.A) -> set[str]:
    return {rrset.name.to_text() for rrset in message.additional if rrset.rdtype == rdtype}


@pytest.mark.parametrize(("limit", "count"), [(1, 1), (3, 3), (8, 8), (100, 8), (0, 8)])
@pytest.mark.parametrize("qtype", ["A", "SRV"])
def test_without_edns_the_number_of_answers_is_bounded_over_udp(limit: int, count: int, qtype: str) -> None:
    raw, message = answer(ask(qtype), make_farm(30), udp_answer_limit=limit)
    assert len(message.answer) <= count
    assert len(message.answer) == count or len(raw) > 512 - 100
    assert not is_truncated(message)


def test_with_edns_or_tcp_the_number_of_answers_is_not_bounded() -> None:
    assert len(answer(ask(payload=4096), make_farm(30))[1].answer) == 30
    assert len(answer(ask(), make_farm(30), tcp=True)[1].answer) == 30


@pytest.mark.parametrize("transport", ["udp", "edns", "tcp"])
def test_the_a_record_limit_bounds_answers_on_every_transport(transport: str) -> None:
    question = ask(payload=4096) if transport == "edns" else ask()
    message = answer(question, make_farm(30), tcp=transport == "tcp", a_record_limit=2)[1]
    assert len(message.answer) == 2
    assert not is_truncated(message)


@pytest.mark.parametrize(
    ("payload", "size"), [(None, 512), (0, 512), (100, 512), (512, 512), (1232, 1232), (65535, 65467)]
)
def test_the_room_is_what_the_client_says_within_bounds(payload: int | None, size: int) -> None:
    query = wire.parse_query(ask() if payload is None else ask(use_edns=0, payload=payload))
    assert isinstance(query, Query)
    assert reply.measure_room(DnsConfig(), query.edns, tcp=False).size == size
    assert reply.measure_room(DnsConfig(), query.edns, tcp=True) == Room(65535, 0)


@pytest.mark.parametrize("enable_truncate", [True, False])
def test_an_answer_count_that_was_cut_sets_the_flag_only_if_configured(enable_truncate: bool) -> None:
    cut = answer(ask(), make_farm(4), enable_truncate=enable_truncate)[1]
    assert is_truncated(cut) is enable_truncate
    assert not is_truncated(answer(ask(), make_farm(3), enable_truncate=enable_truncate)[1])


@pytest.mark.parametrize("qtype", ["A", "SRV"])
def test_at_every_size_the_longest_run_of_answers_that_fits_is_sent(qtype: str) -> None:
    question, rows = ask(qtype), make_farm(12)
    whole = len(answer(question, rows, room=Room(65535, 0))[0])
    counts = []
    for size in range(120, whole + 2):
        raw, message = answer(question, rows, room=Room(size, 0), enable_truncate=True)
        assert len(raw) <= size
        assert is_truncated(message) is (len(message.answer) < 12)
        counts.append(len(message.answer))
    assert counts == sorted(counts)
    assert (counts[0], counts[-1], counts[-2], counts[-3]) == (counts[0], 12, 12, 11)
    assert set(counts) == set(range(counts[0], 13)), "no answer is lost that would have fitted"


def test_exactly_the_room_is_enough_and_one_byte_less_is_not() -> None:
    question, rows = ask(payload=1400), make_farm(40)
    whole = len(answer(question, rows, room=Room(65535, 0))[0])
    assert len(answer(question, rows, room=Room(whole, 0))[1].answer) == 40
    assert len(answer(question, rows, room=Room(whole - 1, 0))[1].answer) == 39


def test_an_srv_record_never_loses_the_address_of_its_target() -> None:
    for size in range(200, 1400, 7):
        message = answer(ask("SRV"), make_farm(20), room=Room(size, 0))[1]
        assert owners(message) == targets(message)


def test_meta_texts_go_before_any_answer_goes_and_that_is_no_truncation() -> None:
    rows = [make_instance(make_node(f"n{at}", f"10.0.0.{at}", meta={"k": "x" * 200})) for at in range(3)]
    message = answer(ask("SRV"), rows, enable_truncate=True)[1]
    assert len(message.answer) == 3
    assert owners(message, dns.rdatatype.TXT) == set()
    assert not is_truncated(message)
    assert len(owners(answer(ask("SRV", payload=4096), rows)[1], dns.rdatatype.TXT)) == 3


def test_the_flag_is_set_whatever_is_configured_if_not_one_answer_fits() -> None:
    message = answer(ask(), make_farm(3), room=Room(45, 0))[1]
    assert message.answer == []
    assert message.rcode() == dns.rcode.NOERROR
    assert is_truncated(message)


def test_over_tcp_a_reply_stays_within_64_kilobytes() -> None:
    raw, message = answer(ask("SRV"), make_farm(3000), tcp=True)
    assert 64_000 < len(raw) <= 65_535
    assert owners(message) == targets(message)


def test_a_negative_answer_carries_the_soa_and_is_authoritative() -> None:
    message = answer(ask(name="no.web.service.consul"), make_farm(1))[1]
    assert message.rcode() == dns.rcode.NXDOMAIN
    assert message.flags & dns.flags.AA
    assert [rrset.to_text() for rrset in message.authority] == [
        "consul. 0 IN SOA ns.consul. hostmaster.consul. 0 3600 600 86400 0"
    ]


def test_the_longest_name_in_the_longest_zone_gets_a_negative_answer_of_legal_size() -> None:
    zone = ".".join(("z" * 60, "y" * 60)) + "."
    name = ".".join(("a" * 63, "b" * 50)) + "." + zone
    raw, message = answer(ask(name=name), [], domain=zone)
    assert len(raw) <= 512
    assert message.rcode() == dns.rcode.NXDOMAIN
    assert len(message.authority) == 1


def test_recursion_desired_and_checking_disabled_come_back_and_no_other_flag() -> None:
    for flags in (0, dns.flags.RD, dns.flags.CD, dns.flags.RD | dns.flags.CD, 0x0760 | dns.flags.AD):
        question = bytearray(ask())
        question[2:4] = int(flags).to_bytes(2, "big")
        message = answer(bytes(question), make_farm(1))[1]
        wanted = dns.flags.QR | dns.flags.AA | (flags & (dns.flags.RD | dns.flags.CD))
        assert message.flags == wanted


def test_edns_comes_back_and_a_client_subnet_with_scope_zero() -> None:
    subnet = dns.edns.ECSOption("192.0.2.0", 24, 5)
    raw, message = answer(ask(payload=1400, want_dnssec=True, options=[subnet]), make_farm(200))
    assert len(raw) <= 1400
    assert (message.edns, message.payload, message.ednsflags & 0x8000) == (0, 1400, 0x8000)
    (back,) = message.options
    assert isinstance(back, dns.edns.ECSOption)
    assert (back.address, back.srclen, back.scopelen) == ("192.0.2.0", 24, 0)
    assert answer(ask(), make_farm(1))[1].edns == -1


def test_an_alias_comes_with_what_is_behind_it_and_only_one_is_told() -> None:
    rows = [make_instance(f"n{at}", address=f"host{at}.example") for at in range(4)]
    seen = {answer(ask(), rows, seed=seed)[1].answer[0].to_text() for seed in range(40)}
    assert len(seen) == 4
    assert all(len(answer(ask(), rows, seed=seed)[1].answer) == 1 for seed in range(5))


def test_every_instance_comes_first_about_as_often() -> None:
    rows = make_farm(5)
    config = DnsConfig()
    query, plan = make_plan(ask(), rows, config)
    room, dice = reply.measure_room(config, None, tcp=False), random.Random(7)
    first: collections.Counter[str] = collections.Counter()
    shown: collections.Counter[str] = collections.Counter()
    for _ in range(2000):
        raw = reply.compose(plan, query, room, truncate=False, random=dice).fill(ask(), query.end)
        texts = [rrset[0].to_text() for rrset in dns.message.from_wire(raw, one_rr_per_rrset=True).answer]
        first[texts[0]] += 1
        shown.update(texts)
    assert len(first) == 5
    assert all(320 <= count <= 480 for count in first.values()), first
    assert all(1100 <= count <= 1300 for count in shown.values()), shown


@given(
    st.integers(0, 40),
    st.integers(60, 1500),
    st.sampled_from(["A", "SRV", "ANY", "TXT"]),
    st.integers(0, 9),
    st.booleans(),
)
def test_no_reply_is_larger_than_its_room(
    rows: int, size: int, qtype: str, limit: int, truncate: bool
) -> None:
    raw, message = answer(ask(qtype), make_farm(rows), room=Room(size, limit), enable_truncate=truncate)
    assert len(raw) <= size
    assert limit == 0 or len(message.answer) <= limit
    if rows and qtype != "TXT" and not message.answer:
        assert is_truncated(message)
