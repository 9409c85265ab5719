"""`/v1/session/` over real sockets: Consul's JSON, statuses and words, and how much of a TTL is left."""

from __future__ import annotations

import asyncio
import json
from uuid import UUID

import msgspec
import pytest
from support.http_agent import run, serving, until
from support.http_families import FACTS
from support.local_servers import local_servers
from support.sessions import create, made, session_agent, sessions

from gemot.agent.http import session as family
from gemot.server.model import errors
from gemot.server.model.catalog import Deregister, Node, Register
from gemot.server.model.health import Check
from gemot.server.model.session import DestroySession, RenewSession

NONE = "11111111-2222-3333-4444-555555555555"
REMAINING = "x-gemot-session-remaining"


# -- create and info -------------------------------------------------------------------------------


def test_a_session_begun_without_a_body_has_consuls_defaults() -> None:
    async def work() -> None:
        async with session_agent() as (agent, servers):
            reply = await agent.ask("PUT", "/v1/session/create")
            assert (reply.status, list(reply.json)) == (200, ["ID"])
            assert reply.headers["content-type"] == "application/json"
            assert REMAINING not in reply.headers
            assert UUID(reply.json["ID"]).version == 4
            info = await agent.ask("GET", f"/v1/session/info/{reply.json['ID']}")
            index = servers.state.index
            assert info.status == 200
            assert info.body == json.dumps(
                [
                    {
                        "ID": reply.json["ID"],
                        "Name": "",
                        "Node": "n1",
                        "LockDelay": 15_000_000_000,
                        "Behavior": "release",
                        "TTL": "",
                        "NodeChecks": ["serfHealth"],
                        "ServiceChecks": None,
                        "CreateIndex": index,
                        "ModifyIndex": index,
                    }
                ],
                separators=(",", ":"),
            ).encode()  # fmt: skip
            assert info.headers["x-consul-index"] == reply.headers["x-gemot-index"] == str(index)
            assert info.headers["x-consul-knownleader"] == "true"
            assert REMAINING not in info.headers

    run(work())


def test_what_is_asked_for_is_what_is_kept() -> None:
    async def work() -> None:
        async with session_agent() as (agent, _):
            reply = await create(
                agent,
                Name="deploy",
                Node="N2",
                LockDelay="3s",
                Behavior="delete",
                TTL="1m",
                NodeChecks=["serfHealth", "disk"],
                ServiceChecks=[{"ID": "web-check"}],
            )
            (shown,) = (await agent.ask("GET", f"/v1/session/info/{reply.json['ID']}?consistent")).json
            assert shown["Name"] == "deploy"
            assert shown["Node"] == "n2"
            assert shown["LockDelay"] == 3_000_000_000
            assert shown["Behavior"] == "delete"
            assert shown["TTL"] == "1m"
            assert shown["NodeChecks"] == ["serfHealth", "disk"]
            assert shown["ServiceChecks"] == [{"ID": "web-check", "Namespace": ""}]
            assert reply.headers[REMAINING] == "1m0s"

    run(work())


def test_names_are_read_in_any_case_and_unknown_ones_are_read_over() -> None:
    async def work() -> None:
        async with session_agent() as (agent, _):
            body = {"name": "a", "lockdelay": "1s", "TTl": "20s", "ID": NONE, "Unheard": {"of": [1]}}
            session = await made(agent, **body, Namespace="default", Partition="")
            assert session != NONE
            (shown,) = (await agent.ask("GET", f"/v1/session/info/{session}")).json
            assert (shown["Name"], shown["LockDelay"], shown["TTL"]) == ("a", 1_000_000_000, "20s")

    run(work())


def test_each_session_has_an_id_of_its_own() -> None:
    async def work() -> None:
        async with session_agent() as (agent, servers):
            ids = [await made(agent) for _ in range(20)]
            assert sorted(ids) == sessions(servers)

    run(work())


# -- the others ------------------------------------------------------------------------------------


def test_a_session_is_listed_of_its_node_and_gone_once_destroyed() -> None:
    async def work() -> None:
        async with session_agent() as (agent, servers):
            first, second = await made(agent), await made(agent, Node="n2")
            all_of_them = await agent.ask("GET", "/v1/session/list")
            assert [row["ID"] for row in all_of_them.json] == sorted([first, second])
            assert all_of_them.headers["x-consul-index"] == str(servers.state.index)
            of_second = await agent.ask("GET", "/v1/session/node/n2")
            assert [row["ID"] for row in of_second.json] == [second]
            (info,) = (await agent.ask("GET", f"/v1/session/info/{second}")).json
            assert of_second.json == [info]
            nobody = await agent.ask("GET", "/v1/session/node/n9")
            assert (nobody.status, nobody.body) == (200, b"[]")
            destroyed = await agent.ask("PUT", f"/v1/session/destroy/{second}")
            assert (destroyed.status, destroyed.body) == (200, b"true")
            assert int(destroyed.headers["x-gemot-index"]) == servers.state.index
            gone = await agent.ask("GET", f"/v1/session/info/{second}")
            assert (gone.status, gone.body) == (200, b"[]")
            assert int(gone.headers["x-consul-index"]) == servers.state.index
            assert (await agent.ask("GET", "/v1/session/node/n2")).body == b"[]"
            assert sessions(servers) == [first]

    run(work())


