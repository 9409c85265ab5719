"""The event family over HTTP: Consul's JSON, statuses and index."""

from __future__ import annotations

import asyncio
import base64
import contextlib
from collections.abc import AsyncIterator
from uuid import UUID

import pytest
from support.http_agent import HttpAgent, run, serving

from gemot.agent.client.watch import event_index
from gemot.agent.http import event
from gemot.agent.user_events import UserEvents


@contextlib.asynccontextmanager
async def event_agent() -> AsyncIterator[tuple[HttpAgent, UserEvents]]:
    events = UserEvents(node="n1", services=dict, now_s=lambda: 0.0, gossip=None)
    async with serving(event.routes(events=events, datacenter="dc1")) as agent:
        yield agent, events


def index_of(id: str) -> int:
    half = UUID(id).int
    return (half >> 64) ^ (half & ((1 << 64) - 1))


def test_an_event_is_fired_and_listed_as_consul_does_it() -> None:
    async def work() -> None:
        async with event_agent() as (agent, _):
            reply = await agent.ask("PUT", "/v1/event/fire/deploy?node=n&dc=dc1", b"hello")
            fired = reply.json
            assert reply.status == 200
            assert fired == {
                "ID": fired["ID"],
                "Name": "deploy",
                "Payload": base64.b64encode(b"hello").decode(),
                "NodeFilter": "n",
                "ServiceFilter": "",
                "TagFilter": "",
                "Version": 1,
                "LTime": 0,
            }
            listed = await agent.ask("GET", "/v1/event/list")
            assert listed.json == [{**fired, "LTime": 1}]
            assert listed.headers["x-consul-index"] == str(index_of(fired["ID"]))

    run(work())


def test_the_index_of_an_event_is_both_halves_of_its_id() -> None:
    assert event_index(str(UUID(int=(5 << 64) + 3))) == 5 ^ 3
    assert event_index("b54fe110-7af5-cafc-d1fb-afc8ba432b1c") == 0xB54FE1107AF5CAFC ^ 0xD1FBAFC8BA432B1C


def test_an_event_without_a_payload_has_null() -> None:
    async def work() -> None:
        async with event_agent() as (agent, _):
            assert (await agent.ask("PUT", "/v1/event/fire/deploy")).json["Payload"] is None

    run(work())


def test_an_empty_list_has_index_1_and_a_name_chooses() -> None:
    async def work() -> None:
        async with event_agent() as (agent, _):
            empty = await agent.ask("GET", "/v1/event/list")
            assert (empty.json, empty.headers["x-consul-index"]) == ([], "1")
            for name in ("a", "b", "a/b"):
                await agent.ask("PUT", f"/v1/event/fire/{name}")
            chosen = await agent.ask("GET", "/v1/event/list?name=a")
            assert [one["Name"] for one in chosen.json] == ["a"]
            assert chosen.headers["x-consul-index"] == str(index_of(chosen.json[0]["ID"]))
            assert [one["Name"] for one in (await agent.ask("GET", "/v1/event/list")).json] == [
                "a",
                "b",
                "a/b",
            ]

    run(work())


@pytest.mark.parametrize(
    ("target", "body", "status", "text"),
    [
        ("/v1/event/fire/", b"", 400, "Missing name"),
        ("/v1/event/fire/x?tag=v1", b"", 500, "Cannot provide tag filter without service filter"),
        ("/v1/event/fire/x?node=(", b"", 500, "Invalid node filter"),
        ("/v1/event/fire/x?service=a%7B9999%7D", b"", 500, "Invalid service filter"),
        ("/v1/event/fire/x?service=w&tag=(%3F%3Dx)", b"", 500, "Invalid tag filter"),
        ("/v1/event/fire/x", bytes(512), 500, "the limit is 512"),
        ("/v1/event/fire/" + "x" * 512, b"", 500, "the limit is 512"),
        ("/v1/event/fire/x", bytes(70_000), 413, ""),
        ("/v1/event/fire/%ff", b"", 400, ""),
        ("/v1/event/fire/x?dc=other", b"", 500, "No path to datacenter"),
    ],
)
def test_what_cannot_be_fired_says_why(target: str, body: bytes, status: int, text: str) -> None:
    async def work() -> None:
        async with event_agent() as (agent, events):
            reply = await agent.ask("PUT", target, body)
            assert (reply.status, text in reply.text) == (status, True), reply.text
            assert events.list() == []

    run(work())


def test_a_read_waits_while_the_last_event_is_the_one_it_knows() -> None:
    async def work() -> None:
        async with event_agent() as (agent, events):
            first = await agent.ask("GET", "/v1/event/list")
            waiting = asyncio.ensure_future(
                agent.ask("GET", f"/v1/event/list?index={first.headers['x-consul-index']}&name=a")
            )
            await asyncio.sleep(0.05)
            events.fire("b")
            await asyncio.sleep(0.05)
            assert not waiting.done(), "another name moves no index of this one"
            events.fire("a")
            told = await waiting
            assert [one["Name"] for one in told.json] == ["a"]
            again = await agent.ask("GET", "/v1/event/list?index=77&name=a")
            assert again.json == told.json, "any other index is answered at once"

    run(work())


def test_a_wait_that_ends_answers_with_what_there_is() -> None:
    async def work() -> None:
        async with event_agent() as (agent, _):
            reply = await agent.ask("GET", "/v1/event/list?index=1&wait=10ms")
            assert (reply.status, reply.json, reply.headers["x-consul-index"]) == (200, [], "1")
            assert (await agent.ask("GET", "/v1/event/list?index=x")).status == 400
            assert (await agent.ask("GET", "/v1/event/list?index=1&wait=x")).status == 400

    run(work())
