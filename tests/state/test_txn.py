"""Transactions: what each verb does and tells, and that of a failed one nothing is left."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.change_rows import changes_after
from support.one_state import OneState

from gemot.server.model.catalog import Deregister, HealthService, Node, NodeInfo, Nodes, Register, Service
from gemot.server.model.command import Command, IdempotencyKey, RetryId
from gemot.server.model.errors import BadRequest, TooLarge
from gemot.server.model.health import Check, HealthNode
from gemot.server.model.kv import KvDelete, KvDeletePrefix, KvEntry, KvGet, KvKeys, KvList, KvPurge, KvSet
from gemot.server.model.query import Query
from gemot.server.model.session import CreateSession, DestroySession, Session, Sessions
from gemot.server.model.txn import (
    MAX_FENCE,
    MAX_OPS,
    MAX_RESULT_BYTES,
    CheckFence,
    CheckOp,
    FenceGuard,
    FoundKey,
    KvOp,
    KvVerb,
    NodeOp,
    ReadTxn,
    ServiceOp,
    Txn,
    TxnAnswer,
    TxnOp,
    decode,
    reads,
)
from gemot.server.rpc.message import FEATURES, TXN
from gemot.server.state import digest
from gemot.server.state import txn as transactions
from gemot.server.state.permission import Operation

N1 = Node("n1", "10.0.0.1")
OP: list[TxnOp] = [KvOp("set", b"new", b"1")]


@pytest.fixture
def one(tmp_path: Path) -> Iterator[OneState]:
    """k is unlocked, held is held by s1; both, and the node, are older than the transactions.

    The first transaction, of which it is noted that there was one, is over.
    """
    state = OneState(tmp_path)
    state.skip(10)
    state.apply(
        Register(N1, (Service("web", "web"),), (Check("", "c", "c", "passing"),)),
        CreateSession(Session("s1", "n1", lock_delay_ns=0)),
        CreateSession(Session("s2", "n1", node_checks=("c",))),
        KvSet(b"k", b"old", flags=7),
        KvSet(b"held", b"mine", acquire="s1"),
        KvSet(b"t/1", b"1"),
        KvSet(b"t/2", b"2"),
        Txn((FenceGuard(b"first", 1),)),
    )
    yield state
    state.close()


K_AT, HELD_AT = 14, 15
FENCE = HELD_AT


def txn(one: OneState, *ops: TxnOp, accessor: str = "") -> TxnAnswer:
    value = one.result(Txn(tuple(ops)), accessor=accessor)
    assert isinstance(value, bytes), value
    return decode(value)


def rows(answer: TxnAnswer) -> list[Any]:
    assert answer.errors == ()
    return [result.row for result in answer.results]


def whats(answer: TxnAnswer) -> list[tuple[int, str]]:
    assert answer.results == ()
    return [(error.op, error.what) for error in answer.errors]


# -- verbs of keys ---------------------------------------------------------------------------------

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


@pytest.mark.parametrize(
    ("op", "what"),
    [
        (KvOp("cas", b"k", index=3), 'failed to set key "k", index is stale'),
        (KvOp("cas", b"none", index=3), 'failed to set key "none", index is stale'),
        (KvOp("lock", b"held", session="s2"), 'failed to lock key "held", lock is already held'),
        (KvOp("lock", b"k", session="s9"), 'invalid session "s9"'),
        (KvOp("lock", b"k"), "missing session"),
        (
            KvOp("unlock", b"held", session="s2"),
            'failed to unlock key "held", lock isn\'t held, or is held by another session',
        ),
        (KvOp("get", b"none"), 'key "none" doesn\'t exist'),
        (
            KvOp("check-index", b"k", index=3),
            f'failed index check for key "k", current modify index {K_AT} != 3',
        ),
        (KvOp("check-index", b"none", index=3), 'key "none" doesn\'t exist'),
        (
            KvOp("check-session", b"held", session="s2"),
            'failed session check for key "held", current session "s1" != "s2"',
        ),
        (KvOp("check-not-exists", b"k"), 'key "k" exists'),
        (KvOp("delete-cas", b"k", index=3), 'failed to delete key "k", index is stale'),
        (NodeOp("get", Node("n9", "")), 'node "n9" doesn\'t exist'),
        (NodeOp("cas", N1), 'failed to set node "n1", index is stale'),
        (NodeOp("delete-cas", Node("n9", "")), 'failed to delete node "n9", index is stale'),
        (NodeOp("set", Node("", "10.0.0.1")), "Must provide node"),
        (NodeOp("set", Node("n2", "")), "Must provide address if SkipNodeUpdate is not set"),
        (ServiceOp("get", "n1", Service("x", "")), 'service "x" on node "n1" doesn\'t exist'),
        (ServiceOp("set", "n9", Service("x", "x")), "Missing node registration"),
        (
            ServiceOp("cas", "n1", Service("web", "web")),
            'failed to set service "web" on node "n1", index is stale',
        ),
        (ServiceOp("delete", "n1", Service("", "")), "Must provide service ID or name"),
        (CheckOp("get", Check("n1", "x", "")), 'check "x" on node "n1" doesn\'t exist'),
        (CheckOp("set", Check("n9", "x", "x")), "Missing node registration"),
        (CheckOp("set", Check("n1", "x", "x", service_id="no")), "Missing service registration"),
        (CheckOp("delete", Check("n1", "", "")), "Must provide check ID or name"),
        (
            CheckOp("delete-cas", Check("n1", "c", "c", modify_index=3)),
            'failed to delete check "c" on node "n1", index is stale',
        ),
        (
            CheckFence(b"held", FENCE - 1),
            f'failed fence check for key "held": it is held with fence {FENCE} by session "s1", '
            f"fence {FENCE - 1} is lost",
        ),
        (
            CheckFence(b"held", FENCE, "s2"),
            f'failed fence check for key "held": it is held with fence {FENCE} by session "s1", '
            f'fence {FENCE} of session "s2" is lost',
        ),
        (CheckFence(b"k", 1), 'failed fence check for key "k": nobody holds it, fence 1 is lost'),
        (CheckFence(b"none", 1), 'failed fence check for key "none": nobody holds it, fence 1 is lost'),
        (FenceGuard(b"r", 0), f"failed fence guard: a fence is a number from 1 to {MAX_FENCE}, not 0"),
        (
            FenceGuard(b"r", 1 << 63),
            f"failed fence guard: a fence is a number from 1 to {MAX_FENCE}, not {1 << 63}",
        ),
        (FenceGuard(b"", 1), "failed fence guard: a resource has 1 to 1024 bytes, not 0"),
    ],
    ids=str,
)  # fmt: skip
def test_what_fails_says_why_and_takes_all_with_it(one: OneState, op: TxnOp, what: str) -> None:
    before = everything(one)
    assert whats(txn(one, KvOp("set", b"new", b"1"), op)) == [(1, what)]
    assert everything(one) == before
    one.state.verify()


def test_all_that_fails_is_told_and_what_stood_before_it_was_done_for_the_others(one: OneState) -> None:
    answer = txn(
        one,
        KvOp("set", b"new", b"1"),
        KvOp("get", b"none"),
        KvOp("get", b"new"),
        KvOp("cas", b"k", index=3),
        KvOp("lock", b"k", session="s9"),
    )
    assert [(error.op, error.code) for error in answer.errors] == [(1, ""), (3, ""), (4, "rule-failed")]


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


def test_a_tree_deleted_in_vain_hides_nothing(one: OneState) -> None:
    before = everything(one)
    assert whats(txn(one, KvOp("delete-tree", b""), KvOp("get", b"k"))) == [(1, 'key "k" doesn\'t exist')]
    assert everything(one) == before
    assert not one.state.masked_rows_left()
    one.reopen()
    assert everything(one) == before


def test_a_transaction_that_fails_in_a_batch_leaves_what_the_batch_did_before_and_after(
    one: OneState,
) -> None:
    failing = Txn((KvOp("delete-tree", b""), KvOp("get", b"k")))
    one.apply(KvDeletePrefix(b"t/"), KvSet(b"a", b"1"), failing, KvSet(b"b", b"1"))
    assert one.value(KvKeys(b"")) == [b"a", b"b", b"held", b"k"]
    one.state.verify()


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


def test_sessions_end_inside_and_come_back_when_it_fails(one: OneState) -> None:
    critical = CheckOp("set", Check("n1", "c", "c", "critical"))
    one.apply(KvSet(b"k", b"", acquire="s2"))
    before = everything(one)
    whats(txn(one, critical, KvOp("check-session", b"k", session="s2")))
    assert everything(one) == before
    assert rows(txn(one, critical, KvOp("check-session", b"k")))[1].session == ""
    assert [session.id for session in one.value(Sessions())] == ["s1"]
    one.state.verify()


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


def test_a_guard_forgets_what_a_failed_transaction_showed_it(one: OneState) -> None:
    whats(txn(one, FenceGuard(b"r", 9), KvOp("get", b"none")))
    assert txn(one, FenceGuard(b"r", 5)).errors == ()


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


# -- permission ------------------------------------------------------------------------------------


class _Rules:
    """Nobody may touch or see what is called secret."""

    def allowed(self, accessor: str, operation: Operation) -> bool:
        return b"secret" not in operation.name


DENIED: list[tuple[TxnOp, str]] = [
    (KvOp("set", b"secret"), "key:write on 'secret'"),
    (KvOp("lock", b"secret", session="s1"), "key:write on 'secret'"),
    (KvOp("delete-cas", b"secret"), "key:write on 'secret'"),
    (KvOp("delete-tree", b"secret"), "key-prefix:write on 'secret'"),
    (KvOp("get", b"secret"), "key:read on 'secret'"),
    (KvOp("check-not-exists", b"secret"), "key:read on 'secret'"),
    (CheckFence(b"secret", 1), "key:read on 'secret'"),
    (FenceGuard(b"secret", 1), "key:write on 'secret'"),
    (NodeOp("set", Node("secret", "10.0.0.1")), "node:write on 'secret'"),
    (NodeOp("delete", Node("secret", "")), "node:write on 'secret'"),
    (ServiceOp("set", "n1", Service("", "secret")), "service:write on 'secret'"),
    (ServiceOp("delete", "n1", Service("hidden", "")), "service:write on 'secret'"),
    (CheckOp("set", Check("n1", "x", "x", service_id="hidden")), "service:write on 'secret'"),
    (CheckOp("delete", Check("secret", "x", "x")), "node:write on 'secret'"),
]


@pytest.fixture
def ruled(one: OneState, tmp_path: Path) -> Iterator[OneState]:
    one.apply(KvSet(b"t/secret", b"1"), Register(N1, (Service("hidden", "secret"),)))
    one.apply(Register(Node("secret", "10.0.0.9"), (), (Check("", "c", "c"),)))
    one.file.snapshot_to(tmp_path / "copy")
    ruled = OneState(tmp_path, authorizer=_Rules(), name="ruled.db")
    ruled.file.install(tmp_path / "copy")
    ruled.state.reload()
    ruled.index = one.index
    yield ruled
    ruled.close()


@pytest.mark.parametrize(("op", "lacks"), DENIED, ids=str)
def test_a_denied_operation_is_one_of_the_errors(ruled: OneState, op: TxnOp, lacks: str) -> None:
    before = everything(ruled)
    answer = txn(ruled, *OP, op)
    assert [(error.op, error.code) for error in answer.errors] == [(1, "forbidden")]
    assert answer.errors[0].what == f"Permission denied: lacks {lacks}"
    assert everything(ruled) == before
    if reads(op):
        assert ruled.value(ReadTxn((op,))).errors[0].what == answer.errors[0].what


@pytest.mark.parametrize(
    "op",
    [
        NodeOp("get", Node("secret", "")),
        ServiceOp("get", "n1", Service("hidden", "")),
        CheckOp("get", Check("secret", "c", "")),
    ],
    ids=str,
)
def test_rows_that_may_not_be_seen_do_not_exist_and_trees_are_without_them(
    ruled: OneState, op: TxnOp
) -> None:
    for answer in (txn(ruled, op, *OP), ruled.value(ReadTxn((op,)))):
        assert "doesn't exist" in answer.errors[0].what
    tree = KvOp("get-tree", b"t/")
    for answer in (txn(ruled, tree, FenceGuard(b"r", 1)), ruled.value(ReadTxn((tree,)))):
        assert [row.key for row in rows(answer)] == [b"t/1", b"t/2"]


# -- bounds and names ------------------------------------------------------------------------------


def test_what_a_writing_one_reads_is_bounded_and_a_reading_one_takes_more(one: OneState) -> None:
    half = bytes(MAX_RESULT_BYTES // 2)
    one.apply(KvSet(b"big/1", half), KvSet(b"big/2", half))
    before = everything(one)
    for op in (KvOp("get-tree", b"big/"), KvOp("get-tree", b"")):
        ((number, what),) = whats(txn(one, *OP, op))
        assert number == 1
        assert what == (
            "the results of this transaction take more than 1048576 bytes: read less in it, "
            "or in one that only reads"
        )
    assert whats(txn(one, *OP, KvOp("get", b"big/1"), KvOp("get", b"big/2")))[0][0] == 2
    assert everything(one) == before
    assert len(rows(one.value(ReadTxn((KvOp("get-tree", b"big/"),))))) == 2
    assert len(rows(txn(one, *OP, KvOp("get", b"big/1")))) == 2


def test_one_that_takes_long_is_ended_and_undone(one: OneState, monkeypatch: pytest.MonkeyPatch) -> None:
    """By what it changes, or has to look through, hidden or not: nothing else goes on meanwhile."""
    monkeypatch.setattr(transactions, "MOST_CHANGES", 10)
    monkeypatch.setattr(transactions, "MOST_SCANNED", 10)
    told = "this transaction changes more than 10 rows, or looks through more than 10 keys: split it"
    assert len(rows(txn(one, *[KvOp("set", b"n%d" % number) for number in range(11)]))) == 11
    one.apply(KvDeletePrefix(b"n"))
    before = everything(one)
    sets: list[TxnOp] = [KvOp("set", b"n%d" % number) for number in range(13)]
    looks: list[TxnOp] = [KvOp("delete-tree", b"n"), *OP]
    for ops, at in ((sets, 11), (looks, 1)):
        found = whats(txn(one, *ops))
        assert found[0] == (at, told)
        assert everything(one) == before
        assert found[-1][0] == len(ops) - 1


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


# -- what fails leaves nothing ---------------------------------------------------------------------

READS: list[Query] = [
    KvList(b""), KvKeys(b"", b"/"), KvGet(b"k"), KvGet(b"none"), KvList(b"t/"), Nodes(), NodeInfo("n1"),
    HealthService("web"), HealthNode("n1"), Sessions(), Sessions("n1"),
]  # fmt: skip


def everything(one: OneState) -> Any:
    """All that a failed transaction must leave as it was, but for the applied index."""
    *scalars, rows_sum, _, _ = one.state._meta.kept()
    sums = (digest.wrap(rows_sum), scalars[4:], one.state._buried)
    tables = [
        one.file.cursor.execute(f"select * from {table}").fetchall()
        for table in ("kv", "mask", "tombstone", "held", "lock_delay", "guard", "session", "session_check")
    ]
    changed = changes_after(one.state, 0, 1_000)
    return [one.read(query) for query in READS], sums, tables, changed, sorted(one.state._masks._all.items())


_keys = st.sampled_from([b"k", b"held", b"t/1", b"t/2", b"t/", b"none", b""])
_any_op: st.SearchStrategy[TxnOp] = st.one_of(
    st.builds(
        KvOp,
        verb=st.sampled_from([*get_args(KvVerb), "delete-tree"]),
        key=_keys,
        value=st.sampled_from([b"", b"x"]),
        index=st.sampled_from([0, K_AT, HELD_AT]),
        session=st.sampled_from(["", "s1", "s2"]),
    ),
    st.builds(
        NodeOp,
        verb=st.sampled_from(["get", "set", "cas", "delete", "delete-cas"]),
        node=st.sampled_from([N1, Node("n2", "10.0.0.2"), Node("n1", "10.0.0.1", meta={"a": "b"})]),
    ),
    st.builds(
        ServiceOp,
        verb=st.sampled_from(["get", "set", "cas", "delete"]),
        node=st.sampled_from(["n1", "n2"]),
        service=st.sampled_from([Service("web", "web"), Service("web", "api"), Service("x", "web")]),
    ),
    st.builds(
        CheckOp,
        verb=st.sampled_from(["get", "set", "delete"]),
        check=st.sampled_from(
            [Check("n1", "c", "c", "critical"), Check("n1", "c", "c", "passing"), Check("n2", "c", "c")]
        ),
    ),
    st.builds(CheckFence, key=_keys, fence=st.sampled_from([FENCE, 3])),
    st.builds(FenceGuard, resource=st.sampled_from([b"a", b"b"]), fence=st.integers(0, 9)),
)


@settings(max_examples=120, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(st.lists(st.lists(_any_op, min_size=1, max_size=8), min_size=1, max_size=5), st.booleans())
def test_a_failed_transaction_leaves_everything_as_it_was_whatever_was_in_it(
    tmp_path_factory: pytest.TempPathFactory, all_ops: list[list[TxnOp]], doomed: bool
) -> None:
    one = OneState(tmp_path_factory.mktemp("txn"))
    one.skip(10)
    one.apply(
        Register(N1, (Service("web", "web"),), (Check("", "c", "c", "passing"),)),
        CreateSession(Session("s1", "n1", lock_delay_ns=0)),
        CreateSession(Session("s2", "n1", node_checks=("c",))),
        KvSet(b"k", b"old"),
        KvSet(b"held", b"mine", acquire="s1"),
        KvSet(b"t/1", b"1"),
    )
    for ops in all_ops:
        before = everything(one)
        (outcome,) = one.apply(Txn((*ops, KvOp("get", b"never")) if doomed else tuple(ops)))
        answer = decode(outcome.result.value)  # type: ignore[union-attr]
        assert bool(answer.errors) >= doomed
        if answer.errors:
            assert outcome.touched == ()
            assert everything(one) == before
        one.state.verify()
        tree = [result for result in one.value(ReadTxn((KvOp("get-tree", b""),))).results]
        assert tree == [FoundKey(entry) for entry in one.value(KvList(b""))]
    before = everything(one)
    one.reopen()
    assert everything(one) == before
    one.close()
