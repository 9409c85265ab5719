"""Gossip among real agents: who falls silent is missed by all, who only pauses is not, leaders or not.

A stopped process (SIGSTOP) is as silent as a host whose cable was pulled: nothing resets its connections.
"""

from __future__ import annotations

import re
import signal
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from support.cluster import Agent, Cluster, wait_for

from gemot.agent.client.connection import ClientError

PATIENCE_S = 90.0
NO_FAILURE_S = 3.0
"""A pause to which every member answers in time: a probe's interval and the least suspicion are longer."""

ALIVE, LEFT, FAILED = 1, 3, 4


class Stage:
    def __init__(self, folder: Path) -> None:
        self.cluster = Cluster(folder, servers=3, clients=3)
        self.web = self.cluster.clients[1]
        self.web.write_config(services=[{"name": "web", "port": 80}])

    def until(self, condition: Callable[[], Any], what: str) -> Any:
        return wait_for(condition, PATIENCE_S, what, self.cluster.agents)

    def all_hold(self, of: Agent, status: int | None) -> bool:
        return all(
            statuses(agent).get(of.name) == status
            for agent in self.cluster.agents
            if agent.running and agent is not of
        )

    def await_whole(self) -> None:
        self.until(
            lambda: all(self.all_hold(agent, ALIVE) for agent in self.cluster.agents), "all in all lists"
        )


def statuses(agent: Agent) -> dict[str, int]:
    return {one["Name"]: one["Status"] for one in agent.get("/v1/agent/members")}


def passing(agent: Agent) -> list[str]:
    return [row["Node"]["Node"] for row in agent.get("/v1/health/service/web", passing=True)]


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    stage = Stage(tmp_path_factory.mktemp("gossip"))
    try:
        stage.cluster.start()
        stage.await_whole()
        stage.until(lambda: passing(stage.cluster.servers[0]) == [stage.web.name], "the service")
        yield stage
    finally:
        stage.cluster.stop()


def test_a_host_that_falls_silent_is_missed_in_every_list_and_its_services_are_gone(stage: Stage) -> None:
    stage.web.signal(signal.SIGSTOP)
    try:
        stage.until(lambda: stage.all_hold(stage.web, FAILED), "it has failed in every list")
        stage.until(lambda: passing(stage.cluster.servers[0]) == [], "its services are gone")
    finally:
        stage.web.signal(signal.SIGCONT)
    stage.until(lambda: passing(stage.cluster.servers[0]) == [stage.web.name], "it is back")
    stage.await_whole()


def test_metrics_tell_how_many_members_there_are_and_what_was_dropped(stage: Stage) -> None:
    with socket.socket(type=socket.SOCK_DGRAM) as stranger:
        stranger.sendto(b"hello", (stage.web.host, stage.web.ports["serf_lan"]))

    def told() -> bool:
        with closing(stage.web.connect()) as connection:
            text = connection.request("GET", "/metrics").body.decode()
        members = 'gemot_members{status="alive"} 6.0' in text
        return members and 'gemot_gossip_dropped_total{why="stranger"} 1.0' in text

    stage.until(told, "six members, and one stranger's datagram")


def test_a_pause_of_two_seconds_is_no_failure(stage: Stage) -> None:
    """Of a client agent and of the leader; whoever paused takes nobody else for failed either."""
    for victim in ("a client", "the leader"):
        assert any(unharmed(stage, victim) for _ in range(5)), "this machine makes no pause as short as that"


def unharmed(stage: Stage, victim: str) -> bool:
    """Whether it paused so shortly that nobody may take it for failed; then nobody has."""
    stage.await_whole()
    paused = stage.web if victim == "a client" else stage.cluster.leader()
    before = {agent.name: failures(agent) for agent in stage.cluster.agents}
    began = time.monotonic()
    paused.signal(signal.SIGSTOP)
    time.sleep(2.0)
    paused.signal(signal.SIGCONT)
    took_s = time.monotonic() - began
    stage.await_whole()
    if took_s >= NO_FAILURE_S:
        return False
    assert {agent.name: failures(agent) for agent in stage.cluster.agents} == before
    return True


def failures(agent: Agent) -> list[str]:
    return re.findall(r"gossip: member failed: node=(\S+)", agent.log.read_text())


def test_a_good_bye_is_no_failure_and_takes_the_node_out(stage: Stage) -> None:
    gone = stage.cluster.clients[2]
    before = failures(stage.cluster.servers[0]).count(gone.name)
    with closing(gone.connect(timeout_s=PATIENCE_S)) as connection:
        connection.request("PUT", "/v1/agent/leave")
    gone.wait()
    stage.until(lambda: stage.all_hold(gone, LEFT), "it has left in every list")
    assert gone.name not in [row["Node"] for row in stage.cluster.servers[0].get("/v1/catalog/nodes")]
    assert failures(stage.cluster.servers[0]).count(gone.name) == before
    gone.start()
    stage.await_whole()


def test_all_processes_killed_at_once_find_each_other_again(stage: Stage) -> None:
    for agent in stage.cluster.agents:
        agent.kill()
    for agent in stage.cluster.agents:
        agent.start()
    stage.cluster.leader()
    stage.await_whole()
    stage.until(lambda: passing(stage.cluster.servers[0]) == [stage.web.name], "the service")


def test_the_first_server_learns_of_the_others_though_it_was_told_of_nobody(stage: Stage) -> None:
    """A server without `retry_join` that begins anew: those who know it tell it who there is."""
    first = next(server for server in stage.cluster.servers if server is not stage.cluster.leader())
    first.kill()
    first.write_config(retry_join=[])
    first.start()

    def knows_all() -> bool:
        try:
            return len([each for each in statuses(first).values() if each == ALIVE]) == 6
        except ClientError:
            return False

    stage.until(knows_all, "it knows all")
