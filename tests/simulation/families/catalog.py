"""The catalog family: instances come and go with their checks, health is read; its model and checker."""

from __future__ import annotations

from typing import Any

from simulation.clients import Client
from simulation.node import Node as Server
from simulation.txn_parts import carried_out
from simulation.witness import READS, Seen, Violation
from simulation.world import World

from gemot.server.model.catalog import Deregister, HealthService, Instance, Node, Register, Service
from gemot.server.model.command import Command
from gemot.server.model.health import Check
from gemot.server.model.query import Answer, Applied, Options
from gemot.server.model.restore import Restore
from gemot.server.model.txn import Txn

SERVICES = ("web", "db")
HOSTS = 3
STATUSES = ("passing", "warning", "critical")

Row = tuple[str, str, int, tuple[tuple[str, str], ...]]
"""An instance as the checker sees it: host, id, port, and its checks with their status."""


class CatalogFamily:
    """Two services on three hosts; the port of each registration is its own, so that it is known again."""

    operations = (("register", 1.0), ("deregister", 0.4), ("health", 1.0))

    def __init__(self, world: World) -> None:
        self._world = world
        self._sequence = 0
        self._effects: list[tuple[int, Command]] = []
        self.history: list[Seen] = []

    def actors(self, nodes: list[Server]) -> list[Any]:
        return []

    # -- the client --------------------------------------------------------------------------------

    def act(self, client: Client, node: Server, operation: str) -> None:
        random = self._world.random
        service, host = random.choice(SERVICES), f"host{random.randrange(HOSTS)}"
        match operation:
            case "register":
                self._write(client, node, service, self._registration(host, service))
            case "deregister":
                whole = random.random() < 0.3
                self._write(client, node, service, Deregister(host, "" if whole else f"{service}-1"))
            case _:
                self._read(client, node, service)

    def _registration(self, host: str, service: str) -> Register:
        self._sequence += 1
        status = self._world.random.choice(STATUSES)
        return Register(
            Node(host, "10.1.0.1"),
            (Service(f"{service}-1", service, port=self._sequence),),
            (Check(host, f"{service} check", "alive", status=status, service_id=f"{service}-1"),),  # type: ignore[arg-type]
        )

    def _write(self, client: Client, node: Server, service: str, command: Command) -> None:
        began = client.began_us

        def told(result: Applied) -> None:
            now = self._world.now_us
            self._see(Seen("write", service.encode(), began, now, result.index, None, None, command))

        client.write(node, command, told)

    def _read(self, client: Client, node: Server, service: str) -> None:
        began = client.began_us

        def seen(answer: Answer, served: int) -> None:
            rows = tuple(sorted(_row(instance) for instance in answer.value))
            self._see(Seen("health", service.encode(), began, self._world.now_us, served, None, None, rows))

        client.query(node, HealthService(service), Options(), seen)

    def _see(self, seen: Seen) -> None:
        self._world.note(f"{seen.kind} {seen.key!r} {seen.index} {seen.result!r}\n")
        self.history.append(seen)

    # -- the truth ---------------------------------------------------------------------------------

    def effect(self, index: int, command: Any, result: Applied) -> None:
        if isinstance(command, Txn):
            for part, _ in carried_out(command, result):
                self.effect(index, part, result)
        if isinstance(command, Register | Deregister | Restore):
            self._effects.append((index, command))

    def check(self) -> int:
        model, at = CatalogModel(), 0
        archived = [command.index for _, command in self._effects if isinstance(command, Restore)]
        as_of: dict[int, CatalogModel] = {}
        by_index = dict(self._effects)
        for op in sorted(self.history, key=lambda op: (op.index, op.kind in READS)):
            while at < len(self._effects) and self._effects[at][0] <= op.index:
                index, command = self._effects[at]
                as_of |= {i: model.copy() for i in archived if i < index and i not in as_of}
                if isinstance(command, Restore):
                    model = as_of[command.index].copy()
                model.apply(command)
                at += 1
            if op.kind in READS:
                rows = model.rows(op.key.decode())
                if op.result != rows:
                    raise Violation(f"{op} read {op.result!r}, but {rows!r} was there")
            elif by_index.get(op.index) != op.result:
                raise Violation(f"{op} was acknowledged, but at its index stands {by_index.get(op.index)}")
        return len(self.history)


def _row(instance: Instance) -> Row:
    checks = sorted((check.check_id, check.status) for check in instance.checks)
    return instance.node.node, instance.service.id, instance.service.port, tuple(checks)


class CatalogModel:
    """What registrations mean, in the fewest lines."""

    def __init__(self) -> None:
        self._services: dict[tuple[str, str], tuple[str, int]] = {}
        self._checks: dict[tuple[str, str], tuple[str, str]] = {}

    def copy(self) -> CatalogModel:
        other = CatalogModel()
        other._services, other._checks = dict(self._services), dict(self._checks)
        return other

    def apply(self, command: Command) -> None:
        if isinstance(command, Register):
            host = command.node.node
            for service in command.services:
                self._services[host, service.id] = (service.service, service.port)
            for check in command.checks:
                self._checks[host, check.check_id] = (check.status, check.service_id)
        elif isinstance(command, Deregister):
            self._take_out(command)

    def _take_out(self, command: Deregister) -> None:
        host, service = command.node, command.service_id
        if service:
            self._services.pop((host, service), None)
        for key, (_, owner) in list(self._checks.items()):
            mine = owner == service if service else key[1] == command.check_id or not command.check_id
            if key[0] == host and mine:
                del self._checks[key]
        if not service and not command.check_id:
            for key in [key for key in self._services if key[0] == host]:
                del self._services[key]

    def rows(self, service: str) -> tuple[Row, ...]:
        found: list[Row] = []
        for (host, id), (name, port) in self._services.items():
            if name == service:
                checks = [
                    (check, status)
                    for (where, check), (status, owner) in self._checks.items()
                    if where == host and owner in ("", id)
                ]
                found.append((host, id, port, tuple(sorted(checks))))
        return tuple(sorted(found))
