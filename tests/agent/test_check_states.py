"""What checks registered here say, on clocks moved by hand: results, outputs that wait, TTLs, aliases."""

from __future__ import annotations

import pytest
from msgspec.structs import replace
from support.local_bench import Clock, MemoryStore, check, local_state, service

from gemot.agent.check_states import TOLD
from gemot.agent.local import LocalState
from gemot.agent.registration import parse_check
from gemot.checks.definition import CheckDefinition
from gemot.checks.status import Outcome
from gemot.server.model.errors import RuleFailed


def test_only_ttl_checks_can_be_pushed_to() -> None:
    local = local_state()
    local.add_check(check("c", HTTP="http://a/", Interval="1s"))
    with pytest.raises(RuleFailed, match='CheckID "c" does not have associated TTL'):
        local.check_states.update_ttl("c", "passing", "")


def test_a_ttl_that_nobody_renews_turns_critical() -> None:
    clock = Clock()
    local = local_state(clock=clock)
    local.add_check(check("c", TTL="10s"))
    local.check_states.update_ttl("c", "passing", "all well")
    clock.move(9.9)
    local.check_states.expire()
    assert local.checks()["c"].status == "passing"
    local.check_states.update_ttl("c", "warning", "so so")
    clock.move(9.9)
    local.check_states.expire()
    assert local.checks()["c"].status == "warning"
    clock.move(0.1)
    local.check_states.expire()
    row = local.checks()["c"]
    assert (row.status, row.output) == (
        "critical",
        "TTL expired (last output before timeout follows): so so",
    )
    assert local.check_states.next_deadline_s() is None
    local.check_states.update_ttl("c", "passing", "back")
    assert local.check_states.next_deadline_s() == clock.now_s + 10


def test_long_pushes_are_cut() -> None:
    local = local_state()
    local.add_check(check("c"))
    local.check_states.update_ttl("c", "passing", "x" * 5000)
    assert local.checks()["c"].output == "x" * 4096 + " ... (captured 4096 of 5000 bytes)"


def test_outputs_can_be_discarded() -> None:
    local = local_state(discard_output=True)
    local.add_check(check("c"))
    local.check_states.update_ttl("c", "passing", "secret")
    local.check_states.report("c", Outcome("warning", "secret"))
    assert local.checks()["c"].output == ""


def test_a_result_of_a_check_that_went_is_ignored() -> None:
    local_state().check_states.report("gone", Outcome("passing", ""))


def test_a_change_of_status_is_told_at_once_and_one_of_output_later() -> None:
    clock = Clock()
    local = local_state(clock=clock, check_update_interval_s=300.0)
    local.add_check(check("c"))
    local.take_gap()
    local.check_states.report("c", Outcome("passing", "1"))
    assert local.take_gap().checks == {"c"}
    local.check_states.report("c", Outcome("passing", "2"))
    assert not local.is_behind()
    assert local.wanted().checks["c"].output_deferred
    assert local.check_states.release() == clock.now_s + 300
    clock.move(300)
    assert local.check_states.release() is None
    assert local.take_gap().checks == {"c"}
    local.check_states.report("c", Outcome("passing", "3"))
    local.check_states.report("c", Outcome("critical", "4"))
    assert local.is_behind()
    assert not local.wanted().checks["c"].output_deferred
    assert local.check_states.release() is None


