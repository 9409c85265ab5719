"""What the catalog must be told so that it holds what this agent holds. Pure.

The agent is the authority over its own node: entries it does not know are deleted, missing and differing ones
are written. Exceptions: the servers' own service and the check that membership drives are never touched;
with `enable_tag_override` the catalog's tags win; tagged addresses that servers add (`consul-` names) stay.
Source: Consul, anti-entropy.
"""

from __future__ import annotations

import msgspec

from gemot.server.model.catalog import (
    SERF_HEALTH,
    SERVER_SERVICE,
    Deregister,
    Node,
    NodeDetail,
    Register,
    Service,
)
from gemot.server.model.health import Check
from gemot.server.state.names import fold

SERVER_ADDRESS_PREFIX = "consul-"


class WantedService(msgspec.Struct, frozen=True):
    service: Service
    token: str = ""


class WantedCheck(msgspec.Struct, frozen=True):
    """`output_deferred`: a change of the output alone is not worth a write yet."""

    check: Check
    token: str = ""
    output_deferred: bool = False


class Wanted(msgspec.Struct, frozen=True):
    """What should stand in the catalog for this node. `token` is the agent's own, for deletions."""

    node: Node
    services: dict[str, WantedService] = {}
    checks: dict[str, WantedCheck] = {}
    token: str = ""


class Gap(msgspec.Struct, frozen=True):
    """Where the catalog is behind, by ids. `gone_checks` maps a check to the service it was of.

    `adopted` holds services of which the catalog has something that wins over our own.
    """

    node: bool = False
    services: frozenset[str] = frozenset()
    checks: frozenset[str] = frozenset()
    gone_services: frozenset[str] = frozenset()
    gone_checks: dict[str, str] = {}
    adopted: dict[str, Service] = {}

    def __bool__(self) -> bool:
        return bool(self.node or self.services or self.checks or self.gone_services or self.gone_checks)


class Write(msgspec.Struct, frozen=True):
    """One command, the token it goes with, and the part of the gap it closes.

    Writes of one `step` do not depend on each other; every step waits for the one before.
    """

    command: Register | Deregister
    token: str
    step: int
    part: Gap


def difference(wanted: Wanted, found: NodeDetail | None) -> tuple[Write, ...]:
    """The writes after which the catalog, now holding `found`, holds what is wanted. Empty when it does."""
    return commands(wanted, compare(wanted, found))


def compare(wanted: Wanted, found: NodeDetail | None) -> Gap:
    """Where `found` differs from what is wanted."""
    if found is None:
        return Gap(node=True, services=frozenset(wanted.services), checks=frozenset(wanted.checks))
    stored_services = {service.id: service for service in found.services}
    stored_checks = {check.check_id: check for check in found.checks}
    adopted = {
        service_id: _adopt(ours.service, stored_services[service_id])
        for service_id, ours in wanted.services.items()
        if service_id in stored_services
    }
    return Gap(
        node=not _same_node(wanted.node, found.node),
        services=frozenset(
            service_id
            for service_id in wanted.services
            if service_id not in adopted or not _same(adopted[service_id], stored_services[service_id])
        ),
        checks=frozenset(
            check_id
            for check_id, ours in wanted.checks.items()
            if not _same_check(ours, stored_checks.get(check_id), adopted)
        ),
        gone_services=frozenset(
            one for one in stored_services.keys() - wanted.services.keys() if fold(one) != SERVER_SERVICE
        ),
        gone_checks={
            check_id: check.service_id
            for check_id, check in stored_checks.items()
            if check_id not in wanted.checks
            and fold(check_id) != fold(SERF_HEALTH)
            and fold(check.service_id) != SERVER_SERVICE
        },
        adopted={
            service_id: service
            for service_id, service in adopted.items()
            if service != wanted.services[service_id].service
        },
    )


