"""Bytes: what is read from a question and what is refused; records as another implementation reads them."""

from __future__ import annotations

import struct

import dns.edns
import dns.flags
import dns.message
import dns.name
import dns.rdatatype
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gemot.dns import wire
from gemot.dns.wire import Edns, Query, Record

HEAD = b"\x12\x34\x01\x00"
NAME = b"\x03web\x07service\x06consul\0"
QUESTION = NAME + b"\0\1\0\1"
PLAIN_OPT = b"\0\0\x29\x04\xd0\0\0\0\0\0\0"


def counts(*numbers: int) -> bytes:
    return struct.pack("!4H", *numbers)


def test_a_question_is_read_with_its_name_in_lower_case() -> None:
    message = HEAD + counts(1, 0, 0, 0) + b"\x03WeB\x07seRVice\x06conSUL\0\0\x21\0\1"
    query = wire.parse_query(message)
    assert query == Query(0x0100, NAME, wire.SRV, 1, len(message), None)
    assert isinstance(query, Query)
    assert wire.split_name(query.name) == ("web", "service", "consul")


def test_edns_is_read_with_size_dnssec_flag_and_subnet() -> None:
    subnet = dns.edns.ECSOption("192.0.2.0", 24)
    message = dns.message.make_query(
        "web.service.consul", "A", payload=1400, want_dnssec=True, options=[subnet]
    )
    query = wire.parse_query(message.to_wire())
    assert isinstance(query, Query)
    assert query.edns == Edns(1400, 0, True, b"\0\1\x18\0\xc0\0\2")


@pytest.mark.parametrize(
    "message",
    [
        HEAD + counts(0, 0, 0, 0),
        HEAD + counts(2, 0, 0, 0) + QUESTION * 2,
        HEAD + counts(65535, 65535, 65535, 65535) + QUESTION,
        HEAD + counts(1, 1, 0, 0) + QUESTION,
        HEAD + counts(1, 0, 1, 0) + QUESTION,
        HEAD + counts(1, 0, 0, 3) + QUESTION + PLAIN_OPT * 3,
        HEAD + counts(1, 0, 0, 0),
        HEAD + counts(1, 0, 0, 0) + NAME[:-1],
        HEAD + counts(1, 0, 0, 0) + NAME + b"\0\1\0",
        HEAD + counts(1, 0, 0, 0) + b"\xc0\x0c\0\1\0\1",
        HEAD + counts(1, 0, 0, 0) + b"\x03web\xc0\x0c\0\1\0\1",
        HEAD + counts(1, 0, 0, 0) + b"\x40" + b"a" * 64 + b"\0\0\1\0\1",
        HEAD + counts(1, 0, 0, 0) + (b"\x3f" + b"a" * 63) * 4 + b"\0\0\1\0\1",
        HEAD + counts(1, 0, 0, 0) + QUESTION + b"garbage",
        HEAD + counts(1, 0, 0, 1) + QUESTION,
        HEAD + counts(1, 0, 0, 1) + QUESTION + PLAIN_OPT[:-1],
        HEAD + counts(1, 0, 0, 2) + QUESTION + PLAIN_OPT * 2,
        HEAD + counts(1, 0, 0, 1) + QUESTION + b"\1a" + PLAIN_OPT,
        HEAD + counts(1, 0, 0, 1) + QUESTION + PLAIN_OPT[:-1] + b"\x09",
        HEAD + counts(1, 0, 0, 1) + QUESTION + PLAIN_OPT[:-1] + b"\x03\0\x08\0",
        HEAD + counts(1, 0, 0, 1) + QUESTION + PLAIN_OPT[:-1] + b"\x06\0\x08\0\2\0\1",
        HEAD + counts(1, 0, 0, 1) + QUESTION + PLAIN_OPT[:-1] + b"\x05\0\x0a\xff\xff\0",
    ],
)
def test_a_malformed_question_is_a_format_error(message: bytes) -> None:
    assert wire.parse_query(message) == wire.FORMERR


@pytest.mark.parametrize("opcode", [1, 2, 4, 5, 15])
def test_an_opcode_other_than_query_is_not_implemented(opcode: int) -> None:
    message = struct.pack("!HH", 7, opcode << 11) + counts(1, 0, 0, 0) + QUESTION
    assert wire.parse_query(message) == wire.NOTIMP


@given(st.binary(min_size=12, max_size=600))
def test_any_bytes_are_a_question_or_an_error_code(message: bytes) -> None:
    query = wire.parse_query(message)
    assert isinstance(query, (Query, int))


@given(st.lists(st.text("abcXYZ019-_", min_size=1, max_size=63), max_size=6))
def test_a_name_survives_encoding_and_splitting(labels: list[str]) -> None:
    name = wire.encode_name(tuple(labels))
    if name is None:
        assert sum(len(label) + 1 for label in labels) + 1 > 255
    else:
        assert wire.split_name(name) == tuple(labels)


@pytest.mark.parametrize("labels", [("",), ("a" * 64,), ("caf\xe9",), ("a" * 63,) * 4])
def test_labels_that_are_no_dns_name_have_no_encoding(labels: tuple[str, ...]) -> None:
    assert wire.encode_name(labels) is None


def test_records_are_compressed_and_another_implementation_reads_them_back() -> None:
    target = b"\x02n1\x04node\x03dc1\x06consul\0"
    mailbox = b"\x0ahostmaster\x06consul\0"
    records = [
        Record(NAME, wire.SRV, 5, struct.pack("!HHH", 1, 2, 80), (target,)),
        Record(NAME, wire.CNAME, 6, names=(b"\1x\3org\0",)),
        Record(b"\x06consul\0", wire.SOA, 7, struct.pack("!5I", 1, 2, 3, 4, 5), (target, mailbox)),
        Record(target, wire.A, 8, bytes((10, 0, 0, 1))),
    ]
    writer = wire.Writer(NAME)
    for record in records:
        writer.put(record)
    message = HEAD[:2] + wire.encode_counts(0x8400, 1, 4, 0, 0) + QUESTION + bytes(writer.body)
    assert writer.size == len(message)
    texts = [rrset.to_text() for rrset in dns.message.from_wire(message).answer]
    assert texts == [
        "web.service.consul. 5 IN SRV 1 2 80 n1.node.dc1.consul.",
        "web.service.consul. 6 IN CNAME x.org.",
        "consul. 7 IN SOA n1.node.dc1.consul. hostmaster.consul. 1 2 3 4 5",
        "n1.node.dc1.consul. 8 IN A 10.0.0.1",
    ]
    assert message.count(b"\x04node") == 1, "a name is written out once"


def test_no_pointer_goes_beyond_what_a_pointer_can_say() -> None:
    owners = [b"\x0anumber%04d\x06consul\0" % number for number in range(900)]
    writer = wire.Writer(NAME)
    for owner in owners:
        writer.put(Record(owner, wire.A, 0, bytes(4)))
    for owner in owners:
        writer.put(Record(owner, wire.A, 0, bytes(4)))
    assert writer.size > 0x3FFF
    message = HEAD[:2] + wire.encode_counts(0x8400, 1, 1800, 0, 0) + QUESTION + bytes(writer.body)
    answers = dns.message.from_wire(message, one_rr_per_rrset=True).answer
    assert [rrset.name.to_text() for rrset in answers] == [
        f"number{number:04d}.consul." for number in (*range(900), *range(900))
    ]
