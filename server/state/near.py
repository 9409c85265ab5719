"""Lists in the order of their distance from one node: the parameter `near` of Consul's API. Pure.

Source: Consul, "Network Coordinates", and `near` of its catalog and health endpoints. Here a node is always
nearest to itself, also where those of its rack seem to be nearer still, whose places are estimates.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import TypeVar

from gemot.server.model.coordinate import Coordinate, distance

_T = TypeVar("_T")


def nearest_first(
    rows: Iterable[_T], *, node: str, name: Callable[[_T], str], coordinates: Mapping[str, Coordinate]
) -> list[_T]:
    """The rows in order of the round trip between `node` and the one that each row's `name` says.

    Rows of unknown place come last; those equally far stay in their order, and all do if `node` is unknown.
    Names are looked up as they are: the caller folds them.
    """
    here = coordinates.get(node)
    if here is None:
        return list(rows)

    def far(row: _T) -> float:
        there = name(row)
        if there == node:
            return -1.0
        known = coordinates.get(there)
        return float("inf") if known is None else distance(here, known)

    return sorted(rows, key=far)
