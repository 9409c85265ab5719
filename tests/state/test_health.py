"""Checks, and instances judged by them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from support.one_state import OneState

from gemot.server.model.catalog import Deregister, HealthService, Node, Register, Service
from gemot.server.model.health import Check, HealthChecks, HealthNode, HealthState, Status

N1 = Node("n1", "10.0.0.1", meta={"rack": "1"})
N2 = Node("n2", "10.0.0.2", meta={"rack": "2"})


@pytest.fixture
def one(tmp_path: Path) -> Iterator[OneState]:
    state = OneState(tmp_path)
    state.skip(10)
    yield state
    state.close()


def _check(check_id: str, status: Status, service_id: str = "") -> Check:
    return Check("", check_id, check_id, status, service_id=service_id)


def test_an_instance_comes_with_its_nodes_checks_first_and_no_other_instances(one: OneState) -> None:
    services = (Service("w1", "web"), Service("w2", "web"), Service("d", "db"))
    checks = (
        _check("a-w1", "passing", "w1"),
        _check("a-w2", "passing", "w2"),
        _check("b-db", "critical", "d"),
        _check("z-node", "passing"),
    )
    one.apply(Register(N2, (Service("w", "web"),)), Register(N1, services, checks))
    found = one.value(HealthService("web"))
    assert [(i.node.node, i.service.id, [c.check_id for c in i.checks]) for i in found] == [
        ("n1", "w1", ["z-node", "a-w1"]),
        ("n1", "w2", ["z-node", "a-w2"]),
        ("n2", "w", []),
    ]


@pytest.mark.parametrize(
    ("node", "service", "kept"),
    [
        ("passing", "passing", True),
        ("passing", "warning", False),
        ("warning", "passing", False),
        ("passing", "critical", False),
        ("critical", "passing", False),
    ],
)
def test_passing_keeps_an_instance_only_if_each_check_of_it_and_its_node_passes(
    one: OneState, node: Status, service: Status, kept: bool
) -> None:
    checks = (_check("n", node), _check("s", service, "w"), _check("other", "critical", "d"))
    one.apply(Register(N1, (Service("w", "web"), Service("d", "db")), checks))
    assert len(one.value(HealthService("web", passing=True))) == kept
    assert len(one.value(HealthService("web"))) == 1


def test_checks_are_found_by_node_by_service_and_by_state(one: OneState) -> None:
    checks = (_check("n", "warning"), _check("s", "critical", "w"))
    one.apply(Register(N2, (Service("w", "web"),), checks), Register(N1, (Service("w", "web"),), checks))

    def found(query: HealthNode | HealthChecks | HealthState) -> list[tuple[str, str]]:
        return [(check.node, check.check_id) for check in one.value(query)]

    assert found(HealthNode("n1")) == [("n1", "n"), ("n1", "s")]
    assert found(HealthNode("none")) == []
    assert found(HealthChecks("web")) == [("n1", "s"), ("n2", "s")]
    assert found(HealthChecks("web", {"rack": "2"})) == [("n2", "s")]
    assert found(HealthState("warning")) == [("n1", "n"), ("n2", "n")]
    assert found(HealthState("any", {"rack": "1"})) == [("n1", "n"), ("n1", "s")]
    assert found(HealthState("any")) == [("n1", "n"), ("n1", "s"), ("n2", "n"), ("n2", "s")]
    assert found(HealthState("unheard-of")) == []


def test_the_same_status_and_output_again_moves_nothing_but_new_output_does(one: OneState) -> None:
    one.apply(Register(N1, checks=(_check("n", "warning"),)))
    assert one.touched(Register(N1, checks=(_check("n", "warning"),))) == ()
    assert one.touched(Register(N1, checks=(Check("", "n", "n", "warning", output="x"),))) != ()
    check = one.value(HealthNode("n1"))[0]
    assert (check.create_index, check.modify_index) == (11, 13)


def test_a_services_checks_go_with_it(one: OneState) -> None:
    one.apply(Register(N1, (Service("w", "web"),), (_check("n", "passing"), _check("s", "passing", "w"))))
    one.apply(Deregister("n1", service_id="w", check_id="n"))
    assert [check.check_id for check in one.value(HealthNode("n1"))] == ["n"], "a service goes before a check"


def test_a_check_that_moves_to_another_service_moves_both(one: OneState) -> None:
    one.apply(Register(N1, (Service("w", "web"), Service("d", "db")), (_check("c", "passing", "w"),)))
    touched = one.touched(Register(N1, checks=(_check("c", "passing", "d"),)))
    assert {("service", b"web"), ("service", b"db")} <= set(touched)
    assert one.value(HealthChecks("web")) == []
    assert len(one.value(HealthChecks("db"))) == 1
