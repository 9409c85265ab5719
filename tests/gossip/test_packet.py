"""Datagrams: what goes in comes out, and a hostile one gives one error, no words, and costs little."""

from __future__ import annotations

import contextlib
import subprocess
import sys
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from support.gossip_words import LARGEST, LARGEST_FACTS, LONG_ID, SOME, raw, words

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
    Relay,
    Suspect,
    Word,
)
from gemot.agent.gossip.packet import FORMAT, PART_BYTES, PLAIN_BYTES, ROOM, decode, encode, pack, word_bytes
from gemot.server.model.errors import BadRequest, PeerBroke

A, B = "a" * 36, "b" * 36
WORDS: list[Word] = [
    Ping(7, A, B),
    Relay(7, A, "10.0.0.1", 8301, B),
    Ack(7, b"here"),
    Nack(7),
    Suspect(A, 3, B),
    Alive(3, SOME),
    Dead(A, 3, B, left=True),
    News(1, b"deploy"),
]
SAMPLE = encode(WORDS)
BOMBS = {
    "array of 4 billion": b"\xdd\xff\xff\xff\xff",
    "map of 4 billion": b"\xdf\xff\xff\xff\xff",
    "text of 4 GiB": b"\xdb\xff\xff\xff\xff",
    "bytes of 4 GiB": b"\xc6\xff\xff\xff\xff",
    "extension of 4 GiB": b"\xc9\xff\xff\xff\xff\x01",
    "arrays 1,000 deep": b"\x91" * 1_000 + b"\x01",
    "maps 1,000 deep": b"\x81\x01" * 1_000 + b"\x01",
    "arrays 60,000 deep": b"\x91" * 60_000 + b"\x01",
}


def of(body: bytes) -> bytes:
    """A datagram of one word of these bytes."""
    return pack([body], limits.RECEIVED_BYTES)


@contextlib.contextmanager
def little_memory(most: int = 400_000) -> Iterator[None]:
    tracemalloc.start()
    try:
        yield
        assert tracemalloc.get_traced_memory()[1] < most
    finally:
        tracemalloc.stop()


# -- what goes in comes out ----------------------------------------------------------------------------


@given(st.lists(words, min_size=1, max_size=12))
@example(WORDS)
@example(LARGEST)
def test_any_words_come_out_as_they_went_in(said: list[Word]) -> None:
    assert decode(encode(said, limits.RECEIVED_BYTES)) == said


def test_a_word_is_encoded_once_for_all_datagrams_it_goes_into() -> None:
    news = word_bytes(News(1, b"deploy"))
    first, second = pack([word_bytes(Nack(1)), news]), pack([word_bytes(Nack(2)), news])
    assert first.endswith(news)
    assert second.endswith(news)


@pytest.mark.parametrize("word", LARGEST, ids=lambda word: type(word).__name__)
def test_the_largest_of_each_word_fits_into_a_datagram(word: Word) -> None:
    part = word_bytes(word)
    assert len(part) + PART_BYTES <= ROOM
    assert decode(pack([part])) == [word]


def test_a_datagram_leaves_room_for_the_seal() -> None:
    assert PLAIN_BYTES + limits.SEAL_BYTES == limits.DATAGRAM_BYTES


