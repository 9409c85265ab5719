"""DNS messages as bytes: questions read, records written with compression. Pure; no names are looked up.

Names are kept in wire form (length-prefixed labels, closed by a zero byte) all the way. Sources: RFC 1035
section 4, RFC 2782 (SRV targets are not compressed), RFC 6891 (EDNS), RFC 7871 (client subnet).
"""

from __future__ import annotations

from struct import Struct

import msgspec

HEADER_BYTES = 12
MAX_NAME_BYTES = 255
MAX_LABEL_BYTES = 63
MAX_ADDITIONAL = 2
"""A question carries at most an OPT and a signature behind it."""

A, NS, CNAME, SOA, PTR, TXT, AAAA, SRV, OPT, IXFR, AXFR, ANY = 1, 2, 5, 6, 12, 16, 28, 33, 41, 251, 252, 255
CLASS_IN, CLASS_ANY = 1, 255

NOERROR, FORMERR, SERVFAIL, NXDOMAIN, NOTIMP, REFUSED, BADVERS = 0, 1, 2, 3, 4, 5, 16

RCODES = {
    NOERROR: "noerror",
    FORMERR: "formerr",
    SERVFAIL: "servfail",
    NXDOMAIN: "nxdomain",
    NOTIMP: "notimp",
    REFUSED: "refused",
    BADVERS: "badvers",
}
TYPES = {
    A: "A",
    NS: "NS",
    CNAME: "CNAME",
    SOA: "SOA",
    PTR: "PTR",
    TXT: "TXT",
    AAAA: "AAAA",
    SRV: "SRV",
    ANY: "ANY",
}
"""Names for the types we have to do with; all others are "other"."""

RESPONSE, AUTHORITATIVE, TRUNCATED = 0x8000, 0x0400, 0x0200
RECURSION_DESIRED, CHECKING_DISABLED = 0x0100, 0x0010
ECHOED = RECURSION_DESIRED | CHECKING_DISABLED
"""Flags of the question that come back in the reply."""

OPCODE = 0x7800
_DNSSEC_OK = 0x8000
_CLIENT_SUBNET = 8
_POINTER = 0xC000
_MAX_OFFSET = 0x3FFF

_COUNTS = Struct("!5H")
_TWO = Struct("!HH")
_RECORD = Struct("!HHIH")
_SHORT = Struct("!H")


class Edns(msgspec.Struct, frozen=True, gc=False):
    """What the OPT record of a question said. `subnet` is the client-subnet option's data, or empty."""

    size: int
    version: int = 0
    dnssec_ok: bool = False
    subnet: bytes = b""


class Query(msgspec.Struct, frozen=True, gc=False):
    """One question. `name` is in wire form, lower case; `end` is where the question ends in the message."""

    flags: int
    name: bytes
    type: int
    klass: int
    end: int
    edns: Edns | None

    @property
    def labels(self) -> tuple[str, ...]:
        return split_name(self.name)


class Record(msgspec.Struct, frozen=True, gc=False):
    """One resource record of class IN. Its data is `names`, compressed, then `data`; for SRV `data` first."""

    owner: bytes
    type: int
    ttl_s: int
    data: bytes = b""
    names: tuple[bytes, ...] = ()


def split_name(name: bytes) -> tuple[str, ...]:
    """The labels of a name in wire form; a byte that is no ASCII stays one odd character."""
    labels, at = [], 0
    while size := name[at]:
        labels.append(name[at + 1 : at + 1 + size].decode("latin-1"))
        at += size + 1
    return tuple(labels)


def encode_name(labels: tuple[str, ...]) -> bytes | None:
    """The wire form, or None if these labels cannot be a DNS name."""
    out = bytearray()
    for label in labels:
        if not label.isascii() or not 0 < len(label) <= MAX_LABEL_BYTES:
            return None
        out.append(len(label))
        out += label.encode("ascii")
    out.append(0)
    return bytes(out) if len(out) <= MAX_NAME_BYTES else None


def parse_query(message: bytes) -> Query | int:
    """The question in a message of at least HEADER_BYTES, or the code of the error to answer."""
    flags, questions, answers, authorities, additional = _COUNTS.unpack_from(message, 2)
    if flags & OPCODE:
        return NOTIMP
    if questions != 1 or answers or authorities or additional > MAX_ADDITIONAL:
        return FORMERR
    end = _skip_plain_name(message, HEADER_BYTES)
    if end < 0 or end + 4 > len(message):
        return FORMERR
    qtype, klass = _TWO.unpack_from(message, end)
    edns = _parse_additional(message, end + 4, additional)
    if isinstance(edns, int):
        return edns
    return Query(flags, message[HEADER_BYTES:end].lower(), qtype, klass, end + 4, edns)


