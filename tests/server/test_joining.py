"""The way into a cluster that exists: who is asked, who is refused, and what is said meanwhile."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from support.members import client, server

from gemot.server.hearsay import MOST, Hearsay
from gemot.server.joining import KNOWN, Joining
from gemot.server.model.errors import Conflict, NotLeader, Unavailable
from gemot.server.rpc.message import Call, Enlist, Enlisted, Member


class Scene:
    """A new server, number 9; `answers` has what each server it asks says."""

    def __init__(self) -> None:
        self.belongs = ""
        self.asked: list[str] = []
        self.answers: dict[str, Any] = {}
        self.hearsay = Hearsay(server(9))
        self.joining = Joining(
            me=server(9),
            may=lambda: not self.belongs,
            call=self._call,
            adopt=self._adopt,
            hearsay=self.hearsay.servers,
        )

    def _call(self, to: Member, call: Call, done: Callable[[Any], None]) -> None:
        assert call == Enlist()
        self.asked.append(to.name)
        done(self.answers.get(to.name, NotLeader("")))

    def _adopt(self, cluster: str) -> None:
        self.belongs = cluster


def test_without_a_cluster_to_join_nobody_is_asked() -> None:
    scene = Scene()
    scene.joining.met((server(1), server(9)), "")
    scene.joining.on_second()
    assert scene.asked == []
    assert not scene.joining.begun
    assert scene.joining.waiting_for == ""


def test_every_server_is_asked_until_the_leader_answers() -> None:
    scene = Scene()
    scene.joining.met((server(1), server(2), server(9)), "c1")
    scene.joining.on_second()
    assert scene.asked == ["srv1", "srv2"]
    assert scene.joining.begun, "so no cluster is founded here"
    assert "the cluster of srv1, srv2: its leader has not answered" in scene.joining.waiting_for
    scene.answers["srv2"] = Enlisted("c1")
    scene.joining.on_second()
    assert scene.belongs == "c1"
    scene.joining.on_second()
    assert len(scene.asked) == 4, "who belongs asks no more"
    assert not scene.joining.begun
    assert scene.joining.waiting_for == ""


def test_who_heard_of_the_servers_from_a_client_agent_is_told_the_cluster_by_the_leader() -> None:
    scene = Scene()
    scene.answers["srv1"] = Enlisted("c1")
    scene.joining.met((server(1),), KNOWN)
    assert not scene.joining.begun, "they may not have founded one yet, and wait for this server to do so"
    assert scene.joining.waiting_for == ""
    scene.joining.on_second()
    assert scene.belongs == "c1"


def test_a_refusal_is_told_and_asked_again() -> None:
    scene = Scene()
    scene.answers["srv1"] = Conflict("id 9 is among the voters")
    scene.joining.met((server(1), server(2)), "c1")
    scene.joining.on_second()
    assert scene.joining.waiting_for == "Waiting to join: srv1: id 9 is among the voters"
    scene.answers["srv1"] = Unavailable("broke")
    scene.joining.on_second()
    assert scene.joining.waiting_for == "Waiting to join: srv1: broke"
    assert scene.belongs == ""


def test_two_clusters_in_one_retry_join_are_told_and_none_is_joined() -> None:
    scene = Scene()
    scene.answers["srv1"] = Enlisted("c1")
    scene.joining.met((server(1),), "c1")
    scene.joining.met((server(2),), "c2")
    scene.joining.on_second()
    assert scene.asked == []
    assert "different clusters (srv1 to c1, srv2 to c2)" in scene.joining.waiting_for


def test_who_is_merely_heard_of_is_asked_and_who_failed_no_more() -> None:
    scene = Scene()
    for member in (server(1), server(2), server(9), client(3)):
        scene.hearsay.hear(member, lives=True)
    scene.hearsay.hear(server(1), lives=False)
    scene.joining.on_second()
    assert scene.asked == ["srv2"]
    assert not scene.joining.begun, "a cluster may be founded still"
    scene.answers["srv2"] = Enlisted("c1")
    scene.joining.on_second()
    assert scene.belongs == "c1"


def test_however_many_are_invented_few_are_asked() -> None:
    scene = Scene()
    for number in range(10 * MOST):
        scene.hearsay.hear(server(1, id=f"{number:036}", name=f"srv{number}"), lives=True)
    scene.joining.on_second()
    assert scene.asked == [f"srv{number}" for number in range(9 * MOST, 10 * MOST)]
