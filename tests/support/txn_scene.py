"""A state that transactions are tried on: a node, its sessions, keys free and held; and their answers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from support.one_state import OneState

from gemot.server.model.catalog import Node, Register, Service
from gemot.server.model.health import Check
from gemot.server.model.kv import KvSet
from gemot.server.model.session import CreateSession, Session
from gemot.server.model.txn import FenceGuard, KvOp, Txn, TxnAnswer, TxnOp, decode

N1 = Node("n1", "10.0.0.1")
OP: list[TxnOp] = [KvOp("set", b"new", b"1")]

K_AT, HELD_AT = 14, 15
FENCE = HELD_AT


def furnished(folder: Path) -> OneState:
    """k is unlocked, held is held by s1; both, and the node, are older than the transactions.

    The first transaction, of which it is noted that there was one, is over.
    """
    state = OneState(folder)
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
    return state


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
