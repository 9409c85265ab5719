"""What a new configuration changes in a running agent, and what of it needs a restart."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TypeVar

import msgspec

from gemot.agent.config.schema import Config

_Tree = TypeVar("_Tree", bound=msgspec.Struct)

RELOADABLE = (
    "services",
    "checks",
    "templates",
    "log_level",
    "check_update_interval",
    "check_output_max_size",
    "discard_check_output",
    "dns_config",
    "http_config",
    "session_ttl_min",
    "session_ttl_multiplier",
    "limits.http_max_conns_per_client",
    "limits.kv_max_value_size",
    "limits.txn_max_ops",
    "limits.txn_max_req_len",
)
"""Paths that a running agent takes up, everything below them included."""


class Reload(msgspec.Struct, frozen=True):
    """Paths that differ, in the schema's order. `config` is what is in force from now on."""

    applied: tuple[str, ...]
    needs_restart: tuple[str, ...]
    config: Config


def difference(old: Config, new: Config) -> Reload:
    """Compare two resolved configurations."""
    changed = tuple(_changes(old, new, ""))
    applied = tuple(path for path in changed if is_reloadable(path))
    return Reload(
        applied=applied,
        needs_restart=tuple(path for path in changed if path not in applied),
        config=_take_up(old, new, ""),
    )


def _changes(old: msgspec.Struct, new: msgspec.Struct, at: str) -> Iterator[str]:
    for field in msgspec.structs.fields(old):
        path = at + field.encode_name
        before, after = getattr(old, field.name), getattr(new, field.name)
        if isinstance(before, msgspec.Struct):
            yield from _changes(before, after, path + ".")
        elif before != after:
            yield path


def is_reloadable(path: str) -> bool:
    """Whether a running agent takes this key up."""
    return any(path == root or path.startswith(root + ".") for root in RELOADABLE)


def _take_up(old: _Tree, new: _Tree, at: str) -> _Tree:
    """`old` with the reloadable parts of `new`."""
    taken = {}
    for field in msgspec.structs.fields(old):
        path = at + field.encode_name
        before, after = getattr(old, field.name), getattr(new, field.name)
        if isinstance(before, msgspec.Struct):
            taken[field.name] = _take_up(before, after, path + ".")
        elif is_reloadable(path):
            taken[field.name] = after
    return msgspec.structs.replace(old, **taken)
