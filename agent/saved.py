"""What of this agent's registrations survives a restart, and the port to where it is kept."""

from __future__ import annotations

from typing import Protocol

import msgspec

from gemot.agent.registration import Registration
from gemot.checks.definition import CheckDefinition
from gemot.checks.status import Status


class TtlState(msgspec.Struct, frozen=True):
    """How a TTL check stood when its time last began anew, by a push or a registration.

    `expires_at_s` is wall time: it must mean something after a restart.
    """

    status: Status
    output: str
    expires_at_s: float


class Saved(msgspec.Struct, frozen=True):
    """Services without their checks, every check by itself, and TTL states by check id."""

    services: tuple[Registration, ...] = ()
    checks: tuple[CheckDefinition, ...] = ()
    ttls: dict[str, TtlState] = {}


class Store(Protocol):
    """Keeps what came over the API. Calls return at once; of several for one id the last one holds."""

    def load(self) -> Saved: ...

    def save_service(self, registration: Registration) -> None: ...

    def remove_service(self, service_id: str) -> None: ...

    def save_check(self, definition: CheckDefinition) -> None: ...

    def remove_check(self, check_id: str) -> None: ...

    def save_ttl(self, check_id: str, state: TtlState) -> None: ...

    def remove_ttl(self, check_id: str) -> None: ...
