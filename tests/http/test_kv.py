"""`/v1/kv/` over real sockets: every status, body and header of Consul's key-value family."""

from __future__ import annotations

import base64
import contextlib
from collections.abc import AsyncIterator

from support.http_agent import HttpAgent, run, serving, until
from support.memory_servers import MemoryServers

from gemot.agent.http import kv


@contextlib.asynccontextmanager
async def kv_agent() -> AsyncIterator[tuple[HttpAgent, MemoryServers]]:
    servers = MemoryServers()
    async with serving(kv.routes(servers=servers)) as agent:
        yield agent, servers


def test_a_value_written_is_read_back_as_a_list_of_one_entry() -> None:
    async def work() -> None:
        async with kv_agent() as (agent, _):
            put = await agent.ask("PUT", "/v1/kv/web/port?flags=42", b"8080")
            assert (put.status, put.body) == (200, b"true")
            assert put.headers["content-type"] == "application/json"
            got = await agent.ask("GET", "/v1/kv/web/port")
            assert got.status == 200
            (entry,) = got.json
            assert list(entry) == ["LockIndex", "Key", "Flags", "Value", "CreateIndex", "ModifyIndex"]
            assert entry["Key"] == "web/port"
            assert entry["Flags"] == 42
            assert base64.b64decode(entry["Value"]) == b"8080"
            assert got.headers["x-consul-index"] == str(entry["ModifyIndex"])
            assert got.headers["x-consul-knownleader"] == "true"
            assert got.headers["x-consul-lastcontact"] == "0"

    run(work())


def test_a_blocking_read_ends_when_the_key_changes() -> None:
    async def work() -> None:
        async with kv_agent() as (agent, servers):
            waiting = await agent.connect()
            waiting.send(b"GET /v1/kv/k?index=10&wait=60s HTTP/1.1\r\nHost: x\r\n\r\n")
            await until(lambda: servers.waiting)
            await agent.ask("PUT", "/v1/kv/k", b"v")
            assert (await waiting.reply()).status == 200
            await waiting.close()

    run(work())
