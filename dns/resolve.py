"""From a question to the plan of its answer, by way of the catalog.

Pure: what the catalog does not know yet is named to the caller, not waited for.
"""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from gemot.dns import records, wire
from gemot.dns.catalog import Ask, Found, NodeAsk, ServiceAsk
from gemot.dns.config import DnsConfig
from gemot.dns.names import (
    Apex,
    EncodedAddress,
    Foreign,
    Lookup,
    NameServers,
    NodeName,
    ServiceName,
    Unknown,
    locate,
)
from gemot.dns.records import Choice, Zone
from gemot.dns.wire import Record
from gemot.server.model.catalog import SERVER_SERVICE

MAX_ALIAS_DEPTH = 3
"""How long a chain of aliases inside our own zones is followed."""

MAX_ALIASES = 8
"""How many aliases inside our own zones are followed for one answer, all chains together."""

_ADDRESS_TYPES = frozenset((wire.A, wire.AAAA, wire.ANY))
_ADDRESS_OR_ALIAS = _ADDRESS_TYPES | {wire.CNAME}


class Plan(msgspec.Struct, frozen=True, gc=False):
    """All that a reply may hold; `reply.py` orders it and cuts it to size.

    `most` bounds the choices taken (0: no bound). With `shuffled` their order is drawn anew each time.
    """

    rcode: int
    choices: tuple[Choice, ...] = ()
    authority: tuple[Record, ...] = ()
    authoritative: bool = True
    shuffled: bool = False
    most: int = 0


class Resolved(msgspec.Struct, frozen=True, gc=False):
    """A plan, and what was found in the catalog for it: the plan holds while all of that is live."""

    plan: Plan
    found: tuple[Found, ...]


class Resolver:
    """Plans answers under one configuration. `now_s` is wall time, for the SOA serial."""

    def __init__(
        self, *, config: DnsConfig, peek: Callable[[Ask], Found | None], now_s: Callable[[], float]
    ) -> None:
        self._config = config
        self._peek = peek
        self._now_s = now_s
        self._zones = config.zones()
        self._by_labels = {labels: records.make_zone(labels, config.datacenter) for labels in self._zones}

    def resolve(self, name: bytes, labels: tuple[str, ...], qtype: int) -> Resolved | Ask:
        """The plan; or what has to be fetched from the catalog before asking again."""
        step = _Step(self._config, self._peek, int(self._now_s()))
        plan = self._plan(step, name, labels, qtype, 0)
        return Resolved(plan, tuple(step.found)) if isinstance(plan, Plan) else plan

    def _plan(self, step: _Step, name: bytes, labels: tuple[str, ...], qtype: int, depth: int) -> Plan | Ask:
        zone_labels, lookup = locate(labels, self._zones, self._config.datacenter)
        if isinstance(lookup, Foreign):
            return Plan(wire.REFUSED, authoritative=False)
        zone = self._by_labels[zone_labels]
        plan = step.plan(name, lookup, qtype, zone)
        if isinstance(plan, Plan) and qtype in _ADDRESS_TYPES and _is_alias(plan):
            return self._follow(step, plan, qtype, depth)
        return plan

    def _follow(self, step: _Step, plan: Plan, qtype: int, depth: int) -> Plan | Ask:
        """With the records of each alias' target behind it, where the target is one of our own names."""
        choices = []
        for choice in plan.choices:
            (alias,) = choice.records
            target = alias.names[0].lower()
            labels = wire.split_name(target)
            foreign = isinstance(locate(labels, self._zones, "")[1], Foreign)
            if foreign or depth >= MAX_ALIAS_DEPTH or step.aliases >= MAX_ALIASES:
                choices.append(choice)
                continue
            step.aliases += 1
            behind = self._plan(step, target, labels, qtype, depth + 1)
            if not isinstance(behind, Plan):
                return behind
            choices.append(_extend(choice, behind))
        return msgspec.structs.replace(plan, choices=tuple(choices))


def _is_alias(plan: Plan) -> bool:
    return bool(plan.choices) and plan.choices[0].records[0].type == wire.CNAME


def _extend(choice: Choice, behind: Plan) -> Choice:
    picked = behind.choices[: behind.most or None]
    # Aliases in a circle come back to a record already told.
    records = dict.fromkeys((*choice.records, *(record for one in picked for record in one.records)))
    return Choice(tuple(records), choice.extras, choice.texts)


