"""Three servers and two clients on which sessions can begin, with a TTL of a second and more."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from support.cluster import Agent, Cluster, wait_for

from gemot.agent.client.connection import Refused

PATIENCE_S = 90.0


@contextmanager
def session_cluster(folder: Path) -> Iterator[Cluster]:
    cluster = Cluster(folder, servers=3, clients=2)
    for agent in cluster.agents:
        agent.write_config(session_ttl_min="1s")
    try:
        cluster.start()
        wait_for(lambda: all(map(can_begin, cluster.agents)), PATIENCE_S, "a session of each", cluster.agents)
        yield cluster
    finally:
        cluster.stop()


def can_begin(agent: Agent) -> bool:
    """Its node is in the catalog, and every server has said that it knows sessions."""
    try:
        agent.put(f"/v1/session/destroy/{agent.put('/v1/session/create')['ID']}")
    except Refused:
        return False
    return True