def test_as_many_of_the_smallest_words_as_fit_are_taken() -> None:
    nacks: list[Word] = [Nack(0)] * (ROOM // (PART_BYTES + len(word_bytes(Nack(0)))))
    assert decode(encode(nacks)) == nacks


@pytest.mark.parametrize("parts", [[], [b"\x92\x04\x01"] * (limits.WORDS + 1), [bytes(PLAIN_BYTES)]])
def test_too_little_or_too_much_is_not_packed(parts: list[bytes]) -> None:
    with pytest.raises(AssertionError):
        pack(parts)


# -- bounds: the same for what is sent and what is received --------------------------------------------

BEYOND: list[tuple[str, Word]] = [
    ("seq", Ping(limits.SEQ_MAX + 1, A, B)),
    ("seq", Relay(limits.SEQ_MAX + 1, A, "10.0.0.1", 8301, B)),
    ("seq", Ack(limits.SEQ_MAX + 1)),
    ("seq", Nack(limits.SEQ_MAX + 1)),
    ("seq", Nack(-1)),
    ("to", Ping(1, "", B)),
    ("to", Ping(1, LONG_ID + "x", B)),
    ("sender", Ping(1, A, "")),
    ("sender", Ping(1, A, B + "\n")),
    ("to", Relay(1, "", "10.0.0.1", 8301, B)),
    ("sender", Relay(1, A, "10.0.0.1", 8301, "")),
    ("host", Relay(1, A, "localhost", 8301, B)),
    ("port", Relay(1, A, "10.0.0.1", 0, B)),
    ("port", Relay(1, A, "10.0.0.1", 65_536, B)),
    ("payload", Ack(1, bytes(limits.PAYLOAD_BYTES + 1))),
    ("id", Suspect("", 1, B)),
    ("incarnation", Suspect(A, -1, B)),
    ("incarnation", Suspect(A, limits.INCARNATION_MAX + 1, B)),
    ("by", Suspect(A, 1, "x" * (ID_BYTES + 1))),
    ("id", Dead("\x7f", 1, B)),
    ("incarnation", Dead(A, limits.INCARNATION_MAX + 1, B)),
    ("by", Dead(A, 1, "")),
    ("incarnation", Alive(limits.INCARNATION_MAX + 1, SOME)),
    ("topic", News(limits.TOPIC_MAX + 1, b"")),
    ("topic", News(-1, b"")),
    ("body", News(1, bytes(limits.BODY_BYTES + 1))),
]
BEYOND_FACTS: list[tuple[str, dict[str, Any]]] = [
    ("id", {"id": ""}),
    ("id", {"id": LONG_ID + "x"}),
    ("name", {"name": ""}),
    ("name", {"name": "n" * (NAME_BYTES + 1)}),
    ("name", {"name": "ä" * NAME_BYTES}),
    ("name", {"name": "web1\nERROR: forged"}),
    ("name", {"name": "web1\u2028"}),
    ("host", {"host": ""}),
    ("host", {"host": LARGEST_FACTS.host + "0"}),
    ("host", {"host": "1" * 60_000}),
    ("port", {"port": 0}),
    ("port", {"port": -1}),
    ("port", {"port": 1 << 40}),
    ("meta", {"meta": bytes(META_BYTES + 1)}),
    ("protocols", {"protocol_min": 0}),
    ("protocols", {"protocol_min": 2, "protocol_max": 1}),
    ("protocols", {"protocol_max": 256}),
]
for _field, _change in BEYOND_FACTS:
    BEYOND.append((_field, Alive(1, msgspec.structs.replace(SOME, **_change))))


NO_ADDRESSES = [
    "web1",
    "10.0.0",
    "10.0.0.256",
    "010.0.0.1",
    "10.0.0.1 ",
    "10.0.0.1/8",
    "10.0.0.1:8301",
    "-1.0.0.1",
]
NO_ADDRESSES += [
    "0x0a000001",
    "167772161",
    "٠.0.0.1",
    "\x00",
    "1::2::3",
    ":",
    "[::1]",
    "fe80::1%eth0",
    "::1%",
]
NOWHERE = ["0.0.0.0", "0.1.2.3", "224.0.0.1", "239.255.255.255", "255.255.255.255", "::", "ff02::1"]
NOWHERE += ["::ffff:224.0.0.1", "::ffff:0.0.0.0"]


@pytest.mark.parametrize(("field", "word"), BEYOND)
def test_a_field_out_of_bounds_is_neither_sent_nor_taken(field: str, word: Word) -> None:
    with pytest.raises(BadRequest, match=f"{type(word).__name__}: {field} "):
        word_bytes(word)
    with pytest.raises(PeerBroke, match=f"word 1, {type(word).__name__}: {field} "):
        decode(of(msgspec.msgpack.encode(word)))


def test_a_text_that_no_utf_8_has_is_not_sent() -> None:
    with pytest.raises(BadRequest, match="sender is longer"):
        word_bytes(Ping(1, A, "\ud800"))


def test_what_is_shown_of_a_fault_is_short_and_on_one_line() -> None:
    for _, word in BEYOND:
        with pytest.raises(PeerBroke) as caught:
            decode(of(msgspec.msgpack.encode(word)))
        assert len(caught.value.message) < 200
        assert "\n" not in caught.value.message


@pytest.mark.parametrize(
    "host", ["10.0.0.1", "127.0.0.1", "240.0.0.1", "::1", "fd00::1", "FE80::1", "::ffff:10.0.0.1"]
)
def test_the_address_of_one_host_is_taken(host: str) -> None:
    word = Alive(1, msgspec.structs.replace(SOME, host=host))
    assert decode(encode([word])) == [word]


@pytest.mark.parametrize("host", NO_ADDRESSES)
def test_what_is_no_address_is_refused(host: str) -> None:
    with pytest.raises(PeerBroke, match="is no IP address"):
        decode(of(msgspec.msgpack.encode(Alive(1, msgspec.structs.replace(SOME, host=host)))))


@pytest.mark.parametrize("host", NOWHERE)
def test_gossip_is_not_sent_to_groups_or_to_nowhere(host: str) -> None:
    """One lie about an address would have every member send there."""
    with pytest.raises(PeerBroke, match="is no single host's address"):
        decode(of(msgspec.msgpack.encode(Alive(1, msgspec.structs.replace(SOME, host=host)))))


# -- hostile datagrams ---------------------------------------------------------------------------------


@pytest.mark.parametrize("at", range(len(SAMPLE)))
def test_a_datagram_cut_anywhere_is_refused_but_between_words(at: int) -> None:
    """Between two words nobody can tell, unless it is sealed."""
    if at in {len(encode(WORDS[:count])) for count in range(1, len(WORDS))}:
        assert decode(SAMPLE[:at]) == WORDS[: len(decode(SAMPLE[:at]))]
        return
    with pytest.raises(PeerBroke):
        decode(SAMPLE[:at])


@pytest.mark.parametrize("at", range(len(SAMPLE)))
def test_any_flipped_bit_gives_words_within_bounds_or_the_one_error(at: int) -> None:
    for bit in range(8):
        flipped = bytearray(SAMPLE)
        flipped[at] ^= 1 << bit
        with contextlib.suppress(PeerBroke):
            for word in decode(bytes(flipped)):
                assert limits.word_fault(word) == ""


@given(st.binary(max_size=300))
def test_any_bytes_are_words_or_the_one_error(data: bytes) -> None:
    for datagram in (data, bytes((FORMAT,)) + data, of(data) if data else b""):
        with contextlib.suppress(PeerBroke):
            assert decode(encode(decode(datagram), limits.RECEIVED_BYTES))


@given(st.recursive(st.none() | st.integers(-(1 << 63), (1 << 64) - 1) | st.text() | st.binary(), st.lists))
def test_any_value_is_a_word_or_the_one_error(value: Any) -> None:
    with contextlib.suppress(PeerBroke):
        assert decode(of(msgspec.msgpack.encode(value)))


@pytest.mark.parametrize(
    ("datagram", "says"),
    [
        (b"", "without words"),
        (bytes((FORMAT,)), "without words"),
        (b"\x00" + SAMPLE[1:], "of format 0"),
        (b"\x02" + SAMPLE[1:], "of format 2"),
        (b"\xf4" + SAMPLE[1:], "of format 244"),
        (bytes((FORMAT, 0xFF)), "breaks off in word 1"),
        (SAMPLE + b"\x00", "breaks off in word 9"),
        (SAMPLE + b"\xff\xff\x92", "breaks off in word 9"),
        (bytes((FORMAT, 0, 0)), "word 1 is undecodable"),
        (bytes((FORMAT,)) + b"\x00\x03\x92\x04\x01" * (limits.WORDS + 1), "more than 512 words"),
        (bytes((FORMAT,)) + bytes(limits.RECEIVED_BYTES), "65508 bytes, the limit is 65507"),
    ],
)
def test_a_datagram_of_another_shape_is_refused(datagram: bytes, says: str) -> None:
    with pytest.raises(PeerBroke, match=says):
        decode(datagram)


def test_too_many_words_are_refused_before_one_is_decoded() -> None:
    """The word behind the last one allowed is nonsense, and so is the first: the count is what is told."""
    with pytest.raises(PeerBroke, match="more than 512 words"):
        decode(bytes((FORMAT,)) + b"\x00\x01\xc1" * (limits.WORDS + 1))


@pytest.mark.parametrize("at", range(len(WORDS)))
def test_one_bad_word_spoils_the_rest(at: int) -> None:
    parts = [word_bytes(word) for word in WORDS]
    parts[at] = raw(4, -1)
    with pytest.raises(PeerBroke, match=f"word {at + 1}, Nack: seq"):
        decode(pack(parts))


@pytest.mark.parametrize(
    "body", [raw(0, 1), raw(9, 1), raw("4", 1), raw(None, 1), raw(), raw(4), raw([4], 1)]
)
def test_a_word_of_no_known_kind_is_refused(body: bytes) -> None:
    with pytest.raises(PeerBroke, match="undecodable"):
        decode(of(body))


@pytest.mark.parametrize("word", WORDS, ids=lambda word: type(word).__name__)
@pytest.mark.parametrize("wrong", [None, 1.0, -1, "", [], {}, True, b"", msgspec.msgpack.Ext(1, b"x")])
def test_a_field_of_a_wrong_type_is_refused(word: Word, wrong: Any) -> None:
    fields = msgspec.msgpack.decode(msgspec.msgpack.encode(word))
    for at in range(1, len(fields)):
        if type(wrong) is type(fields[at]):
            continue
        with pytest.raises(PeerBroke):
            decode(of(raw(*fields[:at], wrong, *fields[at + 1 :])))


@pytest.mark.parametrize("word", WORDS, ids=lambda word: type(word).__name__)
@pytest.mark.parametrize("bomb", BOMBS)
def test_a_bomb_in_any_place_is_refused_and_costs_little(word: Word, bomb: str) -> None:
    """Believed lengths and nesting that overflows (memberlist #357, #361), also behind the last field."""
    fields = msgspec.msgpack.decode(msgspec.msgpack.encode(word))
    for at in range(len(fields) + 1):
        head = bytes((0x90 | (len(fields) + 1),)) + b"".join(map(msgspec.msgpack.encode, fields[:at]))
        datagram = of(head + BOMBS[bomb])
        with little_memory(), pytest.raises(PeerBroke):
            decode(datagram)


def test_fields_of_a_later_release_are_skipped() -> None:
    assert decode(of(raw(4, 7, "new", [1, {"a": None}]))) == [Nack(7)]


def test_bytes_behind_a_word_are_refused() -> None:
    with pytest.raises(PeerBroke, match="trailing"):
        decode(of(raw(4, 7) + b"\x01"))


@pytest.mark.parametrize("bad", [b"\xa1\xff", b"\xa2\xc0\x80", b"\xa3\xed\xa0\x80", b"\xa4\xf4\x90\x80\x80"])
def test_a_text_that_is_not_utf_8_is_refused(bad: bytes) -> None:
    """A stray byte, an overlong NUL, a surrogate, beyond Unicode."""
    with pytest.raises(PeerBroke, match="undecodable"):
        decode(of(b"\x94\x01\x01" + bad + b"\xa1b"))


def test_defaults_stand_for_fields_left_out() -> None:
    assert decode(of(raw(6, 3, [A, "web1", "10.0.0.7", 8301]))) == [
        Alive(3, Facts(A, "web1", "10.0.0.7", 8301))
    ]
    assert decode(of(raw(7, A, 3, B))) == [Dead(A, 3, B)]


def test_the_longest_datagram_costs_no_more_than_a_few_of_itself() -> None:
    part = word_bytes(Suspect(A, 1, B))
    datagram = pack([part] * limits.WORDS, limits.RECEIVED_BYTES)
    datagram += (len(datagram) - 1).to_bytes(2, "big") + bytes(100)
    with little_memory(), pytest.raises(PeerBroke):
        decode(datagram)


# -- and at random -------------------------------------------------------------------------------------


def test_twenty_thousand_mutated_packets_crash_nothing() -> None:
    """`make gossip-fuzz` throws a million. The same seed gives the same outcomes."""
    command = [sys.executable, str(Path(__file__).parent / "fuzz.py"), "--packets", "20000", "--seed", "1"]
    first = subprocess.run(command, capture_output=True, text=True, check=False)
    assert first.returncode == 0, first.stdout + first.stderr
    assert "0 crashes" in first.stdout
    again = subprocess.run([*command[:-3], "5000", *command[-2:]], capture_output=True, text=True, check=True)
    same = subprocess.run([*command[:-3], "5000", *command[-2:]], capture_output=True, text=True, check=True)
    assert again.stdout.split("memory")[0] == same.stdout.split("memory")[0]
