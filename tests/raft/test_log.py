"""The log in memory: terms, truncation, saves and their tokens, and what is read from where."""

from __future__ import annotations

import random
from collections.abc import Sequence

import pytest
from support.raft_disk import Disk, Save
from support.raft_group import entry, voters_entry

from gemot.server.raft.log import RaftLog
from gemot.server.raft.types import Batch, Entry, SnapshotMeta

MANY = 1 << 30


def batch(first: int, *terms: int) -> Batch:
    return Batch([entry(term, index, b"x%d" % index) for index, term in enumerate(terms, first)])


def log_on(disk: Disk, window: int = MANY) -> RaftLog:
    return RaftLog(reader=disk, snapshot=disk.snapshot, last_index=disk.durable.last, window_bytes=window)


def disk_with(*terms: int, base: int = 0) -> Disk:
    disk = Disk()
    if base:
        disk.install(SnapshotMeta(base, terms[0], ("a",)))
    disk.durable.entries = [entry(term, index, b"x%d" % index) for index, term in enumerate(terms, base + 1)]
    disk.crash()
    return disk


def take(log: RaftLog, disk: Disk, token: int) -> None:
    disk.save(Save(token, None, log.take(token, MANY)))


# -- saves -------------------------------------------------------------------------------------------


def test_entries_are_durable_only_when_their_save_is() -> None:
    disk = Disk()
    log = log_on(disk)
    log.append(batch(1, 1, 1))
    take(log, disk, 1)
    log.append(batch(3, 1))
    take(log, disk, 2)
    assert log.durable == 0
    log.saved(1)
    assert log.durable == 2
    log.saved(2)
    assert log.durable == 3


def test_a_stale_save_says_nothing_about_entries_that_came_in_its_place() -> None:
    """Bug 4, the ABA race: append, truncate, append as much again, then the first save's word."""
    disk = Disk()
    log = log_on(disk)
    log.append(batch(1, 1, 1, 1, 1))
    take(log, disk, 1)
    log.append(batch(3, 2, 2, 2))
    take(log, disk, 2)
    log.saved(1)
    assert log.durable == 2, "entries 3 and 4 of term 2 are not saved yet"
    log.saved(2)
    assert log.durable == 5


def test_a_truncation_before_the_take_leaves_the_older_entries_to_the_old_save() -> None:
    disk = Disk()
    log = log_on(disk)
    log.append(batch(1, 1, 1, 1))
    take(log, disk, 1)
    log.append(batch(2, 2))
    log.append(batch(2, 3))
    assert log.has_unsaved
    log.saved(1)
    assert log.durable == 1
    taken = log.take(2, MANY)
    assert [(e.index, e.term) for e in taken.entries] == [(2, 3)]


def test_one_word_may_cover_several_saves() -> None:
    disk = Disk()
    log = log_on(disk)
    for token in (1, 2, 3):
        log.append(batch(token, 1))
        take(log, disk, token)
    log.saved(3)
    assert log.durable == 3


def test_a_take_is_cut_at_the_limit_and_goes_on_where_it_stopped() -> None:
    log = log_on(Disk())
    for index in range(1, 6):
        log.append(batch(index, 1))
    size = batch(1, 1).size
    assert [e.index for e in log.take(1, size * 2).entries] == [1, 2]
    assert [e.index for e in log.take(2, size * 2).entries] == [3, 4]
    assert [e.index for e in log.take(3, 1).entries] == [5]


def test_the_batch_that_was_appended_is_the_one_that_is_saved_and_sent() -> None:
    log = log_on(Disk())
    one = batch(1, 1, 1)
    log.append(one)
    assert log.batch_from(1, MANY) is one
    assert log.take(1, MANY) is one


# -- terms -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("terms", [[1], [1, 1, 1], [1, 2, 3], [1, 1, 4, 4, 4, 9], [3] * 40 + [5] * 40])
@pytest.mark.parametrize("base", [0, 7])
def test_terms_are_found_at_the_start_without_reading_every_entry(terms: list[int], base: int) -> None:
    log = log_on(disk_with(*terms, base=base))
    assert [log.term(base + 1 + offset) for offset in range(len(terms))] == terms
    assert log.term(base) == (terms[0] if base else 0)
    assert log.term(base + len(terms) + 1) is None
    assert log.last_term == terms[-1]


