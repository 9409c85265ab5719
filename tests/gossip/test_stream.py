"""Exchanges over TCP: however a stream is cut, whatever is in it, it is whole words or the one error."""

from __future__ import annotations

import contextlib
import tracemalloc
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.gossip_words import LARGEST_FACTS, LONG_ID, SOME, raw, stream_words

from gemot.agent.gossip import limits
from gemot.agent.gossip.message import NAME_BYTES, Ack, News, Ping, Record, Status
from gemot.agent.gossip.stream import (
    FRAMES,
    GREETING,
    AskRing,
    Exchange,
    FrameReader,
    Refused,
    Ring,
    StreamWord,
    decode,
    frame,
    word_bytes,
)
from gemot.agent.gossip.view import MOST_MEMBERS
from gemot.server.model.errors import BadRequest, PeerBroke, TooLarge
from gemot.server.rpc import frame as rpc

A, B = "a" * 36, "b" * 36
FACTS = msgspec.msgpack.decode(msgspec.msgpack.encode(SOME))
WORDS: list[StreamWord] = [
    Ping(7, A, B),
    Ack(7),
    Exchange(True, SOME, (Record(SOME, 3, Status.SUSPECT),), 9, (News(1, b"deploy"),)),
    Refused("another datacenter"),
]
BODIES = [word_bytes(word) for word in WORDS]
STREAM = GREETING + b"".join(map(frame, BODIES))


@contextlib.contextmanager
def little_memory(most: int = 1_500_000) -> Iterator[None]:
    tracemalloc.start()
    try:
        yield
        assert tracemalloc.get_traced_memory()[1] < most
    finally:
        tracemalloc.stop()


# -- frames --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("at", range(len(STREAM) + 1))
def test_a_stream_cut_anywhere_gives_the_same_frames(at: int) -> None:
    reader = FrameReader()
    assert reader.feed(STREAM[:at]) + reader.feed(STREAM[at:]) == BODIES


def test_a_stream_in_single_bytes_gives_the_same_frames() -> None:
    reader = FrameReader()
    assert [body for byte in STREAM for body in reader.feed(bytes([byte]))] == BODIES


@pytest.mark.parametrize("at", range(len(STREAM)))
def test_a_stream_that_ends_anywhere_gives_only_whole_frames(at: int) -> None:
    found = FrameReader().feed(STREAM[:at])
    assert found == BODIES[: len(found)]
    assert len(found) < len(BODIES)


def test_the_greeting_tells_gossip_from_rpc_and_tls() -> None:
    assert len({GREETING, rpc.GREETING, b"\x16"}) == 3
    with pytest.raises(PeerBroke, match="begins with byte 0x67"):
        FrameReader().feed(rpc.GREETING)
    with pytest.raises(PeerBroke, match=f"begins with byte {GREETING[0]:#04x}"):
        rpc.FrameReader().feed(GREETING)


@pytest.mark.parametrize("first", [b"\x16\x03\x01", b"\x00", b"g", b"\xff" * 9])
def test_a_stranger_is_refused_by_its_first_byte(first: bytes) -> None:
    with pytest.raises(PeerBroke, match=f"begins with byte {first[0]:#04x}"):
        FrameReader().feed(first)


def test_a_side_that_was_greeted_or_greets_itself_expects_none() -> None:
    assert FrameReader(greeted=True).feed(STREAM[1:]) == BODIES


@pytest.mark.parametrize("length", [0, limits.FRAME_BYTES + 1, 1 << 31, (1 << 32) - 1])
def test_a_length_out_of_bounds_is_refused_before_anything_is_allocated(length: int) -> None:
    with little_memory(100_000), pytest.raises(PeerBroke, match=f"frame of {length} bytes"):
        FrameReader().feed(GREETING + length.to_bytes(4, "big"))


def test_a_length_within_bounds_allocates_nothing_before_its_bytes_come() -> None:
    with little_memory(100_000):
        assert FrameReader().feed(GREETING + limits.FRAME_BYTES.to_bytes(4, "big") + bytes(1_000)) == []


def test_a_stream_has_few_frames_however_short() -> None:
    reader = FrameReader()
    assert len(reader.feed(GREETING + frame(b"x") * FRAMES)) == FRAMES
    with pytest.raises(PeerBroke, match=f"more than {FRAMES}"):
        reader.feed(frame(b"x"))


