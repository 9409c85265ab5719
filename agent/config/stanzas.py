"""Stanzas of services, checks and templates: gathered from every source, then read together.

They are read last, since what a check may do depends on settings that any source may make. Their fields are
not known here: what reads one is handed in.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Literal

import msgspec

from gemot.agent.config.fault import MAX_FAULTS, Fault
from gemot.agent.fields import Mistakes
from gemot.server.model.errors import GemotError

Kind = Literal["services", "checks", "templates"]

KEYS: dict[str, Kind] = {
    "service": "services", "services": "services",
    "check": "checks", "checks": "checks",
    "template": "templates", "templates": "templates",
}  # fmt: skip
"""Keys that hold one stanza or a list of them, and the field they are gathered in."""

_MAX_SHOWN = 60
_IN_DNS = re.compile(r"[A-Za-z0-9_-]{1,63}\Z")


class Stanza(msgspec.Struct, frozen=True):
    """One as written. `path` is where in its source ("services[2]")."""

    kind: Kind
    source: str
    path: str
    raw: dict[str, Any]


class Parsers(msgspec.Struct, frozen=True):
    """What reads each kind. Each raises Mistakes with all there are, or another GemotError."""

    services: Callable[[object], Any]
    checks: Callable[[object], Any]
    templates: Callable[[object], Any]


class Parsed(msgspec.Struct, frozen=True):
    """`values` by kind; `commanding` are the sources that make the agent run commands or write files."""

    values: dict[str, tuple[Any, ...]]
    faults: tuple[Fault, ...]
    warnings: tuple[str, ...]
    commanding: tuple[str, ...]


def parse(stanzas: Iterable[Stanza], parsers: Parsers) -> Parsed:
    """Read them all; what two of them claim alike is a fault of the later one."""
    values: dict[Kind, list[Any]] = {"services": [], "checks": [], "templates": []}
    faults: list[Fault] = []
    warnings: list[str] = []
    commanding: dict[str, None] = {}
    owners: dict[tuple[str, str], Stanza] = {}
    read: list[tuple[Stanza, Any]] = []
    for stanza in stanzas:
        if len(faults) >= MAX_FAULTS:
            faults.append(Fault(stanza.source, stanza.path, "not read any more, after so many mistakes"))
            break
        try:
            found = getattr(parsers, stanza.kind)(stanza.raw)
        except Mistakes as error:
            faults += (Fault(stanza.source, _place(stanza, path), why) for path, why in error.found)
            continue
        except GemotError as error:
            faults.append(Fault(stanza.source, _place(stanza), error.message))
            continue
        values[stanza.kind].append(found)
        read.append((stanza, found))
        if _commands(stanza.kind, found):
            commanding[stanza.source] = None
        faults += _claimed(stanza, found, owners)
        if ignored := getattr(found, "ignored", ()):
            where = Fault(stanza.source, _place(stanza), "")
            warnings.append(f"{where}: without effect here: {', '.join(ignored)}")
    faults += _overwritten(read, owners)
    warnings += map(str, (*_of_nobody(read, owners), *_aliases_of_nobody(read, owners), *_not_in_dns(read)))
    kept: dict[str, tuple[Any, ...]] = {kind: tuple(found) for kind, found in values.items()}
    return Parsed(kept, tuple(faults), tuple(warnings), tuple(commanding))


def _of_nobody(read: Iterable[tuple[Stanza, Any]], owners: dict[tuple[str, str], Stanza]) -> Iterator[Fault]:
    """Checks of a service that these files do not have: it may still be registered over the API."""
    for stanza, found in read:
        name = found.service_id if stanza.kind == "checks" else ""
        if name and ("service id", name) not in owners:
            message = (
                f'no service of these files has the id "{name[:_MAX_SHOWN]}": the agent refuses the check'
            )
            yield Fault(
                stanza.source, _place(stanza, "service_id"), f"{message} unless the API registered one"
            )


def _aliases_of_nobody(
    read: Iterable[tuple[Stanza, Any]], owners: dict[tuple[str, str], Stanza]
) -> Iterator[Fault]:
    """Aliases of a service that these files do not have."""
    for stanza, found in read:
        checks = found.checks if stanza.kind == "services" else (found,) if stanza.kind == "checks" else ()
        for name in dict.fromkeys(check.alias_service for check in checks):
            if name and ("service id", name) not in owners:
                message = f'no service of these files has the id "{name[:_MAX_SHOWN]}"'
                why = f"{message}: the check is critical unless the API registered one"
                yield Fault(stanza.source, _place(stanza, "alias_service"), why)


def _not_in_dns(read: Iterable[tuple[Stanza, Any]]) -> Iterator[Fault]:
    for stanza, found in read:
        if stanza.kind == "services" and not _IN_DNS.match(found.service.service):
            why = "cannot be looked up by DNS: only letters, digits, dashes and underscores can, 63 at most"
            yield Fault(stanza.source, _place(stanza, "name"), why)


def _overwritten(
    read: Iterable[tuple[Stanza, Any]], owners: dict[tuple[str, str], Stanza]
) -> Iterator[Fault]:
    """Templates whose source another one writes."""
    for stanza, found in read:
        writer = owners.get(("destination", found.source)) if stanza.kind == "templates" else None
        if writer is not None:
            message = f"is the destination of {writer.path} of {writer.source}: it would be overwritten"
            yield Fault(stanza.source, _place(stanza, "source"), f"{found.source} {message}")


def _claimed(stanza: Stanza, found: Any, owners: dict[tuple[str, str], Stanza]) -> list[Fault]:
    faults = []
    for claim in _claims(stanza.kind, found):
        first = owners.setdefault(claim, stanza)
        if first is not stanza:
            owner = f"{first.path} of {first.source}"
            message = (
                f'the {claim[0]} "{claim[1][:_MAX_SHOWN]}" is already taken by {owner}: give each its own'
            )
            faults.append(Fault(stanza.source, stanza.path, message))
    return faults


def _claims(kind: Kind, found: Any) -> list[tuple[str, str]]:
    """What only one stanza can have: ids, and files to write."""
    if kind == "services":
        return [("service id", found.service.id), *(("check id", check.check_id) for check in found.checks)]
    return [("check id", found.check_id) if kind == "checks" else ("destination", found.destination)]


def _commands(kind: Kind, found: Any) -> bool:
    if kind == "services":
        return any(check.args for check in found.checks)
    return bool(found.args) if kind == "checks" else True


def _place(stanza: Stanza, inside: str = "") -> str:
    """Where it is and what it is called, and what in it is meant: `services[2] "web": checks[0].interval`."""
    return stanza.path + _name_of(stanza.raw) + (f": {inside}" if inside else "")


def _name_of(raw: dict[str, Any]) -> str:
    named = (raw[key] for key in raw if key.lower() in ("id", "name", "destination"))
    return next((f' "{name[:_MAX_SHOWN]}"' for name in named if isinstance(name, str)), "")
