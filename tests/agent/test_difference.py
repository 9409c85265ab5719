"""Anti-entropy as a pure function: one pass makes the catalog equal, the second finds nothing."""

from __future__ import annotations

import tempfile
from pathlib import Path

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st
from support.catalog_model import Catalog
from support.local_bench import NODE
from support.one_state import OneState

from gemot.agent.difference import Wanted, WantedCheck, WantedService, compare, difference
from gemot.server.model.catalog import (
    SERF_HEALTH,
    SERVER_SERVICE,
    Deregister,
    Node,
    NodeDetail,
    NodeInfo,
    Register,
    Service,
    ServiceAddress,
)
from gemot.server.model.health import Check

SERF = Check("n1", SERF_HEALTH, "Serf Health Status", "passing")
CONSUL = Service(SERVER_SERVICE, SERVER_SERVICE, port=8300)


def wanted(*services: Service, checks: tuple[Check, ...] = (), node: Node = NODE) -> Wanted:
    return Wanted(
        node=node,
        services={one.id: WantedService(one) for one in services},
        checks={one.check_id: WantedCheck(one) for one in checks},
    )


def check(check_id: str, service: Service | None = None, **fields: str) -> Check:
    row = Check("n1", check_id, check_id, **fields)  # type: ignore[arg-type]
    if service is None:
        return row
    return msgspec.structs.replace(
        row, service_id=service.id, service_name=service.service, service_tags=service.tags
    )


def settle(catalog: Catalog, local: Wanted) -> list[Register | Deregister]:
    writes = difference(local, catalog.detail(local.node.node))
    assert [write.step for write in writes] == sorted(write.step for write in writes)
    for write in writes:
        catalog.apply(write.command)
    return [write.command for write in writes]


_ids = st.sampled_from("abcd")
_tags = st.lists(st.sampled_from(["x", "y"]), max_size=2).map(tuple)
_addresses = st.dictionaries(
    st.sampled_from(["lan", "consul-virtual"]),
    st.builds(ServiceAddress, st.just("10.0.0.9"), st.integers(1, 2)),
)
_services = st.dictionaries(
    _ids,
    st.builds(
        Service,
        id=st.just(""),
        service=st.sampled_from(["web", "db"]),
        tags=_tags,
        port=st.integers(0, 2),
        tagged_addresses=_addresses,
        enable_tag_override=st.booleans(),
    ),
).map(lambda table: {i: msgspec.structs.replace(one, id=i) for i, one in table.items()})
_checks = st.dictionaries(
    st.sampled_from("pqrs"),
    st.tuples(
        st.one_of(st.just(""), _ids),
        st.sampled_from(["passing", "warning", "critical"]),
        st.sampled_from(["", "text"]),
        st.sampled_from(["", "token"]),
        st.booleans(),
    ),
)


@st.composite
def locals_(draw: st.DrawFn) -> Wanted:
    services = draw(_services)
    checks = {}
    for check_id, (service_id, status, output, token, deferred) in draw(_checks).items():
        if service_id and service_id not in services:
            continue
        row = check(check_id, services.get(service_id), status=status, output=output)
        checks[check_id] = WantedCheck(row, token, deferred)
    return Wanted(
        node=msgspec.structs.replace(NODE, address=draw(st.sampled_from(["10.0.0.1", "10.0.0.2"]))),
        services={i: WantedService(one, draw(st.sampled_from(["", "token"]))) for i, one in services.items()},
        checks=checks,
    )


@st.composite
def catalogs(draw: st.DrawFn) -> Catalog:
    catalog = Catalog()
    if draw(st.booleans()):
        return catalog
    for write in difference(draw(locals_()), None):
        catalog.apply(write.command)
    if draw(st.booleans()):
        catalog.apply(Register(NODE, (CONSUL,), (SERF, check("consul-check", CONSUL)), skip_node_update=True))
    return catalog


@given(locals_(), catalogs())
def test_one_pass_makes_the_catalog_equal_and_a_second_finds_nothing(local: Wanted, catalog: Catalog) -> None:
    before = catalog.detail("n1")
    gap = compare(local, before)
    settle(catalog, local)
    found = catalog.detail("n1")
    assert found is not None
    expected = {i: gap.adopted.get(i, one.service) for i, one in local.services.items()}
    assert {one.id: one for one in found.services if one.id != SERVER_SERVICE} == expected
    ours = {one.check_id: one for one in found.checks if one.check_id in local.checks}
    assert ours.keys() == local.checks.keys()
    for check_id, one in local.checks.items():
        stored, row = ours[check_id], one.check
        assert (stored.status, stored.service_id) == (row.status, row.service_id)
        assert one.output_deferred or stored.output == row.output
    assert (found.node.address, found.node.id) == (local.node.address, local.node.id)
    adopted = {i: WantedService(expected[i], one.token) for i, one in local.services.items()}
    tags = {i: one.tags for i, one in expected.items()}
    checks = {
        i: WantedCheck(
            msgspec.structs.replace(one.check, service_tags=tags.get(one.check.service_id, ())),
            one.token,
            one.output_deferred,
        )
        for i, one in local.checks.items()
    }
    assert settle(catalog, local) == []
    assert settle(catalog, msgspec.structs.replace(local, services=adopted, checks=checks)) == []


