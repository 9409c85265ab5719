"""What `gemot watch` can watch: how each type is asked for, and how items by key and Consul's answers become
each other. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import click
import msgspec

from gemot.agent.client.connection import NotAnAgent
from gemot.agent.client.path import escape
from gemot.agent.feeds.wire import key_on

TYPES = ("key", "keyprefix", "service", "services", "nodes", "checks", "event", "node", "session")
_NEEDS = {"key": "key", "keyprefix": "prefix", "service": "service", "node": "node", "session": "session"}
_TAKES = {
    "key": ("key",),
    "keyprefix": ("prefix",),
    "service": ("service", "tag", "passingonly"),
    "services": (),
    "nodes": (),
    "checks": ("service", "state"),
    "event": ("name",),
    "node": ("node",),
    "session": ("session",),
}
_STATES = ("any", "passing", "warning", "critical")


class Watched(msgspec.Struct, frozen=True):
    """`path` and `params` ask for it by Consul's API, `pushed` as a push watch (None: it cannot be)."""

    kind: str
    path: str
    params: dict[str, Any]
    pushed: dict[str, Any] | None

    def items(self, value: Any) -> dict[str, Any]:
        """Consul's answer as items by key, as a push watch has them. Raises NotAnAgent."""
        try:
            return _ITEMS[self.kind](value)
        except (TypeError, KeyError, AttributeError) as error:
            raise NotAnAgent(f"{self.path}: not what an agent answers: {error!r}") from error

    def value(self, items: Mapping[str, Any]) -> Any:
        """Items as Consul's handlers get them. A key or session by itself, null where there is none."""
        return _VALUES[self.kind](items)


def locate(kind: str, given: dict[str, Any]) -> Watched:
    """`given` are the flags by name, each perhaps empty. Raises ClickException."""
    if kind not in TYPES:
        raise click.ClickException(f'-type: must be one of {", ".join(TYPES)}, got "{kind}"')
    stray = [name for name, value in given.items() if value and name not in _TAKES[kind]]
    if stray:
        raise click.ClickException(f"-{stray[0]} has no meaning for -type={kind}")
    need = _NEEDS.get(kind)
    if need and not given[need]:
        raise click.ClickException(f"-{need} is missing: -type={kind} needs it")
    return Watched(kind, *_asked(kind, given))


def shown(kind: str, value: Any) -> Any:
    """Consul's answer as it is printed."""
    if kind in ("key", "session"):
        return value[0] if value else None
    return [] if kind == "keyprefix" and value is None else value


def _asked(kind: str, given: dict[str, Any]) -> tuple[str, dict[str, Any], dict[str, Any] | None]:
    match kind:
        case "key":
            key = given["key"].lstrip("/")
            return f"/v1/kv/{escape(key)}", {}, {"key": key}
        case "keyprefix":
            prefix = given["prefix"].lstrip("/")
            return f"/v1/kv/{escape(prefix)}", {"recurse": True}, {"prefix": prefix}
        case "service":
            more = {"tag": list(given["tag"]), "passing": given["passingonly"]}
            path = f"/v1/health/service/{escape(given['service'])}"
            return path, more, {"service": given["service"], **more}
        case "checks":
            return _checks(given["service"], given["state"])
        case "event":
            return "/v1/event/list", {"name": given["name"] or None}, {"event": given["name"]}
        case "node":
            return f"/v1/catalog/node/{escape(given['node'])}", {}, {"node": given["node"]}
        case "session":
            return f"/v1/session/info/{escape(given['session'])}", {}, {"session": given["session"]}
    return f"/v1/catalog/{kind}", {}, {kind: ""}


def _checks(service: str, state: str) -> tuple[str, dict[str, Any], dict[str, Any] | None]:
    if service and state:
        raise click.ClickException("-type=checks takes -service or -state, not both")
    if service:  # a push watch would take a service of such a name for the state
        pushed = None if service in _STATES else {"checks": service}
        return f"/v1/health/checks/{escape(service)}", {}, pushed
    state = state or "any"
    return f"/v1/health/state/{escape(state)}", {}, {"checks": state} if state in _STATES else None


# -- items by key, and Consul's answers ------------------------------------------------------------


def _by(key: Callable[[Any], str]) -> Callable[[Any], dict[str, Any]]:
    return lambda value: {key(each): each for each in value or []}


def _node_items(value: Any) -> dict[str, Any]:
    if not value:
        return {}
    return {"node": value["Node"]} | {f"service/{id}": each for id, each in value["Services"].items()}


_ITEMS: dict[str, Callable[[Any], dict[str, Any]]] = {
    "key": _by(lambda each: each["Key"]),
    "keyprefix": _by(lambda each: each["Key"]),
    "service": _by(lambda each: key_on(each["Node"]["Node"], each["Service"]["ID"])),
    "services": lambda value: dict(value.items()),
    "nodes": _by(lambda each: each["Node"]),
    "checks": _by(lambda each: key_on(each["Node"], each["CheckID"])),
    "event": _by(lambda each: each["ID"]),
    "node": _node_items,
    "session": _by(lambda each: each["ID"]),
}


def _one(items: Mapping[str, Any]) -> Any:
    return next(iter(items.values()), None)


def _sorted(key: Callable[[Any], Any]) -> Callable[[Mapping[str, Any]], list[Any]]:
    return lambda items: sorted(items.values(), key=key)


def _node_value(items: Mapping[str, Any]) -> Any:
    if "node" not in items:
        return None
    services = {item["ID"]: item for key, item in sorted(items.items()) if key.startswith("service/")}
    return {"Node": items["node"], "Services": services}


_VALUES: dict[str, Callable[[Mapping[str, Any]], Any]] = {
    "key": _one,
    "keyprefix": _sorted(lambda each: each["Key"]),
    "service": _sorted(lambda each: (each["Node"]["Node"], each["Service"]["ID"])),
    "services": lambda items: dict(sorted(items.items())),
    "nodes": _sorted(lambda each: each["Node"]),
    "checks": _sorted(lambda each: (each["Node"], each["CheckID"])),
    "event": _sorted(lambda each: each["LTime"]),
    "node": _node_value,
    "session": _one,
}
