"""The client for asyncio with two agents: what it holds outlives the one that is killed."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest
from support.cluster import Cluster
from support.session_cluster import PATIENCE_S, session_cluster

from gemot.agent.client.aio.agents import Agents
from gemot.agent.client.aio.hold import Hold
from gemot.agent.client.aio.kv import Kv
from gemot.agent.client.lock import Lock


@pytest.fixture
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with session_cluster(tmp_path_factory.mktemp("aio")) as cluster:
        yield cluster


def test_what_is_held_outlives_an_agent_and_its_fence_is_good_at_another(cluster: Cluster) -> None:
    first, second = cluster.clients

    async def main() -> None:
        async with Agents([first.http, second.http]) as agents, Hold(agents, Lock("two"), ttl_s=3) as hold:
            await asyncio.to_thread(first.kill)
            assert await hold.wait_lost(2 * 3.0) == ""
            async with Agents(second.http) as other:
                assert await Hold(other, Lock("two")).acquire(1.0) is None
            assert await Kv(agents).put("by-two", b"1", lock=hold.guard, fence=hold.fence)

    asyncio.run(asyncio.wait_for(main(), PATIENCE_S))
