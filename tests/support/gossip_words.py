"""Words of gossip as Hypothesis draws them, all within bounds; the largest of each; how to say anything."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address
from typing import Any

import msgspec
from hypothesis import strategies as st

from gemot.agent.gossip import limits
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
    Status,
    Suspect,
    Word,
)
from gemot.agent.gossip.stream import AskRing, Exchange, Refused, Ring


def _texts(most: int) -> st.SearchStrategy[str]:
    """Up to so many bytes of UTF-8, on one line."""
    letters = st.characters(codec="utf-8", exclude_categories=("Cc", "Zl", "Zp"))
    texts = st.text(letters, min_size=1, max_size=most)
    return texts.map(lambda text: text.encode()[:most].decode("utf-8", "ignore") or "x")


seqs = st.integers(0, limits.SEQ_MAX)
incarnations = st.integers(0, 20) | st.integers(0, limits.INCARNATION_MAX)
ids = st.uuids().map(str) | _texts(ID_BYTES)
v4 = st.integers(1 << 24, (224 << 24) - 1).map(lambda number: str(IPv4Address(number)))
v6 = st.integers(1 << 112, (0xFE << 120) - 1).map(lambda number: str(IPv6Address(number)))
hosts = v4 | v6
ports = st.integers(1, 65_535)
facts = st.builds(
    Facts,
    id=ids,
    name=_texts(NAME_BYTES),
    host=hosts,
    port=ports,
    meta=st.binary(max_size=META_BYTES),
    protocol_min=st.integers(1, 5),
    protocol_max=st.integers(5, limits.PROTOCOL_LIMIT),
)
records = st.builds(Record, facts=facts, incarnation=incarnations, status=st.sampled_from(Status))
news = st.builds(News, topic=st.integers(0, limits.TOPIC_MAX), body=st.binary(max_size=limits.BODY_BYTES))
words: st.SearchStrategy[Word] = st.one_of(
    st.builds(Ping, seq=seqs, to=ids, sender=ids),
    st.builds(Relay, seq=seqs, to=ids, host=hosts, port=ports, sender=ids),
    st.builds(Ack, seq=seqs, payload=st.binary(max_size=limits.PAYLOAD_BYTES)),
    st.builds(Nack, seq=seqs),
    st.builds(Suspect, id=ids, incarnation=incarnations, by=ids),
    st.builds(Alive, incarnation=incarnations, facts=facts),
    st.builds(Dead, id=ids, incarnation=incarnations, by=ids, left=st.booleans(), prune=st.booleans()),
    news,
)
stream_words = st.one_of(
    st.builds(Ping, seq=seqs, to=ids, sender=ids),
    st.builds(Ack, seq=seqs),
    st.builds(
        AskRing,
        what=st.sampled_from(["list", "hold", "release", "install", "use", "remove"]),
        to=ids,
        sender=_texts(NAME_BYTES),
        key=st.text(max_size=limits.KEY_TEXT_BYTES),
        ticket=st.text(max_size=16),
    ),
    st.builds(
        Ring,
        keys=st.lists(st.text(max_size=limits.KEY_TEXT_BYTES), max_size=limits.RING_KEYS).map(tuple),
        ticket=st.text(max_size=16),
    ),
    st.builds(
        Exchange,
        join=st.booleans(),
        sender=facts,
        records=st.lists(records, max_size=6).map(tuple),
        clock=incarnations,
        news=st.lists(news, max_size=3).map(tuple),
    ),
    st.builds(Refused, reason=_texts(limits.REASON_BYTES)),
)

LONG_ID = "ä" * (ID_BYTES // 2)
LARGEST_FACTS = Facts(
    id=LONG_ID,
    name="n" * NAME_BYTES,
    host="2001:0db8:1111:2222:3333:4444:255.255.255.254",
    port=65_535,
    meta=bytes(META_BYTES),
    protocol_min=limits.PROTOCOL_LIMIT,
    protocol_max=limits.PROTOCOL_LIMIT,
    reconnect_timeout_ms=limits.RECONNECT_MAX_MS,
)
LARGEST: list[Word] = [
    Ping(limits.SEQ_MAX, LONG_ID, LONG_ID),
    Relay(limits.SEQ_MAX, LONG_ID, LARGEST_FACTS.host, 65_535, LONG_ID),
    Ack(limits.SEQ_MAX, bytes(limits.PAYLOAD_BYTES)),
    Nack(limits.SEQ_MAX),
    Suspect(LONG_ID, limits.INCARNATION_MAX, LONG_ID),
    Alive(limits.INCARNATION_MAX, LARGEST_FACTS),
    Dead(LONG_ID, limits.INCARNATION_MAX, LONG_ID, True, True),
    News(limits.TOPIC_MAX, bytes(limits.BODY_BYTES)),
]
"""One of each kind, with every field at its bound."""

SOME = Facts("5f2b6c1e-8d1a-4c57-9a3e-0d7f8a6b4c21", "web1", "10.0.0.7", 8301)


def raw(*fields: Any) -> bytes:
    """An array in MessagePack, whatever is in it: what a hostile member could say."""
    return msgspec.msgpack.encode(fields)
