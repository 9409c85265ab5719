"""Transactions: what each verb does and tells, by itself and after others."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.change_rows import changes_after
from support.one_state import OneState
from support.txn_scene import FENCE, K_AT, N1, OP, furnished, rows, txn, whats

from gemot.server.model.catalog import Deregister, HealthService, Node, Nodes, Register, Service
from gemot.server.model.command import Command, IdempotencyKey, RetryId
from gemot.server.model.errors import BadRequest, TooLarge
from gemot.server.model.health import Check
from gemot.server.model.kv import KvDelete, KvDeletePrefix, KvEntry, KvGet, KvKeys, KvList, KvPurge, KvSet
from gemot.server.model.session import DestroySession
from gemot.server.model.txn import (
    MAX_FENCE,
    MAX_OPS,
    CheckFence,
    CheckOp,
    FenceGuard,
    KvOp,
    NodeOp,
    ReadTxn,
    ServiceOp,
    Txn,
    TxnAnswer,
    TxnOp,
    reads,
)
from gemot.server.rpc.message import FEATURES, TXN


@pytest.fixture
def one(tmp_path: Path) -> Iterator[OneState]:
    with contextlib.closing(furnished(tmp_path)) as state:
        yield state


# -- verbs -----------------------------------------------------------------------------------------

DONE: list[tuple[KvOp, list[tuple[bytes, bytes]]]] = [
    (KvOp("set", b"n", b"1"), [(b"n", b"")]),
    (KvOp("cas", b"n", b"1"), [(b"n", b"")]),
    (KvOp("cas", b"k", b"1", index=K_AT), [(b"k", b"")]),
    (KvOp("lock", b"k", b"1", session="s1"), [(b"k", b"")]),
    (KvOp("lock", b"held", b"1", session="s1"), [(b"held", b"")]),
    (KvOp("unlock", b"held", b"1", session="s1"), [(b"held", b"")]),
    (KvOp("get", b"k"), [(b"k", b"old")]),
    (KvOp("get-or-empty", b"k"), [(b"k", b"old")]),
    (KvOp("get-or-empty", b"none"), [(b"none", b"")]),
    (KvOp("get-tree", b"t/"), [(b"t/1", b"1"), (b"t/2", b"2")]),
    (KvOp("get-tree", b"none"), []),
    (KvOp("check-index", b"k", index=K_AT), [(b"k", b"")]),
    (KvOp("check-session", b"held", session="s1"), [(b"held", b"")]),
    (KvOp("check-not-exists", b"none"), []),
    (KvOp("delete", b"k"), []),
    (KvOp("delete", b"none"), []),
    (KvOp("delete-cas", b"k", index=K_AT), []),
    (KvOp("delete-cas", b"none", index=5), []),
    (KvOp("delete-tree", b"t/"), []),
    (KvOp("delete-tree", b"none"), []),
]


@pytest.mark.parametrize(("op", "wanted"), DONE, ids=lambda value: str(value)[:60])
def test_a_verb_tells_the_key_and_only_who_asked_for_it_the_value(
    one: OneState, op: KvOp, wanted: list[tuple[bytes, bytes]]
) -> None:
    assert [(row.key, row.value) for row in rows(txn(one, op))] == wanted
    one.state.verify()


@pytest.mark.parametrize(("op", "wanted"), [pair for pair in DONE if reads(pair[0])], ids=str)
def test_a_read_beside_a_write_finds_what_one_off_the_log_does(one: OneState, op: KvOp, wanted: Any) -> None:
    alone = one.value(ReadTxn((op,)))
    assert alone == one.read_elsewhere(ReadTxn((op,))).value
    assert txn(one, op, FenceGuard(b"r", 1)) == alone


@pytest.mark.parametrize(
    ("op", "single"),
    [
        (KvOp("set", b"k", b"1", flags=3), KvSet(b"k", b"1", flags=3)),
        (KvOp("cas", b"k", b"1", index=K_AT), KvSet(b"k", b"1", cas=K_AT)),
        (KvOp("lock", b"k", b"1", session="s1"), KvSet(b"k", b"1", acquire="s1")),
        (KvOp("unlock", b"held", b"1", session="s1"), KvSet(b"held", b"1", release="s1")),
        (KvOp("delete", b"held"), KvDelete(b"held")),
        (KvOp("delete-cas", b"k", index=K_AT), KvDelete(b"k", cas=K_AT)),
        (KvOp("delete-tree", b"t/"), KvDeletePrefix(b"t/")),
        (NodeOp("set", Node("n2", "10.0.0.2")), Register(Node("n2", "10.0.0.2"))),
        (NodeOp("delete", N1), Deregister("n1")),
        (ServiceOp("set", "n1", Service("", "db")), Register(N1, (Service("", "db"),))),
        (ServiceOp("delete", "n1", Service("web", "")), Deregister("n1", service_id="web")),
        (CheckOp("set", Check("n1", "c", "c", "critical")), Register(N1, (), (Check("", "c", "c"),))),
        (CheckOp("delete", Check("n1", "c", "c")), Deregister("n1", check_id="c")),
    ],
    ids=str,
)
def test_one_operation_leaves_the_state_that_its_command_does(
    one: OneState, op: TxnOp, single: Command, tmp_path: Path
) -> None:
    one.file.snapshot_to(tmp_path / "copy")
    other = OneState(tmp_path, name="other.db")
    other.file.install(tmp_path / "copy")
    other.state.reload()
    other.index = one.index
    touched = one.touched(Txn((op,)))
    assert touched == other.touched(single)
    assert touched
    assert one.state.state_hash == other.state.state_hash
    assert changes_after(one.state, 0, 100) == changes_after(other.state, 0, 100)
    other.close()


def test_operations_see_what_those_before_them_did(one: OneState) -> None:
    found = rows(
        txn(
            one,
            KvOp("set", b"a", b"1"),
            KvOp("get", b"a"),
            KvOp("check-not-exists", b"b"),
            KvOp("cas", b"a", b"2", index=one.index + 1),
            KvOp("delete", b"k"),
            KvOp("check-not-exists", b"k"),
            KvOp("get-tree", b""),
        )
    )
    at = one.index
    assert found[1] == KvEntry(b"a", b"1", 0, 0, "", at, at)
    assert [(row.key, row.value) for row in found[3:]] == [
        (b"a", b"2"), (b"held", b"mine"), (b"t/1", b"1"), (b"t/2", b"2"),
    ]  # fmt: skip


def test_a_tree_that_is_deleted_takes_what_was_written_before_it_and_not_what_is_written_after(
    one: OneState,
) -> None:
    txn(one, KvOp("set", b"t/3", b"3"), KvOp("delete-tree", b"t/"), KvOp("set", b"t/4", b"4"))
    assert one.value(KvKeys(b"t/")) == [b"t/4"]
    assert one.read_elsewhere(KvKeys(b"")).value == [b"held", b"k", b"t/4"]
    assert one.at(KvList(b"t/")) == one.index
    while one.result(KvPurge(10)):
        pass
    assert one.value(KvList(b"t/")) == [one.value(KvGet(b"t/4"))]
    one.state.verify()


def test_a_tree_of_any_size_is_deleted_by_one_row(one: OneState) -> None:
    """As a single command does it: no key is touched, and what it wrote before alone is deleted by name."""
    one.apply(*(KvSet(b"t/%05d" % number, b"") for number in range(20_000)))
    count = "select (select count(*) from kv), (select count(*) from tombstone), (select count(*) from mask)"
    keys, buried, masks = one.file.cursor.execute(count).get
    deleted = txn(one, KvOp("set", b"t/new", b""), KvOp("delete-tree", b"t/"))
    assert not deleted.errors
    assert one.value(KvKeys(b"t/")) == []
    assert one.file.cursor.execute(count).get == (keys, buried + 1, masks + 1)
    changes = [(key, op) for _, _, _, key, op, _ in changes_after(one.state, one.index - 1, 100)]
    assert changes == [(b"t/new", "set"), (b"t/new", "delete"), (b"t/", "delete-prefix")]


# -- locks, sessions and fences --------------------------------------------------------------------


def test_a_lock_tells_its_fence_and_a_key_is_locked_once(one: OneState) -> None:
    (entry,) = rows(txn(one, KvOp("lock", b"k", b"1", session="s1")))
    assert (entry.session, entry.fence) == ("s1", one.index)
    again = [KvOp("lock", b"a", session="s1"), KvOp("lock", b"a", session="s1")]
    assert len(rows(txn(one, *again))) == 2
    for between in (KvOp("unlock", b"b", session="s1"), KvOp("delete", b"b"), KvOp("delete-tree", b"b")):
        for session in ("s1", "s2"):
            ops = [KvOp("lock", b"b", session="s1"), between, KvOp("lock", b"b", session=session)]
            ((number, what),) = whats(txn(one, *ops))
            assert (number, what) == (2, 'failed to lock key "b": a transaction locks it once, not again')


def test_a_lock_is_delayed_inside_as_outside(one: OneState) -> None:
    one.apply(KvSet(b"k", b"", acquire="s2"), DestroySession("s2"))
    told = whats(txn(one, KvOp("lock", b"k", session="s1")))
    assert told == [(0, 'failed to lock key "k" due to lock delay')]


def test_a_held_fence_is_checked_with_and_without_its_session(one: OneState) -> None:
    guarded = [CheckFence(b"held", FENCE), CheckFence(b"held", FENCE, "s1"), KvOp("set", b"k", b"new")]
    assert [row.key for row in rows(txn(one, *guarded))] == [b"k"]
    assert one.value(ReadTxn((CheckFence(b"held", FENCE),))) == TxnAnswer((), ())


def test_a_fence_is_lost_when_it_is_released_though_the_key_keeps_it(one: OneState) -> None:
    one.apply(KvSet(b"held", b"", release="s1"))
    assert one.value(KvGet(b"held")).fence == FENCE
    assert whats(txn(one, CheckFence(b"held", FENCE), *OP))
    one.apply(KvSet(b"held", b"", acquire="s1"))
    assert whats(txn(one, CheckFence(b"held", FENCE), *OP))
    assert rows(txn(one, CheckFence(b"held", one.value(KvGet(b"held")).fence), *OP))


def test_the_first_that_is_done_is_noted_so_that_no_server_is_waited_for_any_more(tmp_path: Path) -> None:
    one = OneState(tmp_path)
    assert whats(txn(one, KvOp("get", b"none")))
    assert not one.state.has_had(TXN)
    txn(one, *OP)
    before = one.state.state_hash
    one.reopen()
    assert one.state.has_had(TXN)
    assert one.state.state_hash == before
    assert not any(one.state.has_had(other) for other in FEATURES if other != TXN)
    one.close()


def test_a_guard_takes_the_same_and_greater_fences_and_refuses_smaller_ones_for_ever(one: OneState) -> None:
    for fence in (5, 5, 9, MAX_FENCE):
        assert txn(one, FenceGuard(b"r", fence)) == TxnAnswer((), ())
        one.state.verify()
    assert txn(one, FenceGuard(b"other", 1)).errors == ()
    one.reopen()
    assert whats(txn(one, FenceGuard(b"r", 7), *OP)) == [
        (
            0,
            f'failed fence guard of resource "r": fence 7 is smaller than {MAX_FENCE}, '
            "the greatest that was seen",
        )
    ]  # fmt: skip


# -- the catalog -----------------------------------------------------------------------------------


def test_what_is_registered_in_one_is_found_by_what_comes_after(one: OneState) -> None:
    node = Node("n2", "10.0.0.2", id="8b1a7c2e-0000-0000-0000-000000000000")
    found = rows(
        txn(
            one,
            NodeOp("set", node),
            ServiceOp("set", "n2", Service("", "db")),
            CheckOp("set", Check("n2", "c", "c", "passing", service_id="db")),
            NodeOp("get", Node("", "", id=node.id)),
            ServiceOp("cas", "n2", Service("db", "db", port=1, modify_index=one.index + 1)),
            NodeOp("cas", Node("n3", "10.0.0.3")),
        )
    )
    assert found[3].node == "n2"
    assert (found[1].id, found[2].service_name, found[4].port) == ("db", "db", 1)
    assert [i.service.port for i in one.value(HealthService("db", passing=True))] == [1]
    assert [node.node for node in one.value(Nodes())] == ["n1", "n2", "n3"]
    one.state.verify()


# -- reading ones, and names -----------------------------------------------------------------------


def test_a_read_of_one_that_writes_or_of_too_many_is_refused(one: OneState) -> None:
    for op in (KvOp("set", b"k"), FenceGuard(b"r", 1), NodeOp("delete", N1)):
        with pytest.raises(BadRequest):
            one.value(ReadTxn((op,)))
    with pytest.raises(TooLarge):
        one.value(ReadTxn((KvOp("get", b"k"),) * (MAX_OPS + 1)))


@pytest.mark.parametrize("name", [RetryId(b"o", 1, 0), IdempotencyKey("key", b"h")], ids=["retry", "key"])
@pytest.mark.parametrize("fails", [False, True])
def test_one_that_is_asked_again_is_answered_as_before_and_done_once(
    one: OneState, name: Any, fails: bool
) -> None:
    ops: list[TxnOp] = [KvOp("set", b"k", b"1"), KvOp("cas", b"n", b"1")]
    command = Txn((*ops, KvOp("get", b"none")) if fails else tuple(ops))
    first = one.result(command, name=name)
    one.apply(KvSet(b"none", b"now it is there"), KvDelete(b"n"))
    one.reopen()
    assert one.result(command, name=name) == first
    assert one.value(KvGet(b"n")) is None
    one.state.verify()