def _skip_plain_name(message: bytes, start: int) -> int:
    """Where the name at `start` ends; -1 if it is broken, too long, or a pointer (to what?)."""
    at, size = start, len(message)
    while at < size:
        length = message[at]
        if length == 0:
            return at + 1 if at + 1 - start <= MAX_NAME_BYTES else -1
        if length > MAX_LABEL_BYTES:
            return -1
        at += length + 1
    return -1


def _parse_additional(message: bytes, at: int, count: int) -> Edns | int | None:
    edns: Edns | None = None
    for _ in range(count):
        root = message[at : at + 1] == b"\0"
        at = _skip_name(message, at)
        if at < 0 or at + 10 > len(message):
            return FORMERR
        rtype, klass, ttl, length = _RECORD.unpack_from(message, at)
        data = message[at + 10 : at + 10 + length]
        at += 10 + length
        if len(data) != length:
            return FORMERR
        if rtype == OPT:
            subnet = _find_subnet(data)
            if edns is not None or not root or subnet is None:
                return FORMERR
            edns = Edns(klass, ttl >> 16 & 0xFF, bool(ttl & _DNSSEC_OK), subnet)
    return edns if at == len(message) else FORMERR


def _skip_name(message: bytes, at: int) -> int:
    """Where a name that may end in a pointer ends. The pointer is not followed: the name is of no use."""
    start = at
    while at < len(message):
        length = message[at]
        if length == 0:
            return at + 1
        if length >= 0xC0:
            return at + 2
        at += length + 1
        if length > MAX_LABEL_BYTES or at - start > MAX_NAME_BYTES:
            return -1
    return -1


def _find_subnet(options: bytes) -> bytes | None:
    """The client-subnet option in an OPT record's data, b"" without one, None if the data is broken."""
    at, subnet = 0, b""
    while at < len(options):
        if at + 4 > len(options):
            return None
        code, length = _TWO.unpack_from(options, at)
        value = options[at + 4 : at + 4 + length]
        if len(value) != length:
            return None
        if code == _CLIENT_SUBNET:
            if not 4 <= length <= 20:
                return None
            subnet = value
        at += 4 + length
    return subnet


def encode_opt(edns: Edns, rcode: int = NOERROR) -> bytes:
    """The OPT record of the reply: size and DO echoed, a client subnet with scope 0 (good for everyone)."""
    options = b""
    if edns.subnet:
        options = _TWO.pack(_CLIENT_SUBNET, len(edns.subnet)) + edns.subnet[:3] + b"\0" + edns.subnet[4:]
    ttl = (rcode >> 4) << 24 | (_DNSSEC_OK if edns.dnssec_ok else 0)
    return b"\0" + _RECORD.pack(OPT, edns.size, ttl, len(options)) + options


def encode_counts(flags: int, questions: int, answers: int, authorities: int, additional: int) -> bytes:
    """The header without its id."""
    return _COUNTS.pack(flags, questions, answers, authorities, additional)


class Writer:
    """Writes records behind a question, pointing back at names already written (RFC 1035 section 4.1.4)."""

    def __init__(self, question: bytes) -> None:
        self.body = bytearray()
        self._start = HEADER_BYTES + len(question) + 4
        self._offsets: dict[bytes, int] = {}
        self._learn(question, HEADER_BYTES)

    @property
    def size(self) -> int:
        """Bytes of the whole message so far."""
        return self._start + len(self.body)

    def put(self, record: Record) -> None:
        self._put_name(record.owner)
        body = self.body
        if record.type == SRV:
            (target,) = record.names
            body += _RECORD.pack(SRV, CLASS_IN, record.ttl_s, len(record.data) + len(target)) + record.data
            self._learn(target, self.size)
            body += target
            return
        body += _RECORD.pack(record.type, CLASS_IN, record.ttl_s, len(record.data))
        if record.names:
            start = len(body)
            for name in record.names:
                self._put_name(name)
            _SHORT.pack_into(body, start - 2, len(body) - start + len(record.data))
        body += record.data

    def _put_name(self, name: bytes) -> None:
        known = self._offsets.get(name)
        if known is not None:
            self.body += _SHORT.pack(_POINTER | known)
            return
        at, start = 0, self.size
        while length := name[at]:
            known = self._offsets.get(name[at:])
            if known is not None:
                self.body += _SHORT.pack(_POINTER | known)
                return
            if start + at <= _MAX_OFFSET:
                self._offsets[name[at:]] = start + at
            self.body += name[at : at + length + 1]
            at += length + 1
        self.body.append(0)

    def _learn(self, name: bytes, offset: int) -> None:
        at = 0
        while (length := name[at]) and offset + at <= _MAX_OFFSET:
            self._offsets.setdefault(name[at:], offset + at)
            at += length + 1
