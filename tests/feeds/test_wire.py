"""Events as they are sent, and places as they come back."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gemot.agent.feeds import wire
from gemot.agent.feeds.wire import Place, read_place


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("0-7", Place(7, 0)),
        ("3-1234", Place(1234, 3)),
        ("7", Place(7)),
        ("", None),
        ("-7", None),
        ("3-", None),
        ("a-7", None),
        ("3-7-8", None),
        ("3-٧", None),
        ("1" * 17, None),
        (" 7", None),
    ],
)
def test_a_place_is_read_as_it_was_sent(text: str, place: Place | None) -> None:
    assert read_place(text) == place


def test_an_event_is_of_single_lines_whatever_the_key_holds() -> None:
    event = wire.change(Place(7, 1), [wire.set_item(b'a\n"\xff', b"1"), wire.gone(b"b\r", "delete-prefix")])
    first = b'{"Op":"set","Key":"a\\n\\"\xef\xbf\xbdff","Item":1}'
    second = b'{"Op":"delete-prefix","Key":"b\\r"}'
    assert event == b'event: change\nid: 1-7\ndata: {"Index":7,"Changes":[%b,%b]}\n\n' % (first, second)


@given(st.lists(st.binary(max_size=6) | st.sampled_from([b"\xff", "\ufffd".encode(), "\ufffdff".encode()])))
def test_every_key_shows_as_another_text(keys: list[bytes]) -> None:
    shown = [json.loads(wire.text(key)) for key in keys]
    assert len(set(shown)) == len(set(keys))
    assert [text for key, text in zip(keys, shown, strict=True) if key.isascii()] == [
        key.decode() for key in keys if key.isascii()
    ]


def test_what_carries_no_place_leaves_the_readers_as_it_was() -> None:
    assert b"id:" not in wire.compacted("why")
    assert b"id:" not in wire.error("why")
