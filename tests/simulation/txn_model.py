"""The whole state by log order, exactly: what each transaction answers, and what is left when it failed.

The naive state (`support/naive_state.py`) with what a log of the simulator has besides: epochs, restores, and
the results of transactions. It shares no rule with the product.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec
from simulation.witness import Violation
from support.naive_state import NaiveLocks, NaiveState

from gemot.server.model.catalog import Deregister, Node, Register
from gemot.server.model.kv import KvDelete, KvDeletePrefix, KvEntry, KvSet
from gemot.server.model.txn import (
    CheckFence,
    CheckOp,
    FenceGuard,
    FoundCheck,
    FoundKey,
    FoundNode,
    FoundService,
    KvOp,
    NodeOp,
    ServiceOp,
    Txn,
    TxnAnswer,
    TxnOp,
    TxnResult,
)
from gemot.server.state.locks import FENCE_BITS

replace = msgspec.structs.replace
CatalogOp = NodeOp | ServiceOp | CheckOp


class EpochLocks(NaiveLocks):
    """Fences with their epoch above the index; a lease of another epoch begins anew instead of ending."""

    def __init__(self) -> None:
        super().__init__()
        self.epoch = 0
        self._given: dict[str, int] = {}

    def lock(self, command: KvSet, old: KvEntry | None, index: int) -> tuple[str, int, int] | None:
        return super().lock(command, old, (self.epoch << FENCE_BITS) + index)

    def renew(self, id: str) -> None:
        self._given[id] = self.epoch
        super().renew(id)

    def is_due(self, id: str, generation: int) -> bool:
        known = id in self.leases and self.leases[id][0] == generation
        if known and self._given[id] != self.epoch:
            self.renew(id)
            return False
        return super().is_due(id, generation)

    def copied(self) -> EpochLocks:
        other = EpochLocks()
        _copy(self, other)
        return other


class TxnModel(NaiveState):
    def __init__(self) -> None:
        super().__init__()
        self.locks: EpochLocks = EpochLocks()
        self._expires_in: dict[bytes, int] = {}
        """The epoch in which a key's deadline was set: in another one it begins anew."""

        self._found: list[TxnResult] = []
        self._locked: set[bytes] = set()

    def copied(self) -> TxnModel:
        other = TxnModel()
        _copy(self, other)
        other.locks = self.locks.copied()
        return other

    def restored(self, archived: TxnModel, blob_epoch: int) -> TxnModel:
        """What the archive holds, in an epoch above this one's and its own."""
        other = archived.copied()
        other.locks.epoch = max(self.locks.epoch, blob_epoch) + 1
        return other

    def expect(self, command: Txn, answer: TxnAnswer, index: int, time_ms: int) -> None:
        """Apply it. Raises Violation if the answer is not what it comes to."""
        self._compare(answer, self.carry_out(command, index, time_ms), f"{command} at {index}")

    def carry_out(self, command: Txn, index: int, time_ms: int) -> list[int]:
        """The numbers of the operations that failed; nothing is left of them all then."""
        self.index, self.locks.time_ms = index, time_ms
        before = self.copied()
        if failed := self._try(command.ops):
            self.__dict__.update(before.__dict__)
        return failed

    def one_by_one(self, command: Txn, index: int, time_ms: int) -> Iterator[None]:
        """Carry out one that did not fail; what there is after each operation can be looked at."""
        self.index, self.locks.time_ms = index, time_ms
        self._found, self._locked = [], set()
        for op in command.ops:
            self._do(op)
            yield

    def expect_read(self, ops: tuple[TxnOp, ...], answer: TxnAnswer) -> None:
        self._compare(answer, self._try(ops), f"the reading transaction {ops} at {self.index}")

    def _try(self, ops: tuple[TxnOp, ...]) -> list[int]:
        """The numbers of those that failed; each is tried on what those before it left."""
        self._found, self._locked = [], set()
        return [number for number, op in enumerate(ops) if not self._do(op)]

    def _compare(self, answer: TxnAnswer, failed: list[int], where: str) -> None:
        told = [error.op for error in answer.errors]
        if told != failed:
            raise Violation(f"{where}: {told} failed, by the rules {failed}: {answer.errors}")
        if not failed and [_without_history(found) for found in answer.results] != self._found:
            raise Violation(f"{where} found {answer.results}, by the rules {self._found}")
        if failed and answer.results:
            raise Violation(f"{where} failed, and tells {answer.results}")

    # -- keys that expire --------------------------------------------------------------------------

    def _set(self, command: KvSet) -> bool | int:
        done = super()._set(command)
        if done and command.ttl_ms:
            self._expires_in[command.key] = self.locks.epoch
        return done

    def _expire(self, key: bytes, index: int) -> bool:
        entry = self.kv.get(key)
        known = entry is not None and entry.ttl_ms and entry.modify_index == index
        if known and entry is not None and self._expires_in[key] != self.locks.epoch:
            late_ms = max(entry.ttl_ms // 16, 250)
            self.deadlines[key] = self.locks.time_ms + entry.ttl_ms + late_ms
            self._expires_in[key] = self.locks.epoch
            return False
        return super()._expire(key, index)

    # -- operations --------------------------------------------------------------------------------

    def _do(self, op: TxnOp) -> bool:
        if isinstance(op, FenceGuard):
            greatest = self.guards.get(op.resource, 0)
            self.guards[op.resource] = max(op.fence, greatest)
            return op.fence >= greatest
        if isinstance(op, CheckFence):
            entry = self.kv.get(op.key)
            held = entry is not None and entry.session != "" and entry.fence == op.fence
            return held and (not op.session or entry is None or entry.session == op.session)
        if isinstance(op, KvOp):
            return self._do_key(op)
        return self._do_catalog(op)

    def _do_key(self, op: KvOp) -> bool:
        match op.verb:
            case "set":
                done = self._now(KvSet(op.key, op.value, op.flags, ttl_ms=op.ttl_ms))
            case "cas":
                done = self._now(KvSet(op.key, op.value, op.flags, cas=op.index))
            case "lock":
                done = self._lock(op)
            case "unlock":
                done = self._now(KvSet(op.key, op.value, op.flags, release=op.session))
            case "delete":
                return self._now(KvDelete(op.key))
            case "delete-cas":
                return self._now(KvDelete(op.key, op.index))
            case "delete-tree":
                return self._now(KvDeletePrefix(op.key))
            case _:
                return self._look(op)
        if done:
            self._tell(self.kv[op.key], valued=False)
        return done

    def _now(self, command: Any) -> bool:
        return bool(self.apply(command, self.index, self.locks.time_ms))

    def _lock(self, op: KvOp) -> bool:
        entry = self.kv.get(op.key)
        if op.key in self._locked and (entry is None or entry.session != op.session):
            return False
        done = self._now(KvSet(op.key, op.value, op.flags, acquire=op.session))
        if done:
            self._locked.add(op.key)
        return done

    def _look(self, op: KvOp) -> bool:
        entry = self.kv.get(op.key)
        if op.verb == "get-tree":
            for key in sorted(key for key in self.kv if key.startswith(op.key)):
                self._tell(self.kv[key])
            return True
        if op.verb == "check-not-exists":
            return entry is None
        if entry is None:
            if op.verb == "get-or-empty":
                self._tell(KvEntry(op.key, b"", 0, 0, "", 0, 0))
            return op.verb == "get-or-empty"
        if op.verb == "check-index" and entry.modify_index != op.index:
            return False
        if op.verb == "check-session" and entry.session != op.session:
            return False
        self._tell(entry, valued=op.verb in ("get", "get-or-empty"))
        return True

    def _tell(self, entry: KvEntry, *, valued: bool = True) -> None:
        self._found.append(FoundKey(entry if valued else replace(entry, value=b"")))

    def _do_catalog(self, op: CatalogOp) -> bool:
        node = _node_of(op)
        row = self._row(op)
        if op.verb == "get":
            return self._tell_row(row)
        deletes = op.verb.startswith("delete")
        if not deletes and not isinstance(op, NodeOp) and node not in self.nodes:
            return False
        if op.verb in ("cas", "delete-cas"):
            wanted = _thing(op).modify_index
            if wanted != (row.modify_index if row is not None else 0) or (deletes and row is None):
                return False
        if deletes:
            return self._now(_removal(op))
        return self._now(_registration(op)) and self._tell_row(self._row(op))

    def _row(self, op: CatalogOp) -> Any:
        if isinstance(op, NodeOp):
            return self.nodes.get(op.node.node)
        if isinstance(op, ServiceOp):
            return self.services.get((op.node, op.service.id))
        return self.checks.get((op.check.node, op.check.check_id))

    def _tell_row(self, row: Any) -> bool:
        if row is None:
            return False
        kinds = {"Node": FoundNode, "Service": FoundService, "Check": FoundCheck}
        self._found.append(kinds[type(row).__name__](row))
        return True


def plain(entry: KvEntry) -> KvEntry:
    """Without what is told of its history, which the naive state does not keep."""
    return replace(entry, accessor="", at_ms=0, revision=0, absent_from=0)


def _without_history(found: TxnResult) -> TxnResult:
    return FoundKey(plain(found.row)) if isinstance(found, FoundKey) else found


def _copy(of: object, to: object) -> None:
    """Rows are frozen: tables alone are copied."""
    to.__dict__.update({name: dict(v) if isinstance(v, dict) else v for name, v in of.__dict__.items()})


def _thing(op: CatalogOp) -> Any:
    return op.node if isinstance(op, NodeOp) else op.service if isinstance(op, ServiceOp) else op.check


def _node_of(op: CatalogOp) -> str:
    if isinstance(op, NodeOp):
        return op.node.node
    return op.node if isinstance(op, ServiceOp) else op.check.node


def _removal(op: CatalogOp) -> Deregister:
    if isinstance(op, NodeOp):
        return Deregister(op.node.node)
    if isinstance(op, ServiceOp):
        return Deregister(op.node, service_id=op.service.id)
    return Deregister(op.check.node, check_id=op.check.check_id)


def _registration(op: CatalogOp) -> Register:
    if isinstance(op, NodeOp):
        return Register(op.node)
    bare = Node(_node_of(op), "")
    if isinstance(op, ServiceOp):
        return Register(bare, (op.service,), skip_node_update=True)
    return Register(bare, checks=(op.check,), skip_node_update=True)
