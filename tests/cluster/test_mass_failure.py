"""Many real hosts silent at once: they stay in the answers, marked, and go when it lasts."""

from __future__ import annotations

import signal
import subprocess
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from support.cluster import PYTHON, Agent, Cluster, wait_for
from support.session_cluster import can_begin

from gemot.server.serf_health import ALIVE_OUTPUT, FAILED_OUTPUT, SUSPECT_OUTPUT

GUARD = {"percent": 40, "least": 3, "window": "60s", "hold": "40s"}
PERFORMANCE = {"raft_multiplier": 3}
"""One leader for all of it, as long as nobody stands still for three seconds: another one has no suspects."""


def _told(agent: Agent, *words: str) -> str:
    command = [PYTHON, "-m", "gemot.agent", *words, "-http-addr", agent.http]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def _outputs(agent: Agent, clients: list[Agent]) -> set[str]:
    names = {client.name for client in clients}
    checks = agent.get("/v1/health/state/any")
    return {c["Output"] for c in checks if c["CheckID"] == "serfHealth" and c["Node"] in names}


def _sessions(agent: Agent) -> set[str]:
    return {session["ID"] for session in agent.get("/v1/session/list")}


@pytest.fixture
def cluster(tmp_path: Path) -> Any:
    cluster = Cluster(
        tmp_path, servers=3, clients=3, config={"mass_failure": GUARD, "performance": PERFORMANCE}
    )
    for client in cluster.clients:
        client.write_config(services=[{"name": "web", "port": 80}])
    try:
        cluster.start()
        yield cluster
    finally:
        cluster.stop()


def test_three_clients_of_six_hosts_stop(cluster: Cluster) -> None:
    server, clients = cluster.leader(), cluster.clients

    def passing() -> int:
        return len(server.get("/v1/health/service/web", passing=True))

    def until(condition: Callable[[], Any], what: str) -> None:
        wait_for(condition, 180.0, what, cluster.agents)

    until(lambda: passing() == 3 and _outputs(server, clients) == {ALIVE_OUTPUT}, "all are there")
    until(lambda: can_begin(clients[0]), "a session can begin")
    with_ttl = clients[0].put("/v1/session/create", {"TTL": "10s"})["ID"]
    without = clients[0].put("/v1/session/create")["ID"]
    for client in clients:
        client.signal(signal.SIGSTOP)
    until(lambda: _outputs(server, clients) == {SUSPECT_OUTPUT}, "all are suspect")
    until(lambda: _sessions(server) == {without}, "the one that nobody renews has ended by its TTL")
    assert with_ttl != without
    assert passing() == 3
    assert "Suspect  3 unreachable hosts are kept in service" in _told(server, "status")
    assert "is in the answers though web1 is unreachable" in _told(server, "why", "service", "web")
    with closing(server.connect()) as connection:
        metrics = connection.request("GET", "/metrics").body.decode()
    assert "gemot_mass_failure_suspects 3.0" in metrics
    until(lambda: _outputs(server, clients) == {FAILED_OUTPUT}, "it lasts: all have failed")
    assert passing() == 0
    until(lambda: _sessions(server) == set(), "the guard keeps no session longer than its host")
    for client in clients:
        client.signal(signal.SIGCONT)
    until(lambda: passing() == 3 and _outputs(server, clients) == {ALIVE_OUTPUT}, "all are back")
    assert server.log.read_text().count("mass failure: ") >= 1
