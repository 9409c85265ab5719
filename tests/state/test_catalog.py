"""The rules of the catalog: what is refused, what moves which index, who takes whose name."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from uuid import UUID

import pytest
from support.change_rows import changes_after
from support.one_state import OneState

from gemot.server.model.catalog import (
    Deregister,
    HealthService,
    Node,
    NodeInfo,
    Nodes,
    Register,
    Service,
    ServiceNodes,
    Services,
)
from gemot.server.model.errors import RuleFailed
from gemot.server.model.health import Check, HealthChecks, HealthNode, HealthState
from gemot.server.model.query import Query

ID1 = "aaaa1111-0000-4000-8000-000000000001"
ID2 = "aaaa2222-0000-4000-8000-000000000002"
N1 = Node("n1", "10.0.0.1")
N2 = Node("n2", "10.0.0.2")
WEB = Service("web", "web", ("v1",), port=80)


@pytest.fixture
def one(tmp_path: Path) -> Iterator[OneState]:
    state = OneState(tmp_path)
    state.skip(10)
    yield state
    state.close()


def _check(check_id: str, service_id: str = "", **fields: str) -> Check:
    return Check("", check_id, check_id, service_id=service_id, **fields)  # type: ignore[arg-type]


# -- refusals --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("command", "text"),
    [
        (Register(Node("", "10.0.0.1")), "Must provide node"),
        (Register(Node("n1", "")), "Must provide address if SkipNodeUpdate is not set"),
        (Register(N1, (Service("s1", ""),)), "Must provide service name with ID"),
        (Register(N1, (Service("", ""),)), "Must provide service name"),
        (Register(N1, (Service("", "web", address="0.0.0.0"),)), "Invalid service address"),
        (Register(N1, (Service("", "web", address="::"),)), "Invalid service address"),
        (Register(N1, checks=(Check("n2", "c", "c"),)), 'check node "n2" does not match node "n1"'),
        (Register(N1, checks=(_check("c", "web"),)), "Missing service registration"),
        (Register(N1, (WEB,), (_check("c", "db"),)), "Missing service registration"),
        (Register(N1, checks=(Check("", "", ""),)), "Must provide check ID or name"),
    ],
)
def test_a_registration_that_is_refused_leaves_nothing_behind(
    one: OneState, command: Register, text: str
) -> None:
    error = one.result(command)
    assert isinstance(error, RuleFailed)
    assert error.message == text
    for query in (Nodes(), Services(), HealthState("any")):
        assert one.read(query) == (type(one.value(query))(), 1)
    assert changes_after(one.state, 0, 10) == []
    one.state.verify()


def test_a_refused_registration_undoes_only_itself_in_a_batch(one: OneState) -> None:
    good, bad, last = one.apply(
        Register(N1, (WEB,)),
        Register(Node("n1", "10.9.9.9"), (Service("db", "db"),), (_check("c", "none"),)),
        Register(N2, (WEB,)),
    )
    assert isinstance(bad.result, RuleFailed)
    assert bad.touched == ()
    assert good.touched
    assert last.touched
    assert one.value(Nodes())[0].address == "10.0.0.1"
    assert one.value(Services()) == {"web": ["v1"]}
    assert [change[0] for change in changes_after(one.state, 11, 10)] == [13, 13]
    one.state.verify()


# -- defaults and copies ---------------------------------------------------------------------------


def test_ids_default_to_names_and_a_check_starts_critical(one: OneState) -> None:
    one.apply(Register(N1, (Service("", "web"),), (Check("", "", "alive"),)))
    detail = one.value(NodeInfo("n1"))
    assert detail.services[0].id == "web"
    assert (detail.checks[0].check_id, detail.checks[0].status) == ("alive", "critical")
    assert detail.checks[0].node == "n1"


def test_a_check_repeats_name_and_tags_of_its_service(one: OneState) -> None:
    one.apply(Register(N1, (WEB,), (_check("c", "web"),)))
    check = one.value(HealthChecks("web"))[0]
    assert (check.service_name, check.service_tags) == ("web", ("v1",))
    one.apply(Register(N1, (Service("web", "shop", ("v2",)),)))
    assert one.value(HealthChecks("web")) == []
    check = one.value(HealthChecks("shop"))[0]
    assert (check.service_name, check.service_tags, check.modify_index) == ("shop", ("v2",), 12)


def test_names_are_found_in_any_case_and_kept_as_given(one: OneState) -> None:
    one.apply(Register(Node("Host-A", "10.0.0.1"), (Service("Web-1", "Web"),), (_check("C", "web-1"),)))
    assert one.value(NodeInfo("host-a")).node.node == "Host-A"
    assert one.value(ServiceNodes("WEB"))[0].service.service == "Web"
    assert one.value(HealthNode("HOST-A"))[0].service_id == "Web-1"
    one.apply(Deregister("HOST-a", service_id="wEB-1"))
    assert one.value(Services()) == {}
    assert one.value(HealthNode("host-a")) == []


def test_with_skip_node_update_a_node_is_made_but_never_changed(one: OneState) -> None:
    one.apply(Register(Node("n1", ""), (WEB,), skip_node_update=True))
    assert one.value(NodeInfo("n1")).node.address == ""
    one.apply(Register(N1), Register(Node("n1", "10.9.9.9"), skip_node_update=True))
    assert one.value(NodeInfo("n1")).node.address == "10.0.0.1"


def test_tags_are_matched_all_and_in_any_case(one: OneState) -> None:
    one.apply(Register(N1, (Service("a", "web", ("V1", "eu")), Service("b", "web", ("v1",)))))
    assert [e.service.id for e in one.value(ServiceNodes("web", ("v1",)))] == ["a", "b"]
    assert [e.service.id for e in one.value(ServiceNodes("web", ("EU", "v1")))] == ["a"]
    assert one.value(Services()) == {"web": ["V1", "eu", "v1"]}


# -- names and ids of nodes ------------------------------------------------------------------------


def test_a_name_is_reserved_while_its_node_is_alive(one: OneState) -> None:
    one.apply(Register(Node("n1", "10.0.0.1", ID1), checks=(_check("serfHealth", status="passing"),)))
    error = one.result(Register(Node("N1", "10.0.0.2", ID2)))
    assert isinstance(error, RuleFailed)
    assert error.message == f"Node name N1 is reserved by node {ID1} with name n1 (10.0.0.1)"
    one.apply(Register(Node("n1", "10.0.0.1", ID1), checks=(_check("serfHealth", status="critical"),)))
    assert one.result(Register(Node("n1", "10.0.0.2", ID2))) is True
    assert one.value(NodeInfo("n1")).node.id == ID2


def test_without_a_serf_check_a_name_is_reserved_too(one: OneState) -> None:
    one.apply(Register(Node("n1", "10.0.0.1", ID1)))
    assert isinstance(one.result(Register(Node("n1", "10.0.0.2", ID2))), RuleFailed)


def test_a_node_without_an_id_takes_one_on(one: OneState) -> None:
    one.apply(Register(N1), Register(Node("n1", "10.0.0.1", ID1)))
    node = one.value(NodeInfo("n1")).node
    assert (node.id, node.create_index, node.modify_index) == (ID1, 11, 12)


def test_a_registration_without_an_id_leaves_the_id_alone(one: OneState) -> None:
    one.apply(Register(Node("n1", "10.0.0.1", ID1)))
    assert one.touched(Register(N1)) == ()
    assert one.value(NodeInfo("n1")).node.id == ID1


def test_a_node_is_renamed_by_its_id_and_its_old_name_is_gone(one: OneState) -> None:
    one.apply(Register(Node("old", "10.0.0.1", ID1), (WEB,), (_check("c"),)))
    assert one.result(Register(Node("new", "10.0.0.1", ID1.upper()))) is True
    assert one.value(NodeInfo("old")) is None
    detail = one.value(NodeInfo("new"))
    assert (detail.node.create_index, detail.services, detail.checks) == (11, (), ())
    assert one.value(Services()) == {}
    one.state.verify()


def test_a_rename_onto_a_living_name_is_refused_and_undone(one: OneState) -> None:
    one.apply(Register(Node("n1", "10.0.0.1", ID1), (WEB,)), Register(Node("n2", "10.0.0.2", ID2)))
    error = one.result(Register(Node("n2", "10.0.0.1", ID1)))
    assert isinstance(error, RuleFailed)
    assert [node.node for node in one.value(Nodes())] == ["n1", "n2"]
    one.apply(Register(N2))
    assert isinstance(one.result(Register(Node("n2", "10.0.0.1", ID1))), RuleFailed)


def test_a_rename_does_not_take_the_name_of_a_node_without_an_id(one: OneState) -> None:
    one.apply(Register(Node("n1", "10.0.0.1", ID1)), Register(N2))
    assert isinstance(one.result(Register(Node("n2", "10.0.0.1", ID1))), RuleFailed)


def test_a_node_is_found_by_a_unique_id_prefix_of_four_characters(one: OneState) -> None:
    one.apply(Register(Node("n1", "10.0.0.1", ID1)), Register(Node("n2", "10.0.0.2", ID2)))
    assert str(UUID(ID1)) == ID1
    assert one.value(NodeInfo("aaaa1")).node.node == "n1"
    assert one.value(NodeInfo(ID2.upper())).node.node == "n2"
    assert one.value(NodeInfo("aaaa")) is None
    assert one.value(NodeInfo("aaa")) is None
    one.apply(Register(Node("aaaa", "10.0.0.3")))
    assert one.value(NodeInfo("aaaa")).node.address == "10.0.0.3", "a name goes before an id"


def test_a_watch_by_id_prefix_learns_that_the_prefix_is_unique_no_more(one: OneState) -> None:
    one.apply(Register(Node("n1", "10.0.0.1", ID1)))
    (outcome,) = one.apply(Register(Node("n2", "10.0.0.2", ID2)))
    assert ("node-id", ID2.encode()) in outcome.touched
    assert one.read(NodeInfo("aaaa")) == (None, 12)


# -- indexes ---------------------------------------------------------------------------------------


def test_an_equal_registration_moves_nothing(one: OneState) -> None:
    command = Register(N1, (WEB,), (_check("c", "web"), _check("n")))
    one.apply(command)
    queries: tuple[Query, ...] = (
        Nodes(),
        Services(),
        NodeInfo("n1"),
        HealthService("web"),
        HealthState("any"),
    )
    before = [one.read(query) for query in queries]
    assert one.touched(command) == ()
    assert [one.read(query) for query in queries] == before


@pytest.mark.parametrize(
    ("command", "moved"),
    [
        (Register(N1, (Service("web", "web", ("v2",), port=80),)), "services web n1 checks"),
        (Register(N1, (Service("web2", "web"),)), "services web n1"),
        (Register(N1, (Service("x", "x"),)), "services n1"),
        (Register(N2, (WEB,)), "nodes services web"),
        (Register(N2), "nodes"),
        (Register(Node("n1", "10.9.9.9")), "nodes web db n1"),
        (Register(N1, checks=(_check("c", "web", output="new"),)), "checks web n1"),
        (Register(N1, checks=(_check("n", status="passing"),)), "checks web db n1"),
        (Deregister("n1", check_id="c"), "checks web n1"),
        (Deregister("n1", check_id="n"), "checks web db n1"),
        (Deregister("n1", service_id="db"), "services db n1"),
        (Deregister("n1", service_id="web"), "services checks web n1"),
        (Deregister("n1"), "nodes services checks web db n1"),
        (Deregister("n1", service_id="none"), ""),
        (Deregister("n1", check_id="none"), ""),
        (Deregister("none"), ""),
    ],
)
def test_a_change_moves_these_indexes_and_no_others(one: OneState, command: Register, moved: str) -> None:
    one.apply(Register(N1, (WEB, Service("db", "db")), (_check("c", "web"), _check("n"))))
    queries: dict[str, Query] = {
        "nodes": Nodes(),
        "services": Services(),
        "checks": HealthState("any"),
        "web": HealthService("web"),
        "db": ServiceNodes("db"),
        "n1": NodeInfo("n1"),
    }
    before = {name: one.at(query) for name, query in queries.items()}
    one.apply(command)
    found = [name for name, query in queries.items() if one.at(query) != before[name]]
    assert sorted(found) == sorted(moved.split())
    assert all(one.at(queries[name]) == one.index for name in found)


def test_a_service_without_instances_answers_the_last_extinction(one: OneState) -> None:
    assert one.at(HealthService("web")) == 1
    one.apply(Register(N1, (WEB,)))
    assert one.at(HealthService("db")) == 11, "nothing was ever extinct: the whole catalog's"
    one.apply(Register(N2, (WEB,)), Deregister("n1", service_id="web"))
    assert (one.at(HealthService("web")), one.at(HealthService("db"))) == (13, 13)
    one.apply(Deregister("n2", service_id="web"), Register(N1, (Service("x", "x"),)))
    assert (one.at(HealthService("web")), one.at(HealthService("db"))) == (14, 14)
    one.apply(Register(N1, (WEB,)))
    assert one.at(HealthService("web")) == 16


def test_a_change_wakes_only_those_it_concerns(one: OneState) -> None:
    one.apply(Register(N1, (WEB,), (_check("c", "web"),)), Register(N2, (Service("db", "db"),)))
    touched = one.touched(Register(N1, checks=(_check("c", "web", status="passing"),)))
    assert sorted(touched) == [("checks", b""), ("node", b"n1"), ("service", b"web")]


def test_changes_are_kept_in_order_with_the_rows_of_then(one: OneState) -> None:
    one.apply(Register(N1, (WEB,), (_check("c", "web"),)), Deregister("n1"))
    rows = [
        (i, s, topic, key, op, row is None) for i, s, topic, key, op, row in changes_after(one.state, 0, 99)
    ]
    assert rows == [
        (11, 0, "node", b"n1", "set", False),
        (11, 1, "service", b"n1\0web", "set", False),
        (11, 2, "check", b"n1\0c", "set", False),
        (12, 0, "check", b"n1\0c", "delete", True),
        (12, 1, "service", b"n1\0web", "delete", True),
        (12, 2, "node", b"n1", "delete", True),
    ]
