"""Frames: what goes in comes out however it is cut, and nonsense costs nothing."""

from __future__ import annotations

import contextlib
import struct
import tracemalloc

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gemot.server.model.errors import PeerBroke, TooLarge
from gemot.server.rpc.frame import (
    GREETING,
    MAX_ANSWER_BYTES,
    MAX_FRAME_BYTES,
    MAX_HELLO_BYTES,
    FrameReader,
    Kind,
    frame,
)
from gemot.server.rpc.message import decode_raft

FRAMES = [(Kind.HELLO, b"hi"), (Kind.CALL, b""), (Kind.RAFT, bytes(300)), (Kind.PING, b"")]
STREAM = GREETING + b"".join(frame(kind, body) for kind, body in FRAMES)


@pytest.mark.parametrize("at", range(len(STREAM) + 1))
def test_a_stream_cut_anywhere_gives_the_same_frames(at: int) -> None:
    reader = FrameReader()
    assert reader.feed(STREAM[:at]) + reader.feed(STREAM[at:]) == FRAMES


def test_a_stream_in_single_bytes_gives_the_same_frames() -> None:
    reader = FrameReader()
    assert [f for byte in STREAM for f in reader.feed(bytes([byte]))] == FRAMES


@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.tuples(st.sampled_from(list(Kind)), st.binary(max_size=200)), max_size=8),
    st.lists(st.integers(1, 100), max_size=40),
)
def test_any_frames_survive_any_cutting(frames: list[tuple[Kind, bytes]], cuts: list[int]) -> None:
    data = GREETING + b"".join(frame(kind, body) for kind, body in frames)
    reader = FrameReader()
    found = []
    for size in cuts:
        found += reader.feed(data[:size])
        data = data[size:]
    assert found + reader.feed(data) == frames


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=400), st.booleans())
def test_any_bytes_are_frames_or_a_broken_peer(data: bytes, greeted: bool) -> None:
    with contextlib.suppress(PeerBroke):
        for kind, body in FrameReader(greeted=greeted).feed(data):
            assert frame(kind, body) in data


def test_a_text_that_is_not_utf_8_breaks_the_peer_and_nothing_else() -> None:
    """msgspec raises UnicodeDecodeError then, which is no DecodeError of its own."""
    vote_reply = b"\x95\x02\x01\xa1\xb7\xc3\xc2"
    with pytest.raises(PeerBroke, match="undecodable"):
        decode_raft(vote_reply)


@pytest.mark.parametrize("first", [b"\x16\x03\x01", b"GET / HTTP/1.1\r\n", b"\x00", b"\xff" * 9])
def test_a_stranger_is_refused_by_its_first_byte(first: bytes) -> None:
    with pytest.raises(PeerBroke, match=f"begins with byte {first[0]:#04x}"):
        FrameReader().feed(first)


@pytest.mark.parametrize("length", [0, MAX_FRAME_BYTES + 1, 1 << 31, (1 << 32) - 1])
def test_a_length_out_of_bounds_is_refused_before_anything_is_allocated(length: int) -> None:
    reader = FrameReader()
    reader.feed(GREETING + frame(Kind.HELLO, b""))
    tracemalloc.start()
    try:
        with pytest.raises(PeerBroke, match=f"frame of {length} bytes"):
            reader.feed(struct.pack(">IB", length, Kind.CALL))
        assert tracemalloc.get_traced_memory()[1] < 100_000
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("code", [0, 11, 255])
def test_an_unknown_kind_is_refused_before_its_body_comes(code: int) -> None:
    with pytest.raises(PeerBroke, match=f"unknown frame kind {code}"):
        FrameReader(greeted=True).feed(struct.pack(">IB", 1_000, code))


def test_the_first_frame_of_a_stranger_is_small() -> None:
    with pytest.raises(PeerBroke, match=str(MAX_HELLO_BYTES)):
        FrameReader().feed(GREETING + struct.pack(">IB", MAX_HELLO_BYTES + 1, Kind.HELLO))


def test_after_the_first_frame_larger_ones_are_taken_in_the_same_piece_too() -> None:
    large = bytes(MAX_HELLO_BYTES * 2)
    reader = FrameReader()
    found = reader.feed(GREETING + frame(Kind.HELLO, b"") + frame(Kind.CALL, large))
    assert found == [(Kind.HELLO, b""), (Kind.CALL, large)]


def test_nothing_larger_than_any_peer_takes_is_made() -> None:
    with pytest.raises(TooLarge, match=str(MAX_ANSWER_BYTES)):
        frame(Kind.REPLY, bytes(MAX_ANSWER_BYTES))
