"""`gemot rtt` where an agent tells no place."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from support.cluster import Cluster, wait_for
from support.dev_agent import PATIENCE_S, Shell


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """A server, and a client that measures nothing."""
    cluster = Cluster(tmp_path_factory.mktemp("rtt"), servers=1, clients=1)
    cluster.clients[0].write_config(disable_coordinates=True)
    try:
        cluster.start()
        members = lambda: len(cluster.servers[0].get("/v1/agent/members")) == 2  # noqa: E731
        wait_for(members, PATIENCE_S, "both are here", cluster.agents)
        yield cluster
    finally:
        cluster.stop()


def test_an_agent_without_a_place_is_told_from_one_that_is_nowhere(cluster: Cluster, tmp_path: Path) -> None:
    gemot = Shell(cluster.servers[0].http, tmp_path)
    here, nobody = gemot("rtt", "web1"), gemot("rtt", "x" * 500)
    head = 'Error: Could not find a coordinate for node "'
    assert here.err == (
        f'{head}web1": it has told none yet. An agent does half a minute after it has come, unless its '
        "disable_coordinates is set: try again then\n"
    )
    assert nobody.err == f'{head}{"x" * 128}": no agent has that name. Those there are: gemot members\n'
    assert (here.code, nobody.code) == (1, 1)


@pytest.mark.parametrize("words", [("srv1",), ("-wan", "srv1.dc1")])
def test_an_agent_that_measures_nothing_says_so_when_it_is_asked(
    words: tuple[str, ...], cluster: Cluster, tmp_path: Path
) -> None:
    done = Shell(cluster.clients[0].http, tmp_path)("rtt", *words)
    assert done.code == 1
    assert done.err == (
        "Error: Coordinate support disabled on the agent that was asked: its disable_coordinates is set. "
        "Take it out there, or name another agent with -http-addr\n"
    )