def test_a_change_of_status_is_in_the_log_once(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", logger="gemot.agent.check_states")
    store = MemoryStore()
    local = local_state(store)
    local.add_service(service("db", Check={"HTTP": "http://a/", "Interval": "60s"}))
    for status, output in (
        ("passing", "fine"),
        ("passing", "finer"),
        ("critical", "refused\nby whom"),
        ("critical", "x"),
        ("warning", "h" * 1_000),
    ):
        local.check_states.report("service:db", Outcome(status, output))
    _restarted(store).check_states.adopt(local.checks().values())
    told = [(record.levelname, record.getMessage()) for record in caplog.records]
    assert told == [
        ("INFO", "check: passing: check=service:db service=db before=critical: fine"),
        ("WARNING", "check: critical: check=service:db service=db before=passing: refused"),
        ("INFO", f"check: warning: check=service:db service=db before=critical: {'h' * TOLD}"),
    ], "and what a restart takes back from the catalog is no change"


def test_without_an_update_interval_every_output_is_told() -> None:
    local = local_state(check_update_interval_s=0.0)
    local.add_check(check("c", Status="passing"))
    local.take_gap()
    local.check_states.report("c", Outcome("passing", "new"))
    assert local.take_gap().checks == {"c"}


def _restarted(store: MemoryStore, *checks: CheckDefinition) -> LocalState:
    local = local_state(store)
    local.restore()
    local.reload([], checks)
    return local


def test_after_a_restart_a_check_stands_as_the_catalog_has_it_until_its_first_result() -> None:
    store, http = MemoryStore(), {"HTTP": "http://a/", "Interval": "60s"}
    before = local_state(store)
    before.add_service(service("dead", Check={**http, "Status": "passing"}))
    before.add_service(service("live", Check=http))
    before.add_check(check("alias", AliasService="live"))
    of_file = parse_check({"name": "file", **http}, from_config=True)
    before.reload([], [of_file])
    before.check_states.report("service:dead", Outcome("critical", "refused"))
    before.check_states.report("service:live", Outcome("passing", "fine"))
    before.check_states.report("file", Outcome("warning", "hot"))
    local = _restarted(store, of_file)
    assert local.checks()["service:dead"].status == "passing"
    local.check_states.adopt(before.checks().values())
    assert local.checks() == before.checks()
    local.check_states.report("service:dead", Outcome("passing", "back"))
    local.check_states.adopt(before.checks().values())
    assert (local.checks()["service:dead"].output, local.checks()["file"].output) == ("back", "hot")


def test_what_was_heard_since_the_restart_is_newer_than_what_the_catalog_has() -> None:
    clock, store = Clock(), MemoryStore()
    before = local_state(store, clock)
    before.add_check(check("probed", TCP="127.0.0.1:1", Interval="60s"))
    before.add_check(check("pushed", TTL="60s"))
    stored = before.checks().values()
    before.check_states.update_ttl("pushed", "passing", "kept on disk")
    local = _restarted(store)
    local.check_states.report("probed", Outcome("passing", "new"))
    local.check_states.adopt(stored)
    assert {row.output for row in local.checks().values()} == {"new", "kept on disk"}


def test_what_a_ttl_has_from_the_catalog_it_has_over_another_restart_too() -> None:
    clock, store = Clock(), MemoryStore()
    before = local_state(store, clock)
    before.add_check(check("c", TTL="60s"))
    before.check_states.update_ttl("c", "passing", "fine")
    store.ttls.clear()  # as after a power failure
    for _ in range(2):
        local = local_state(store, clock)
        local.restore()
        local.check_states.adopt(before.checks().values())
        assert local.checks()["c"].status == "passing"
        before = local
        clock.move(10)


def test_a_check_that_is_new_or_another_one_starts_as_it_is_registered() -> None:
    store = MemoryStore()
    before = local_state(store)
    before.add_service(service("web"))
    before.add_check(check("other", TCP="127.0.0.1:1", Interval="60s", Status="passing"))
    before.add_check(check("service", TCP="127.0.0.1:1", Interval="60s", Status="passing"))
    before.maintain_node(enable=True)
    local = _restarted(store)
    local.add_check(check("new", TCP="127.0.0.1:1", Interval="60s", Status="passing"))
    rows = {**local.checks(), "_node_maintenance": before.checks()["_node_maintenance"]}
    local.check_states.adopt(
        (
            replace(rows["other"], status="critical", type="http"),
            replace(rows["service"], status="critical", service_id="web"),
            replace(rows["new"], status="critical"),
            replace(rows["_node_maintenance"], status="passing"),
        )
    )
    assert local.count_checks("passing") == 3
    assert local.checks()["_node_maintenance"].status == "critical"


def test_a_check_that_is_registered_again_before_the_catalog_is_known_is_still_the_same() -> None:
    store, http = MemoryStore(), {"HTTP": "http://a/", "Interval": "60s"}
    before = local_state(store)
    before.add_service(service("web", Check=http))
    before.check_states.report("service:web", Outcome("passing", "fine"))
    local = _restarted(store)
    local.add_service(service("web", Check={**http, "Interval": "30s"}))
    local.check_states.adopt(before.checks().values())
    assert local.checks()["service:web"].status == "passing"


def test_an_alias_follows_the_worst_check_of_its_service() -> None:
    local = local_state()
    local.add_check(check("alias", AliasService="web"))
    assert local.checks()["alias"].status == "critical"
    local.add_service(service("web"))
    assert local.checks()["alias"].output == "No checks found."
    local.add_service(service("web", Checks=[{"TTL": "1s"}, {"TTL": "1s"}]))
    local.check_states.update_ttl("service:web:1", "passing", "")
    local.check_states.update_ttl("service:web:2", "warning", "hot")
    row = local.checks()["alias"]
    assert (row.status, row.output) == ("warning", "Aliased check \"Service 'web' check\" failing: hot")
    local.check_states.update_ttl("service:web:2", "passing", "")
    assert local.checks()["alias"].output == "All checks passing."
    local.maintain_node(enable=True)
    assert local.checks()["alias"].status == "critical"
    local.maintain_node(enable=False)
    local.add_check(check("more", ServiceID="web"))
    assert local.checks()["alias"].status == "critical"
    local.remove_check("more")
    assert local.checks()["alias"].status == "passing"
    local.remove_service("web")
    assert local.checks()["alias"].status == "critical"


def test_an_alias_of_an_alias_tells_the_check_that_both_follow() -> None:
    local = local_state()
    local.add_service(service("a", Check={"TTL": "1s", "Name": "probe"}))
    local.add_service(service("b", Check={"AliasService": "a"}))
    local.add_service(service("c", Check={"AliasService": "b"}))
    local.check_states.update_ttl("service:a", "warning", "hot")
    row = local.checks()["service:c"]
    assert (row.status, row.output) == ("warning", 'Aliased check "probe" failing: hot')
    local.check_states.update_ttl("service:a", "passing", "")
    assert local.checks()["service:c"].status == "passing"
    local.remove_service("a")
    row = local.checks()["service:c"]
    assert (row.status, row.output) == ("critical", "Service a could not be found on this agent")


def test_a_circle_of_aliases_has_nothing_to_follow_and_tells_no_more_with_each_result() -> None:
    local = local_state()
    local.add_service(service("x", Check={"AliasService": "y"}))
    local.add_service(service("y", Check={"AliasService": "x"}))
    local.add_service(service("self", Check={"AliasService": "self"}))
    assert {(row.status, row.output) for row in local.checks().values()} == {("passing", "No checks found.")}
    local.add_check(check("node", Status="passing"))
    for number in range(9):
        local.check_states.report("node", Outcome("critical", str(number)))
    assert local.checks()["service:x"].output == local.checks()["service:y"].output
    assert local.checks()["service:x"].output == 'Aliased check "node" failing: 8'


def test_aliases_that_see_each_other_do_not_hold_each_other_critical() -> None:
    """Those of the host are node checks, so each counts for all others."""
    local = local_state()
    for name in ("a", "b"):
        local.add_service(service(name, Check={"TTL": "1s", "Status": "passing"}))
        local.add_check(check(f"alias-{name}", AliasService=name))
    local.check_states.report("service:a", Outcome("critical", "down"))
    assert local.count_checks("critical") == 3
    local.check_states.report("service:a", Outcome("passing", "up"))
    assert local.count_checks("passing") == 4
