"""The coordinate family over HTTP, and `near`: Consul's JSON, statuses and order."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from support.http_agent import HttpAgent, run, serving
from support.http_families import api_agent
from support.local_servers import LocalServers, local_servers

from gemot.agent.http import coordinate
from gemot.server.model.catalog import SERVER_SERVICE, Deregister, Node, Register, Service
from gemot.server.model.coordinate import Coordinate, NodeCoordinate
from gemot.server.model.errors import RuleFailed
from gemot.server.model.health import Check

NODES = ("n1", "n2", "n3")


async def three_nodes(servers: LocalServers) -> None:
    for name in NODES:
        check = Check(name, "alive", "alive", "passing", service_id="web")
        await servers.apply(Register(Node(name, "10.0.0.1"), (Service("web", "web"),), (check,)))


def coord(x_s: float) -> dict[str, Any]:
    return {"Vec": [x_s, *[0.0] * 7], "Error": 1.5, "Adjustment": 0.0, "Height": 1e-05}


async def update(agent: HttpAgent, node: str, x_s: float) -> None:
    body = {"Node": node, "Segment": "", "Coord": coord(x_s)}
    reply = await agent.ask("PUT", "/v1/coordinate/update", json.dumps(body).encode())
    assert (reply.status, reply.body) == (200, b"")


def row(node: str, x_s: float) -> dict[str, Any]:
    return {"Node": node, "Segment": "", "Coord": coord(x_s)}


def test_what_is_told_is_listed_by_node() -> None:
    async def work() -> None:
        async with api_agent() as (agent, servers):
            await three_nodes(servers)
            await update(agent, "n2", 0.5)
            await update(agent, "N1", 1)
            listed = await agent.ask("GET", "/v1/coordinate/nodes")
            assert listed.json == [row("n1", 1.0), row("n2", 0.5)]
            assert int(listed.headers["x-consul-index"]) == servers.state.index
            one = await agent.ask("GET", "/v1/coordinate/node/n2")
            assert one.json == [row("n2", 0.5)]
            assert int(one.headers["x-consul-index"]) == servers.state.index - 1
            assert (await agent.ask("GET", "/v1/coordinate/nodes?segment=x")).json == []

    run(work())


def test_a_node_without_one_is_not_found() -> None:
    async def work() -> None:
        async with api_agent() as (agent, servers):
            await three_nodes(servers)
            for name in ("n3", "nobody"):
                reply = await agent.ask("GET", f"/v1/coordinate/node/{name}")
                assert (reply.status, reply.body, reply.headers["x-consul-index"]) == (404, b"", "1")
            assert (await agent.ask("GET", "/v1/coordinate/node/")).status == 400
            assert (await agent.ask("GET", "/v1/coordinate/nodes")).json == []

    run(work())


def test_a_read_waits_for_the_next_change() -> None:
    async def work() -> None:
        async with api_agent() as (agent, servers):
            await three_nodes(servers)
            await update(agent, "n1", 1)
            waits = [
                asyncio.ensure_future(agent.ask("GET", f"/v1/coordinate/{path}?index={servers.state.index}"))
                for path in ("nodes", "node/n1")
            ]
            await asyncio.sleep(0.05)
            await update(agent, "n2", 2)
            assert [each["Node"] for each in (await waits[0]).json] == ["n1", "n2"]
            await asyncio.sleep(0.05)
            assert not waits[1].done(), "another node moved"
            await servers.apply(Deregister("n1"))
            assert (await waits[1]).status == 404

    run(work())


def test_of_the_datacenter_the_servers_are_told_whether_they_have_said_it_or_not() -> None:
    async def work() -> None:
        async with api_agent() as (agent, servers):
            await three_nodes(servers)
            server = Service(SERVER_SERVICE, SERVER_SERVICE)
            for name in ("n1", "n3"):
                await servers.apply(Register(Node(name, "10.0.0.1"), (server,)))
            await update(agent, "n1", 1)
            await update(agent, "n2", 2)
            reply = await agent.ask("GET", "/v1/coordinate/datacenters")
            known = [row("n1", 1.0), row("n3", 0.0)]
            assert reply.json == [{"Datacenter": "dc1", "AreaID": "wan", "Coordinates": known}]

    run(work())


def test_the_token_goes_with_it() -> None:
    async def work() -> None:
        async with api_agent() as (agent, servers):
            body = json.dumps({"node": "n1", "coord": {"vec": [0] * 8}}).encode()
            assert (await agent.ask("PUT", "/v1/coordinate/update?token=t", body)).status == 200
            assert servers.located == [(NodeCoordinate("n1", Coordinate()), "t")]

    run(work())


@pytest.mark.parametrize(
    ("body", "status", "told"),
    [
        (b"", 400, "Request decode failed"),
        (b"[]", 400, "Request decode failed"),
        (b'{"Coord":{"Vec":[0,0,0,0,0,0,0,0]}}', 400, "Node is missing"),
        (b'{"Node":"n1"}', 400, "Coord is missing"),
        (b'{"Node":"n1","Coord":{"Vec":[1]}}', 400, "has 8 dimensions, not 1"),
        (b'{"Node":"n1","Coord":{"Vec":[0,0,0,0,0,0,0,1e9]}}', 400, "outside"),
        (b'{"Node":"n1","Coord":{"Vec":[0,0,0,0,0,0,0,NaN]}}', 400, "Request decode failed"),
        (b'{"Node":"n1","Coord":{"Vec":[0,0,0,0,0,0,0,1e999]}}', 400, ""),
        (b'{"Node":"n1","Coord":{"Vec":[0,0,0,0,0,0,0,0],"Height":-1}}', 400, "outside"),
        (b'{"Node":"n1","Coord":{"Vec":"x"}}', 400, "Vec"),
        (b'{"Node":"n1","Coord":{"Vec":[0,0,0,0,0,0,0,0]},"Segment":"s"}', 400, "segments"),
        (b'{"Node":"n1","Coord":{"Vec":[0,0,0,0,0,0,0,0]},"Where":1}', 400, "unknown field"),
        (b'{"Node":"n1","Coord":{"Vec":[0,0,0,0,0,0,0,0]},"Datacenter":"x"}', 500, "No path to datacenter"),
        (b" " * 70_000, 413, ""),
    ],
)
def test_what_cannot_be_a_coordinate_says_why(body: bytes, status: int, told: str) -> None:
    async def work() -> None:
        async with api_agent() as (agent, servers):
            reply = await agent.ask("PUT", "/v1/coordinate/update", body)
            assert (reply.status, told in reply.text) == (status, True), reply.text
            assert servers.located == []

    run(work())


def test_a_server_that_keeps_none_is_told_of() -> None:
    async def work() -> None:
        async with api_agent() as (agent, servers):
            servers.failure = RuleFailed("srv1 is of an older release without coordinates: upgrade it")
            body = json.dumps(row("n1", 1)).encode()
            reply = await agent.ask("PUT", "/v1/coordinate/update", body)
            assert (reply.status, reply.text) == (500, servers.failure.message)

    run(work())


def test_where_they_are_off_every_route_says_so() -> None:
    async def work() -> None:
        with local_servers() as servers:
            routes = coordinate.routes(servers=servers, datacenter="dc1", disabled=True)
            async with serving(routes) as agent:
                for method, path in [
                    ("GET", "nodes"), ("GET", "node/n1"), ("GET", "datacenters"), ("PUT", "update"),
                ]:  # fmt: skip
                    reply = await agent.ask(method, f"/v1/coordinate/{path}")
                    assert (reply.status, reply.text) == (401, "Coordinate support disabled")

    run(work())


def test_the_agent_tells_where_it_stands_itself() -> None:
    async def work() -> None:
        async with api_agent() as (agent, _):
            told = (await agent.ask("GET", "/v1/agent/self")).json["Coord"]
            assert told == {"Vec": [0.0] * 8, "Error": 0.25, "Adjustment": 0.0, "Height": 1e-05}

    run(work())


@pytest.mark.parametrize(
    "path",
    [
        "/v1/catalog/nodes",
        "/v1/catalog/service/web",
        "/v1/health/service/web",
        "/v1/health/service/web?passing",
        "/v1/health/service/web?cached",
        "/v1/health/checks/web",
        "/v1/health/state/any",
    ],
)
def test_near_puts_the_nearest_first(path: str) -> None:
    async def work() -> None:
        async with api_agent() as (agent, servers):
            await three_nodes(servers)
            await update(agent, "n3", 0.1)
            await update(agent, "n2", 0.2)
            sign = "&" if "?" in path else "?"
            for near, expected in [
                ("n3", ["n3", "n2", "n1"]),
                ("n2", ["n2", "n3", "n1"]),
                ("_agent", ["n1", "n2", "n3"]),  # it has none itself
                ("nobody", ["n1", "n2", "n3"]),
                ("", ["n1", "n2", "n3"]),
            ]:
                reply = await agent.ask("GET", f"{path}{sign}near={near}")
                assert [_node(each) for each in reply.json] == expected, near

    run(work())


def test_near_the_agent_itself() -> None:
    async def work() -> None:
        async with api_agent() as (agent, servers):
            await three_nodes(servers)
            for node, x_s in (("n1", 5.0), ("n2", 1.0), ("n3", 4.0)):
                await update(agent, node, x_s)
            reply = await agent.ask("GET", "/v1/catalog/nodes?near=_agent")
            assert [each["Node"] for each in reply.json] == ["n1", "n3", "n2"]

    run(work())


def _node(shown: dict[str, Any]) -> str:
    node = shown["Node"]
    return str(node if isinstance(node, str) else node["Node"])