def test_what_is_not_there_is_destroyed_already() -> None:
    async def work() -> None:
        async with session_agent() as (agent, _):
            for id in (NONE, "no-uuid", "%22"):
                reply = await agent.ask("PUT", f"/v1/session/destroy/{id}")
                assert (reply.status, reply.body) == (200, b"true")

    run(work())


def test_a_renewal_begins_the_ttl_anew_and_moves_no_index() -> None:
    async def work() -> None:
        async with session_agent() as (agent, servers):
            session = await made(agent, TTL="20s")
            info = await agent.ask("GET", f"/v1/session/info/{session}")
            assert info.headers[REMAINING] == "20s"
            servers.time_ms = 12_500
            await agent.ask("PUT", "/v1/kv/clock", b"moves cluster time")
            later = await agent.ask("GET", f"/v1/session/info/{session}")
            assert later.headers[REMAINING] == "7.5s"
            renewed = await agent.ask("PUT", f"/v1/session/renew/{session}")
            assert (renewed.status, renewed.json) == (200, info.json)
            assert renewed.headers[REMAINING] == "20s"
            again = await agent.ask("GET", f"/v1/session/info/{session}")
            assert (again.json, again.headers["x-consul-index"]) == (
                info.json,
                info.headers["x-consul-index"],
            )
            assert again.headers[REMAINING] == "20s"

    run(work())


def test_a_session_without_a_ttl_is_renewed_and_tells_no_time() -> None:
    async def work() -> None:
        async with session_agent() as (agent, _):
            session = await made(agent)
            renewed = await agent.ask("PUT", f"/v1/session/renew/{session}")
            assert (renewed.status, [row["ID"] for row in renewed.json]) == (200, [session])
            assert REMAINING not in renewed.headers

    run(work())


def test_a_ttl_that_is_over_tells_nothing_left_until_it_is_ended() -> None:
    async def work() -> None:
        async with session_agent() as (agent, servers):
            session = await made(agent, TTL="10s")
            servers.time_ms = 11_000
            await agent.ask("PUT", "/v1/kv/clock", b"moves cluster time")
            late = await agent.ask("GET", f"/v1/session/info/{session}")
            assert late.headers[REMAINING] == "0s"

    run(work())


def test_the_least_ttl_is_the_agents_to_say() -> None:
    async def work() -> None:
        with local_servers() as servers:
            check = Check("n1", "serfHealth", "alive", "passing")
            await servers.apply(Register(Node("n1", "10.0.0.1"), (), (check,)))
            facts = msgspec.structs.replace(FACTS, session_ttl_min_ns=1_500_000_000)
            async with serving(family.routes(servers=servers, facts=facts)) as agent:
                assert (await create(agent, TTL="1.5s")).headers[REMAINING] == "1.5s"
                reply = await create(agent, TTL="1s")
                assert reply.text == "Invalid Session TTL '1000000000', must be between [1.5s=24h0m0s]"

    run(work())


@pytest.mark.parametrize(
    ("asked", "given"), [("10s", "20s"), ("15.0s", "30s"), ("23h", "24h0m0s"), ("0s", None), ("", None)]
)
def test_a_multiplier_lengthens_what_a_session_has_and_not_what_is_shown(
    asked: str, given: str | None
) -> None:
    async def work() -> None:
        with local_servers() as servers:
            check = Check("n1", "serfHealth", "alive", "passing")
            await servers.apply(Register(Node("n1", "10.0.0.1"), (), (check,)))
            facts = msgspec.structs.replace(FACTS, session_ttl_multiplier=2)
            async with serving(family.routes(servers=servers, facts=facts)) as agent:
                born = await create(agent, TTL=asked)
                assert born.headers.get(REMAINING) == given
                renewed = await agent.ask("PUT", f"/v1/session/renew/{born.json['ID']}")
                assert renewed.headers.get(REMAINING) == given
                assert renewed.json[0]["TTL"] == asked

    run(work())


