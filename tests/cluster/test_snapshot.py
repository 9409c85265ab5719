"""Snapshots of a real cluster: restored while all is under way, a server killed meanwhile, into a new one."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from support.cluster import Agent, Cluster, wait_for

from gemot.agent.client.connection import ClientError, Refused
from gemot.agent.client.snapshot import Restored, Snapshot

KEYS = 300


def save(agent: Agent, path: Path, **options: Any) -> Path:
    connection = agent.connect(60)
    with path.open("wb") as file:
        Snapshot(connection).save(file, **options)
    return path


def restore(agent: Agent, path: Path, *, epoch: int = 0) -> Restored:
    connection = agent.connect(60)
    try:
        with path.open("rb") as file:
            return Snapshot(connection).restore(file, size=path.stat().st_size, epoch=epoch)
    finally:
        connection.close()


def put(agent: Agent, key: str, value: bytes = b"v") -> None:
    wait_for(lambda: agent.put(f"/v1/kv/{key}", value), 30, f"{key} is written")


def keys(agent: Agent, prefix: str = "") -> list[str]:
    connection = agent.connect()
    try:
        reply = connection.request("GET", f"/v1/kv/{prefix}", params={"keys": True}, ok=(200, 404))
    finally:
        connection.close()
    return [] if reply.status == 404 else list(reply.json())


def look(agent: Agent, key: str, **params: Any) -> tuple[int, int, int]:
    """Status, index, epoch."""
    connection = agent.connect(60)
    try:
        reply = connection.request("GET", f"/v1/kv/{key}", params=params, ok=(200, 404))
        return reply.status, reply.index, int(reply.headers["x-gemot-epoch"])
    finally:
        connection.close()


def same_state(cluster: Cluster) -> None:
    """Every server has applied the same, and has the same state."""

    def told() -> bool:
        return len({server.state() for server in cluster.servers}) == 1

    wait_for(told, 60, "one state hash", cluster.servers)


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    made = Cluster(tmp_path / "cluster", clients=1, network="127.61.1")
    made.start()
    try:
        yield made
    finally:
        made.stop()


def _fill(agent: Agent, count: int = KEYS) -> None:
    for number in range(count):
        put(agent, f"old/{number}", b"%d " % number * 50)


def test_a_restore_under_way_is_one_moment_for_all_who_read_write_and_wait(
    cluster: Cluster, tmp_path: Path
) -> None:
    (client,) = cluster.clients
    _fill(client)
    archive = save(client, tmp_path / "saved")
    put(client, "late", b"1")
    before = {agent.name: look(agent, "late") for agent in cluster.agents}
    assert {status for status, _, _ in before.values()} == {200}
    stop = threading.Event()
    seen: list[tuple[int, int, int]] = []
    written: list[str] = []

    def watch(agent: Agent) -> tuple[int, int, int]:
        return look(agent, "late", index=before[agent.name][1], wait="60s")

    def read() -> None:
        while not stop.is_set():
            seen.append(look(client, "late"))

    def write() -> None:
        number = 0
        while not stop.is_set():
            number += 1
            try:
                client.put(f"/v1/kv/during/{number}", b"x")
                written.append(f"during/{number}")
            except ClientError:
                continue

    with ThreadPoolExecutor(8) as pool:
        waiting = [pool.submit(watch, agent) for agent in cluster.agents]
        busy = [pool.submit(read), pool.submit(write)]
        done = restore(cluster.servers[1], archive)
        woken = [one.result(60) for one in waiting]
        put(client, "after", b"1")
        stop.set()
        for one in busy:
            one.result(60)
    assert done.epoch == 1
    assert done.missing == ""
    assert woken == [(404, done.index, 1)] * len(woken), "each waiter sees the same new state"
    assert seen == sorted(seen, key=lambda one: one[1]), "no index went back"
    assert all(index < done.index for _, index, epoch in seen if epoch == 0)
    assert all(status == 404 and index >= done.index for status, index, epoch in seen if epoch == 1)
    for agent in cluster.agents:
        found = keys(agent, "")
        assert len([key for key in found if key.startswith("old/")]) == KEYS
        assert "after" in found
        assert "late" not in found
    same_state(cluster)


@pytest.mark.parametrize("moment", ["it begins", "it is staged", "it is put in place"])
def test_a_server_that_is_killed_during_a_restore_comes_to_the_same_state(
    tmp_path: Path, moment: str
) -> None:
    """On a disk that really loses what was not synced."""
    cluster = Cluster(tmp_path / "cluster", clients=1, network="127.61.3", lossy=True)
    cluster.start()
    try:
        _kill_at(cluster, tmp_path / "saved", moment)
    finally:
        cluster.stop()


def _kill_at(cluster: Cluster, path: Path, moment: str) -> None:
    (client,) = cluster.clients
    _fill(client, 60)
    archive = save(client, path)
    put(client, "late")
    leader = cluster.leader()
    victim = next(s for s in cluster.servers if s is not leader)
    raft = victim.directory / "data/raft"
    signs = {"it begins": "*", "it is staged": "restore/*.state", "it is put in place": "snap/*"}
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(restore, leader, archive)
        wait_for(lambda: running.done() or any(raft.glob(signs[moment])), 30, moment, cluster.servers)
        victim.kill()
        done = running.result(60)
    put(client, "after")
    victim.start()
    same_state(cluster)
    status, index, epoch = look(victim, "late")
    assert (status, epoch) == (404, 1)
    assert index >= done.index
    assert "after" in keys(victim)


def test_a_server_that_was_away_fetches_the_snapshot_when_it_comes_to_it(
    cluster: Cluster, tmp_path: Path
) -> None:
    (client,) = cluster.clients
    _fill(client)
    archive = save(client, tmp_path / "saved")
    put(client, "late")
    away = next(s for s in cluster.servers if s is not cluster.leader())
    away.kill()
    done = restore(client, archive)
    assert done.missing == away.name, "who restores is told"
    away.start()
    same_state(cluster)
    assert look(away, "late", stale=True) == (404, done.index, 1)


def test_without_a_majority_nothing_is_restored(cluster: Cluster, tmp_path: Path) -> None:
    (client,) = cluster.clients
    put(client, "kept")
    archive = save(client, tmp_path / "saved")
    put(client, "late")
    left, *others = cluster.servers
    for server in others:
        server.kill()
    with pytest.raises(Refused, match="only 1 of 3 servers"):
        restore(left, archive)
    for server in others:
        server.start()
    cluster.leader()
    assert keys(client) == ["kept", "late"]


def test_a_damaged_snapshot_changes_nothing(cluster: Cluster, tmp_path: Path) -> None:
    (client,) = cluster.clients
    put(client, "kept")
    data = save(client, tmp_path / "saved").read_bytes()
    for name, damaged in {
        "cut": data[:-9],
        "flipped": data[:300] + bytes((data[300] ^ 4,)) + data[301:],
        "other": b"hello",
        "none": b"",
    }.items():
        path = tmp_path / name
        path.write_bytes(damaged)
        with pytest.raises(Refused) as refused:
            restore(client, path)
        assert refused.value.status == 400, name
    assert look(client, "kept")[0] == 200
    assert look(client, "kept")[2] == 0


def test_into_a_new_cluster_with_an_epoch_of_its_own(cluster: Cluster, tmp_path: Path) -> None:
    (client,) = cluster.clients
    _fill(client)
    archive = save(client, tmp_path / "saved")
    index = look(client, "old/1")[1]
    cluster.stop()
    fresh = Cluster(tmp_path / "fresh", clients=1, network="127.61.2")
    fresh.start()
    try:
        (agent,) = fresh.clients
        wait_for(lambda: look(agent, "old/1")[0] == 404, 30, "an empty cluster", fresh.agents)
        with pytest.raises(Refused, match="-epoch=N"):
            restore(agent, archive)
        assert keys(agent) == []
        done = restore(agent, archive, epoch=4)
        assert done.epoch == 4
        assert done.index > index
        assert len(keys(agent)) == KEYS
        put(agent, "new")
        assert look(agent, "new")[1] > done.index
        same_state(fresh)
        leader = fresh.leader()
        leader.kill()
        put(agent, "newer")
        leader.start()
        same_state(fresh)
        assert look(leader, "new")[2] == 4
    finally:
        fresh.stop()


def test_stale_is_saved_without_a_leader(cluster: Cluster, tmp_path: Path) -> None:
    (client,) = cluster.clients
    put(client, "kept")
    same_state(cluster)
    left, *others = cluster.servers
    for server in others:
        server.kill()
    with pytest.raises(Refused, match="No cluster leader"):
        save(left, tmp_path / "refused")
    archive = save(left, tmp_path / "stale", stale=True)
    for server in others:
        server.start()
    cluster.leader()
    put(client, "late")
    restore(client, archive)
    assert keys(client) == ["kept"]
