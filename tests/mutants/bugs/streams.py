"""Bugs of push watches: changes that are lost, told twice, in parts, or passed over in silence."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable

from mutants.bug import Patch, bug

from gemot.agent.feeds import feed, reader
from gemot.agent.feeds.feed import Feed
from gemot.agent.feeds.keys import Keys
from gemot.agent.feeds.reader import Reader
from gemot.agent.feeds.ring import Ring
from gemot.agent.feeds.wire import Place
from gemot.server import reads
from gemot.server.model.changes import KvChange, KvChanges, Told
from gemot.server.model.query import Answer
from gemot.server.state import changes
from gemot.server.state.scope import ChangeRow, Reading

TOLD = "tests/state/test_told.py"
READS = "tests/server/test_reads.py"
LONG = "tests/server/test_long_lists.py"
RING = "tests/feeds/test_ring.py"
READERS = "tests/feeds/test_reader.py"


@bug(38, tests=(TOLD,))
def an_entry_is_told_in_parts(patch: Patch) -> None:
    """A transaction longer than what is told at once comes in two answers."""
    behind = changes._behind

    def parted(reading: Reading, query: KvChanges) -> tuple[list[ChangeRow], bool]:
        most, changes.TOLD_ROWS = changes.TOLD_ROWS, 1 << 30
        try:
            rows, more = behind(reading, query)
        finally:
            changes.TOLD_ROWS = most
        return rows[:most], more or len(rows) > most

    patch.setattr(changes, "_behind", parted)


@bug(38, tests=(TOLD,))
def a_cut_answer_says_that_it_tells_all(patch: Patch) -> None:
    """Who asks on behind it never hears of what was cut."""
    told = changes.told

    def all_told(reading: Reading, query: KvChanges) -> tuple[Told, int]:
        found, index = told(reading, query)
        return Told(found.changes, reading.meta.index, found.compacted), index

    patch.setitem(changes.READERS, KvChanges, all_told)
    from gemot.server.state import store

    patch.setitem(store.READERS, KvChanges, all_told)


@bug(38, tests=(TOLD,))
def what_was_trimmed_is_not_missed(patch: Patch) -> None:
    """A reader that comes back too late goes on as if nothing had happened since."""
    patch.setattr(changes, "_is_gone", lambda reading, query: False)


@bug(38, tests=(TOLD,))
def a_range_deleted_above_is_not_told(patch: Patch) -> None:
    """Who follows `a/b/` does not hear that all under `a/` was deleted."""
    patch.setattr(changes, "_BEHIND", changes._BEHIND.replace("or op =", "or false and op ="))

    def of_range(row: ChangeRow, low: bytes, high: bytes | None) -> bool:
        return row[2] == "kv" and row[3] >= low and (high is None or row[3] < high)

    patch.setattr(changes, "_is_meant", of_range)


@bug(38, tests=(TOLD, READS))
def what_is_not_yet_in_the_table_is_not_told(patch: Patch) -> None:
    """Changes of a batch that was applied and is not committed yet are passed over."""
    patch.setattr(changes, "_is_meant", lambda row, low, high: False)


@bug(38, tests=(READS,))
def who_waits_is_told_nothing_of_the_batch_that_woke_it(patch: Patch) -> None:
    """What a waiter is known to have heard ends behind the batch, not before it."""
    behind = reads._behind
    patch.setattr(reads, "_behind", lambda query, quiet_to: behind(query, quiet_to + 1 if quiet_to else 0))


@bug(38, tests=(LONG,))
def who_waits_for_a_long_read_counts_as_told(patch: Patch) -> None:
    """The list is short when it comes to it, and only what is newer than the others' answer is looked for."""
    parts = {name: getattr(reads.Reads, name) for name in ("_evaluate", "_time_out")}

    def owing_nothing(part: Callable[..., None]) -> Callable[..., None]:
        def done(of: reads.Reads, *arguments: object, **named: object) -> None:
            owes, of._lists.owes = of._lists.owes, lambda group: False  # type: ignore[method-assign]
            try:
                part(of, *arguments, **named)
            finally:
                of._lists.owes = owes  # type: ignore[method-assign]

        return done

    for name, part in parts.items():
        patch.setattr(reads.Reads, name, owing_nothing(part))


@bug(38, tests=(RING,))
def a_place_counts_as_not_yet_told(patch: Patch) -> None:
    """Who goes on behind an index is told of that index again."""

    def behind(ring: Ring, index: int) -> int | None:
        if index < ring._complete_from:
            return None
        return ring.first + bisect_left(ring._events, index, key=lambda event: event[0])

    patch.setattr(Ring, "behind", behind)


