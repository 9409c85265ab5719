"""The history of keys: what it tells of each index is what was true then, or that it is forgotten."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.naive_state import NaiveState
from support.one_state import OneState

from gemot.server.model.catalog import Node, Register
from gemot.server.model.command import Command
from gemot.server.model.errors import BadRequest, Forbidden, Forgotten, NotFound
from gemot.server.model.health import Check
from gemot.server.model.history import AsOf, KvAsOf, KvRevisions, Revisions
from gemot.server.model.kv import KvDelete, KvDeletePrefix, KvEntry, KvList, KvPurge, KvSet
from gemot.server.model.session import CreateSession, DestroySession, Session
from gemot.server.model.txn import KvOp, Txn
from gemot.server.model.upkeep import ReapTombstones, TrimHistory
from gemot.server.state import history
from gemot.server.state.permission import Operation
from gemot.server.state.scope import LongList

MUCH = 1 << 40
KEEP = TrimHistory(64, 0, MUCH)
KEYS = [b"a", b"a/1", b"a/2", b"\xff"]
PREFIXES = [b"", b"a/", b"a/", b"\xff"]


@contextmanager
def _one() -> Iterator[OneState]:
    with tempfile.TemporaryDirectory() as folder:
        one = OneState(Path(folder))
        one.skip(2)
        try:
            yield one
        finally:
            one.close()


@pytest.fixture
def one() -> Iterator[OneState]:
    with _one() as one:
        yield one


def as_of(one: OneState, index: int, prefix: bytes = b"") -> AsOf:
    found: AsOf = one.value(KvAsOf(prefix, index))
    return found


def log(one: OneState, key: bytes = b"a", before: int = 0, limit: int = 64) -> Revisions:
    found: Revisions = one.value(KvRevisions(key, before, limit))
    return found


def values(rows: list[KvEntry]) -> dict[bytes, tuple[bytes, int, str, int, int]]:
    """What a state at an index is compared by: all but who wrote it, and how often."""
    return {row.key: (row.value, row.flags, row.session, row.create_index, row.modify_index) for row in rows}


# -- one key -----------------------------------------------------------------------------------------


def test_each_revision_says_who_wrote_it_when_and_until_when_it_stood(one: OneState) -> None:
    one.apply(KEEP)
    at = one.index
    one.at_ms = 1_000
    one.result(KvSet(b"a", b"1"), accessor="ann")
    one.at_ms = 2_000
    one.result(KvSet(b"a", b"2"), accessor="bob")
    one.at_ms = 3_000
    one.result(KvDelete(b"a"), accessor="cay")
    second, first = log(one).rows
    assert (first.row.value, first.row.accessor, first.row.at_ms) == (b"1", "ann", 1_000)
    assert (first.op, first.row.modify_index, first.until, first.deleted) == ("create", at + 1, at + 2, False)
    assert (second.row.value, second.row.accessor, second.row.at_ms) == (b"2", "bob", 2_000)
    assert (second.op, second.until, second.deleted) == ("set", at + 3, True)
    assert (second.ended_by, second.ended_ms) == ("cay", 3_000)


def test_a_deleted_range_is_told_alike_before_and_after_its_rows_are_purged(one: OneState) -> None:
    one.apply(KEEP, KvSet(b"d/a", b"1"), KvSet(b"d/b", b"2"))
    one.at_ms = 5_000
    one.result(KvDeletePrefix(b"d/"), accessor="ann")
    one.at_ms = 9_000
    one.apply(KvSet(b"d/a", b"3"), KvSet(b"e", b""))
    indexes = range(one.value(KvRevisions(b"d/a")).since, one.index + 1)
    before = [(log(one, b"d/a"), log(one, b"d/b"), [as_of(one, index) for index in indexes])]
    at = one.index
    while one.result(KvPurge(1)):
        pass
    assert one.file.cursor.execute("select count(*) from kv where key = ?", (b"d/b",)).get == 0
    after = [(log(one, b"d/a"), log(one, b"d/b"), [as_of(one, index) for index in indexes])]
    assert before == after
    (gone,) = log(one, b"d/b").rows
    assert (gone.deleted, gone.until, gone.ended_by, gone.ended_ms) == (True, at - 2, "ann", 5_000)
    one.state.verify()


def test_a_range_that_is_deleted_twice_before_it_is_purged_has_both_ends(one: OneState) -> None:
    one.apply(KEEP, KvSet(b"d/a", b"1"))
    one.apply(KvDeletePrefix(b"d/"))
    first = one.index
    one.apply(KvSet(b"d/b", b"2"))
    one.apply(KvDeletePrefix(b"d/"))
    assert log(one, b"d/a").rows[0].until == first
    assert [row.key for row in as_of(one, first).rows] == []
    assert [row.key for row in as_of(one, first + 1).rows] == [b"d/b"]
    one.apply(KvPurge(1_000))
    assert log(one, b"d/a").rows[0].until == first
    assert one.file.cursor.execute("select count(*) from range_end").get == 0


def test_a_long_range_becomes_history_in_steps_of_a_bounded_size(one: OneState) -> None:
    one.apply(KEEP, *(KvSet(b"d/%04d" % n, b"%d" % n) for n in range(2_000)))
    before = one.index
    one.apply(KvDeletePrefix(b"d/"))
    rows, left = [old_rows(one)], 1
    while left:
        left = one.result(KvPurge(300))
        rows.append(old_rows(one))
        assert (len(as_of(one, before, b"d/0").rows), as_of(one, before + 1).rows) == (1_000, [])
    assert rows == [0, 300, 600, 900, 1_200, 1_500, 1_800, 2_000]
    one.state.verify()


def test_each_of_many_range_deletes_is_the_end_of_what_it_deleted(one: OneState) -> None:
    one.apply(KEEP, KvSet(b"d/first", b""))
    at = one.index
    for n in range(300):
        one.apply(KvDeletePrefix(b"d/"), KvSet(b"d/%03d" % n, b""))
    assert [log(one, b"d/%03d" % n).rows[0].until - at for n in range(299)] == list(range(3, 600, 2))
    for when in (0, 300, 599):
        told = [row.key for row in as_of(one, at + when).rows]
        assert told == ([b"d/first"], [b"d/149"], [])[(0, 300, 599).index(when)]
    assert len(as_of(one, one.index).rows) == 1
    one.apply(KvDeletePrefix(b"d/"))
    while one.result(KvPurge(100)):
        pass
    assert [row.key for row in as_of(one, at + 300).rows] == [b"d/149"]
    one.state.verify()


def test_locks_are_revisions_of_their_own(one: OneState) -> None:
    session = Session("s", "n", lock_delay_ns=0)
    one.apply(KEEP, Register(Node("n", "10.0.0.1"), checks=(Check("", "c", "c", "passing"),)))
    assert one.result(CreateSession(session)) is not None
    one.apply(KvSet(b"a", b"x"), KvSet(b"a", b"x", acquire="s"), KvSet(b"a", b"y", acquire="s"))
    one.apply(DestroySession("s"))
    assert [row.op for row in log(one).rows] == ["unlock", "set", "lock", "create"]


def test_pages_of_revisions_follow_each_other_without_a_gap(one: OneState) -> None:
    one.apply(KEEP, *(KvSet(b"a", b"%d" % n) for n in range(10)))
    whole, found, before = log(one).rows, [], 0
    assert len(whole) == 10
    while True:
        page = log(one, before=before, limit=3)
        found += page.rows
        if not page.more:
            break
        before = page.rows[-1].row.modify_index
    assert found == whole


def test_an_answer_of_large_revisions_is_cut_by_their_bytes(
    one: OneState, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(history, "PAGE_BYTES", 3_000)
    one.apply(KEEP, *(KvSet(b"a", b"%d" % n * 1_000) for n in range(8)))
    page = log(one)
    assert (len(page.rows), page.more) == (2, True)
    assert log(one, before=page.rows[-1].row.modify_index).rows[0].row.value[:1] == b"5"


def test_one_revision_that_fills_an_answer_is_told_and_the_next_page_goes_on(
    one: OneState, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(history, "PAGE_BYTES", 1)
    one.apply(KEEP, KvSet(b"a", b"1"), KvSet(b"a", b"2"), KvDelete(b"a"))
    page = log(one)
    assert ([row.row.value for row in page.rows], page.more) == ([b"2"], True)
    rest = log(one, before=page.rows[0].row.modify_index)
    assert ([row.row.value for row in rest.rows], rest.more) == ([b"1"], False)


# -- bounds ------------------------------------------------------------------------------------------


def test_a_key_that_is_written_often_keeps_its_newest_revisions_and_says_what_is_gone(one: OneState) -> None:
    one.apply(TrimHistory(8, 0, MUCH), KvSet(b"calm", b""))
    began = one.index
    one.apply(*(KvSet(b"a", b"%d" % n) for n in range(200)))
    assert [int(row.row.value) for row in log(one).rows] == list(range(199, 190, -1)), "and the present one"
    then = as_of(one, began + 50)
    assert ([row.key for row in then.rows], then.gone) == ([b"calm"], [b"a"])
    assert as_of(one, began).gone == [b"a"], "the first revision that is left does not say what was before"
    one.state.verify()


@pytest.fixture
def swept_early(monkeypatch: pytest.MonkeyPatch) -> None:
    """Few rows are many, and a sweep takes several commands."""
    monkeypatch.setattr(history, "SWEEP_LEAST", 10)
    monkeypatch.setattr(history, "SWEEP_ROWS", 7)


def sweep(one: OneState, revisions: int, max_bytes: int = MUCH) -> int:
    """As the leader does it; how many commands that took."""
    commands = 0
    while one.state.history_is_overgrown(max_bytes):
        one.apply(TrimHistory(revisions, 0, max_bytes))
        commands += 1
    return commands


def old_rows(one: OneState) -> int:
    count: int = one.file.cursor.execute("select count(*) from old").get
    return count


@pytest.mark.usefixtures("swept_early")
def test_a_sweep_takes_what_is_not_told_any_more_and_nothing_else(one: OneState) -> None:
    one.apply(TrimHistory(8, 0, MUCH), KvSet(b"calm", b"1"), KvSet(b"calm", b"2"))
    since = log(one, b"calm").since
    one.apply(*(KvSet(b"%c" % (97 + n % 3), b"%d" % n) for n in range(200)), KvDelete(b"c"))
    keys = (b"a", b"b", b"c", b"calm")
    indexes = range(since, one.index + 1)
    told = [log(one, key) for key in keys], [as_of(one, index) for index in indexes]
    assert old_rows(one) == 198 + 1
    assert sweep(one, 8) > 5, "in steps"
    assert old_rows(one) == 8 * 3 + 1
    assert ([log(one, key) for key in keys], [as_of(one, index) for index in indexes]) == told
    one.state.verify()
    one.reopen()
    one.state.verify()


@pytest.mark.usefixtures("swept_early")
def test_keys_that_are_written_often_do_not_push_out_what_others_were(one: OneState) -> None:
    one.apply(TrimHistory(8, 0, MUCH), KvSet(b"calm", b"1"), KvSet(b"calm", b"2"))
    since = log(one, b"calm").since
    for n in range(2_000):
        one.apply(KvSet(b"a", b"%d" % n * 10))
        if one.state.history[2] > 5_000:
            one.apply(TrimHistory(8, 0, 5_000))
    assert one.state.history[2] < 5_000 * 5 // 4
    assert log(one, b"calm").since == since
    assert len(log(one, b"calm").rows) == 2


@pytest.mark.usefixtures("swept_early")
def test_far_too_much_is_forgotten_by_age_whatever_a_sweep_would_find(one: OneState) -> None:
    one.apply(TrimHistory(8, 0, MUCH), *(KvSet(b"a", b"%d" % n) for n in range(200)))
    assert one.state.history_is_overgrown(one.state.history[2])
    assert not one.state.history_is_overgrown(one.state.history[2] // 2)
    one.apply(TrimHistory(8, 0, one.state.history[2] // 2))
    assert 90 < old_rows(one) < 110


@pytest.mark.usefixtures("swept_early")
def test_a_lower_bound_is_swept_for_and_a_higher_one_tells_what_is_still_there(one: OneState) -> None:
    one.apply(KEEP, *(KvSet(b"a", b"%d" % n) for n in range(60)))
    assert len(log(one).rows) == 60
    one.apply(TrimHistory(8, 0, MUCH))
    assert len(log(one).rows) == 9
    one.apply(KEEP)
    assert len(log(one, limit=100).rows) > 50
    one.apply(TrimHistory(8, 0, MUCH))
    sweep(one, 8)
    assert old_rows(one) == 8


@pytest.mark.usefixtures("swept_early")
def test_a_key_that_is_made_and_deleted_often_is_bounded_too(one: OneState) -> None:
    one.apply(TrimHistory(8, 0, MUCH))
    for n in range(100):
        one.apply(KvSet(b"a", b"%d" % n), KvDelete(b"a") if n % 2 else KvDeletePrefix(b"a"))
        one.apply(KvPurge(100))
        sweep(one, 8)
    assert old_rows(one) <= 8 + 8 * 3 + 10
    assert as_of(one, one.index - 20).gone == []
    one.state.verify()


@pytest.mark.usefixtures("swept_early")
def test_servers_sweep_alike_however_entries_come_in_batches(tmp_path: Path) -> None:
    first, second = OneState(tmp_path, name="1.db"), OneState(tmp_path, name="2.db")
    commands: list[Command] = [TrimHistory(4, 0, MUCH)]
    for n in range(400):
        key = b"%d" % (n * n % 7)
        commands.append(KvDelete(key) if n % 11 == 0 else KvSet(key, b"%d" % n))
        if n % 20 == 19:
            commands += [KvDeletePrefix(b"3"), KvPurge(1), TrimHistory(4, 0, MUCH if n % 3 else 6_000)]
    first.apply(*commands)
    for at, command in enumerate(commands):
        second.apply(command)
        if at % 50 == 0:
            second.reopen()
    assert first.state.state_hash == second.state.state_hash
    everything = "select * from old order by until, key"
    rows = first.file.cursor.execute(everything).fetchall()
    assert rows == second.file.cursor.execute(everything).fetchall()
    assert len(rows) < 100, "some were swept away"
    for one in (first, second):
        one.state.verify()
        one.close()


def test_a_key_that_one_transaction_sets_and_deletes_again_keeps_what_it_was(one: OneState) -> None:
    one.apply(KEEP, KvSet(b"a", b"1"))
    sets = KvOp("set", b"a", b"2"), KvOp("delete", b"a")
    one.apply(Txn(sets))
    one.apply(Txn(sets))
    assert [row.row.value for row in log(one).rows] == [b"1"]
    assert [row.value for row in as_of(one, one.index - 2).rows] == [b"1"]
    one.apply(Txn((*sets, KvOp("set", b"a", b"3"))), KvSet(b"a", b"4"))
    assert [(row.row.value, row.row.revision) for row in log(one).rows] == [(b"4", 3), (b"3", 2), (b"1", 1)]
    assert one.file.cursor.execute("select count(*) from absent").get == 0
    one.state.verify()


def test_what_was_before_a_key_was_made_again_is_gone_and_not_told_as_absent(one: OneState) -> None:
    one.apply(TrimHistory(2, 0, MUCH))
    for n in range(4):
        one.apply(KvSet(b"a", b"%d" % n))  # 0 stood from here on,
        one.apply(KvDelete(b"a"))  # to here; and there was none
    absent = one.index - 2
    assert (as_of(one, absent).rows, as_of(one, absent).gone) == ([], [])
    assert [row.value for row in as_of(one, absent - 1).rows] == [b"2"]
    assert (as_of(one, absent - 2).rows, as_of(one, absent - 2).gone) == ([], [])
    assert (as_of(one, absent - 3).rows, as_of(one, absent - 3).gone) == ([], [b"a"])


def test_what_ended_too_long_ago_goes_and_the_horizon_moves_with_it(one: OneState) -> None:
    one.apply(KEEP)
    for at_ms in range(1_000, 11_000, 1_000):
        one.at_ms = at_ms
        one.apply(KvSet(b"a", b"%d" % at_ms), KvSet(b"b", b"%d" % at_ms))
    one.apply(TrimHistory(64, 5_000, MUCH))
    since = log(one).since
    assert [row.row.at_ms for row in log(one).rows] == list(range(10_000, 3_000, -1_000))
    with pytest.raises(
        Forgotten, match=f"the index {since - 1} is forgotten: history is kept from {since} on"
    ):
        as_of(one, since - 1)
    assert len(as_of(one, since).rows) == 2
    assert one.state.history_is_older(5_001)
    assert not one.state.history_is_older(5_000)


def test_all_of_it_stays_within_its_bytes(one: OneState) -> None:
    one.apply(KEEP, *(KvSet(b"a%d" % (n % 50), b"%d" % n * 100) for n in range(1_000)))
    assert one.state.history[2] > 100_000
    for _ in range(3):
        one.apply(TrimHistory(64, 0, 50_000))
    assert 40_000 < one.state.history[2] <= 50_000
    counted = "select sum(length(key) + length(row) + ?) from old"
    assert one.file.cursor.execute(counted, (history.ROW_BYTES,)).get == one.state.history[2]
    one.state.verify()


def test_one_command_forgets_a_bounded_number(one: OneState) -> None:
    one.apply(KEEP, *(KvSet(b"%d" % (n % 100), b"%d" % n) for n in range(history.TRIM_ROWS + 200)))
    one.apply(TrimHistory(64, 0, 0))
    assert one.file.cursor.execute("select count(*) from old").get == 100
    one.apply(TrimHistory(64, 0, 0))
    assert one.file.cursor.execute("select count(*) from old").get == 0


def test_history_that_is_turned_off_goes_and_begins_anew(one: OneState) -> None:
    one.apply(KEEP, KvSet(b"a", b"1"), KvSet(b"a", b"2"))
    one.apply(TrimHistory(0, 0, MUCH), KvSet(b"a", b"3"))
    with pytest.raises(NotFound, match="no history of keys is kept"):
        log(one)
    assert one.file.cursor.execute("select count(*) from old").get == 0
    one.apply(KEEP)
    again = one.index
    one.apply(KvSet(b"a", b"4"))
    assert [row.row.value for row in log(one).rows] == [b"4", b"3"]
    assert log(one).since == again
    one.state.verify()


def test_before_history_begins_rows_and_hash_are_those_of_older_releases(one: OneState) -> None:
    one.result(KvSet(b"a", b"1"), accessor="ann")
    one.result(KvSet(b"a", b"2"), accessor="ann")
    assert one.value(KvList(b"")) == [KvEntry(b"a", b"2", 0, 0, "", 3, 4)]
    assert one.file.cursor.execute("select count(*) from old").get == 0
    with pytest.raises(NotFound):
        as_of(one, one.index)
    one.apply(KEEP)
    assert values(as_of(one, one.index).rows) == values(one.value(KvList(b"")))
    with pytest.raises(Forgotten):
        as_of(one, one.index - 1)


def test_an_index_to_come_is_refused(one: OneState) -> None:
    one.apply(KEEP)
    with pytest.raises(BadRequest, match=f"still to come: the newest is {one.index}"):
        as_of(one, one.index + 1)


def test_long_history_is_not_read_on_the_loop(one: OneState) -> None:
    one.apply(KEEP, *(KvSet(b"a", b"%d" % n) for n in range(40)))
    began = one.index - 39
    for query in (KvAsOf(b"", began), KvAsOf(b"a", began, True), KvRevisions(b"a", began + 1)):
        with pytest.raises(LongList):
            one.state.read(query, "", 10)
        assert one.read_elsewhere(query).value == one.value(query)
    assert one.state.read(KvAsOf(b"a", began, True), "", 64)[0] == as_of(one, began)
    assert one.state.read(KvAsOf(b"", one.index), "", 1)[0] == as_of(one, one.index), "as it is"


def test_how_a_long_prefix_was_takes_a_step_for_each_revision_since(one: OneState) -> None:
    """What was written before the index that is asked for, and what is behind others' chains, is not read."""
    one.apply(KEEP, *(KvSet(b"%d/%d" % (n % 2, n % 500), b"%d" % n) for n in range(5_000)))
    began = one.index
    one.apply(*(KvSet(b"0/%d" % (n % 50 * 2), b"new") for n in range(100)))
    for prefix, keys, steps in ((b"0/", 250, 50), (b"1/", 250, 0), (b"", 500, 50)):
        rows = one.read_elsewhere(KvAsOf(prefix, began)).rows
        assert rows == keys + steps, "a second write of the same value is none"
        one.state.read(KvAsOf(prefix, began), "", rows)
        with pytest.raises(LongList):
            one.state.read(KvAsOf(prefix, began), "", rows - 1)


