"""Messages to replies: kept replies are the same as fresh ones, and never outlive what they say."""

from __future__ import annotations

import asyncio
import random
import struct

import dns.edns
import dns.flags
import dns.message
import dns.rcode
import dns.rdatatype
import pytest
from support.dns_catalog import MemoryCatalog, make_farm, make_instance, make_node

from gemot.dns import responder as responders
from gemot.dns.config import DnsConfig
from gemot.dns.responder import DROPPED, Responder

FIRST_ADDRESS = slice(48, 52)
"""Where the first A record's address lies in a reply to `web.service.consul`."""


def make_responder(catalog: MemoryCatalog, config: DnsConfig | None = None) -> Responder:
    return Responder(
        config=config or DnsConfig(), catalog=catalog, random=random.Random(3), now_s=lambda: 1_700_000_000.0
    )


def make_catalog(*, cold: bool = False) -> MemoryCatalog:
    catalog = MemoryCatalog(cold=cold)
    catalog.put_node(make_node("n1", "10.0.0.1"))
    catalog.put_service("web", make_farm(5))
    return catalog


def question(name: str = "web.service.consul", qtype: str = "A", **options: object) -> bytes:
    message: bytes = dns.message.make_query(name, qtype, **options).to_wire()  # type: ignore[arg-type]
    return message


def respond(responder: Responder, message: bytes, *, tcp: bool = False) -> dns.message.Message:
    raw = responder.respond(message, tcp=tcp)
    assert isinstance(raw, bytes), "known: answered at once"
    return dns.message.from_wire(raw, one_rr_per_rrset=True)


async def respond_later(responder: Responder, message: bytes) -> dns.message.Message:
    task = responder.respond(message, tcp=False)
    assert isinstance(task, asyncio.Task), "not known yet: the catalog is asked"
    return dns.message.from_wire(await task, one_rr_per_rrset=True)


def told(message: dns.message.Message) -> set[str]:
    return {rrset[0].to_text() for rrset in message.answer}


def test_the_spelling_of_the_question_comes_back_from_fresh_and_kept_replies_alike() -> None:
    responder = make_responder(make_catalog())
    for name in ("wEb.SerVICE.CONsul.", "WEB.service.consul.", "web.service.consul.", "weB.servicE.consuL."):
        reply = respond(responder, question(name))
        assert reply.question[0].name.to_text() == name
        assert {rrset.name.to_text() for rrset in reply.answer} == {name}
    assert responder.kept_replies == 3


def test_a_kept_reply_takes_the_id_of_its_question() -> None:
    responder = make_responder(make_catalog())
    ids = [1, 0, 65535, 4711]
    assert [respond(responder, question(id=number)).id for number in ids] == ids
    assert responder.kept_replies == 3


def test_a_changed_service_is_answered_anew_at_once() -> None:
    catalog = make_catalog()
    responder = make_responder(catalog)
    assert len(told(respond(responder, question(payload=4096)))) == 5
    catalog.put_service("web", [make_instance(make_node("n9", "10.0.0.9"))])
    assert told(respond(responder, question(payload=4096))) == {"10.0.0.9"}
    catalog.put_service("web", [])
    assert respond(responder, question(payload=4096)).rcode() == dns.rcode.NXDOMAIN
    catalog.put_service("web", make_farm(2))
    assert len(told(respond(responder, question(payload=4096)))) == 2


def test_questions_that_differ_in_what_the_reply_depends_on_never_share_a_reply() -> None:
    catalog = make_catalog()
    catalog.put_service("web", make_farm(100))
    responder = make_responder(catalog)
    for _ in range(2):
        assert len(respond(responder, question()).answer) == 3
        assert len(respond(responder, question(), tcp=True).answer) == 100
        assert 3 < len(respond(responder, question(payload=600)).answer) < 100
        assert len(respond(responder, question(payload=4096)).answer) == 100
        assert respond(responder, question(payload=4096)).payload == 4096
        assert respond(responder, question(payload=4097)).payload == 4097
        assert respond(responder, question(flags=0)).flags & dns.flags.RD == 0
        assert respond(responder, question()).flags & dns.flags.RD
        assert respond(responder, question(qtype="SRV")).answer[0].rdtype == dns.rdatatype.SRV
        assert respond(responder, question(qtype="TYPE97")).answer == []
        assert respond(responder, question(qtype="TYPE65")).answer == []


def test_edns_options_share_the_reply_of_a_plain_question() -> None:
    responder = make_responder(make_catalog())
    respond(responder, question(payload=1232))
    cookie = dns.edns.GenericOption(10, b"12345678")
    reply = respond(responder, question(payload=1232, options=[cookie]))
    assert (len(reply.answer), reply.options) == (5, ())
    assert responder.kept_replies == 1


def test_a_client_subnet_gets_a_reply_of_its_own() -> None:
    responder = make_responder(make_catalog())
    for address in ("192.0.2.0", "198.51.100.0"):
        subnet = dns.edns.ECSOption(address, 24)
        (back,) = respond(responder, question(payload=1232, options=[subnet])).options
        assert isinstance(back, dns.edns.ECSOption)
        assert back.address == address


def test_a_new_configuration_holds_for_names_answered_before() -> None:
    responder = make_responder(make_catalog())
    assert respond(responder, question()).answer[0].ttl == 0
    responder.configure(DnsConfig(service_ttl_s={"web": 7}))
    assert respond(responder, question()).answer[0].ttl == 7


