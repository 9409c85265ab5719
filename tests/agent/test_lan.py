"""An agent among all agents: what gossip carries of it, who is let in, and what the tier hears."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from typing import Any

import msgspec
import pytest
from support.gossiping import eventually
from support.members import client, hello, server
from support.ports import free_port

from gemot.agent.gossip import door
from gemot.agent.gossip.held_ring import HeldRing
from gemot.agent.gossip.keyring import Key, Keyring
from gemot.agent.gossip.message import META_BYTES, Facts, Record
from gemot.agent.gossip.stream import GREETING
from gemot.agent.gossip.timing import LOCAL
from gemot.agent.join import Joiner
from gemot.agent.lan import Lan, LanConfig, facts_of, member_of
from gemot.agent.sealing import Sealing
from gemot.server.model.errors import BadRequest
from gemot.server.rpc.message import Call, Hello, Joined, Member
from gemot.server.runtime.connection import Listener
from gemot.server.runtime.timer import LoopTimer


class Tier:
    """It knows that server 1 is the only server."""

    def hello(self) -> Hello:
        return hello(client(1))

    def handle(self, member: Member, call: Call, reply: Callable[[Any], None]) -> Callable[[], None]:
        reply(Joined((server(1),), 1, "c1"))
        return lambda: None

    def on_connected(self, member: Member) -> None: ...

    def on_disconnected(self, member: Member) -> None: ...


class Agent:
    def __init__(self, member: Member, key: Key | None) -> None:
        loop = asyncio.get_running_loop()
        ring = None
        if key is not None:
            ring = HeldRing(ring=Keyring((key,)), keep=lambda _: None, draw=str, now_s=loop.time)
        self.member = msgspec.structs.replace(member, address="127.0.0.1")
        self.port = free_port()
        self.heard: list[tuple[str, str]] = []
        tier: Any = Tier()
        self.lan = Lan(
            loop=loop,
            config=LanConfig("127.0.0.1", self.port, LOCAL, Sealing(ring=ring)),
            me=self.member,
            joins=Listener(loop=loop, tier=tier, host="127.0.0.1", port=self.port, join_only=True),
            heard=lambda one, standing: self.heard.append((standing, one.name)),
        )

    async def join(self, other: Agent) -> None:
        await self.lan.gossip.exchange("127.0.0.1", other.port, join=True)

    def joiner(self, other: Agent) -> Joiner:
        """As the agent asks an address of its `retry_join`; of the servers it knows enough."""
        loop = asyncio.get_running_loop()
        return Joiner(
            loop=loop,
            timer=LoopTimer(loop),
            addresses=(f"127.0.0.1:{other.port}",),
            hello=lambda: hello(self.member),
            expect=0,
            on_joined=lambda _joined: None,
            settled=lambda: True,
            lan=self.lan,
        )


def run(
    test: Callable[[Callable[[Member], Awaitable[Agent]]], Awaitable[None]], key: Key | None = None
) -> None:
    async def main() -> None:
        async with AsyncExitStack() as stack:

            async def start(member: Member) -> Agent:
                agent = Agent(member, key)
                await agent.lan.start()
                stack.push_async_callback(agent.lan.stop)
                return agent

            await test(start)

    asyncio.run(main())


@pytest.mark.parametrize("member", [client(1), server(1)])
def test_gossip_carries_what_everybody_needs_of_an_agent(member: Member) -> None:
    facts = facts_of(member, 8301)
    assert len(facts.meta) <= META_BYTES
    assert member_of(facts) == msgspec.structs.replace(member, meta={}, tagged_addresses={})


@pytest.mark.parametrize("meta", [b"", b"\xc1", b"\x90", b"\x94\xa6client\xa3dc1\xa1x\xa8no:where"])
def test_what_is_no_agent_of_ours_is_none(meta: bytes) -> None:
    assert member_of(Facts("id", "name", "10.0.0.1", 8301, meta)) is None


def test_an_agent_may_wish_to_be_remembered_for_less_than_the_others_are() -> None:
    assert facts_of(client(1), 8301).reconnect_timeout_ms == 0
    assert facts_of(client(1), 8301, 1_800_000).reconnect_timeout_ms == 1_800_000


def test_the_tier_hears_who_comes_and_who_goes() -> None:
    async def test(start: Callable[[Member], Awaitable[Agent]]) -> None:
        first, second = await start(server(1)), await start(client(2))
        assert first.lan.alone
        await second.join(first)
        await eventually(lambda: not first.lan.alone)
        assert first.heard == [("alive", second.member.name)]
        assert second.lan.standing(first.member.id) == "alive"
        await second.lan.gossip.leave()
        await eventually(lambda: ("left", second.member.name) in first.heard)
        assert dict((m.name, s) for m, s in first.lan.everyone()) == {
            first.member.name: "alive",
            second.member.name: "left",
        }

    run(test)


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"datacenter": "dc2"}, "is of datacenter dc2, this is dc1"),
        ({"name": server(1).name}, f"the name {server(1).name} is taken: 127.0.0.1 has it"),
        ({"name": "SRV1"}, "the name SRV1 is taken: 127.0.0.1 has it"),
    ],
)
def test_who_cannot_belong_here_is_told_why(changed: dict[str, str], told: str) -> None:
    async def test(start: Callable[[Member], Awaitable[Agent]]) -> None:
        first = await start(server(1))
        stranger = await start(msgspec.structs.replace(client(2), **changed))
        with pytest.raises(BadRequest, match=told):
            await stranger.join(first)
        assert first.lan.alone

    run(test)


def test_an_agent_of_another_datacenter_comes_in_by_no_hearsay_either() -> None:
    async def test(start: Callable[[Member], Awaitable[Agent]]) -> None:
        first = await start(server(1))
        foreign = facts_of(msgspec.structs.replace(client(2), datacenter="dc2"), 8301)
        known = facts_of(client(3), 8301)
        told = (Record(foreign), Record(known))
        first.lan.gossip.do(lambda swim, now: swim.merge(told, known, now))
        assert first.lan.standing(foreign.id) is None
        assert first.lan.standing(known.id) == "alive"

    run(test)


@pytest.mark.parametrize("key", [None, Key(b"k" * 32)], ids=["clear", "sealed"])
def test_two_that_began_apart_become_one_by_retry_join(key: Key | None) -> None:
    """Each has somebody, so neither is alone; but a server that the tier knows of is not in its list."""

    async def test(start: Callable[[Member], Awaitable[Agent]]) -> None:
        agents = [await start(member) for member in (server(1), client(2), client(3), client(4))]
        await agents[1].join(agents[0])
        await agents[3].join(agents[2])
        await eventually(lambda: not any(agent.lan.alone for agent in agents))
        assert agents[3].lan.standing(server(1).id) is None
        joiner = agents[3].joiner(agents[0])
        joiner.start()
        await eventually(lambda: all(len(list(agent.lan.everyone())) == 4 for agent in agents))
        await joiner.stop()

    run(test, key)


def test_a_name_of_all_servers_leads_to_another_one_than_this() -> None:
    """`retry_join: [servers.example.com]` on each of them: the first address may be its own."""

    async def test(start: Callable[[Member], Awaitable[Agent]]) -> None:
        first, second = await start(server(1)), await start(server(2))
        joiner = second.joiner(first)

        async def addresses(_address: tuple[str, int]) -> list[tuple[str, int]]:
            return [("127.0.0.1", second.port), ("127.0.0.1", 1), ("127.0.0.1", first.port)]

        joiner._resolved = addresses  # type: ignore[method-assign]
        joiner.start()
        await eventually(lambda: first.lan.standing(second.member.id) == "alive")
        await joiner.stop()
        assert second.lan.gossip.dropped["reflected"] == 0

    run(test, Key(b"k" * 32))


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"GET / HTTP/1.1", "stranger"),
        (GREETING, "broken_off"),
        (GREETING + b"\0\0\0\7\xa1\0", "broken_off"),
        (GREETING + b"\xff\xff\xff\xff", "malformed"),
        (GREETING + b"\0\0\0\3\xa1\0\1 and more", "malformed"),
        (b"", "silent"),
    ],
)
def test_each_connection_that_comes_to_nothing_is_counted_once_by_why(
    data: bytes, why: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(door, "SILENT_S", 0.2)

    async def test(start: Callable[[Member], Awaitable[Agent]]) -> None:
        agent = await start(server(1))
        reader, writer = await asyncio.open_connection("127.0.0.1", agent.port)
        writer.write(data)
        if data:
            writer.write_eof()
        with contextlib.suppress(ConnectionResetError):
            assert await reader.read() == b""
        writer.close()
        assert {why: agent.lan.dropped(why) for why in Lan.DROPS if agent.lan.dropped(why)} == {why: 1}

    run(test)
