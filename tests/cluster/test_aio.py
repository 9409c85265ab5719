"""The client for asyncio with two agents: what it holds or follows outlives the one that is killed."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Iterator
from typing import Any

import pytest
from support.cluster import Agent, Cluster, wait_for
from support.session_cluster import PATIENCE_S, can_begin, session_cluster

from gemot.agent.client.aio.agents import Agents
from gemot.agent.client.aio.election import Observer, ask_to_resign
from gemot.agent.client.aio.hold import Hold
from gemot.agent.client.aio.kv import Kv
from gemot.agent.client.aio.once import Once
from gemot.agent.client.aio.stream import Stream
from gemot.agent.client.connection import ClientError
from gemot.agent.client.election import Election, Leader, is_asked_to_resign
from gemot.agent.client.events import Change, Snapshot
from gemot.agent.client.lock import Lock
from gemot.agent.client.mirror import Mirror

TTL_S = 6.0
"""Nobody loses it on a busy machine because somebody stood still for a second or two."""


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with session_cluster(tmp_path_factory.mktemp("aio")) as cluster:
        yield cluster


@pytest.fixture(autouse=True)
def all_are_up(cluster: Cluster) -> Iterator[None]:
    yield
    for agent in cluster.clients:
        if not agent.running:
            agent.start()
            wait_for(lambda agent=agent: can_begin(agent), PATIENCE_S, "it is back", cluster.agents)


def run(work: Coroutine[Any, Any, None]) -> None:
    asyncio.run(asyncio.wait_for(work, PATIENCE_S))


async def killed(agent: Agent) -> None:
    await asyncio.to_thread(agent.kill)


def test_what_is_held_outlives_an_agent_and_its_fence_is_good_at_another(cluster: Cluster) -> None:
    first, second = cluster.clients

    async def main() -> None:
        async with (
            Agents([first.http, second.http]) as agents,
            Hold(agents, Lock("two"), ttl_s=TTL_S) as hold,
        ):
            await killed(first)
            assert await hold.wait_lost(1.5 * TTL_S) == ""
            async with Agents(second.http) as other:
                assert await Hold(other, Lock("two")).acquire(1.0) is None
            assert await Kv(agents).put("by-two", b"1", lock=hold.guard, fence=hold.fence)

    run(main())


def test_a_stream_outlives_its_agent_and_tells_each_change_once(cluster: Cluster) -> None:
    first, second = cluster.clients
    names = [f"told/{number:03}" for number in range(120)]

    async def main() -> None:
        told: list[Change] = []
        mirror, broke = Mirror(), list[ClientError]()

        async def follow(events: Stream) -> None:
            async for event in events:
                assert not isinstance(event, Snapshot), "it goes on, and does not begin anew"
                mirror.take(event)
                if isinstance(event, Change):
                    told.append(event)
                    if event.changes[-1].key == names[-1]:
                        return

        async with (
            Agents(cluster.servers[0].http) as writing,
            Agents([first.http, second.http]) as agents,
            Stream(agents, {"prefix": "told/"}, trouble=lambda error, _: broke.append(error)) as events,
        ):
            assert isinstance(await anext(events), Snapshot)
            following = asyncio.create_task(follow(events))
            for number, name in enumerate(names):
                await Kv(writing).put(name, b"x")
                if number == 60:
                    await killed(first)
            await following
        assert broke
        assert [op.key for each in told for op in each.changes] == names
        assert [each.index for each in told] == [each.changes[0].item["ModifyIndex"] for each in told]
        assert sorted(mirror.items) == names

    run(main())


def test_an_observer_sees_the_next_leader_though_agent_and_leader_are_gone(cluster: Cluster) -> None:
    """The first leader's only agent is killed, which is the observer's as well: its lease ends."""
    first, second = cluster.clients

    async def main() -> None:
        async with (
            Agents(first.http) as one,
            Agents(second.http) as two,
            Agents([first.http, second.http]) as any_of_them,
        ):
            leads = Hold(one, Election("seen", name="one", address="one:80"), ttl_s=TTL_S)
            follows = Hold(two, Election("seen", name="two", address="two:80"), ttl_s=TTL_S)
            fence = await leads.acquire()
            observer = Observer(any_of_them, "seen")
            assert await observer.next() == Leader("one", "one:80", leads.session, fence or 0, False)
            waiting = asyncio.create_task(follows.acquire())
            await killed(first)
            leader = await beyond(observer, fence or 0)
            next_fence = await waiting
            assert leader == Leader("two", "two:80", follows.session, next_fence or 0, False)
            assert leads.lost
            await follows.release()
            await leads.release()

    run(main())


async def beyond(observer: Observer, fence: int) -> Leader:
    """The leader of the next term. An agent that is killed is an error, after which the next one is asked."""
    while True:
        try:
            leader = await observer.next()
        except ClientError:
            continue
        if leader is not None and leader.fence > fence:
            return leader


def test_a_leader_at_one_agent_resigns_when_it_is_asked_at_another(cluster: Cluster) -> None:
    first, second = cluster.clients

    async def main() -> None:
        async with Agents(first.http) as here, Agents(second.http) as there:
            asked = asyncio.Event()
            leads = Hold(
                here,
                Election("resigns", name="one"),
                lock_delay_s=0,
                seen=lambda rows: asked.set() if is_asked_to_resign(rows) else None,
            )
            fence = await leads.acquire()
            observer = Observer(there, "resigns")
            assert await observer.next() is not None
            follows = asyncio.create_task(Hold(there, Election("resigns", name="two")).acquire())
            leader = await ask_to_resign(Kv(there), "resigns")
            assert leader is not None
            assert (leader.name, leader.fence) == ("one", fence)
            await asked.wait()
            assert await leads.release()
            assert (await beyond(observer, fence or 0)).fence == await follows

    run(main())


def test_two_tasks_at_two_agents_do_it_once_unless_one_is_cut_off_in_the_midst(
    cluster: Cluster,
) -> None:
    """Who was cut off did the work and could not record it: the next one does it again, and that is known."""
    first, second = cluster.clients

    async def main() -> None:
        did: list[str] = []

        async def do(addresses: list[str], name: str, key: str, *, cut_off: bool = False) -> None:
            async with Agents(addresses) as agents:
                once = Once(Kv(agents), key)
                # Who is cut off is waited for; nobody else is to lose the lock, however slow the host.
                hold = Hold(agents, Lock(once.key), ttl_s=2 if cut_off else 15)
                await hold.acquire()
                try:
                    if await once.done() is None:
                        did.append(name)
                        if cut_off:
                            await killed(first)
                        await once.record(hold, 0)
                finally:
                    await hold.release()

        both = [first.http, second.http]
        await asyncio.gather(do(both, "a", "once/calm"), do(both[::-1], "b", "once/calm"))
        assert len(did) == 1
        did.clear()
        cut = asyncio.create_task(do([first.http], "cut", "once/cut", cut_off=True))
        while not did:  # noqa: ASYNC110 - it holds the lock then
            await asyncio.sleep(0.01)
        await do([second.http], "next", "once/cut")
        with pytest.raises(ClientError, match="once/cut"):
            await cut
        assert did == ["cut", "next"]
        await do([second.http], "third", "once/cut")
        assert did == ["cut", "next"]

    run(main())