@settings(max_examples=40, deadline=None)
@given(st.lists(locals_(), min_size=1, max_size=4), st.booleans())
def test_the_real_catalog_settles_in_one_pass_too(locals_in_turn: list[Wanted], with_server: bool) -> None:
    with tempfile.TemporaryDirectory() as folder:
        one = OneState(Path(folder))
        try:
            if with_server:
                one.result(Register(NODE, (CONSUL,), (SERF,)))
            for local in locals_in_turn:
                for write in difference(local, one.value(NodeInfo("n1"))):
                    assert one.result(write.command) is True
                detail = one.value(NodeInfo("n1"))
                assert difference(local, detail) == ()
                assert {row.id for row in detail.services} - {SERVER_SERVICE} == set(local.services)
                assert {row.check_id for row in detail.checks} - {SERF_HEALTH} == set(local.checks)
                assert with_server == (SERVER_SERVICE in {row.id for row in detail.services})
        finally:
            one.close()


@given(locals_(), catalogs())
def test_the_servers_own_entries_are_never_touched(local: Wanted, catalog: Catalog) -> None:
    catalog.apply(Register(NODE, (CONSUL,), (SERF,), skip_node_update=True))
    settle(catalog, local)
    detail = catalog.detail("n1")
    assert detail is not None
    assert CONSUL in detail.services
    assert SERF in detail.checks


@given(locals_(), catalogs())
def test_no_other_node_is_ever_touched(local: Wanted, catalog: Catalog) -> None:
    other = Node("n2", "10.0.0.2")
    catalog.apply(Register(other, (Service("z", "z"),), (Check("n2", "zc", "zc"),)))
    before = catalog.detail("n2")
    settle(catalog, local)
    assert catalog.detail("n2") == before


def test_an_unknown_node_is_written_first_and_whole() -> None:
    web = Service("w", "web")
    first, second = difference(wanted(web, checks=(check("c", web),)), None)
    assert first.command == Register(NODE)
    assert second.command == Register(NODE, (web,), (check("c", web),), skip_node_update=True)


def test_a_service_carries_only_the_checks_of_its_token() -> None:
    web = Service("w", "web")
    local = Wanted(
        node=NODE,
        services={"w": WantedService(web, "one")},
        checks={"a": WantedCheck(check("a", web), "one"), "b": WantedCheck(check("b", web), "two")},
    )
    writes = difference(local, NodeDetail(NODE, (), ()))
    assert [(write.token, write.step) for write in writes] == [("one", 2), ("two", 3)]
    assert [sorted(write.part.checks) for write in writes] == [["a"], ["b"]]


def test_removing_a_service_needs_no_word_about_its_checks() -> None:
    web = Service("w", "web")
    writes = difference(wanted(), NodeDetail(NODE, (web,), (check("c", web), check("loose"))))
    assert [write.command for write in writes] == [
        Deregister("n1", service_id="w"),
        Deregister("n1", check_id="loose"),
    ]
    assert writes[0].part.gone_checks == {"c": "w"}


def test_with_tag_override_the_catalogs_tags_win() -> None:
    ours = Service("w", "web", ("mine",), enable_tag_override=True)
    stored = msgspec.structs.replace(ours, tags=("theirs",))
    gap = compare(wanted(ours), NodeDetail(NODE, (stored,), ()))
    assert not gap
    assert gap.adopted == {"w": stored}


def test_without_tag_override_ours_win() -> None:
    ours = Service("w", "web", ("mine",))
    stored = msgspec.structs.replace(ours, tags=("theirs",))
    (write,) = difference(wanted(ours), NodeDetail(NODE, (stored,), ()))
    assert write.command == Register(NODE, (ours,), (), skip_node_update=True)


def test_addresses_that_servers_add_stay() -> None:
    ours = Service("w", "web")
    stored = msgspec.structs.replace(
        ours,
        tagged_addresses={"consul-virtual": ServiceAddress("240.0.0.1", 80), "old": ServiceAddress("a", 1)},
    )
    (write,) = difference(wanted(ours), NodeDetail(NODE, (stored,), ()))
    assert isinstance(write.command, Register)
    assert set(write.command.services[0].tagged_addresses) == {"consul-virtual"}


def test_indexes_of_the_catalog_are_no_difference() -> None:
    web = Service("w", "web")
    row = check("c", web)
    stored = NodeDetail(
        msgspec.structs.replace(NODE, create_index=4, modify_index=9),
        (msgspec.structs.replace(web, create_index=5, modify_index=6),),
        (msgspec.structs.replace(row, create_index=5, modify_index=7),),
    )
    assert difference(wanted(web, checks=(row,)), stored) == ()


def test_a_deferred_output_is_no_difference_but_a_status_is() -> None:
    row = check("c", output="new")
    local = Wanted(node=NODE, checks={"c": WantedCheck(row, "", output_deferred=True)})
    old = msgspec.structs.replace(row, output="old")
    assert difference(local, NodeDetail(NODE, (), (old,))) == ()
    worse = msgspec.structs.replace(old, status="passing")
    assert len(difference(local, NodeDetail(NODE, (), (worse,)))) == 1
