"""Whom an agent remembers, and what it makes of the file that says so, whatever is in it."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gemot.agent.gossip.message import ID_BYTES, NAME_BYTES, Status
from gemot.agent.gossip.remembered import (
    FILE_BYTES,
    FORMAT,
    MOST,
    MOST_SERVERS,
    Remembered,
    choose,
    decode,
    encode,
)
from gemot.server.model.errors import BadRequest


def one(number: int, *, server: bool = False, host: str = "") -> Remembered:
    return Remembered(
        f"id{number:05}", f"n{number}", host or f"10.1.{number >> 8}.{number & 255}", 8301, server
    )


def entry(**changes: object) -> dict[str, object]:
    return {"id": "a", "name": "n", "host": "10.0.0.1", "port": 8301, "server": True} | changes


def text(*members: object, format: object = FORMAT) -> bytes:
    return msgspec.json.encode({"format": format, "members": members})


# -- the file --------------------------------------------------------------------------------------


def test_what_is_written_is_read_again() -> None:
    members = (one(1, server=True), one(2), Remembered("x", 'a "name" \\ of ünïcode', "2001:db8::1", 1))
    assert decode(encode(members)) == members
    assert decode(encode(())) == ()


def test_the_longest_file_there_can_be_is_read_again() -> None:
    host = "2001:0db8:0000:0000:0000:0000:255.255.255.255"
    members = tuple(
        Remembered(f"{n:03}" + '"' * (ID_BYTES - 3), '"' * NAME_BYTES, host, 65_535, False)
        for n in range(MOST)
    )
    assert len(encode(members)) <= FILE_BYTES
    assert decode(encode(members)) == members


@pytest.mark.parametrize(
    ("data", "told"),
    [
        (b"", "damaged"),
        (b"\0" * 100, "damaged"),
        (b"null", "damaged"),
        (b"[]", "damaged"),
        (b"{}", "damaged"),
        (b'{"format": 1}', "damaged"),
        (b'{"members": []}', "damaged"),
        (encode((one(1),))[:-4], "damaged"),
        (encode((one(1),)) * 2, "damaged"),
        (b"\xff\xfe" + encode(()), "damaged"),
        (b"[" * 20_000, "damaged"),
        (text(format="1"), "damaged"),
        (text(format=1.5), "damaged"),
        (text(format=None), "damaged"),
        (text(format=FORMAT + 1), f"format is {FORMAT + 1}, this release reads up to {FORMAT}"),
        (b'{"format": 99, "members": "of another kind"}', "format is 99"),
        (text(format=0), "format is 0"),
        (text(format=-1), "format is -1"),
        (b" " * (FILE_BYTES + 1), f"longer than {FILE_BYTES} bytes"),
        (text(*({} for _ in range(3))), "damaged"),
        (text("10.0.0.1:8301"), "damaged"),
        (text(entry(port="8301")), "damaged"),
        (text(entry(port=0)), r"members\[0\] is none: port 0 is outside"),
        (text(entry(), entry(port=65_536)), r"members\[1\] is none: port 65536"),
        (text(entry(port=1 << 80)), "damaged|port"),
        (text(entry(id="")), "id is empty"),
        (text(entry(id="a" * (ID_BYTES + 1))), "id is longer"),
        (text(entry(name="a\nb")), "control characters"),
        (text(entry(name="")), "name is empty"),
        (text(entry(host="")), "no IP address"),
        (text(entry(host="example.com")), "no IP address"),
        (text(entry(host="0.0.0.0")), "no single host"),
        (text(entry(host="224.0.0.1")), "no single host"),
        (text(entry(host="fe80::1%eth0")), "no IP address"),
        (text(entry(host="1" * 1000)), "host is longer"),
        (text(entry()).replace(b'"a"', b'"\\ud800"'), "id|damaged"),
        (text(*(entry(id=str(n)) for n in range(MOST + 1))), f"names {MOST + 1} members"),
    ],
)  # fmt: skip
def test_what_is_no_such_file_is_refused_and_told(data: bytes, told: str) -> None:
    with pytest.raises(BadRequest, match=told):
        decode(data)


def test_fields_of_a_later_release_are_passed_over() -> None:
    data = msgspec.json.encode({"format": 1, "members": [entry(zone="b")], "clock": 7})
    assert [each.id for each in decode(data)] == ["a"]


@given(st.binary(max_size=300))
def test_no_bytes_are_more_than_refused(data: bytes) -> None:
    with pytest.raises(BadRequest):
        decode(data)


@given(st.integers(0, 400), st.integers(0, 255))
def test_a_changed_byte_is_refused_or_within_bounds(at: int, byte: int) -> None:
    data = bytearray(encode(tuple(one(n) for n in range(5))))
    data[at % len(data)] = byte
    try:
        members = decode(bytes(data))
    except BadRequest:
        return
    assert len(members) <= MOST
    assert all(1 <= each.port <= 65_535 for each in members)


# -- whom to remember ------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [Status.ALIVE, Status.SUSPECT, Status.FAILED])
def test_who_may_come_back_is_remembered(status: Status) -> None:
    assert choose([(one(1), status)], ()) == (one(1),)


def test_who_left_is_not_though_it_was_remembered() -> None:
    assert choose([(one(1), Status.LEFT)], [one(1)]) == ()


def test_servers_stand_first() -> None:
    known = [(one(1), Status.ALIVE), (one(3, server=True), Status.FAILED), (one(2), Status.ALIVE)]
    assert choose(known, ()) == (one(3, server=True), one(1), one(2))


def test_the_unmet_stay_but_where_another_is_now() -> None:
    wiped = Remembered("new", "n1", one(1).host, 8301)
    assert choose([(wiped, Status.ALIVE)], [one(1), one(2)]) == (one(2), wiped)


def test_what_is_known_now_goes_before_what_was_remembered() -> None:
    moved = one(1, host="10.9.9.9")
    assert choose([(moved, Status.ALIVE)], [one(1)]) == (moved,)


def test_of_many_those_that_are_here_are_remembered() -> None:
    here = [(one(n), Status.ALIVE) for n in range(500, 500 + MOST - 1)]
    gone = [(one(n), Status.FAILED) for n in range(200)]
    chosen = choose([*gone, *here], [one(n) for n in range(1000, 1200)])
    assert set(chosen) == {each for each, _ in here} | {one(0)}


def test_servers_that_somebody_invents_leave_room_for_members() -> None:
    invented = [(one(n, server=True), Status.ALIVE) for n in range(1000)]
    members = [(one(n), Status.ALIVE) for n in range(2000, 2050)]
    chosen = choose([*invented, *members], ())
    assert len([each for each in chosen if each.server]) == MOST_SERVERS
    assert set(chosen) >= {each for each, _ in members}


def test_one_that_fails_and_is_back_changes_nothing_to_be_written() -> None:
    before = choose([(one(1), Status.ALIVE), (one(2), Status.ALIVE)], ())
    assert choose([(one(2), Status.ALIVE), (one(1), Status.FAILED)], ()) == before


@given(
    st.lists(st.tuples(st.integers(0, 400), st.booleans(), st.sampled_from(Status)), max_size=300),
    st.lists(st.integers(0, 600), max_size=200),
)
def test_a_choice_is_bounded_and_can_be_read_again(
    known: list[tuple[int, bool, Status]], unmet: list[int]
) -> None:
    chosen = choose(
        [(one(number, server=server), status) for number, server, status in known],
        [one(number) for number in unmet],
    )
    assert len(chosen) <= MOST
    assert len({each.id for each in chosen}) == len(chosen)
    assert decode(encode(chosen)) == chosen
