"""Restarts, fail-overs and refusals of a real cluster: what its users may notice of them."""

from __future__ import annotations

import shutil
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from support.cluster import Agent, Cluster, wait_for

from gemot.agent.client.connection import ClientError, Connection
from gemot.agent.client.kv import Kv

PATIENCE_S = 90.0
"""Bound of every wait: only a hang reaches it."""

MULTIPLIER = 5
ELECTION_S = 0.9 * MULTIPLIER
"""The least that an election takes by time-out alone: whoever is faster was handed the leadership."""

SLOW = {"performance": {"rpc_hold_timeout": "60s", "raft_multiplier": MULTIPLIER}}
"""What is told apart by the time that an election takes is not lost in the noise of a busy machine."""


@pytest.fixture
def cluster(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Cluster]:
    cluster = Cluster(tmp_path, servers=3, clients=1, config=getattr(request, "param", {}))
    try:
        cluster.start()
        yield cluster
    finally:
        cluster.stop()


@pytest.fixture(scope="module")
def lone(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Agent]:
    cluster = Cluster(tmp_path_factory.mktemp("lone"), servers=1)
    try:
        cluster.start()
        yield cluster.servers[0]
    finally:
        cluster.stop()


class Load(threading.Thread):
    """Writes one key after another through one agent and notes how long each took."""

    def __init__(self, agent: Agent, name: str) -> None:
        super().__init__(daemon=True)
        self._agent = agent
        self._prefix = f"load/{name}/"
        self._over = threading.Event()
        self.written: list[str] = []
        self.took_s: list[float] = []
        self.failed: list[str] = []

    def run(self) -> None:
        number = 0
        with closing(self._agent.connect(timeout_s=PATIENCE_S)) as connection:
            while not self._over.is_set():
                number += 1
                key, began = f"{self._prefix}{number}", time.monotonic()
                try:
                    assert Kv(connection).put(key, str(number).encode())
                    self.written.append(key)
                except ClientError as error:
                    self.failed.append(f"{key}: {error}")
                self.took_s.append(time.monotonic() - began)

    def end(self) -> None:
        self._over.set()
        self.join(PATIENCE_S)

    @property
    def longest_s(self) -> float:
        return max(self.took_s, default=0.0)


def _settled(cluster: Cluster) -> bool:
    """Every server follows one leader and has applied what it has."""
    stats = [server.stats()["raft"] for server in cluster.servers]
    return len({s["applied_index"] for s in stats}) == 1


def _progress(loads: list[Load], cluster: Cluster, more: int = 30) -> None:
    goals = [len(load.written) + more for load in loads]

    def reached() -> bool:
        return all(len(load.written) >= goal for load, goal in zip(loads, goals, strict=True))

    wait_for(reached, PATIENCE_S, "writes go on", cluster.agents)


def test_a_rolling_restart_of_all_servers_fails_no_write_and_loses_none(cluster: Cluster) -> None:
    """The load goes through the client agent, which stays; one server after the other is restarted."""
    loads = [Load(cluster.clients[0], str(n)) for n in range(4)]
    for load in loads:
        load.start()
    _progress(loads, cluster)
    for server in cluster.servers:
        assert server.stop() == 0
        _progress(loads, cluster)
        server.start()
        cluster.leader()
        _progress(loads, cluster)
    for load in loads:
        load.end()
    # By the product's own clock: one that nobody took within `rpc_hold_timeout` has failed.
    assert [failure for load in loads for failure in load.failed] == []
    longest = max(load.longest_s for load in loads)
    print(f"longest write during a rolling restart: {longest * 1000:.0f} ms")
    with closing(cluster.servers[0].connect()) as connection:
        found = {row.key for row in Kv(connection).tree("load/", consistent=True)}
    assert [key for load in loads for key in load.written if key not in found] == []


@pytest.mark.parametrize("cluster", [SLOW], indirect=True, ids=["slow"])
def test_a_server_that_is_stopped_hands_over_first_and_within_ten_seconds(cluster: Cluster) -> None:
    """By comparison: a leader killed costs its followers an election time-out, one stopped does not."""
    took: dict[str, float] = {}
    for how, number in (("stopped", signal.SIGTERM), ("killed", signal.SIGKILL)):
        leader = cluster.leader()
        wait_for(lambda: _settled(cluster), PATIENCE_S, "all at one index", cluster.servers)
        load = Load(next(s for s in cluster.servers if s is not leader), how)
        load.start()
        _progress([load], cluster)
        began = time.monotonic()
        leader.signal(number)
        code = leader.wait()
        if number == signal.SIGTERM:
            assert code == 0, "by its own clock: who has not stopped in order within ten seconds ends with 1"
            print(f"SIGTERM to exit: {time.monotonic() - began:.2f} s")
        _progress([load], cluster)
        load.end()
        assert load.failed == []
        took[how] = load.longest_s
        leader.start()
        assert cluster.leader() is not None
    print(f"longest write: leader stopped {took['stopped']:.2f} s, killed {took['killed']:.2f} s")
    assert took["stopped"] < took["killed"]
    assert took["killed"] >= ELECTION_S, "else the comparison says nothing"


