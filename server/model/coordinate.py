"""Words of network coordinates: where nodes stand, so that the round trip between any two is estimated.

What nobody may build on: a node says of itself what it wants. How a member finds its place is in
`agent/gossip/coordinate.py`; its sources are told there.
"""

from __future__ import annotations

import math

import msgspec

DIMENSIONS = 8
"""More than the world has: a point finds its way round others on the way to its place."""

ERROR_MAX = 1.5
"""What a member that knows nothing says; others move it far, and it moves them little."""

HEIGHT_MIN_S = 10e-6
"""No host is nearer to its network; and if all heights were 0 none could grow, for they share by size."""

FAR_S = 100.0
"""No number of a coordinate is larger: ten of the longest round trips. Keeps every distance finite."""


class Coordinate(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """A point, all in seconds but `error`; as made without arguments, of a member that has measured nothing.

    `error`: by how much, relatively, its distances are off by its own account. Raises ValueError for what
    cannot be: another number of dimensions, and what is not finite, too far, or below 0 without a sense.
    """

    vec: tuple[float, ...] = (0.0,) * DIMENSIONS
    error: float = ERROR_MAX
    adjustment: float = 0.0
    height: float = HEIGHT_MIN_S

    def __post_init__(self) -> None:
        if len(self.vec) != DIMENSIONS:
            raise ValueError(f"a coordinate has {DIMENSIONS} dimensions, not {len(self.vec)}")
        for number in (*self.vec, self.adjustment):
            if not -FAR_S <= number <= FAR_S:
                raise ValueError(f"{number} in a coordinate is outside -{FAR_S} to {FAR_S}")
        for number in (self.error, self.height):
            if not 0 <= number <= FAR_S:
                raise ValueError(f"{number} as error or height of a coordinate is outside 0 to {FAR_S}")


def distance(one: Coordinate, other: Coordinate) -> float:
    """The estimated round trip in seconds, the same both ways; adjusted if that leaves anything of it."""
    plain = unadjusted(one, other)
    adjusted = plain + (one.adjustment + other.adjustment)
    return adjusted if adjusted > 0 else plain


def unadjusted(one: Coordinate, other: Coordinate) -> float:
    """The same by the points alone: what a step of Vivaldi is measured against."""
    return math.dist(one.vec, other.vec) + (one.height + other.height)


class NodeCoordinate(msgspec.Struct, frozen=True, array_like=True):
    """Where a node of the catalog stands."""

    node: str
    coordinate: Coordinate
    create_index: int = 0
    modify_index: int = 0


class SetCoordinates(msgspec.Struct, frozen=True, array_like=True, tag=40):
    """What the leader has gathered: of each node its last word. Result: how many of them are new.

    Those of nodes that the catalog does not have are passed over.
    """

    rows: tuple[NodeCoordinate, ...]


class Coordinates(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=40):
    """Of all nodes that have one, by name. Value: list of NodeCoordinate."""


class CoordinateOf(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=41):
    """Of one node. Value: NodeCoordinate or None."""

    node: str
