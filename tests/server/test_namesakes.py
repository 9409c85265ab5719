"""Hosts that had, have or want one name: wiped ones, and such as write it in other letters."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
from support.members import client
from support.membership import Scene

from gemot.server.members import (
    DOUBTED_MS,
    FAIL_AGAIN_MS,
    FAILED_AFTER_MS,
    RECONCILE_EVERY_MS,
    Standing,
    register_alive,
)
from gemot.server.model.catalog import Deregister, Node, NodeInfo, Register, Service
from gemot.server.model.kv import KvGet, KvSet
from gemot.server.model.session import CreateSession, Session

LOCK = "5e551011-0000-4000-8000-000000000000"
DB = Register(Node("web1", ""), services=(Service("db", "db"),), skip_node_update=True)


@pytest.fixture
def scene(tmp_path: Path) -> Iterator[Scene]:
    scene = Scene(tmp_path)
    yield scene
    scene.one.close()


@pytest.mark.parametrize("told", ["former first", "present first"])
def test_a_wiped_host_does_not_fail_with_its_former_self_under_a_new_leader(scene: Scene, told: str) -> None:
    """Gossip remembers the former id as failed for three days, and a new leader knows hosts by the catalog
    alone at first: their `serfHealth` turned critical, and their sessions ended."""
    former = client(1, id="10000001-9999-4000-8000-000000000000")
    heard = {former.id: (former, "failed"), client(1).id: (client(1), "alive")}
    scene.membership.joined(client(1))
    scene.heard.members = heard if told == "former first" else dict(reversed(heard.items()))
    scene.membership = scene.new_leader()
    scene.membership.begin()
    proposed = len(scene.proposed)
    scene.pass_ms(2 * RECONCILE_EVERY_MS)
    assert scene.health("web1") == "passing"
    assert len(scene.proposed) == proposed, "nor meanwhile"
    scene.gossip(client(1), "failed")
    scene.pass_ms(FAILED_AFTER_MS)
    assert scene.health("web1") == "critical", "its own death counts"


def test_a_node_that_is_anothers_by_now_has_a_period_of_its_own(scene: Scene) -> None:
    former = client(1, id="10000001-9999-4000-8000-000000000000")
    scene.membership.joined(former)
    scene.one.apply(Deregister("web1"), register_alive(client(1), None))
    scene.pass_ms(2 * FAILED_AFTER_MS - 100)
    assert scene.health("web1") == "passing"
    scene.pass_ms(100)
    assert scene.health("web1") == "critical"


def test_a_restored_catalog_that_has_a_former_self_gives_the_name_to_who_lives(scene: Scene) -> None:
    """The archive was made before the host was wiped: it was refused for as long as it lived."""
    former = client(1, id="10000001-9999-4000-8000-000000000000")
    scene.membership.joined(client(1))
    scene.one.apply(Deregister("web1"), register_alive(former, None))
    scene.membership.compare_anew()
    scene.membership.joined(client(1))
    assert scene.one.value(NodeInfo("web1")).node.id == client(1).id
    assert scene.health("web1") == "passing"


@pytest.mark.parametrize("former_is", ["silent", "critical"])
def test_what_a_former_host_ran_goes_with_it(
    scene: Scene, former_is: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Its services stood at the address of the present one, healthy, until that compared itself."""
    caplog.set_level("INFO", logger="gemot.server")
    former = client(1, address="10.9.9.9", id="10000001-9999-4000-8000-000000000000")
    scene.membership.joined(former)
    scene.one.apply(DB, CreateSession(Session(LOCK, "web1")), KvSet(b"lock", b"", acquire=LOCK))
    if former_is == "critical":
        scene.pass_ms(2 * FAILED_AFTER_MS)
        assert scene.health("web1") == "critical"
    else:
        scene.membership = scene.new_leader()
    scene.membership.joined(client(1))
    detail = scene.one.value(NodeInfo("web1"))
    assert (detail.node.id, detail.node.address) == (client(1).id, client(1).address)
    assert (detail.services, scene.health("web1")) == ((), "passing")
    assert scene.one.value(KvGet(b"lock")).session == "", "its sessions ended with it"
    (told,) = [record.getMessage() for record in caplog.records if "passed on" in record.message]
    assert told.endswith(f"node=web1 address=10.0.1.1 id={client(1).id} former=10.9.9.9 (id {former.id})")