def _adopt(ours: Service, stored: Service) -> Service:
    """Our service with what the catalog is the authority over."""
    added = {
        name: address
        for name, address in stored.tagged_addresses.items()
        if name.startswith(SERVER_ADDRESS_PREFIX) and name not in ours.tagged_addresses
    }
    tags = stored.tags if ours.enable_tag_override else ours.tags
    if not added and tags == ours.tags:
        return ours
    addresses = {**ours.tagged_addresses, **added}
    return msgspec.structs.replace(ours, tags=tags, tagged_addresses=addresses)


def _same_node(ours: Node, stored: Node) -> bool:
    return (ours.node, ours.address, ours.id, ours.tagged_addresses, ours.meta) == (
        stored.node,
        stored.address,
        stored.id,
        stored.tagged_addresses,
        stored.meta,
    )


def _same(ours: Service, stored: Service) -> bool:
    return msgspec.structs.replace(ours, create_index=0, modify_index=0) == msgspec.structs.replace(
        stored, create_index=0, modify_index=0
    )


def _same_check(ours: WantedCheck, stored: Check | None, adopted: dict[str, Service]) -> bool:
    if stored is None:
        return False
    check = _with_tags(ours.check, adopted)
    output = stored.output if ours.output_deferred else check.output
    return msgspec.structs.replace(
        check, output=output, create_index=0, modify_index=0
    ) == msgspec.structs.replace(stored, create_index=0, modify_index=0)


def _with_tags(check: Check, adopted: dict[str, Service]) -> Check:
    service = adopted.get(check.service_id)
    if service is None or service.tags == check.service_tags:
        return check
    return msgspec.structs.replace(check, service_tags=service.tags)


def commands(wanted: Wanted, gap: Gap) -> tuple[Write, ...]:
    """The writes that close a gap: the node, then deletions, then services with their checks, then the rest.

    A service carries those of its checks that go with the same token. Removing a service removes its checks.
    """
    writes: list[Write] = []
    if gap.node:
        writes.append(Write(Register(wanted.node), wanted.token, 0, Gap(node=True)))
    writes.extend(_deletions(wanted, gap))
    left = {check_id: wanted.checks[check_id] for check_id in sorted(gap.checks) if check_id in wanted.checks}
    for service_id in sorted(gap.services):
        ours = wanted.services.get(service_id)
        if ours is None:
            continue
        with_it = [
            check_id
            for check_id, check in left.items()
            if check.check.service_id == service_id and check.token == ours.token
        ]
        service = gap.adopted.get(service_id, ours.service)
        part = Gap(services=frozenset((service_id,)), checks=frozenset(with_it))
        checks = tuple(_with_tags(left.pop(check_id).check, gap.adopted) for check_id in with_it)
        register = Register(wanted.node, (service,), checks, skip_node_update=True)
        writes.append(Write(register, ours.token, 2, part))
    writes.extend(_loose_checks(wanted, gap, left))
    return tuple(writes)


def _deletions(wanted: Wanted, gap: Gap) -> list[Write]:
    writes = []
    node = wanted.node.node
    for service_id in sorted(gap.gone_services):
        covered = {check: of for check, of in gap.gone_checks.items() if of == service_id}
        part = Gap(gone_services=frozenset((service_id,)), gone_checks=covered)
        writes.append(Write(Deregister(node, service_id=service_id), wanted.token, 1, part))
    for check_id, service_id in sorted(gap.gone_checks.items()):
        if service_id not in gap.gone_services:
            part = Gap(gone_checks={check_id: service_id})
            writes.append(Write(Deregister(node, check_id=check_id), wanted.token, 1, part))
    return writes


def _loose_checks(wanted: Wanted, gap: Gap, left: dict[str, WantedCheck]) -> list[Write]:
    """One write for each service (or the node) and token that still has checks to tell."""
    groups: dict[tuple[str, str], list[str]] = {}
    for check_id, check in left.items():
        groups.setdefault((check.check.service_id, check.token), []).append(check_id)
    writes = []
    for (_, token), check_ids in groups.items():
        checks = tuple(_with_tags(left[check_id].check, gap.adopted) for check_id in check_ids)
        register = Register(wanted.node, (), checks, skip_node_update=True)
        writes.append(Write(register, token, 3, Gap(checks=frozenset(check_ids))))
    return writes