def test_below_the_base_no_term_is_known() -> None:
    assert log_on(disk_with(2, 2, base=7)).term(6) is None


def test_a_log_that_starts_before_its_snapshot_keeps_its_older_entries() -> None:
    disk = disk_with(1, 1, 2, 2, 2)
    disk.take_snapshot(SnapshotMeta(4, 2, ("a",)))
    disk.compact(2)
    log = log_on(disk)
    assert log.base == 2
    assert [log.term(i) for i in (1, 2, 3, 4, 5)] == [None, 1, 2, 2, 2]


@pytest.mark.parametrize("through", [1, 2, 4])
def test_an_entry_that_is_gone_is_never_taken_for_held_though_its_term_is_known(through: int) -> None:
    disk = disk_with(1, 1, 2, 2, 2)
    disk.take_snapshot(SnapshotMeta(4, 2, ("a",)))
    disk.compact(through)
    log = log_on(disk)
    assert log.base == through
    assert log.batch_from(log.base + 1, MANY).last == 5


@pytest.mark.parametrize(
    ("index", "term", "expected"),
    [
        (6, 9, 6),
        (6, 4, 6),
        (6, 3, 3),
        (6, 2, 3),
        (6, 1, 2),
        (6, 0, 0),
        (3, 9, 3),
        (99, 9, 6),
        (0, 9, 0),
    ],
)
def test_floor_is_the_highest_place_of_at_most_that_term(index: int, term: int, expected: int) -> None:
    log = log_on(disk_with(1, 1, 2, 4, 4, 4))
    assert log.floor(index, term) == expected


def test_floor_below_the_base_is_what_was_asked() -> None:
    log = log_on(disk_with(2, 2, base=7))
    assert log.floor(5, 1) == 5
    assert log.floor(9, 2) == 9
    assert log.floor(9, 1) == 6, "not even the base agrees: only a snapshot helps"
    assert log.floor(7, 1) == 6


# -- truncation and gaps -----------------------------------------------------------------------------


def test_an_append_replaces_what_stands_there_and_above() -> None:
    log = log_on(Disk())
    log.append(batch(1, 1, 1, 1, 1))
    log.append(batch(3, 2))
    assert log.last == 3
    assert [e.term for e in log.entries(1, 3, MANY)] == [1, 1, 2]


@pytest.mark.parametrize("first", [0, 3])
def test_a_gap_or_an_entry_at_or_below_the_base_is_a_bug(first: int) -> None:
    with pytest.raises(AssertionError):
        log_on(Disk()).append(batch(first, 1))


def test_terms_never_go_back_along_the_log() -> None:
    log = log_on(Disk())
    log.append(batch(1, 3))
    with pytest.raises(AssertionError):
        log.append(batch(2, 2))


def test_truncating_a_voter_set_brings_back_the_one_before() -> None:
    """Bug 14."""
    log = log_on(Disk())
    log.append(Batch([voters_entry(1, 1, "abc")]))
    log.append(Batch([entry(1, 2), voters_entry(1, 3, "abcd")]))
    assert log.voters.latest == ("a", "b", "c", "d")
    log.append(batch(3, 2))
    assert log.voters.latest_index == 1
    assert "".join(log.voters.latest) == "abc"


def test_the_voters_are_found_again_at_the_start() -> None:
    disk = disk_with(1, 1, 1)
    disk.durable.entries[0] = voters_entry(1, 1, "abc")
    disk.durable.entries[2] = voters_entry(1, 3, "abcd")
    disk.crash()
    log = log_on(disk)
    assert log.voters.latest == ("a", "b", "c", "d")
    assert log.voters.at(2) == ("a", "b", "c")
    assert log.voters.at(0) == ()


def test_without_a_voters_entry_above_it_the_snapshot_names_the_voters() -> None:
    log = log_on(disk_with(2, 2, base=7))
    assert log.voters.latest == ("a",)


# -- memory ------------------------------------------------------------------------------------------


