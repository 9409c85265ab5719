"""Transactions through real agents: whichever is asked, whole to every reader, a killed leader in between."""

from __future__ import annotations

import json
import threading
from base64 import b64decode, b64encode
from collections.abc import Iterator
from contextlib import closing, suppress
from typing import Any

import pytest
from support.cluster import Agent, Cluster, wait_for

from gemot.agent.client.connection import ClientError, Refused, Reply

PATIENCE_S = 90.0
PAIR = ("pair/a", "pair/b", "pair/c")


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    cluster = Cluster(tmp_path_factory.mktemp("txn"), servers=3, clients=1)
    try:
        cluster.start()
        wait_for(lambda: taken(cluster.clients[0]), PATIENCE_S, "all servers know them", cluster.agents)
        yield cluster
    finally:
        cluster.stop()


def taken(agent: Agent) -> bool:
    try:
        return bool(txn(agent, key("set", "first", "1")).json())
    except Refused:
        return False


def key(verb: str, of: str, value: str = "", **fields: Any) -> dict[str, Any]:
    return {"KV": {"Verb": verb, "Key": of, "Value": b64encode(value.encode()).decode(), **fields}}


def put(agent: Agent, path: str, body: bytes = b"", **params: Any) -> Reply:
    with closing(agent.connect()) as connection:
        return connection.request("PUT", f"/v1/{path}", params=params, body=body)


def txn(agent: Agent, *ops: Any, **params: Any) -> Reply:
    return put(agent, "txn", json.dumps(ops).encode(), **params)


def test_any_agent_takes_one_and_all_see_the_whole_of_it(cluster: Cluster) -> None:
    for number, agent in enumerate(cluster.agents):
        value = str(number)
        reply = txn(
            agent,
            key("set", "any/1", value),
            {"Node": {"Verb": "set", "Node": {"Node": f"ext{number}", "Address": "192.0.2.1"}}},
            {"Service": {"Verb": "set", "Node": f"ext{number}", "Service": {"Service": "db"}}},
            key("get", "any/1"),
        )
        assert [list(found) for found in reply.json()["Results"]] == [["KV"], ["Node"], ["Service"], ["KV"]]
        for other in cluster.agents:
            found = txn(other, key("get-tree", "any/")).json()["Results"]
            assert [b64decode(row["KV"]["Value"]).decode() for row in found] == [value]
            assert f"ext{number}" in [row["Node"] for row in other.get("/v1/catalog/service/db")]


def test_one_that_fails_is_a_409_at_every_agent_and_does_nothing(cluster: Cluster) -> None:
    for agent in cluster.agents:
        with pytest.raises(Refused) as refused:
            txn(agent, key("set", "never", "1"), key("cas", "any/1", "x", Index=1))
        assert refused.value.status == 409
        assert 'failed to set key \\"any/1\\", index is stale' in str(refused.value)
        with pytest.raises(Refused, match="404"):
            agent.get("/v1/kv/never")


def test_a_fence_guards_writes_through_any_agent_until_its_session_ends(cluster: Cluster) -> None:
    agent = cluster.clients[0]
    session = put(agent, "session/create", b'{"LockDelay":"0s"}').json()["ID"]
    fence = put(agent, "kv/lock", acquire=session).headers["x-gemot-fence"]
    for each in cluster.agents:
        reply = put(each, "kv/guarded", each.name.encode(), lock="lock", fence=fence)
        assert (reply.json(), reply.headers["x-gemot-fence-checked"]) == (True, fence)
        assert each.get("/v1/gemot/fence/check", lock="lock", fence=fence)["Held"] is True
    put(agent, f"session/destroy/{session}")
    for each in cluster.agents:
        with pytest.raises(Refused, match="nobody holds it"):
            put(each, "kv/guarded", b"late", lock="lock", fence=fence)
        with pytest.raises(Refused, match='"Held":false'):
            each.get("/v1/gemot/fence/check", lock="lock", fence=fence)


def test_readers_see_all_of_a_transaction_or_nothing_while_its_leader_is_killed(cluster: Cluster) -> None:
    """Three keys always have one value; half of the transactions fail at their last operation."""
    writer, leader = cluster.clients[0], cluster.leader()
    txn(writer, *[key("set", each, "0") for each in PAIR])
    stop, broken, seen = threading.Event(), [], set()
    acknowledged = [0]

    def write() -> None:
        number = 0
        while not stop.is_set():
            number += 1
            ops = [key("set", each, str(number)) for each in PAIR]
            with suppress(ClientError, OSError):
                if number % 2:
                    txn(writer, *ops, key("get", "none"))
                    broken.append("one that cannot be done was")
                txn(writer, *ops)
                acknowledged.append(number)

    def read(agent: Agent, **params: str) -> None:
        while not stop.is_set():
            with suppress(ClientError, OSError):
                for rows in (
                    agent.get("/v1/kv/pair/", recurse="", **params),
                    [
                        row["KV"]
                        for row in txn(agent, *[key("get", k) for k in PAIR], **params).json()["Results"]
                    ],
                ):
                    values = [int(b64decode(row["Value"])) for row in rows]
                    seen.update(values)
                    if len(set(values)) != 1 or values[0] % 2:
                        broken.append(f"{agent.name} saw {values}")

    others = [server for server in cluster.servers if server is not leader]
    readers = [threading.Thread(target=read, args=(agent,)) for agent in (*others, writer)]
    readers += [threading.Thread(target=read, args=(agent,), kwargs={"stale": ""}) for agent in others]
    threads = [threading.Thread(target=write), *readers]
    for thread in threads:
        thread.start()
    try:
        wait_for(lambda: len(acknowledged) > 10, PATIENCE_S, "writes before", cluster.agents)
        leader.kill()
        before = len(acknowledged)
        wait_for(lambda: len(acknowledged) > before + 10, PATIENCE_S, "writes after", cluster.clients)
        last = acknowledged[-1]
        wait_for(lambda: max(seen) >= last, PATIENCE_S, "a reader sees them", cluster.clients)
    finally:
        stop.set()
        for thread in threads:
            thread.join(PATIENCE_S)
        leader.start()
    assert broken == []
    (found, *_) = writer.get("/v1/kv/pair/", recurse="")
    assert int(b64decode(found["Value"])) >= acknowledged[-1]
