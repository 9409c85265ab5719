"""`/v1/catalog/` over real sockets and the real state."""

from __future__ import annotations

import json
from typing import Any

import pytest
from support.http_agent import HttpAgent, Reply, run, until
from support.http_families import api_agent

NODE_ID = "40e4a748-2192-161a-0510-9bf59fe950b5"
WEB = {
    "Node": "n1",
    "ID": NODE_ID,
    "Address": "10.0.0.1",
    "NodeMeta": {"env": "test"},
    "TaggedAddresses": {"lan": "10.0.0.1", "wan": "1.2.3.4"},
    "Service": {
        "ID": "web1",
        "Service": "web",
        "Tags": ["v1", "Blue"],
        "Port": 80,
        "Address": "10.0.0.9",
        "Meta": {"version": "4"},
        "TaggedAddresses": {"lan": {"Address": "10.0.0.9", "Port": 80}},
        "Weights": {"Passing": 10, "Warning": 2},
        "EnableTagOverride": True,
    },
    "Checks": [
        {"CheckID": "alive", "Name": "Alive", "Status": "passing", "ServiceID": "web1", "Output": "ok"}
    ],
}


async def put(agent: HttpAgent, path: str, body: Any, **headers: str) -> Reply:
    return await agent.ask("PUT", path, json.dumps(body).encode(), headers)


async def register(agent: HttpAgent, body: Any = WEB) -> None:
    reply = await put(agent, "/v1/catalog/register", body)
    assert (reply.status, reply.body) == (200, b"true")


def test_a_registration_is_true_and_shows_in_every_list() -> None:
    async def work() -> None:
        async with api_agent() as (agent, _):
            await register(agent)
            (node,) = (await agent.ask("GET", "/v1/catalog/nodes")).json
            assert list(node) == [
                "ID",
                "Node",
                "Address",
                "Datacenter",
                "TaggedAddresses",
                "Meta",
                "CreateIndex",
                "ModifyIndex",
            ]
            assert (node["ID"], node["Node"], node["Datacenter"]) == (NODE_ID, "n1", "dc1")
            assert (await agent.ask("GET", "/v1/catalog/services")).json == {"web": ["Blue", "v1"]}
            assert (await agent.ask("GET", "/v1/catalog/datacenters")).json == ["dc1"]

    run(work())


def test_an_instance_is_shown_flat_with_its_host() -> None:
    async def work() -> None:
        async with api_agent() as (agent, _):
            await register(agent)
            reply = await agent.ask("GET", "/v1/catalog/service/web")
            (row,) = reply.json
            assert {name: row[name] for name in row if not name.endswith("Index")} == {
                "ID": NODE_ID,
                "Node": "n1",
                "Address": "10.0.0.1",
                "Datacenter": "dc1",
                "TaggedAddresses": {"lan": "10.0.0.1", "wan": "1.2.3.4"},
                "NodeMeta": {"env": "test"},
                "ServiceKind": "",
                "ServiceID": "web1",
                "ServiceName": "web",
                "ServiceTags": ["v1", "Blue"],
                "ServiceAddress": "10.0.0.9",
                "ServiceTaggedAddresses": {"lan": {"Address": "10.0.0.9", "Port": 80}},
                "ServiceWeights": {"Passing": 10, "Warning": 2},
                "ServiceMeta": {"version": "4"},
                "ServicePort": 80,
                "ServiceSocketPath": "",
                "ServiceEnableTagOverride": True,
                "ServiceProxy": {"Mode": "", "MeshGateway": {}, "Expose": {}},
                "ServiceConnect": {},
                "ServiceLocality": None,
            }
            assert int(reply.headers["x-consul-index"]) == row["ModifyIndex"]
            assert reply.headers["x-consul-knownleader"] == "true"
            assert reply.headers["x-consul-lastcontact"] == "0"

    run(work())


@pytest.mark.parametrize(
    ("query", "found"),
    [
        ("", 1),
        ("?tag=v1", 1),
        ("?tag=V1&tag=blue", 1),
        ("?tag=v1&tag=green", 0),
        ("?node-meta=env%3Atest", 1),
        ("?node-meta=env:prod", 0),
        ("?near=_agent", 1),
        ("?stale", 1),
        ("?consistent=1", 1),
        ("?cached", 1),
    ],
)
def test_instances_are_chosen_by_tags_and_node_meta(query: str, found: int) -> None:
    async def work() -> None:
        async with api_agent() as (agent, _):
            await register(agent)
            assert len((await agent.ask("GET", f"/v1/catalog/service/web{query}")).json) == found

    run(work())


