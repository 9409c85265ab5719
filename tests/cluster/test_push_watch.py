"""Push watches over agents that are killed and started: nothing missed, nothing twice, no run for nothing."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest
from support.cluster import PYTHON, Agent, Cluster, wait_for

from gemot.agent.client.agents import Agents
from gemot.agent.client.events import Change, Snapshot
from gemot.agent.client.stream import Stream

PATIENCE_S = 90.0


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    cluster = Cluster(tmp_path, servers=1, clients=2)
    try:
        cluster.start()
        wait_for(
            lambda: all(_follows(agent) == 0 for agent in cluster.agents), PATIENCE_S, "all", cluster.agents
        )
        yield cluster
    finally:
        cluster.stop()


def _follows(agent: Agent) -> int:
    """How many push watches are open there; -1 while it is only beginning."""
    with closing(agent.connect()) as connection:
        reply = connection.request("GET", "/v1/agent/metrics", params={"format": "prometheus"})
    found = [line for line in reply.body.decode().splitlines() if line.startswith("gemot_watch_followers ")]
    return int(float(found[0].split()[1])) if found else -1


def test_each_change_is_told_once_over_agents_that_are_killed(cluster: Cluster) -> None:
    (server,), (first, second) = cluster.servers, cluster.clients
    told: list[Change] = []
    events = Stream(Agents([first.http, second.http]), {"prefix": "told/"}, sleep=lambda _s: None)

    def follow(until: str) -> None:
        while not told or told[-1].changes[-1].key != until:
            event = next(events)
            assert not isinstance(event, Snapshot), "it goes on, and does not begin anew"
            told.extend([event] if isinstance(event, Change) else [])

    with closing(events):
        assert isinstance(next(events), Snapshot)
        for victim, start in ((first, 0), (second, 100)):
            for number in range(start, start + 100):
                server.put(f"/v1/kv/told/{number:03}", b"x")
                if number == start + 20:
                    follow(f"told/{number:03}")
                if number == start + 60:
                    victim.kill()
            follow(f"told/{start + 99:03}")
            victim.start()
            wait_for(lambda victim=victim: _follows(victim) == 0, PATIENCE_S, "it is back", cluster.agents)
    assert [op.key for each in told for op in each.changes] == [f"told/{number:03}" for number in range(200)]
    assert [each.index for each in told] == [each.changes[0].item["ModifyIndex"] for each in told]


@contextmanager
def _watch(agent: Agent, folder: Path) -> Iterator[None]:
    command = [PYTHON, "-m", "gemot.agent", "watch", "-http-addr", agent.http, "-type=services"]
    with (folder / "told").open("ab") as told:
        flags = [f"-state-file={folder / 'kept'}", "-shell", f"cat >> {folder / 'runs'}"]
        watch = subprocess.Popen([*command, *flags], stderr=told, stdin=subprocess.DEVNULL)
    try:
        yield
    finally:
        watch.kill()
        watch.wait(PATIENCE_S)


def _runs(folder: Path) -> list[Any]:
    path = folder / "runs"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def _kept(folder: Path) -> str:
    path = folder / "kept"
    return str(json.loads(path.read_text())["Told"]) if path.exists() else ""


def test_no_restart_runs_a_command_for_nothing(cluster: Cluster, tmp_path: Path) -> None:
    (server,), (agent, _) = cluster.servers, cluster.clients

    def offer(name: str) -> None:
        server.put(
            "/v1/catalog/register", {"Node": "far", "Address": "10.0.0.1", "Service": {"Service": name}}
        )

    def told(name: str) -> bool:
        runs = _runs(tmp_path)
        return bool(runs) and name in runs[-1]

    def again(one: Agent) -> None:
        one.kill()
        one.start()

    def watched() -> bool:
        return _follows(agent) == 1

    offer("a")
    with _watch(agent, tmp_path):
        wait_for(lambda: told("a"), PATIENCE_S, "the first run", cluster.agents)
        again(agent)
        wait_for(watched, PATIENCE_S, "the watch on the agent that came back", cluster.agents)
        again(server)
        cluster.leader()
        before = _kept(tmp_path)
        wait_for(lambda: offer("b") is None, PATIENCE_S, "a write", cluster.agents)
        wait_for(lambda: told("b"), PATIENCE_S, "the run after a change", cluster.agents)
        wait_for(lambda: _kept(tmp_path) != before, PATIENCE_S, "that it is kept", cluster.agents)
    wait_for(lambda: _follows(agent) == 0, PATIENCE_S, "the end of the watch", cluster.agents)
    with _watch(agent, tmp_path):
        wait_for(watched, PATIENCE_S, "the watch that was started again", cluster.agents)
        offer("c")
        wait_for(lambda: told("c"), PATIENCE_S, "the run after a change", cluster.agents)
    offer("d")
    offer("e")
    with _watch(agent, tmp_path):
        wait_for(lambda: told("e"), PATIENCE_S, "the run for what changed meanwhile", cluster.agents)
    assert [sorted(set(run) & set("abcde")) for run in _runs(tmp_path)] == [
        ["a"],
        ["a", "b"],
        ["a", "b", "c"],
        ["a", "b", "c", "d", "e"],
    ]
