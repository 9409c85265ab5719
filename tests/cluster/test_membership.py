"""Servers that come and go: real processes join, are wiped, die, are removed, hand over and leave."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from support.cluster import Agent, Cluster, wait_for

from gemot.agent.client.connection import ClientError, Refused

PATIENCE_S = 90.0
"""Bound of every wait: only a hang reaches it."""

FOR_A_MOMENT = ("voters would answer", "did not take over within an election timeout")
"""What an order is rightly refused for while another server stands still for a second."""

QUICK = {"server_stabilization_time": "1s"}
GEMOT = str(Path(__file__).parents[2] / ".venv" / "bin" / "gemot")


class Stage:
    """Five hosts for servers, of which the first begins alone; a client agent knows only that one."""

    def __init__(self, folder: Path) -> None:
        self.cluster = Cluster(folder, servers=5, clients=1, config={"autopilot": QUICK})
        first = self.cluster.servers[0]
        join = [f"{first.host}:{first.ports['serf_lan']}"]
        for agent in self.cluster.agents:
            agent.write_config(retry_join=join)
        for number, server in enumerate(self.cluster.servers):
            server.write_config(bootstrap_expect=0 if number else 1)

    def grow(self, count: int) -> None:
        for server in self.cluster.servers[:count]:
            if not server.running:
                server.start()
        self.expect_voters(self.cluster.servers[:count])

    def expect_voters(self, servers: list[Agent]) -> None:
        wanted = sorted(server.name for server in servers)
        wait_for(lambda: self.voters() == wanted, PATIENCE_S, f"the voters {wanted}", self.cluster.agents)

    def voters(self) -> list[str]:
        return sorted(one["Node"] for one in self.peers() if one["Voter"])

    def peers(self) -> list[dict[str, Any]]:
        """As any running server tells it."""
        asked = next(server for server in self.cluster.servers if server.running)
        found: list[dict[str, Any]] = asked.get("/v1/operator/raft/configuration")["Servers"]
        return found

    def id(self, server: Agent) -> str:
        return str(server.get("/v1/agent/self")["Config"]["NodeID"])


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[Stage]:
    stage = Stage(tmp_path)
    try:
        yield stage
    finally:
        stage.cluster.stop()


def cli(agent: Agent, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [GEMOT, *words],
        env=os.environ | {"GEMOT_HTTP_ADDR": agent.http},
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )


def gemot(agent: Agent, *words: str, code: int = 0) -> str:
    done = cli(agent, *words)
    assert done.returncode == code, done.stdout + done.stderr
    return done.stderr if code else done.stdout


def ordered(agent: Agent, *words: str) -> str:
    """What it said, done; asked again where it is refused because another was silent for a moment."""

    def told() -> str | None:
        done = cli(agent, *words)
        if any(why in done.stderr for why in FOR_A_MOMENT):
            return None
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout + done.stderr

    said: str = wait_for(told, PATIENCE_S, " ".join(words), [agent])
    return said


def tolerates(agent: Agent) -> int | None:
    """How many may fail, once all are healthy."""
    health = agent.get("/v1/operator/autopilot/health")
    return int(health["FailureTolerance"]) if health["Healthy"] else None


def unhealthy(agent: Agent) -> bool:
    try:
        agent.get("/v1/operator/autopilot/health")
    except Refused as refused:
        return refused.status == 429
    return False


LEFT = 3


def member_names(agent: Agent) -> list[str]:
    """Those that are expected here."""
    return [one["Name"] for one in agent.get("/v1/agent/members") if one["Status"] != LEFT]


def request(agent: Agent, method: str, path: str) -> Any:
    with closing(agent.connect(60.0)) as connection:
        reply = connection.request(method, path)
        return reply.json() if reply.body else None


class Writer:
    """Writes on and on through one agent, each number under a key of its own; keeps what was acknowledged."""

    def __init__(self, agent: Agent) -> None:
        self._agent = agent
        self._over = threading.Event()
        self.done: list[int] = []
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Writer:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join(PATIENCE_S)

    def _run(self) -> None:
        number = 0
        while not self._over.is_set():
            number += 1
            try:
                if self._agent.put(f"/v1/kv/count/{number}", str(number).encode()) is True:
                    self.done.append(number)
            except ClientError:
                time.sleep(0.05)


def test_one_server_becomes_three_and_five_and_a_dead_one_is_cleaned_up(stage: Stage) -> None:
    others = stage.cluster.servers[1:]
    stage.grow(1)
    web = stage.cluster.clients[0]
    web.start()
    wait_for(lambda: web.put("/v1/kv/before", b"1"), PATIENCE_S, "a write", [web])
    stage.grow(3)
    config = web.get("/v1/operator/autopilot/configuration")
    assert config["ServerStabilizationTime"] == "1s", "the key `autopilot` of the first server holds for all"
    stage.grow(5)
    for server in others:
        assert server.get("/v1/kv/before", raw=True, stale=True) == 1
    wait_for(lambda: tolerates(web) == 2, PATIENCE_S, "all healthy", stage.cluster.agents)

    gone = next(server for server in others if server is not stage.cluster.leader())
    gone.kill()
    wait_for(lambda: unhealthy(web), PATIENCE_S, "an unhealthy server")
    stage.expect_voters([server for server in stage.cluster.servers if server is not gone])
    wait_for(lambda: gone.name not in member_names(web), PATIENCE_S, "its node out of the catalog", [web])
    gone.start()
    stage.expect_voters(stage.cluster.servers)


def test_a_wiped_server_comes_back_under_a_new_id_and_its_old_one_goes(stage: Stage) -> None:
    stage.grow(3)
    wiped = next(s for s in stage.cluster.servers[:3] if s is not stage.cluster.leader())
    # What it retries to join must be there while it is away.
    alive = next(s for s in stage.cluster.servers[:3] if s is not wiped)
    wiped.write_config(retry_join=[f"{alive.host}:{alive.ports['serf_lan']}"])
    old = stage.id(wiped)
    wiped.kill()
    shutil.rmtree(wiped.directory / "data")
    wiped.start()
    wait_for(lambda: stage.id(wiped) != old, PATIENCE_S, "a new id", [wiped])
    new = stage.id(wiped)
    wait_for(
        lambda: (
            sorted(one["ID"] == new for one in stage.peers() if one["Voter"]) == [False, False, True]
            and old not in [one["ID"] for one in stage.peers()]
        ),
        PATIENCE_S,
        "the new id in the place of the old one",
        stage.cluster.servers,
    )


def test_a_wiped_server_that_keeps_its_id_is_refused_until_its_peer_is_removed(stage: Stage) -> None:
    """Its vote of before may have made a majority for what it has lost."""
    stage.grow(3)
    leader = stage.cluster.leader()
    wiped = next(s for s in stage.cluster.servers[:3] if s is not leader)
    old = stage.id(wiped)
    wiped.write_config(node_id=old, retry_join=[f"{leader.host}:{leader.ports['serf_lan']}"])
    wiped.kill()
    shutil.rmtree(wiped.directory / "data")
    wiped.start()
    wait_for(
        lambda: "must not vote again under its old id" in wiped.stats()["tier"]["waiting"],
        PATIENCE_S,
        "a refusal",
        [wiped],
    )
    assert "\nRaft     Follower, without a vote, term " in ordered(wiped, "status")
    assert "Removed peer" in ordered(leader, "operator", "raft", "remove-peer", f"-id={old}")
    wait_for(lambda: not wiped.stats()["tier"]["waiting"], PATIENCE_S, "its joining", [wiped])
    stage.expect_voters(stage.cluster.servers[:3])
    wait_for(lambda: wiped.stats()["raft"]["voter"] == "true", PATIENCE_S, "its own word", [wiped])


def test_a_server_that_runs_and_is_removed_comes_back_and_votes_again_as_it_was_told(stage: Stage) -> None:
    stage.grow(3)
    leader = stage.cluster.leader()
    runs = next(s for s in stage.cluster.servers[:3] if s is not leader)
    told = ordered(leader, "operator", "raft", "remove-peer", f"-id={stage.id(runs)}")
    assert f"{runs.name} was alive a moment ago: it comes back as a non-voter" in told

    def promoted_again() -> bool:
        _, taken, later = leader.log.read_text().partition(
            f"server: vote taken by an operator: server={runs.name} "
        )
        return bool(taken) and f"autopilot: server promoted to voter: server={runs.name} " in later

    wait_for(promoted_again, PATIENCE_S, "its promotion", [leader])
    stage.expect_voters(stage.cluster.servers[:3])


def test_the_leadership_goes_where_it_is_told(stage: Stage) -> None:
    stage.grow(3)
    leader = stage.cluster.leader()
    other = next(s for s in stage.cluster.servers[:3] if s is not leader)
    assert ordered(other, "operator", "raft", "transfer-leader", f"-id={stage.id(other)}") == "Success\n"
    assert stage.cluster.leader() is other
    assert request(leader, "POST", "/v1/operator/raft/transfer-leader") == {"Success": True}
    assert stage.cluster.leader() is not other

    def parts() -> tuple[int, int]:
        told = gemot(other, "operator", "raft", "list-peers")
        return told.count("leader"), told.count("follower")

    wait_for(lambda: parts() == (1, 2), PATIENCE_S, "followers that have answered the new leader", [other])
    assert "Leader" in gemot(other, "operator", "raft", "health")
    for server in stage.cluster.servers[:3]:
        assert f"server: leader: server={other.name} id=" in server.log.read_text(), (
            "who led when is in the log"
        )


def test_a_leader_leaves_under_load_and_nothing_is_lost(stage: Stage) -> None:
    stage.grow(3)
    leader = stage.cluster.leader()
    stays = [s for s in stage.cluster.servers[:3] if s is not leader]
    with Writer(stays[0]) as writer:
        wait_for(lambda: len(writer.done) > 50, PATIENCE_S, "writes")
        assert ordered(leader, "leave") == "Graceful leave complete\n"
        at = len(writer.done)
        wait_for(lambda: len(writer.done) > at + 50, PATIENCE_S, "writes after it left", stays)
        assert leader.wait() == 0
    assert stage.voters() == sorted(s.name for s in stays)
    found = {one["Key"] for one in stays[1].get("/v1/kv/count/", recurse=True)}
    assert {f"count/{number}" for number in writer.done} <= found
    wait_for(
        lambda: leader.name not in member_names(stays[0]),
        PATIENCE_S,
        "its node out of the catalog",
    )
    # It may come back, with the data it had; its vote it gets like any other.
    leader.start()
    stage.expect_voters(stage.cluster.servers[:3])
    assert ordered(leader, "leave") == "Graceful leave complete\n"
    leader.wait()
    stage.expect_voters(stays)
    # Of the two that are left one may go, but not while the other is dead.
    stays[1].kill()
    wait_for(lambda: not stays[0].get("/v1/status/leader"), PATIENCE_S, "no quorum")
    told = gemot(stays[0], "leave", code=1)
    assert "No cluster leader: waiting for quorum: have 1 of 2" in told
    assert "this agent goes on" in told
    assert stays[0].running


def test_a_server_that_joins_late_is_given_a_snapshot(stage: Stage) -> None:
    """What it would have to read from the beginning is not in the log any more."""
    first, second = stage.cluster.servers[:2]
    for server in (first, second):
        server.write_config(raft_snapshot_threshold=16, raft_trailing_logs=16, raft_log_segment_bytes=1 << 16)
    stage.grow(1)
    for number in range(300):
        first.put(f"/v1/kv/early/{number}", b"x" * 1_000)
    segments = first.directory / "data" / "raft" / "log"
    wait_for(
        lambda: not list(segments.glob("0000000001-*.seg")),
        PATIENCE_S,
        "a log without its beginning",
        [first],
    )
    stage.grow(2)
    found = second.get("/v1/kv/early/", keys=True, stale=True)
    assert len(found) == 300
    assert list((second.directory / "data" / "raft" / "snap").glob("*.snap"))


def test_a_server_of_another_cluster_is_refused_and_told_why(stage: Stage) -> None:
    first, other = stage.cluster.servers[:2]
    stage.grow(1)
    joins = other._config["retry_join"]
    other.write_config(bootstrap_expect=1, retry_join=[])
    other.start()
    wait_for(lambda: other.put("/v1/kv/mine", b"1"), PATIENCE_S, "a cluster of its own", [other])
    other.stop()
    other.write_config(retry_join=joins)
    other.start()
    refusal = re.compile(r"cannot join yet.*refused: srv2 belongs to cluster .*srv1 to cluster ")
    wait_for(lambda: refusal.search(other.log.read_text()), PATIENCE_S, "a refusal", [other])
    assert [one["Node"] for one in first.get("/v1/operator/raft/configuration")["Servers"]] == ["srv1"]
    assert other.get("/v1/kv/mine", raw=True) == 1