@pytest.mark.parametrize(("standing", "until_ms"), [("alive", 120_000), ("suspect", DOUBTED_MS - 1_000)])
def test_a_holder_whom_gossip_hears_or_doubts_keeps_its_name_though_no_server_reports_it(
    scene: Scene, standing: Standing, until_ms: int
) -> None:
    holder = client(1, id="10000001-9999-4000-8000-000000000000")
    scene.membership.joined(holder)
    scene.one.apply(DB)
    scene.gossip(holder, standing)
    for _ in range(until_ms // 500):
        scene.timer.pass_ms(500)  # between two ticks
        scene.membership.joined(client(1))
        scene.pass_ms(500)
        if scene.timer.now_ms() > until_ms:
            break
    detail = scene.one.value(NodeInfo("web1"))
    assert (detail.node.id, [service.id for service in detail.services]) == (holder.id, ["db"])


def test_nothing_goes_of_a_host_that_has_its_name_already(scene: Scene) -> None:
    """Its agent was faster than the leader: what that proposed comes after its registration."""
    former = client(1, id="10000001-9999-4000-8000-000000000000")
    scene.membership.joined(former)
    scene.pass_ms(2 * FAILED_AFTER_MS)
    scene.late = []
    scene.membership.joined(client(1))
    late, scene.late = scene.late, None
    assert len(late) == 2
    node = msgspec.structs.replace(scene.one.value(NodeInfo("web1")).node, id=client(1).id)
    scene.one.apply(Register(node), DB, *late)
    detail = scene.one.value(NodeInfo("web1"))
    assert [service.id for service in detail.services] == ["db"]
    assert (detail.node.id, scene.health("web1")) == (client(1).id, "passing")


def test_servers_that_know_no_transactions_keep_what_a_former_host_ran(scene: Scene) -> None:
    scene.know_txn = False
    former = client(1, id="10000001-9999-4000-8000-000000000000")
    scene.membership.joined(former)
    scene.one.apply(DB)
    scene.membership = scene.new_leader()
    scene.membership.joined(client(1))
    detail = scene.one.value(NodeInfo("web1"))
    assert (detail.node.id, scene.health("web1")) == (client(1).id, "passing")
    assert [service.id for service in detail.services] == ["db"]


def test_a_node_that_is_no_agents_gives_its_name_up_to_a_host_that_lives(scene: Scene) -> None:
    """Some tool has registered it, with an id and without `serfHealth`; what runs there stays."""
    tools = Node("web1", "10.9.9.9", "99999999-0000-4000-8000-000000000000")
    scene.one.apply(Register(tools, services=(Service("db", "db"),)))
    scene.membership.joined(client(1))
    detail = scene.one.value(NodeInfo("web1"))
    assert (detail.node.id, detail.node.address) == (client(1).id, client(1).address)
    assert [service.id for service in detail.services] == ["db"]
    assert scene.health("web1") == "passing"


def test_a_node_without_an_id_is_taken_over_without_a_failure(scene: Scene) -> None:
    scene.one.apply(Register(Node("web1", "10.9.9.9")))
    scene.membership.joined(client(1))
    assert len(scene.proposed) == 1
    assert scene.one.value(NodeInfo("web1")).node.id == client(1).id


# -- names that differ in capitals ---------------------------------------------------------------------------


def test_of_two_hosts_whose_names_differ_in_capitals_the_first_one_has_the_name(
    scene: Scene, caplog: pytest.LogCaptureFixture
) -> None:
    """The catalog has one place for both: each in turn was failed for the silence of the other."""
    first, second = client(1, name="Web1"), client(2, name="web1")
    scene.membership.joined(first)
    scene.gossip(first, "alive")
    for standing in ("alive", "failed", "left"):
        scene.membership.joined(second)
        scene.gossip(second, standing)
        for _ in range(2 * FAILED_AFTER_MS // 1_000):
            scene.membership.joined(first)
            scene.pass_ms(1_000)
    assert scene.one.value(NodeInfo("web1")).node.id == first.id
    assert scene.health("web1") == "passing"
    assert len(scene.proposed) == 1
    (told,) = [record.getMessage() for record in caplog.records if "name taken" in record.message]
    assert f"node=web1 address={second.address} id={second.id} holder={first.address} (id {first.id})" in told


def test_a_host_whose_name_came_back_in_other_letters_is_in_as_soon_as_any_that_was_wiped(
    scene: Scene,
) -> None:
    """It was failed for good, by gossip's memory of the name as it was."""
    former = client(1, name="WEB1", id="10000001-9999-4000-8000-000000000000")
    scene.membership.joined(former)
    scene.gossip(former, "failed")
    scene.gossip(client(1), "alive")
    for _ in range((FAILED_AFTER_MS + FAIL_AGAIN_MS) // 1_000):
        scene.membership.joined(client(1))
        scene.pass_ms(1_000)
    scene.membership.joined(client(1))
    node = scene.one.value(NodeInfo("web1")).node
    assert (node.id, node.node, scene.health("web1")) == (client(1).id, "web1", "passing")
    proposed = len(scene.proposed)
    scene.membership = scene.new_leader()
    scene.membership.begin()
    scene.pass_ms(2 * RECONCILE_EVERY_MS)
    assert (scene.health("web1"), len(scene.proposed)) == ("passing", proposed)


def test_a_host_that_writes_its_name_in_other_letters_is_the_same_one(scene: Scene) -> None:
    scene.membership.joined(client(1, name="WEB1"))
    scene.pass_ms(FAILED_AFTER_MS // 2)
    scene.membership.joined(client(1))
    assert scene.one.value(NodeInfo("web1")).node.node == "web1"
    scene.pass_ms(FAILED_AFTER_MS - 100)
    assert scene.health("web1") == "passing"
    scene.pass_ms(100)
    assert scene.health("web1") == "critical"
