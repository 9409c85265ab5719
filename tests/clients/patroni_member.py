"""A member of a Patroni cluster without PostgreSQL: Patroni's own Consul class, unmodified, in a loop.

Runs in Patroni's environment and imports nothing of Gemot. What `patroni.ha.Ha` asks of the class is asked
here in the same order, and failure answered alike; instead of starting and stopping a database it tells, a
JSON line each, on what it would act. Times are of CLOCK_MONOTONIC, one for all processes of a host.

    patroni_member.py run CONFIG    a member, until it is ended
    patroni_member.py ctl CONFIG    as `patronictl`: carries out "do" of CONFIG, tells the cluster's state
"""

from __future__ import annotations

import http.server
import json
import sys
import threading
import time
from typing import Any

from patroni.dcs import AbstractDCS, Cluster, get_dcs
from patroni.exceptions import DCSError

SYSTEM_ID = "7000000000000000001"


def tell(what: str, **more: Any) -> None:
    print(json.dumps({"t": time.monotonic(), "what": what, **more}), flush=True)


class Member:
    def __init__(self, dcs: AbstractDCS, *, name: str, loop_wait: float, rest_port: int) -> None:
        self._dcs = dcs
        self._name = name
        self._loop_wait = loop_wait
        self._rest_port = rest_port
        self._lsn = 1000
        self.leads = False

    def run(self) -> None:
        while True:
            started = time.monotonic()
            cluster = self._cycle()
            tell("waiting")
            self._wait(cluster, max(0.0, started + self._loop_wait - time.monotonic()))

    def _cycle(self) -> Cluster | None:
        """One pass, as `Ha.run_cycle`: whoever led and cannot reach Consul demotes."""
        try:
            cluster = self._dcs.get_cluster()
            self._touch()
            self._act(cluster)
        except DCSError as error:
            tell("unreachable", error=str(error))
            self._lead(False)
            return None
        return cluster

    def _act(self, cluster: Cluster) -> None:
        if cluster.initialize is None:
            if self._dcs.initialize(create_new=True):
                self._dcs.initialize(create_new=False, sysid=SYSTEM_ID)
                self._lead(self._dcs.take_leader())
        elif cluster.is_unlocked():
            if self._may_follow_up(cluster):
                self._lead(self._dcs.attempt_to_acquire_leader())
        elif cluster.leader is not None and cluster.leader.name == self._name:
            self._go_on(cluster)
        else:
            self._lead(False)

    def _may_follow_up(self, cluster: Cluster) -> bool:
        """A switchover that names a candidate is the candidate's."""
        candidate = cluster.failover.candidate if cluster.failover else None
        return not candidate or candidate == self._name

    def _go_on(self, cluster: Cluster) -> None:
        """The leader's pass: renew first, then what only a leader writes."""
        self._lsn += 1
        ours = self._dcs.update_leader(cluster, self._lsn, {"slot": self._lsn})
        self._lead(ours)
        if not ours:
            return
        if cluster.failover and cluster.failover.candidate not in (None, "", self._name):
            self._lead(False)
            self._dcs.delete_leader(cluster.leader, self._lsn)
            return
        if cluster.failover:
            self._dcs.manual_failover("", "", version=cluster.failover.version)
        followers = sorted(m.name for m in cluster.members if m.name != self._name)
        if cluster.sync.leader != self._name or sorted(cluster.sync.voters) != followers:
            if not self._dcs.write_sync_state(self._name, followers, 0, version=cluster.sync.version):
                tell("sync refused")
            self._dcs.set_history_value(json.dumps([[1, self._lsn, "no recovery target specified"]]))

    def _touch(self) -> None:
        role = "primary" if self.leads else "replica"
        self._dcs.touch_member(
            {
                "conn_url": f"postgres://127.0.0.1:{self._rest_port}/postgres",
                "api_url": f"http://127.0.0.1:{self._rest_port}/patroni",
                "state": "running",
                "role": role,
                "version": "4.1.5",
            }
        )

    def _lead(self, leads: bool) -> None:
        """As `Ha.set_is_leader`: good for Patroni's TTL from now on, whatever becomes of this process."""
        self.leads = leads
        if leads:
            tell("leads", until=time.monotonic() + self._dcs.ttl)
        else:
            tell("follows")

    def _wait(self, cluster: Cluster | None, timeout_s: float) -> None:
        """As `Ha.watch`: who follows a leader watches its key, all others sleep."""
        version = None
        if cluster is not None and cluster.leader is not None and not self.leads:
            version = cluster.leader.version
        self._dcs.watch(version, timeout_s)


def serve_role(member: Member, port: int) -> None:
    """Patroni's REST interface as far as its service check asks it: /primary, /replica."""

    class Answer(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            role = "/primary" if member.leads else "/replica"
            self.send_response(200 if self.path == role else 503)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            """Say nothing."""

    server = http.server.ThreadingHTTPServer(("127.0.0.1", port), Answer)
    threading.Thread(target=server.serve_forever, daemon=True).start()


def control(dcs: AbstractDCS, wanted: dict[str, Any]) -> None:
    if "switchover" in wanted:
        tell("done", answer=dcs.manual_failover(*wanted["switchover"]))
    if "config" in wanted:
        tell("done", answer=dcs.set_config_value(json.dumps(wanted["config"])))
    if wanted.get("delete"):
        tell("done", answer=dcs.delete_cluster())
    cluster = dcs.get_cluster()
    tell(
        "cluster",
        initialize=cluster.initialize,
        leader=cluster.leader.name if cluster.leader else None,
        session=cluster.leader.session if cluster.leader else None,
        members={m.name: m.data.get("role") for m in cluster.members},
        sync=[cluster.sync.leader, sorted(cluster.sync.voters)],
        history=cluster.history.lines if cluster.history else None,
        config=cluster.config.data if cluster.config else None,
        failover=bool(cluster.failover),
        lsn=cluster.status.last_lsn,
    )


def main() -> None:
    mode, config = sys.argv[1], json.loads(sys.argv[2])
    dcs = get_dcs(config | {"patronictl": mode == "ctl"})
    if mode == "ctl":
        control(dcs, config["do"])
        return
    member = Member(dcs, name=config["name"], loop_wait=config["loop_wait"], rest_port=config["rest_port"])
    serve_role(member, config["rest_port"])
    tell("ready")
    member.run()


if __name__ == "__main__":
    main()
