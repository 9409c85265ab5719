"""Transactions over the keys, locks and instances that the other families write; their checker.

Whether the answer is right is told by a model of the whole state (`txn_model.py`), in the order of the log:
what was found, which operations failed, and that a failed one left nothing. The other families take those
that were carried out apart (`txn_parts.py`), so their models, watchers and the check that believes no index
see them too: there, all that a failed transaction was to write must never be seen.
"""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import Any

import msgspec
from simulation.clients import Client
from simulation.families.catalog import HOSTS, SERVICES, STATUSES
from simulation.families.kv import KvFamily
from simulation.families.locks import HOST, KEYS, LockFamily
from simulation.node import Node as Server
from simulation.txn_model import TxnModel, plain
from simulation.txn_parts import on_keys
from simulation.witness import Seen, Violation
from simulation.world import World

from gemot.server.model.catalog import Node, Service
from gemot.server.model.command import IdempotencyKey
from gemot.server.model.health import Check
from gemot.server.model.kv import KvList
from gemot.server.model.query import Answer, Applied, Options
from gemot.server.model.restore import Restore
from gemot.server.model.txn import (
    CheckFence,
    CheckOp,
    FenceGuard,
    FoundKey,
    KvOp,
    NodeOp,
    ReadTxn,
    ServiceOp,
    Txn,
    TxnAnswer,
    TxnOp,
    TxnResult,
    decode,
    reads,
)

LENGTHS = (1, 1, 2, 2, 3, 4, 7)
ALL_GOES = 0.02
"""So many of the deletes are of all there is, or end every session."""

TWICE = 0.05

KEY_VERBS = {
    "set": 4.0,
    "cas": 2.0,
    "get": 0.3,
    "get-or-empty": 1.5,
    "get-tree": 1.0,
    "check-index": 1.0,
    "check-not-exists": 0.3,
    "delete": 0.7,
    "delete-cas": 0.7,
    "delete-tree": 0.3,
}
READ_VERBS = ("get", "get-or-empty", "get-or-empty", "get-tree", "check-index", "check-not-exists")
LOCK_VERBS = {
    "lock": 2.0,
    "unlock": 0.5,
    "check-session": 0.5,
    "check-fence": 2.0,
    "fence-guard": 3.0,
    "get-or-empty": 0.5,
    "set": 0.5,
    "delete": 0.3,
    "delete-tree": 0.1,
}


class Drawn:
    """Operations by chance, with what a client knows: indexes, fences and sessions that it was told."""

    def __init__(self, random: Random, kv: KvFamily, locks: LockFamily) -> None:
        self._random = random
        self._kv = kv
        self._locks = locks
        self._ports = 0
        self.rows: dict[tuple[str, ...], int] = {}
        """The index of each row of the catalog that was told last."""

    def ops(self, client: int) -> tuple[TxnOp, ...]:
        parts = (self._key, self._key, self._key, self._lock, self._catalog)
        some = [self._random.choice(parts) for _ in range(self._random.choice(LENGTHS))]
        ops = tuple(part(client) for part in some)
        return ops + self._twice(client) if self._random.random() < TWICE else ops

    def _twice(self, client: int) -> tuple[TxnOp, ...]:
        """A lock is taken, deleted and taken again, which would be two holders with one fence."""
        session = self._locks.sessions.get(client)
        if session is None:
            return ()
        key = b"lock/%d" % self._random.randrange(KEYS)
        locks = [KvOp("lock", key, self._kv.new_value(), session=session.id) for _ in range(2)]
        return (KvOp("delete", key), locks[0], KvOp("delete", key), locks[1])

    def reading(self, client: int) -> tuple[TxnOp, ...]:
        count = self._random.choice(LENGTHS)
        return tuple(self._on_key(client, self._random.choice(READ_VERBS)) for _ in range(count))

    def _of(self, verbs: dict[str, float]) -> str:
        return self._random.choices([*verbs], [*verbs.values()])[0]

    def _key(self, client: int) -> TxnOp:
        return self._on_key(client, self._of(KEY_VERBS))

    def _on_key(self, client: int, verb: str) -> KvOp:
        key = self._random.choice(self._kv.keys)
        value = self._kv.new_value() if verb in ("set", "cas") else b""
        if verb.endswith("tree") and self._random.random() < 0.3:
            key = b"key"
        if verb == "delete-tree" and self._random.random() < ALL_GOES:
            key = b""
        index = self._kv.newest.get(key, 0)
        if self._random.random() < 0.2:
            index = self._kv.indexes.get((client, key), 0)
        return KvOp(verb, key, value, index=index)  # type: ignore[arg-type]

    def _lock(self, client: int) -> TxnOp:
        verb = self._of(LOCK_VERBS)
        key = b"lock/%d" % self._random.randrange(KEYS)
        session = self._locks.sessions.get(client)
        id = session.id if session is not None else "no-session"
        if verb in ("check-fence", "fence-guard"):
            known = self._locks.fences[-2:] or [(key, id, 1)]
            key, id, fence = self._random.choice(known)
            if verb == "fence-guard":
                return FenceGuard(b"resource %d" % self._random.randrange(KEYS), fence)
            return CheckFence(key, fence, id if self._random.random() < 0.5 else "")
        if verb == "delete-tree":
            key = b"lock/"
        value = self._kv.new_value() if verb in ("lock", "unlock", "set") else b""
        session_of = id if verb in ("lock", "unlock", "check-session") else ""
        return KvOp(verb, key, value, session=session_of)  # type: ignore[arg-type]

    def _catalog(self, _client: int) -> TxnOp:
        verb = self._random.choices(["get", "set", "cas", "delete", "delete-cas"], [1, 5, 2, 1, 0.5])[0]
        host, service = f"host{self._random.randrange(HOSTS)}", self._random.choice(SERVICES)
        self._ports += 1
        match self._random.randrange(3):
            case 0:
                if verb == "delete" and self._random.random() < 10 * ALL_GOES:
                    host = HOST
                index = self.rows.get((host,), 0)
                return NodeOp(verb, Node(host, f"10.3.0.{self._ports % 250}", modify_index=index))  # type: ignore[arg-type]
            case 1:
                id = f"{service}-1"
                index = self.rows.get((host, "service", id), 0)
                port = 1_000_000 + self._ports
                return ServiceOp(verb, host, Service(id, service, port=port, modify_index=index))  # type: ignore[arg-type]
        status = self._random.choice(STATUSES)
        id = f"{service} check"
        index = self.rows.get((host, "check", id), 0)
        of = f"{service}-1" if self._random.random() < 0.5 else ""
        check = Check(host, id, "alive", status, service_id=of, modify_index=index)  # type: ignore[arg-type]
        return CheckOp(verb, check)  # type: ignore[arg-type]


