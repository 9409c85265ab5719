"""ZooKeeper as one server on loopback, with its defaults and real syncs, from `make bench-tools`.

Java is the system's. The only settings are those without which ten thousand clients of one address are
refused, and no web page for administrators beside it.
"""

from __future__ import annotations

import shutil
import signal
import socket
import subprocess
import time
from pathlib import Path

from peers import CHECKOUT
from support.ports import free_port

JARS = CHECKOUT / ".tools" / "zookeeper" / "jars"
START_S = 60


class ZooKeeper:
    name = "zookeeper"

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._process: subprocess.Popen[bytes] | None = None
        self._port = free_port()

    @property
    def leader(self) -> str:
        return f"127.0.0.1:{self._port}"

    def start(self) -> None:
        self._directory.mkdir(parents=True, exist_ok=True)
        settings = self._directory / "zoo.cfg"
        settings.write_text(
            f"dataDir={self._directory / 'data'}\nclientPort={self._port}\nclientPortAddress=127.0.0.1\n"
            "maxClientCnxns=0\nadmin.enableServer=false\n"
        )
        command = ["java", "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn", "-cp", f"{JARS}/*"]
        with (self._directory / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [*command, "org.apache.zookeeper.server.quorum.QuorumPeerMain", str(settings)],
                stdout=log,
                stderr=log,
                stdin=subprocess.DEVNULL,
            )
        deadline = time.monotonic() + START_S
        while not self._serves():
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"ZooKeeper does not serve: see {self._directory / 'log'}")
            time.sleep(0.1)

    def stop(self) -> None:
        if self._process is None:
            return
        self._process.send_signal(signal.SIGTERM)
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process = None

    def pids(self) -> list[int]:
        assert self._process is not None, "not started"
        return [self._process.pid]

    def _serves(self) -> bool:
        try:
            with socket.create_connection(("127.0.0.1", self._port), timeout=5) as asking:
                asking.sendall(b"srvr")
                return asking.recv(64).startswith(b"Zookeeper version")
        except OSError:
            return False


def why_missing() -> str:
    """Why there is no ZooKeeper to measure; "" where there is one."""
    if shutil.which("java") is None:
        return "left out: there is no java in PATH (Debian: default-jre-headless)"
    if not JARS.is_dir():
        return "left out: `make bench-tools` has not brought it"
    return ""


def version() -> str:
    command = ["java", "-cp", f"{JARS}/*", "org.apache.zookeeper.version.VersionInfoMain"]
    shown = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    runs_on = subprocess.run(["java", "--version"], capture_output=True, text=True, check=True).stdout
    return f"{shown.strip().partition('version ')[2]}, {runs_on.splitlines()[0]}"
