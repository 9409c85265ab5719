"""Long lists over HTTP: the same bytes as short ones, made on a thread."""

from __future__ import annotations

import threading
from typing import Any

import pytest
from support.http_agent import run
from support.http_families import api_agent

from gemot.agent.http import listing, render
from gemot.server.model.catalog import Node, Register, Service
from gemot.server.model.health import Check
from gemot.server.model.kv import KvSet

PATHS = [
    "/v1/kv/?recurse",
    "/v1/kv/?recurse&pretty",
    "/v1/kv/?keys",
    "/v1/catalog/nodes",
    "/v1/catalog/services",
    "/v1/catalog/service/web",
    "/v1/health/service/web",
    "/v1/health/state/any",
]


@pytest.mark.parametrize("path", PATHS)
def test_a_long_list_reads_as_a_short_one_and_is_encoded_on_a_thread(
    path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def case() -> None:
        async with api_agent() as (agent, servers):
            for number in range(4):
                await servers.apply(KvSet(b"k%d" % number, b"v"))
                web = Service("web", "web", ("a", "b"))
                own = Service(f"s{number}", f"s{number}")
                check = Check(f"n{number}", "c", "c", "passing")
                await servers.apply(Register(Node(f"n{number}", "10.0.0.1"), (web, own), (check,)))
            short = await agent.ask("GET", path)
            assert threads == {threading.main_thread().name}
            threads.clear()
            monkeypatch.setattr(listing, "SHORT_ROWS", 3)
            long = await agent.ask("GET", path)
            assert long.body == short.body
            assert len(long.json) >= 4
            assert threads, "it was encoded"
            assert threading.main_thread().name not in threads

    threads: set[str] = set()
    original = render.json_bytes

    def noted(*arguments: Any, **named: Any) -> Any:
        threads.add(threading.current_thread().name)
        return original(*arguments, **named)

    monkeypatch.setattr(render, "json_bytes", noted)
    run(case())


def test_a_few_huge_values_are_encoded_on_a_thread_too(monkeypatch: pytest.MonkeyPatch) -> None:
    async def case() -> None:
        async with api_agent() as (agent, servers):
            await servers.apply(KvSet(b"huge", b"v" * 100))
            await agent.ask("GET", "/v1/kv/?recurse")

    threads: list[str] = []
    original = render.kv_entry

    def noted(entry: Any) -> bytes:
        threads.append(threading.current_thread().name)
        return original(entry)

    monkeypatch.setattr(render, "kv_entry", noted)
    monkeypatch.setattr(listing, "SHORT_BYTES", 99)
    run(case())
    assert len(threads) == 1
    assert threads[0] != threading.main_thread().name
