"""Disks that fill up: writes are refused in time, what frees goes through, nothing acknowledged is lost.

Real processes, each with its data directory on a small memory file system. A file beside the data takes the
room away, and gives it back.
"""

from __future__ import annotations

import hashlib
import http.client
import os
import re
import subprocess
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from support.cluster import Agent, Cluster, wait_for

from gemot.agent.client.connection import Refused
from gemot.agent.client.kv import Kv

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount a small disk")

PATIENCE_S = 90.0
"""Bound of every wait: only a hang reaches it."""

DISK_MIB = 160
VALUE_BYTES = 256 << 10
ITS_OWN = "2.0 MiB"
"""What a value may take, by `server/space.py`."""

CONFIG = {
    "raft_snapshot_threshold": 64,
    "raft_trailing_logs": 16,
    "performance": {"raft_multiplier": 3},  # the leader stays, though it stands still for a second or two
}


class Stage:
    """Three servers on small disks of their own, and a client agent."""

    def __init__(self, folder: Path) -> None:
        self.cluster = Cluster(folder, clients=1, config=CONFIG)
        self.web = self.cluster.clients[0]
        self.disks: list[Path] = []
        self.written: dict[str, str] = {}
        self.unsure: set[str] = set()

    def start(self) -> None:
        for server in self.cluster.servers:
            disk = server.directory / "data"
            disk.mkdir()
            size = f"size={DISK_MIB}m"
            subprocess.run(
                ["mount", "-t", "tmpfs", "-o", size, "tmpfs", disk], check=True, timeout=PATIENCE_S
            )
            self.disks.append(disk)
        self.cluster.start()

    def stop(self) -> None:
        self.cluster.stop()
        for disk in self.disks:
            subprocess.run(["umount", disk], check=True, timeout=PATIENCE_S)

    def put(self, number: int) -> None:
        """Write one value through the client agent, and note it once it is acknowledged."""
        key, value = f"fill/{number}", os.urandom(VALUE_BYTES)
        self.unsure.add(key)
        try:
            with closing(self.web.connect()) as connection:
                Kv(connection).put(key, value)
        except Refused as refused:
            if refused.undone:
                self.unsure.discard(key)
            raise
        self.unsure.discard(key)
        self.written[key] = hashlib.sha256(value).hexdigest()

    def fill(self) -> Refused:
        """Write until a disk is full by all that was written: what is still to be stored is told as well."""
        for number in range(2_000):
            try:
                self.put(number)
            except Refused as refused:
                if f"reserve, {ITS_OWN} more may be needed" in str(refused):
                    return refused
                time.sleep(0.05)
        raise AssertionError("the disk never was too small")

    def takes_another(self) -> bool:
        """As large as the others: a small one may be taken while servers are still busy storing those."""
        self.put(9_999)
        return True

    def check(self) -> None:
        with closing(self.cluster.leader().connect()) as connection:
            rows = Kv(connection).tree("fill/", consistent=True)
        found = {row.key: hashlib.sha256(row.value).hexdigest() for row in rows}
        assert {key: value for key, value in found.items() if key not in self.unsure} == self.written


def leave_free(server: Agent, mib: int) -> None:
    """Take room away until so much is left."""
    ballast = server.directory / "data" / "ballast"
    ballast.unlink(missing_ok=True)
    disk = os.statvfs(ballast.parent)
    with ballast.open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, max(1, disk.f_bavail * disk.f_frsize - (mib << 20)))


def give_back(server: Agent) -> None:
    (server.directory / "data" / "ballast").unlink()


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    stage = Stage(tmp_path_factory.mktemp("no-space"))
    try:
        stage.start()
        yield stage
    finally:
        stage.stop()


def refusal(agent: Agent, path: str) -> Refused | None:
    with closing(agent.connect()) as connection:
        try:
            connection.request("PUT", f"/v1/kv/{path}", body=b"1")
        except Refused as refused:
            return refused
    return None


def answer(agent: Agent, path: str) -> tuple[int, str | None, str | None]:
    """Status, Retry-After and X-Gemot-Outcome of a write as large as the others."""
    connection = http.client.HTTPConnection(agent.http, timeout=PATIENCE_S)
    with closing(connection):
        connection.request("PUT", f"/v1/kv/{path}", body=bytes(VALUE_BYTES))
        response = connection.getresponse()
        return response.status, response.getheader("Retry-After"), response.getheader("X-Gemot-Outcome")


def test_a_disk_that_fills_up_ends_the_writing_and_no_server(stage: Stage) -> None:
    """What fills the disk are the writes themselves, as fast as they are taken."""
    for server in stage.cluster.servers:
        leave_free(server, 90)
    refused = stage.fill()
    assert refused.status == 503
    assert "No space: srv" in str(refused)
    assert "limits.disk_reserve_bytes" in str(refused)
    assert len(stage.written) > 10
    assert all(server.running for server in stage.cluster.servers)


def test_meanwhile_deletes_go_through_and_new_writes_say_when_to_ask_again(stage: Stage) -> None:
    first = sorted(stage.written)[0]
    for agent in (stage.web, stage.cluster.leader()):
        assert answer(agent, "another") == (503, "1", "not-done")
    with closing(stage.web.connect()) as connection:
        Kv(connection).delete(first)
    del stage.written[first]
    assert stage.web.put("/v1/catalog/deregister", {"Node": "nobody"}) is True
    leader = stage.cluster.leader()
    told = leader.stats()["consul"]["space"]
    assert told.startswith("No space: ")
    with closing(leader.connect()) as connection:
        metrics = connection.request("GET", "/v1/agent/metrics", params={"format": "prometheus"}).body
    assert b"gemot_writes_refused_no_space_total" in metrics
    stage.check()


def test_with_room_again_writes_go_on_by_themselves_and_all_is_there(stage: Stage) -> None:
    for server in stage.cluster.servers:
        give_back(server)
    wait_for(stage.takes_another, PATIENCE_S, "a write", stage.cluster.servers)
    stage.check()
    wait_for(lambda: stage.cluster.leader().stats()["consul"]["space"] == "", PATIENCE_S, "room everywhere")


def test_two_followers_without_room_stop_the_writes_though_the_leader_has_some(stage: Stage) -> None:
    leader = stage.cluster.leader()
    others = [server for server in stage.cluster.servers if server is not leader]
    leave_free(others[0], 4)
    assert refusal(stage.web, "one") is None, "two of three can store it"
    leave_free(others[1], 4)
    told = re.compile(f"No space: ({others[0].name}|{others[1].name}) has")
    wait_for(
        lambda: told.search(str(refusal(stage.web, "two"))), PATIENCE_S, "a refusal", stage.cluster.servers
    )
    give_back(others[0])
    wait_for(lambda: refusal(stage.web, "two") is None, PATIENCE_S, "a write", stage.cluster.servers)
    give_back(others[1])
    stage.check()
    assert all(server.running for server in stage.cluster.servers)