def _passing(agent: Agent, service: str) -> list[str]:
    rows = agent.get(f"/v1/health/service/{service}", passing=True)
    return [row["Node"]["Node"] for row in rows]


def test_a_fail_over_keeps_a_client_agents_registrations_and_blocking_reads(cluster: Cluster) -> None:
    web, srv = cluster.clients[0], cluster.servers[0]
    web.put("/v1/agent/service/register", {"Name": "app", "Port": 80})
    wait_for(lambda: _passing(srv, "app") == ["web1"], PATIENCE_S, "registered", cluster.agents)
    with closing(web.connect(60)) as connection:
        Kv(connection).put("watched", b"1")
        index = connection.request("GET", "/v1/kv/watched").index
    answers: list[Any] = []

    def watch() -> None:
        with closing(web.connect(60)) as connection:
            reply = connection.request("GET", "/v1/kv/watched", params={"index": index, "wait": "50s"})
            answers.append((reply.index, reply.json()[0]["Value"]))

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    connected = web.stats()["consul"]["connected_to"].split()[0]
    first = next(s for s in cluster.servers if s.name == connected)
    first.kill()
    leader = cluster.leader()
    wait_for(
        lambda: web.stats()["consul"]["connected_to"].split()[:1] not in ([], [connected]),
        PATIENCE_S,
        "another server is found",
        cluster.agents,
    )
    assert answers == [], "nothing has changed yet"
    leader.put("/v1/kv/watched", b"2")
    watcher.join(PATIENCE_S)
    assert [value for _, value in answers] == ["Mg=="]
    assert answers[0][0] > index
    assert _passing(leader, "app") == ["web1"]
    first.start()
    cluster.leader()
    assert _passing(first, "app") == ["web1"]


def test_a_frozen_host_turns_critical_and_comes_back(cluster: Cluster) -> None:
    """A host that lost its power says no good-bye: its silence is noticed, not only its closed socket."""
    web, srv = cluster.clients[0], cluster.servers[0]

    def health() -> str:
        rows = srv.get("/v1/health/node/web1")
        return next((str(row["Status"]) for row in rows if row["CheckID"] == "serfHealth"), "")

    wait_for(lambda: health() == "passing", PATIENCE_S, "web1 is alive", cluster.agents)
    web.signal(signal.SIGSTOP)
    try:
        wait_for(lambda: health() == "critical", PATIENCE_S, "web1 is missed", cluster.servers)
    finally:
        web.signal(signal.SIGCONT)
    wait_for(lambda: health() == "passing", PATIENCE_S, "web1 is back", cluster.agents)


def test_a_wiped_server_is_no_voter_under_its_old_id(cluster: Cluster) -> None:
    """It is fed as a learner under a new id, and counts nowhere until the leader has promoted it."""
    leader = cluster.leader()
    leader.put("/v1/operator/autopilot/configuration", {"ServerStabilizationTime": "1h"})
    wiped = next(s for s in cluster.servers if s is not leader)
    old = (wiped.directory / "data" / "node-id").read_text()
    wiped.stop()
    shutil.rmtree(wiped.directory / "data")
    wiped.start()
    wait_for(lambda: wiped.stats(), PATIENCE_S, "it answers", [wiped])
    assert (wiped.directory / "data" / "node-id").read_text() != old
    wait_for(lambda: int(wiped.stats()["raft"]["applied_index"]) > 1, PATIENCE_S, "it is fed", [wiped])
    assert wiped.stats()["raft"]["state"] == "Follower"
    peers = leader.get("/v1/operator/raft/configuration")["Servers"]
    assert [one["Voter"] for one in peers if one["ID"] == old.strip()] == [True]
    assert [one["Voter"] for one in peers].count(True) == 3
    # Two of three voters are left: one more down, and nobody may count the stranger in.
    other = next(s for s in cluster.servers if s not in (leader, wiped))
    other.kill()
    with closing(leader.connect(PATIENCE_S)) as connection, pytest.raises(ClientError):
        Kv(connection).put("minority", b"")
    assert leader.running
    assert wiped.running


