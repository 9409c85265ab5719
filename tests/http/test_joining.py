"""`join` and `force-leave` over HTTP: what is asked wrongly, and what is told."""

from __future__ import annotations

from typing import Any

import pytest
from support.http_agent import run
from support.http_families import api_agent

from gemot.server.model.errors import NoLeader, RuleFailed
from gemot.server.rpc.message import Operate


def asked(path: str, failure: Any = None, method: str = "PUT") -> tuple[int, str, str, list[Any]]:
    told: list[tuple[int, str, str, list[Any]]] = []

    async def work() -> None:
        async with api_agent() as (agent, servers):
            servers.failure = failure
            reply = await agent.ask(method, path)
            done = reply.headers.get("x-gemot-done", "")
            told.append((reply.status, reply.body.decode(), done, servers.operated))

    run(work())
    return told[0]


@pytest.mark.parametrize(
    ("path", "status", "text"),
    [
        ("/v1/agent/force-leave/", 400, "Missing node name"),
        ("/v1/agent/join/", 400, "Missing address to join"),
        ("/v1/agent/force-leave/%FF", 400, "not valid UTF-8"),
        ("/v1/agent/join/%FF", 400, "not valid UTF-8"),
        ("/v1/agent/join/a:b", 500, "address: 'a:b' is not host, host:port or [ipv6]:port"),
        ("/v1/agent/join/srv1:99999", 500, "is not host, host:port"),
        ("/v1/agent/force-leave/web1?wan=perhaps", 400, "Invalid value for ?wan"),
        ("/v1/agent/force-leave/web1?wan", 500, "there is no WAN pool here"),
        ("/v1/agent/join/10.0.0.1?wan=1", 500, "there is no WAN pool here"),
    ],
)
def test_a_mistake_is_told_and_nobody_is_asked(path: str, status: int, text: str) -> None:
    found = asked(path)
    assert found[0] == status
    assert text in found[1]
    assert found[3] == []


def test_what_was_done_stands_in_a_header_and_the_body_is_empty() -> None:
    status, body, done, operated = asked("/v1/agent/force-leave/w%C3%A9b?prune")
    assert (status, body) == (200, "")
    assert done.startswith("w\\xe9b: ")
    assert operated == [Operate("force-leave", node="wéb")]


@pytest.mark.parametrize(
    ("failure", "status", "text"),
    [
        (RuleFailed("agent: No node found with name 'web1'"), 500, "agent: No node found with name 'web1'"),
        (NoLeader.because("Waiting for quorum"), 500, "No cluster leader: waiting for quorum"),
    ],
)
def test_what_the_servers_refuse_is_told(failure: Any, status: int, text: str) -> None:
    assert asked("/v1/agent/force-leave/web1", failure)[:2] == (status, text)


@pytest.mark.parametrize("path", ["/v1/agent/force-leave/web1", "/v1/agent/join/10.0.0.1"])
@pytest.mark.parametrize("method", ["GET", "POST", "DELETE"])
def test_both_are_put_alone(path: str, method: str) -> None:
    assert asked(path, method=method)[0] == 405
