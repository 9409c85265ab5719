"""Changes as those who follow them are told: all, in order, no entry in parts; or that they are gone."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.one_state import OneState

from gemot.server.model.changes import KvChange, KvChanges, Told
from gemot.server.model.command import Command
from gemot.server.model.kv import KvDelete, KvDeletePrefix, KvEntry, KvGet, KvList, KvPurge, KvSet
from gemot.server.model.txn import KvOp, Txn
from gemot.server.model.upkeep import TrimChanges
from gemot.server.state import changes
from gemot.server.state.permission import Operation

KEYS = [b"a", b"a/", b"a/1", b"a/2", b"a/\xff", b"ab", b"b", b"\xff", b"\xff\xff"]
WATCHED = [(b"a/", True), (b"a/1", False), (b"", True), (b"\xff", True), (b"a", False), (b"a", True)]


@pytest.fixture
def one(tmp_path: Path) -> Iterator[OneState]:
    state = OneState(tmp_path)
    yield state
    state.close()


def told(one: OneState, key: bytes, after: int, *, prefix: bool = True) -> Told:
    value, index = one.read(KvChanges(key, prefix, after))
    assert isinstance(value, Told)
    if after:
        news = bool(value.changes or value.compacted)
        assert (index > after) == news, "it wakes who waits if there is news"
    return value


def test_what_happened_to_others_is_not_told(one: OneState) -> None:
    one.apply(KvSet(b"a/1", b"x"), KvSet(b"b", b"x"), KvSet(b"a/1", b"y"), KvDelete(b"b"))
    assert [(c.index, c.key) for c in told(one, b"a/", 0).changes] == [(1, b"a/1"), (3, b"a/1")]
    assert told(one, b"a/", 3) == Told([], 4)
    assert [c.op for c in told(one, b"b", 1, prefix=False).changes] == ["set", "delete"]
    assert told(one, b"a", 0, prefix=False) == Told([], 4), "one key is not those under it"


def test_a_deleted_range_is_told_as_that_part_of_it_that_is_followed(one: OneState) -> None:
    one.apply(KvSet(b"a/1", b"x"), KvDeletePrefix(b"a"))
    assert told(one, b"a/1", 1, prefix=False).changes == [KvChange(2, "delete", b"a/1", None)]
    assert told(one, b"a/", 1).changes == [KvChange(2, "delete-prefix", b"a/", None)]
    assert told(one, b"", 1).changes == [KvChange(2, "delete-prefix", b"a", None)]
    assert told(one, b"b", 1).changes == []


def test_an_entry_is_never_told_in_parts_however_long(one: OneState, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(changes, "TOLD_ROWS", 3)
    many = Txn(tuple(KvOp("set", b"t%d" % n) for n in range(8)))
    one.apply(KvSet(b"t", b""), KvSet(b"u", b""), many, KvSet(b"t", b"1"))
    for settled in (False, True):
        if settled:
            one.state.settle()
        first = told(one, b"", 0)
        assert ([c.index for c in first.changes], first.through) == ([1, 2], 2)
        second = told(one, b"", 2)
        assert ([c.index for c in second.changes], second.through) == ([3] * 8, 3)
        assert [c.index for c in told(one, b"", 3).changes] == [4]


def test_long_values_are_told_in_several_answers(one: OneState, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(changes, "TOLD_BYTES", 100)
    one.apply(*(KvSet(b"%d" % n, bytes(60)) for n in range(3)))
    assert [c.index for c in told(one, b"", 0).changes] == [1]
    assert told(one, b"", 0).through == 1


def test_what_was_trimmed_is_told_as_gone_and_only_to_whom_it_concerns(one: OneState) -> None:
    one.apply(KvSet(b"quiet", b""), *(KvSet(b"busy", b"%d" % n) for n in range(9)), TrimChanges(5))
    assert told(one, b"busy", 3).compacted
    assert told(one, b"busy", 4, prefix=False).compacted
    assert [c.index for c in told(one, b"busy", 5).changes] == [6, 7, 8, 9, 10]
    assert told(one, b"quiet", 1) == Told([], 11), "nothing of it was among what is gone"
    assert told(one, b"quiet", 0).compacted
    one.apply(TrimChanges(10**9))
    assert told(one, b"busy", 8).compacted
    assert told(one, b"busy", 10) == Told([], 12)


@pytest.mark.parametrize("key", [b"jobs/leader", b"jobs/none", b"jobs/gone", b"jobs/range"])
def test_who_begins_at_what_was_read_is_not_told_that_history_is_gone(one: OneState, key: bytes) -> None:
    """Whatever became of keys that begin with it."""
    one.apply(KvSet(b"jobs/leader", b""), KvSet(b"jobs/gone", b""), KvSet(b"jobs/range", b""))
    one.apply(KvDelete(b"jobs/gone"), KvDeletePrefix(b"jobs/range"))
    for sibling in (b"/.queue/1", b"2"):
        one.apply(KvSet(key + sibling, b""), *(KvSet(b"busy", b"%d" % n) for n in range(9)))
        one.apply(KvDelete(key + sibling), TrimChanges(one.index))
        one.apply(KvSet(key + sibling, b"again"))
        _, index = one.read(KvGet(key))
        assert not told(one, key, index, prefix=False).compacted
        _, index = one.read(KvList(key))
        assert not told(one, key, index).compacted


def test_no_more_is_read_than_is_told(one: OneState) -> None:
    many = Txn(tuple(KvOp("set", b"t%d" % n) for n in range(8)))
    one.apply(many, *(KvSet(b"long", bytes([n]) * 400_000) for n in range(10)))
    found = one.read_elsewhere(KvChanges(b"", True, 1))
    assert found.rows == len(found.value.changes) == 2


def test_a_range_deleted_above_what_may_be_seen_is_told_as_its_part(tmp_path: Path) -> None:
    class Rules:
        def allowed(self, _accessor: str, operation: Operation) -> bool:
            return operation.name.startswith(b"a/b/")

    one = OneState(tmp_path)
    one.apply(KvSet(b"a/b/1", b""), KvSet(b"a/c", b""), KvDeletePrefix(b"a/"))
    one.state._authorizer = Rules()
    assert told(one, b"a/b/", 1).changes == [KvChange(3, "delete-prefix", b"a/b/", None)]
    assert [c.key for c in told(one, b"a/", 0).changes] == [b"a/b/1", b"a/"]
    one.close()


def test_entries_without_changes_are_not_taken_for_what_was_trimmed(one: OneState) -> None:
    one.skip(5)
    one.apply(KvSet(b"a", b""))
    assert [c.index for c in told(one, b"", 1).changes] == [6]
    one.apply(TrimChanges(6))
    one.skip(5)
    one.apply(KvSet(b"a", b"1"))
    assert [c.index for c in told(one, b"", 6).changes] == [13]
    assert told(one, b"", 5).compacted


def test_what_is_applied_and_not_committed_yet_is_told_as_well(one: OneState) -> None:
    """Who waits is answered before the batch is committed."""
    one.apply(KvSet(b"a/1", b""))
    one.machine.apply_ahead(
        [one.entry(KvSet(b"a/1", b"1")), one.entry(KvSet(b"b", b"")), one.entry(KvDeletePrefix(b"a"))]
    )
    before = told(one, b"a/", 1)
    assert [(c.index, c.op) for c in before.changes] == [(2, "set"), (4, "delete-prefix")]
    one.state.settle()
    assert told(one, b"a/", 1) == before


def test_a_server_that_lags_tells_nothing_and_does_not_answer_a_wait(one: OneState) -> None:
    one.apply(KvSet(b"a", b""))
    assert one.read(KvChanges(b"a", True, 7)) == (Told([], 1), 1)


COMMANDS = st.one_of(
    st.builds(KvSet, st.sampled_from(KEYS), st.sampled_from([b"", b"1", b"2"])),
    st.builds(KvDelete, st.sampled_from(KEYS)),
    st.builds(KvDeletePrefix, st.sampled_from([b"", b"a", b"a/", b"a/1", b"\xff"])),
    st.builds(
        lambda keys: Txn(tuple(KvOp("set", key, b"t") for key in keys)),
        st.lists(st.sampled_from(KEYS), min_size=1, max_size=4),
    ),
    st.just(KvPurge(2)),
)


@settings(max_examples=150, deadline=None)
@given(
    batches=st.lists(st.lists(COMMANDS, min_size=1, max_size=5), min_size=1, max_size=12),
    watched=st.sampled_from(WATCHED),
    looks=st.lists(st.booleans(), min_size=12, max_size=12),
    most=st.integers(1, 4),
)
def test_who_follows_has_at_each_index_what_a_list_has_then(
    tmp_path_factory: pytest.TempPathFactory,
    batches: list[list[Command]],
    watched: tuple[bytes, bool],
    looks: list[bool],
    most: int,
) -> None:
    one = OneState(tmp_path_factory.mktemp("told"))
    kept, changes.TOLD_ROWS = changes.TOLD_ROWS, most
    followed: dict[bytes, KvEntry] = {}
    after = 0
    try:
        for batch, look in zip(batches, looks, strict=False):
            one.apply(*batch)
            while look:
                found = told(one, watched[0], after, prefix=watched[1])
                assert all(after < change.index <= found.through for change in found.changes)
                assert [c.index for c in found.changes] == sorted(c.index for c in found.changes)
                _follow(followed, found)
                if found.through == after or found.through == one.state.index:
                    after = found.through
                    listed = [e for e in one.value(KvList(watched[0])) if watched[1] or e.key == watched[0]]
                    assert listed == [followed[key] for key in sorted(followed)]
                    break
                after = found.through
    finally:
        changes.TOLD_ROWS = kept
        one.close()


def _follow(followed: dict[bytes, KvEntry], found: Told) -> None:
    for change in found.changes:
        if change.op == "delete-prefix":
            for key in [key for key in followed if key.startswith(change.key)]:
                del followed[key]
        elif change.entry is None:
            followed.pop(change.key, None)
        else:
            followed[change.key] = change.entry