def test_a_blocking_read_is_not_woken_by_ten_thousand_writes_elsewhere(lone: Agent) -> None:
    lone.put("/v1/kv/quiet/key", b"1")
    with closing(lone.connect(PATIENCE_S)) as connection:
        index = connection.request("GET", "/v1/kv/quiet/", params={"recurse": True}).index
    answers: list[Any] = []

    def watch() -> None:
        with closing(lone.connect(700)) as connection:
            params = {"recurse": True, "index": index, "wait": "600s"}
            answers.append(connection.request("GET", "/v1/kv/quiet/", params=params).json())

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()

    def write(share: int) -> None:
        with closing(lone.connect(PATIENCE_S)) as connection:
            for number in range(share, 10_000, 8):
                Kv(connection).put(f"loud/{number % 500}", str(number).encode())

    writers = [threading.Thread(target=write, args=(share,), daemon=True) for share in range(8)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join(500)
    assert int(lone.stats()["raft"]["applied_index"]) > index + 10_000
    assert answers == [], "nothing under quiet/ has changed"
    lone.put("/v1/kv/quiet/key", b"2")
    watcher.join(PATIENCE_S)
    assert [row["Value"] for row in answers[0]] == ["Mg=="]


def _dead_agent(tmp_path: Path) -> Agent:
    """One that is configured and was never started."""
    return Cluster(tmp_path, servers=1).servers[0]


def test_a_data_directory_in_use_is_refused_naming_it(lone: Agent, tmp_path: Path) -> None:
    second = _dead_agent(tmp_path)
    (second.directory / "data").symlink_to(lone.directory / "data")
    second.start()
    assert second.wait() == 1
    text = second.log.read_text()
    assert "is in use by pid" in text, text
    assert str(lone.pid) in text, text
    assert "Traceback" not in text
    assert lone.get("/v1/status/leader")


def test_raft_data_moved_to_another_node_is_refused_naming_both(tmp_path: Path) -> None:
    cluster = Cluster(tmp_path, servers=1)
    agent = cluster.servers[0]
    try:
        cluster.start()
        agent.put("/v1/kv/a", b"1")
        agent.stop()
        data = agent.directory / "data"
        old = (data / "node-id").read_text().strip()
        (data / "node-id").unlink()
        agent.start()
        assert agent.wait() != 0
        new = (data / "node-id").read_text().strip()
        text = agent.log.read_text()
        assert f"belongs to node {old}, this node is {new}" in text, text
        assert "never moved between nodes" in text
        assert "Traceback" not in text
        (data / "node-id").write_text(f"{old}\n")
        agent.start()
        wait_for(lambda: agent.get("/v1/kv/a"), PATIENCE_S, "it is as before", [agent])
    finally:
        cluster.stop()


def test_a_dev_agent_answers_its_first_write_soon(tmp_path: Path) -> None:
    agent = _dead_agent(tmp_path)
    agent._program.append("-dev")
    del agent._config["bootstrap_expect"], agent._config["retry_join"]
    began = time.monotonic()
    agent.start()
    try:

        def written() -> bool:
            with closing(Connection(agent.http, timeout_s=10)) as connection:
                return Kv(connection).put("first", b"1")

        wait_for(written, PATIENCE_S, "the first write", [agent])
        print(f"start to first write: {time.monotonic() - began:.2f} s")
    finally:
        agent.stop()


def test_a_server_with_a_damaged_log_heals_from_the_others(cluster: Cluster) -> None:
    leader = cluster.leader()
    hurt = next(s for s in cluster.servers if s is not leader)
    values = {f"heal/{n}": f"value-{n}-{'x' * 50}" for n in range(100)}
    with closing(leader.connect()) as connection:
        for key, value in values.items():
            Kv(connection).put(key, value.encode())
    wait_for(lambda: _settled(cluster), PATIENCE_S, "all at one index", cluster.servers)
    hurt.stop()
    segment = max((hurt.directory / "data" / "raft" / "log").iterdir(), key=lambda path: path.stat().st_size)
    data = bytearray(segment.read_bytes())
    data[data.index(b"value-50-")] ^= 0xFF
    segment.write_bytes(data)
    hurt.start()
    wait_for(
        lambda: hurt.stats()["raft"]["repairing"] == "false", PATIENCE_S, "it is whole again", cluster.servers
    )
    assert "this node repairs itself from the others" in hurt.log.read_text()
    wait_for(lambda: len({s.state() for s in cluster.servers}) == 1, PATIENCE_S, "one state", cluster.servers)
    with closing(hurt.connect()) as connection:
        rows = Kv(connection).tree("heal/", stale=True)
    assert {row.key: row.value.decode() for row in rows} == values
    # It counts again: with it alone beside the leader, writes go on, and it may lead.
    third = next(s for s in cluster.servers if s not in (leader, hurt))
    third.kill()
    leader.put("/v1/kv/after", b"1")
    leader.stop()
    third.start()
    assert cluster.leader() in (hurt, third)
