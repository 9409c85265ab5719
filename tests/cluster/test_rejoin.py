"""Agents that were joined by hand find each other again by themselves: real processes, ended in every way."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.cluster import PYTHON, Agent, Cluster, free_ports, wait_for
from support.one_agent import CLIENT, DEV, running

from gemot.agent.client.connection import ClientError
from gemot.agent.gossip.keyring import Key
from gemot.agent.gossip.remembered import FILE

PATIENCE_S = 90.0
KEY = Key(bytes(range(32))).text


@pytest.fixture(params=["", KEY], ids=["in clear", "sealed"])
def cluster(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Cluster]:
    """One server and two clients, none of which is told of any other in its configuration."""
    sealing = {"encrypt": request.param} if request.param else {}
    cluster = Cluster(
        tmp_path, servers=1, clients=2, config={"retry_join": [], "retry_interval": "1s", **sealing}
    )
    try:
        for agent in cluster.agents:
            agent.start()
        _await(cluster, lambda: all(_alive(agent) == 1 for agent in cluster.agents), "all stand alone")
        server, *clients = cluster.agents
        for client in clients:
            _run("join", client, f"{server.host}:{server.ports['serf_lan']}")
        _await(cluster, lambda: all(_alive(agent) == 3 for agent in cluster.agents), "all know all")
        _await(cluster, lambda: all(len(_kept(agent)) == 2 for agent in cluster.agents), "all remember all")
        yield cluster
    finally:
        cluster.stop()


def _run(command: str, agent: Agent, *words: str) -> None:
    argv = [PYTHON, "-m", "gemot.agent", command, "-http-addr", agent.http, *words]
    subprocess.run(argv, capture_output=True, text=True, check=True, timeout=PATIENCE_S)


def _await(cluster: Cluster, condition: object, what: str) -> None:
    wait_for(condition, PATIENCE_S, what, cluster.agents)  # type: ignore[arg-type]


def _alive(agent: Agent) -> int:
    """How many it holds for alive, itself among them."""
    try:
        return sum(each["Status"] == 1 for each in agent.get("/v1/agent/members"))
    except ClientError:
        return 0


def _kept(agent: Agent) -> list[str]:
    file = agent.directory / "data" / FILE
    return [each["name"] for each in json.loads(file.read_bytes())["members"]] if file.exists() else []


def _in_service(agent: Agent) -> bool:
    """It is among the others, and the servers answer it."""
    return _alive(agent) == 3 and bool(agent.get("/v1/status/leader"))


def test_all_that_were_killed_are_one_cluster_again(cluster: Cluster) -> None:
    """As after a loss of power everywhere: nobody is left who would look for the others."""
    for agent in cluster.agents:
        agent.kill()
    for agent in reversed(cluster.agents):
        agent.start()
    _await(cluster, lambda: all(_in_service(agent) for agent in cluster.agents), "all are back")


def test_one_that_is_started_twice_while_the_others_are_away_finds_them(cluster: Cluster) -> None:
    server, one, other = cluster.agents
    for agent in cluster.agents:
        agent.kill()
    one.start()
    _await(cluster, lambda: _alive(one) == 1, "it stands alone")
    waiting = one.stats()["tier"]["waiting"]
    assert "none of 2 members of before the restart has answered" in waiting
    one.kill()
    assert _kept(one) == ["srv1", "web2"]
    for agent in (one, server, other):
        agent.start()
    _await(cluster, lambda: all(_in_service(agent) for agent in cluster.agents), "all are back")


def test_who_left_stands_alone_unless_it_is_to_rejoin(cluster: Cluster) -> None:
    server, stays, comes = cluster.agents
    stays.write_config(leave_on_terminate=True)
    comes.write_config(rejoin_after_leave=True)
    for agent in (stays, comes):
        agent.stop()
        agent.start()
    _await(cluster, lambda: all(_in_service(agent) for agent in cluster.agents), "all are back")
    _await(cluster, lambda: all(len(_kept(agent)) == 2 for agent in cluster.agents), "all remember all")

    stays.stop()
    _await(cluster, lambda: _alive(server) == 2, "the others are two")
    assert _kept(stays) == []
    stays.start()
    _await(cluster, lambda: _alive(stays) == 1, "it stands alone")

    _run("leave", comes)
    comes.wait()
    assert _kept(comes) == ["srv1"], "who left before is not waited for"
    comes.start()
    _await(cluster, lambda: _alive(comes) == _alive(server) == 2, "who is to rejoin is back")
    assert _alive(stays) == 1, "nobody looked for who has left"


def test_a_server_that_was_damaged_in_what_it_remembers_goes_on(cluster: Cluster) -> None:
    """The file decides nothing but whom it asks."""
    server = cluster.servers[0]
    for agent in cluster.agents:
        agent.kill()
    file = server.directory / "data" / FILE
    file.write_bytes(damaged := b'{"format": 1, "memb')
    for agent in cluster.agents:
        agent.start()
    _await(cluster, lambda: all(_in_service(agent) for agent in cluster.agents), "the others find it")
    assert server.log.read_text().count("who was in the cluster is not known any more") == 1
    _await(cluster, lambda: file.read_bytes() != damaged, "it is written anew")
    _await(cluster, lambda: len(_kept(server)) == 2, "it remembers anew")


def test_one_that_rejoins_is_not_told_again_what_it_was_told(cluster: Cluster) -> None:
    """Lamport times are not remembered: the ages of events do it (`agent/user_events.py`)."""
    server, one, other = cluster.agents
    for number in range(3):
        _run("event", server, f"-name=old-{number}")
    _await(cluster, lambda: all(len(_events(agent)) == 3 for agent in cluster.agents), "all heard it")
    for agent in (one, other):
        agent.kill()
    for agent in (one, other):
        agent.start()
    _await(cluster, lambda: all(_in_service(agent) for agent in cluster.agents), "all are back")
    _run("event", one, "-name=new")
    _await(cluster, lambda: len(_events(server)) == 4, "the old ones heard the new one")
    _await(cluster, lambda: all(_events(agent) for agent in (one, other)), "the new ones, too")
    assert _events(one) == _events(other) == ["new"]


def _events(agent: Agent) -> list[str]:
    return [each["Name"] for each in agent.get("/v1/event/list")]


def test_an_agent_without_a_directory_of_its_own_keeps_nothing(tmp_path: Path) -> None:
    """`-dev` alone. The other one, which it meets, does."""
    ports = free_ports("127.0.0.1")
    config = {"node_name": "dev", "bind_addr": "127.0.0.1", "ports": ports}
    (tmp_path / "dev.json").write_text(json.dumps(config))
    (tmp_path / "temporary").mkdir()
    argv = [*DEV, f"-config-file={tmp_path / 'dev.json'}"]
    environ = os.environ | {"TMPDIR": str(tmp_path / "temporary")}
    with subprocess.Popen(argv, env=environ, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as dev:
        try:
            join = [f"127.0.0.1:{ports['serf_lan']}"]
            with running(tmp_path, program=CLIENT, retry_join=join) as other:
                wait_for(lambda: _kept(other) == ["dev"], PATIENCE_S, "it remembers the other", [other])
                (data,) = (tmp_path / "temporary").glob("gemot-dev-*")
                assert (data / "node-id").exists()
                assert not (data / "serf").exists()
        finally:
            dev.terminate()
            dev.wait(PATIENCE_S)