class _Step:
    """One run through the rules, collecting what was found on the way."""

    def __init__(self, config: DnsConfig, peek: Callable[[Ask], Found | None], serial: int) -> None:
        self.found: list[Found] = []
        self.aliases = 0
        self._config = config
        self._peek = peek
        self._serial = serial

    def plan(self, name: bytes, lookup: Lookup, qtype: int, zone: Zone) -> Plan | Ask:
        match lookup:
            case ServiceName():
                return self._plan_service(name, lookup, qtype, zone)
            case NodeName():
                return self._plan_node(name, lookup, qtype, zone)
            case EncodedAddress(packed):
                choices = records.make_encoded_choices(name, qtype, packed, self._config.node_ttl_s)
                return self._positive(zone, choices)
            case Apex():
                return self._plan_apex(name, qtype, zone)
            case NameServers():
                return self._plan_name_servers(name, qtype, zone)
            case Unknown():
                return self._negative(zone, wire.NXDOMAIN)
        return self._negative(zone, wire.NOERROR)

    def _plan_service(self, name: bytes, lookup: ServiceName, qtype: int, zone: Zone) -> Plan | Ask:
        config, ask = self._config, ServiceAsk(lookup.name)
        found = self._find(ask)
        if found is None:
            return ask
        healthy = records.keep_healthy(found.instances, only_passing=config.only_passing)
        fitting = records.keep_tagged(healthy, lookup.tag)
        if not fitting:
            below = bool(lookup.tag) and records.is_part_of_tag(healthy, lookup.tag)
            return self._negative(zone, wire.NOERROR if below else wire.NXDOMAIN)
        ttl_s = config.service_ttl(lookup.name)
        if qtype == wire.SRV:
            return self._positive(zone, records.make_srv_choices(name, fitting, zone, config, ttl_s))
        if qtype not in _ADDRESS_OR_ALIAS:
            return self._negative(zone, wire.NOERROR)
        choices = records.make_address_choices(name, qtype, fitting, ttl_s)
        plan = self._positive(zone, choices, most=config.a_record_limit)
        return msgspec.structs.replace(plan, most=1) if _is_alias(plan) else plan

    def _plan_node(self, name: bytes, lookup: NodeName, qtype: int, zone: Zone) -> Plan | Ask:
        ask = NodeAsk(lookup.name)
        found = self._find(ask)
        if found is None:
            return ask
        if found.node is None:
            return self._negative(zone, wire.NXDOMAIN)
        return self._positive(zone, records.make_node_choices(name, qtype, found.node, self._config))

    def _plan_apex(self, name: bytes, qtype: int, zone: Zone) -> Plan | Ask:
        soa = records.make_soa(zone, self._config, self._serial)
        if qtype == wire.SOA:
            return Plan(wire.NOERROR, (Choice((soa,)),))
        if qtype not in (wire.NS, wire.ANY):
            return self._negative(zone, wire.NOERROR)
        servers = self._find(ServiceAsk(SERVER_SERVICE))
        if servers is None:
            return ServiceAsk(SERVER_SERVICE)
        healthy = records.keep_healthy(servers.instances, only_passing=False)
        choices = records.make_name_servers(name, healthy, zone, self._config.node_ttl_s)
        if qtype == wire.ANY:
            return Plan(wire.NOERROR, (Choice((soa,)), *choices[: records.NAME_SERVERS_MAX]))
        return self._positive(zone, choices, most=records.NAME_SERVERS_MAX)

    def _plan_name_servers(self, name: bytes, qtype: int, zone: Zone) -> Plan | Ask:
        if qtype not in _ADDRESS_TYPES:
            return self._negative(zone, wire.NOERROR)
        servers = self._find(ServiceAsk(SERVER_SERVICE))
        if servers is None:
            return ServiceAsk(SERVER_SERVICE)
        healthy = records.keep_healthy(servers.instances, only_passing=False)
        choices = records.make_server_addresses(name, qtype, healthy, self._config.node_ttl_s)
        return self._positive(zone, choices, most=records.NAME_SERVERS_MAX)

    def _find(self, ask: Ask) -> Found | None:
        found = self._peek(ask)
        if found is not None:
            self.found.append(found)
        return found

    def _positive(self, zone: Zone, choices: tuple[Choice, ...], most: int = 0) -> Plan:
        if not choices:
            return self._negative(zone, wire.NOERROR)
        return Plan(wire.NOERROR, choices, shuffled=len(choices) > 1, most=most)

    def _negative(self, zone: Zone, rcode: int) -> Plan:
        """RFC 2308: the SOA tells resolvers how long to keep it."""
        return Plan(rcode, authority=(records.make_soa(zone, self._config, self._serial),))
