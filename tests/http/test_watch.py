"""`/v1/gemot/watch` over real sockets and real state: each kind, places, mistakes, and slow readers."""

from __future__ import annotations

import asyncio
from functools import partial
from urllib.parse import quote

import pytest
from support.followed import Followed
from support.http_agent import HttpAgent, run, until
from support.http_families import api_agent
from support.local_servers import LocalServers
from support.sessions import made, session_agent

from gemot.agent.cli.watched import locate
from gemot.agent.feeds import feed as feed_module
from gemot.agent.feeds.ring import Ring
from gemot.server.model.catalog import Deregister, Node, Register, Service
from gemot.server.model.health import Check
from gemot.server.model.kv import MAX_KEY_BYTES, KvSet

CHECKS = ("disk", "serfHealth", "sick", "web-check")


async def follow(agent: HttpAgent, query: str, place: str = "") -> Followed:
    connection = await agent.connect()
    header = f"Last-Event-ID: {place}\r\n" if place else ""
    connection.send(f"GET /v1/gemot/watch?{query} HTTP/1.1\r\nHost: a\r\n{header}\r\n".encode())
    return Followed.over(connection)


async def set_(servers: LocalServers, key: bytes, value: bytes = b"") -> int:
    return (await servers.apply(KvSet(key, value))).index


def test_a_key_is_followed_from_what_it_is_through_each_change_and_its_end() -> None:
    async def work() -> None:
        async with api_agent() as (agent, servers):
            first = await set_(servers, b"app/port", b"1")
            followed = await follow(agent, "key=app/port")
            snapshot = await followed.next()
            (item,) = (await agent.ask("GET", "/v1/kv/app/port")).json
            assert snapshot.data["Items"] == [{"Key": "app/port", "Item": item}]
            assert snapshot.id == f"0-{first}"
            await set_(servers, b"app/port/below")
            index = await set_(servers, b"app/port", b"2")
            change = await followed.next()
            assert (change.id, change.data["Index"]) == (f"0-{index}", index)
            item = (await agent.ask("GET", "/v1/kv/app/port")).json[0]
            assert change.data["Changes"] == [{"Op": "set", "Key": "app/port", "Item": item}]
            await agent.ask("DELETE", "/v1/kv/app?recurse")
            assert (await followed.next()).changes == [("delete", "app/port")]

    run(work())


def test_a_service_is_told_as_instances_that_come_change_and_go() -> None:
    async def work() -> None:
        async with api_agent() as (agent, servers):
            followed = await follow(agent, "service=web&passing")
            assert (await followed.next()).data["Items"] == []
            check = Check("n1", "web", "web", "passing", service_id="web1")
            await servers.apply(Register(Node("n1", "10.0.0.1"), (Service("web1", "web"),), (check,)))
            shown = (await agent.ask("GET", "/v1/health/service/web")).json
            told = (await followed.next()).data["Changes"]
            assert told == [{"Op": "set", "Key": "n1/web1", "Item": shown[0]}]
            await servers.apply(Register(Node("n2", "10.0.0.2"), (Service("db", "db"),)))
            critical = Check("n1", "web", "web", "critical", service_id="web1")
            await servers.apply(Register(Node("n1", "10.0.0.1"), (), (critical,)))
            assert (await followed.next()).changes == [("delete", "n1/web1")]

    run(work())


@pytest.mark.parametrize(
    ("query", "keys"),
    [
        ("nodes=", ["n1", "n2"]),
        ("services=", ["web"]),
        ("node=n1", [*(f"check/{c}" for c in CHECKS), "node", "service/web"]),
        ("checks=warning", ["n1/disk", "n2/disk"]),
        ("checks=web", ["n1/web-check", "n2/web-check"]),
        (
            "checks=any",
            [f"{n}/{c}" for n in ("n1", "n2") for c in ("disk", "serfHealth", "sick", "web-check")],
        ),
    ],
)
def test_every_kind_tells_what_there_is_and_what_leaves(query: str, keys: list[str]) -> None:
    async def work() -> None:
        async with session_agent() as (agent, servers):
            followed = await follow(agent, query)
            snapshot = await followed.next()
            assert sorted(each["Key"] for each in snapshot.data["Items"]) == keys
            await servers.apply(Deregister("n1"))
            await servers.apply(Deregister("n2"))
            gone: set[str] = set()
            while not gone >= set(keys):
                event = await followed.next()
                gone |= {key for op, key in event.changes if op == "delete"}

    run(work())


