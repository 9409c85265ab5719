"""A write tried twice is applied once, and the second try gets the first one's answer."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.one_state import OneState

from gemot.server.model.command import IdempotencyKey, RetryId
from gemot.server.model.errors import (
    BadRequest,
    Busy,
    Conflict,
    Forbidden,
    OutcomeForgotten,
    OutcomeUnknown,
    RuleFailed,
)
from gemot.server.model.kv import KvDelete, KvGet, KvSet
from gemot.server.model.query import Applied
from gemot.server.model.upkeep import PruneRetries, Tick
from gemot.server.state import retries
from gemot.server.state.permission import Operation

A, B = b"origin-a", b"origin-b"


@pytest.fixture
def one(tmp_path: Path) -> Iterator[OneState]:
    state = OneState(tmp_path)
    state.skip(10)
    yield state
    state.close()


NAMES: list[RetryId | IdempotencyKey] = [RetryId(A, 1, 0), IdempotencyKey("key", b"hash")]
_each_kind = pytest.mark.parametrize("name", NAMES, ids=["retry-id", "idempotency-key"])


@_each_kind
def test_a_second_try_answers_the_first_result_and_index_and_changes_nothing(
    one: OneState, name: RetryId | IdempotencyKey
) -> None:
    first = one.machine.apply([one.entry(KvSet(b"a", b"1", cas=0), name=name)])[0]
    one.apply(KvDelete(b"a"))
    second = one.machine.apply([one.entry(KvSet(b"a", b"1", cas=0), name=name)])[0]
    assert first.result == second.result == Applied(11, True)
    assert (second.index, second.touched) == (13, ())
    assert one.value(KvGet(b"a")) is None


@_each_kind
def test_a_second_try_in_the_same_batch_is_one_write_too(
    one: OneState, name: RetryId | IdempotencyKey
) -> None:
    entries = [one.entry(KvSet(b"a", b"1", cas=0), name=name) for _ in range(3)]
    assert [outcome.result for outcome in one.machine.apply(entries)] == [Applied(11, True)] * 3


@_each_kind
def test_what_was_answered_survives_a_restart_and_a_snapshot(
    one: OneState, name: RetryId | IdempotencyKey, tmp_path: Path
) -> None:
    one.result(KvSet(b"a", b"1", cas=0), name=name)
    one.reopen()
    one.file.snapshot_to(tmp_path / "copy")
    one.result(KvSet(b"b", b"1"))
    one.file.install(tmp_path / "copy")
    one.state.reload()
    one.index = one.state.applied_index
    assert one.result(KvSet(b"a", b"1", cas=0), name=name) is True
    one.state.verify()


@_each_kind
def test_a_refusal_is_remembered_as_well(one: OneState, name: RetryId | IdempotencyKey) -> None:
    command = KvSet(b"a", b"", acquire="none")
    first, second = one.result(command, name=name), one.result(command, name=name)
    assert isinstance(first, RuleFailed)
    assert isinstance(second, RuleFailed)
    assert first.message == second.message


def test_a_write_at_or_below_the_watermark_has_an_unknown_outcome(one: OneState) -> None:
    for sequence in range(1, 4):
        one.result(KvSet(b"%d" % sequence, b""), name=RetryId(A, sequence, 0))
    one.result(KvSet(b"4", b""), name=RetryId(A, 4, 2))
    assert isinstance(one.result(KvSet(b"1", b"again"), name=RetryId(A, 2, 0)), OutcomeUnknown)
    assert isinstance(one.result(KvSet(b"1", b"again"), name=RetryId(A, 2, 2)), OutcomeUnknown)
    assert one.result(KvSet(b"3", b"again"), name=RetryId(A, 3, 2)) is True
    assert one.value(KvGet(b"3")).value == b""
    one.reopen()
    assert isinstance(one.result(KvSet(b"1", b"again"), name=RetryId(A, 2, 0)), OutcomeUnknown)
    one.state.verify()


def test_origins_are_apart(one: OneState) -> None:
    one.result(KvSet(b"a", b"1"), name=RetryId(A, 1, 0))
    one.result(KvSet(b"a", b"2"), name=RetryId(B, 1, 0))
    assert one.value(KvGet(b"a")).value == b"2"
    assert len(one.state.retries) == 2


def test_an_origin_has_a_window_of_unanswered_writes(one: OneState) -> None:
    far = retries.MAX_WINDOW
    assert one.result(KvSet(b"a", b"1"), name=RetryId(A, far, 0)) is True
    assert isinstance(one.result(KvSet(b"a", b"2"), name=RetryId(A, far + 1, 0)), Busy)
    assert one.result(KvSet(b"a", b"3"), name=RetryId(A, far + 1, 1)) is True
    assert one.value(KvGet(b"a")).value == b"3"


def test_a_batch_writes_a_row_an_origin_and_a_block_not_a_row_a_write(one: OneState) -> None:
    names = [RetryId(A, sequence, 0) for sequence in range(1, 64)]
    one.machine.apply([one.entry(KvSet(b"k", b"%d" % n.sequence), name=n) for n in names])
    assert one.file.cursor.execute("select count(*) from retry_origin").get == 1
    assert one.file.cursor.execute("select count(*) from retry").get == 1
    one.result(KvSet(b"k", b""), name=RetryId(A, 64, 63))
    assert one.file.cursor.execute("select block from retry").get == 1
    one.state.verify()


def test_the_same_key_with_another_body_is_a_conflict(one: OneState) -> None:
    one.result(KvSet(b"a", b"1"), name=IdempotencyKey("k", b"one"))
    error = one.result(KvSet(b"a", b"2"), name=IdempotencyKey("k", b"two"))
    assert isinstance(error, Conflict)
    assert 'Idempotency-Key "k" was used for another request (422)' in error.message
    assert one.value(KvGet(b"a")).value == b"1"


def test_keys_are_scoped_by_who_asks(one: OneState) -> None:
    one.result(KvSet(b"a", b"1"), name=IdempotencyKey("k", b"one"), accessor="alice")
    assert one.result(KvSet(b"a", b"2"), name=IdempotencyKey("k", b"two"), accessor="bob") is True
    assert one.value(KvGet(b"a")).value == b"2"


@pytest.mark.parametrize("key", ["", "k" * 256])
def test_a_key_has_a_length(one: OneState, key: str) -> None:
    error = one.result(KvSet(b"a", b"1"), name=IdempotencyKey(key, b""))
    assert isinstance(error, BadRequest)
    assert "1 to 255" in error.message
    assert one.value(KvGet(b"a")) is None


def test_keys_and_origins_are_forgotten_by_cluster_time(one: OneState) -> None:
    one.time_ms = 1_000
    one.result(KvSet(b"a", b"1"), name=IdempotencyKey("old", b""))
    one.result(KvSet(b"a", b"1"), name=RetryId(A, 1, 0))
    one.time_ms = 2_000
    one.result(KvSet(b"a", b"1"), name=IdempotencyKey("new", b""))
    one.result(KvSet(b"a", b"1"), name=RetryId(B, 1, 0))
    assert one.state.deadlines_exist()
    one.apply(PruneRetries(1_000))
    assert one.file.cursor.execute("select key from idempotency where time_ms >= 0").get == "new"
    assert one.file.cursor.execute("select origin from retry_origin").get == B
    assert one.file.cursor.execute("select origin from retry").get == B
    one.state.verify()
    one.apply(PruneRetries(2_000))
    assert not one.state.deadlines_exist()
    one.state.verify()


def test_overdue_keys_go_with_later_keyed_writes(one: OneState) -> None:
    for n in range(6):
        one.result(KvSet(b"a", b""), name=IdempotencyKey(f"{n}", b""))
    one.time_ms = retries.KEEP_MS + 1
    for n in range(3):
        one.result(KvSet(b"a", b""), name=IdempotencyKey(f"new{n}", b""))
    assert one.file.cursor.execute("select count(*) from idempotency where time_ms >= 0").get == 3
    one.state.verify()


def test_a_key_whose_answer_is_forgotten_is_refused_as_of_unknown_outcome(one: OneState) -> None:
    """Ten minutes later its write is not taken for a new one."""
    name = IdempotencyKey("k", b"hash")
    assert one.result(KvSet(b"a", b"1"), name=name) is True
    one.time_ms = retries.KEEP_MS - 1
    one.apply(PruneRetries(one.time_ms - retries.KEEP_MS))
    assert one.result(KvSet(b"a", b"1"), name=name) is True, "until then it is answered as it was"
    one.result(KvSet(b"a", b"other"))
    one.time_ms = retries.KEEP_MS
    one.apply(PruneRetries(0))
    for _ in range(2):
        error = one.result(KvSet(b"a", b"1"), name=name)
        assert isinstance(error, OutcomeForgotten)
        assert "10 minutes" in error.message
        one.reopen()
    assert one.value(KvGet(b"a")).value == b"other"
    assert isinstance(one.result(KvSet(b"a", b"1"), name=IdempotencyKey("k", b"else")), Conflict)
    assert one.result(KvSet(b"a", b"2"), name=name, accessor="bob") is True, "bob has keys of his own"
    one.state.verify()


def test_forgotten_keys_keep_no_clock_going(one: OneState) -> None:
    one.result(KvSet(b"a", b"1"), name=IdempotencyKey("k", b""))
    assert one.state.deadlines_exist()
    one.apply(PruneRetries(0))
    assert not one.state.deadlines_exist()


def test_the_newest_forgotten_keys_are_kept_and_no_more(
    one: OneState, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retries, "MAX_FORGOTTEN", 3)
    for number in range(20):
        one.time_ms = number * retries.KEEP_MS
        one.result(KvSet(b"a", b"%d" % number), name=IdempotencyKey(f"{number}", b""))
        if number % 7 == 3:
            one.reopen()
    assert one.file.cursor.execute("select count(*) from idempotency where time_ms < 0").get == 3
    for number in (16, 17, 18):
        error = one.result(KvSet(b"a", b"again"), name=IdempotencyKey(f"{number}", b""))
        assert isinstance(error, OutcomeForgotten)
    assert one.result(KvSet(b"a", b"again"), name=IdempotencyKey("5", b"")) is True, "it looks like a new one"
    one.state.verify()


def test_a_prune_bounds_the_forgotten_keys_too(one: OneState, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retries, "MAX_FORGOTTEN", 2)
    for number in range(9):
        one.result(KvSet(b"a", b"1"), name=IdempotencyKey(f"{number}", b""))
    one.apply(PruneRetries(0))
    assert one.file.cursor.execute("select count(*) from idempotency").get == 2
    one.state.verify()


def test_a_write_pruned_in_the_batch_that_made_it_leaves_nothing(one: OneState) -> None:
    one.machine.apply([one.entry(KvSet(b"a", b""), name=RetryId(A, 1, 0)), one.entry(PruneRetries(0))])
    one.reopen()
    assert len(one.state.retries) == 0
    one.state.verify()


def test_nothing_named_means_no_row_and_no_deadline(one: OneState) -> None:
    one.apply(KvSet(b"a", b"1"), Tick())
    assert not one.state.deadlines_exist()


class _Readers:
    def allowed(self, accessor: str, operation: Operation) -> bool:
        return operation.access != "write" or accessor == "writer"


def test_a_denied_write_is_remembered_for_a_retry_id_and_not_for_a_key(tmp_path: Path) -> None:
    one = OneState(tmp_path, authorizer=_Readers())
    for name in NAMES:
        assert isinstance(one.result(KvSet(b"a", b""), name=name), Forbidden)
    assert isinstance(one.result(KvSet(b"a", b""), name=NAMES[0], accessor="writer"), Forbidden)
    assert one.result(KvSet(b"a", b""), name=NAMES[1], accessor="writer") is True
    assert one.file.cursor.execute("select count(*) from idempotency").get == 1
    one.close()


@settings(max_examples=40, deadline=None, derandomize=True)
@given(
    st.lists(
        st.tuples(st.sampled_from([A, B]), st.integers(1, 150), st.integers(0, 150), st.booleans()),
        max_size=60,
    )
)
def test_no_named_write_is_ever_applied_twice(
    tmp_path_factory: pytest.TempPathFactory, tries: list[tuple[bytes, int, int, bool]]
) -> None:
    """Each applied write moves its key's index; a name whose write was applied never moves it again."""
    one = OneState(tmp_path_factory.mktemp("tries"))
    applied: dict[tuple[bytes, int], Applied] = {}
    marks = {A: 0, B: 0}
    for origin, sequence, acknowledged, restart in tries:
        marks[origin] = max(marks[origin], acknowledged)
        key = b"%s/%d" % (origin, sequence)
        name = RetryId(origin, sequence, acknowledged)
        (outcome,) = one.machine.apply([one.entry(KvSet(key, b"%d" % one.index), name=name)])
        if (origin, sequence) in applied:
            assert outcome.touched == ()
            assert isinstance(outcome.result, OutcomeUnknown) or outcome.result == applied[origin, sequence]
        elif isinstance(outcome.result, Applied):
            assert sequence > acknowledged
            applied[origin, sequence] = outcome.result
        if restart:
            one.reopen()
    one.state.verify()
    one.close()