class _OnlyA:
    """Whoever asks may read the key `a`, and write whatever it likes."""

    def allowed(self, accessor: str, operation: Operation) -> bool:
        return operation.access == "write" or operation.name == b"a"


def test_who_may_not_read_a_key_is_not_told_its_history(tmp_path: Path) -> None:
    one = OneState(tmp_path, authorizer=_OnlyA())
    one.apply(KEEP, *(KvSet(b"%c" % (97 + n % 2), b"%d" % n) for n in range(4)))
    assert [row.key for row in one.read(KvAsOf(b"", one.index), "who")[0].rows] == [b"a"]
    for query in (KvRevisions(b"b"), KvAsOf(b"b", one.index, True)):
        with pytest.raises(Forbidden):
            one.read(query, "who")
    one.close()


# -- any history -------------------------------------------------------------------------------------

_key = st.sampled_from(KEYS)
_value = st.sampled_from([b"", b"x", b"y"])
_sets = st.one_of(
    st.builds(KvSet, key=_key, value=_value, cas=st.none() | st.integers(0, 30)),
    st.builds(KvSet, key=_key, value=_value),
    st.builds(KvSet, key=_key, value=_value, acquire=st.just("s")),
)
_deletes = st.one_of(
    st.builds(KvDelete, key=_key),
    st.builds(KvDeletePrefix, prefix=st.sampled_from(PREFIXES)),
)
_upkeep = st.one_of(
    st.builds(KvPurge, limit=st.integers(1, 2)),
    st.builds(ReapTombstones, through=st.integers(0, 60)),
    st.builds(
        TrimHistory,
        revisions=st.sampled_from([1, 2, 64]),
        before_ms=st.sampled_from([0, 0, 0, 0, 4_000, 15_000]),
        max_bytes=st.sampled_from([MUCH, MUCH, MUCH, 1_500]),
    ),
)
_op = st.builds(
    KvOp, verb=st.sampled_from(["set", "cas", "delete", "delete-tree"]), key=_key, value=_value
) | st.builds(KvOp, verb=st.just("set"), key=_key, value=_value)
_txn = st.builds(Txn, ops=st.lists(_op, min_size=1, max_size=5).map(tuple))
_sessions: st.SearchStrategy[Command] = st.sampled_from(
    [
        CreateSession(Session("s", "n", lock_delay_ns=0, behavior="delete")),
        DestroySession("s"),
    ]
)
_commands = st.lists(st.one_of(_sets, _sets, _deletes, _upkeep, _txn, _sessions), min_size=20, max_size=70)


