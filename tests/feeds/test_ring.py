"""The ring: positions, places, and what is gone."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from gemot.agent.feeds.ring import Ring


def test_a_reader_takes_all_since_its_position_in_one_piece() -> None:
    ring = Ring()
    ring.begin(3)
    for index in (5, 6, 6, 9):
        ring.push(index, b"<%d>" % index)
    assert ring.since(ring.first) == b"<5><6><6><9>"
    assert ring.since(ring.next - 1) == b"<9>"
    assert ring.since(ring.next) == b""


def test_a_reader_goes_on_behind_the_index_that_it_has() -> None:
    ring = Ring()
    ring.begin(3)
    for index in (5, 6, 6, 9):
        ring.push(index, b"<%d>" % index)
    behind = {index: ring.behind(index) for index in (2, 3, 4, 5, 6, 8, 9, 10)}
    assert behind == {2: None, 3: 0, 4: 0, 5: 1, 6: 3, 8: 3, 9: 4, 10: 4}


def test_what_is_gone_is_told_as_gone() -> None:
    ring = Ring(most_events=2, most_bytes=1_000)
    ring.begin(0)
    for index in (1, 2, 3, 4):
        ring.push(index, b"<%d>" % index)
    assert (ring.since(1), ring.since(2)) == (None, b"<3><4>")
    assert (ring.behind(1), ring.behind(2), ring.behind(3)) == (None, 2, 3)


def test_the_newest_event_stays_however_long_it_is() -> None:
    ring = Ring(most_events=8, most_bytes=10)
    ring.begin(0)
    ring.push(1, b"short")
    ring.push(2, b"x" * 50)
    assert ring.since(ring.first) == b"x" * 50
    assert ring.behind(0) is None


def test_nobody_goes_on_over_a_new_beginning() -> None:
    ring = Ring()
    ring.begin(0)
    ring.push(5, b"<5>")
    position = ring.next
    ring.begin(100)
    ring.push(100, b"<snapshot>")
    assert ring.behind(5) is None
    assert ring.since(position) == b"<snapshot>", "who followed is told of it"


@given(
    pushed=st.lists(st.tuples(st.integers(0, 3), st.integers(1, 8)), max_size=40),
    most_events=st.integers(1, 6),
    most_bytes=st.integers(1, 30),
    index=st.integers(0, 60),
)
def test_what_it_gives_is_all_behind_a_place_or_nothing(
    pushed: list[tuple[int, int]], most_events: int, most_bytes: int, index: int
) -> None:
    ring, at, every = Ring(most_events=most_events, most_bytes=most_bytes), 10, []
    ring.begin(at)
    for number, (step, size) in enumerate(pushed):
        at += step
        event = (b"%d," % number) * size
        ring.push(at, event)
        every.append((at, event))
    position = ring.behind(index)
    if position is not None:
        assert index >= 10
        assert ring.since(position) == b"".join(event for of, event in every if of > index)
