"""Server-Sent Events from bytes, however they are cut. Source: WHATWG HTML, section 9.2.6."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gemot.agent.client.sse import EventReader, ServerEvent, TooLong

TOLD = (
    b"retry: 1000\n\n: a comment\n\nevent: change\nid: 0-7\ndata: {}\n\n"
    b"event:bookmark\r\nid:0-8\r\ndata:1\r\ndata:2\r\n\r\nid: 0-9\n\ndata\n\n"
    b"unknown: x\ndata: last\n\ndata: cut"
)
EVENTS = [
    ServerEvent("change", "0-7", b"{}"),
    ServerEvent("bookmark", "0-8", b"1\n2"),
    ServerEvent("message", "", b""),
    ServerEvent("message", "", b"last"),
]


@given(st.lists(st.integers(0, len(TOLD))))
def test_events_are_the_same_however_they_arrive(cuts: list[int]) -> None:
    reader = EventReader()
    bounds = [0, *sorted(cuts), len(TOLD)]
    pieces = [TOLD[start:end] for start, end in pairwise(bounds)]
    assert [event for piece in pieces for event in reader.feed(piece)] == EVENTS


@given(st.binary(max_size=2000))
def test_any_bytes_give_events_or_too_long(data: bytes) -> None:
    reader = EventReader(500)
    try:
        for event in reader.feed(data):
            assert len(event.data) <= 500
    except TooLong:
        assert len(data) > 500


@pytest.mark.parametrize(
    "piece", [b"x" * 100, b"data: x\n" * 12, b": y\n" * 25], ids=["line", "lines", "no data"]
)
def test_an_event_without_an_end_is_cut_off_at_the_bound(piece: bytes) -> None:
    reader = EventReader(1000)
    for _ in range(1000 // len(piece)):
        assert list(reader.feed(piece)) == []
    with pytest.raises(TooLong, match="more than 1000 bytes"):
        list(reader.feed(piece))


def test_the_bound_is_of_one_event_not_of_the_stream() -> None:
    reader = EventReader(1000)
    assert sum(len(list(reader.feed(b"data: " + b"x" * 900 + b"\n\n"))) for _ in range(50)) == 50