def test_a_session_is_told_until_it_ends() -> None:
    async def work() -> None:
        async with session_agent() as (agent, _):
            id = await made(agent, Name="mine")
            followed = await follow(agent, f"session={id}")
            assert [each["Item"]["Name"] for each in (await followed.next()).data["Items"]] == ["mine"]
            await agent.ask("PUT", f"/v1/session/destroy/{id}")
            assert (await followed.next()).changes == [("delete", id)]

    run(work())


def test_user_events_are_told_each_once_and_numbered_by_this_agent() -> None:
    async def work() -> None:
        async with api_agent() as (agent, _):
            first = (await agent.ask("PUT", "/v1/event/fire/deploy")).json["ID"]
            followed = await follow(agent, "event=deploy")
            snapshot = await followed.next()
            assert [each["Item"]["ID"] for each in snapshot.data["Items"]] == [first]
            await agent.ask("PUT", "/v1/event/fire/other")
            second = (await agent.ask("PUT", "/v1/event/fire/deploy")).json["ID"]
            change = await followed.next()
            assert change.changes == [("set", second)]
            again = await follow(agent, "event=deploy", snapshot.id)
            assert (await again.next()).id == change.id
            elsewhere = await follow(agent, "event=deploy", "7-1")
            assert "numbers the events" in (await elsewhere.next()).data["Reason"]

    run(work())


def test_a_reader_goes_on_by_the_header_or_the_parameter() -> None:
    async def work() -> None:
        async with api_agent() as (agent, servers):
            first = await set_(servers, b"k", b"1")
            second = await set_(servers, b"k", b"2")
            for followed in (
                await follow(agent, "key=k", f"0-{first}"),
                await follow(agent, f"key=k&after={first}"),
                await follow(agent, f"key=k&after=0-{first}"),
            ):
                event = await followed.next()
                assert (event.kind, event.id) == ("change", f"0-{second}")

    run(work())


@pytest.mark.parametrize(
    ("query", "status", "why"),
    [
        ("", 400, "exactly one of key, prefix"),
        ("key=a&key=b", 400, "exactly one"),
        ("key=a&service=b", 400, "exactly one"),
        ("key=", 400, "key: name what"),
        ("service=", 400, "service: name what"),
        ("session=", 400, "session: name what"),
        ("session=" + "x" * 256, 413, "limit is 255"),
        ("prefix=" + "x" * (MAX_KEY_BYTES + 1), 413, "limit is 4096 bytes"),
        ("key=a&after=x", 400, "is not the id of an event"),
        ("key=a&after=1-2-3", 400, "is not the id of an event"),
        ("key=a&after=" + "9" * 40, 400, "is not the id of an event"),
        ("service=%ff", 400, "not valid UTF-8"),
        ("key=a&after=%ff", 400, "is not the id of an event"),
        ("service=web&filter=x", 400, 'the parameter "filter" has no meaning for a watch: leave it out and'),
        ("service=web&near=_agent", 400, 'the parameter "near" has no meaning'),
        ("key=a&index=5", 400, "by Last-Event-ID"),
        ("key=a&wait=1s", 400, "lasts until its reader goes"),
        ("key=a&%0akeys=", 400, "has no meaning for a watch: leave it out"),
        ("key=a&tag=b", 400, "tag: goes with ?service= alone"),
        ("nodes=n1", 400, "or name one by ?node="),
        ("services=web", 400, "or name one by ?service="),
        ("key=a&dc=other", 500, "No path to datacenter"),
        ("key=a&ns=other", 400, "not supported"),
    ],
)
def test_a_mistake_is_told_before_anything_is_opened(query: str, status: int, why: str) -> None:
    async def work() -> None:
        async with api_agent() as (agent, servers):
            reply = await agent.ask("GET", f"/v1/gemot/watch?{query}")
            assert (reply.status, why in reply.text) == (status, True), reply.text
            assert servers.waiting == 0

    run(work())


