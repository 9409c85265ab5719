"""`/v1/kv/` with `?ttl=`, and `TTL` in a transaction: what is taken, what is told, what is a mistake."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
from support.http_agent import HttpAgent, run, serving
from support.local_servers import LocalServers, local_servers

from gemot.agent.http import kv, txn
from gemot.server.model.catalog import Node, Register
from gemot.server.model.kv import ExpireKeys, KvSet
from gemot.server.model.session import CreateSession, Session

SESSION = "11111111-2222-3333-4444-555555555555"
LEFT = "x-gemot-expires-in"


@contextlib.asynccontextmanager
async def kv_agent() -> AsyncIterator[tuple[HttpAgent, LocalServers]]:
    with local_servers() as servers:
        async with serving([*kv.routes(servers=servers), *txn.routes(servers=servers)]) as agent:
            yield agent, servers


async def expire(servers: LocalServers, ms: int) -> int:
    servers.time_ms += ms
    applied = await servers.apply(ExpireKeys(servers.state.keys_due(servers.time_ms)))
    return int(applied.value)


def test_a_key_with_a_ttl_tells_what_is_left_and_is_gone_then() -> None:
    async def work() -> None:
        async with kv_agent() as (agent, servers):
            put = await agent.ask("PUT", "/v1/kv/a?ttl=30s", b"v")
            assert (put.body, put.headers[LEFT]) == (b"true", "30s")
            assert await expire(servers, 10_500) == 0
            for query in ("", "?raw", "?stale"):
                assert (await agent.ask("GET", f"/v1/kv/a{query}")).headers[LEFT] == "19.5s"
            (entry,) = (await agent.ask("GET", "/v1/kv/a")).json
            assert list(entry)[:5] == ["LockIndex", "Key", "Flags", "Value", "TTL"]
            assert entry["TTL"] == "30s"
            waiting = asyncio.create_task(agent.ask("GET", f"/v1/kv/a?index={entry['ModifyIndex']}&wait=5m"))
            await asyncio.sleep(0)
            assert await expire(servers, 30_000) == 1
            assert (await waiting).status == 404

    run(work())


def test_a_key_without_one_tells_of_none() -> None:
    async def work() -> None:
        async with kv_agent() as (agent, servers):
            await agent.ask("PUT", "/v1/kv/a?ttl=30s", b"v")
            assert LEFT not in (await agent.ask("PUT", "/v1/kv/a", b"v")).headers
            got = await agent.ask("GET", "/v1/kv/a")
            assert (LEFT in got.headers, "TTL" in got.json[0]) == (False, False)
            assert await expire(servers, 3_600_000) == 0

    run(work())


def test_a_list_tells_the_ttl_of_each_key_that_has_one() -> None:
    async def work() -> None:
        async with kv_agent() as (agent, _):
            await agent.ask("PUT", "/v1/kv/a?ttl=1h", b"v")
            await agent.ask("PUT", "/v1/kv/b", b"v")
            await agent.ask("PUT", "/v1/kv/c?ttl=1000.1ms", b"v")
            rows = (await agent.ask("GET", "/v1/kv/?recurse")).json
            assert [row.get("TTL") for row in rows] == ["1h0m0s", None, "1.001s"], "a part of a ms is one"

    run(work())


@pytest.mark.parametrize(
    "bad",
    ["", "0", "30", "1ms", "999ms", "-5s", "x", "87600h1ms", "9999999999h", "1e9s", "30%20s", "%F0%9F%95%90"],
)
def test_what_is_no_ttl_is_a_clear_mistake_and_nothing_is_written(bad: str) -> None:
    async def work() -> None:
        async with kv_agent() as (agent, servers):
            reply = await agent.ask("PUT", f"/v1/kv/a?ttl={bad}", b"v")
            assert reply.status == 400
            assert "want a duration such as 30s, from 1s to 87600h (ten years)" in reply.text
            op = {"Verb": "set", "Key": "a", "TTL": "x" + bad}
            reply = await agent.ask("PUT", "/v1/txn", json.dumps([{"KV": op}]).encode())
            assert (reply.status, servers.applied) == (400, [])
            assert reply.text.startswith("Failed to parse body: operation 0: Invalid TTL")

    run(work())


def test_a_transaction_sets_a_ttl_with_each_verb_that_sets_a_value() -> None:
    async def work() -> None:
        async with kv_agent() as (agent, servers):
            await servers.apply(Register(Node("n1", "10.0.0.1")))
            await servers.apply(CreateSession(Session(SESSION, "n1", lock_delay_ns=0)))

            def op(verb: str, **also: Any) -> dict[str, Any]:
                return {"KV": {"Verb": verb, "Key": verb.partition("un")[2] or verb, "TTL": "30s", **also}}

            asked = [op("set"), op("cas"), op("lock", Session=SESSION), op("unlock", Session=SESSION)]
            reply = await agent.ask("PUT", "/v1/txn", json.dumps(asked).encode())
            assert [row["KV"]["TTL"] for row in reply.json["Results"]] == ["30s"] * 4
            assert await expire(servers, 60_000) == 3
            for verb in ("get", "delete", "check-index", "delete-tree", "get-tree"):
                wrong = await agent.ask("PUT", "/v1/txn", json.dumps([op(verb)]).encode())
                assert wrong.status == 400
                assert f"TTL is for set, cas, lock, unlock, not for {verb}" in wrong.text

    run(work())


def test_a_write_under_a_fence_sets_a_ttl_too() -> None:
    async def work() -> None:
        async with kv_agent() as (agent, servers):
            await servers.apply(Register(Node("n1", "10.0.0.1")))
            await servers.apply(CreateSession(Session(SESSION, "n1", lock_delay_ns=0)))
            taken = await agent.ask("PUT", f"/v1/kv/lock?acquire={SESSION}&ttl=1h", b"")
            fence = taken.headers["x-gemot-fence"]
            done = await agent.ask("PUT", f"/v1/kv/a?ttl=30s&lock=lock&fence={fence}", b"v")
            assert (done.status, done.headers[LEFT]) == (200, "30s")
            lost = await agent.ask("PUT", f"/v1/kv/a?ttl=2h&lock=lock&fence={int(fence) + 1}", b"v")
            assert (lost.status, LEFT in lost.headers) == (409, False)
            stale = await agent.ask("PUT", f"/v1/kv/a?ttl=2h&cas=1&lock=lock&fence={fence}", b"v")
            assert (stale.body, LEFT in stale.headers) == (b"false", False)
            assert (await agent.ask("GET", "/v1/kv/a")).headers[LEFT] == "30s"

    run(work())


def test_a_name_of_a_write_is_bound_to_its_ttl() -> None:
    async def work() -> None:
        async with kv_agent() as (agent, servers):
            named = {"Idempotency-Key": "once"}
            assert (await agent.ask("PUT", "/v1/kv/a?ttl=30s", b"v", named)).status == 200
            await expire(servers, 20_000)
            again = await agent.ask("PUT", "/v1/kv/a?ttl=30s", b"v", named)
            assert (again.body, again.headers[LEFT]) == (b"true", "10s")
            left = (await agent.ask("GET", "/v1/kv/a")).headers[LEFT]
            assert left == "10s", "a second try of one write does not begin it anew"
            assert (await agent.ask("PUT", "/v1/kv/a?ttl=31s", b"v", named)).status == 422
            await expire(servers, 40_000)
            late = await agent.ask("PUT", "/v1/kv/a?ttl=30s", b"v", named)
            assert (late.body, late.headers[LEFT]) == (b"true", "0s"), "it was done, and is over"
            assert [each for each in servers.applied if isinstance(each, KvSet)]

    run(work())