class Effect(msgspec.Struct, frozen=True):
    """What was applied, of all families."""

    index: int
    time_ms: int
    command: Any
    value: Any


class Read(msgspec.Struct, frozen=True):
    """A transaction that reads, as it was answered from the state at that index."""

    index: int
    ops: tuple[TxnOp, ...]
    answer: TxnAnswer


class TxnFamily:
    operations = (("txn", 2.0), ("txn-retry", 0.5), ("txn-read", 0.7))

    def __init__(self, world: World, kv: KvFamily, locks: LockFamily, time_ms: Callable[[], int]) -> None:
        self._world = world
        self._kv = kv
        self._locks = locks
        self._time_ms = time_ms
        self._drawn = Drawn(world.random, kv, locks)
        self._sequence = 0
        self._effects: list[Effect] = []
        self._told: dict[int, tuple[Txn, Any]] = {}
        self._reads: list[Read] = []
        self._refused: list[Txn] = []
        self._asked: dict[int, list[Seen]] = {}
        self.history: list[Seen] = []

    def actors(self, nodes: list[Server]) -> list[Any]:
        return []

    # -- the client --------------------------------------------------------------------------------

    def act(self, client: Client, node: Server, operation: str) -> None:
        if operation == "txn-read":
            self._read(client, node)
            return
        ops = self._drawn.ops(client.number)
        if all(map(reads, ops)):
            ops += (KvOp("set", self._kv.keys[0], self._kv.new_value()),)
        key = None
        if operation == "txn-retry":
            self._sequence += 1
            key = IdempotencyKey(f"txn {self._sequence}", b"once")
        self._write(client, node, Txn(ops), key)

    def _write(self, client: Client, node: Server, command: Txn, key: IdempotencyKey | None) -> None:
        began = client.began_us
        self._sequence += 1
        asked = self._sequence
        self._asked[asked] = on_keys(command.ops, self._kv.keys, began)

        def told(result: Applied) -> None:
            answer, now = decode(result.value), self._world.now_us
            open_ones = self._asked.pop(asked)
            if answer.errors:
                self._in_vain(command)
            else:
                self._kv.transacted += [
                    msgspec.structs.replace(seen, ended=now, index=result.index, result=True)
                    for seen in open_ones
                ]
                self._learn(client.number, command, answer.results)
            self._told[result.index] = (command, result.value)
            self._see(Seen("txn", b"", began, now, result.index, None, None, result.value))

        def refused() -> None:
            del self._asked[asked]
            self._in_vain(command)
            self._refused.append(command)

        client.write(node, command, told, key, refused=refused)

    def _in_vain(self, command: Txn) -> None:
        """None of its values may ever be seen."""
        began = self._world.now_us
        self._kv.transacted_in_vain += [
            Seen("set", op.key, began, began, 0, op.value, None, None)
            for op in command.ops
            if isinstance(op, KvOp) and op.verb in ("set", "cas") and op.key in self._kv.keys
        ]

    def _learn(self, client: int, command: Txn, results: tuple[TxnResult, ...]) -> None:
        for found in results:
            if isinstance(found, FoundKey):
                self._kv.indexes[client, found.row.key] = found.row.modify_index
                continue
            name = _name_of(found.row)
            if name is not None:
                self._drawn.rows[name] = found.row.modify_index
        for seen in on_keys(command.ops, self._kv.keys, 0):
            if seen.kind == "delete":
                self._kv.indexes[client, seen.key] = 0
        for op in command.ops:
            if isinstance(op, KvOp) and op.verb == "lock":
                fences = [f.row.fence for f in results if isinstance(f, FoundKey) and f.row.key == op.key]
                self._locks.fences.append((op.key, op.session, max(fences)))
            elif isinstance(op, ServiceOp):
                found_indexes = [
                    f.row.modify_index for f in results if getattr(f.row, "port", 0) == op.service.port
                ]
                if found_indexes:
                    self._drawn.rows[op.node, "service", op.service.id] = found_indexes[-1]

    def _read(self, client: Client, node: Server) -> None:
        ops, began = self._drawn.reading(client.number), client.began_us

        def seen(answer: Answer, served: int) -> None:
            self._reads.append(Read(served, ops, answer.value))
            now = self._world.now_us
            self._see(Seen("get", b"a transaction", began, now, served, None, None, answer.value))
            for found in answer.value.results:
                row = found.row
                if row.value:  # of checks no value is told
                    self._kv.indexes[client.number, row.key] = row.modify_index
                    self._kv.see(Seen("get", row.key, began, now, served, None, None, row.value))

        client.query(node, ReadTxn(ops), Options(), seen)

    def _see(self, seen: Seen) -> None:
        self._world.note(f"{seen.kind} {seen.index} {seen.result!r}\n")
        self.history.append(seen)

    # -- the truth ---------------------------------------------------------------------------------

    def effect(self, index: int, command: Any, result: Applied) -> None:
        self._effects.append(Effect(index, self._time_ms(), command, result.value))

    def check(self) -> int:
        self._kv.transacted_open = [seen for some in self._asked.values() for seen in some]
        by_index = {effect.index: (effect.command, effect.value) for effect in self._effects}
        for index, told in self._told.items():
            if by_index.get(index) != told:
                raise Violation(f"{told} was told of index {index}, where stands {by_index.get(index)}")
        done = [effect.command for effect in self._effects if isinstance(effect.command, Txn)]
        for refused in self._refused:
            if _is_unique(refused) and refused in done:
                raise Violation(f"{refused} was told not to be done, and it was")
        self._compare(self._replay())
        return len(self.history)

    def _replay(self) -> TxnModel:
        model, at = TxnModel(), 0
        archived = {e.command.index for e in self._effects if isinstance(e.command, Restore)}
        as_of: dict[int, TxnModel] = {}
        wanted = sorted(self._reads, key=lambda read: read.index)
        for effect in self._effects:
            while at < len(wanted) and wanted[at].index < effect.index:
                model.expect_read(wanted[at].ops, wanted[at].answer)
                at += 1
            as_of |= {i: model.copied() for i in archived if i < effect.index and i not in as_of}
            match effect.command:
                case Restore(index=index, blob_epoch=epoch):
                    model = model.restored(as_of[index], epoch)
                case Txn():
                    model.expect(effect.command, decode(effect.value), effect.index, effect.time_ms)
                case command:
                    model.apply(command, effect.index, effect.time_ms)
        for read in wanted[at:]:
            model.expect_read(read.ops, read.answer)
        return model

    def _compare(self, model: TxnModel) -> None:
        """With every key of one that has applied all of it."""
        states = [host.opened.state for host in self._locks.clocks.hosts if host.opened is not None]
        newest = max(states, key=lambda state: state.index, default=None)
        if newest is None or (self._effects and newest.index < self._effects[-1].index):
            return
        entries, _ = newest.read(KvList(b""), "")
        wanted = [model.kv[key] for key in sorted(model.kv)]
        if [plain(entry) for entry in entries] != wanted:
            raise Violation(f"the keys are {entries}, and should be {wanted}")


def _is_unique(command: Txn) -> bool:
    """It writes a value of its own."""
    return any(isinstance(op, KvOp) and op.value for op in command.ops)


def _name_of(row: Any) -> tuple[str, ...] | None:
    if isinstance(row, Node):
        return (row.node,)
    return (row.node, "check", row.check_id) if isinstance(row, Check) else None