def test_hostile_names_are_followed_like_others() -> None:
    names = ["a b", 'q"uote', "line\nbreak", "ü/ñ", "%", "\x00"]

    async def work() -> None:
        async with api_agent() as (agent, servers):
            for name in names:
                followed = await follow(agent, f"key={quote(name, safe='')}")
                await followed.next()
                await set_(servers, name.encode())
                assert (await followed.next()).changes == [("set", name)]

    run(work())


def test_instances_and_checks_have_keys_of_their_own_whatever_names_they_have() -> None:
    pairs = [("a/b", "c"), ("a", "b/c"), ("a%2Fb", "c"), ("n-1.x", "web:1%")]

    async def work() -> None:
        async with api_agent() as (agent, servers):
            for node, id in pairs:
                check = Check(node, id, id, "passing", service_id=id)
                await servers.apply(Register(Node(node, "10.0.0.1"), (Service(id, "web"),), (check,)))
            for query in ("service=web", "checks=web"):
                snapshot = await (await follow(agent, query)).next()
                told = {each["Key"]: each["Item"] for each in snapshot.data["Items"]}
                assert set(told) == {"a%2Fb/c", "a/b/c", "a%252Fb/c", "n-1.x/web:1%"}
                kind, _, name = query.partition("=")
                asked = locate(kind, {"service": name, "tag": (), "passingonly": None, "state": ""})
                shown = (await agent.ask("GET", asked.path)).json
                assert asked.items(shown) == told, "gemot watch has them so where it asks by itself"

    run(work())


def test_keys_and_prefixes_may_be_any_bytes() -> None:
    async def work() -> None:
        async with api_agent() as (agent, servers):
            for query in ("key=a%ff", "prefix=a%ff"):
                followed = await follow(agent, query)
                await followed.next()
                await set_(servers, b"a\xfe")
                await set_(servers, b"a\xff", query.encode())
                change = await followed.next()
                assert change.changes == [("set", "a\ufffdff")]
                assert change.data["Index"] == change.data["Changes"][0]["Item"]["ModifyIndex"]
                index = (await agent.ask("GET", "/v1/kv/a%ff")).json[0]["ModifyIndex"]
                assert change.data["Index"] == index, "of that key, not of the other that shows alike"

    run(work())


def test_a_reader_that_is_slow_costs_the_agent_no_queue_and_loses_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(feed_module, "Ring", partial(Ring, most_events=4))

    async def work() -> None:
        async with api_agent() as (agent, servers):
            slow = await agent.connect()
            slow._reader._transport.pause_reading()  # type: ignore[attr-defined]
            slow.send(b"GET /v1/gemot/watch?prefix=big/ HTTP/1.1\r\nHost: a\r\n\r\n")
            quick = await follow(agent, "prefix=big/")
            await quick.next()
            indexes = [await set_(servers, b"big/%d" % n, bytes(400_000)) for n in range(30)]
            assert [(await quick.next()).data["Index"] for _ in indexes] == indexes
            slow._reader._transport.resume_reading()  # type: ignore[attr-defined]
            late = Followed.over(slow)
            told = [await late.next() for _ in range(31)]
            assert [event.data["Index"] for event in told[1:]] == indexes
            assert told[0].kind == "snapshot"

    run(work())


def test_a_reader_that_goes_away_leaves_nothing_behind() -> None:
    async def work() -> None:
        async with api_agent() as (agent, servers):
            connection = await agent.connect()
            connection.send(b"GET /v1/gemot/watch?prefix=a/ HTTP/1.1\r\nHost: a\r\n\r\n")
            await Followed.over(connection).next()
            await connection.close()
            await until(lambda: agent.transport.connections == 0)
            await set_(servers, b"a/b")
            assert (await agent.ask("GET", "/v1/kv/a/b")).status == 200

    run(work())


def test_streams_end_when_the_agent_stops() -> None:
    async def work() -> None:
        async with api_agent() as (agent, _):
            connection = await agent.connect()
            connection.send(b"GET /v1/gemot/watch?prefix=a/ HTTP/1.1\r\nHost: a\r\n\r\n")
            await Followed.over(connection).next()
            stopping = asyncio.ensure_future(agent.transport.stop())
            assert await connection.ended()
            await stopping

    run(work())
