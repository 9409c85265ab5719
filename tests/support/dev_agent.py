"""The real program as processes: an agent in dev mode on free ports, and commands run against it."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

from support.ports import free_port

from gemot.agent.client.connection import Connection, Refused

PATIENCE_S = 30.0
"""Bound of every wait: only a hang reaches it."""

PROGRAM = (sys.executable, "-P", "-m", "gemot.agent")


class Ended:
    """A command that ran to its end."""

    def __init__(self, code: int, out: bytes, err: bytes) -> None:
        self.code = code
        self.raw = out
        self.out = out.decode(errors="replace")
        self.err = err.decode(errors="replace")


class Shell:
    """Runs `gemot` in a folder of its own, with an environment that names the agent."""

    def __init__(self, address: str, folder: Path) -> None:
        self.address = address
        self.folder = folder
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("GEMOT", "CONSUL"))}
        self.environ = kept | {"GEMOT_HTTP_ADDR": address, "PYTHONWARNINGS": "default"}

    def __call__(self, *arguments: str, stdin: bytes = b"", **environ: str) -> Ended:
        done = subprocess.run(
            [*PROGRAM, *arguments],
            input=stdin,
            capture_output=True,
            cwd=self.folder,
            env=self.environ | environ,
            timeout=PATIENCE_S,
            check=False,
        )
        return Ended(done.returncode, done.stdout, done.stderr)

    @contextlib.contextmanager
    def running(self, *arguments: str, **environ: str) -> Iterator[subprocess.Popen[bytes]]:
        """The command at work; killed at the end if it still is."""
        with (self.folder / "stdout").open("wb") as shown, (self.folder / "stderr").open("wb") as told:
            child = subprocess.Popen(
                [*PROGRAM, *arguments],
                stdin=subprocess.DEVNULL,
                stdout=shown,
                stderr=told,
                cwd=self.folder,
                env=self.environ | environ,
            )
        try:
            yield child
        finally:
            child.kill()
            child.wait(PATIENCE_S)

    @property
    def shown(self) -> str:
        """What the command that runs (or ran last) wrote to standard output."""
        return (self.folder / "stdout").read_text()

    @property
    def told(self) -> str:
        """What the command that runs (or ran last) wrote to standard error."""
        return (self.folder / "stderr").read_text()


def until(condition: Callable[[], object], what: str = "the condition") -> None:
    """Wait until it holds, for PATIENCE_S at most."""
    end = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < end, f"{what} did not come"
        time.sleep(0.01)


def await_sessions(address: str) -> None:
    """Until sessions may begin: they need the agent's own node in the catalog."""

    def begins() -> bool:
        with contextlib.closing(Connection(address)) as connection:
            try:
                session = connection.request("PUT", "/v1/session/create").json()["ID"]
                connection.request("PUT", f"/v1/session/destroy/{session}")
            except Refused:
                return False
        return True

    until(begins, "a session")


def free_ports(count: int) -> list[int]:
    return [free_port() for _ in range(count)]


@contextlib.contextmanager
def dev_agent(folder: Path, *flags: str, at: str = "") -> Iterator[str]:
    """An agent that leads its own cluster, until the end; gives its HTTP address (`at`, or a free one)."""
    http, dns, server, serf = free_ports(4)
    address = at or f"127.0.0.1:{http}"
    http = int(address.rpartition(":")[2])
    ports = [f"-http-port={http}", f"-dns-port={dns}", f"-server-port={server}", f"-serf-lan-port={serf}"]
    arguments = [*PROGRAM, "agent", "-dev", "-node=n1", "-bind=127.0.0.1", *ports, *flags]
    log = folder / "agent.log"
    with log.open("wb") as written:
        child = subprocess.Popen(arguments, stdout=written, stderr=written, cwd=folder)
    try:
        until(lambda: child.poll() is not None or _leads(address), "a leader")
        assert child.poll() is None, log.read_text()
        yield address
    finally:
        child.terminate()
        child.wait(PATIENCE_S)


def _leads(address: str) -> bool:
    try:
        with urllib.request.urlopen(f"http://{address}/v1/kv/?keys", timeout=PATIENCE_S):
            return True
    except urllib.error.HTTPError as error:
        error.close()
        return error.code == 404
    except OSError:
        return False