def test_what_left_the_memory_is_read_from_the_disk() -> None:
    disk = Disk()
    log = log_on(disk, window=100)
    for index in range(1, 21):
        log.append(batch(index, 1))
        take(log, disk, index)
        log.saved(index)
    log.trim(20)
    assert log.memory_first > 15
    assert log.entries(1, 20, MANY)[0].index == 1
    assert log.batch_from(3, 60).entries[0].index == 3
    assert disk.reads == 2


def test_nothing_that_is_not_durable_leaves_the_memory() -> None:
    log = log_on(Disk(), window=10)
    for index in range(1, 50):
        log.append(batch(index, 1))
    log.trim(0)
    assert log.memory_first == 1


def test_compaction_forgets_terms_and_entries_below_it() -> None:
    disk = Disk()
    log = log_on(disk)
    log.append(batch(1, 1, 1, 2, 2))
    take(log, disk, 1)
    log.saved(1)
    log.compact(3, SnapshotMeta(4, 2, ("a",)))
    assert (log.base, log.term(2), log.term(3), log.term(4)) == (3, None, 2, 2)
    with pytest.raises(AssertionError):
        log.batch_from(3, MANY)


def test_the_log_is_never_cut_above_its_snapshot_or_what_is_durable() -> None:
    log = log_on(Disk())
    log.append(batch(1, 1, 1))
    with pytest.raises(AssertionError):
        log.compact(2, SnapshotMeta(2, 1, ("a",)))


def test_a_reset_forgets_everything_and_every_save_on_its_way() -> None:
    disk = Disk()
    log = log_on(disk)
    log.append(batch(1, 1, 1))
    take(log, disk, 1)
    log.reset(SnapshotMeta(50, 4, ("a", "b")))
    log.saved(1)
    assert (log.base, log.last, log.durable, log.last_term) == (50, 50, 50, 4)
    assert log.voters.latest == ("a", "b")


# -- against a plain list ----------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(20))
def test_any_sequence_of_appends_and_saves_agrees_with_a_plain_list(seed: int) -> None:
    rng = random.Random(seed)
    disk = Disk()
    log = log_on(disk, window=200)
    model: list[Entry] = []
    token = term = 1
    for _ in range(300):
        action = rng.random()
        if action < 0.5:
            if rng.random() < 0.3:
                term += 1
            low = log.durable if term == (model[-1].term if model else 0) else max(log.durable - 3, log.base)
            first = rng.randint(min(low + 1, len(model) + 1), len(model) + 1)
            if first <= len(model):
                term += 1
            new = batch(first, *[term] * rng.randint(1, 4))
            model[first - 1 :] = new.entries
            log.append(new)
        elif action < 0.8 and log.has_unsaved:
            token += 1
            take(log, disk, token)
        elif disk.pending:
            log.saved(disk.finish().token)
            log.trim(log.durable)
        check(log, disk, model, rng)


def check(log: RaftLog, disk: Disk, model: Sequence[Entry], rng: random.Random) -> None:
    assert log.last == len(model)
    assert [log.term(i) for i in range(1, log.last + 1)] == [e.term for e in model]
    assert disk.durable.entries[: log.durable] == list(model[: log.durable]), "durable is what it says"
    if model:
        first = rng.randint(1, len(model))
        found = log.entries(first, len(model), rng.choice((1, 100, MANY)))
        assert found == tuple(model[first - 1 : first - 1 + len(found)])
        assert log.batch_from(first, rng.choice((1, 100, MANY))).entries[0] == model[first - 1]


# -- batches -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("counts", [(1, 1), (7, 8), (8, 8), (15, 1), (20, 3), (65_535, 2), (1, 1, 1)])
def test_a_joined_batch_is_byte_for_byte_what_the_encoder_writes(counts: tuple[int, ...]) -> None:
    parts: list[Batch] = []
    for count in counts:
        first = parts[-1].last + 1 if parts else 1
        parts.append(batch(first, *[1] * count))
    joined = Batch.join(parts)
    assert joined.body == Batch(joined.entries).body
    assert Batch.decode(joined.body).entries == joined.entries
