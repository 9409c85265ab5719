"""`/v1/gemot/history/` over real sockets: revisions, keys as they were, and every mistake told."""

from __future__ import annotations

import base64
import contextlib
from collections.abc import AsyncIterator

import pytest
from support.http_agent import HttpAgent, run, serving
from support.local_servers import LocalServers, local_servers

from gemot.agent.http import history, kv
from gemot.server.model.upkeep import TrimHistory

PATH = "/v1/gemot/history"


@contextlib.asynccontextmanager
async def an_agent(*, keeps: bool = True) -> AsyncIterator[tuple[HttpAgent, LocalServers]]:
    with local_servers() as servers:
        routes = [*kv.routes(servers=servers), *history.routes(servers=servers)]
        async with serving(routes, allow_unprintable=True) as agent:
            if keeps:
                await servers.apply(TrimHistory(8, 0, 1 << 30))
            yield agent, servers


def test_the_revisions_of_a_key_come_newest_first_with_what_became_of_each() -> None:
    async def work() -> None:
        async with an_agent() as (agent, servers):
            began = servers.state.index
            await agent.ask("PUT", "/v1/kv/a?token=ann", b"1")
            await agent.ask("PUT", "/v1/kv/a?flags=3", b"2")
            await agent.ask("DELETE", "/v1/kv/a")
            reply = await agent.ask("GET", f"{PATH}/a")
            assert (reply.status, reply.headers["x-gemot-history-since"]) == (200, str(began))
            second, first = reply.json
            assert first == {
                "LockIndex": 0, "Key": "a", "Flags": 0, "Value": base64.b64encode(b"1").decode(),
                "CreateIndex": began + 1, "ModifyIndex": began + 1, "Time": "", "Accessor": "ann",
                "Op": "create", "Until": began + 2, "Deleted": False, "EndTime": "", "EndAccessor": "",
            }  # fmt: skip
            assert (second["Op"], second["Until"], second["Deleted"]) == ("set", began + 3, True)
            page = await agent.ask("GET", f"{PATH}/a?limit=1")
            assert (page.json, page.headers["x-gemot-history-more"]) == ([second], "true")
            rest = await agent.ask("GET", f"{PATH}/a?limit=1&before={second['ModifyIndex']}")
            assert rest.json == [first]
            assert "x-gemot-history-more" not in rest.headers
            assert (await agent.ask("GET", f"{PATH}/b")).status == 404

    run(work())


def test_the_json_of_a_key_is_as_ever_though_history_is_kept() -> None:
    async def work() -> None:
        async with an_agent() as (agent, _):
            await agent.ask("PUT", "/v1/kv/a", b"1")
            (entry,) = (await agent.ask("GET", "/v1/kv/a")).json
            assert list(entry) == ["LockIndex", "Key", "Flags", "Value", "CreateIndex", "ModifyIndex"]

    run(work())


def test_keys_are_told_as_they_were_at_an_index() -> None:
    async def work() -> None:
        async with an_agent() as (agent, servers):
            await agent.ask("PUT", "/v1/kv/d/a", b"1")
            await agent.ask("PUT", "/v1/kv/d/b", b"2")
            at = servers.state.index
            await agent.ask("DELETE", "/v1/kv/d/?recurse")
            for n in range(30):
                await agent.ask("PUT", "/v1/kv/d/b", b"%d" % n)
            then = (await agent.ask("GET", f"{PATH}/d/?recurse&at={at}")).json
            assert ([row["Key"] for row in then["Entries"]], then["Gone"]) == (["d/a"], ["d/b"])
            alone = await agent.ask("GET", f"{PATH}/d/a?at={at}")
            assert base64.b64decode(alone.json["Entries"][0]["Value"]) == b"1"
            assert (await agent.ask("GET", f"{PATH}/d/a?at={at + 1}")).status == 404

    run(work())


@pytest.mark.parametrize(
    ("query", "status", "told"),
    [
        ("a?at=x", 400, "?at must be a whole number of at most 18 digits, not 'x'"),
        ("a?at=-1", 400, "?at must be a whole number"),
        ("a?at=" + "9" * 30, 400, "?at must be a whole number"),
        ("a?at=9999", 400, "the index 9999 is still to come: the newest is"),
        ("a?at=1", 410, "how keys were at the index 1 is forgotten: history is kept from"),
        ("a?limit=0", 400, "?limit must be from 1 to 1000, not 0"),
        ("a?limit=1001", 400, "?limit must be from 1 to 1000, not 1001"),
        ("a?before=no", 400, "?before must be a whole number"),
        ("a?recurse", 400, "?recurse needs ?at=INDEX"),
        ("a?index=5", 400, "history is not waited for"),
        ("?at=5", 400, "Missing key name"),
        ("k" * 5000, 413, "key"),
    ],
)
def test_a_mistake_is_told(query: str, status: int, told: str) -> None:
    async def work() -> None:
        async with an_agent() as (agent, _):
            reply = await agent.ask("GET", f"{PATH}/{query}")
            assert (reply.status, told in reply.text) == (status, True), reply.text

    run(work())


def test_where_no_history_is_kept_it_says_so() -> None:
    async def work() -> None:
        async with an_agent(keeps=False) as (agent, _):
            for query in ("a", "a?at=1"):
                reply = await agent.ask("GET", f"{PATH}/{query}")
                assert reply.status == 404
                assert "no history of keys is kept: kv_history.revisions is 0" in reply.text

    run(work())


def test_a_long_state_comes_whole() -> None:
    """More than is read on the loop, and more than is encoded there."""

    async def work() -> None:
        async with an_agent() as (agent, servers):
            for n in range(1_100):
                await agent.ask("PUT", f"/v1/kv/k/{n}", b"1")
            at = servers.state.index
            await agent.ask("DELETE", "/v1/kv/k/?recurse")
            then = (await agent.ask("GET", f"{PATH}/k/?recurse&at={at}")).json
            assert len(then["Entries"]) == 1_100

    run(work())
