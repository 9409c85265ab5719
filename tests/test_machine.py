"""The machine: batches of log entries become rows, all or nothing, each entry once."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import get_args

import msgspec
import pytest
from support.change_rows import ends
from support.one_state import OneState

from gemot.server.model.catalog import Node, Register
from gemot.server.model.command import ENVELOPE_VERSION, Command, Envelope, UnknownCommand, encode
from gemot.server.model.errors import Corrupt, DiskFailed, RuleFailed
from gemot.server.model.health import Check
from gemot.server.model.kv import KvGet, KvList, KvSet
from gemot.server.model.query import Applied
from gemot.server.model.upkeep import Tick
from gemot.server.raft.types import Entry, EntryKind, Voters, encode_voters
from gemot.server.state.restore import RECOVERED_SHIFT
from gemot.server.state.watch import Hub


@pytest.fixture
def one(tmp_path: Path) -> Iterator[OneState]:
    state = OneState(tmp_path)
    yield state
    state.close()


def _set(index: int, key: bytes, term: int = 1, time_ms: int = 0) -> Entry:
    envelope = Envelope(ENVELOPE_VERSION, time_ms, "", None, KvSet(key, b"x"))
    return Entry(term, index, EntryKind.COMMAND, encode(envelope))


def test_a_refused_command_leaves_nothing_in_memory(one: OneState) -> None:
    """The refusal's traceback led back to the batch, by way of outcomes that the collector did not see."""
    check = Check("n", "c", "c", service_id="nothing")
    (outcome,) = one.apply(Register(Node("n", "10.0.0.1"), (), (check,)))
    assert isinstance(outcome.result, RuleFailed)
    refusal = weakref.ref(outcome.result)
    del outcome
    gc.collect()
    assert refusal() is None


def test_index_and_term_are_committed_with_the_effects(one: OneState) -> None:
    one.machine.apply([_set(1, b"a"), _set(2, b"b", term=3)])
    one.reopen()
    assert (one.state.applied_index, one.state.applied_term) == (2, 3)
    assert [e.key for e in one.value(KvList(b""))] == [b"a", b"b"]


def test_entries_of_the_core_move_the_applied_index_and_nothing_else(one: OneState) -> None:
    data = encode_voters(Voters(("srv1",)))
    noop, voters = one.machine.apply([Entry(1, 1, EntryKind.NOOP, b""), Entry(1, 2, EntryKind.VOTERS, data)])
    assert (noop.index, noop.result, noop.touched) == (1, Applied(1, True), ())
    assert (voters.index, voters.touched) == (2, ())
    assert one.state.applied_index == 2
    assert ends(one) == (0, 0)


def test_voters_set_by_hand_begin_an_epoch_with_indexes_above_all_that_lost_servers_told(
    one: OneState,
) -> None:
    """Or a fence that a lost server gave out would be given out again, and a watcher would wait for ages."""
    one.machine.apply([_set(1, b"a")])
    by_hand = Entry(2, 2, EntryKind.VOTERS, encode_voters(Voters(("srv1",), "today, by hand")))
    (outcome,) = one.machine.apply([by_hand])
    assert outcome.index == 2
    assert one.state.epoch == 1
    assert one.state.index == 2 + RECOVERED_SHIFT
    assert one.at(KvGet(b"a")) == one.state.index, "whoever waits sees that something changed"
    hub: Hub[str] = Hub()
    hub.add((("service", b"web"),), "a watcher of anything")
    assert hub.wake(outcome.touched) == ["a watcher of anything"]
    (later,) = one.machine.apply([_set(3, b"b", term=2)])
    assert later.result == Applied(3 + RECOVERED_SHIFT, True)
    whole = one.state.state_hash
    one.reopen()
    assert (one.state.epoch, one.state.index, one.state.state_hash) == (1, 3 + RECOVERED_SHIFT, whole)


def test_each_outcome_tells_its_index_result_and_topics(one: OneState) -> None:
    first, refused, same = one.apply(KvSet(b"a", b"1"), Register(Node("", "10.0.0.1")), KvSet(b"a", b"1"))
    assert (first.index, first.result, first.touched) == (1, Applied(1, True), (("kv", b"a"),))
    assert isinstance(refused.result, RuleFailed)
    assert (refused.index, refused.touched) == (2, ())
    assert (same.result, same.touched) == (Applied(3, True), ())


@pytest.mark.parametrize("index", [1, 2, 4, 100])
def test_an_entry_that_does_not_follow_is_refused(one: OneState, index: int) -> None:
    one.machine.apply([_set(1, b"a"), _set(2, b"b")])
    with pytest.raises(Corrupt, match="cannot follow the applied index 2"):
        one.machine.apply([_set(index, b"c")])
    assert one.value(KvGet(b"c")) is None


class _Newer(msgspec.Struct, frozen=True, array_like=True, tag=9_999):
    field: int


@pytest.mark.parametrize(
    "data",
    [
        msgspec.msgpack.encode([ENVELOPE_VERSION, 0, "", None, _Newer(1)]),
        msgspec.msgpack.encode(Envelope(ENVELOPE_VERSION + 1, 0, "", None, Tick())),
        b"\xc1 no msgpack at all",
    ],
    ids=["newer command", "newer envelope", "garbage"],
)
def test_an_entry_that_this_release_cannot_read_stops_the_node_and_undoes_its_batch(
    one: OneState, data: bytes
) -> None:
    one.machine.apply([_set(1, b"a")])
    before = one.state.state_hash
    with pytest.raises(UnknownCommand):
        one.machine.apply([_set(2, b"b"), Entry(1, 3, EntryKind.COMMAND, data)])
    assert (one.state.applied_index, one.state.state_hash) == (1, before)
    assert one.value(KvGet(b"b")) is None
    one.machine.apply([_set(2, b"b")])
    one.state.verify()


def test_every_command_has_a_rule(one: OneState) -> None:
    assert set(one.machine._rules) == set(get_args(Command))


def test_cluster_time_is_the_highest_stamp_seen(one: OneState) -> None:
    times = []
    for index, stamp in enumerate([5, 9, 7, 9, 12], start=1):
        one.machine.apply([_set(index, b"a", time_ms=stamp)])
        times.append(one.state.cluster_time_ms)
    assert times == [5, 9, 9, 9, 12]
    one.reopen()
    assert one.state.cluster_time_ms == 12


def test_a_disk_that_fails_during_a_batch_leaves_the_state_as_it_was(
    one: OneState, monkeypatch: pytest.MonkeyPatch
) -> None:
    one.machine.apply([_set(1, b"a")])
    before = one.state.state_hash

    def fail() -> None:
        raise DiskFailed("no space is left")

    monkeypatch.setattr(one.file, "commit", fail)
    with pytest.raises(DiskFailed):
        one.machine.apply([_set(2, b"b")])
    monkeypatch.undo()
    assert (one.state.applied_index, one.state.state_hash) == (1, before)
    assert one.value(KvGet(b"b")) is None
    assert ends(one) == (1, 1)


@pytest.mark.parametrize("index", [2**31, 2**53 - 2, 2**62])
def test_large_indexes_are_kept_exactly(one: OneState, index: int) -> None:
    one.file.cursor.execute("update meta set applied_index = ?", (index,))
    one.state.reload()
    one.machine.apply([_set(index + 1, b"a"), _set(index + 2, b"b")])
    assert one.value(KvGet(b"b")).modify_index == one.at(KvGet(b"b")) == index + 2
    assert one.at(KvList(b"")) == index + 2
    assert ends(one) == (index + 1, index + 2)