def test_a_node_is_shown_with_its_services_by_id() -> None:
    async def work() -> None:
        async with api_agent() as (agent, _):
            await register(agent)
            for name in ("n1", NODE_ID, NODE_ID[:8]):
                shown = (await agent.ask("GET", f"/v1/catalog/node/{name}")).json
                assert shown["Node"]["Node"] == "n1"
                assert list(shown["Services"]) == ["web1"]
                service = shown["Services"]["web1"]
                assert (service["Service"], service["Port"], service["Tags"]) == ("web", 80, ["v1", "Blue"])
            listed = (await agent.ask("GET", "/v1/catalog/node-services/n1")).json
            assert [service["ID"] for service in listed["Services"]] == ["web1"]

    run(work())


def test_what_is_not_there_is_null_or_an_empty_list_never_404() -> None:
    async def work() -> None:
        async with api_agent() as (agent, _):
            for path, body in [
                ("node/none", b"null"),
                ("node-services/none", b'{"Node":null,"Services":null}'),
                ("service/none", b"[]"),
                ("connect/none", b"[]"),
                ("nodes", b"[]"),
                ("services", b"{}"),
            ]:
                reply = await agent.ask("GET", f"/v1/catalog/{path}")
                assert (reply.status, reply.body) == (200, body)
                assert int(reply.headers["x-consul-index"]) >= 1

    run(work())


def test_a_name_may_hold_a_slash() -> None:
    async def work() -> None:
        async with api_agent() as (agent, _):
            await register(agent, {"Node": "a/b", "Address": "x", "Service": {"Service": "team/web"}})
            assert len((await agent.ask("GET", "/v1/catalog/service/team%2Fweb")).json) == 1
            assert len((await agent.ask("GET", "/v1/catalog/service/team/web")).json) == 1
            assert (await agent.ask("GET", "/v1/catalog/node/a%2Fb")).json["Node"]["Node"] == "a/b"

    run(work())


def test_what_a_registration_leaves_out_is_filled_in() -> None:
    async def work() -> None:
        async with api_agent() as (agent, _):
            body = {
                "node": "n2",
                "address": "10.0.0.2",
                "service": {"service": "db", "weights": {"Passing": 0, "Warning": 0}},
                "check": {"name": "c", "serviceid": "db"},
                "WriteRequest": {"Token": "t"},
            }
            await register(agent, body)
            (row,) = (await agent.ask("GET", "/v1/catalog/service/db")).json
            assert row["ServiceID"] == "db"
            assert row["ServiceWeights"] == {"Passing": 1, "Warning": 1}
            (check,) = (await agent.ask("GET", "/v1/health/checks/db")).json
            assert (check["CheckID"], check["Status"], check["Node"]) == ("c", "critical", "n2")
            assert check["ServiceName"] == "db"

    run(work())


def test_an_identical_registration_moves_no_index() -> None:
    async def work() -> None:
        async with api_agent() as (agent, _):
            await register(agent)
            before = (await agent.ask("GET", "/v1/catalog/service/web")).headers["x-consul-index"]
            await register(agent)
            assert (await agent.ask("GET", "/v1/catalog/service/web")).headers["x-consul-index"] == before

    run(work())


@pytest.mark.parametrize(
    ("body", "status", "text"),
    [
        ({}, 500, "Must provide node"),
        ({"Node": "n"}, 500, "Must provide address if SkipNodeUpdate is not set"),
        ({"Node": "n", "Address": "a", "Datacenter": "dc9"}, 500, "No path to datacenter"),
        (
            {"Node": "n", "Address": "a", "Check": {"Name": "c", "ServiceID": "x"}},
            500,
            "Missing service registration",
        ),
        ({"Node": "n", "Address": "a", "Check": {"Name": "c", "Node": "m"}}, 500, "does not match node"),
        ({"Node": "n", "Address": "a", "Check": {}}, 500, "Must provide check ID or name"),
        ({"Node": "n", "Address": "a", "Service": {"ID": "x"}}, 500, "Must provide service name with ID"),
        (
            {"Node": "n", "Address": "a", "Service": {"Service": "x", "Address": "::"}},
            500,
            "Invalid service address",
        ),
        ({"Node": "n", "Address": "a", "Check": {"Name": "c", "Status": "ok"}}, 400, 'must be "passing"'),
        (
            {"Node": "n", "Address": "a", "Service": {"Service": "x", "Weights": {"Warning": 1}}},
            400,
            "Invalid Weights",
        ),
        ({"Node": "n", "Nope": 1}, 400, 'Request decode failed: json: unknown field "Nope"'),
        ({"Node": "n", "Address": ["a"]}, 400, "Request decode failed: json: Address: expected `str`"),
    ],
)
def test_a_wrong_registration_is_refused_and_changes_nothing(body: Any, status: int, text: str) -> None:
    async def work() -> None:
        async with api_agent() as (agent, servers):
            before = servers.content
            reply = await put(agent, "/v1/catalog/register", body)
            assert reply.status == status
            assert text in reply.text
            assert servers.content == before

    run(work())


