"""The local state on clocks moved by hand: registration, maintenance, reload, restart."""

from __future__ import annotations

from typing import Any

import pytest
from support.local_bench import Clock, MemoryStore, check, local_state, service

from gemot.agent import local as module
from gemot.agent.local import Change
from gemot.agent.registration import Registration, parse_check, parse_service
from gemot.checks.status import Outcome
from gemot.server.model.errors import BadRequest, NotFound, RuleFailed


def configured(name: str, **fields: Any) -> Registration:
    return parse_service({"name": name, **fields}, from_config=True)


def test_a_service_brings_its_checks_and_they_start_critical() -> None:
    local = local_state()
    local.add_service(service("web", Tags=["a"], Check={"TTL": "10s"}))
    (row,) = local.checks().values()
    assert (row.check_id, row.status, row.service_name, row.service_tags) == (
        "service:web",
        "critical",
        "web",
        ("a",),
    )


def test_a_check_may_start_with_another_status() -> None:
    local = local_state()
    local.add_check(check("c", Status="passing"))
    assert local.checks()["c"].status == "passing"


def test_registering_again_keeps_what_is_known_of_the_same_check() -> None:
    local = local_state()
    local.add_service(service("web", Check={"HTTP": "http://a/", "Interval": "10s"}))
    local.check_states.report("service:web", Outcome("passing", "fine"))
    local.add_service(service("web", Port=81, Check={"HTTP": "http://b/", "Interval": "10s"}))
    row = local.checks()["service:web"]
    assert (row.status, row.output) == ("passing", "fine")
    assert local.services()["web"].port == 81


def test_checks_that_are_not_named_again_stay_unless_replaced() -> None:
    local = local_state()
    local.add_service(service("web", Checks=[{"TTL": "1s", "CheckID": "a"}, {"TTL": "1s", "CheckID": "b"}]))
    local.maintain_service("web", enable=True)
    local.add_service(service("web", Check={"TTL": "1s", "CheckID": "c"}))
    assert set(local.checks()) == {"a", "b", "c", "_service_maintenance:web"}
    local.add_service(service("web", Check={"TTL": "1s", "CheckID": "c"}), replace_checks=True)
    assert set(local.checks()) == {"c", "_service_maintenance:web"}


def test_an_identical_registration_leaves_nothing_to_tell() -> None:
    local = local_state()
    local.add_service(service("web", Check={"TTL": "10s"}))
    local.take_gap()
    changes: list[Change] = []
    local.listen(changes.append)
    local.add_service(service("web", Check={"TTL": "10s"}))
    assert not local.is_behind()
    assert changes == []


def test_removing_a_service_removes_its_checks() -> None:
    local = local_state()
    local.add_service(service("web", Check={"TTL": "10s"}))
    local.add_check(check("other"))
    local.remove_service("web")
    assert set(local.checks()) == {"other"}
    with pytest.raises(NotFound, match=r'^Unknown service ID "web"'):
        local.remove_service("web")


def test_a_check_of_an_unknown_service_is_refused() -> None:
    with pytest.raises(NotFound, match='ServiceID "nope" does not exist'):
        local_state().add_check(check("c", ServiceID="nope"))


def test_what_is_unknown_is_named() -> None:
    local = local_state()
    with pytest.raises(NotFound, match='Unknown check ID "c"'):
        local.remove_check("c")
    with pytest.raises(NotFound, match='Unknown check ID "c"'):
        local.check_states.update_ttl("c", "passing", "")
    with pytest.raises(NotFound, match='Unknown service ID "s"'):
        local.maintain_service("s", enable=True)


def test_a_limit_is_told_before_anything_is_changed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_SERVICES", 2)
    monkeypatch.setattr(module, "MAX_CHECKS", 2)
    local = local_state()
    local.add_service(service("a"))
    with pytest.raises(RuleFailed, match="already has 2 checks"):
        local.add_service(service("b", Checks=[{"TTL": "1s"}] * 3))
    assert set(local.services()) == {"a"}
    local.add_service(service("b", Checks=[{"TTL": "1s"}] * 2))
    with pytest.raises(RuleFailed, match="already has 2 services, its limit: deregister some first"):
        local.add_service(service("c"))
    with pytest.raises(RuleFailed, match="already has 2 checks"):
        local.add_check(check("c"))
    local.add_service(service("b", Port=1))  # one that is there may always change


