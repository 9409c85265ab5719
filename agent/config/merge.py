"""Sources put together in order: later scalars override, lists append, maps merge."""

from __future__ import annotations

from typing import Any, TypeVar

import msgspec

_Tree = TypeVar("_Tree", bound=msgspec.Struct)


def merge(below: dict[str, Any], above: dict[str, Any]) -> dict[str, Any]:
    """`above` over `below`; neither is changed."""
    merged = dict(below)
    for key, value in above.items():
        under = merged.get(key)
        if isinstance(under, dict) and isinstance(value, dict):
            merged[key] = merge(under, value)
        elif isinstance(under, tuple) and isinstance(value, tuple):
            merged[key] = under + value
        else:
            merged[key] = value
    return merged


def overlay(base: _Tree, values: dict[str, Any]) -> _Tree:
    """The tree `base` with these values (by field name, nested) in place of its own."""
    changes = {}
    for name, value in values.items():
        inner = getattr(base, name)
        changes[name] = overlay(inner, value) if isinstance(inner, msgspec.Struct) else value
    return msgspec.structs.replace(base, **changes)
