"""Two of three servers are lost for good: `gemot operator recover` goes on from the third.

Real processes, killed by their own handles; the lost ones' data directories are removed.
"""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from support.cluster import Agent, Cluster, wait_for

from gemot.agent.client.kv import Kv

PATIENCE_S = 90.0
"""Bound of every wait: only a hang reaches it."""

GEMOT = str(Path(__file__).parents[2] / ".venv" / "bin" / "gemot")


def recover(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [GEMOT, "operator", "recover", *words],
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )


def all_applied(cluster: Cluster) -> None:
    """Wait until every server has what the others have."""
    wait_for(
        lambda: len({s.stats()["raft"]["applied_index"] for s in cluster.servers}) == 1,
        PATIENCE_S,
        "the same index everywhere",
        cluster.servers,
    )


class Stage:
    def __init__(self, folder: Path) -> None:
        self.cluster = Cluster(folder, clients=1, config={"raft_snapshot_threshold": 64})
        self.web = self.cluster.clients[0]

    def start(self) -> None:
        self.cluster.start()
        with closing(self.web.connect()) as connection:
            for n in range(150):
                assert Kv(connection).put(f"before/{n}", b"%d" % n)
        self.left = self.cluster.servers[0]
        self.lost = self.cluster.servers[1:]
        all_applied(self.cluster)

    @property
    def data(self) -> str:
        return str(self.left.directory / "data")


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    stage = Stage(tmp_path_factory.mktemp("recover"))
    try:
        stage.start()
        yield stage
    finally:
        stage.cluster.stop()


def test_it_refuses_while_an_agent_holds_the_directory(stage: Stage) -> None:
    for words in (["-show"], ["-self", "-yes"]):
        told = recover(*words, stage.data)
        assert told.returncode == 1
        assert f"{stage.data} is in use by pid {stage.left.pid}" in told.stderr


def test_it_shows_what_each_directory_holds_and_which_is_the_best(stage: Stage) -> None:
    for server in stage.cluster.servers:
        server.kill()
    told = recover("-show", "-format=json", *(str(s.directory / "data") for s in stage.cluster.servers))
    assert told.returncode == 0, told.stderr
    shown = json.loads(told.stdout)
    assert len({one["Cluster"] for one in shown}) == 1
    assert all(len(one["Voters"]) == 3 for one in shown)
    assert all(one["LastIndex"] >= 150 for one in shown)
    assert [one["Best"] for one in shown].count(True) == 1
    line = recover("-show", stage.data).stdout.splitlines()
    assert line[0].startswith("Server")
    assert line[1].startswith(shown[0]["ID"])


def test_it_only_says_what_it_would_do_until_it_is_told_to(stage: Stage) -> None:
    for server in stage.lost:
        shutil.rmtree(server.directory / "data")
    told = recover("-self", stage.data)
    assert told.returncode == 0, told.stderr
    assert "Would write entry " in told.stdout
    assert "What may be lost: entries after" in told.stdout
    assert told.stdout.endswith("Nothing was done. Say -yes to do it.\n")
    assert recover("-self", "-yes", "-dry-run", stage.data).stdout == told.stdout
    stage.left.start()
    wait_for(lambda: "quorum" in stage.left.stats()["tier"]["waiting"], PATIENCE_S, "no quorum")
    stage.left.kill()


def test_afterwards_it_leads_alone_with_all_that_was_there(stage: Stage) -> None:
    told = recover("-self", "-yes", stage.data)
    assert told.returncode == 0, told.stderr
    copies = Path(next(line for line in told.stdout.splitlines() if line.startswith("Copies")).split(": ")[1])
    assert (copies / "meta-a").exists()
    assert list(copies.glob("*.seg"))
    stage.left.start()
    wait_for(lambda: stage.left.put("/v1/kv/after", b"1") is True, PATIENCE_S, "a write", [stage.left])
    with closing(stage.left.connect()) as connection:
        rows = Kv(connection).tree("before/", consistent=True)
        headers = connection.request("GET", "/v1/kv/after").headers
    assert headers["x-gemot-epoch"] == "1", "what lost servers told is not told again"
    assert int(headers["x-consul-index"]) > 1_000_000_000
    assert {row.key: row.value for row in rows} == {f"before/{n}": b"%d" % n for n in range(150)}
    assert "the voters were set by hand in entry" in stage.left.log.read_text()
    assert stage.left.stats()["raft"]["num_peers"] == "0"


def test_client_agents_go_on_by_themselves(stage: Stage) -> None:
    wait_for(lambda: stage.web.put("/v1/kv/web", b"1") is True, PATIENCE_S, "a write", stage.cluster.agents)
    wait_for(lambda: _passing(stage.left, stage.web.name), PATIENCE_S, "the client is alive")


def _passing(agent: Agent, node: str) -> bool:
    checks = agent.get(f"/v1/health/node/{node}")
    return [c["Status"] for c in checks if c["CheckID"] == "serfHealth"] == ["passing"]


def test_a_mistake_is_told_and_writes_nothing(stage: Stage, tmp_path: Path) -> None:
    assert "holds no Raft data" in recover("-show", str(tmp_path)).stderr
    assert recover("-show", str(tmp_path / "nowhere")).returncode == 1
    assert "exclude each other" in recover("-self", "-voters=x", stage.data).stderr


def test_two_of_five_go_on_together_and_one_that_comes_back_is_refused(tmp_path: Path) -> None:
    cluster = Cluster(tmp_path, servers=5)
    try:
        cluster.start()
        for n in range(20):
            assert cluster.leader().put(f"/v1/kv/before/{n}", b"1") is True
        all_applied(cluster)
        for server in cluster.servers:
            server.kill()
        left, lost = cluster.servers[:2], cluster.servers[2:]
        folders = [str(server.directory / "data") for server in left]
        ids = [Path(folder, "node-id").read_text().strip() for folder in folders]

        told = recover(f"-voters={','.join(ids)}", "-yes", *folders)
        assert told.returncode == 0, told.stderr
        word = next(w for w in told.stdout.split() if w.startswith("-cluster="))
        other = next(f for f, id in zip(folders, ids, strict=True) if f"On the host of {id}" in told.stdout)
        assert "Say -yes" in recover(word, other).stdout
        assert recover(word, "-yes", other).returncode == 0
        for server in left:
            server.start()
        wait_for(lambda: left[0].put("/v1/kv/after", b"1") is True, PATIENCE_S, "a write", left)
        assert len(left[1].get("/v1/kv/before/", keys="")) == 20

        for server in lost:
            server.start()
        leader = wait_for(
            lambda: lost[0].get("/v1/status/leader") or None, PATIENCE_S, "they go on without", lost
        )
        assert leader != left[0].get("/v1/status/leader"), "two clusters, and neither hears the other"
        assert left[0].put("/v1/kv/still", b"1") is True
        assert left[1].get("/v1/status/peers") != lost[0].get("/v1/status/peers")
    finally:
        cluster.stop()
