"""No quorum, and more load than is held: what waits is bounded, and who is refused hears so (bug list 31).

Real processes: two of three servers are dead, and more is offered to the third than it holds.
"""

from __future__ import annotations

import http.client
import os
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from support.cluster import Agent, Cluster, wait_for

PATIENCE_S = 90.0
"""Bound of every wait: only a hang reaches it."""

HOLD = {"performance": {"rpc_hold_timeout": "15s"}}
"""All that is offered is to be there before the first of it is given up."""

HELD_MIB = 64
VALUE_BYTES = 512 << 10
OFFERED = 2 * HELD_MIB + 40
"""Half MiBs: 20 MiB more than are held."""


class Alone:
    """One server of three, and a client agent that knows no other."""

    def __init__(self, folder: Path) -> None:
        self.cluster = Cluster(folder, clients=1, config=HOLD)
        self.web = self.cluster.clients[0]

    def start(self) -> None:
        self.cluster.start()
        wait_for(lambda: self.web.put("/v1/kv/before", b"1"), PATIENCE_S, "a write", self.cluster.agents)
        leader = self.cluster.leader()
        dead = [s for s in self.cluster.servers if s is not leader]
        for server in dead:
            server.kill()
        self.left = leader
        for agent in (self.left, self.web):
            wait_for(lambda a=agent: "quorum" in a.stats()["tier"]["waiting"], PATIENCE_S, "no quorum")


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Alone]:
    alone = Alone(tmp_path_factory.mktemp("backpressure"))
    try:
        alone.start()
        yield alone
    finally:
        alone.cluster.stop()


def offer(agent: Agent, number: int, told: list[tuple[int, str | None, str | None, str]]) -> None:
    connection = http.client.HTTPConnection(agent.http, timeout=PATIENCE_S)
    with closing(connection):
        connection.request("PUT", f"/v1/kv/load/{number}", body=os.urandom(VALUE_BYTES))
        response = connection.getresponse()
        text = response.read().decode()
        headers = response.getheader("Retry-After"), response.getheader("X-Gemot-Outcome")
        told.append((response.status, *headers, text))


@pytest.mark.parametrize("asked", ["the server", "a client agent"])
def test_more_than_is_held_is_refused_with_503_and_when_to_ask_again(alone: Alone, asked: str) -> None:
    agent = alone.left if asked == "the server" else alone.web
    told: list[tuple[int, str | None, str | None, str]] = []
    threads = [threading.Thread(target=offer, args=(agent, n, told), daemon=True) for n in range(OFFERED)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE_S)
    statuses = Counter(status for status, *_ in told)
    assert set(statuses) == {500, 503}, statuses
    assert statuses[500] * VALUE_BYTES <= HELD_MIB << 20
    for status, again, outcome, text in told:
        if asked == "a client agent" and outcome == "unknown":
            # Its clock began before the server's: on a busy machine it may not await the server's answer.
            assert text.startswith("Outcome unknown: the server did not answer this write in time"), text
            continue
        assert outcome == "not-done", text
        if status == 503:
            assert again == "1"
            assert f"the limit is {HELD_MIB << 20}" in text
        else:
            assert text.startswith("No cluster leader")


def test_afterwards_there_is_room_again_and_nothing_was_done(alone: Alone) -> None:
    for server in alone.cluster.servers:
        if not server.running:
            server.start()
    wait_for(lambda: alone.web.put("/v1/kv/after", b"1"), PATIENCE_S, "a write", alone.cluster.servers)
    assert alone.web.get("/v1/kv/", keys="") == ["after", "before"]
