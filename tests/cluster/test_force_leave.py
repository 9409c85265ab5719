"""`gemot join` and `gemot force-leave` on real agents: whom they meet, who goes, and what goes with it."""

from __future__ import annotations

import re
import signal
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from support.cluster import Agent, Cluster, wait_for
from support.dev_agent import Ended, Shell

PATIENCE_S = 90.0
QUICK = {"probe_interval": "300ms", "probe_timeout": "150ms", "gossip_interval": "50ms"}
ALIVE, LEFT, FAILED = 1, 3, 4


class Stage:
    """Three servers and three clients. Autopilot takes no vote by itself."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        config = {"gossip_lan": QUICK, "retry_interval": "1s", "autopilot": {"cleanup_dead_servers": False}}
        self.cluster = Cluster(folder, servers=3, clients=3, config=config)
        self.agents = self.cluster.agents
        self.web = self.cluster.clients[0]
        self.web.write_config(services=[{"name": "web", "port": 80}])

    def gemot(self, of: Agent, *words: str) -> Ended:
        return Shell(of.http, self.folder)(*words)

    def until(self, condition: Callable[[], Any], what: str) -> Any:
        return wait_for(condition, PATIENCE_S, what, self.agents)

    def all_hold(self, of: Agent, status: int | None) -> bool:
        others = [agent for agent in self.agents if agent.running and agent is not of]
        return all(statuses(agent).get(of.name) == status for agent in others)

    def await_all(self, of: Agent, status: int | None) -> None:
        self.until(lambda: self.all_hold(of, status), f"{of.name} is {status} in every list")

    def whole(self) -> None:
        for agent in self.agents:
            self.await_all(agent, ALIVE)


def statuses(agent: Agent) -> dict[str, int]:
    return {one["Name"]: one["Status"] for one in agent.get("/v1/agent/members")}


def nodes(agent: Agent) -> list[str]:
    return [row["Node"] for row in agent.get("/v1/catalog/nodes")]


def voters(agent: Agent) -> list[str]:
    return [s["Node"] for s in agent.get("/v1/operator/raft/configuration")["Servers"] if s["Voter"]]


def put(agent: Agent, path: str, **params: Any) -> tuple[int, str, str]:
    with closing(agent.connect(timeout_s=PATIENCE_S)) as connection:
        reply = connection.request("PUT", path, params=params, ok=(200, 400, 404, 500))
    return reply.status, reply.body.decode(), reply.headers.get("x-gemot-done", "")


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    stage = Stage(tmp_path_factory.mktemp("force-leave"))
    try:
        stage.cluster.start()
        stage.whole()
        stage.until(lambda: stage.web.name in nodes(stage.agents[0]), "the node")
        yield stage
    finally:
        for agent in stage.agents:
            if agent.running:
                agent.signal(signal.SIGCONT)
        stage.cluster.stop()


def test_one_that_is_alive_is_refused_wherever_it_is_asked(stage: Stage) -> None:
    for asked in (stage.cluster.servers[0], stage.cluster.clients[1], stage.web):
        done = stage.gemot(asked, "force-leave", stage.web.name)
        assert done.code == 1
        # The second is told of one who stood still for two seconds.
        signs = r"\((it gossips|a server has a connection to it)\)"
        assert re.search(f"web1 is alive {signs}, and would come straight back", done.err), done.err
        assert "gemot leave" in done.err
    stage.await_all(stage.web, ALIVE)


@pytest.mark.parametrize("name", ["nobody", "web1.dc1", "a b", "ä", "x" * 300])
def test_a_name_that_nobody_has_is_consuls_error(stage: Stage, name: str) -> None:
    for asked in (stage.cluster.servers[0], stage.cluster.clients[1]):
        status, text, _ = put(asked, f"/v1/agent/force-leave/{quote(name)}")
        assert (status, text) == (500, f"agent: No node found with name '{name}'")


@pytest.mark.parametrize("path", ["/v1/agent/force-leave/web1", "/v1/agent/join/127.0.0.1"])
def test_there_is_no_wide_area_pool(stage: Stage, path: str) -> None:
    status, text, _ = put(stage.agents[0], path, wan=1)
    assert status == 500
    assert "there is no WAN pool here" in text
    command = ["force-leave", "-wan", "web1"] if "force" in path else ["join", "-wan", "127.0.0.1"]
    done = stage.gemot(stage.agents[0], *command)
    assert done.code == 1
    assert "there is no WAN pool here" in done.err


def test_a_client_that_failed_becomes_left_and_its_services_go(stage: Stage) -> None:
    server, other = stage.cluster.servers[0], stage.cluster.clients[1]
    stage.web.kill()
    stage.await_all(stage.web, FAILED)
    done = stage.gemot(other, "force-leave", stage.web.name)
    assert (done.code, done.err) == (0, "")
    assert done.out == ("web1 has left: its node is out of the catalog, with 1 service and 1 check\n"), (
        "`web`, and serfHealth"
    )
    stage.await_all(stage.web, LEFT)
    assert stage.web.name not in nodes(server)
    again = stage.gemot(server, "force-leave", stage.web.name)
    assert (again.code, again.out) == (0, "web1 had left already\n")
    status, text, told = put(server, "/v1/agent/force-leave/web1", prune=True)
    assert (status, text) == (200, "")
    assert told == "web1 had left already, and is erased from every list"
    stage.await_all(stage.web, None)
    stage.web.start()
    stage.whole()
    stage.until(lambda: stage.web.name in nodes(server), "it is a member again")


def test_pruned_at_once_it_stands_in_no_list(stage: Stage) -> None:
    gone = stage.cluster.clients[2]
    gone.kill()
    stage.await_all(gone, FAILED)
    done = stage.gemot(stage.cluster.servers[1], "force-leave", "-prune", gone.name)
    assert done.out.startswith(f"{gone.name} is erased from every list: its node is out of the catalog")
    stage.await_all(gone, None)
    assert gone.name not in nodes(stage.cluster.servers[0])
    gone.start()
    stage.whole()


def test_of_a_server_the_vote_goes_too(stage: Stage) -> None:
    leader = stage.cluster.leader()
    gone = next(server for server in stage.cluster.servers if server is not leader)
    gone.kill()
    stage.await_all(gone, FAILED)
    done = stage.gemot(stage.web, "force-leave", gone.name)
    assert (done.code, done.err) == (0, "")
    assert done.out.startswith(f"{gone.name} has left: its vote is taken; its node is out of the catalog")
    assert gone.name not in voters(leader)
    assert gone.name not in nodes(leader)
    gone.start()
    stage.whole()
    stage.until(lambda: gone.name in voters(leader), "it votes again, having been a learner")


def test_without_a_quorum_nothing_is_changed(stage: Stage) -> None:
    leader = stage.cluster.leader()
    stopped = [server for server in stage.cluster.servers if server is not leader]
    for server in stopped:
        server.kill()
    for server in stopped:
        stage.await_all(server, FAILED)
    done = stage.gemot(stage.web, "force-leave", stopped[0].name)
    assert done.code == 1
    assert any(why in done.err for why in ("No cluster leader", "without ", "No known server answers"))
    assert stage.all_hold(stopped[0], FAILED)
    for server in stopped:
        server.start()
    stage.whole()
    stage.cluster.leader()
    assert len(voters(leader)) == 3


def test_agents_that_were_told_of_nobody_meet_by_join(stage: Stage) -> None:
    lonely = stage.cluster.clients[2]
    lonely.stop()
    lonely.write_config(retry_join=[])
    stage.await_all(lonely, FAILED)
    stage.gemot(stage.agents[0], "force-leave", "-prune", lonely.name)
    stage.await_all(lonely, None)
    lonely.start()
    stage.until(lambda: lonely.get("/v1/agent/self"), "it runs")
    target = stage.cluster.clients[1]
    place = f"{target.host}:{target.ports['serf_lan']}"
    failed = stage.gemot(lonely, "join", "127.0.0.1:1", "no.such.host.invalid", "not:a:place")
    assert failed.code == 1
    assert failed.out == ""
    assert "Error joining address '127.0.0.1:1': Failed to join 127.0.0.1:1: " in failed.err
    assert "Error joining address 'no.such.host.invalid': Failed to resolve" in failed.err
    assert failed.err.endswith("Failed to join any nodes.\n")
    done = stage.gemot(lonely, "join", "127.0.0.1:1", place)
    assert done.code == 0
    assert done.out == "Successfully joined cluster by contacting 1 nodes.\n"
    stage.whole()
    stage.until(lambda: nodes(lonely), "it has found the servers")
    assert put(lonely, f"/v1/agent/join/{place}") == (200, "", "contacted 1")


def test_a_client_that_asks_for_it_is_forgotten_by_itself_and_its_node_goes(stage: Stage) -> None:
    """`advertise_reconnect_timeout`: without it that takes three days."""
    brief = stage.cluster.clients[2]
    brief.stop()
    brief.write_config(advertise_reconnect_timeout="2s", retry_join=stage_join(stage))
    brief.start()
    stage.whole()
    stage.until(lambda: brief.name in nodes(stage.agents[0]), "its node")
    brief.kill()
    stage.await_all(brief, None)
    stage.until(lambda: brief.name not in nodes(stage.agents[0]), "its node is gone")


def stage_join(stage: Stage) -> list[str]:
    return [f"{server.host}:{server.ports['serf_lan']}" for server in stage.cluster.servers]