def test_a_node_name_is_kept_for_its_owner() -> None:
    async def work() -> None:
        async with api_agent() as (agent, _):
            await register(
                agent, {**WEB, "Check": {"CheckID": "serfHealth", "Name": "s", "Status": "passing"}}
            )
            other = {"Node": "n1", "ID": "11111111-2222-3333-4444-555555555555", "Address": "10.0.0.7"}
            reply = await put(agent, "/v1/catalog/register", other)
            assert reply.status == 500
            assert "Node name n1 is reserved by node" in reply.text

    run(work())


def test_deregistering_takes_out_a_service_a_check_or_the_node() -> None:
    async def work() -> None:
        async with api_agent() as (agent, _):
            await register(agent)
            for body in (
                {"Node": "n1", "CheckID": "alive"},
                {"Node": "n1", "ServiceID": "web1"},
                {"Node": "n1"},
            ):
                assert (await put(agent, "/v1/catalog/deregister", body)).body == b"true"
            assert (await agent.ask("GET", "/v1/catalog/nodes")).json == []
            for body in ({"Node": "n1"}, {"Node": "n1", "ServiceID": "x", "CheckID": "y"}):
                again = await put(agent, "/v1/catalog/deregister", body)
                assert (again.status, again.body) == (200, b"true")

    run(work())


@pytest.mark.parametrize(
    ("body", "status", "text"),
    [({}, 500, "Must provide node"), ({"Node": "n", "Datacenter": "x"}, 500, "No path to datacenter")],
)
def test_a_wrong_deregistration_is_refused(body: Any, status: int, text: str) -> None:
    async def work() -> None:
        async with api_agent() as (agent, _):
            reply = await put(agent, "/v1/catalog/deregister", body)
            assert (reply.status, reply.text) == (status, text)

    run(work())


@pytest.mark.parametrize(
    ("path", "text"),
    [
        ("service/", "Missing service name"),
        ("connect/", "Missing service name"),
        ("node/", "Missing node name"),
        ("node-services/", "Missing node name"),
        ("service/%ff", "the name in the path is not valid UTF-8"),
        ("nodes?filter=x", "filter is not supported yet: leave it out and choose among the results"),
    ],
)
def test_mistakes_of_reads_are_400(path: str, text: str) -> None:
    async def work() -> None:
        async with api_agent() as (agent, _):
            reply = await agent.ask("GET", f"/v1/catalog/{path}")
            assert (reply.status, reply.text) == (400, text)

    run(work())


def test_a_blocking_read_of_a_service_wakes_for_that_service_only() -> None:
    async def work() -> None:
        async with api_agent() as (agent, servers):
            await register(agent)
            index = (await agent.ask("GET", "/v1/catalog/service/web")).headers["x-consul-index"]
            waiting = await agent.connect()
            waiting.send(
                f"GET /v1/catalog/service/web?index={index}&wait=60s HTTP/1.1\r\nHost: x\r\n\r\n".encode()
            )
            await until(lambda: servers.waiting)
            await register(agent, {"Node": "n3", "Address": "a", "Service": {"Service": "other"}})
            assert servers.waiting == 1
            await register(agent, {"Node": "n3", "Address": "a", "Service": {"Service": "web"}})
            assert len((await waiting.reply()).json) == 2

    run(work())


def test_a_read_that_times_out_gives_the_present_answer_with_its_index() -> None:
    async def work() -> None:
        async with api_agent() as (agent, _):
            await register(agent)
            index = (await agent.ask("GET", "/v1/catalog/nodes")).headers["x-consul-index"]
            reply = await agent.ask("GET", f"/v1/catalog/nodes?index={index}&wait=10ms")
            assert reply.status == 200
            assert len(reply.json) == 1
            assert reply.headers["x-consul-index"] == index

    run(work())


def test_one_idempotency_key_for_another_endpoint_is_refused_rather_than_answered() -> None:
    async def work() -> None:
        async with api_agent() as (agent, _):
            named = {"Idempotency-Key": "once"}
            body = {"Node": "n1", "Address": "10.0.0.1"}
            assert (await put(agent, "/v1/catalog/register", body, **named)).status == 200
            for path in ("/v1/catalog/deregister", "/v1/session/create"):
                assert (await put(agent, path, body, **named)).status == 422
            again = await put(agent, "/v1/catalog/register", body, **named)
            assert (again.status, again.body) == (200, b"true")
            assert again.headers["x-gemot-idempotency-key"] == "once"

    run(work())
