"""Transactions that fail: what is told of each operation, and that nothing of them is left."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.change_rows import changes_after
from support.one_state import OneState
from support.txn_scene import FENCE, HELD_AT, K_AT, N1, OP, furnished, rows, txn, whats

from gemot.server.model.catalog import HealthService, Node, NodeInfo, Nodes, Register, Service
from gemot.server.model.health import Check, HealthNode
from gemot.server.model.kv import KvDeletePrefix, KvGet, KvKeys, KvList, KvSet
from gemot.server.model.query import Query
from gemot.server.model.session import CreateSession, Session, Sessions
from gemot.server.model.txn import (
    MAX_FENCE,
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
    TxnOp,
    decode,
    reads,
)
from gemot.server.state import digest
from gemot.server.state import txn as transactions
from gemot.server.state.permission import Operation


@pytest.fixture
def one(tmp_path: Path) -> Iterator[OneState]:
    with contextlib.closing(furnished(tmp_path)) as state:
        yield state


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


def test_a_tree_deleted_in_vain_hides_nothing(one: OneState) -> None:
    before = everything(one)
    assert whats(txn(one, KvOp("delete-tree", b""), KvOp("get", b"k"))) == [(1, 'key "k" doesn\'t exist')]
    assert everything(one) == before
    assert not one.state.purge_due()
    one.reopen()
    assert everything(one) == before


def test_a_transaction_that_fails_in_a_batch_leaves_what_the_batch_did_before_and_after(
    one: OneState,
) -> None:
    failing = Txn((KvOp("delete-tree", b""), KvOp("get", b"k")))
    one.apply(KvDeletePrefix(b"t/"), KvSet(b"a", b"1"), failing, KvSet(b"b", b"1"))
    assert one.value(KvKeys(b"")) == [b"a", b"b", b"held", b"k"]
    one.state.verify()


def test_sessions_end_inside_and_come_back_when_it_fails(one: OneState) -> None:
    critical = CheckOp("set", Check("n1", "c", "c", "critical"))
    one.apply(KvSet(b"k", b"", acquire="s2"))
    before = everything(one)
    whats(txn(one, critical, KvOp("check-session", b"k", session="s2")))
    assert everything(one) == before
    assert rows(txn(one, critical, KvOp("check-session", b"k")))[1].session == ""
    assert [session.id for session in one.value(Sessions())] == ["s1"]
    one.state.verify()


def test_a_guard_forgets_what_a_failed_transaction_showed_it(one: OneState) -> None:
    whats(txn(one, FenceGuard(b"r", 9), KvOp("get", b"none")))
    assert txn(one, FenceGuard(b"r", 5)).errors == ()


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


# -- bounds ----------------------------------------------------------------------------------------


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


# -- whatever was in it ----------------------------------------------------------------------------

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
