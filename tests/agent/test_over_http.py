"""Subscriptions through an agent's real HTTP API, over the real state."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace
from support.http_agent import HttpAgent, serving, until
from support.http_families import api_agent
from support.local_servers import LocalServers

from gemot.agent.http.message import Request, Response, Route
from gemot.agent.over_http import OverHttp, split_address
from gemot.agent.views import Views
from gemot.server.model.catalog import (
    SERF_HEALTH,
    Deregister,
    HealthService,
    Node,
    NodeInfo,
    Nodes,
    Register,
    Service,
    ServiceAddress,
    ServiceNodes,
    Services,
    Weights,
)
from gemot.server.model.errors import NoLeader, PeerBroke, Unavailable
from gemot.server.model.health import Check, HealthChecks, HealthNode, HealthState
from gemot.server.model.kv import KvDelete, KvGet, KvKeys, KvList, KvSet
from gemot.server.model.query import Answer, Options, Query

WEB = Register(
    Node("n1", "10.0.0.1", "40e4a748-2192-161a-0510-9bf59fe950b5", "dc1", {"wan": "1.2.3.4"}, {"rack": "7"}),
    (
        Service(
            "web-1",
            "web",
            ("v1", "primary"),
            "10.0.0.4",
            80,
            {"team": "shop"},
            {"lan_ipv4": ServiceAddress("10.0.0.4", 80)},
            Weights(5, 2),
            True,
            socket_path="/run/web",
        ),
    ),
    (
        Check("n1", SERF_HEALTH, "Serf Health Status", "passing"),
        Check("n1", "web:1", "Web", "warning", "notes", "slow", "web-1", type="http", interval="10s"),
    ),
)

QUERIES: list[Query] = [
    KvGet(b"a/b"),
    KvGet(b"nowhere"),
    KvList(b"a/"),
    KvList(b"nowhere/"),
    KvKeys(b"", b"/"),
    KvKeys(b"a/"),
    Nodes(),
    Nodes({"rack": "7"}),
    Nodes({"rack": "8"}),
    NodeInfo("n1"),
    NodeInfo("n9"),
    Services(),
    ServiceNodes("web"),
    ServiceNodes("web", ("v1",), {"rack": "7"}),
    ServiceNodes("nowhere"),
    HealthService("web"),
    HealthService("web", ("primary", "v1")),
    HealthService("web", passing=True),
    HealthNode("n1"),
    HealthChecks("web"),
    HealthState("any"),
    HealthState("warning"),
]

Work = Callable[[HttpAgent, LocalServers, OverHttp], Awaitable[None]]


def with_agent(work: Work, **options: Any) -> None:
    async def run() -> None:
        async with api_agent() as (agent, servers):
            await servers.apply(WEB)
            await servers.apply(KvSet(b"a/b", bytes(range(256)), flags=42))
            await servers.apply(KvSet(b"a/\xff\xfe c?#%", b""))
            over = OverHttp(address=f"127.0.0.1:{agent.port}", retry_min_s=0.001, **options)
            over.start()
            try:
                await work(agent, servers, over)
            finally:
                await over.stop()

    asyncio.run(run())


@pytest.mark.parametrize("query", QUERIES, ids=repr)
def test_an_answer_read_back_is_the_servers_own(query: Query) -> None:
    async def work(agent: HttpAgent, servers: LocalServers, over: OverHttp) -> None:
        own = await servers.query(query, Options())
        found = await over.ask(query, 0)
        if isinstance(query, KvList | KvKeys):
            # JSON has no bytes: those of a key that are not UTF-8 come as U+FFFD.
            assert len(found.value) == len(own.value)
        elif isinstance(query, ServiceNodes):
            # Consul's rows of a service have no indexes of the node.
            assert found.value == [
                replace(row, node=replace(row.node, create_index=0, modify_index=0)) for row in own.value
            ]
        else:
            assert found.value == own.value
        assert (found.index, found.known_leader) == (own.index, True)

    with_agent(work)


@pytest.mark.parametrize("key", [b"a/\xff\xfe c?#%", b"//x", b"a/../b", b".", b"x/./y", b"a+b&c=d"])
def test_every_key_is_reached_by_its_bytes(key: bytes) -> None:
    async def work(agent: HttpAgent, servers: LocalServers, over: OverHttp) -> None:
        await servers.apply(KvSet(key, b"found"))
        found = await over.ask(KvGet(key), 0)
        assert (found.value.key, found.value.value) == (key, b"found")

    with_agent(work)


def test_a_subscription_tells_the_present_and_each_change() -> None:
    async def work(agent: HttpAgent, servers: LocalServers, over: OverHttp) -> None:
        told: list[Answer] = []
        over.subscribe(KvGet(b"a/b"), told.append)
        for value in (b"2", b"3"):
            await until(lambda: told and servers.waiting)
            count = len(told)
            await servers.apply(KvSet(b"a/b", value))
            await until(lambda seen=count: len(told) > seen)
        await servers.apply(KvDelete(b"a/b"))
        await until(lambda: told[-1].value is None)
        values = [answer.value and answer.value.value for answer in told]
        assert values == [bytes(range(256)), b"2", b"3", None]
        indexes = [answer.index for answer in told]
        assert indexes == sorted(set(indexes))

    with_agent(work)


def test_nothing_is_told_after_a_cancel() -> None:
    async def work(agent: HttpAgent, servers: LocalServers, over: OverHttp) -> None:
        told: list[Answer] = []
        subscription = over.subscribe(Services(), told.append)
        await until(lambda: told and servers.waiting)
        subscription.cancel()
        subscription.cancel()
        await until(lambda: not servers.waiting)
        await servers.apply(Deregister("n1", "web-1"))
        assert len(told) == 1

    with_agent(work)


def test_a_subscription_survives_the_loss_of_the_leader() -> None:
    async def work(agent: HttpAgent, servers: LocalServers, over: OverHttp) -> None:
        told: list[Answer] = []
        servers.failure = NoLeader()
        over.subscribe(KvGet(b"a/b"), told.append)
        asked = agent.metrics
        await until(lambda: b'status="500"' in asked.text())
        assert told == []
        servers.failure = None
        await until(lambda: told)

    with_agent(work)


def test_more_subscriptions_than_connections_take_turns() -> None:
    async def work(agent: HttpAgent, servers: LocalServers, over: OverHttp) -> None:
        told: dict[int, bytes] = {}
        for number in range(12):
            key = b"turn/%d" % number
            await servers.apply(KvSet(key, b"1"))

            def note(answer: Answer, number: int = number) -> None:
                told[number] = answer.value.value

            over.subscribe(KvGet(key), note)
        await until(lambda: len(told) == 12)
        assert servers.waiting <= 2
        for number in range(12):
            await servers.apply(KvSet(b"turn/%d" % number, b"2"))
        await until(lambda: set(told.values()) == {b"2"})

    with_agent(work, max_connections=2)


def test_views_stand_on_it() -> None:
    async def work(agent: HttpAgent, servers: LocalServers, over: OverHttp) -> None:
        views = Views(servers=over, limit=10)
        try:
            assert (await views.get(Services())).value == {"web": ["primary", "v1"]}
            told: list[Answer] = []
            views.watch(HealthService("web"), told.append)
            await until(lambda: told and servers.waiting == 2)
            await servers.apply(Deregister("n1", "web-1"))
            await until(lambda: told[-1].value == [])
        finally:
            views.stop()

    with_agent(work)


def test_the_node_of_the_agent_is_known() -> None:
    async def work(agent: HttpAgent, servers: LocalServers, over: OverHttp) -> None:
        assert await over.node_name() == "n1"

    with_agent(work)


def _strange(response: Response) -> list[Route]:
    def answer(request: Request) -> Response:
        return response

    paths = ("/v1/kv/", "/v1/agent/self", "/v1/catalog/nodes")
    return [Route(path, {"GET": answer}, {"GET": "none"}) for path in paths]


@pytest.mark.parametrize(
    ("response", "words"),
    [
        (Response(body=b"<html>"), "X-Consul-Index"),
        (Response(body=b"<html>", headers={"X-Consul-Index": "5"}), "not one of an agent"),
        (Response(body=b'[{"Key": "a", "Value": "!"}]', headers={"X-Consul-Index": "5"}), "not one of"),
        (Response(body=b"{}", headers={"X-Consul-Index": "5"}), "not one of an agent"),
        (Response(body=b"[]", headers={"X-Consul-Index": "-5"}), "X-Consul-Index"),
        (Response(body=b"[]", headers={"X-Consul-Index": "9" * 5000}), "X-Consul-Index"),
        (Response(status=301, headers={"Location": "http://elsewhere/"}), "status 301"),
        (Response(status=403, body=b"Permission denied"), "status 403: Permission denied"),
    ],
)
def test_what_does_not_speak_as_an_agent_is_an_error_and_no_answer(response: Response, words: str) -> None:
    async def work() -> None:
        async with serving(_strange(response)) as agent:
            over = OverHttp(address=f"http://127.0.0.1:{agent.port}/")
            over.start()
            try:
                with pytest.raises((PeerBroke, Unavailable), match=words):
                    await over.ask(KvGet(b"a"), 0)
            finally:
                await over.stop()

    asyncio.run(work())


def test_nobody_there_is_unavailable() -> None:
    async def work() -> None:
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", 0))
            over = OverHttp(address=f"127.0.0.1:{taken.getsockname()[1]}")
            over.start()
            with pytest.raises(Unavailable):
                await over.node_name()
            await over.stop()

    asyncio.run(work())


def test_an_agent_on_a_unix_socket_is_reached(tmp_path: Path) -> None:
    async def work() -> None:
        async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.readuntil(b"\r\n\r\n")
            body = b'{"Config": {"NodeName": "by-socket"}}'
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body))
            writer.close()

        server = await asyncio.start_unix_server(answer, tmp_path / "agent.sock")
        over = OverHttp(address=f"unix://{tmp_path}/agent.sock")
        over.start()
        assert await over.node_name() == "by-socket"
        await over.stop()
        server.close()

    asyncio.run(work())


@pytest.mark.parametrize(
    ("address", "base"),
    [
        ("127.0.0.1:8500", "http://127.0.0.1:8500"),
        ("localhost", "http://localhost:8500"),
        ("http://[::1]:8501/", "http://[::1]:8501"),
        ("https://agent", "https://agent:8501"),
    ],
)
def test_addresses_are_taken_in_every_form(address: str, base: str) -> None:
    assert split_address(address) == (base, "")


@pytest.mark.parametrize("address", ["", "ftp://x", "127.0.0.1:99999", "127.0.0.1:port", "http://", "[::1"])
def test_what_is_no_address_is_refused(address: str) -> None:
    with pytest.raises(PeerBroke, match="is no address"):
        split_address(address)
