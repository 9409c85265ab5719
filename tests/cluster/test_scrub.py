"""Bits that turn in files that lie still, under a running server: found, told, and put right.

A real process and real files. Later tests go on from where the earlier ones left the server.
"""

from __future__ import annotations

import re
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
LIMITS = {"scrub_interval": "1s", "scrub_bytes_per_second": 1 << 30}
VALUES = 120


def value(number: int) -> bytes:
    return b"value %d of the scrubbed " % number * 8_000


class Stage:
    def __init__(self, folder: Path) -> None:
        config = {"limits": LIMITS, "raft_snapshot_threshold": 100, "raft_trailing_logs": 10_000}
        self.cluster = Cluster(folder, servers=1, config=config)
        self.server = self.cluster.servers[0]
        self.raft = self.server.directory / "data" / "raft"

    def start(self) -> None:
        self.cluster.start()
        with closing(self.server.connect()) as connection:
            for number in range(VALUES):
                assert Kv(connection).put(f"k/{number}", value(number))

    def whole(self) -> None:
        with closing(self.server.connect()) as connection:
            rows = Kv(connection).tree("k/", consistent=True)
        assert {row.key: row.value for row in rows} == {f"k/{n}": value(n) for n in range(VALUES)}

    def damage(self, part: str) -> float:
        with closing(self.server.connect()) as connection:
            reply = connection.request("GET", "/v1/agent/metrics", params={"format": "prometheus"})
        found = re.search(rf'gemot_scrub_damage_total{{part="{part}"}} ([0-9.e+]+)', reply.body.decode())
        assert found is not None
        return float(found[1])


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    stage = Stage(tmp_path_factory.mktemp("scrub"))
    try:
        stage.start()
        yield stage
    finally:
        stage.cluster.stop()


def flip(path: Path, offset: int) -> None:
    with path.open("r+b") as file:
        file.seek(offset)
        byte = file.read(1)
        file.seek(offset)
        file.write(bytes([byte[0] ^ 1]))


def last_scrub(server: Agent) -> str:
    return server.stats()["raft"]["last_scrub"]


def test_status_tells_of_the_last_pass(stage: Stage) -> None:
    wait_for(lambda: "no damage" in last_scrub(stage.server), PATIENCE_S, "a pass", [stage.server])
    told = subprocess.run(
        [GEMOT, "status", f"-http-addr={stage.server.http}"],
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=True,
    )
    assert re.search(r"\nScrub    last pass ended \S+Z, \d+ MiB read, no damage\n", told.stdout)


def test_a_damaged_segment_of_the_log_is_dropped_behind_a_new_snapshot(stage: Stage) -> None:
    segment = sorted((stage.raft / "log").glob("*.seg"))[2]
    flip(segment, 300_000)
    wait_for(lambda: stage.damage("segment") > 0, PATIENCE_S, "found", [stage.server])
    assert f"scrub: damage found: {segment}" in stage.server.log.read_text()
    wait_for(lambda: not segment.exists(), PATIENCE_S, "dropped", [stage.server])
    wait_for(lambda: "no damage" in last_scrub(stage.server), PATIENCE_S, "a whole pass", [stage.server])
    stage.whole()


def test_a_damaged_snapshot_is_replaced(stage: Stage) -> None:
    stage.server.put("/v1/kv/other", b"1")
    snapshot = sorted((stage.raft / "snap").glob("*.snap"))[-1]
    flip(snapshot, 100_000)
    wait_for(lambda: stage.damage("snapshot") > 0, PATIENCE_S, "found", [stage.server])
    wait_for(lambda: not snapshot.exists(), PATIENCE_S, "replaced", [stage.server])
    wait_for(lambda: "no damage" in last_scrub(stage.server), PATIENCE_S, "a whole pass", [stage.server])
    stage.whole()


def test_a_damaged_state_ends_the_process_and_a_start_builds_it_again(stage: Stage) -> None:
    path = stage.raft / "state.db"
    at = path.read_bytes().index(b"value 7 of the scrubbed ")
    flip(path, at + 3)
    assert stage.server.wait(int(PATIENCE_S)) != 0
    said = stage.server.log.read_text()
    assert "does not fit its checksum: stopped, so that nothing damaged is served" in said
    stage.server.start()
    wait_for(lambda: stage.server.get("/v1/status/leader") or None, PATIENCE_S, "a leader", [stage.server])
    assert "a damaged page was met" in stage.server.log.read_text()
    stage.whole()
    wait_for(lambda: "no damage" in last_scrub(stage.server), PATIENCE_S, "a whole pass", [stage.server])