def test_a_service_that_was_critical_for_too_long_is_taken_out() -> None:
    clock = Clock()
    local = local_state(clock=clock)
    dies = {"HTTP": "http://a/", "Interval": "1s", "DeregisterCriticalServiceAfter": "2m"}
    local.add_service(service("web", Check=dies))
    local.add_service(service("db", Check={"HTTP": "http://a/", "Interval": "1s"}))
    local.add_check(check("node", HTTP="http://a/", Interval="1s", DeregisterCriticalServiceAfter="2m"))
    clock.move(100)
    local.check_states.report("service:web", Outcome("passing", ""))
    clock.move(100)
    assert local.reap() == []
    local.check_states.report("service:web", Outcome("critical", "1"))
    clock.move(100)
    local.check_states.report("service:web", Outcome("critical", "2"))  # still the same outage
    clock.move(21)
    assert local.reap() == ["web"]
    assert set(local.services()) == {"db"}
    assert "node" in local.checks()


def test_a_service_is_not_taken_out_for_a_check_of_which_nothing_is_known_since_a_restart() -> None:
    clock, store = Clock(), MemoryStore()
    fields = {"HTTP": "http://a/", "Interval": "5m", "DeregisterCriticalServiceAfter": "1m"}
    local_state(store, clock).add_service(service("web", Check=fields))
    again = local_state(store, clock)
    again.restore()
    clock.move(90)  # without a leader
    assert again.reap() == []
    again.check_states.adopt(())
    assert again.reap() == []
    clock.move(61)
    assert again.reap() == ["web"]


def test_registering_again_does_not_restart_the_clock_of_an_outage() -> None:
    clock = Clock()
    local = local_state(clock=clock)
    fields = {"TTL": "1s", "DeregisterCriticalServiceAfter": "1m"}
    local.add_service(service("web", Check=fields))
    clock.move(40)
    local.add_service(service("web", Port=9, Check={**fields, "Notes": "other"}))
    clock.move(21)
    assert local.reap() == ["web"]


def test_maintenance_is_a_critical_check_with_its_reason() -> None:
    local = local_state()
    local.add_service(service("web"))
    local.maintain_node(enable=True, reason="disk")
    local.maintain_node(enable=True, reason="other")
    local.maintain_service("web", enable=True)
    rows = local.checks()
    node, web = rows["_node_maintenance"], rows["_service_maintenance:web"]
    assert (node.status, node.notes, node.name, node.type) == (
        "critical",
        "disk",
        "Node Maintenance Mode",
        "maintenance",
    )
    assert (web.name, web.service_id, web.notes) == (
        "Service Maintenance Mode",
        "web",
        "Maintenance mode is enabled for this service, but no reason was provided",
    )
    local.maintain_node(enable=False)
    local.maintain_service("web", enable=False)
    local.maintain_service("web", enable=False)
    assert local.checks() == {}


def test_the_content_hash_changes_with_the_registration_only() -> None:
    local = local_state()
    local.add_service(service("web", Check={"TTL": "1s"}))
    first = local.content_hash("web")
    local.check_states.update_ttl("service:web", "passing", "")
    assert local.content_hash("web") == first
    local.add_service(service("web", Port=1))
    assert local.content_hash("web") not in (first, "")
    assert local.content_hash("none") == ""


def test_listeners_hear_of_every_kind_of_change_until_they_leave() -> None:
    local = local_state()
    heard: list[Change] = []
    leave = local.listen(heard.append)
    local.add_service(service("web", Check={"TTL": "1s"}))
    local.check_states.update_ttl("service:web", "passing", "")
    assert heard == [
        Change("service", "web"),
        Change("check", "service:web"),
        Change("status", "service:web"),
    ]
    leave()
    local.remove_service("web")
    assert len(heard) == 3


def test_what_could_not_be_told_counts_as_it_is_now() -> None:
    local = local_state()
    local.add_service(service("a", Check={"TTL": "1s"}))
    local.add_service(service("b"))
    local.take_gap()
    local.remove_service("b")
    gap = local.take_gap()
    assert gap.gone_services == {"b"}
    assert gap.services == set()
    local.add_service(service("b"))
    local.mark(gap)
    gap = local.take_gap()
    assert gap.services == {"b"}
    assert not gap.gone_services
    local.add_service(service("a", Port=1))
    gap = local.take_gap()
    local.remove_service("a")
    local.mark(gap)
    again = local.take_gap()
    assert again.gone_services == {"a"}
    assert not again.services | again.checks