@settings(max_examples=60, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(_sets | _deletes, max_size=5), _commands, st.sampled_from([1, 2, 64]))
def test_every_state_that_history_tells_is_the_one_that_was(
    early: list[Command], commands: list[Command], revisions: int
) -> None:
    model, past = NaiveState(), {}
    with pytest.MonkeyPatch.context() as patch, _one() as one:
        patch.setattr(history, "SWEEP_LEAST", 1)
        patch.setattr(history, "SWEEP_ROWS", 3)
        node = Register(Node("n", "10.0.0.1"))
        for command in (node, *early, TrimHistory(revisions, 0, MUCH), *commands):
            one.at_ms += 500
            one.apply(command)
            model.apply(command, one.index)
            past[one.index] = values(list(model.kv.values()))
            _compare(one, past)
        one.state.verify()
        one.reopen()
        _compare(one, past)
        counted = one.file.cursor.execute("select sum(length(key) + length(row) + 96) from old").get
        assert (counted or 0) == one.state.history[2]
        _look_at_chains(one)


def _look_at_chains(one: OneState) -> None:
    """What begins in `absent` is there, and is the newest of a key that is not in `kv`."""
    query = """select count(*) from absent a where not exists (
        select 1 from old where old.key = a.key and old.until = a.until and old.revision = a.revision)
        or exists (select 1 from old where old.key = a.key and old.until > a.until)"""
    assert one.file.cursor.execute(query).get == 0
    if one.state.history[0]:
        both = "select count(*) from absent join kv using (key) where until > ?"
        assert one.file.cursor.execute(both, (one.state.history[1],)).get == 0


