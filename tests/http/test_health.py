"""`/v1/health/` over real sockets and the real state."""

from __future__ import annotations

import json
from typing import Any

import pytest
from support.http_agent import HttpAgent, run, until
from support.http_families import api_agent


async def register(
    agent: HttpAgent, node: str, status: str, *, node_status: str = "passing", tag: str = "v1"
) -> None:
    body = {
        "Node": node,
        "Address": "10.0.0.1",
        "Service": {"ID": "web1", "Service": "web", "Tags": [tag], "Port": 80},
        "Checks": [
            {"CheckID": "serfHealth", "Name": "Serf Health Status", "Status": node_status},
            {"CheckID": "alive", "Name": "Alive", "Status": status, "ServiceID": "web1", "Interval": "1m0s"},
        ],
    }
    assert (await agent.ask("PUT", "/v1/catalog/register", json.dumps(body).encode())).body == b"true"


def test_an_instance_comes_with_its_node_and_all_checks_that_speak_for_it() -> None:
    async def work() -> None:
        async with api_agent() as (agent, _):
            await register(agent, "n1", "passing")
            reply = await agent.ask("GET", "/v1/health/service/web")
            (row,) = reply.json
            assert list(row) == ["Node", "Service", "Checks"]
            assert row["Node"]["Node"] == "n1"
            assert row["Service"]["ID"] == "web1"
            assert row["Service"]["Weights"] == {"Passing": 1, "Warning": 1}
            assert [check["CheckID"] for check in row["Checks"]] == ["serfHealth", "alive"]
            assert list(row["Checks"][1]) == [
                "Node",
                "CheckID",
                "Name",
                "Status",
                "Notes",
                "Output",
                "ServiceID",
                "ServiceName",
                "ServiceTags",
                "Type",
                "Interval",
                "Timeout",
                "ExposedPort",
                "Definition",
                "CreateIndex",
                "ModifyIndex",
            ]
            assert row["Checks"][1]["ServiceTags"] == ["v1"]
            assert row["Checks"][1]["Interval"] == "1m0s"
            assert reply.headers["x-consul-effective-consistency"] == "leader"
            assert reply.headers["x-consul-query-backend"] == "blocking-query"

    run(work())


@pytest.mark.parametrize(
    ("query", "nodes"),
    [
        ("", ["bad", "down", "ok", "warn"]),
        ("?passing", ["ok"]),
        ("?passing=", ["ok"]),
        ("?passing=1", ["ok"]),
        ("?passing=True", ["ok"]),
        ("?passing=false", ["bad", "down", "ok", "warn"]),
        ("?tag=v1&passing=1", ["ok"]),
        ("?tag=none", []),
        ("?index=3&wait=5s&passing=1&tag=v1&near=_agent", ["ok"]),
    ],
)
def test_passing_leaves_out_every_instance_with_another_check(query: str, nodes: list[str]) -> None:
    async def work() -> None:
        async with api_agent() as (agent, _):
            await register(agent, "ok", "passing")
            await register(agent, "warn", "warning")
            await register(agent, "bad", "critical")
            await register(agent, "down", "passing", node_status="critical")
            rows = (await agent.ask("GET", f"/v1/health/service/web{query}")).json
            assert [row["Node"]["Node"] for row in rows] == nodes

    run(work())


def test_checks_are_listed_by_service_node_and_state() -> None:
    async def work() -> None:
        async with api_agent() as (agent, _):
            await register(agent, "n1", "warning")
            await register(agent, "n2", "passing")

            async def found(path: str) -> list[Any]:
                rows = (await agent.ask("GET", f"/v1/health/{path}")).json
                return [(row["Node"], row["CheckID"]) for row in rows]

            assert await found("checks/web") == [("n1", "alive"), ("n2", "alive")]
            assert await found("node/n1") == [("n1", "alive"), ("n1", "serfHealth")]
            assert await found("state/warning") == [("n1", "alive")]
            assert len(await found("state/any")) == 4
            assert await found("state/odd") == []

    run(work())


def test_what_is_not_there_is_an_empty_list_with_an_index() -> None:
    async def work() -> None:
        async with api_agent() as (agent, _):
            for path in (
                "service/none",
                "checks/none",
                "node/none",
                "state/any",
                "connect/none",
                "ingress/none",
            ):
                reply = await agent.ask("GET", f"/v1/health/{path}")
                assert (reply.status, reply.body) == (200, b"[]")
                assert int(reply.headers["x-consul-index"]) >= 1

    run(work())


@pytest.mark.parametrize(
    ("path", "text"),
    [
        ("service/", "Missing service name"),
        ("checks/", "Missing service name"),
        ("connect/", "Missing service name"),
        ("node/", "Missing node name"),
        ("state/", "Missing check state"),
        ("service/web?passing=maybe", "Invalid value for ?passing"),
        ("service/web?index=x", "Invalid index"),
        ("service/web?sg=group", 'Sameness groups are not supported: leave the parameter "sg" out'),
        ("service/web?peer=other", 'Cluster peers are not supported: leave the parameter "peer" out'),
    ],
)
def test_mistakes_are_400(path: str, text: str) -> None:
    async def work() -> None:
        async with api_agent() as (agent, _):
            reply = await agent.ask("GET", f"/v1/health/{path}")
            assert (reply.status, reply.text) == (400, text)

    run(work())


def test_the_mesh_has_nothing_but_waits_like_the_service() -> None:
    async def work() -> None:
        async with api_agent() as (agent, servers):
            await register(agent, "n1", "passing")
            index = (await agent.ask("GET", "/v1/health/connect/web")).headers["x-consul-index"]
            waiting = await agent.connect()
            waiting.send(f"GET /v1/health/connect/web?index={index} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
            await until(lambda: servers.waiting)
            await register(agent, "n1", "critical")
            assert (await waiting.reply()).body == b"[]"

    run(work())


def test_a_cached_read_is_a_hit_from_the_second_time_on() -> None:
    async def work() -> None:
        async with api_agent() as (agent, _):
            await register(agent, "n1", "passing")
            first = await agent.ask("GET", "/v1/health/service/web?cached")
            assert first.headers["x-cache"] == "MISS"
            second = await agent.ask("GET", "/v1/health/service/web?cached")
            assert (second.headers["x-cache"], second.headers["age"]) == ("HIT", "0")
            assert second.body == first.body

    run(work())


def test_a_cached_blocking_read_waits_on_the_local_view() -> None:
    async def work() -> None:
        async with api_agent() as (agent, servers):
            await register(agent, "n1", "passing")
            index = (await agent.ask("GET", "/v1/health/service/web?cached")).headers["x-consul-index"]
            target = f"/v1/health/service/web?cached&index={index}&wait=60s"
            waiting = await agent.connect()
            waiting.send(
                f"GET {target} HTTP/1.1\r\nHost: x\r\n\r\nGET / HTTP/1.1\r\nHost: x\r\n\r\n".encode()
            )
            await waiting.drain()
            await agent.ask("GET", "/")
            await register(agent, "n1", "critical")
            reply = await waiting.reply()
            assert int(reply.headers["x-consul-index"]) > int(index)
            assert servers.waiting == 1  # the view's own subscription
            newer = reply.headers["x-consul-index"]
            late = await agent.ask("GET", f"/v1/health/service/web?cached&index={newer}&wait=1ms")
            assert late.headers["x-consul-index"] == reply.headers["x-consul-index"]

    run(work())
