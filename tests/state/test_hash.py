"""The state hash: the same on every server, and a witness against rows that changed by themselves."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from support.one_state import OneState

from gemot.server.model.catalog import Node, Register, Service
from gemot.server.model.command import IdempotencyKey, RetryId
from gemot.server.model.errors import Corrupt
from gemot.server.model.health import Check
from gemot.server.model.kv import KvDelete, KvDeletePrefix, KvGet, KvSet
from gemot.server.model.upkeep import Tick, TrimHistory, VerifyState
from gemot.server.state.meta import MARK_EVERY


@pytest.fixture
def one(tmp_path: Path) -> Iterator[OneState]:
    state = OneState(tmp_path)
    yield state
    state.close()


def _fill(one: OneState) -> None:
    one.apply(
        KvSet(b"a", b"1"),
        KvSet(b"b", b"1"),
        KvDelete(b"b"),
        KvSet(b"c/1", b"1"),
        KvDeletePrefix(b"c/"),
        Register(Node("n1", "10.0.0.1"), (Service("s", "web"),), (Check("", "c", "c"),)),
    )
    one.apply(TrimHistory(8, 0, 1 << 30), KvSet(b"a", b"2"), KvDeletePrefix(b"d"))
    one.apply(KvSet(b"f/1", b""), KvDeletePrefix(b"f/"), KvSet(b"g", b""), KvDelete(b"g"))
    one.result(KvSet(b"d", b""), name=IdempotencyKey("k", b""))
    one.result(KvSet(b"e", b""), name=RetryId(b"o", 1, 0))


@pytest.mark.parametrize(
    "damage",
    [
        "delete from kv where key = x'61'",
        "update kv set row = (select row from kv where key = x'64') where key = x'61'",
        "update tombstone set idx = idx + 1",
        "update mask set resume = null",
        "delete from mask",
        "delete from node",
        "update service set node = 'n2'",
        "delete from health",
        "update latest set idx = 1 where kind = 'service'",
        "delete from idempotency",
        "delete from retry",
        "delete from old",
        "delete from absent",
        "update old set until = until + 1",
        "update old set ended_ms = ended_ms + 1",
        "update old set ended_by = 'somebody'",
        "update old set key = x'62'",
        "update old set idx = idx - 1",
        "update old set after = after + 1, revision = revision - 1",
        "update old set row = x'90'",
        "delete from range_end",
        "update meta set rows_sum = zeroblob(16)",
    ],
)
def test_a_row_that_was_lost_or_altered_is_found(one: OneState, damage: str) -> None:
    _fill(one)
    one.state.verify()
    one.file.cursor.execute(damage)
    one.state.reload()
    with pytest.raises(Corrupt, match="does not fit its own hash"):
        one.state.verify()


def test_servers_that_applied_the_same_agree_and_others_do_not(tmp_path: Path) -> None:
    first, second = OneState(tmp_path, name="1.db"), OneState(tmp_path, name="2.db")
    _fill(first)
    _fill(second)
    assert first.state.state_hash == second.state.state_hash
    second.file.cursor.execute("update meta set kv_index = kv_index + 1")
    second.state.reload()
    assert first.state.state_hash != second.state.state_hash
    first.close()
    second.close()


def test_cluster_time_and_applied_index_are_part_of_the_hash(one: OneState) -> None:
    seen = [one.state.state_hash]
    one.apply(Tick())
    seen.append(one.state.state_hash)
    one.time_ms = 5
    one.apply(Tick())
    seen.append(one.state.state_hash)
    assert len(dict.fromkeys(seen)) == 3


def test_the_hash_is_noted_at_its_index_even_in_the_middle_of_a_batch(tmp_path: Path) -> None:
    exact, batched = OneState(tmp_path, name="1.db"), OneState(tmp_path, name="2.db")
    for one in (exact, batched):
        one.skip(MARK_EVERY - 2)
    assert exact.state.newest_checkpoint_hash() == (0, b"")
    exact.apply(KvSet(b"a", b"1"), KvSet(b"b", b"2"))
    noted = exact.state.state_hash
    batched.apply(KvSet(b"a", b"1"), KvSet(b"b", b"2"), KvSet(b"c", b"3"))
    assert exact.state.newest_checkpoint_hash() == (MARK_EVERY, noted)
    assert batched.state.newest_checkpoint_hash() == (MARK_EVERY, noted)
    batched.reopen()
    assert batched.state.newest_checkpoint_hash() == (MARK_EVERY, noted)
    exact.close()
    batched.close()


def test_a_server_whose_state_drifted_stops_at_the_leaders_hash(one: OneState) -> None:
    one.skip(MARK_EVERY - 1)
    one.apply(KvSet(b"a", b"1"))
    index, noted = one.state.newest_checkpoint_hash()
    assert one.result(VerifyState(index, noted)) is True
    assert one.result(VerifyState(index - 1, b"other")) is True, "an index that nobody noted says nothing"
    before = one.state.applied_index
    with pytest.raises(Corrupt, match=f"at or before index {index}"):
        one.apply(KvSet(b"b", b"1"), VerifyState(index, bytes(16)))
    assert one.state.applied_index == before
    assert one.value(KvGet(b"b")) is None, "the whole batch is undone"


def test_only_the_last_few_notes_are_kept(one: OneState) -> None:
    for _ in range(6):
        one.skip(MARK_EVERY)
    assert one.file.cursor.execute("select length(marks) from meta").get < 200
    assert one.state.newest_checkpoint_hash()[0] == 6 * MARK_EVERY
