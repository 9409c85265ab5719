"""Services and checks registered on this agent, and what of them the catalog does not know of yet.

The authority over this host's part of the catalog. No IO: time and randomness are handed in, what must
survive a restart goes to a `Store`, `checking.py` runs the checks, `check_states.py` has how they stand,
`sync.py` carries changes to the servers.
For one event loop; every method is over at once, so callers see whole changes only.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Iterable, Mapping
from typing import Literal

import msgspec

from gemot.agent.check_states import CheckState, CheckStates
from gemot.agent.difference import Gap, Wanted, WantedCheck, WantedService
from gemot.agent.duration import format_duration
from gemot.agent.outbox import Outbox
from gemot.agent.registration import Registration
from gemot.agent.saved import Store
from gemot.checks.definition import CheckDefinition
from gemot.checks.status import Status, cut_note
from gemot.server.model.catalog import Node, Service
from gemot.server.model.errors import BadRequest, NotFound, RuleFailed
from gemot.server.model.health import NODE_MAINTENANCE, SERVICE_MAINTENANCE_PREFIX, Check
from gemot.server.state.names import fold

MAX_SERVICES = 10_000
MAX_CHECKS = 40_000
MAX_REASON_BYTES = 4096

DEFAULT_NODE_REASON = "Maintenance mode is enabled for this node, but no reason was provided"
DEFAULT_SERVICE_REASON = "Maintenance mode is enabled for this service, but no reason was provided"

_log = logging.getLogger(__name__)


class Change(msgspec.Struct, frozen=True):
    """What happened: a service or a check came, changed or went, or a check has another result."""

    kind: Literal["service", "check", "status"]
    id: str


class LocalState:
    """`now` is a clock in seconds that never goes back, `wall` seconds since 1970, `uniform` in [0, 1).

    `check_update_interval_s` is how long a change of output alone may wait (0: not at all).
    """

    def __init__(
        self,
        *,
        node: Node,
        store: Store,
        now: Callable[[], float],
        wall: Callable[[], float],
        uniform: Callable[[], float],
        check_update_interval_s: float = 300.0,
        discard_output: bool = False,
        token: str = "",
    ) -> None:
        self.node = node
        self._store = store
        self._now = now
        self._token = token
        self._services: dict[str, _Service] = {}
        self._service_ids: dict[str, str] = {}
        self._listeners: dict[object, Callable[[Change], None]] = {}
        self._outbox = Outbox()
        self.check_states = CheckStates(
            services=self._services,
            store=store,
            outbox=self._outbox,
            tell=self._tell,
            now=now,
            wall=wall,
            uniform=uniform,
            check_update_interval_s=check_update_interval_s,
            discard_output=discard_output,
        )
        self._checks = self.check_states.by_id
        self._without_service: list[CheckDefinition] = []

    # Reading.

    def services(self) -> dict[str, Service]:
        return {service_id: record.service for service_id, record in self._services.items()}

    def service(self, service_id: str) -> Service | None:
        record = self._services.get(service_id)
        return record.service if record else None

    def checks(self) -> dict[str, Check]:
        return {check_id: self._row(record) for check_id, record in self._checks.items()}

    def checks_of(self, service_id: str) -> list[Check]:
        """The node's checks, then those of this service."""
        rows = [self._row(c) for c in self._checks.values() if c.definition.service_id in ("", service_id)]
        return sorted(rows, key=lambda row: (row.service_id != "", row.check_id))

    def content_hash(self, service_id: str) -> str:
        """A text that changes when the service's registration does; "" for an unknown one."""
        record = self._services.get(service_id)
        if record is None:
            return ""
        canonical = msgspec.json.encode(record.service, order="deterministic")
        return hashlib.sha256(canonical).hexdigest()[:16]

    def counts(self) -> dict[str, int]:
        """For statistics: services, checks, and how many checks of each type."""
        figures = {"services": len(self._services), "checks": len(self._checks)}
        for record in self._checks.values():
            figures[record.definition.type] = figures.get(record.definition.type, 0) + 1
        return figures

    def count_checks(self, status: Status) -> int:
        return sum(record.status == status for record in self._checks.values())

    def listen(self, callback: Callable[[Change], None]) -> Callable[[], None]:
        """Call back after each change; what is returned ends that."""
        key = object()
        self._listeners[key] = callback
        return lambda: self._listeners.pop(key, None) and None

    # Registration.

    def restore(self) -> None:
        """Take back what the store kept. Call once, before `reload`, which has the last word and ends it."""
        saved = self._store.load()
        self.check_states.restore(saved.ttls)
        for registration in saved.services:
            self._put_service(registration, from_config=False)
        for definition in saved.checks:
            if definition.service_id and definition.service_id not in self._services:
                self._without_service.append(definition)  # which may be one of a file
            else:
                self.check_states.put(definition)

    def _take_back_checks(self) -> None:
        """Those that were saved for services of configuration files, such as their maintenance."""
        saved, self._without_service = self._without_service, []
        for definition in saved:
            if definition.service_id not in self._services:
                _log.warning(
                    "local: check %s was saved for service %s, which is not registered any more: dropped",
                    definition.check_id,
                    definition.service_id,
                )
                self._store.remove_check(definition.check_id)
            elif definition.check_id not in self._checks:
                self.check_states.put(definition)

    def reload(self, registrations: Iterable[Registration], checks: Iterable[CheckDefinition]) -> None:
        """Replace everything that came from configuration files; same ids keep their status.

        Raises RuleFailed or BadRequest, before anything changed, for a check of a service that nobody
        registers and for ids that differ only in capitals.
        """
        registrations, checks = list(registrations), list(checks)
        services, wanted = self.check_reload(registrations, checks)
        for check_id, old in list(self._checks.items()):
            if old.definition.from_config and check_id not in wanted:
                self.check_states.drop(check_id)
        for service_id, service in list(self._services.items()):
            if service.from_config and service_id not in services:
                self._drop_service(service_id)
        for registration in registrations:
            self._store.remove_service(registration.service.id)
            self._put_service(registration, from_config=True)
        for check in checks:
            self._store.remove_check(check.check_id)
            self.check_states.put(check)
        self._take_back_checks()
        self.check_states.end_restore()
        self.check_states.follow_aliases()

    def check_reload(
        self, registrations: Iterable[Registration], checks: Iterable[CheckDefinition]
    ) -> tuple[set[str], set[str]]:
        """The ids of services and checks that a reload would bring; raises as it would."""
        services = {registration.service.id for registration in registrations}
        wanted = {check.check_id for check in checks}
        for registration in registrations:
            wanted.update(check.check_id for check in registration.checks)
        kept = {service_id for service_id, record in self._services.items() if not record.from_config}
        kept_checks = {i for i, record in self._checks.items() if not record.definition.from_config}
        for check in checks:
            if check.service_id and check.service_id not in services | kept:
                raise RuleFailed(
                    f'check "{check.check_id}": ServiceID "{check.service_id}" does not exist: define that '
                    "service in the configuration too"
                )
        _refuse_twins("service", services, {fold(one): one for one in kept})
        _refuse_twins("check", wanted, {fold(one): one for one in kept_checks})
        return services, wanted

    def add_service(self, registration: Registration, *, replace_checks: bool = False) -> None:
        """Register over the API: saved, and replacing what had this id. Same checks keep their status.

        Checks of that service that are not named stay, unless `replace_checks`. Raises RuleFailed at a limit,
        BadRequest for an id that differs from another one only in capitals.
        """
        service_id = registration.service.id
        self._check_room(registration)
        self._put_service(registration, from_config=False)
        if replace_checks:
            named = {check.check_id for check in registration.checks}
            for check_id, record in list(self._checks.items()):
                of_it = record.definition.service_id == service_id and record.definition.type != "maintenance"
                if of_it and check_id not in named:
                    self.check_states.drop(check_id)
        self._store.save_service(msgspec.structs.replace(registration, checks=()))
        for check in registration.checks:
            self._store.save_check(check)
        self.check_states.follow_aliases()

    def remove_service(self, service_id: str) -> None:
        """Take a service and its checks out. Raises NotFound."""
        if service_id not in self._services:
            raise NotFound(
                f'Unknown service ID "{service_id:.512}". Ensure that the service ID is passed, not the '
                "service name."
            )
        self._drop_service(service_id)
        self.check_states.follow_aliases()

    def add_check(self, definition: CheckDefinition) -> None:
        """Register one check over the API. Raises NotFound for its service, RuleFailed at the limit."""
        if definition.service_id and definition.service_id not in self._services:
            raise NotFound(f'ServiceID "{definition.service_id}" does not exist')
        if definition.check_id not in self._checks and len(self._checks) >= MAX_CHECKS:
            raise RuleFailed(_full("checks", MAX_CHECKS))
        _refuse_twins("check", {definition.check_id}, self.check_states.spelled)
        self.check_states.put(definition)
        self._store.save_check(definition)
        self.check_states.follow_aliases()

    def remove_check(self, check_id: str) -> None:
        """Take a check out. Raises NotFound."""
        self.check_states.known(check_id)
        self.check_states.drop(check_id)
        self.check_states.follow_aliases()

    def maintain_node(self, *, enable: bool, reason: str = "") -> None:
        """Put this node into maintenance or back: all of its services count as critical meanwhile."""
        self._maintain(NODE_MAINTENANCE, "Node Maintenance Mode", "", enable, reason or DEFAULT_NODE_REASON)

    def maintain_service(self, service_id: str, *, enable: bool, reason: str = "") -> None:
        """Put one service into maintenance or back. Raises NotFound."""
        if service_id not in self._services:
            raise NotFound(f'Unknown service ID "{service_id:.512}"')
        check_id = SERVICE_MAINTENANCE_PREFIX + service_id
        name = "Service Maintenance Mode"
        self._maintain(check_id, name, service_id, enable, reason or DEFAULT_SERVICE_REASON)

    def _maintain(self, check_id: str, name: str, service_id: str, enable: bool, reason: str) -> None:
        if enable and check_id not in self._checks:
            definition = CheckDefinition(
                check_id=check_id,
                name=name,
                type="maintenance",
                notes=cut_note(reason, MAX_REASON_BYTES),
                service_id=service_id,
            )
            self.check_states.put(definition)
            self._store.save_check(definition)
        elif not enable and check_id in self._checks:
            self.check_states.drop(check_id)
        self.check_states.follow_aliases()

    def _check_room(self, registration: Registration) -> None:
        fresh = sum(check.check_id not in self._checks for check in registration.checks)
        if registration.service.id not in self._services and len(self._services) >= MAX_SERVICES:
            raise RuleFailed(_full("services", MAX_SERVICES))
        if len(self._checks) + fresh > MAX_CHECKS:
            raise RuleFailed(_full("checks", MAX_CHECKS))
        _refuse_twins("service", {registration.service.id}, self._service_ids)
        _refuse_twins("check", {check.check_id for check in registration.checks}, self.check_states.spelled)

    def _put_service(self, registration: Registration, *, from_config: bool) -> None:
        service_id, service = registration.service.id, registration.service
        record = self._services.get(service_id)
        same = record is not None and (record.given, record.token) == (service, registration.token)
        if record is None or not same:
            record = _Service(service, registration.token)
            self._services[service_id] = record
            self._service_ids[fold(service_id)] = service_id
            self._outbox.service_changed(service_id)
            for check_id, check in self._checks.items():
                if check.definition.service_id == service_id:  # its row shows the service's name and tags
                    self._outbox.check_changed(check_id)
            self._tell("service", service_id)
        record.from_config = from_config
        for definition in registration.checks:
            self.check_states.put(definition)

    def _drop_service(self, service_id: str) -> None:
        del self._services[service_id]
        del self._service_ids[fold(service_id)]
        self._outbox.service_gone(service_id)
        self._store.remove_service(service_id)
        for check_id, record in list(self._checks.items()):
            if record.definition.service_id == service_id:
                self.check_states.drop(check_id)
        self._tell("service", service_id)

    def reap(self) -> list[str]:
        """Take out services with a check critical for longer than it says; their ids.

        Not for a check of which nothing is known since a restart: it is critical because it began so.
        """
        now_s, reaped = self._now(), []
        for record in list(self._checks.values()):
            definition, since_s = record.definition, record.critical_since_s
            if not definition.deregister_after_s or since_s is None or record.restored:
                continue
            service_id = definition.service_id
            if now_s - since_s > definition.deregister_after_s and service_id in self._services:
                _log.warning(
                    "local: service %s is deregistered: its check %s was critical for more than %s",
                    service_id,
                    definition.check_id,
                    format_duration(definition.deregister_after_s),
                )
                self._drop_service(service_id)
                reaped.append(service_id)
        if reaped:
            self.check_states.follow_aliases()
        return reaped

    # The catalog.

    def wanted(self, only: Gap | None = None) -> Wanted:
        """What should stand in the catalog; of services and checks `only` those of a gap, when given."""
        services = self._services.keys() if only is None else only.services & self._services.keys()
        checks = self._checks.keys() if only is None else only.checks & self._checks.keys()
        return Wanted(
            node=self.node,
            services={one: self._wanted_service(one) for one in services},
            checks={one: self._wanted_check(one) for one in checks},
            token=self._token,
        )

    def _wanted_service(self, service_id: str) -> WantedService:
        record = self._services[service_id]
        return WantedService(record.service, record.token or self._token)

    def _wanted_check(self, check_id: str) -> WantedCheck:
        record = self._checks[check_id]
        service = self._services.get(record.definition.service_id)
        token = record.definition.token or (service.token if service else "") or self._token
        return WantedCheck(self._row(record), token, self.check_states.is_deferred(check_id))

    def is_behind(self) -> bool:
        """Whether something changed that was not taken yet."""
        return bool(self._outbox)

    def take_gap(self) -> Gap:
        """Everything that changed since it was last taken. What could not be told is given back to `mark`."""
        gap = self._outbox.take()
        self.check_states.taken(gap.checks)
        return gap

    def mark(self, gap: Gap) -> None:
        """Remember that the catalog is behind in this; what changed here meanwhile counts as it is now."""
        self._outbox.mark(gap, services=self._services, checks=self._checks)

    def adopt(self, services: dict[str, Service]) -> None:
        """Take over what the catalog is the authority over (tags, where a service allows that)."""
        for service_id, service in services.items():
            record = self._services.get(service_id)
            if record is not None and record.service != service:
                record.service = service
                self._tell("service", service_id)

    def _row(self, record: CheckState) -> Check:
        definition = record.definition
        service = self._services.get(definition.service_id)
        return Check(
            node=self.node.node,
            check_id=definition.check_id,
            name=definition.name,
            status=record.status,
            notes=definition.notes,
            output=record.output,
            service_id=definition.service_id,
            service_name=service.service.service if service else "",
            service_tags=service.service.tags if service else (),
            type=definition.type,
            interval=format_duration(definition.interval_s) if definition.interval_s else "",
            timeout=format_duration(definition.timeout_s) if definition.timeout_s else "",
        )

    def _tell(self, kind: Literal["service", "check", "status"], id: str) -> None:
        change = Change(kind, id)
        for callback in list(self._listeners.values()):
            callback(change)


class _Service:
    """`given` is what was registered, `service` that with what the catalog adds."""

    def __init__(self, service: Service, token: str) -> None:
        self.given = service
        self.service = service
        self.token = token
        self.from_config = False


def _full(what: str, limit: int) -> str:
    return f"This agent already has {limit} {what}, its limit: deregister some first"


def _refuse_twins(kind: str, named: Iterable[str], present: Mapping[str, str]) -> None:
    """Refuse ids that differ only in capitals: the catalog takes them for one, each would replace the other.

    `present` has the ids that stay, by their folded form.
    """
    spelled: dict[str, str] = {}
    for one in sorted(named):
        other = spelled.setdefault(fold(one), present.get(fold(one), one))
        if other != one:
            raise BadRequest(
                f'Invalid {kind} ID: "{one}" differs from "{other}" only in capitals, which the catalog '
                "takes for the same: use one spelling"
            )
