"""Every route there is: a permission each, one place in the table, safe headers on every answer."""

from __future__ import annotations

from typing import get_args

from support.http_agent import run
from support.http_families import api_agent

from gemot.agent.http.message import Permission


def test_every_method_of_every_route_declares_its_permission() -> None:
    async def work() -> None:
        async with api_agent() as (agent, _):
            assert len(agent.app.routes) > 20
            for route in agent.app.routes:
                assert set(route.permission) == set(route.handlers), route.path
                for permission in route.permission.values():
                    assert permission in get_args(Permission)

    run(work())


def test_only_these_routes_are_for_everybody() -> None:
    async def work() -> None:
        async with api_agent() as (agent, _):
            free = {route.path for route in agent.app.routes if "none" in route.permission.values()}
            assert free == {"/", "/v1/status/leader", "/v1/status/peers", "/v1/catalog/datacenters"}

    run(work())


def test_writes_need_a_write_permission() -> None:
    async def work() -> None:
        async with api_agent() as (agent, _):
            for route in agent.app.routes:
                for method, permission in route.permission.items():
                    if (method, route.path) == ("POST", "/v1/gemot/fence/check"):
                        assert permission == "key:read"  # gateways ask it so; it only reads
                        continue
                    assert (method == "GET") == (permission == "none" or permission.endswith(":read")), (
                        route.path
                    )

    run(work())


def test_every_route_answers_each_method_with_safe_headers_and_a_type() -> None:
    async def work() -> None:
        async with api_agent() as (agent, _):
            for route in agent.app.routes:
                path = route.path + ("x" if route.path.endswith("/") and route.path != "/" else "")
                for method in ("GET", "PUT", "DELETE", "POST", "OPTIONS"):
                    reply = await agent.ask(method, path)
                    assert reply.headers["x-content-type-options"] == "nosniff", (method, path)
                    assert reply.headers["content-security-policy"] == "sandbox", (method, path)
                    assert reply.headers["content-type"].split(";")[0] in ("application/json", "text/plain")
                    assert reply.status in (200, 400, 404, 405, 500), (method, path)
                    if method not in (*route.handlers, "OPTIONS"):
                        assert reply.status == 405
                        allowed = set(reply.headers["allow"].split(","))
                        assert allowed == {"OPTIONS", *route.handlers}

    run(work())
