"""How many entries go into one slice."""

from __future__ import annotations

from gemot.server.pace import FIRST_ENTRIES, MOST_ENTRIES, SLICE_BYTES, SLICE_US, Pace
from gemot.server.raft.types import Entry, EntryKind


def entry(size: int) -> Entry:
    return Entry(1, 1, EntryKind.COMMAND, bytes(size))


def test_full_and_quick_slices_grow_to_the_most() -> None:
    pace, seen = Pace(), []
    while not seen or seen[-1] < MOST_ENTRIES:
        seen.append(pace.entries)
        pace.took(pace.entries, SLICE_US // 2)
    assert seen == [FIRST_ENTRIES, 2 * FIRST_ENTRIES, MOST_ENTRIES]
    pace.took(MOST_ENTRIES, 0)
    assert pace.entries == MOST_ENTRIES


def test_a_slow_slice_makes_the_next_one_as_small_as_fits() -> None:
    pace = Pace()
    pace.took(FIRST_ENTRIES, 4 * SLICE_US)
    assert pace.entries == FIRST_ENTRIES // 4
    pace.took(1, 1_000 * SLICE_US)
    assert pace.entries == 1, "one is always let through"


def test_a_slice_that_is_neither_changes_nothing() -> None:
    pace = Pace()
    for count, us in [(FIRST_ENTRIES - 1, 0), (FIRST_ENTRIES, SLICE_US // 2 + 1), (FIRST_ENTRIES, SLICE_US)]:
        pace.took(count, us)
        assert pace.entries == FIRST_ENTRIES


def test_few_entries_that_were_slow_for_another_reason_do_not_let_more_through() -> None:
    pace = Pace()
    pace.entries = 4
    pace.took(200, SLICE_US + 1)
    assert pace.entries == 4


def test_the_bytes_of_a_slice_are_bounded_before_it_begins() -> None:
    pace = Pace()
    small = [entry(SLICE_BYTES // 4) for _ in range(4)]
    assert pace.cut(small) == small
    assert pace.cut([*small, entry(1)]) == small
    assert pace.cut([entry(SLICE_BYTES * 2), entry(1)]) == [entry(SLICE_BYTES * 2)], "at least one"
    assert pace.cut([entry(1), entry(SLICE_BYTES * 2)]) == [entry(1)]
