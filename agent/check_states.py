"""The checks registered on this agent: how each stands, when a TTL ends, which alias follows what.

A part of `LocalState`, which has the services that they belong to, and tells the catalog. No IO. Whoever
puts or drops checks calls `follow_aliases` when that is done; results do so by themselves.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Container, Mapping
from typing import Literal

from gemot.agent.outbox import Outbox
from gemot.agent.saved import Store, TtlState
from gemot.checks.definition import CheckDefinition
from gemot.checks.status import Outcome, Status, cut_note, expired_output, is_expired
from gemot.server.model.errors import NotFound, RuleFailed
from gemot.server.model.health import Check
from gemot.server.state.names import fold

log = logging.getLogger(__name__)

TOLD = 200
"""Characters of an output that the log has."""

_BY_SEVERITY: tuple[Status, ...] = ("passing", "warning", "critical")


class CheckState:
    """One check. `output_due_s` counts while it is among the deferred ones.

    `restored` says that it was registered before a restart, and that nothing was heard of it since.
    """

    def __init__(self, definition: CheckDefinition) -> None:
        self.definition = definition
        self.status: Status = definition.status
        self.output = ""
        self.critical_since_s: float | None = None
        self.ttl_ends_s: float | None = None
        self.output_due_s = 0.0
        self.restored = False


class CheckStates:
    """`services` are the ids of those that are registered; `tell` hears of what came, changed or went.

    `now`, `wall`, `uniform` and `check_update_interval_s` are as for `LocalState`.
    """

    def __init__(
        self,
        *,
        services: Container[str],
        store: Store,
        outbox: Outbox,
        tell: Callable[[Literal["check", "status"], str], None],
        now: Callable[[], float],
        wall: Callable[[], float],
        uniform: Callable[[], float],
        check_update_interval_s: float,
        discard_output: bool,
    ) -> None:
        self._services = services
        self._store = store
        self._outbox = outbox
        self._tell = tell
        self._now = now
        self._wall = wall
        self._uniform = uniform
        self._check_update_interval_s = check_update_interval_s
        self._discard_output = discard_output
        self._by_id: dict[str, CheckState] = {}
        self._spelled: dict[str, str] = {}
        self._ttls: dict[str, TtlState] = {}
        self._restoring = False
        self._aliases: set[str] = set()
        self._deferred: set[str] = set()

    # Registration.

    @property
    def by_id(self) -> Mapping[str, CheckState]:
        """All of them, as they are at any time."""
        return self._by_id

    @property
    def spelled(self) -> Mapping[str, str]:
        """The ids that are taken, by their folded form."""
        return self._spelled

    def definitions(self) -> list[CheckDefinition]:
        return [record.definition for record in self._by_id.values()]

    def definition(self, check_id: str) -> CheckDefinition | None:
        record = self._by_id.get(check_id)
        return record.definition if record else None

    def configure(self, *, check_update_interval_s: float, discard_output: bool) -> None:
        """Go by other settings from now on (a reload). What was kept back waits as long as it was to."""
        self._check_update_interval_s = check_update_interval_s
        self._discard_output = discard_output

    def restore(self, ttls: Mapping[str, TtlState]) -> None:
        """From here on checks are put that were registered before a restart; a TTL takes back its own."""
        self._ttls = dict(ttls)
        self._restoring = True

    def end_restore(self) -> None:
        """From here on checks that are put are new ones. What is left of TTLs is of checks that are gone."""
        for check_id in self._ttls:
            self._store.remove_ttl(check_id)
        self._ttls.clear()
        self._restoring = False

    def known(self, check_id: str) -> CheckState:
        """Raises NotFound."""
        record = self._by_id.get(check_id)
        if record is None:
            raise NotFound(
                f'Unknown check ID "{check_id:.512}". Ensure that the check ID is passed, not the check name.'
            )
        return record

    def put(self, definition: CheckDefinition) -> None:
        """Register it. The status stays where a check of this id was there."""
        check_id = definition.check_id
        before = self._by_id.get(check_id)
        if before is not None and before.definition == definition:
            self._restart_ttl(before)
            return
        record = CheckState(definition)
        taken_back = before is None and self._take_back_ttl(record)
        if before is not None:
            record.status, record.output = before.status, before.output
            record.critical_since_s, record.restored = before.critical_since_s, before.restored
            self._forget_kind(before)
        else:
            record.restored = self._restoring and not taken_back and definition.type != "maintenance"
        if record.status == "critical" and record.critical_since_s is None:
            record.critical_since_s = self._now()
        self._by_id[check_id] = record
        self._spelled[fold(check_id)] = check_id
        if definition.type == "alias":
            self._aliases.add(check_id)
        self._outbox.check_changed(check_id)
        if not taken_back:
            self._restart_ttl(record)
        self._tell("check", check_id)

    def drop(self, check_id: str) -> None:
        record = self._by_id.pop(check_id)
        del self._spelled[fold(check_id)]
        self._forget_kind(record)
        self._outbox.check_gone(check_id, record.definition.service_id)
        self._store.remove_check(check_id)
        self._tell("check", check_id)

    def _forget_kind(self, record: CheckState) -> None:
        check_id = record.definition.check_id
        self._aliases.discard(check_id)
        self._deferred.discard(check_id)
        if record.definition.type == "ttl":
            self._store.remove_ttl(check_id)

    # Results.

    def adopt(self, stored: Collection[Check]) -> None:
        """Let what was restored stand as the catalog has it, until its first result. Once, after a start.

        Else a restart would take a dead service for passing, or end the sessions of a healthy one.
        """
        rows = {(row.check_id, row.service_id, row.type): row for row in stored}
        for record in self._by_id.values():
            definition = record.definition
            row = rows.get((definition.check_id, definition.service_id, definition.type))
            if record.restored and row is not None:
                self._set(record, Outcome(row.status, row.output))
                self._keep_ttl(record)
            if record.restored and record.status == "critical":
                record.critical_since_s = self._now()
            record.restored = False
        self.follow_aliases()

    def report(self, check_id: str, outcome: Outcome) -> None:
        """Take a result. An unknown check is ignored: it went while its probe ran."""
        record = self._by_id.get(check_id)
        if record is None:
            return
        self._set(record, outcome)
        self.follow_aliases()

    def update_ttl(self, check_id: str, status: Status, output: str) -> None:
        """Take what was pushed to a TTL check. Raises NotFound, or RuleFailed for another type."""
        record = self.known(check_id)
        definition = record.definition
        if definition.type != "ttl":
            raise RuleFailed(f'CheckID "{check_id}" does not have associated TTL')
        ended = record.ttl_ends_s is None
        self._set(record, Outcome(status, cut_note(output, definition.output_max_bytes)))
        self._restart_ttl(record)
        if ended:
            self._tell("status", check_id)
        self.follow_aliases()

    def deadline_s(self, check_id: str) -> float | None:
        """When this TTL check ends, on the clock `now`; None if it is no TTL check or has ended."""
        record = self._by_id.get(check_id)
        return record.ttl_ends_s if record else None

    def next_deadline_s(self) -> float | None:
        ends = [record.ttl_ends_s for record in self._by_id.values() if record.ttl_ends_s is not None]
        return min(ends, default=None)

    def expire(self) -> None:
        """Turn TTL checks critical whose time has come."""
        now_s = self._now()
        for record in list(self._by_id.values()):
            if record.ttl_ends_s is not None and is_expired(record.ttl_ends_s, now_s):
                record.ttl_ends_s = None
                self._set(record, Outcome("critical", expired_output(record.output)))
        self.follow_aliases()

    def follow_aliases(self) -> None:
        """Let alias checks follow their targets."""
        if not self._aliases:
            return
        by_service: dict[str, list[CheckState]] = {}
        for record in self._by_id.values():
            by_service.setdefault(record.definition.service_id, []).append(record)
        for check_id in sorted(self._aliases):
            record = self._by_id[check_id]
            self._set(record, self._aliased(record.definition.alias_service, by_service))

    def _set(self, record: CheckState, outcome: Outcome) -> None:
        restored, record.restored = record.restored, False
        output = "" if self._discard_output else outcome.output
        if (record.status, record.output) == (outcome.status, output):
            return
        changed = record.status != outcome.status
        if changed:
            record.critical_since_s = self._now() if outcome.status == "critical" else None
            if not restored:
                _log_change(record, outcome.status, output)
        record.status, record.output = outcome.status, output
        check_id = record.definition.check_id
        if changed or not self._check_update_interval_s:
            self._deferred.discard(check_id)
            self._outbox.check_changed(check_id)
        elif check_id not in self._deferred and not self._outbox.holds_check(check_id):
            record.output_due_s = self._now() + self._check_update_interval_s * (0.5 + self._uniform())
            self._deferred.add(check_id)
        self._tell("status", check_id)

    def _restart_ttl(self, record: CheckState) -> None:
        """Let its time begin anew. The end of it holds over a restart."""
        definition = record.definition
        if definition.type == "ttl":
            record.ttl_ends_s = self._now() + definition.ttl_s
            self._keep_ttl(record)

    def _keep_ttl(self, record: CheckState) -> None:
        if record.ttl_ends_s is not None:
            ends_s = self._wall() + record.ttl_ends_s - self._now()
            state = TtlState(record.status, record.output, ends_s)
            self._store.save_ttl(record.definition.check_id, state)

    def _take_back_ttl(self, record: CheckState) -> bool:
        """Let it stand as it would without the restart; False where nothing was kept of it."""
        if record.definition.type != "ttl":
            return False
        state = self._ttls.pop(record.definition.check_id, None)
        if state is None:
            return False
        left_s = min(state.expires_at_s - self._wall(), record.definition.ttl_s)
        if left_s > 0:
            record.status, record.output = state.status, state.output
            record.ttl_ends_s = self._now() + left_s
        else:
            record.status, record.output = "critical", expired_output(state.output)
        return True

    def _aliased(self, service_id: str, by_service: Mapping[str, Collection[CheckState]]) -> Outcome:
        """The worst of what this service and the node have, where an alias leads on to what it follows.

        Only checks that are no aliases count, and each service is looked at once: so aliases that follow each
        other hold neither each other's status nor each other's output.
        """
        found: list[CheckState] = []
        services = list(dict.fromkeys(("", service_id)))
        seen = set(services)
        for one in services:  # which grows meanwhile
            if one and one not in self._services:
                return Outcome("critical", f"Service {one} could not be found on this agent")
            for check in by_service.get(one, ()):
                if check.definition.type != "alias":
                    found.append(check)
                elif check.definition.alias_service not in seen:
                    seen.add(check.definition.alias_service)
                    services.append(check.definition.alias_service)
        worst = max(found, key=lambda check: _BY_SEVERITY.index(check.status), default=None)
        if worst is None:
            return Outcome("passing", "No checks found.")
        if worst.status == "passing":
            return Outcome("passing", "All checks passing.")
        return Outcome(worst.status, f'Aliased check "{worst.definition.name}" failing: {worst.output}')

    # Outputs that may wait.

    def is_deferred(self, check_id: str) -> bool:
        """Whether its output changed alone, and is kept back."""
        return check_id in self._deferred

    def release(self) -> float | None:
        """Let deferred outputs go whose time has come; when the next one is due, or None."""
        now_s = self._now()
        for check_id in [one for one in self._deferred if self._by_id[one].output_due_s <= now_s]:
            self._deferred.discard(check_id)
            self._outbox.check_changed(check_id)
            self._tell("status", check_id)
        return min((self._by_id[check_id].output_due_s for check_id in self._deferred), default=None)

    def taken(self, check_ids: Collection[str]) -> None:
        """These go to the catalog as they are now, so nothing of them waits any more."""
        self._deferred.difference_update(check_ids)


def _log_change(record: CheckState, status: Status, output: str) -> None:
    definition = record.definition
    first = output.strip().partition("\n")[0][:TOLD]
    log.log(
        logging.WARNING if status == "critical" else logging.INFO,
        "check: %s: check=%s service=%s before=%s%s",
        status,
        definition.check_id,
        definition.service_id,
        record.status,
        f": {first}" if first else "",
    )
