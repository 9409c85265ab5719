"""Network coordinates among real agents: found by probes, told to all servers; what is sorted by them."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from support.cluster import Agent, Cluster, wait_for

PATIENCE_S = 90.0
KNOWS_NOTHING = 1.5
"""The error of a coordinate that has measured nothing."""

FAR = {"near": 0.7, "farther": 1.4, "farthest": 9.9}
"""Hosts without an agent, and where they stand: farther than a busy machine makes its own seem."""


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    cluster = Cluster(tmp_path_factory.mktemp("coordinates"), servers=3, clients=1)
    try:
        cluster.start()
        wait_for(
            lambda: len(errors(cluster.clients[0])) == 4, PATIENCE_S, "a coordinate of each", cluster.agents
        )
        yield cluster
    finally:
        cluster.stop()


def errors(agent: Agent) -> dict[str, float]:
    return {one["Node"]: one["Coord"]["Error"] for one in agent.get("/v1/coordinate/nodes")}


def test_every_agent_finds_its_place_and_all_servers_tell_it(cluster: Cluster) -> None:
    names = sorted(agent.name for agent in cluster.agents)

    def told() -> bool:
        own = cluster.clients[0].get("/v1/agent/self")["Coord"]
        lists = [agent.get("/v1/coordinate/nodes", stale=True) for agent in cluster.agents]
        measured = all(one["Coord"]["Error"] < KNOWS_NOTHING for one in lists[0])
        measured = measured and own["Error"] < KNOWS_NOTHING and len(own["Vec"]) == 8
        return measured and all([one["Node"] for one in rows] == names for rows in lists)

    wait_for(told, PATIENCE_S, "all have measured", cluster.agents)


def test_near_sorts_by_what_is_told_and_a_node_takes_its_coordinate_with_it(cluster: Cluster) -> None:
    web = cluster.clients[0]
    for name in reversed(FAR):
        service = {"Service": "store", "Port": 1}
        web.put("/v1/catalog/register", {"Node": name, "Address": "10.9.9.9", "Service": service})

    def placed() -> bool:
        """Told again until it is written: what is told of coordinates may get lost with a leader."""
        for name in FAR.keys() - errors(web).keys():
            web.put("/v1/coordinate/update", {"Node": name, "Coord": {"Vec": [FAR[name], *[0.0] * 7]}})
        return FAR.keys() <= errors(web).keys()

    wait_for(placed, PATIENCE_S, "they are written", cluster.agents)
    for near, expected in [("_agent", list(FAR)), ("farthest", [*reversed(FAR)])]:
        rows = web.get("/v1/health/service/store", near=near)
        assert [row["Node"]["Node"] for row in rows] == expected
    nodes = [row["Node"] for row in web.get("/v1/catalog/nodes", near=web.name)]
    assert nodes[0] == web.name
    assert nodes[-3:] == list(FAR)
    web.put("/v1/catalog/deregister", {"Node": "near"})
    assert "near" not in errors(web)
    with closing(web.connect()) as connection:
        assert connection.request("GET", "/v1/coordinate/node/near", ok=(404,)).body == b""


def test_the_command_line_estimates_and_sorts(cluster: Cluster) -> None:
    web = cluster.clients[0]
    assert re.fullmatch(
        r"Estimated srv1 <-> web1 rtt: \d+\.\d{3} ms \(using LAN coordinates\)\n", gemot(web, "rtt", "srv1")
    )
    estimated = gemot(web, "rtt", "farthest", "farther")
    assert estimated == "Estimated farthest <-> farther rtt: 8500.020 ms (using LAN coordinates)\n"
    assert "srv1.dc1 <-> srv2.dc1" in gemot(web, "rtt", "-wan", "srv1.dc1", "srv2.dc1")
    listed = gemot(web, "catalog", "nodes", "-near=farther").splitlines()
    assert [line.split()[0] for line in listed][:2] == ["Node", "farther"]


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("nobody",), "no agent has that name. Those there are: gemot members"),
        (("srv1", "nobody"), "no agent has that name. Those there are: gemot members"),
        (("srv11",), "no agent has that name (did you mean srv1?). Those there are: gemot members"),
        (("farhtest",), "no agent has that name (did you mean farthest?). Those there are: gemot members"),
        (("srv1.dc1",), "no agent has that name. Give srv1, or -wan for servers as name.datacenter"),
        (("-wan", "srv1"), "with -wan a server is given as name.datacenter (did you mean srv1.dc1?)"),
        (("-wan", "web1.dc1"), "with -wan there are servers alone, as name.datacenter. Known are srv1.dc1, "),
        (("-wan", "srv1.dc9"), "with -wan there are servers alone, as name.datacenter. Known are srv1.dc1, "),
    ],
)
def test_a_name_without_a_place_is_told_what_is_wrong_with_it(
    words: tuple[str, ...], told: str, cluster: Cluster
) -> None:
    said = gemot(cluster.clients[0], "rtt", *words)
    assert said.startswith(f'Error: Could not find a coordinate for node "{words[-1]}": {told}')


def test_an_agent_that_is_started_again_begins_where_it_was(cluster: Cluster) -> None:
    web = cluster.clients[0]
    web.stop()
    assert (web.directory / "data" / "coordinate").stat().st_size < 200
    web.start()
    first: Any = wait_for(lambda: web.get("/v1/agent/self")["Coord"], PATIENCE_S, "it is back", [web])
    assert first["Vec"] != [0.0] * 8


def gemot(agent: Agent, *arguments: str) -> str:
    command = [sys.executable, "-m", "gemot.agent", *arguments]
    environ = os.environ | {"GEMOT_HTTP_ADDR": agent.http}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environ)
    return done.stdout or done.stderr


def test_an_agent_without_coordinates_says_so(tmp_path: Path) -> None:
    alone = Cluster(tmp_path, servers=1, config={"disable_coordinates": True})
    try:
        alone.start()
        with closing(alone.servers[0].connect()) as connection:
            reply = connection.request("GET", "/v1/coordinate/nodes", ok=(401,))
        assert reply.body == b"Coordinate support disabled"
        assert alone.servers[0].get("/v1/agent/self")["Coord"] is None
    finally:
        alone.stop()
