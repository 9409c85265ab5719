"""The same rules once more, the slow and obvious way: dicts, and a look at everything for each question."""

from __future__ import annotations

import copy
from collections.abc import Iterable
from typing import Any

import msgspec

from gemot.server.model.catalog import (
    Deregister,
    HealthService,
    Instance,
    Node,
    NodeDetail,
    NodeInfo,
    Nodes,
    Register,
    Service,
    ServiceNode,
    ServiceNodes,
    Services,
)
from gemot.server.model.command import Command
from gemot.server.model.coordinate import CoordinateOf, Coordinates, NodeCoordinate, SetCoordinates
from gemot.server.model.health import Check, HealthChecks, HealthNode, HealthState
from gemot.server.model.kv import (
    EntryPage,
    ExpireKeys,
    KeyPage,
    KvDelete,
    KvDeletePrefix,
    KvEntry,
    KvGet,
    KvKeys,
    KvKeysPage,
    KvList,
    KvListPage,
    KvSet,
)
from gemot.server.model.query import Query
from gemot.server.model.session import (
    CreateSession,
    DestroySession,
    EndLeases,
    RenewSession,
    Session,
    SessionInfo,
    Sessions,
)
from gemot.server.model.txn import CheckFence, FenceGuard, KvOp, NodeOp, Txn, TxnOp

replace = msgspec.structs.replace


