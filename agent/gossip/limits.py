"""What any word of gossip may hold at most, and the one place that holds it there.

It is not about what words mean: a word within bounds may still be nonsense, and `swim.py` judges that. Each
`..._fault` says in a few words what is out of bounds, or "" if nothing is; who calls it makes the error. What
is sent is held to the same bounds as what is received, so nothing leaves that everyone would refuse.

The bounds answer what broke memberlist in 2026: lengths that were believed (#357, #361), small packets that
unfold into large ones (#362, #363), fields that were not there (#368) and places behind the end (#369).
"""

from __future__ import annotations

import re
from functools import lru_cache
from ipaddress import IPv4Address, IPv6Address
from typing import assert_never

from gemot.agent.gossip.message import (
    ID_BYTES,
    META_BYTES,
    NAME_BYTES,
    Ack,
    Alive,
    Dead,
    Facts,
    Nack,
    News,
    Ping,
    Record,
    Relay,
    Suspect,
    Word,
)

DATAGRAM_BYTES = 1_400
"""What is sent at once, sealed. It passes every usual network whole (1,500 less IPv6, UDP and a tunnel)."""

RECEIVED_BYTES = 65_507
"""What is taken at once: the most that UDP over IPv4 can carry. A later release may send more."""

WORDS = 512
"""In one datagram; more than fit into one of ours."""

LABEL_BYTES = 64
SEAL_BYTES = 1 + 1 + LABEL_BYTES + 12 + 8 + 8 + 16
"""What `seal.py` adds at most: version, label's length, label, nonce, sender, counter, GCM's tag."""

HOST_BYTES = 45
"""The longest spelling of an IPv6 address, with an IPv4 address in its end."""

PAYLOAD_BYTES = 128
BODY_BYTES = 1_024
"""Of one piece of news: an event of 512 bytes, as Consul has it, and what is said about it."""

SEQ_MAX = (1 << 32) - 1
INCARNATION_MAX = (1 << 63) - 1
TOPIC_MAX = 255
PROTOCOL_LIMIT = 255
RECONNECT_MAX_MS = 31 * 86_400_000

RECORDS = 65_536
NEWS = 1_024
REASON_BYTES = 512
"""In one exchange over TCP: members, pieces of news, and what a refusal says. So many members
fit into a frame only while they tell little of themselves; nobody knows as many (`view.MOST_MEMBERS`)."""

RING_KEYS = 16
KEY_TEXT_BYTES = 64
"""Keys in one ring, and one of them in base64 with room to spare."""

FRAME_BYTES = 32 << 20
"""One frame of an exchange: as many members as one may know (`view.MOST_MEMBERS`), with all they may tell."""

RECORD_BYTES = ID_BYTES + NAME_BYTES + HOST_BYTES + META_BYTES + 34
"""The largest record in MessagePack: its four longest fields, numbers, and what says where each begins."""

EXCHANGE_BYTES = RECORD_BYTES + NEWS * (BODY_BYTES + 8) + 32
"""The largest exchange without what is known of members: its sender, the news, and a few numbers."""

_LEAST_WORD_BYTES = 2 + 3
assert BODY_BYTES + 16 <= DATAGRAM_BYTES - SEAL_BYTES, "any piece of news fits into one datagram"
assert RECORD_BYTES <= DATAGRAM_BYTES - SEAL_BYTES, "so does all that a member tells of itself"
assert WORDS * _LEAST_WORD_BYTES > DATAGRAM_BYTES, "what fits into a datagram may be in it"

_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029]")
"""What would break a line of a log. Not `str.isprintable`: that differs between releases of Python."""


def word_fault(word: Word) -> str:
    """What is out of bounds in a word of a datagram, "" if nothing is."""
    match word:
        case Ping():
            return ping_fault(word.seq, word.to, word.sender)
        case Relay():
            fault = ping_fault(word.seq, word.to, word.sender)
            return fault or _place(word.host, word.port)
        case Ack():
            return seq_fault(word.seq) or _size("payload", word.payload, PAYLOAD_BYTES)
        case Nack():
            return seq_fault(word.seq)
        case Suspect() | Dead():
            return id_fault("id", word.id) or _incarnation(word.incarnation) or id_fault("by", word.by)
        case Alive():
            return _incarnation(word.incarnation) or facts_fault(word.facts)
        case News():
            return news_fault(word)
        case _:
            assert_never(word)