@pytest.mark.parametrize(
    ("options", "code"),
    [
        ({"qtype": "AXFR"}, dns.rcode.NOTIMP),
        ({"qtype": "IXFR"}, dns.rcode.NOTIMP),
        ({"name": "www.example.com"}, dns.rcode.REFUSED),
        ({"name": "."}, dns.rcode.REFUSED),
        ({"rdclass": "CH", "name": "version.bind", "qtype": "TXT"}, dns.rcode.REFUSED),
        ({"use_edns": 1}, dns.rcode.BADVERS),
    ],
)
def test_what_is_not_for_us_is_answered_with_its_code(options: dict[str, object], code: int) -> None:
    reply = respond(make_responder(make_catalog()), question(**options))  # type: ignore[arg-type]
    assert reply.rcode() == code
    assert reply.answer == reply.authority == []
    assert not reply.flags & dns.flags.AA


def test_an_error_keeps_id_and_question() -> None:
    message = question("www.example.com", id=77)
    raw = make_responder(make_catalog()).respond(message, tcp=False)
    assert isinstance(raw, bytes)
    assert raw[:2] == b"\0\x4d"
    assert raw[12:] == message[12:]


@pytest.mark.parametrize(
    "message", [b"", b"\0", question()[:11], b"\0\0\x80" + bytes(9), question(flags=0x8000)]
)
def test_what_is_no_question_gets_no_reply(message: bytes) -> None:
    responder = make_responder(make_catalog())
    assert responder.respond(message, tcp=False) is None
    assert responder.counts[DROPPED] == 1


def test_a_format_error_is_a_bare_header_with_the_id() -> None:
    reply = make_responder(make_catalog()).respond(b"\xab\xcd\x01\x00" + bytes(8), tcp=False)
    assert reply == b"\xab\xcd" + struct.pack("!5H", 0x8101, 0, 0, 0, 0)


def test_a_zero_byte_inside_a_label_cannot_borrow_another_names_reply() -> None:
    responder = make_responder(make_catalog())
    head = b"\0\7\1\0\0\1\0\0\0\0\0\0"
    odd = head + b"\x04\0web\x07service\x06consul\0\0\1\0\1"
    for _ in range(2):
        assert respond(responder, odd).rcode() == dns.rcode.NXDOMAIN
        assert respond(responder, question()).rcode() == dns.rcode.NOERROR


def test_what_is_not_known_is_fetched_once_and_then_answered_at_once() -> None:
    catalog = make_catalog(cold=True)
    responder = make_responder(catalog)
    assert len(told(asyncio.run(respond_later(responder, question(payload=4096))))) == 5
    assert len(told(respond(responder, question(), tcp=True))) == 5
    assert len(catalog.fetched) == 1


def test_an_alias_chain_is_fetched_link_by_link() -> None:
    catalog = make_catalog(cold=True)
    catalog.put_service("ext", [make_instance(service="ext", address="web.service.consul")])
    reply = asyncio.run(respond_later(make_responder(catalog), question("ext.service.consul", payload=4096)))
    assert len(reply.answer) == 6
    assert len(catalog.fetched) == 2


def test_a_catalog_that_does_not_answer_is_a_server_failure_and_nothing_is_kept() -> None:
    catalog = make_catalog(cold=True)
    catalog.failing = True
    responder = make_responder(catalog)
    assert asyncio.run(respond_later(responder, question())).rcode() == dns.rcode.SERVFAIL
    catalog.failing = False
    assert asyncio.run(respond_later(responder, question())).rcode() == dns.rcode.NOERROR


def test_beyond_the_bound_of_waiting_questions_the_answer_is_a_server_failure(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(responders, "MAX_WAITING", 2)
    responder = make_responder(make_catalog(cold=True))

    async def body() -> None:
        names = [f"s{number}.service.consul" for number in range(6)]
        waiting = [asyncio.ensure_future(respond_later(responder, question(name))) for name in names[:2]]
        await asyncio.sleep(0)
        assert respond(responder, question(names[2])).rcode() == dns.rcode.SERVFAIL
        await asyncio.gather(*waiting)
        for name in names[3:]:
            assert (await respond_later(responder, question(name))).rcode() == dns.rcode.NXDOMAIN

    asyncio.run(body())


def test_random_names_do_not_grow_the_memory_of_replies() -> None:
    responder = make_responder(make_catalog())
    for number in range(responders.CACHE_ENTRIES + 500):
        assert respond(responder, question(f"x{number}.service.consul")).rcode() == dns.rcode.NXDOMAIN
    assert len(responder._udp) <= responders.CACHE_ENTRIES
    assert len(respond(responder, question()).answer) == 3


def test_kept_replies_let_every_instance_come_first_about_as_often() -> None:
    catalog = make_catalog()
    catalog.put_service("web", make_farm(40))
    responder = make_responder(catalog)
    first: dict[str, int] = {}
    for _ in range(20_000):
        raw = responder.respond(question(), tcp=False)
        assert isinstance(raw, bytes)
        address = raw[FIRST_ADDRESS].hex()
        first[address] = first.get(address, 0) + 1
    assert len(first) == 40, "no instance is left out, though few forms are kept at one time"
    assert max(first.values()) < 3 * 20_000 / 40


def test_questions_are_counted_by_type_and_code() -> None:
    responder = make_responder(make_catalog())
    for name, qtype in (("web", "A"), ("web", "A"), ("web", "SRV"), ("none", "A"), ("web", "TYPE65")):
        respond(responder, question(f"{name}.service.consul", qtype))
    assert dict(responder.counts) == {
        ("A", "noerror"): 2,
        ("SRV", "noerror"): 1,
        ("A", "nxdomain"): 1,
        ("other", "noerror"): 1,
    }