def test_a_new_service_under_its_checks_has_their_rows_told_again() -> None:
    local = local_state()
    local.add_service(service("web", Check={"TTL": "1s"}))
    local.take_gap()
    local.add_service(service("web", Tags=["new"]))
    assert local.take_gap().checks == {"service:web"}


def test_checks_go_with_their_own_token_or_their_services() -> None:
    local = local_state(token="agent")
    checks = [{"TTL": "1s", "CheckID": "a"}, {"TTL": "1s", "CheckID": "b", "Token": "own"}]
    local.add_service(service("web", Token="web", Checks=checks))
    local.add_check(check("loose"))
    wanted = local.wanted()
    assert {i: one.token for i, one in wanted.checks.items()} == {"a": "web", "b": "own", "loose": "agent"}
    assert wanted.services["web"].token == "web"


def test_a_reload_replaces_what_files_define_and_nothing_else() -> None:
    store = MemoryStore()
    local = local_state(store)
    local.add_service(service("api"))
    local.add_check(check("api-check"))
    local.reload(
        [configured("web", check={"ttl": "10s"}), configured("old", check={"ttl": "10s"})],
        [parse_check({"name": "loose", "ttl": "10s"}, from_config=True)],
    )
    local.check_states.update_ttl("service:web", "passing", "fine")
    local.take_gap()
    local.reload([configured("web", port=8, check={"ttl": "20s"}), configured("new")], [])
    assert set(local.services()) == {"api", "web", "new"}
    assert set(local.checks()) == {"api-check", "service:web"}
    assert local.checks()["service:web"].status == "passing"
    assert local.take_gap().gone_services == {"old"}
    assert set(store.services) == {"api"}
    assert set(store.checks) == {"api-check"}


def test_an_identical_reload_changes_nothing() -> None:
    local = local_state()
    for _ in range(2):
        local.take_gap()
        local.reload([configured("web", check={"ttl": "10s"})], [])
    assert not local.is_behind()


def test_a_reload_with_a_check_of_no_service_changes_nothing() -> None:
    local = local_state()
    local.reload([configured("web")], [])
    with pytest.raises(RuleFailed, match='ServiceID "nope" does not exist'):
        local.reload([], [parse_check({"name": "c", "ttl": "1s", "service_id": "nope"}, from_config=True)])
    assert set(local.services()) == {"web"}


def test_a_restart_brings_back_what_came_over_the_api() -> None:
    clock, store = Clock(), MemoryStore()
    local = local_state(store, clock)
    local.add_service(service("web", Token="t", Checks=[{"TTL": "10s"}, {"TTL": "10s"}]))
    local.add_check(check("c"))
    local.maintain_node(enable=True, reason="disk")
    local.maintain_service("web", enable=True)
    local.check_states.update_ttl("service:web:1", "passing", "fine")
    local.check_states.update_ttl("service:web:2", "passing", "fine")
    clock.move(5)
    local.check_states.update_ttl("service:web:2", "warning", "so so")
    clock.move(6)
    again = local_state(store, clock)
    again.restore()
    assert again.services() == local.services()
    rows = again.checks()
    assert rows.keys() == local.checks().keys()
    assert rows["_node_maintenance"].notes == "disk"
    assert rows["service:web:1"].status == "critical"  # its time was over
    assert (rows["service:web:2"].status, rows["service:web:2"].output) == ("warning", "so so")
    assert again.wanted().checks["service:web:1"].token == "t"
    clock.move(4)
    again.check_states.expire()
    assert again.checks()["service:web:2"].status == "critical"


def test_a_ttl_that_ended_before_or_during_a_restart_is_critical_whatever_it_was_registered_with() -> None:
    clock, store = Clock(), MemoryStore()
    local = local_state(store, clock)
    local.add_check(check("pushed", TTL="60s", Status="passing"))
    local.add_check(check("never", TTL="60s", Status="passing"))
    local.check_states.update_ttl("pushed", "passing", "fine")
    clock.move(60)
    again = local_state(store, clock)
    again.restore()
    again.reload([], [])
    assert {(row.status, row.output) for row in again.checks().values()} == {
        ("critical", "TTL expired"),
        ("critical", "TTL expired (last output before timeout follows): fine"),
    }
    assert again.check_states.next_deadline_s() is None


