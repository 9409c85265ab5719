"""A local state on clocks that tests move by hand, and short ways to write registrations."""

from __future__ import annotations

from typing import Any

from gemot.agent.local import LocalState
from gemot.agent.registration import Registration, parse_check, parse_service
from gemot.agent.saved import Saved, Store, TtlState
from gemot.checks.definition import CheckDefinition
from gemot.server.model.catalog import Node

NODE = Node("n1", "10.0.0.1", id="11111111-2222-3333-4444-555555555555", meta={"rack": "a"})


class Clock:
    """Seconds that pass only when told; `wall` runs along, from another origin."""

    def __init__(self) -> None:
        self.now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s

    def wall(self) -> float:
        return self.now_s + 1_700_000_000

    def move(self, seconds: float) -> None:
        self.now_s += seconds


class MemoryStore:
    """The `Store` port in dicts; counts how often somebody waited for it."""

    def __init__(self) -> None:
        self.services: dict[str, Registration] = {}
        self.checks: dict[str, CheckDefinition] = {}
        self.ttls: dict[str, TtlState] = {}
        self.flushed = 0

    def load(self) -> Saved:
        return Saved(tuple(self.services.values()), tuple(self.checks.values()), dict(self.ttls))

    def save_service(self, registration: Registration) -> None:
        self.services[registration.service.id] = registration

    def remove_service(self, service_id: str) -> None:
        self.services.pop(service_id, None)

    def save_check(self, definition: CheckDefinition) -> None:
        self.checks[definition.check_id] = definition

    def remove_check(self, check_id: str) -> None:
        self.checks.pop(check_id, None)

    def save_ttl(self, check_id: str, state: TtlState) -> None:
        self.ttls[check_id] = state

    def remove_ttl(self, check_id: str) -> None:
        self.ttls.pop(check_id, None)

    async def flush(self) -> None:
        self.flushed += 1


def local_state(store: Store | None = None, clock: Clock | None = None, **options: Any) -> LocalState:
    clock = clock or Clock()
    return LocalState(
        node=NODE,
        store=store or MemoryStore(),
        now=clock,
        wall=clock.wall,
        uniform=lambda: 0.5,
        **options,
    )


def service(name: str, **fields: Any) -> Registration:
    return parse_service({"Name": name, **fields}, from_config=False)


def check(name: str, **fields: Any) -> CheckDefinition:
    if not fields.keys() & {"HTTP", "TCP", "TTL", "AliasService"}:
        fields["TTL"] = "10s"
    return parse_check({"Name": name, **fields}, from_config=False)