def facts_fault(facts: Facts) -> str:
    return (
        id_fault("id", facts.id)
        or text_fault("name", facts.name, NAME_BYTES)
        or _place(facts.host, facts.port)
        or _size("meta", facts.meta, META_BYTES)
        or _protocols(facts.protocol_min, facts.protocol_max)
        or number_fault("reconnect timeout", facts.reconnect_timeout_ms, 0, RECONNECT_MAX_MS)
    )


def record_fault(record: Record) -> str:
    return facts_fault(record.facts) or _incarnation(record.incarnation)


def news_fault(news: News) -> str:
    return number_fault("topic", news.topic, 0, TOPIC_MAX) or _size("body", news.body, BODY_BYTES)


def ping_fault(seq: int, to: str, sender: str) -> str:
    return seq_fault(seq) or id_fault("to", to) or id_fault("sender", sender)


def id_fault(field: str, text: str) -> str:
    return text_fault(field, text, ID_BYTES)


def seq_fault(seq: int) -> str:
    return number_fault("seq", seq, 0, SEQ_MAX)


def text_fault(field: str, text: str, most: int) -> str:
    """Not empty, at most so many bytes of UTF-8, and on one line."""
    if not text:
        return f"{field} is empty"
    if len(text) > most or (not text.isascii() and _utf8_size(text) > most):
        return f"{field} is longer than {most} bytes"
    return f"{field} has control characters" if _CONTROL.search(text) else ""


def number_fault(field: str, number: int, least: int, most: int) -> str:
    return "" if least <= number <= most else f"{field} {number} is outside {least}..{most}"


def _utf8_size(text: str) -> int:
    """Lone surrogates, which no UTF-8 has, count as more than any limit."""
    try:
        return len(text.encode())
    except UnicodeEncodeError:
        return FRAME_BYTES


def _incarnation(incarnation: int) -> str:
    return number_fault("incarnation", incarnation, 0, INCARNATION_MAX)


def _size(field: str, body: bytes, most: int) -> str:
    return "" if len(body) <= most else f"{field} has {len(body)} bytes, the limit is {most}"


def _protocols(least: int, most: int) -> str:
    if 1 <= least <= most <= PROTOCOL_LIMIT:
        return ""
    return f"protocols {least} to {most} are no range within 1..{PROTOCOL_LIMIT}"


def _place(host: str, port: int) -> str:
    """The address of one host: names are not looked up here, and gossip is not sent to groups."""
    if len(host) > HOST_BYTES:
        return f"host is longer than {HOST_BYTES} bytes"
    return _host_fault(host) or number_fault("port", port, 1, 65_535)


@lru_cache(maxsize=RECORDS)
def _host_fault(host: str) -> str:
    """The same hosts are in every exchange, and to read its address is the most that a record costs."""
    try:
        return "" if _is_single(host) else f"host {host!r} is no single host's address"
    except ValueError:
        return f"host {host!r} is no IP address"


def _is_single(host: str) -> bool:
    """Raises ValueError for what is no address. A scope (fe80::1%eth0) means nothing on another host."""
    if ":" not in host:
        return _is_single_v4(int(IPv4Address(host)))
    if "%" in host:
        raise ValueError("an address with a scope")
    number = int(IPv6Address(host))
    if number >> 32 == _MAPPED_V4:
        return _is_single_v4(number & _BROADCAST)
    return number != 0 and number >> 120 != 0xFF


def _is_single_v4(number: int) -> bool:
    """Neither "this network" (0/8), nor multicast (224/4), nor everyone here."""
    return number >> 24 != 0 and number >> 28 != 0xE and number != _BROADCAST


_MAPPED_V4 = 0xFFFF
_BROADCAST = 0xFFFFFFFF
