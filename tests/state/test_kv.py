"""The rules of keys and values."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from support.one_state import OneState

from gemot.server.model.catalog import Node, Register
from gemot.server.model.errors import RuleFailed
from gemot.server.model.kv import KvDelete, KvDeletePrefix, KvEntry, KvGet, KvKeys, KvList, KvPurge, KvSet
from gemot.server.model.session import CreateSession, Session
from gemot.server.model.upkeep import ReapTombstones
from gemot.server.state import kv, tombstones


@pytest.fixture
def one(tmp_path: Path) -> Iterator[OneState]:
    state = OneState(tmp_path)
    state.skip(10)
    yield state
    state.close()


def test_a_new_key_has_the_index_of_its_write_as_both_its_indexes(one: OneState) -> None:
    assert one.result(KvSet(b"a", b"1", flags=7)) is True
    assert one.read(KvGet(b"a")) == (KvEntry(b"a", b"1", 7, 0, "", 11, 11), 11)


def test_a_second_write_keeps_the_create_index_and_resets_flags(one: OneState) -> None:
    one.apply(KvSet(b"a", b"1", flags=7), KvSet(b"a", b"2"))
    assert one.value(KvGet(b"a")) == KvEntry(b"a", b"2", 0, 0, "", 11, 12)


@pytest.mark.parametrize("flags", [0, 2**31, 2**63 - 1, 2**63, 2**64 - 1])
def test_flags_keep_all_64_bits(one: OneState, flags: int) -> None:
    one.apply(KvSet(b"a", b"", flags=flags))
    assert one.value(KvGet(b"a")).flags == flags
    one.reopen()
    assert one.value(KvList(b""))[0].flags == flags


@pytest.mark.parametrize("key", [b"\x00", b"\xff\xff", b"a\x00b", "käse/ключ".encode(), b"x" * 4096])
def test_keys_are_bytes_of_any_kind(one: OneState, key: bytes) -> None:
    one.apply(KvSet(key, key))
    assert one.value(KvGet(key)).value == key
    assert [e.key for e in one.value(KvList(key[:1]))] == [key]
    assert one.result(KvDelete(key)) is True
    assert one.value(KvList(b"")) == []


def test_a_write_that_changes_nothing_moves_no_index_and_touches_nothing(one: OneState) -> None:
    one.apply(KvSet(b"a", b"1", flags=3))
    before = one.read(KvGet(b"a")), one.at(KvGet(b"missing")), one.at(KvList(b""))
    assert one.touched(KvSet(b"a", b"1", flags=3)) == ()
    assert one.result(KvSet(b"a", b"1", flags=3, cas=11)) is True
    assert (one.read(KvGet(b"a")), one.at(KvGet(b"missing")), one.at(KvList(b""))) == before


@pytest.mark.parametrize(
    ("stored", "cas", "wanted"),
    [(False, 0, True), (False, 5, False), (True, 0, False), (True, 11, True), (True, 10, False)],
    ids=["create", "missing", "exists", "match", "stale"],
)
def test_a_set_with_cas_happens_only_at_its_index(
    one: OneState, stored: bool, cas: int, wanted: bool
) -> None:
    if stored:
        one.apply(KvSet(b"a", b"old"))
    before = one.value(KvGet(b"a"))
    assert one.result(KvSet(b"a", b"new", cas=cas)) is wanted
    after = one.value(KvGet(b"a"))
    assert (after.value == b"new") if wanted else (after == before)


@pytest.mark.parametrize(
    ("stored", "cas", "wanted", "left"),
    [
        (True, None, True, False),
        (False, None, True, False),
        (True, 11, True, False),
        (True, 10, False, True),
        (True, 0, False, True),
        (False, 10, True, False),
    ],
)
def test_a_delete_with_cas_happens_only_at_its_index_and_is_true_for_a_missing_key(
    one: OneState, stored: bool, cas: int | None, wanted: bool, left: bool
) -> None:
    if stored:
        one.apply(KvSet(b"a", b"old"))
    assert one.result(KvDelete(b"a", cas=cas)) is wanted
    assert (one.value(KvGet(b"a")) is not None) is left


def test_deleting_a_missing_key_touches_nothing(one: OneState) -> None:
    assert one.touched(KvDelete(b"a")) == ()
    assert one.touched(KvDeletePrefix(b"a")) == ()
    assert one.at(KvList(b"")) == 1


def test_keys_are_cut_behind_the_first_separator_and_collapse(one: OneState) -> None:
    keys = [b"a", b"a/b", b"a/b/c", b"a/b/d", b"a/c", b"ab", b"b//x"]
    one.apply(*(KvSet(key, b"") for key in keys))
    assert one.value(KvKeys(b"")) == keys
    assert one.value(KvKeys(b"", b"/")) == [b"a", b"a/", b"ab", b"b/"]
    assert one.value(KvKeys(b"a/", b"/")) == [b"a/b", b"a/b/", b"a/c"]
    assert one.value(KvKeys(b"b/", b"/")) == [b"b//"]
    assert one.value(KvKeys(b"a", b"//")) == [b"a", b"a/b", b"a/b/c", b"a/b/d", b"a/c", b"ab"]
    assert one.value(KvKeys(b"zz", b"/")) == []


def test_a_list_ends_with_its_prefix_even_at_the_last_byte(one: OneState) -> None:
    one.apply(*(KvSet(key, b"") for key in [b"a", b"a\xff", b"a\xff\xff\x01", b"b", b"\xff", b"\xff\xff"]))
    assert one.value(KvKeys(b"a\xff")) == [b"a\xff", b"a\xff\xff\x01"]
    assert one.value(KvKeys(b"\xff")) == [b"\xff", b"\xff\xff"]


# -- locks -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("command", "text"),
    [
        (KvSet(b"a", b"", acquire="s1"), 'invalid session "s1"'),
        (KvSet(b"a", b"", acquire=""), "missing session"),
        (KvSet(b"a", b"", release=""), "missing session"),
    ],
)
def test_a_lock_needs_a_session_that_exists(one: OneState, command: KvSet, text: str) -> None:
    error = one.result(command)
    assert isinstance(error, RuleFailed)
    assert error.message == text
    assert one.value(KvGet(b"a")) is None


def test_a_release_of_what_is_not_held_is_false(one: OneState) -> None:
    one.apply(KvSet(b"a", b"1"))
    assert one.result(KvSet(b"a", b"2", release="s1")) is False
    assert one.result(KvSet(b"missing", b"2", release="s1")) is False
    assert one.value(KvGet(b"a")).value == b"1"


@pytest.fixture
def held(one: OneState) -> OneState:
    """Two sessions, s1 and s2, that may hold locks; none is delayed."""
    one.apply(Register(Node("n1", "10.0.0.1")), *[CreateSession(Session(id, "n1")) for id in ("s1", "s2")])
    return one


def entry(one: OneState) -> KvEntry:
    found = one.value(KvGet(b"a"))
    assert isinstance(found, KvEntry)
    return found


def test_the_lock_index_counts_acquisitions_and_survives_release(held: OneState) -> None:
    began = held.index
    first = held.result(KvSet(b"a", b"x", acquire="s1"))
    assert (entry(held).session, entry(held).lock_index) == ("s1", 1)
    assert held.result(KvSet(b"a", b"y", acquire="s1")) == first
    assert (entry(held).value, entry(held).lock_index) == (b"y", 1)
    assert held.result(KvSet(b"a", b"z", acquire="s2")) is False
    assert held.touched(KvSet(b"a", b"", release="s2")) == ()
    assert held.result(KvSet(b"a", b"", release="s1")) is True
    assert entry(held) == KvEntry(b"a", b"", 0, 1, "", began + 1, began + 5, first)
    assert held.result(KvSet(b"a", b"", acquire="s2")) > first
    assert (entry(held).session, entry(held).lock_index) == ("s2", 2)


def test_acquiring_again_with_the_same_value_touches_nothing(held: OneState) -> None:
    fence = held.result(KvSet(b"a", b"x", acquire="s1"))
    assert held.touched(KvSet(b"a", b"x", acquire="s1")) == ()
    assert held.result(KvSet(b"a", b"x", acquire="s1")) == fence


def test_a_plain_write_keeps_the_holder_and_its_fence_and_sets_the_lock_index_to_zero(
    held: OneState,
) -> None:
    fence = held.result(KvSet(b"a", b"x", flags=1, acquire="s1"))
    held.apply(KvSet(b"a", b"x"))
    assert entry(held) == KvEntry(b"a", b"x", 0, 0, "s1", held.index - 1, held.index, fence)
    assert held.result(KvSet(b"a", b"z", cas=held.index)) is True
    assert (entry(held).session, entry(held).fence) == ("s1", fence)


def test_a_deleted_key_is_free_again(held: OneState) -> None:
    fence = held.result(KvSet(b"a", b"x", acquire="s1"))
    held.apply(KvDelete(b"a"))
    assert held.result(KvSet(b"a", b"x", acquire="s2")) > fence
    assert (entry(held).lock_index, entry(held).create_index) == (1, held.index)


# -- range deletes ---------------------------------------------------------------------------------


def test_a_range_delete_hides_its_keys_at_once_and_is_one_row(one: OneState) -> None:
    one.apply(*(KvSet(b"a/%d" % n, b"x") for n in range(20)), KvSet(b"b", b"x"))
    assert one.touched(KvDeletePrefix(b"a/")) == (("kv-prefix", b"a/"),)
    assert one.value(KvKeys(b"")) == [b"b"]
    assert one.value(KvGet(b"a/3")) is None
    assert one.file.cursor.execute("select count(*) from kv").get == 21
    assert one.state.purge_due()


def test_a_key_written_again_after_a_range_delete_is_new(one: OneState) -> None:
    one.apply(KvSet(b"a", b"x"), KvDeletePrefix(b""))
    assert one.result(KvSet(b"a", b"x", cas=11)) is False
    assert one.result(KvSet(b"a", b"x", cas=0)) is True
    assert one.value(KvGet(b"a")) == KvEntry(b"a", b"x", 0, 0, "", 14, 14)


def test_a_delete_of_a_hidden_key_is_no_change(one: OneState) -> None:
    one.apply(KvSet(b"a", b"x"), KvDeletePrefix(b""))
    assert one.touched(KvDelete(b"a", cas=5)) == ()
    assert one.touched(KvDeletePrefix(b"a")) == ()


@pytest.mark.parametrize("narrower", [(), (b"a/1",)], ids=["one mask", "a narrower one within"])
def test_a_range_that_is_hidden_already_is_looked_through_and_not_deleted_again(
    one: OneState, narrower: tuple[bytes, ...]
) -> None:
    """What is counted of it is a rule of transactions, however it is found."""
    one.apply(*(KvSet(b"a/%03d" % n, b"x") for n in range(200)), KvDeletePrefix(b"a/"))
    one.apply(*(KvSet(prefix, b"x") for prefix in narrower), *map(KvDeletePrefix, narrower))
    with one.state.batch() as writing:
        writing.enter(one.index + 1)
        assert kv.delete_prefix(writing, KvDeletePrefix(b"a/"))
        assert writing.scanned == 200 + len(narrower)
        assert writing.changes == []
        assert kv.delete_prefix(writing, KvDeletePrefix(b""))
    one.apply(KvSet(b"a/150", b"x"))
    assert one.touched(KvDeletePrefix(b"a/15")) == (("kv-prefix", b"a/15"),)


def test_a_range_delete_costs_the_same_however_many_keys_are_to_be_seen(one: OneState) -> None:
    one.apply(*(KvSet(b"a/%04d" % n, b"x") for n in range(3_000)), KvDeletePrefix(b"a/1"))
    steps = 0

    def step() -> bool:
        nonlocal steps
        steps += 1
        return False

    one.file.cursor.connection.set_progress_handler(step, 50)
    one.apply(KvDeletePrefix(b"a/2"), KvDeletePrefix(b"a/"))
    one.file.cursor.connection.set_progress_handler(None)
    assert one.value(KvKeys(b"")) == []
    assert steps < 100, "in 50 steps of SQLite each: some 60 of them are as many as 3,000 rows"


def test_purging_goes_in_bounded_steps_and_nobody_sees_it(one: OneState) -> None:
    one.apply(*(KvSet(b"a/%03d" % n, b"x") for n in range(50)), KvDeletePrefix(b"a/"))
    one.apply(KvSet(b"a/007", b"again"), KvSet(b"a/049", b"again"))
    seen = [one.read(q) for q in (KvList(b"a/"), KvList(b""), KvGet(b"a/001"))]
    steps, rows = 0, 52
    while one.state.purge_due():
        (outcome,) = one.apply(KvPurge(10))
        steps += 1
        left = one.file.cursor.execute("select count(*) from kv").get
        assert rows - left <= 12
        rows = left
        assert outcome.touched == ()
        assert [one.read(q) for q in (KvList(b"a/"), KvList(b""), KvGet(b"a/001"))] == seen
    assert steps == 6
    assert one.value(KvKeys(b"a/")) == [b"a/007", b"a/049"]
    one.state.verify()


def test_purging_goes_on_where_it_was_after_a_restart(one: OneState) -> None:
    one.apply(*(KvSet(b"%03d" % n, b"x") for n in range(30)), KvDeletePrefix(b""))
    assert one.result(KvPurge(10)) == 1
    one.reopen()
    assert one.result(KvPurge(10)) == 1
    assert one.result(KvPurge(100)) == 0
    assert one.file.cursor.execute("select count(*) from kv").get == 0
    assert not one.state.purge_due()


def test_a_range_deleted_anew_while_it_is_purged_is_purged_anew(one: OneState) -> None:
    one.apply(*(KvSet(b"%03d" % n, b"x") for n in range(30)), KvDeletePrefix(b""), KvPurge(20))
    one.apply(KvSet(b"001", b"y"), KvDeletePrefix(b""))
    assert one.value(KvKeys(b"")) == []
    assert one.result(KvPurge(1000)) == 0
    assert one.file.cursor.execute("select count(*) from kv").get == 0


# -- indexes ---------------------------------------------------------------------------------------


def test_a_missing_key_answers_the_index_of_the_newest_change_to_any_key(one: OneState) -> None:
    assert one.at(KvGet(b"zz")) == 1
    one.apply(KvSet(b"a", b""))
    one.skip(3)
    assert one.at(KvGet(b"zz")) == 11
    one.apply(KvDelete(b"a"))
    assert one.at(KvGet(b"zz")) == one.at(KvGet(b"a")) == 15


def test_a_prefix_answers_its_newest_row_or_delete(one: OneState) -> None:
    one.apply(KvSet(b"a/1", b""), KvSet(b"a/2", b""), KvSet(b"b", b""))
    assert one.at(KvList(b"a/")) == one.at(KvKeys(b"a/", b"/")) == 12
    assert one.at(KvList(b"")) == 13
    one.apply(KvDelete(b"a/2"))
    assert one.at(KvList(b"a/")) == 14
    assert one.at(KvList(b"a/1")) == 11
    assert one.at(KvList(b"a/2")) == 14
    assert one.at(KvList(b"nothing")) == 14


def test_a_range_delete_shows_in_every_prefix_that_it_overlaps(one: OneState) -> None:
    one.apply(KvSet(b"a/b/1", b""), KvSet(b"a/c", b""), KvSet(b"b", b""), KvDeletePrefix(b"a/b/"))
    for prefix, index in [(b"a/", 14), (b"a/b/", 14), (b"a/b/1", 14), (b"a/c", 12), (b"b", 13), (b"", 14)]:
        assert one.at(KvList(prefix)) == index, prefix
    one.apply(KvPurge(10))
    assert one.at(KvList(b"a/b/1")) == 14
    one.reopen()
    assert one.at(KvList(b"a/b/1")) == 14


def test_a_reaped_tombstone_leaves_a_floor_under_every_prefix(one: OneState) -> None:
    one.apply(KvSet(b"a/1", b""), KvSet(b"a/2", b""), KvDelete(b"a/2"))
    assert one.state.oldest_tombstone() == 13
    one.apply(ReapTombstones(12))
    assert one.state.oldest_tombstone() == 13
    one.apply(ReapTombstones(13))
    assert one.state.oldest_tombstone() == 0
    assert one.file.cursor.execute("select count(*) from tombstone").get == 0
    assert one.at(KvList(b"a/")) == 13
    one.reopen()
    assert one.at(KvList(b"a/")) == 13


def test_a_mask_is_reaped_only_when_it_hides_nothing_any_more(one: OneState) -> None:
    one.apply(KvSet(b"a", b""), KvDeletePrefix(b"a"), ReapTombstones(12))
    assert one.value(KvGet(b"a")) is None
    assert one.state.oldest_tombstone() == 0
    one.apply(KvPurge(10))
    assert one.state.oldest_tombstone() == 12
    one.apply(ReapTombstones(12))
    assert one.state.oldest_tombstone() == 0
    assert one.at(KvList(b"a")) == 12
    one.state.verify()


def test_tombstones_that_one_reap_could_not_remove_go_with_later_deletes(
    one: OneState, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tombstones, "REAP_ROWS", 3)
    for n in range(10):
        one.apply(KvSet(b"%d" % n, b""), KvDelete(b"%d" % n))
    newest = one.index
    one.apply(ReapTombstones(newest))
    assert one.file.cursor.execute("select count(*) from tombstone").get == 7
    assert one.at(KvList(b"3")) == newest, "the floor counts for those left behind, too"
    for n in range(4):
        one.apply(KvSet(b"x%d" % n, b""), KvDelete(b"x%d" % n))
    assert one.file.cursor.execute("select count(*) from tombstone where idx <= ?", (newest,)).get == 0
    one.state.verify()


def test_a_key_deleted_again_has_one_tombstone_the_newest(one: OneState) -> None:
    one.apply(KvSet(b"a", b""), KvDelete(b"a"), KvSet(b"a", b""), KvDelete(b"a"), KvSet(b"b", b""))
    assert one.file.cursor.execute("select key, idx from tombstone").get == (b"a", 14)
    assert one.at(KvList(b"a")) == 14
    one.state.verify()


def test_a_reap_never_counts_beyond_its_own_index(one: OneState) -> None:
    one.apply(KvSet(b"a", b""), KvDelete(b"a"), ReapTombstones(10**9))
    assert one.at(KvList(b"a")) <= one.index
