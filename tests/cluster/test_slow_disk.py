"""The leader's disk hangs while its process lives: another server takes over, and nothing is lost.

Real processes; the disk is `support/lossy_agent.py`, whose syncs stop at SIGUSR1 and go on at SIGUSR2.
"""

from __future__ import annotations

import contextlib
import signal
from pathlib import Path

from support.cluster import Agent, Cluster, wait_for

from gemot.agent.client.connection import ClientError

PATIENCE_S = 90.0
"""Bound of every wait: only a hang reaches it."""


def leader_of_others(cluster: Cluster, stalled: Agent) -> Agent:
    """The server that the others agree on, once it is another one."""

    def agreed() -> Agent | None:
        others = [s for s in cluster.servers if s is not stalled]
        seen = {str(s.get("/v1/status/leader")) for s in others}
        return next((s for s in others if seen == {f"{s.host}:{s.ports['server']}"}), None)

    found: Agent = wait_for(agreed, PATIENCE_S, "another leader", cluster.servers)
    return found


def test_another_server_leads_while_the_leaders_disk_hangs_and_it_follows_afterwards(tmp_path: Path) -> None:
    cluster = Cluster(tmp_path, lossy=True)
    try:
        cluster.start()
        stalled = cluster.leader()
        assert stalled.put("/v1/kv/before", b"1") is True
        stalled.signal(signal.SIGUSR1)
        with contextlib.suppress(ClientError):
            stalled.put("/v1/kv/meanwhile", b"1")  # it is answered by nobody's sync but its own

        leader = leader_of_others(cluster, stalled)
        for n in range(20):
            assert leader.put(f"/v1/kv/after/{n}", b"%d" % n) is True
        assert stalled.running
        assert stalled.stats()["raft"]["stalled"] == "true"
        assert "Waiting for the disk" in stalled.stats()["consul"]["waiting"]
        assert "server: disk stalled" in stalled.log.read_text()

        stalled.signal(signal.SIGUSR2)
        wait_for(lambda: stalled.stats()["raft"]["stalled"] == "false", PATIENCE_S, "it works again")
        wait_for(
            lambda: len({server.state() for server in cluster.servers}) == 1,
            PATIENCE_S,
            "the same state everywhere",
            cluster.servers,
        )
        assert len(stalled.get("/v1/kv/after/", recurse="")) == 20
        assert stalled.put("/v1/kv/last", b"1") is True
    finally:
        for server in cluster.servers:
            if server.running:
                server.signal(signal.SIGUSR2)
        cluster.stop()
