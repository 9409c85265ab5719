"""The systems compared: etcd and Gemot, each one or three servers on loopback in directories of its own.

Both run with their defaults and real syncs. What a request looks like on each is in `load.py` and `lua/`.
"""

from __future__ import annotations

import base64
import http.client
import json
import os
import signal
import subprocess
import time
from pathlib import Path
from typing import Any, Protocol

import psutil
from support.cluster import Agent, Cluster, wait_for
from support.ports import free_port

CHECKOUT = Path(__file__).resolve().parent.parent
TOOLS = CHECKOUT / ".tools" / "bin"
MANY_CONNECTIONS = 15_000
"""Gemot's limit of connections from one address is for hosts, not for load generators."""


class Peer(Protocol):
    """One system under load."""

    name: str

    @property
    def leader(self) -> str:
        """host:port of the leader's HTTP."""

    def start(self) -> None:
        """Start all servers and wait until they serve."""

    def stop(self) -> None: ...

    def pids(self) -> list[int]:
        """The servers' processes, the leader's first."""

    def kill_leader(self) -> list[str]:
        """SIGKILL, not waited for; host:port of the others' HTTP."""

    def revive(self) -> None:
        """Start who was killed, and wait until all serve again, under a leader that all know."""


class Gemot:
    name = "gemot"

    def __init__(self, directory: Path, *, servers: int = 3, clients: int = 0) -> None:
        self.cluster = Cluster(
            directory,
            servers=servers,
            clients=clients,
            config={
                "raft_log_segment_bytes": 64 << 20,
                "limits": {"http_max_conns_per_client": MANY_CONNECTIONS},
            },
        )
        self._leader: Agent | None = None

    def start(self) -> None:
        self.cluster.start()
        self._leader = self.cluster.leader()

    def stop(self) -> None:
        self.cluster.stop()

    @property
    def leader(self) -> str:
        assert self._leader is not None, "not started"
        return self._leader.http

    def pids(self) -> list[int]:
        servers = sorted(self.cluster.servers, key=lambda server: server is not self._leader)
        return [server.pid for server in servers]

    def kill_leader(self) -> list[str]:
        assert self._leader is not None, "not started"
        self._leader.signal(signal.SIGKILL)
        return [server.http for server in self.cluster.servers if server is not self._leader]

    def revive(self) -> None:
        assert self._leader is not None, "not started"
        self._leader.wait()
        self._leader.start()
        self._leader = self.cluster.leader()
        wait_for(
            lambda: all(readable("gemot", server.http) for server in self.cluster.servers),
            30,
            "every server serves again",
            self.cluster.servers,
        )


class Etcd:
    name = "etcd"

    def __init__(self, directory: Path, *, servers: int = 3) -> None:
        self._directory = directory
        self._members = [
            (f"e{n}", host := f"127.0.0.{n}", free_port(host), free_port(host)) for n in range(1, servers + 1)
        ]
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self._leader = ""

    def start(self) -> None:
        for member in self._members:
            self._start_member(*member)
        self._leader = self._find_leader()

    def _start_member(self, name: str, host: str, client: int, peer: int) -> None:
        directory = self._directory / name
        directory.mkdir(parents=True, exist_ok=True)
        arguments = {
            "name": name,
            "data-dir": directory / "data",
            "listen-client-urls": f"http://{host}:{client}",
            "advertise-client-urls": f"http://{host}:{client}",
            "listen-peer-urls": f"http://{host}:{peer}",
            "initial-advertise-peer-urls": f"http://{host}:{peer}",
            "initial-cluster": ",".join(f"{n}=http://{h}:{p}" for n, h, _, p in self._members),
            "initial-cluster-token": "bench",
        }
        with (directory / "log").open("ab") as log:
            self._processes[name] = subprocess.Popen(
                [str(TOOLS / "etcd"), *(f"--{key}={value}" for key, value in arguments.items())],
                stdout=log,
                stderr=log,
                stdin=subprocess.DEVNULL,
            )

    def kill_leader(self) -> list[str]:
        self._processes[self._leader].send_signal(signal.SIGKILL)
        return [f"{host}:{client}" for name, host, client, _ in self._members if name != self._leader]

    def revive(self) -> None:
        self._processes[self._leader].wait(20)
        self._start_member(*next(member for member in self._members if member[0] == self._leader))
        self._leader = self._find_leader()

    def stop(self) -> None:
        for process in self._processes.values():
            process.send_signal(signal.SIGTERM)
        for process in self._processes.values():
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        self._processes.clear()

    @property
    def leader(self) -> str:
        host, client = next((host, client) for name, host, client, _ in self._members if name == self._leader)
        return f"{host}:{client}"

    def pids(self) -> list[int]:
        ordered = sorted(self._processes, key=lambda name: name != self._leader)
        return [self._processes[name].pid for name in ordered]

    def _find_leader(self) -> str:
        """The leader's name, once a linearizable read succeeds on every member."""
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline:
            leaders = [self._led_by_itself(f"{host}:{client}") for _, host, client, _ in self._members]
            if None not in leaders and leaders.count(True) == 1:
                return self._members[leaders.index(True)][0]
            time.sleep(0.02)
        raise RuntimeError(f"etcd elected no leader within 30 s; see {self._directory}")

    def _led_by_itself(self, address: str) -> bool | None:
        if not readable("etcd", address):
            return None
        status = ask(address, "POST", "/v3/maintenance/status", b"{}")
        return bool(status["header"]["member_id"] == status["leader"])


def version(peer: str) -> str:
    if peer == "etcd":
        shown = subprocess.run([str(TOOLS / "etcd"), "--version"], capture_output=True, text=True, check=True)
        return ", ".join(line.strip() for line in shown.stdout.splitlines() if "Version" in line)
    git = ["git", "-C", str(CHECKOUT), "describe", "--always", "--dirty"]
    # Only looked at: the checkout may be in use.
    environment = os.environ | {"GIT_OPTIONAL_LOCKS": "0"}
    return subprocess.run(git, capture_output=True, text=True, check=True, env=environment).stdout.strip()


def readable(peer: str, address: str) -> bool:
    """Whether a linearizable read of a key succeeds now."""
    try:
        if peer == "etcd":
            ask(address, "POST", "/v3/kv/range", json.dumps({"key": b64("probe")}).encode())
        else:
            ask(address, "GET", "/v1/kv/probe", missing_ok=True)
    except (OSError, http.client.HTTPException, ValueError):
        return False
    return True


def ask(address: str, method: str, path: str, body: bytes = b"", *, missing_ok: bool = False) -> Any:
    """One request; its JSON. Raises ValueError for any answer but 200."""
    connection = http.client.HTTPConnection(address, timeout=10)
    try:
        connection.request(method, path, body)
        reply = connection.getresponse()
        data = reply.read()
        if reply.status == 404 and missing_ok:
            return None
        if reply.status != 200:
            raise ValueError(f"{method} {path}: {reply.status} {data[:200]!r}")
        return json.loads(data)
    finally:
        connection.close()


def b64(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


def processor_seconds(pids: list[int]) -> float:
    """What these processes have used so far: unlike rates, little moved by what else runs."""
    return sum(sum(psutil.Process(pid).cpu_times()[:2]) for pid in pids)


def resident_bytes(pid: int) -> int:
    return int(psutil.Process(pid).memory_info().rss)