def test_a_lower_limit_may_be_set() -> None:
    assert FrameReader(max_bytes=10).feed(GREETING + frame(bytes(10))) == [bytes(10)]
    with pytest.raises(PeerBroke, match=r"11 bytes is outside 1\.\.10"):
        FrameReader(max_bytes=10).feed(GREETING + frame(bytes(11)))


def test_nothing_larger_than_any_member_takes_is_made() -> None:
    with pytest.raises(TooLarge, match=str(limits.FRAME_BYTES)):
        frame(bytes(limits.FRAME_BYTES + 1))


@given(st.binary(max_size=300), st.booleans())
def test_any_bytes_are_frames_or_a_broken_peer(data: bytes, greeted: bool) -> None:
    with contextlib.suppress(PeerBroke):
        for body in FrameReader(greeted=greeted).feed(data):
            assert frame(body) in data


# -- words ---------------------------------------------------------------------------------------------


@given(stream_words)
def test_any_word_comes_out_as_it_went_in(word: StreamWord) -> None:
    assert decode(word_bytes(word)) == word


def test_a_full_table_of_members_with_all_that_they_may_tell_fits_into_one_exchange() -> None:
    """Else no exchange worked any more, and nobody could join."""
    records = tuple(
        Record(
            msgspec.structs.replace(LARGEST_FACTS, id=f"{number:064}"), limits.INCARNATION_MAX, Status.LEFT
        )
        for number in range(MOST_MEMBERS)
    )
    assert len(msgspec.msgpack.encode(records[0])) <= limits.RECORD_BYTES
    news = (News(1, bytes(limits.BODY_BYTES)),) * limits.NEWS
    whole = Exchange(False, LARGEST_FACTS, records, limits.INCARNATION_MAX, news)
    body = word_bytes(whole)
    assert len(body) <= MOST_MEMBERS * limits.RECORD_BYTES + limits.EXCHANGE_BYTES
    assert FrameReader().feed(GREETING + frame(bytes(limits.SEAL_BYTES) + body))
    assert decode(body) == whole


_RECORD = Record(SOME)
_NEWS = News(1, b"")
BEYOND: list[tuple[str, StreamWord]] = [
    ("seq", Ping(limits.SEQ_MAX + 1, A, B)),
    ("to", Ping(1, "", B)),
    ("sender", Ping(1, A, LONG_ID + "x")),
    ("seq", Ack(-1)),
    ("to", AskRing("list", "", B)),
    ("sender", AskRing("list", A, "")),
    ("sender", AskRing("list", A, "x" * (NAME_BYTES + 1))),
    ("a key is longer", AskRing("use", A, B, "k" * (limits.KEY_TEXT_BYTES + 1))),
    ("ticket", AskRing("use", A, B, "", "t" * 65)),
    ("a key is longer", Ring(("k" * (limits.KEY_TEXT_BYTES + 1),))),
    ("reason", Refused("")),
    ("reason", Refused("x" * (limits.REASON_BYTES + 1))),
    ("reason", Refused("no\nroot logged in")),
    ("host", Exchange(False, msgspec.structs.replace(SOME, host="web1"), (), 0, ())),
    ("clock", Exchange(False, SOME, (), -1, ())),
    ("clock", Exchange(False, SOME, (), limits.INCARNATION_MAX + 1, ())),
    ("member 2: incarnation", Exchange(False, SOME, (_RECORD, Record(SOME, -1)), 0, ())),
    ("member 1: port", Exchange(False, SOME, (Record(msgspec.structs.replace(SOME, port=0)),), 0, ())),
    ("news 2: topic", Exchange(False, SOME, (), 0, (_NEWS, News(256, b"")))),
    ("news 1: body", Exchange(False, SOME, (), 0, (News(1, bytes(limits.BODY_BYTES + 1)),))),
]


@pytest.mark.parametrize(("field", "word"), BEYOND)
def test_a_field_out_of_bounds_is_neither_sent_nor_taken(field: str, word: StreamWord) -> None:
    with pytest.raises(BadRequest, match=f"{type(word).__name__}: {field} "):
        word_bytes(word)
    with pytest.raises(PeerBroke, match=f"{type(word).__name__}: {field} "):
        decode(msgspec.msgpack.encode(word))


