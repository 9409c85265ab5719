"""Two hosts of one name, as processes: who is refused hears of it, and gets nothing of the one that died."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.cluster import PATIENCE_S, Agent, Cluster, wait_for
from support.dev_agent import Shell


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    cluster = Cluster(tmp_path, servers=1, clients=2)
    first, second = cluster.clients
    first.write_config(services=[{"name": "db", "port": 5432}])
    second.write_config(node_name=first.name, services=[{"name": "web", "port": 80}])
    try:
        yield cluster
    finally:
        cluster.stop()


def services_at(server: Agent, name: str) -> dict[str, str]:
    """Address by the id of each service of this node that is healthy."""
    rows: list[dict[str, Any]] = [
        row
        for service in ("db", "web")
        for row in server.get(f"/v1/health/service/{service}", passing="1")
        if row["Node"]["Node"] == name
    ]
    return {row["Service"]["ID"]: row["Node"]["Address"] for row in rows}


def test_a_host_is_told_that_its_name_is_taken_and_gets_it_empty_once_the_holder_died(
    cluster: Cluster, tmp_path: Path
) -> None:
    (server,), (first, second) = cluster.servers, cluster.clients
    name = first.name

    def until(condition: Any, what: str) -> None:
        wait_for(condition, PATIENCE_S, what, cluster.agents)

    def status() -> str:
        return Shell(second.http, tmp_path)("status").out

    for agent in (server, first):
        agent.start()
    until(lambda: services_at(server, name) == {"db": first.host}, "the first one's service")
    second.start()
    until(
        lambda: f"is reserved by node {first.get('/v1/agent/self')['Config']['NodeID']}" in status(), "told"
    )
    assert services_at(server, name) == {"db": first.host}
    first.kill()
    seen: list[dict[str, str]] = []

    def passed_on() -> bool:
        seen.append(services_at(server, name))
        return seen[-1] == {"web": second.host}

    until(passed_on, "the second one's service")
    assert {"db": second.host} not in seen, "what the first one ran is not where the second one is"
    assert all(len(services) < 2 for services in seen)
    assert "Refused" not in status()
    assert f"server: name passed on: node={name} address={second.host}" in server.log.read_text()
