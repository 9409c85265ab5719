"""`gemot once` begun on every host at the same moment, and under hosts that fail: done once, and recorded."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from support.cluster import Agent, Cluster, wait_for
from support.dev_agent import PROGRAM
from support.session_cluster import PATIENCE_S, session_cluster

from gemot.agent.client.connection import Connection
from gemot.agent.client.kv import Kv


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with session_cluster(tmp_path_factory.mktemp("once")) as cluster:
        yield cluster


def begin(agent: Agent, folder: Path, key: str, script: str, *, ttl: str = "60s") -> subprocess.Popen[bytes]:
    flags = [f"-ttl={ttl}", f"-http-addr={agent.http}"]
    asked = [*PROGRAM, "once", *flags, key, "sh", "-c", script]
    return subprocess.Popen(asked, cwd=folder, stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def test_on_every_host_at_once_it_is_run_once(cluster: Cluster, tmp_path: Path) -> None:
    running = [begin(agent, tmp_path, "all", "echo ran >> ran") for agent in cluster.agents * 2]
    assert [each.wait(PATIENCE_S) for each in running] == [0] * len(running)
    assert (tmp_path / "ran").read_text() == "ran\n"


def test_after_a_host_that_failed_it_is_run_by_the_next(cluster: Cluster, tmp_path: Path) -> None:
    first, second = cluster.clients
    dies = begin(first, tmp_path, "dies", "echo $GEMOT_LOCK_FENCE >> began; exec sleep 600", ttl="2s")
    follows = None
    try:
        wait_for((tmp_path / "began").exists, PATIENCE_S, "the first", cluster.agents)
        follows = begin(second, tmp_path, "dies", "echo $GEMOT_LOCK_FENCE >> began; echo ran >> ran")
        dies.kill()
        assert follows.wait(PATIENCE_S) == 0
    finally:
        dies.kill()
        dies.wait(PATIENCE_S)
        if follows is not None:
            follows.kill()
            follows.wait(PATIENCE_S)
    with closing(Connection(first.http)) as connection:
        entry = Kv(connection).get("dies")
    assert entry is not None
    fences = [int(line) for line in (tmp_path / "began").read_text().split()]
    assert fences == sorted(set(fences))
    assert json.loads(entry.value)["Fence"] == fences[-1]
    assert (tmp_path / "ran").read_text() == "ran\n"