@pytest.mark.parametrize("path", ["info/{id}", "node/n1", "list"])
def test_a_blocking_read_ends_when_a_session_does(path: str) -> None:
    async def work() -> None:
        async with session_agent() as (agent, servers):
            session = await made(agent)
            target = "/v1/session/" + path.format(id=session)
            index = (await agent.ask("GET", target)).headers["x-consul-index"]
            waiting = asyncio.ensure_future(agent.ask("GET", f"{target}?index={index}&wait=60s"))
            await until(lambda: servers.waiting)
            await agent.ask("PUT", f"/v1/session/renew/{session}")
            await agent.ask("PUT", "/v1/kv/other", b"v")
            assert not waiting.done()
            await servers.apply(Deregister("n1"))
            reply = await waiting
            assert (reply.status, reply.body) == (200, b"[]")
            assert int(reply.headers["x-consul-index"]) == servers.state.index

    run(work())


# -- names of the caller's own ---------------------------------------------------------------------


def test_a_creation_under_a_name_is_done_once_and_names_the_same_session() -> None:
    async def work() -> None:
        async with session_agent() as (agent, servers):
            named = {"Idempotency-Key": "once"}
            body = b'{"TTL":"20s"}'
            first = await agent.ask("PUT", "/v1/session/create", body, named)
            assert first.headers[REMAINING] == "20s"
            assert first.headers["x-gemot-idempotency-key"] == "once"
            servers.time_ms = 5_000
            again = await agent.ask("PUT", "/v1/session/create", body, named)
            assert again.json == first.json
            assert again.headers["x-gemot-index"] == first.headers["x-gemot-index"]
            assert again.headers[REMAINING] == "15s"
            assert sessions(servers) == [first.json["ID"]]
            other = await agent.ask("PUT", "/v1/session/create", b'{"TTL":"30s"}', named)
            assert other.status == 422
            by_another = await agent.ask("PUT", "/v1/session/create?token=t", body, named)
            assert by_another.json != first.json

    run(work())


def test_of_a_named_session_that_ended_nothing_is_left() -> None:
    async def work() -> None:
        async with session_agent() as (agent, servers):
            named = {"Idempotency-Key": "once"}
            first = await agent.ask("PUT", "/v1/session/create", b'{"TTL":"20s"}', named)
            await agent.ask("PUT", f"/v1/session/destroy/{first.json['ID']}", headers=named | {
                "Idempotency-Key": "twice"
            })  # fmt: skip
            again = await agent.ask("PUT", "/v1/session/create", b'{"TTL":"20s"}', named)
            assert (again.json, again.headers[REMAINING]) == (first.json, "0s")
            assert sessions(servers) == []

    run(work())


def test_name_and_token_go_with_each_write_but_a_renewal_is_never_answered_from_memory() -> None:
    async def work() -> None:
        async with session_agent() as (agent, servers):
            session = await made(agent, TTL="20s")
            headers = {"Idempotency-Key": "once", "X-Consul-Token": "t"}
            for verb, name in (("renew", None), ("destroy", "once")):
                reply = await agent.ask("PUT", f"/v1/session/{verb}/{session}", headers=headers)
                assert reply.headers.get("x-gemot-idempotency-key") == name
                token, key = servers.asked[-1]
                assert (token, key.key if key is not None else None) == ("t", name)
            assert servers.applied[-2:] == [RenewSession(session), DestroySession(session)]

    run(work())


# -- without servers -------------------------------------------------------------------------------


def test_without_a_leader_every_route_says_so_with_500() -> None:
    async def work() -> None:
        async with session_agent() as (agent, servers):
            servers.failure = errors.NoLeader()
            for method, path in (
                ("PUT", "create"), ("PUT", "destroy/a"), ("PUT", "renew/a"),
                ("GET", "info/a"), ("GET", "node/a"), ("GET", "list"),
            ):  # fmt: skip
                reply = await agent.ask(method, f"/v1/session/{path}")
                assert (reply.status, reply.text) == (500, "No cluster leader")
            servers.failure = errors.OutcomeUnknown("the leader was lost while the write was under way")
            reply = await create(agent)
            assert (reply.status, reply.headers["x-gemot-outcome"]) == (500, "unknown")

    run(work())


def test_a_renewal_that_was_done_is_never_told_as_not_done() -> None:
    async def work() -> None:
        async with session_agent() as (agent, servers):
            session = await made(agent, TTL="20s")
            servers.unreadable = errors.NoLeader()
            reply = await agent.ask("PUT", f"/v1/session/renew/{session}")
            assert reply.status == 500
            assert reply.text == "The session was renewed, but it cannot be shown: No cluster leader"
            assert "x-gemot-outcome" not in reply.headers

    run(work())


def test_a_named_creation_whose_age_cannot_be_learned_promises_nothing() -> None:
    async def work() -> None:
        async with session_agent() as (agent, servers):
            servers.unreadable = errors.NoLeader()
            reply = await agent.ask(
                "PUT", "/v1/session/create", b'{"TTL":"20s"}', {"Idempotency-Key": "once"}
            )
            assert (reply.status, reply.headers[REMAINING]) == (200, "0s")

    run(work())
