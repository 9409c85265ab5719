"""Lists by distance from one node, as `near` has them."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from gemot.server.model.coordinate import Coordinate
from gemot.server.state.near import nearest_first


def at_ms(x_ms: float, height_ms: float = 0.01) -> Coordinate:
    return Coordinate((x_ms / 1_000, *(0.0,) * 7), height=height_ms / 1_000)


PLACES = {"a": at_ms(0), "b": at_ms(1), "c": at_ms(5), "d": at_ms(-2), "twin": at_ms(5)}


def ordered(rows: str, node: str, coordinates: Mapping[str, Coordinate] = PLACES) -> str:
    """The rows are `name` or `name:what`, and `what` makes no difference."""
    return " ".join(
        nearest_first(
            rows.split(), node=node, name=lambda row: row.partition(":")[0], coordinates=coordinates
        )
    )


@pytest.mark.parametrize(
    ("rows", "node", "expected"),
    [
        ("a b c d", "a", "a b d c"),
        ("a b c d", "c", "c b a d"),
        ("c b d a", "d", "d a b c"),
        ("", "a", ""),
        # From a node that is in no row.
        ("d c", "b", "d c"),
        ("c d", "b", "d c"),
    ],
)
def test_the_nearest_come_first(rows: str, node: str, expected: str) -> None:
    assert ordered(rows, node) == expected


def test_those_equally_far_stay_in_their_order() -> None:
    assert ordered("twin:1 c:1 a c:2 twin:2", "a") == "a twin:1 c:1 c:2 twin:2"


def test_unknown_ones_come_last_in_their_order() -> None:
    assert ordered("y c x a z b", "a") == "a b c y x z"


def test_from_an_unknown_node_the_order_is_unchanged() -> None:
    assert ordered("c a b", "nobody") == "c a b"


def test_a_node_is_nearest_to_itself_though_its_own_link_is_slow() -> None:
    """By the sum of vector and heights another of its rack would seem nearer."""
    assert ordered("b a", "a", {"a": at_ms(0, 5.0), "b": at_ms(1, 0.1)}) == "a b"
