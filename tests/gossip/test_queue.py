"""News is told a bounded number of times, the least told first, and never what is outdated."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from gemot.agent.gossip.queue import MOST, Broadcasts


def queue(**pieces: bytes) -> Broadcasts:
    broadcasts = Broadcasts()
    for subject, data in pieces.items():
        broadcasts.put(subject, data)
    return broadcasts


def test_the_least_told_goes_first_and_of_those_never_told_the_newest() -> None:
    broadcasts = queue(a=b"a", b=b"b")
    assert broadcasts.take(1, 0, 9) == [b"b"]
    assert broadcasts.take(1, 0, 9) == [b"a"]
    broadcasts.put("c", b"c")
    first, *others = broadcasts.take(3, 0, 9)
    assert (first, sorted(others)) == (b"c", [b"a", b"b"])


def test_a_newer_word_about_somebody_takes_the_place_of_the_older() -> None:
    broadcasts = queue(a=b"suspect")
    broadcasts.take(100, 0, 3)
    broadcasts.put("a", b"alive")
    assert [broadcasts.take(100, 0, 3) for _ in range(4)] == [[b"alive"]] * 3 + [[]]


def test_what_does_not_fit_lets_smaller_ones_pass() -> None:
    broadcasts = queue(small=b"1234", large=b"x" * 50)
    assert broadcasts.take(20, 2, 9) == [b"1234"]


def test_the_overhead_of_each_piece_counts() -> None:
    broadcasts = queue(a=b"12", b=b"34", c=b"56")
    assert len(broadcasts.take(8, 2, 9)) == 2


def test_it_never_holds_more_than_its_bound() -> None:
    broadcasts = Broadcasts()
    for number in range(MOST + 10):
        broadcasts.put(str(number), b"x")
    assert len(broadcasts) == MOST
    assert not broadcasts.waits("0"), "the oldest goes"
    assert broadcasts.waits(str(MOST + 9))


def test_the_word_about_oneself_is_never_crowded_out() -> None:
    broadcasts = Broadcasts("me")
    broadcasts.put("me", b"good-bye")
    for number in range(2 * MOST):
        broadcasts.put(str(number), b"x")
    assert broadcasts.waits("me")


@given(
    sizes=st.lists(st.integers(1, 40), min_size=1, max_size=12),
    rooms=st.lists(st.integers(0, 100), max_size=60),
    limit=st.integers(1, 5),
)
def test_no_piece_is_sent_more_often_than_the_limit_and_none_beyond_the_room(
    sizes: list[int], rooms: list[int], limit: int
) -> None:
    broadcasts = Broadcasts()
    for number, size in enumerate(sizes):
        broadcasts.put(str(number), bytes([number]) * size)
    sent: dict[bytes, int] = {}
    for room in rooms:
        taken = broadcasts.take(room, 2, limit)
        assert sum(len(data) + 2 for data in taken) <= room
        assert len(set(taken)) == len(taken)
        for data in taken:
            sent[data] = sent.get(data, 0) + 1
    assert all(count <= limit for count in sent.values())
