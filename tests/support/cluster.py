"""A real cluster on loopback: agents as processes, each on an address of its own (127.0.0.1, .2, ...).

Processes are ended by their own handle only; logs and data are under the directory that was given.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from support.ports import free_port

from gemot.agent.client.connection import ClientError, Connection

SUPPORT = Path(__file__).parent
PYTHON = sys.executable

PATIENCE_S = 90.0
"""Bound of every wait: only a hang reaches it."""


class Agent:
    """One agent process and the way to it."""

    def __init__(
        self,
        *,
        name: str,
        host: str,
        directory: Path,
        ports: dict[str, int],
        config: dict[str, Any],
        program: list[str],
    ) -> None:
        self.name = name
        self.host = host
        self.directory = directory
        self.ports = ports
        self._config = config
        self._program = program
        self._process: subprocess.Popen[bytes] | None = None
        directory.mkdir(parents=True, exist_ok=True)

    @property
    def http(self) -> str:
        return f"{self.host}:{self.ports['http']}"

    @property
    def log(self) -> Path:
        return self.directory / "agent.log"

    @property
    def config_file(self) -> Path:
        return self.directory / "agent.json"

    def write_config(self, **changes: Any) -> None:
        self._config |= changes
        self.config_file.write_text(json.dumps(self._config, indent=2))

    def start(self) -> None:
        assert self._process is None, f"{self.name} runs already"
        self.write_config()
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                [*self._program, f"-config-file={self.config_file}", f"-data-dir={self.directory / 'data'}"],
                stdout=log,
                stderr=log,
                stdin=subprocess.DEVNULL,
                env=os.environ | {"PYTHONHASHSEED": "random"},
                # Ctrl-C in a terminal is for whoever started this, who then stops the agents in order.
                start_new_session=True,
            )

    def kill(self) -> None:
        """SIGKILL, and wait until it is gone."""
        self.signal(signal.SIGKILL)
        self.wait()

    def stop(self) -> int:
        """SIGTERM; the exit code."""
        self.signal(signal.SIGTERM)
        return self.wait()

    def signal(self, number: signal.Signals) -> None:
        assert self._process is not None, f"{self.name} does not run"
        self._process.send_signal(number)

    def wait(self, timeout_s: float = PATIENCE_S) -> int:
        assert self._process is not None
        code = self._process.wait(timeout_s)
        self._process = None
        return code

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    @property
    def code(self) -> int | None:
        """How it ended by itself; negative by a signal. None while it runs, and when it was stopped."""
        return self._process.poll() if self._process is not None else None

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def connect(self, timeout_s: float = 10.0) -> Connection:
        return Connection(self.http, timeout_s=timeout_s)

    def get(self, path: str, **params: Any) -> Any:
        """The JSON at this path."""
        connection = self.connect()
        try:
            return connection.request("GET", path, params=params).json()
        finally:
            connection.close()

    def put(self, path: str, body: Any = None, **params: Any) -> Any:
        connection = self.connect()
        data = body if isinstance(body, bytes) else json.dumps(body).encode() if body is not None else b""
        try:
            reply = connection.request("PUT", path, params=params, body=data)
            return reply.json() if reply.body else None
        finally:
            connection.close()

    def stats(self) -> dict[str, dict[str, str]]:
        stats: dict[str, dict[str, str]] = self.get("/v1/agent/self")["Stats"]
        return stats

    def state(self) -> tuple[str, str]:
        """A server's applied index and state hash, of one moment: servers write by themselves, too."""
        stats = self.stats()
        return stats["raft"]["applied_index"], stats["consul"]["state_hash"]

    def tail(self, lines: int = 40) -> str:
        if not self.log.exists():
            return "(never started)"
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:])


class Cluster:
    """Servers srv1.. on 127.0.0.1.., client agents web1.. behind them."""

    def __init__(
        self,
        directory: Path,
        *,
        servers: int = 3,
        clients: int = 0,
        lossy: bool = False,
        no_sync: bool = False,
        config: dict[str, Any] | None = None,
        network: str = "127.0.0",
        ports: dict[str, int] | None = None,
        program: list[str] | None = None,
    ) -> None:
        """`ports` are the same for every agent; without them each gets free ones."""
        program = program or [PYTHON, "-m", "gemot.agent", "agent"]
        if lossy:
            program = [PYTHON, str(SUPPORT / "lossy_agent.py"), *(["--no-sync"] if no_sync else [])]
        names = [f"srv{n}" for n in range(1, servers + 1)] + [f"web{n}" for n in range(1, clients + 1)]
        hosts = {name: f"{network}.{n}" for n, name in enumerate(names, start=1)}
        self._reserved = [ports or free_ports(host) for host in hosts.values()]
        join = [f"{hosts[f'srv{n}']}:{self._reserved[n - 1]['serf_lan']}" for n in range(1, servers + 1)]
        self.agents: list[Agent] = []
        for name, own in zip(names, self._reserved, strict=True):
            server = name.startswith("srv")
            base: dict[str, Any] = {
                "node_name": name,
                "bind_addr": hosts[name],
                "client_addr": hosts[name],
                "ports": own,
                "retry_join": join,
                "raft_log_segment_bytes": 1 << 20,
            }
            if server:
                base |= {"server": True, "bootstrap_expect": servers}
            self.agents.append(
                Agent(
                    name=name,
                    host=hosts[name],
                    directory=directory / name,
                    ports=own,
                    config=base | (config or {}),
                    program=program,
                )
            )
        self.servers = self.agents[:servers]
        self.clients = self.agents[servers:]

    def start(self) -> None:
        """Until the servers have a leader, and all answer."""
        for agent in self.agents:
            agent.start()
        self.leader()
        for agent in self.clients:
            wait_for(
                lambda agent=agent: agent.get("/v1/agent/self"), PATIENCE_S, f"{agent.name} answers", [agent]
            )

    def stop(self) -> None:
        """End what still runs, kindly first; who was stopped goes on for that."""
        for agent in self.agents:
            if agent.running:
                agent.signal(signal.SIGCONT)
                agent.signal(signal.SIGTERM)
        for agent in self.agents:
            if agent.running:
                try:
                    agent.wait(15)
                except subprocess.TimeoutExpired:
                    agent.kill()

    def leader(self, timeout_s: float = PATIENCE_S) -> Agent:
        """The server that leads, once every running server agrees on it."""

        def agreed() -> Agent | None:
            running = [s for s in self.servers if s.running]
            seen = {str(s.get("/v1/status/leader")) for s in running}
            if len(seen) != 1 or seen == {""}:
                return None
            address = seen.pop()
            return next(s for s in running if f"{s.host}:{s.ports['server']}" == address)

        leader: Agent = wait_for(agreed, timeout_s, "one leader on every server", self.servers)
        return leader


def wait_for(
    condition: Callable[[], Any], timeout_s: float, what: str, agents: list[Agent] | None = None
) -> Any:
    """The first true value of `condition`; errors of a client mean: not yet."""
    deadline = time.monotonic() + timeout_s
    last: object = None
    while time.monotonic() < deadline:
        try:
            if (value := condition()) is not None and value is not False:
                return value
        except (ClientError, StopIteration, KeyError) as error:
            last = error
        time.sleep(0.05)
    logs = "".join(f"\n--- {a.name}\n{a.tail()}" for a in agents or [])
    raise AssertionError(f"{what}: not within {timeout_s:g} s ({last}){logs}")


def free_ports(host: str) -> dict[str, int]:
    """A free port for each listener of an agent on this address."""
    return {name: free_port(host) for name in ("http", "dns", "server", "serf_lan")}