def test_a_ttl_that_nobody_pushed_to_ends_when_it_would_have_without_the_restart() -> None:
    for from_file in (False, True):
        clock, store = Clock(), MemoryStore()
        definition = parse_check({"name": "c", "ttl": "60s", "status": "passing"}, from_config=from_file)
        checks = [definition] if from_file else []
        local = local_state(store, clock)
        local.reload([], checks)
        if not from_file:
            local.add_check(definition)
        clock.move(50)
        again = local_state(store, clock)
        again.restore()
        again.reload([], checks)
        assert again.checks()["c"].status == "passing"
        assert again.check_states.deadline_s("c") == clock.now_s + 10


def test_registering_a_ttl_again_begins_its_time_anew_over_a_restart_too() -> None:
    clock, store = Clock(), MemoryStore()
    local = local_state(store, clock)
    for _ in range(2):
        local.add_check(check("c", TTL="60s", Status="passing"))
        clock.move(50)
    again = local_state(store, clock)
    again.restore()
    assert again.checks()["c"].status == "passing"


def test_how_a_ttl_stood_that_is_gone_says_nothing_of_a_new_one_of_its_id() -> None:
    clock, store = Clock(), MemoryStore()
    passing = {"name": "c", "ttl": "60s", "status": "passing"}
    local_state(store, clock).reload([], [parse_check(passing, from_config=True)])
    clock.move(3600)
    again = local_state(store, clock)  # its file does not define it any more
    again.restore()
    again.reload([], [])
    assert store.ttls == {}
    again.add_check(parse_check(passing, from_config=False))
    assert again.checks()["c"].status == "passing"
    again.add_check(check("c", TCP="127.0.0.1:1", Interval="10s"))
    assert store.ttls == {}


def test_files_have_the_last_word_after_a_restart() -> None:
    store = MemoryStore()
    local_state(store).add_service(service("web", Port=1))
    again = local_state(store)
    again.restore()
    again.reload([configured("web", port=2)], [])
    assert again.services()["web"].port == 2
    assert store.services == {}


def test_a_removed_registration_does_not_come_back() -> None:
    store = MemoryStore()
    local = local_state(store)
    local.add_service(service("web", Check={"TTL": "10s"}))
    local.add_check(check("c"))
    local.check_states.update_ttl("service:web", "passing", "")
    local.remove_service("web")
    local.remove_check("c")
    assert (store.services, store.checks, store.ttls) == ({}, {}, {})


def test_a_saved_check_without_its_service_is_dropped() -> None:
    store = MemoryStore()
    local_state(store).add_service(service("web", Check={"TTL": "10s"}))
    store.services.clear()
    again = local_state(store)
    again.restore()
    again.reload([], [])
    assert again.checks() == {}
    assert store.checks == {}


def test_what_the_api_did_to_a_service_of_a_file_outlives_a_restart() -> None:
    """Its maintenance too: else an upgrade would bring a host into service that somebody took out of it."""
    store = MemoryStore()
    local = local_state(store)
    local.reload([configured("web", port=2)], [])
    local.maintain_service("web", enable=True, reason="disk")
    local.add_check(check("c", ServiceID="web"))
    again = local_state(store)
    again.restore()
    again.reload([configured("web", port=2)], [])
    assert again.checks().keys() == {"_service_maintenance:web", "c"}
    assert again.checks()["_service_maintenance:web"].notes == "disk"
    assert store.checks.keys() == again.checks().keys()


def test_ids_that_the_catalog_takes_for_one_are_refused() -> None:
    local = local_state()
    local.add_service(service("Web", Check={"TTL": "1s", "CheckID": "C"}))
    with pytest.raises(BadRequest, match='"web" differs from "Web" only in capitals'):
        local.add_service(service("web"))
    with pytest.raises(BadRequest, match='"c" differs from "C"'):
        local.add_check(check("c"))
    with pytest.raises(BadRequest, match='"c" differs from "C"'):
        local.add_service(service("other", Check={"TTL": "1s", "CheckID": "c"}))
    with pytest.raises(BadRequest, match='"wEB" differs from "Web"'):
        local.reload([configured("wEB")], [])
    with pytest.raises(BadRequest, match='"db" differs from "DB"'):
        local.reload([configured("DB"), configured("db")], [])
    assert set(local.services()) == {"Web"}
    local.add_service(service("Web", Port=2))
    local.remove_service("Web")
    local.add_service(service("web"))
