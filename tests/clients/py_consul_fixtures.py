"""The fixtures that py-consul's own tests ask for, giving them Gemot agents as processes on loopback.

Loaded as a pytest plugin in place of the suite's root conftest, which starts containers. Every test gets a
fresh `gemot agent -dev`, told through the same configuration file. This runs in an environment of its own and
imports nothing of Gemot: what is tested is the program.
"""

from __future__ import annotations

import http.server
import json
import os
import signal
import socket
import subprocess
import threading
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import requests

GEMOT = os.environ.get("GEMOT_PROGRAM", "gemot")
RESULTS = os.environ.get("GEMOT_RESULTS", "")
START_WITHIN_S = 15.0
STOP_WITHIN_S = 12.0
CHECKED_PORT = 8500
"""The suite's HTTP checks look at this port, where in its own set-up the agent listens."""


class ConsulInstance(NamedTuple):
    process: subprocess.Popen[bytes]
    port: int
    version: str


class _Answer(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: Any) -> None:
        """Say nothing."""


@pytest.fixture(scope="session", autouse=True)
def _checked_service() -> Iterator[None]:
    """Something that answers HTTP where the suite's checks look; what answers there already will do."""
    try:
        server = http.server.ThreadingHTTPServer(("127.0.0.1", CHECKED_PORT), _Answer)
    except OSError:
        yield
        return
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield
    server.shutdown()
    server.server_close()


@pytest.fixture(scope="session", autouse=True)
def _no_token() -> None:
    os.environ.pop("CONSUL_HTTP_TOKEN", None)


@pytest.fixture
def consul_instance(tmp_path: Path) -> Iterator[ConsulInstance]:
    yield from _run_agent(tmp_path, {})


@pytest.fixture
def acl_consul_instance(tmp_path: Path) -> Iterator[tuple[ConsulInstance, str]]:
    token = uuid.uuid4().hex
    acl = {"primary_datacenter": "dc1", "acl": {"enabled": True, "tokens": {"initial_management": token}}}
    for instance in _run_agent(tmp_path, acl):
        yield instance, token


@pytest.fixture
def consul_port(consul_instance: ConsulInstance) -> tuple[int, str]:
    return consul_instance.port, consul_instance.version


def _run_agent(directory: Path, more: dict[str, Any]) -> Iterator[ConsulInstance]:
    ports = _free_ports("http", "server", "serf_lan")
    config = {
        "ports": ports | {"https": -1, "dns": -1, "grpc": -1, "grpc_tls": -1, "serf_wan": -1},
        "performance": {"raft_multiplier": 1},
        "enable_script_checks": True,
    } | more
    (directory / "agent.json").write_text(json.dumps(config))
    log = directory / "agent.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [GEMOT, "agent", "-dev", "-client=127.0.0.1", f"-config-dir={directory}"],
            stdout=output,
            stderr=output,
            stdin=subprocess.DEVNULL,
        )
    try:
        _wait_ready(process, ports["http"], log)
        self_ = requests.get(f"http://127.0.0.1:{ports['http']}/v1/agent/self", timeout=5).json()
        yield ConsulInstance(process, ports["http"], self_["Config"]["Version"].strip())
    finally:
        _end(process)
        print(log.read_text(errors="replace"))


def _wait_ready(process: subprocess.Popen[bytes], port: int, log: Path) -> None:
    """Wait for a leader, and for a service registered with the agent to be in the catalog."""
    base = f"http://127.0.0.1:{port}/v1"
    deadline = time.monotonic() + START_WITHIN_S
    registered = False
    while time.monotonic() < deadline:
        if process.poll() is not None:
            break
        try:
            if not registered:
                if not requests.get(f"{base}/status/leader", timeout=2).json():
                    continue
                probe = requests.put(f"{base}/agent/service/register", json={"name": "probe"}, timeout=2)
                registered = probe.ok
            if requests.get(f"{base}/health/service/probe", timeout=2).json():
                requests.put(f"{base}/agent/service/deregister/probe", timeout=2)
                return
        except (requests.RequestException, ValueError):
            pass
        time.sleep(0.02)
    raise RuntimeError(f"the agent was not ready within {START_WITHIN_S:g} s:\n{log.read_text()}")


def _end(process: subprocess.Popen[bytes]) -> None:
    process.send_signal(signal.SIGTERM)
    try:
        process.wait(STOP_WITHIN_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _free_ports(*names: str) -> dict[str, int]:
    held = [socket.create_server(("127.0.0.1", 0)) for _ in names]
    ports = {name: sock.getsockname()[1] for name, sock in zip(names, held, strict=True)}
    for sock in held:
        sock.close()
    return ports


class _Outcomes:
    """What became of each test: `passed`, `failed` (also in set-up or tear-down) or `skipped`."""

    def __init__(self) -> None:
        self._of: dict[str, str] = {}

    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        self._of = {item.nodeid: "not run" for item in items}

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.when == "call" or report.outcome != "passed":
            self._of[report.nodeid] = report.outcome

    def pytest_sessionfinish(self) -> None:
        Path(RESULTS).write_text(json.dumps(self._of, indent=1))


def pytest_configure(config: pytest.Config) -> None:
    if RESULTS:
        config.pluginmanager.register(_Outcomes())
