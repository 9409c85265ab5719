"""Servers that nobody told of each other: one word of an operator, and gossip does the rest."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.cluster import PYTHON, Agent, Cluster, wait_for

from gemot.agent.client.connection import ClientError

PATIENCE_S = 90.0


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    """Three servers and a client; who is started, and whom it is told of, is each test's."""
    cluster = Cluster(tmp_path, servers=3, clients=1, config={"retry_join": []})
    try:
        yield cluster
    finally:
        cluster.stop()


def _start(cluster: Cluster, *agents: Agent) -> None:
    for agent in agents:
        agent.start()
    wait_for(lambda: all(_answers(agent) for agent in agents), PATIENCE_S, "all answer", cluster.agents)


def _answers(agent: Agent) -> bool:
    try:
        return bool(agent.get("/v1/agent/members"))
    except ClientError:
        return False


def _join(agent: Agent, *others: Agent) -> str:
    addresses = [f"{other.host}:{other.ports['serf_lan']}" for other in others]
    command = [PYTHON, "-m", "gemot.agent", "join", "-http-addr", agent.http, *addresses]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def _voters(agent: Agent) -> set[str]:
    servers = agent.get("/v1/operator/raft/configuration")["Servers"]
    return {server["Node"] for server in servers if server["Voter"]}


def test_servers_found_a_cluster_after_gemot_join(cluster: Cluster) -> None:
    _start(cluster, *cluster.servers)
    first, *others = cluster.servers
    assert first.get("/v1/status/leader") == ""
    assert "Waiting for servers: have 1 of 3" in first.stats()["tier"]["waiting"]
    assert _join(first, *others) == "Successfully joined cluster by contacting 2 nodes.\n"
    leader = cluster.leader(PATIENCE_S)
    assert _voters(leader) == {"srv1", "srv2", "srv3"}


def test_a_server_that_a_client_is_told_of_joins_and_votes(cluster: Cluster) -> None:
    """It asks for nothing itself: it hears by gossip which servers there are."""
    *founders, fourth = cluster.servers
    (client,) = cluster.clients
    for server in founders:
        server.write_config(bootstrap_expect=2, autopilot={"server_stabilization_time": "1s"})
    fourth.write_config(bootstrap_expect=0)
    _start(cluster, *cluster.agents)
    _join(founders[0], founders[1], client)
    wait_for(lambda: founders[0].get("/v1/status/leader") or None, PATIENCE_S, "a leader", cluster.agents)
    assert "no server met has one" in fourth.stats()["tier"]["waiting"]
    _join(client, fourth)
    wait_for(lambda: "srv3" in _voters(founders[0]), PATIENCE_S, "its vote", cluster.agents)
    assert fourth.get("/v1/status/leader") == founders[0].get("/v1/status/leader")
