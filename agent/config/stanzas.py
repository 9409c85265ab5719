"""Stanzas of services, checks and templates: gathered from every source, then read together.

They are read last, since what a check may do depends on settings that any source may make. Their fields are
not known here: what reads one is handed in.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Literal

import msgspec

from gemot.agent.config.fault import MAX_FAULTS, Fault
from gemot.server.model.errors import GemotError

Kind = Literal["services", "checks", "templates"]

KEYS: dict[str, Kind] = {
    "service": "services", "services": "services",
    "check": "checks", "checks": "checks",
    "template": "templates", "templates": "templates",
}  # fmt: skip
"""Keys that hold one stanza or a list of them, and the field they are gathered in."""

_MAX_SHOWN = 60


class Stanza(msgspec.Struct, frozen=True):
    """One as written. `path` is where in its source ("services[2]")."""

    kind: Kind
    source: str
    path: str
    raw: dict[str, Any]


class Parsers(msgspec.Struct, frozen=True):
    """What reads each kind. Each raises a GemotError that names the field."""

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
    for stanza in stanzas:
        if len(faults) >= MAX_FAULTS:
            faults.append(Fault(stanza.source, stanza.path, "not read any more, after so many mistakes"))
            break
        try:
            found = getattr(parsers, stanza.kind)(stanza.raw)
        except GemotError as error:
            faults.append(Fault(stanza.source, stanza.path + _name_of(stanza.raw), error.message))
            continue
        values[stanza.kind].append(found)
        if _commands(stanza.kind, found):
            commanding[stanza.source] = None
        faults += _claimed(stanza, found, owners)
        if ignored := getattr(found, "ignored", ()):
            where = Fault(stanza.source, stanza.path + _name_of(stanza.raw), "")
            warnings.append(f"{where}: without effect here: {', '.join(ignored)}")
    read: dict[str, tuple[Any, ...]] = {kind: tuple(found) for kind, found in values.items()}
    return Parsed(read, tuple(faults), tuple(warnings), tuple(commanding))


def _claimed(stanza: Stanza, found: Any, owners: dict[tuple[str, str], Stanza]) -> list[Fault]:
    faults = []
    for claim in _claims(stanza.kind, found):
        first = owners.setdefault(claim, stanza)
        if first is not stanza:
            message = (
                f'the {claim[0]} "{claim[1][:_MAX_SHOWN]}" is already taken by {first.path} of {first.source}'
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


def _name_of(raw: dict[str, Any]) -> str:
    named = (raw[key] for key in raw if key.lower() in ("id", "name", "destination"))
    return next((f' "{name[:_MAX_SHOWN]}"' for name in named if isinstance(name, str)), "")