class NaiveState:
    """Values only; of the indexes those that are part of a value (create and modify)."""

    def __init__(self) -> None:
        self.index = 0
        self.kv: dict[bytes, KvEntry] = {}
        self.nodes: dict[str, Node] = {}
        self.services: dict[tuple[str, str], Service] = {}
        self.checks: dict[tuple[str, str], Check] = {}
        self.places: dict[str, NodeCoordinate] = {}
        self.guards: dict[bytes, int] = {}
        self.deadlines: dict[bytes, int] = {}
        self.locks = NaiveLocks()

    def apply(self, command: Command, index: int, time_ms: int = 0) -> bool | int:
        self.index = index
        self.locks.time_ms = time_ms
        if isinstance(command, Txn):
            return self._transact(command)
        if isinstance(command, KvSet):
            return self._set(command)
        if isinstance(command, CreateSession | DestroySession | RenewSession | EndLeases):
            return self._of_session(command)
        if isinstance(command, KvDelete):
            old = self.kv.get(command.key)
            if old is not None and command.cas not in (None, old.modify_index):
                return False
            self.kv.pop(command.key, None)
        elif isinstance(command, ExpireKeys):
            return sum([self._expire(key, index) for key, index in command.keys])
        elif isinstance(command, KvDeletePrefix):
            self.kv = {k: v for k, v in self.kv.items() if not k.startswith(command.prefix)}
        elif isinstance(command, Register):
            taken = self._register(command)
            self._end_those_without_life()
            return taken
        elif isinstance(command, Deregister):
            self._deregister(command)
            self._end_those_without_life()
        elif isinstance(command, SetCoordinates):
            return sum([self._place(row) for row in command.rows])
        return True

    def _transact(self, command: Txn) -> bool:
        """On a copy, which becomes the state if nothing failed. False if something did."""
        self.locked: set[bytes] = set()
        before = copy.deepcopy(self.__dict__)
        if all([self._operate(op) for op in command.ops]):
            return True
        self.__dict__.update(before)
        return False

    def _operate(self, op: TxnOp) -> bool:
        if isinstance(op, FenceGuard):
            self.guards[op.resource] = max(op.fence, greatest := self.guards.get(op.resource, 0))
            return op.fence >= greatest
        if isinstance(op, NodeOp):
            command = Register(op.node) if op.verb == "set" else Deregister(op.node.node)
            return bool(self.apply(command, self.index, self.locks.time_ms))
        assert isinstance(op, KvOp | CheckFence)
        entry = self.kv.get(op.key)
        if isinstance(op, CheckFence):
            return entry is not None and bool(entry.session) and entry.fence == op.fence
        verb = op.verb
        if verb in ("delete", "delete-cas"):
            stale = verb == "delete-cas" and entry is not None and entry.modify_index != op.index
            if not stale:
                self.kv.pop(op.key, None)
            return not stale
        if verb == "delete-tree":
            self.kv = {key: row for key, row in self.kv.items() if not key.startswith(op.key)}
            return True
        if verb in ("set", "cas", "lock", "unlock"):
            cas = op.index if verb == "cas" else None
            acquire, release = [op.session if verb == this else None for this in ("lock", "unlock")]
            again = op.key in self.locked and (entry is None or entry.session != op.session)
            done = bool(self._set(KvSet(op.key, op.value, op.flags, cas, acquire, release, op.ttl_ms)))
            if verb == "lock":
                self.locked.add(op.key)
            return done and not (verb == "lock" and again)
        if verb == "check-not-exists":
            return entry is None
        if entry is None:
            return verb in ("get-or-empty", "get-tree")
        if verb == "check-index":
            return entry.modify_index == op.index
        return verb != "check-session" or entry.session == op.session

    def _place(self, row: NodeCoordinate) -> bool:
        before = self.places.get(row.node)
        if row.node in self.nodes:
            self._put(self.places, row.node, row)
        return self.places.get(row.node) != before

    def _set(self, command: KvSet) -> bool:
        old = self.kv.get(command.key)
        if command.cas is not None and command.cas != (old.modify_index if old else 0):
            return False
        created = old.create_index if old else self.index
        entry = replace(
            old or KvEntry(command.key, b"", 0, 0, "", created, 0),
            value=command.value,
            flags=command.flags,
            lock_index=0,
            ttl_ms=command.ttl_ms,
        )
        if command.acquire is not None or command.release is not None:
            lock = self.locks.lock(command, old, self.index)
            if lock is None:
                return False
            entry = replace(entry, session=lock[0], lock_index=lock[1], fence=lock[2])
        if command.ttl_ms:
            late_ms = max(command.ttl_ms // 16, 250)
            self.deadlines[command.key] = self.locks.time_ms + command.ttl_ms + late_ms
        if old is None or entry != old:
            self.kv[command.key] = replace(entry, modify_index=self.index)
        return entry.fence if command.acquire is not None else True

    def _expire(self, key: bytes, index: int) -> bool:
        entry = self.kv.get(key)
        if entry is None or not entry.ttl_ms or entry.modify_index != index:
            return False
        if self.deadlines[key] > self.locks.time_ms:
            return False
        del self.kv[key]
        return True

    def _of_session(self, command: CreateSession | DestroySession | RenewSession | EndLeases) -> bool | int:
        """False where a rule refuses, too."""
        sessions = self.locks.sessions
        if isinstance(command, DestroySession):
            self._end([command.id])
        elif isinstance(command, RenewSession):
            if command.id not in sessions:
                return False
            self.locks.renew(command.id)
        elif isinstance(command, EndLeases):
            due = [id for id, generation in command.leases if self.locks.is_due(id, generation)]
            self._end(due)
            return len(due)
        else:
            given = command.session
            checks = [self.checks.get((given.node, id)) for id in given.node_checks]
            living = all(check is not None and check.status != "critical" for check in checks)
            if given.id in sessions or given.node not in self.nodes or not living:
                return False
            sessions[given.id] = replace(given, create_index=self.index, modify_index=self.index)
            self.locks.renew(given.id)
        return True

    def _end(self, ids: Iterable[str]) -> None:
        """Those sessions end: a look at every key for each."""
        for id in [id for id in ids if id in self.locks.sessions]:
            session = self.locks.sessions.pop(id)
            self.locks.leases.pop(id, None)
            for key, entry in list(self.kv.items()):
                if entry.session != id:
                    continue
                if session.behavior == "delete":
                    del self.kv[key]
                else:
                    self.kv[key] = replace(entry, session="", modify_index=self.index)
                if session.lock_delay_ns:
                    self.locks.delays[key] = self.locks.time_ms + session.lock_delay_ns // 1_000_000

    def _end_those_without_life(self) -> None:
        """Each needs its node, and every check it names there, none of them critical."""
        for id, session in list(self.locks.sessions.items()):
            checks = [self.checks.get((session.node, check)) for check in session.node_checks]
            if session.node not in self.nodes or any(c is None or c.status == "critical" for c in checks):
                self._end([id])

    def _register(self, command: Register) -> bool:
        """False where a rule refuses. Without node ids: their rules have tests of their own."""
        name = command.node.node
        ids = {service.id for service in command.services} | {i for n, i in self.services if n == name}
        if any(check.service_id and check.service_id not in ids for check in command.checks):
            return False
        if not (command.skip_node_update and name in self.nodes):
            self._put(self.nodes, name, command.node)
        for service in command.services:
            key = (name, service.id)
            self._put(self.services, key, service)
            for of, check in list(self.checks.items()):
                if of[0] == name and check.service_id == service.id:
                    copied = replace(check, service_name=service.service, service_tags=service.tags)
                    self._put(self.checks, of, copied)
        for check in command.checks:
            if check.service_id:
                service = self.services[name, check.service_id]
                check = replace(check, service_name=service.service, service_tags=service.tags)
            self._put(self.checks, (name, check.check_id), replace(check, node=name))
        return True

    def _put(self, table: dict[Any, Any], key: Any, row: Any) -> None:
        old = table.get(key)
        created = old.create_index if old else self.index
        row = replace(row, create_index=created, modify_index=self.index)
        if old is None or replace(old, modify_index=self.index) != row:
            table[key] = row

    def _deregister(self, command: Deregister) -> None:
        name = command.node
        if command.service_id:
            self.services.pop((name, command.service_id), None)
            mine = {k: v for k, v in self.checks.items() if k[0] == name}
            for key, check in mine.items():
                if check.service_id == command.service_id:
                    del self.checks[key]
        elif command.check_id:
            self.checks.pop((name, command.check_id), None)
        else:
            self.nodes.pop(name, None)
            self.places.pop(name, None)
            self.services = {k: v for k, v in self.services.items() if k[0] != name}
            self.checks = {k: v for k, v in self.checks.items() if k[0] != name}

    def read(self, query: Query) -> Any:
        if isinstance(query, SessionInfo):
            return self.locks.sessions.get(query.id)
        if isinstance(query, Sessions):
            found = sorted(self.locks.sessions.values(), key=lambda session: session.id)
            return [session for session in found if query.node in ("", session.node)]
        if isinstance(query, KvGet):
            return self.kv.get(query.key)
        if isinstance(query, KvList):
            return [self.kv[key] for key in sorted(self.kv) if key.startswith(query.prefix)]
        if isinstance(query, KvKeys):
            return self._keys(query)
        if isinstance(query, KvListPage):
            entries = [each for each in self.read(KvList(query.prefix)) if each.key > query.after]
            more = len(entries) > query.limit
            return EntryPage(entries[: query.limit], entries[query.limit - 1].key if more else b"")
        if isinstance(query, KvKeysPage):
            names = [name for name in self._keys(KvKeys(query.prefix, query.separator)) if name > query.after]
            more = len(names) > query.limit
            return KeyPage(names[: query.limit], names[query.limit - 1] if more else b"")
        return self._read_catalog(query)

    def _keys(self, query: KvKeys) -> list[bytes]:
        found = []
        for key in sorted(self.kv):
            if not key.startswith(query.prefix):
                continue
            at = key.find(query.separator, len(query.prefix)) if query.separator else -1
            cut = key if at < 0 else key[: at + len(query.separator)]
            if cut not in found:
                found.append(cut)
        return found

    def _read_catalog(self, query: Query) -> Any:
        if isinstance(query, Coordinates):
            return [self.places[name] for name in sorted(self.places)]
        if isinstance(query, CoordinateOf):
            return self.places.get(query.node)
        if isinstance(query, Nodes):
            return [self.nodes[name] for name in sorted(self.nodes) if self._on(name, query.meta)]
        if isinstance(query, NodeInfo):
            node = self.nodes.get(query.node)
            services = tuple(self.services[k] for k in sorted(self.services) if k[0] == query.node)
            return node and NodeDetail(node, services, tuple(self._checks(query.node)))
        if isinstance(query, Services):
            tags: dict[str, list[str]] = {}
            for (name, _), service in self.services.items():
                if self._on(name, query.node_meta):
                    tags[service.service] = sorted({*tags.get(service.service, []), *service.tags})
            return tags
        if isinstance(query, ServiceNodes):
            return self._instances(query.service, query.tags, query.node_meta)
        if isinstance(query, HealthService):
            return self._health(query)
        if isinstance(query, HealthNode):
            return self._checks(query.node)
        assert isinstance(query, HealthChecks | HealthState)
        checks = [self.checks[key] for key in sorted(self.checks) if self._on(key[0], query.node_meta)]
        if isinstance(query, HealthChecks):
            return [check for check in checks if check.service_id and check.service_name == query.service]
        return [check for check in checks if query.state in ("any", check.status)]

    def _health(self, query: HealthService) -> list[Instance]:
        found = []
        for entry in self._instances(query.service, query.tags, query.node_meta):
            checks = [c for c in self._checks(entry.node.node) if not c.service_id]
            checks += [c for c in self._checks(entry.node.node) if c.service_id == entry.service.id]
            if not query.passing or all(check.status == "passing" for check in checks):
                found.append(Instance(entry.node, entry.service, tuple(checks)))
        return found

    def _instances(self, name: str, tags: tuple[str, ...], meta: dict[str, str]) -> list[ServiceNode]:
        return [
            ServiceNode(self.nodes[node], self.services[node, id])
            for node, id in sorted(self.services)
            if self.services[node, id].service == name
            and self._on(node, meta)
            and {tag.lower() for tag in tags} <= {tag.lower() for tag in self.services[node, id].tags}
        ]

    def _checks(self, node: str) -> list[Check]:
        return [self.checks[key] for key in sorted(self.checks) if key[0] == node]

    def _on(self, node: str, meta: dict[str, str]) -> bool:
        return meta.items() <= self.nodes[node].meta.items()


class NaiveLocks:
    """Sessions, their leases, and which keys nobody may lock yet; all by cluster time."""

    def __init__(self) -> None:
        self.time_ms = 0
        self.sessions: dict[str, Session] = {}
        self.leases: dict[str, tuple[int, int]] = {}
        self.delays: dict[bytes, int] = {}

    def lock(self, command: KvSet, old: KvEntry | None, index: int) -> tuple[str, int, int] | None:
        """Session, lock index and fence that the key will have; None where the lock says no."""
        held_by, count, fence = (old.session, old.lock_index, old.fence) if old else ("", 0, 0)
        if command.release is not None:
            return ("", count, fence) if held_by == command.release else None
        if command.acquire not in self.sessions:
            return None
        if held_by:
            return (held_by, count, fence) if held_by == command.acquire else None
        if self.delays.get(command.key, 0) > self.time_ms:
            return None
        return (command.acquire, count + 1, index)

    def renew(self, id: str) -> None:
        if ttl := self.sessions[id].ttl_ms:
            generation = self.leases[id][0] + 1 if id in self.leases else 0
            self.leases[id] = (generation, self.time_ms + ttl + ttl // 4)

    def is_due(self, id: str, generation: int) -> bool:
        return id in self.leases and self.leases[id][0] == generation and self.leases[id][1] <= self.time_ms
