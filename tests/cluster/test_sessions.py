"""Sessions and locks through real agents: one holder, fences that grow, and an end that every agent sees."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import pytest
from support.cluster import Agent, Cluster, wait_for
from support.session_cluster import PATIENCE_S, session_cluster

from gemot.agent.client.connection import Refused, Reply

TTL_S = 2.0


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with session_cluster(tmp_path_factory.mktemp("sessions")) as cluster:
        yield cluster


def put(agent: Agent, path: str, body: bytes = b"", **params: Any) -> Reply:
    with closing(agent.connect()) as connection:
        return connection.request("PUT", f"/v1/{path}", params=params, body=body)


def begin(agent: Agent, body: bytes = b'{"LockDelay":"0s"}') -> str:
    return str(put(agent, "session/create", body).json()["ID"])


def listed(agent: Agent) -> list[str]:
    return [row["ID"] for row in agent.get("/v1/session/list")]


def test_one_of_all_agents_gets_the_lock_and_each_next_one_a_greater_fence(cluster: Cluster) -> None:
    held = {begin(agent): agent for agent in cluster.agents}
    fences = []
    while held:
        replies = {id: put(agent, "kv/lock", id.encode(), acquire=id) for id, agent in held.items()}
        (holder,) = [id for id, reply in replies.items() if reply.json() is True]
        fences.append(int(replies[holder].headers["x-gemot-fence"]))
        assert all("x-gemot-fence" not in reply.headers for id, reply in replies.items() if id != holder)
        for agent in cluster.agents:
            (entry,) = agent.get("/v1/kv/lock")
            assert (entry["Session"], entry["Fence"]) == (holder, fences[-1])
        put(held.pop(holder), f"session/destroy/{holder}")
    assert fences == sorted(set(fences))
    assert len(fences) == len(cluster.agents)


def test_the_least_ttl_is_each_agents_own_and_a_reload_changes_it(cluster: Cluster) -> None:
    agent, other = cluster.clients
    agent.write_config(session_ttl_min="5s")
    try:
        assert put(agent, "agent/reload").headers["x-gemot-applied"] == "session_ttl_min"
        with pytest.raises(
            Refused, match=r"Invalid Session TTL '2000000000', must be between \[5s=24h0m0s\]"
        ):
            begin(agent, b'{"TTL":"2s"}')
        put(other, "session/destroy/" + begin(other, b'{"TTL":"2s"}'))
        assert agent.get("/v1/agent/self")["Config"]["SessionTTLMin"] == 5_000_000_000
    finally:
        agent.write_config(session_ttl_min="1s")
        put(agent, "agent/reload")


def test_a_session_lives_while_it_is_renewed_and_ends_when_it_is_not(cluster: Cluster) -> None:
    agent, other = cluster.clients
    sent_s = begun_s = time.monotonic()
    born = put(agent, "session/create", b'{"TTL":"2s","LockDelay":"0s"}')
    assert born.headers["x-gemot-session-remaining"] == "2s"
    session = born.json()["ID"]
    assert put(agent, "kv/leased", b"mine", acquire=session).json() is True
    while (now_s := time.monotonic()) < begun_s + 3 * TTL_S:
        try:
            renewed = put(other, f"session/renew/{session}")  # any agent may
        except Refused:
            # This host slept for longer than a TTL: then alone may it be gone.
            assert time.monotonic() - sent_s > TTL_S
            break
        assert renewed.headers["x-gemot-session-remaining"] == "2s"
        sent_s = now_s
    wait_for(lambda: session not in listed(other), PATIENCE_S, "its end", cluster.agents)
    for each in cluster.agents:
        (entry,) = each.get("/v1/kv/leased")
        assert "Session" not in entry
        with pytest.raises(Refused, match="not found"):
            put(each, f"session/renew/{session}")


def read_key(agent: Agent, key: str, **params: Any) -> Reply:
    with closing(agent.connect(timeout_s=PATIENCE_S)) as connection:
        return connection.request("GET", f"/v1/kv/{key}", params=params, ok=(200, 404))


def test_a_key_lives_while_it_is_written_goes_when_it_is_not_and_whoever_waits_is_told(
    cluster: Cluster,
) -> None:
    agent, other = cluster.clients
    index = 0
    begun_s = time.monotonic()
    while (sent_s := time.monotonic()) < begun_s + 3 * TTL_S:
        assert put(agent, "kv/beat", b"alive", ttl="2s").headers["x-gemot-expires-in"] == "2s"
        reply = read_key(other, "beat")
        if time.monotonic() - sent_s > TTL_S:
            continue  # this host slept
        assert (reply.status, "x-gemot-expires-in" in reply.headers) == (200, True)
        # The same write moves no index; only a host that slept finds the key gone, and makes another.
        assert reply.index == (index or reply.index) or reply.json()[0]["CreateIndex"] > index
        index = reply.index
        time.sleep(0.1)
    sent_s = time.monotonic()
    put(agent, "kv/beat", b"alive", ttl="2s")
    index = read_key(other, "beat").index
    while (gone := read_key(other, "beat", index=index, wait="1m")).status == 200:
        assert gone.index >= index
    assert time.monotonic() - sent_s >= TTL_S, "never before its TTL, as its writer measures it from sending"
    for each in cluster.agents:
        assert read_key(each, "beat").status == 404


def test_a_ttl_goes_on_under_the_next_leader(cluster: Cluster) -> None:
    sent_s = time.monotonic()
    put(cluster.clients[0], "kv/late", b"x", ttl="3s")
    put(cluster.clients[0], "kv/stays", b"x", ttl="1h")
    leader = cluster.leader()
    os.kill(leader.pid, signal.SIGSTOP)
    try:
        rest = [agent for agent in cluster.servers if agent is not leader]
        wait_for(lambda: is_gone(rest[0], "late"), PATIENCE_S, "its end", rest)
        assert time.monotonic() - sent_s >= 3.0
        assert read_key(rest[1], "stays").status == 200
    finally:
        os.kill(leader.pid, signal.SIGCONT)
    wait_for(lambda: is_gone(leader, "late"), PATIENCE_S, "it at the old leader", cluster.agents)


def is_gone(agent: Agent, key: str) -> bool:
    try:
        return read_key(agent, key).status == 404
    except Refused:
        return False


def test_pages_of_any_agent_go_on_at_any_other(cluster: Cluster) -> None:
    names = [f"page/{number:02}" for number in range(20)]
    for name in names:
        put(cluster.clients[0], f"kv/{name}")
    found: list[str] = []
    after: dict[str, str] = {}
    for agent in cluster.agents * 2:
        reply = read_key(agent, "page/", keys=True, limit=3, **after)
        found += reply.json()
        if "x-gemot-after" not in reply.headers:
            break
        after = {"after": reply.headers["x-gemot-after"]}
    assert found == names


def test_an_agent_that_is_killed_and_started_again_costs_no_lock(cluster: Cluster) -> None:
    """Its check starts critical by its registration, and has no result for long after the start."""
    alive, killed = cluster.clients
    check = {"CheckID": "db-ok", "TCP": "127.0.0.1:1", "Interval": "1000h"}
    killed.put("/v1/agent/service/register", {"Name": "db", "Check": {**check, "Status": "passing"}})
    killed.put("/v1/agent/service/register", {"Name": "db", "Check": check})
    session = begin(killed, b'{"NodeChecks":[], "ServiceChecks":[{"ID":"db-ok"}]}')
    killed.kill()
    killed.start()
    wait_for(killed.stats, PATIENCE_S, "the agent again", [killed])
    killed.put("/v1/agent/service/register", {"Name": "later"})
    wait_for(
        lambda: alive.get("/v1/catalog/service/later") != [],
        PATIENCE_S,
        "what was registered after the start",
        [killed, *cluster.servers],
    )
    assert [row["Status"] for row in alive.get("/v1/health/checks/db")] == ["passing"]
    assert killed.get("/v1/agent/checks")["db-ok"]["Status"] == "passing"
    assert session in listed(alive)
    for service in ("db", "later"):
        killed.put(f"/v1/agent/service/deregister/{service}")


def test_a_dead_host_loses_its_locks(cluster: Cluster) -> None:
    alive, dead = cluster.clients
    session, successor = begin(dead), begin(alive)
    assert put(dead, "kv/owner", b"dead", acquire=session).json() is True
    assert put(alive, "kv/owner", b"alive", acquire=successor).json() is False
    os.kill(dead.pid, signal.SIGKILL)
    dead.wait()
    wait_for(
        lambda: put(alive, "kv/owner", b"alive", acquire=successor).json() is True,
        PATIENCE_S,
        "the lock of the dead",
        [alive, *cluster.servers],
    )
    assert listed(alive) == [successor]
