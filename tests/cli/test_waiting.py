"""A command whose answer is late says what is waited for: at a terminal, and to nobody else."""

from __future__ import annotations

import contextlib
import os
import pty
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from io import FileIO
from pathlib import Path

import pytest
from support.cluster import Agent, Cluster, wait_for
from support.dev_agent import PATIENCE_S, PROGRAM, Shell

from gemot.agent.client import connection as connection_module
from gemot.agent.client.connection import Connection, ConnectionBroke

HOLD_S = 10.0
"""How long an agent holds a question: within it, after a second, a command has asked what is waited for."""

PATIENT = """
import sys
from gemot.agent.cli import waiting
from gemot.agent.cli.main import run
waiting.ASK_S = 30.0
sys.exit(run(sys.argv[1:]))
"""
"""The program, by which an agent that is slow for a moment is not yet one that does not answer at all."""

NO_LEADER = "waiting for servers: have 1 of 3 (srv1)"


@pytest.fixture(scope="module")
def lone(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Agent]:
    """One server of three: there is no leader."""
    config = {"performance": {"rpc_hold_timeout": f"{HOLD_S}s"}}
    cluster = Cluster(tmp_path_factory.mktemp("lone"), servers=3, config=config)
    agent = cluster.servers[0]
    try:
        agent.start()
        wait_for(lambda: agent.get("/v1/agent/self"), PATIENCE_S, "it answers", [agent])
        yield agent
    finally:
        cluster.stop()


def at_terminal(shell: Shell, *arguments: str) -> tuple[int, str, str]:
    """Exit code, standard output, and what stood on the terminal that is standard error."""
    ours, its = pty.openpty()
    words = [sys.executable, "-P", "-c", PATIENT, *arguments]
    try:
        child = subprocess.Popen(
            words, stdout=subprocess.PIPE, stderr=its, cwd=shell.folder, env=shell.environ
        )
        out, _ = child.communicate(timeout=PATIENCE_S)
    finally:
        os.close(its)
    with os.fdopen(ours, "rb", buffering=0) as screen:
        return child.returncode, out.decode(), _all_of(screen).decode().replace("\r\n", "\n")


def _all_of(screen: FileIO) -> bytes:
    """One read need not give all; where nobody has the other end any more Linux ends with EIO."""
    found = b""
    with contextlib.suppress(OSError):
        while more := screen.read(65_536):
            found += more
    return found


def test_without_a_leader_a_line_says_what_is_waited_for_and_how_long(lone: Agent, tmp_path: Path) -> None:
    """All at a time: each waits as long as the agent holds it."""
    shell = Shell(lone.http, tmp_path)
    commands = ("kv put a 1", "kv get a", "force-leave web1", "catalog nodes")
    with ThreadPoolExecutor(len(commands)) as pool:
        ended = pool.map(lambda words: at_terminal(shell, *words.split()), commands)
        for words, (code, out, told) in zip(commands, ended, strict=True):
            late, error = told.splitlines()
            assert late.startswith(f"No answer yet, for {HOLD_S:g} s at most: {NO_LEADER}"), words
            assert error.startswith(f"Error: No cluster leader: {NO_LEADER}"), words
            assert (code, out) == (1, ""), words


def test_a_script_is_told_the_end_alone(lone: Agent, tmp_path: Path) -> None:
    done = Shell(lone.http, tmp_path)("kv", "put", "a", "1")
    assert (done.code, done.out) == (1, "")
    assert done.err.startswith("Error: No cluster leader: ")
    assert len(done.err.splitlines()) == 1


def test_an_agent_that_does_not_answer_at_all_is_called_that(lone: Agent, tmp_path: Path) -> None:
    """Stopped while it is asked; then it goes on, and the answer comes as ever."""
    lone.signal(signal.SIGSTOP)
    try:
        ours, its = pty.openpty()
        shell = Shell(lone.http, tmp_path)
        words = [*PROGRAM, "members"]
        with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=its, env=shell.environ) as child:
            told = os.read(ours, 65_536).decode()
            lone.signal(signal.SIGCONT)
            out, _ = child.communicate(timeout=PATIENCE_S)
        why = f"the agent at {lone.http} does not answer other questions either"
        assert told.strip() == f"No answer yet, for 60 s at most: {why}"
        assert child.returncode == 0
        assert b"srv1" in out
    finally:
        lone.signal(signal.SIGCONT)
        os.close(its)
        os.close(ours)


@pytest.mark.parametrize(
    ("params", "late"), [({}, True), ({"recurse": True}, True), ({"index": 5, "wait": "60s"}, False)]
)
def test_a_blocking_query_is_meant_to_be_late(
    params: dict[str, object], late: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection_module, "SLOW_S", 0.1)
    told: list[tuple[str, float]] = []
    said = threading.Event()

    def slow(path: str, within_s: float, answered: threading.Event) -> None:
        assert not answered.is_set()
        told.append((path, within_s))
        said.set()

    with socket.create_server(("127.0.0.1", 0)) as listener:

        def hear_and_hang_up() -> None:
            accepted, _ = listener.accept()
            with accepted:
                said.wait(PATIENCE_S if late else 0.5)

        agent = threading.Thread(target=hear_and_hang_up)
        agent.start()
        connection = Connection(f"127.0.0.1:{listener.getsockname()[1]}", timeout_s=60, slow=slow)
        with pytest.raises(ConnectionBroke):
            connection.request("GET", "/v1/kv/a", params=params)
        agent.join()
    assert told == ([("/v1/kv/a", 60)] if late else [])
