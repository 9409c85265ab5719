"""Which local entries the catalog has not been told of yet. Pure bookkeeping by id."""

from __future__ import annotations

from collections.abc import Container

from gemot.agent.difference import Gap


class Outbox:
    """Starts with the node itself untold. An id is either changed or gone, never both."""

    def __init__(self) -> None:
        self._node = True
        self._services: set[str] = set()
        self._checks: set[str] = set()
        self._gone_services: set[str] = set()
        self._gone_checks: dict[str, str] = {}

    def __bool__(self) -> bool:
        return bool(self._node or self._services or self._checks or self._gone_services or self._gone_checks)

    def service_changed(self, service_id: str) -> None:
        self._gone_services.discard(service_id)
        self._services.add(service_id)

    def service_gone(self, service_id: str) -> None:
        self._services.discard(service_id)
        self._gone_services.add(service_id)

    def check_changed(self, check_id: str) -> None:
        self._gone_checks.pop(check_id, None)
        self._checks.add(check_id)

    def check_gone(self, check_id: str, service_id: str) -> None:
        self._checks.discard(check_id)
        self._gone_checks[check_id] = service_id

    def holds_check(self, check_id: str) -> bool:
        return check_id in self._checks

    def take(self) -> Gap:
        """Everything untold; from here on it counts as told."""
        gap = Gap(
            node=self._node,
            services=frozenset(self._services),
            checks=frozenset(self._checks),
            gone_services=frozenset(self._gone_services),
            gone_checks=dict(self._gone_checks),
        )
        self._node = False
        for taken in (self._services, self._checks, self._gone_services, self._gone_checks):
            taken.clear()
        return gap

    def mark(self, gap: Gap, *, services: Container[str], checks: Container[str]) -> None:
        """Count this as untold again, as far as it still fits the services and checks that exist now."""
        self._node = self._node or gap.node
        self._services.update(one for one in gap.services if one in services)
        self._checks.update(one for one in gap.checks if one in checks)
        self._gone_services.update(one for one in gap.gone_services if one not in services)
        for check_id, service_id in gap.gone_checks.items():
            if check_id not in checks:
                self._gone_checks[check_id] = service_id
