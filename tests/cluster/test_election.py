"""`gemot election` on two hosts: one leads at a time, another follows, and who came back campaigns again."""

from __future__ import annotations

import signal
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

LEADS = 'while :; do echo "$GEMOT_LOCK_FENCE" >> {name}; echo "$GEMOT_LOCK_FENCE" >> led; sleep 0.02; done'


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with session_cluster(tmp_path_factory.mktemp("election")) as cluster:
        yield cluster


class Candidate:
    """On one host; as long as it leads it writes its fence."""

    def __init__(self, agent: Agent, folder: Path, key: str, name: str) -> None:
        self._terms = folder / name
        self.told = folder / f"{name}.told"
        flags = ["-verbose", "-ttl=8s", f"-name={name}", f"-http-addr={agent.http}"]
        script = LEADS.format(name=name)
        with self.told.open("wb") as told:
            self.process = subprocess.Popen(
                [*PROGRAM, "election", "run", *flags, key, "sh", "-c", script],
                cwd=folder,
                stdin=subprocess.DEVNULL,
                stdout=told,
                stderr=told,
            )

    @property
    def terms(self) -> list[int]:
        return sorted(set(fences(self._terms)))

    def end(self) -> None:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGCONT)
            self.process.terminate()
            self.process.wait(PATIENCE_S)


def fences(path: Path) -> list[int]:
    return [int(line) for line in path.read_text().split("\n")[:-1]] if path.exists() else []


def observed(agent: Agent, key: str) -> str:
    asked = [*PROGRAM, "election", "observe", "-once", f"-http-addr={agent.http}", key]
    return subprocess.run(asked, capture_output=True, text=True, timeout=PATIENCE_S, check=False).stdout


@pytest.mark.parametrize("how", ["killed", "stopped", "destroyed", "resigned"])
def test_one_leads_at_a_time_and_another_follows(cluster: Cluster, tmp_path: Path, how: str) -> None:
    first, second = cluster.clients
    key = f"leader/{how}"
    candidates = [Candidate(first, tmp_path, key, "one")]
    try:
        one = candidates[0]
        wait_for(lambda: bool(one.terms), PATIENCE_S, "the first", cluster.agents)
        candidates.append(other := Candidate(second, tmp_path, key, "other"))
        wait_for(lambda: "waiting" in other.told.read_text(), PATIENCE_S, "the second", cluster.agents)
        assert observed(second, key) == f"one leads, fence {one.terms[-1]}\n"
        if how in ("killed", "stopped"):
            one.process.send_signal(signal.SIGKILL if how == "killed" else signal.SIGSTOP)
        elif how == "destroyed":
            with closing(Connection(second.http)) as connection:
                entry = Kv(connection).get(key)
            assert entry is not None
            second.put(f"/v1/session/destroy/{entry.session}")
        else:
            subprocess.run(
                [*PROGRAM, "election", "resign", f"-http-addr={second.http}", key],
                check=True,
                timeout=PATIENCE_S,
                stdout=subprocess.DEVNULL,
            )
        wait_for(lambda: bool(other.terms), PATIENCE_S, "the second", cluster.agents)
        assert observed(first, key) == f"other leads, fence {other.terms[-1]}\n"
        if how != "killed":
            one.process.send_signal(signal.SIGCONT)
            wait_for(
                lambda: first.get(f"/v1/kv/{key}/.queue/", keys=True) or [], PATIENCE_S, "the first again", []
            )
            before = len(one.terms)
            other.process.kill()
            wait_for(lambda: len(one.terms) > before, PATIENCE_S, "its next term", cluster.agents)
        led = fences(tmp_path / "led")
        assert led == sorted(led), "nobody led beside another"
    finally:
        for each in candidates:
            each.end()