@pytest.mark.parametrize("name", ["n" * NAME_BYTES, "ä" * (NAME_BYTES // 2)])
def test_a_member_of_the_longest_name_asks_for_a_ring(name: str) -> None:
    question = AskRing("list", A, name)
    assert decode(word_bytes(question)) == question


def test_one_member_or_piece_of_news_too_many_is_neither_sent_nor_taken() -> None:
    for what, word in [
        ("members", Exchange(False, SOME, (_RECORD,) * (limits.RECORDS + 1), 0, ())),
        ("pieces of news", Exchange(False, SOME, (), 0, (_NEWS,) * (limits.NEWS + 1))),
    ]:
        with pytest.raises(BadRequest, match=what):
            word_bytes(word)
        with pytest.raises(PeerBroke, match="of length <="):
            decode(msgspec.msgpack.encode(word))


@pytest.mark.parametrize("body", BODIES)
def test_a_word_cut_anywhere_is_refused(body: bytes) -> None:
    for at in range(len(body)):
        with pytest.raises(PeerBroke):
            decode(body[:at])


@pytest.mark.parametrize("body", BODIES)
def test_any_flipped_bit_gives_a_word_that_could_be_sent_or_the_one_error(body: bytes) -> None:
    for at in range(len(body)):
        for bit in range(8):
            flipped = bytearray(body)
            flipped[at] ^= 1 << bit
            with contextlib.suppress(PeerBroke):
                assert word_bytes(decode(bytes(flipped)))


@given(st.binary(max_size=200))
def test_any_bytes_are_a_word_or_the_one_error(body: bytes) -> None:
    with contextlib.suppress(PeerBroke):
        assert word_bytes(decode(body))


@pytest.mark.parametrize("claimed", [limits.RECORDS, limits.RECORDS + 1, 1 << 24, (1 << 32) - 1])
@pytest.mark.parametrize("field", ["records", "news"])
def test_a_number_of_members_that_is_not_there_costs_little(claimed: int, field: str) -> None:
    """memberlist #357: a header that claims four billion of something."""
    array = b"\xdd" + claimed.to_bytes(4, "big")
    front = b"\x96\x03\xc2" + msgspec.msgpack.encode(SOME)
    body = front + array if field == "records" else front + b"\x90\x00" + array
    with little_memory(), pytest.raises(PeerBroke):
        decode(body)


@pytest.mark.parametrize("deep", [100, 10_000, 1_000_000])
def test_deep_nesting_is_refused(deep: int) -> None:
    for body in (
        b"\x91" * deep,
        b"\x94\x03\x01\xc4\x00" + b"\x91" * deep + b"\x01",
        b"\x96\x20\xc2" + b"\x91" * deep,
    ):
        with contextlib.suppress(PeerBroke):
            assert decode(body) == Ack(1)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        raw(),
        raw(0),
        raw(5, 1),
        raw("3"),
        raw(32, 1, FACTS, [], 0, []),
        raw(32, True, None, [], 0, []),
        raw(32, True, FACTS, None, 0, []),
        raw(32, True, FACTS, {}, 0, []),
        raw(32, True, FACTS, [None], 0, []),
        raw(32, True, FACTS, [[FACTS, 0, 4]], 0, []),
        raw(32, True, FACTS, [[FACTS, 0, -1]], 0, []),
        raw(32, True, FACTS, [[FACTS, "0"]], 0, []),
        raw(32, True, FACTS, [], 0.0, []),
        raw(32, True, FACTS, [], 0, [[1, b""]]),
        raw(32, True, FACTS, [], 0),
        raw(33, b"reason"),
        raw(3, 7) + b"x",
    ],
)
def test_a_word_of_another_shape_is_refused(body: bytes) -> None:
    with pytest.raises(PeerBroke, match="undecodable"):
        decode(body)


def test_a_body_longer_than_any_frame_is_not_looked_at() -> None:
    with pytest.raises(PeerBroke, match=str(limits.FRAME_BYTES)):
        decode(bytes(limits.FRAME_BYTES + 1))


def test_fields_of_a_later_release_are_skipped() -> None:
    later: list[Any] = [3, 7, b"", {"more": [1, 2]}]
    assert decode(raw(*later)) == Ack(7)
