"""`/v1/kv/` lists in pages: `?limit=` and `?after=`, and the header that tells how to go on."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from urllib.parse import quote

import pytest
from support.http_agent import HttpAgent, run, serving
from support.local_servers import LocalServers, local_servers

from gemot.agent.http import kv

NEXT = "x-gemot-after"
NAMES = ("a", "a/1", "a/2", "a b/1", "ä", "b&c=d")


@contextlib.asynccontextmanager
async def agent_with(*names: str) -> AsyncIterator[tuple[HttpAgent, LocalServers]]:
    with local_servers() as servers:
        async with serving(kv.routes(servers=servers), allow_unprintable=True) as agent:
            for name in names:
                assert (await agent.ask("PUT", f"/v1/kv/{quote(name)}", b"v")).status == 200
            yield agent, servers


async def _all(agent: HttpAgent, path: str, limit: int) -> list[str]:
    """What all pages hold. The header is given back as it came."""
    found: list[str] = []
    after = ""
    while True:
        page = await agent.ask("GET", f"{path}&limit={limit}" + (f"&after={after}" if after else ""))
        assert page.status == 200, page.text
        assert len(page.json) <= limit
        found += [row if isinstance(row, str) else row["Key"] for row in page.json]
        after = page.headers.get(NEXT, "")
        if not after:
            return found


@pytest.mark.parametrize("how", ["recurse", "keys", "keys&separator=/", "recurse&stale", "keys&consistent"])
@pytest.mark.parametrize("limit", [1, 2, 5, 6, 10_000])
def test_all_pages_together_are_the_list(how: str, limit: int) -> None:
    async def work() -> None:
        async with agent_with(*NAMES) as (agent, _):
            whole = [
                row if isinstance(row, str) else row["Key"]
                for row in (await agent.ask("GET", f"/v1/kv/?{how}")).json
            ]
            assert await _all(agent, f"/v1/kv/?{how}", limit) == whole

    run(work())


def test_a_page_goes_on_behind_a_key_that_is_no_text() -> None:
    async def work() -> None:
        async with agent_with() as (agent, _):
            for name in ("%FE", "%FE%FF", "%FF/x"):
                await agent.ask("PUT", f"/v1/kv/{name}", b"v")
            first = await agent.ask("GET", "/v1/kv/?keys&limit=2")
            assert first.headers[NEXT] == "%FE%FF"
            assert (await agent.ask("GET", "/v1/kv/?keys&limit=2&after=%FE%FF")).json == ["\ufffd/x"]
            assert (await agent.ask("PUT", "/v1/kv/x?cas=0&acquire=y&after=%FF")).status == 400

    run(work())


def test_without_a_limit_the_answer_is_the_whole_list_and_tells_of_no_page() -> None:
    async def work() -> None:
        async with agent_with(*NAMES) as (agent, _):
            whole = await agent.ask("GET", "/v1/kv/?recurse")
            assert (len(whole.json), NEXT in whole.headers) == (len(NAMES), False)

    run(work())


def test_a_page_behind_the_last_key_is_what_a_list_without_keys_is() -> None:
    async def work() -> None:
        async with agent_with("a/1") as (agent, _):
            assert (await agent.ask("GET", "/v1/kv/a/?recurse&limit=1&after=a/1")).status == 404
            assert (await agent.ask("GET", "/v1/kv/a/?keys&limit=1&after=b")).status == 404
            empty = await agent.ask("GET", "/v1/kv/?keys&limit=1&after=b")
            assert (empty.status, empty.body) == (200, b"[]")

    run(work())


@pytest.mark.parametrize(
    ("query", "text"),
    [
        *[(f"recurse&limit={bad}", "?limit= must be a number from 1 to 10000, not") for bad in (
            "0", "-1", "10001", "1e3", "", "x", "9" * 30, "%D9%A3", "1.5",
        )],
        ("keys&limit", "?limit= must be a number from 1 to 10000, not"),
        ("keys&after=a", "?after= is for pages: give ?limit="),
        ("limit=1", "?limit= and ?after= are for lists"),
        ("raw&after=a", "?limit= and ?after= are for lists"),
        ("recurse&limit=1&after=%zz", "invalid URL escape"),
        ("recurse&limit=1&%FF=1", "the query is not valid UTF-8"),
    ],
)  # fmt: skip
def test_what_is_no_page_is_a_clear_mistake(query: str, text: str) -> None:
    async def work() -> None:
        async with agent_with("a") as (agent, _):
            reply = await agent.ask("GET", f"/v1/kv/a?{query}")
            assert (reply.status, reply.text.startswith(text)) == (400, True), reply.text

    run(work())


def test_who_is_behind_a_key_that_cannot_be_is_told_its_limit() -> None:
    async def work() -> None:
        async with agent_with("a") as (agent, _):
            reply = await agent.ask("GET", f"/v1/kv/a?recurse&limit=1&after={'k' * 4097}")
            assert reply.status == 413
            assert "4097 bytes long, the limit is 4096" in reply.text

    run(work())


def test_who_waits_at_a_page_is_answered_by_a_change_within_it() -> None:
    async def work() -> None:
        async with agent_with("k1", "k2", "k3", "k4") as (agent, _):
            first = await agent.ask("GET", "/v1/kv/k?recurse&limit=1")
            index = first.headers["x-consul-index"]
            waiting = asyncio.create_task(agent.ask("GET", f"/v1/kv/k?recurse&limit=1&index={index}&wait=5m"))
            await agent.ask("PUT", "/v1/kv/k4", b"elsewhere")
            await agent.ask("PUT", "/v1/kv/k0", b"here")
            page = await waiting
            assert [row["Key"] for row in page.json] == ["k0"]
            assert page.headers[NEXT] == "k0"

    run(work())
