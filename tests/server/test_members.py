"""Who lives: from reports to the catalog, on the leader."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
from support.members import client, server
from support.membership import Scene

from gemot.server.connected import Connected
from gemot.server.members import (
    CONTRADICTS_MS,
    DOUBTED_MS,
    FAIL_AGAIN_MS,
    FAILED_AFTER_MS,
    FORMER_LEADER_MS,
    LEFT_FOR_MS,
    RECONCILE_EVERY_MS,
    TURNS,
    register_alive,
)
from gemot.server.model.catalog import Deregister, NodeInfo


@pytest.fixture
def scene(tmp_path: Path) -> Iterator[Scene]:
    scene = Scene(tmp_path)
    yield scene
    scene.one.close()


def test_a_member_is_registered_once_and_costs_nothing_after(scene: Scene) -> None:
    for _ in range(50):
        scene.membership.joined(client(1))
    assert len(scene.proposed) == 1
    assert scene.health("web1") == "passing"
    assert scene.one.value(NodeInfo("web1")).services == ()


def test_a_server_is_found_under_the_service_consul(scene: Scene) -> None:
    scene.membership.joined(server(1))
    (service,) = scene.one.value(NodeInfo("srv1")).services
    assert (service.id, service.service, service.port) == ("consul", "consul", 8300)


def test_the_service_consul_tells_the_release_that_a_server_runs_now(scene: Scene) -> None:
    """After an upgrade it told the former one for as long as the server lived."""
    scene.membership.joined(server(1))
    upgraded = msgspec.structs.replace(server(1), build="9.9.9")
    scene.membership.joined(upgraded)
    (service,) = scene.one.value(NodeInfo("srv1")).services
    assert service.meta["version"] == "9.9.9"
    proposed = len(scene.proposed)
    scene.membership = scene.new_leader()
    scene.membership.begin()
    scene.membership.joined(upgraded)
    assert len(scene.proposed) == proposed


def test_a_member_that_moved_is_registered_anew(scene: Scene) -> None:
    scene.membership.joined(client(1))
    scene.membership.joined(client(1, address="10.9.9.9"))
    assert scene.one.value(NodeInfo("web1")).node.address == "10.9.9.9"


def test_silence_turns_a_member_critical_after_the_period_and_not_before(scene: Scene) -> None:
    scene.membership.joined(client(1))
    scene.pass_ms(FAILED_AFTER_MS - 100)
    assert scene.health("web1") == "passing"
    scene.pass_ms(100)
    assert scene.health("web1") == "critical"
    proposed = len(scene.proposed)
    scene.pass_ms(60_000)
    assert len(scene.proposed) == proposed, "said once"
    scene.membership.joined(client(1))
    assert scene.health("web1") == "passing"


def test_one_that_leaves_is_expected_no_more(scene: Scene) -> None:
    scene.membership.joined(client(1))
    scene.membership.left("web1")
    proposed = len(scene.proposed)
    scene.pass_ms(FAILED_AFTER_MS * 2)
    assert len(scene.proposed) == proposed


def test_a_new_leader_grants_everyone_a_full_period(scene: Scene) -> None:
    for number in (1, 2):
        scene.membership.joined(client(number))
    scene.pass_ms(FAILED_AFTER_MS - 500)
    scene.membership = scene.new_leader()
    scene.membership.begin()
    scene.pass_ms(FAILED_AFTER_MS - 500)
    scene.membership.joined(client(1))
    assert scene.health("web2") == "passing"
    scene.pass_ms(500)
    assert (scene.health("web1"), scene.health("web2")) == ("passing", "critical")


def test_a_restored_catalog_changes_nobodys_life(scene: Scene) -> None:
    """Servers stay in the list without a gap; a host of which only the archive knows may yet report."""
    for member in (server(1), client(1), client(2)):
        scene.membership.joined(member)
    scene.membership.failed("web2")
    scene.pass_ms(2 * FAIL_AGAIN_MS)
    scene.membership.joined(server(1))
    scene.one.apply(Deregister("web1"), register_alive(client(2), scene.one.value(NodeInfo("web2"))))
    scene.membership.compare_anew()
    assert [member.name for member in scene.membership.servers().values()] == [server(1).name]
    scene.membership.joined(client(1))
    scene.pass_ms(FAILED_AFTER_MS - 100)
    assert (scene.health("web1"), scene.health("web2")) == ("passing", "passing")
    scene.membership.joined(client(1))
    scene.pass_ms(100)
    assert (scene.health("web1"), scene.health("web2")) == ("passing", "critical")


def test_the_period_of_a_leader_that_died_began_with_its_silence(scene: Scene) -> None:
    """Its failure was once told after the election and a whole period: 8 s, where 6 are promised."""
    for number in (1, 2, 3):
        scene.membership.joined(server(number))
    scene.former_leader = (server(2).id, scene.timer.now_ms())
    scene.pass_ms(2_000)
    scene.membership = scene.new_leader()
    scene.membership.begin()
    for _ in range(40):
        scene.membership.joined(server(1))
        scene.pass_ms(100)
    assert (scene.health("srv1"), scene.health("srv2"), scene.health("srv3")) == (
        "passing",
        "critical",
        "passing",
    )


def test_a_leader_deposed_by_a_long_election_still_has_time_to_report(scene: Scene) -> None:
    scene.membership.joined(server(2))
    scene.former_leader = (server(2).id, scene.timer.now_ms())
    scene.pass_ms(FAILED_AFTER_MS - 100)
    scene.timer.pass_ms(20_000, tick=lambda: None)
    scene.membership = scene.new_leader()
    scene.membership.begin()
    scene.pass_ms(FORMER_LEADER_MS - 100)
    assert scene.health("srv2") == "passing"
    scene.membership.joined(server(2))
    scene.pass_ms(FAILED_AFTER_MS - 100)
    assert scene.health("srv2") == "passing"


def test_what_somebody_else_changed_is_put_right_by_the_next_comparison(scene: Scene) -> None:
    scene.membership.joined(client(1))
    scene.membership.failed("web1")
    scene.membership.joined(client(1))
    scene.proposed.clear()
    scene.one.apply(Deregister("web1"))
    scene.membership.joined(client(1))
    assert scene.health("web1") == "", "nothing is compared in between"
    for _ in range(RECONCILE_EVERY_MS // 1_000 + 1):
        scene.pass_ms(1_000)
        scene.membership.joined(client(1))
    assert scene.health("web1") == "passing"


def test_a_new_leader_compares_so_many_a_tick_that_it_can_still_lead(scene: Scene) -> None:
    """Its own look at each of thousands of hosts, all at once, took longer than an election timeout."""
    hosts = [client(number, name=f"web{number}") for number in range(3 * TURNS)]
    for host in hosts:
        scene.membership.joined(host)
    scene.membership = scene.new_leader()
    scene.membership.begin()
    looks = scene.looks
    for ticks in (1, 2, 3):
        for host in hosts:
            scene.membership.joined(host)
        assert scene.looks - looks == ticks * TURNS
        scene.pass_ms(50)
    for host in hosts:
        scene.membership.joined(host)
    assert scene.looks - looks == len(hosts), "once each"


def test_a_member_with_two_connections_is_there_until_both_are_gone() -> None:
    connected = Connected(server(1))
    connected.add(client(1))
    connected.add(client(1))
    connected.remove(client(1))
    assert [m.name for m in connected.members()] == ["srv1", "web1"]
    connected.remove(client(1))
    connected.remove(client(1))
    assert [m.name for m in connected.members()] == ["srv1"]


def test_one_that_said_it_leaves_is_not_reported_while_its_connection_is_open() -> None:
    connected = Connected(server(1))
    connected.add(client(1))
    connected.forget("Web1")
    assert [m.name for m in connected.members()] == ["srv1"]
    connected.add(client(1))
    assert [m.name for m in connected.members()] == ["srv1", "web1"], "it has come back"
    connected.forget("web1", client(2).id)
    assert [m.name for m in connected.members()] == ["srv1", "web1"], "it was another of its name"


def test_a_leader_that_was_asleep_itself_takes_nobody_for_failed(scene: Scene) -> None:
    """A suspended host, or a stalled loop: the reports of that time wait in the sockets."""
    scene.membership.joined(client(1))
    scene.pass_ms(1_000)
    scene.timer.pass_ms(60 * 60_000)
    scene.membership.on_tick()
    assert scene.health("web1") == "passing"
    scene.pass_ms(FAILED_AFTER_MS)
    assert scene.health("web1") == "critical"


def test_a_failure_that_was_not_taken_is_proposed_again(scene: Scene) -> None:
    scene.membership.joined(client(1))
    scene.refuses = True
    scene.pass_ms(FAILED_AFTER_MS)
    scene.refuses = False
    assert scene.health("web1") == "passing"
    scene.pass_ms(FAIL_AGAIN_MS)
    assert scene.health("web1") == "critical"


def test_the_time_before_it_led_is_no_sleep_of_the_leader(scene: Scene) -> None:
    scene.membership.joined(client(1))
    scene.membership = scene.new_leader()
    scene.timer.pass_ms(60 * 60_000)
    scene.membership.begin()
    scene.pass_ms(FAILED_AFTER_MS + 50)
    assert scene.health("web1") == "critical"


def test_a_wiped_host_gets_its_name_once_its_former_self_is_silent(scene: Scene) -> None:
    """Its new id comes at once; the old one had the name until it counts as failed."""
    old, new = client(1), client(1, id="00000001-9999-4000-8000-000000000000")
    scene.membership.joined(old)
    for _ in range(FAILED_AFTER_MS // 500):
        scene.membership.joined(new)
        assert scene.one.value(NodeInfo("web1")).node.id == old.id
        scene.pass_ms(500)
    scene.pass_ms(FAIL_AGAIN_MS)  # only then is it asked whether the failure has reached the catalog
    scene.membership.joined(new)
    assert scene.one.value(NodeInfo("web1")).node.id == new.id
    assert scene.health("web1") == "passing"


@pytest.mark.parametrize("leader", ["the same", "a new one"])
def test_a_wiped_server_that_listens_where_it_did_gets_its_name_sooner(scene: Scene, leader: str) -> None:
    """Two cannot listen there, and one that lives says so every second."""
    old, new = server(1), server(1, id="00000001-9999-4000-8000-000000000000")
    elsewhere = server(1, id="00000001-8888-4000-8000-000000000000", rpc="10.0.0.1:8301")
    scene.membership.joined(old)
    if leader == "a new one":
        scene.membership = scene.new_leader()
        scene.membership.begin()
    for _ in range(CONTRADICTS_MS // 500):
        scene.membership.joined(new)
        assert scene.one.value(NodeInfo("srv1")).node.id == old.id
        scene.pass_ms(500)
    scene.membership.joined(elsewhere)
    assert scene.one.value(NodeInfo("srv1")).node.id == old.id
    scene.membership.joined(new)
    assert scene.one.value(NodeInfo("srv1")).node.id == new.id
    assert list(scene.membership.servers()) == [new.id]


def test_of_two_servers_at_one_place_the_one_that_came_last_is_reported() -> None:
    """The connection of the other has only not broken yet."""
    connected = Connected(server(2))
    old, new = server(1), server(1, id="00000001-9999-4000-8000-000000000000")
    connected.add(old)
    connected.add(new)
    assert connected.members() == (server(2), new)
    connected.remove(old)
    assert connected.members() == (server(2), new)


def test_a_host_that_lives_keeps_its_name_and_who_else_wants_it_is_told_once(
    scene: Scene, caplog: pytest.LogCaptureFixture
) -> None:
    holder, other = server(1), server(1, id="00000001-9999-4000-8000-000000000000")
    for leader in ("the same", "a new one"):
        if leader == "a new one":
            scene.membership = scene.new_leader()
            scene.membership.begin()
        for _ in range(20):
            scene.membership.joined(other) if leader == "a new one" else None
            scene.membership.joined(holder)
            scene.membership.joined(other)
            scene.pass_ms(1_000)
        assert scene.one.value(NodeInfo("srv1")).node.id == holder.id
        assert list(scene.membership.servers()) == [holder.id]
        (told,) = [record.getMessage() for record in caplog.records if "name taken" in record.message]
        assert f"id={other.id} holder={holder.address} (id {holder.id})" in told
        caplog.clear()


def test_who_left_is_not_brought_back_by_hearsay_but_by_a_connection(scene: Scene) -> None:
    """A server that leaves still has connections to the others while it ends, and they report it."""
    scene.membership.joined(server(1))
    scene.membership.left("srv1")
    scene.one.apply(Deregister("srv1"))
    scene.membership.joined(server(1))
    assert scene.health("srv1") == ""
    scene.membership.joined(server(1), afresh=True)
    assert scene.health("srv1") == "passing"
    scene.membership.left("srv1")
    scene.pass_ms(LEFT_FOR_MS)
    scene.membership.joined(server(1))
    assert list(scene.membership.servers()) == [server(1).id]


def test_of_the_servers_those_count_that_were_heard_of_lately(scene: Scene) -> None:
    scene.membership.joined(server(1))
    scene.membership.joined(client(1))
    assert list(scene.membership.servers()) == [server(1).id]
    scene.pass_ms(FAILED_AFTER_MS)
    assert scene.membership.servers() == {}


# -- by gossip -----------------------------------------------------------------------------------------------


def test_a_host_that_no_server_reports_lives_as_long_as_gossip_says_so(scene: Scene) -> None:
    """Its connections to the servers are broken, and it is there."""
    scene.membership.joined(client(1))
    scene.gossip(client(1), "alive")
    scene.pass_ms(5 * FAILED_AFTER_MS)
    assert scene.health("web1") == "passing"
    scene.gossip(client(1), "failed")
    scene.pass_ms(FAILED_AFTER_MS)
    assert scene.health("web1") == "critical"


def test_one_that_only_gossip_knows_is_registered(scene: Scene) -> None:
    scene.gossip(client(1), "alive")
    assert scene.health("web1") == "passing"


def test_what_gossip_does_not_carry_stays_as_the_servers_were_told(scene: Scene) -> None:
    """Node metadata and tagged addresses."""
    told = msgspec.structs.replace(client(1), meta={"rack": "r7"}, tagged_addresses={"wan": "192.0.2.1"})
    scene.membership.joined(told)
    scene.membership = scene.new_leader()
    scene.membership.begin()
    scene.gossip(client(1), "alive")
    scene.pass_ms(2 * FAILED_AFTER_MS)
    detail = scene.one.value(NodeInfo("web1"))
    assert (detail.node.meta, detail.node.tagged_addresses) == (told.meta, told.tagged_addresses)


def test_whom_gossip_misses_turns_critical_as_soon_as_no_fresh_report_contradicts(scene: Scene) -> None:
    scene.membership.joined(client(1))
    scene.pass_ms(CONTRADICTS_MS - 500)
    scene.gossip(client(1), "failed")
    scene.pass_ms(400)
    assert scene.health("web1") == "passing"
    scene.pass_ms(200)
    assert scene.health("web1") == "critical"


def test_a_leader_that_is_cut_off_in_gossip_alone_turns_nobody_critical(scene: Scene) -> None:
    """All have failed in its list, and all report each second."""
    for number in (1, 2, 3):
        scene.membership.joined(client(number))
        scene.gossip(client(number), "failed")
    for _ in range(60):
        scene.pass_ms(1_000)
        for number in (1, 2, 3):
            scene.membership.joined(client(number))
    assert [scene.health(f"web{number}") for number in (1, 2, 3)] == ["passing"] * 3


def test_a_new_leader_takes_up_what_gossip_knew_before_it_led(scene: Scene) -> None:
    for number in (1, 2):
        scene.membership.joined(client(number))
    scene.heard.members = {client(1).id: (client(1), "failed"), client(3).id: (client(3), "alive")}
    scene.membership = scene.new_leader()
    scene.membership.begin()
    scene.membership.joined(client(2))
    scene.pass_ms(CONTRADICTS_MS)
    assert [scene.health(f"web{number}") for number in (1, 2, 3)] == ["critical", "passing", "passing"]


def test_a_good_bye_by_gossip_takes_the_node_out_but_none_of_another_id(scene: Scene) -> None:
    scene.membership.joined(client(1))
    scene.pass_ms(CONTRADICTS_MS)
    other = msgspec.structs.replace(client(1), id=client(7).id)
    scene.gossip(other, "left")
    assert scene.health("web1") == "passing"
    scene.gossip(client(1), "left")
    assert scene.health("web1") == ""


def test_a_fresh_report_is_better_than_a_good_bye_by_hearsay(scene: Scene) -> None:
    scene.membership.joined(client(1))
    scene.gossip(client(1), "left")
    assert scene.health("web1") == "passing"


def test_who_failed_and_came_back_is_doubted_no_more(scene: Scene) -> None:
    scene.membership.joined(client(1))
    scene.gossip(client(1), "failed")
    scene.gossip(client(1), "alive")
    scene.pass_ms(FAILED_AFTER_MS - 100)
    assert scene.health("web1") == "passing"


def test_whom_gossip_merely_doubts_is_not_kept_for_ever(scene: Scene) -> None:
    """Survivors of many that died could doubt the dead for minutes, and no server heard them."""
    scene.membership.joined(client(1))
    scene.gossip(client(1), "suspect")
    scene.pass_ms(DOUBTED_MS - 100)
    assert scene.health("web1") == "passing"
    scene.pass_ms(100)
    assert scene.health("web1") == "critical"


def test_whom_a_new_leader_knows_by_the_catalog_alone_lives_by_gossip(scene: Scene) -> None:
    scene.membership.joined(client(1))
    scene.gossip(client(1), "alive")
    scene.membership = scene.new_leader()
    scene.heard.members[client(1).id] = client(1), "alive"
    scene.membership.begin()
    scene.pass_ms(3 * FAILED_AFTER_MS)
    assert scene.health("web1") == "passing"
