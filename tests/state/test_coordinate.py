"""Coordinates in the state: one a node of the catalog, gone with it, followed by nobody who did not ask."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from support.one_state import OneState

from gemot.server.model.catalog import Deregister, HealthService, Node, Nodes, Register, Service, ServiceNodes
from gemot.server.model.coordinate import (
    Coordinate,
    CoordinateOf,
    Coordinates,
    NodeCoordinate,
    SetCoordinates,
)
from gemot.server.model.health import Check, HealthChecks, HealthState
from gemot.server.model.query import Query

NAMES = ("n1", "n2", "n3", "n4")
WEB = Service("web", "web")


def at_ms(x_ms: float) -> Coordinate:
    return Coordinate((x_ms / 1_000, *(0.0,) * 7))


def places(**ms: float) -> SetCoordinates:
    return SetCoordinates(tuple(NodeCoordinate(node, at_ms(x_ms)) for node, x_ms in ms.items()))


@pytest.fixture
def one(tmp_path: Path) -> Iterator[OneState]:
    state = OneState(tmp_path)
    for name in NAMES:
        check = Check(name, "alive", "alive", "passing", service_id="web")
        state.apply(Register(Node(name, "10.0.0.1"), (WEB,), (check,)))
    yield state
    state.state.verify()
    state.close()


def names(one: OneState, query: Query) -> list[str]:
    return [_node(row) for row in one.value(query)]


def _node(row: object) -> str:
    node = row.node  # type: ignore[attr-defined]
    return node if isinstance(node, str) else node.node


def test_each_node_has_its_last_one_under_the_catalogs_spelling(one: OneState) -> None:
    assert one.result(places(N1=1, n2=2)) == 2
    first = one.index
    assert one.result(places(n1=5)) == 1
    assert one.read(Coordinates()) == (
        [NodeCoordinate("n1", at_ms(5), first, first + 1), NodeCoordinate("n2", at_ms(2), first, first)],
        first + 1,
    )
    assert one.read(CoordinateOf("N2")) == (NodeCoordinate("n2", at_ms(2), first, first), first)


def test_what_the_catalog_does_not_have_is_passed_over(one: OneState) -> None:
    before = one.read(Coordinates())
    assert one.result(places(stranger=1)) == 0
    assert one.read(Coordinates()) == before == ([], 1)
    assert one.read(CoordinateOf("stranger")) == (None, 1)


def test_the_same_again_moves_nothing(one: OneState) -> None:
    one.apply(places(n1=1))
    before = one.read(Coordinates())
    assert one.touched(places(n1=1)) == ()
    assert one.read(Coordinates()) == before


def test_it_goes_with_its_node_and_the_list_says_so(one: OneState) -> None:
    one.apply(places(n1=1, n2=2))
    touched = one.touched(Deregister("n1"))
    assert {("coordinates", b""), ("coordinate", b"n1")} <= set(touched)
    assert names(one, Coordinates()) == ["n2"]
    assert one.read(CoordinateOf("n1")) == (None, one.index)
    one.apply(Register(Node("n1", "10.0.0.1")))
    assert one.value(CoordinateOf("n1")) is None, "a host that comes back is not where it was"


def test_it_goes_with_the_old_name_of_a_renamed_node(one: OneState) -> None:
    node_id = "40e4a748-2192-161a-0510-9bf59fe950b5"
    one.apply(Register(Node("old", "10.0.0.9", id=node_id)), places(old=3))
    one.apply(Register(Node("new", "10.0.0.9", id=node_id)))
    assert names(one, Coordinates()) == []


def test_nothing_else_moves(one: OneState) -> None:
    """Who follows nodes, services or the change table is not told where hosts stand."""
    queries: list[Query] = [Nodes(), ServiceNodes("web"), HealthService("web"), HealthState("any")]
    before = [one.read(query) for query in queries], one.state.changes
    assert set(one.touched(places(n1=1))) == {("coordinates", b""), ("coordinate", b"n1")}
    assert ([one.read(query) for query in queries], one.state.changes) == before


@pytest.mark.parametrize(
    "query",
    [
        Nodes(near="n2"),
        ServiceNodes("web", near="N2"),
        HealthService("web", near="n2"),
        HealthChecks("web", near="n2"),
        HealthState("any", near="n2"),
    ],
    ids=lambda query: type(query).__name__,
)
def test_near_sorts_by_distance_those_of_unknown_place_last(one: OneState, query: Query) -> None:
    assert names(one, query) == list(NAMES), "an unknown source leaves the order"
    one.apply(places(n1=9, n2=10, n4=7))
    index = one.read(query)[1]
    assert names(one, query) == ["n2", "n1", "n4", "n3"]
    one.apply(places(n4=11.5, n1=1))
    assert names(one, query) == ["n2", "n4", "n1", "n3"]
    assert one.read(query)[1] == index, "it moves no index of what is listed"


def test_near_sorts_what_the_filters_left(one: OneState) -> None:
    one.apply(
        places(n1=1, n2=2, n3=3, n4=4),
        Register(Node("n2", "10.0.0.1", meta={"rack": "7"}), (WEB,)),
        Register(Node("n4", "10.0.0.1", meta={"rack": "7"}), (WEB,)),
    )
    assert names(one, Nodes({"rack": "7"}, near="n3")) == ["n2", "n4"]
    assert names(one, Nodes({"rack": "7"}, near="n4")) == ["n4", "n2"]
    assert names(one, Nodes(near="nobody")) == list(NAMES)


def test_many_rows_are_sorted_alike(one: OneState) -> None:
    many = [f"h{number:03}" for number in range(250)]
    one.apply(*(Register(Node(name, "10.0.0.1")) for name in many))
    one.apply(places(**{name: float(number * 7 % 250) for number, name in enumerate(many)}))
    expected = sorted(many, key=lambda name: int(name[1:]) * 7 % 250)
    assert names(one, Nodes(near="h000"))[:250] == expected
    assert one.state.read_on(one.file.reader(), Nodes(near="h000")).value == one.value(Nodes(near="h000"))


def test_a_coordinate_that_cannot_be_is_no_command() -> None:
    with pytest.raises(ValueError, match="dimensions"):
        Coordinate((1.0,))
    with pytest.raises(ValueError, match="outside"):
        Coordinate(error=float("nan"))