def _compare(one: OneState, past: dict[int, dict[bytes, tuple[bytes, int, str, int, int]]]) -> None:
    kept, since, _ = one.state.history
    if not kept:
        return
    for index in [index for index in past if index >= since]:
        found = as_of(one, index)
        wanted = {key: row for key, row in past[index].items() if key not in found.gone}
        assert values(found.rows) == wanted, index
        for prefix in PREFIXES[1:]:
            some = as_of(one, index, prefix)
            assert some.rows == [row for row in found.rows if row.key.startswith(prefix)]
            assert some.gone == [key for key in found.gone if key.startswith(prefix)]
        for key in KEYS:
            alone: AsOf = one.value(KvAsOf(key, index, True))
            assert alone.rows == [row for row in found.rows if row.key == key]
    for key in KEYS:
        _compare_log(one, key, past, since)


def _compare_log(
    one: OneState, key: bytes, past: dict[int, dict[bytes, tuple[bytes, int, str, int, int]]], since: int
) -> None:
    """What is listed of a key is what it was for as long as it is said to have been."""
    for revision in log(one, key).rows:
        ended = revision.until or one.index + 1
        for index in range(max(since, revision.row.modify_index), ended):
            assert past[index].get(key) == values([revision.row])[key]
        if revision.until:
            assert (key not in past[revision.until]) == revision.deleted