@bug(38, tests=(RING,))
def the_ring_forgets_that_it_forgets(patch: Patch) -> None:
    """What was dropped from the ring is taken for what never was."""
    push = Ring.push

    def and_keeps_its_beginning(ring: Ring, index: int, event: bytes) -> None:
        began = ring._complete_from
        push(ring, index, event)
        ring._complete_from = began

    patch.setattr(Ring, "push", and_keeps_its_beginning)


@bug(38, tests=(READERS,))
def only_the_newest_event_is_written_at_once(patch: Patch) -> None:
    """A reader that two events wait for is told of the second alone."""

    def take(of: Reader) -> bool:
        ring = of._feed.ring
        if of._write is None or of._position is None:
            return False
        piece = ring.since(ring.next - 1)
        if piece is None or not of._write(piece):
            return False
        of._position, of._place = ring.next, of._feed.place
        return True

    patch.setattr(Reader, "_take", take)


@bug(38, tests=(READERS,))
def what_is_written_at_once_moves_no_position(patch: Patch) -> None:
    """It is sent again when the reader's task wakes."""
    patch.setattr(
        reader.Reader,
        "_take",
        lambda of: bool(of._write and of._write(of._feed.ring.since(of._feed.ring.next - 1) or b"x")),
    )


@bug(40, tests=(READERS,), simulated=False)
def a_place_of_another_epoch_is_gone_on_from(patch: Patch) -> None:
    """After a restore a reader goes on at an index that means something else now."""
    enter = Reader._enter

    async def in_any_epoch(of: Reader) -> bytes:
        if of._place is not None:
            of._place = Place(of._place.index)
        return await enter(of)

    patch.setattr(Reader, "_enter", in_any_epoch)


@bug(40, tests=(READERS,))
def a_restore_to_come_is_taken_for_one_that_was(patch: Patch) -> None:
    """A reader that has seen a restore is led back before it by an agent that has not."""
    to_come = Reader._is_to_come

    def of_this_epoch(of: Reader, place: Place) -> bool:
        return place.epoch in (-1, of._feed.place.epoch) and to_come(of, place)

    patch.setattr(Reader, "_is_to_come", of_this_epoch)


@bug(38, tests=(READERS,), simulated=False)
def servers_that_were_away_are_asked_ever_more_seldom(patch: Patch) -> None:
    """Each outage adds to the wait after the next one, however long the watch went well between them."""
    heard = Keys._heard

    def keep(of: Keys, answer: Answer) -> None:
        kept = of._retry_s
        heard(of, answer)
        of._retry_s = kept

    patch.setattr(Keys, "_heard", keep)


@bug(38, tests=(READERS,))
def a_reader_ahead_of_its_agent_is_told_again(patch: Patch) -> None:
    """An agent that lags tells a reader what that has from another one."""
    enter = Reader._enter

    async def without_waiting(of: Reader) -> bytes:
        if of._place is not None and of._place.index > of._feed.place.index:
            of._place = of._feed.place
        return await enter(of)

    patch.setattr(Reader, "_enter", without_waiting)


@bug(38, tests=(READERS,))
def a_slow_reader_begins_at_the_end(patch: Patch) -> None:
    """What the ring has dropped before a slow reader took it is passed over."""
    next_ = Reader._next

    def skip(of: Reader, position: int) -> bytes:
        return next_(of, max(position, of._feed.ring.first))

    patch.setattr(Reader, "_next", skip)
    take = Reader._take

    def skip_too(of: Reader) -> bool:
        if of._position is not None:
            of._position = max(of._position, of._feed.ring.first)
        return take(of)

    patch.setattr(Reader, "_take", skip_too)


@bug(38, tests=(READERS,))
def a_deleted_range_stays_in_what_new_readers_are_told(patch: Patch) -> None:
    """The copy from which readers begin keeps keys that are gone."""
    take = Keys._take

    def but_ranges(of: Keys, entry: list[KvChange]) -> None:
        take(of, [change for change in entry if change.op != "delete-prefix"])

    patch.setattr(Keys, "_take", but_ranges)


@bug(38, tests=(READERS,))
def a_snapshot_is_kept_after_the_next_change(patch: Patch) -> None:
    """Who begins is told what was there a change ago, as of now."""
    change = feed.Feed.change

    def keep(of: Feed, place: Place, told: list[bytes]) -> None:
        kept = of._sending._now
        change(of, place, told)
        of._sending._now = kept

    patch.setattr(feed.Feed, "change", keep)
