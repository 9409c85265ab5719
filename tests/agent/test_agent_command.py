"""`gemot agent` as whoever starts it sees it: exit codes, messages, signals, files, a failing disk."""

from __future__ import annotations

import contextlib
import os
import re
import resource
import shlex
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.cluster import SUPPORT, Agent
from support.one_agent import CLIENT, DEV, PATIENCE_S, an_agent, ended, logged, running, until
from support.web_stage import tool

from gemot.agent.cli.agent import CUT_OFF_S, STOP_WITHIN_S
from gemot.agent.client.connection import ClientError

STOP_S = 10.0
"""What is promised: SIGTERM ends the agent within so long, whatever hangs."""


def refused(agent: Agent) -> tuple[int, str]:
    """The exit code of an agent that does not start, and what it said."""
    with ended(agent):
        agent.start()
        return agent.wait(PATIENCE_S), agent.tail()


# -- what keeps it from starting -----------------------------------------------------------------------

MISTAKES: dict[str, tuple[dict[str, Any], str]] = {
    "a key that is none": ({"data_dirr": "/x"}, "data_dirr: unknown key; did you mean data_dir?"),
    "a template that is none": (
        {"templates": [{"contents": "{{ x", "destination": "/tmp/x"}]},
        'templates[0] "/tmp/x": contents: ',
    ),
    "a check of nobody": (
        {"checks": [{"id": "c", "name": "c", "ttl": "1m", "service_id": "gone"}]},
        'ServiceID "gone" does not exist',
    ),
    "a log file in no folder": ({"log_file": "/nowhere/log"}, "log_file: /nowhere/log: No such file"),
    "a pid file in no folder": ({"pid_file": "/nowhere/pid"}, "pid_file: /nowhere/pid: No such file"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_in_the_configuration_is_named_and_exits_78(tmp_path: Path, mistake: str) -> None:
    config, named = MISTAKES[mistake]
    code, said = refused(an_agent(tmp_path, **config))
    assert (code, named in said) == (78, True), said
    assert "Traceback" not in said


@contextlib.contextmanager
def taken(port: int, kind: socket.SocketKind) -> Iterator[None]:
    with socket.socket(socket.AF_INET, kind) as sock:
        sock.bind(("127.0.0.1", port))
        if kind == socket.SOCK_STREAM:
            sock.listen()
        yield


@pytest.mark.parametrize(
    ("listener", "kind"),
    [
        ("http", socket.SOCK_STREAM),
        ("dns", socket.SOCK_STREAM),
        ("dns", socket.SOCK_DGRAM),
        ("server", socket.SOCK_STREAM),
        ("serf_lan", socket.SOCK_STREAM),
    ],
)
def test_a_port_in_use_names_who_has_it(tmp_path: Path, listener: str, kind: socket.SocketKind) -> None:
    agent = an_agent(tmp_path)
    port = agent.ports[listener]
    with taken(port, kind):
        code, said = refused(agent)
    assert code == 1
    assert re.search(rf"Port {port} is in use by pid {os.getpid()} \(.+\)", said), said
    assert "Traceback" not in said


def test_a_data_directory_in_use_names_who_has_it(tmp_path: Path) -> None:
    with running(tmp_path) as first:
        second = an_agent(tmp_path)
        second.directory = first.directory
        code, said = refused(second)
        assert code == 1
        assert f"is in use by pid {first.pid}: stop that process, or give this one another data_dir" in said


# -- what it says and leaves ---------------------------------------------------------------------------


@pytest.mark.parametrize("has_dig", [True, False], ids=["with dig", "without dig"])
def test_the_hint_can_be_copied_as_it_stands(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, has_dig: bool
) -> None:
    """A bare Debian has no dig: there the second line asks Gemot itself."""
    programs = tmp_path / "programs"
    programs.mkdir()
    if has_dig:
        (programs / "dig").symlink_to(tool("dig"))
    monkeypatch.setenv("PATH", str(programs))
    with running(tmp_path, program=[*DEV, "-hint"]) as agent:
        logged(agent, "Try in another terminal:")

        def hints() -> list[str]:
            return agent.tail().partition("Try in another terminal:\n")[2].splitlines()[:2]

        until(agent, lambda: len(hints()) == 2, "the lines below it")
        first, second = hints()
        assert copied(first) == "world\n"
        if has_dig:
            assert second == f"  dig @127.0.0.1 -p {agent.ports['dns']} n1.node.consul +short"
        else:
            assert "dig" not in second
        assert "127.0.0.1" in copied(second)


def copied(line: str) -> str:
    """What the last command of a line prints."""
    out = ""
    for each in line.split("&&"):
        program, *arguments = shlex.split(each)
        start = [sys.executable, "-P", "-m", "gemot.agent"] if program == "gemot" else [program]
        done = subprocess.run(
            [*start, *arguments], capture_output=True, text=True, timeout=PATIENCE_S, check=True
        )
        out = done.stdout
    return out


def test_the_pid_file_is_there_while_it_runs_and_the_log_file_after(tmp_path: Path) -> None:
    pid, log = tmp_path / "pid", tmp_path / "log"
    with running(tmp_path, pid_file=str(pid), log_file=str(log)) as agent:
        until(agent, pid.exists, "the pid file")
        assert pid.read_text() == f"{agent.pid}\n"
        assert agent.stop() == 0
    assert not pid.exists()
    assert "agent: Gemot " in log.read_text()
    assert "agent: stopping" in log.read_text()


def test_another_agents_pid_file_is_left_alone(tmp_path: Path) -> None:
    pid = tmp_path / "pid"
    with running(tmp_path, pid_file=str(pid)) as agent:
        until(agent, pid.exists, "the pid file")
        pid.write_text("1\n")
        assert agent.stop() == 0
    assert pid.read_text() == "1\n"


def test_the_service_manager_hears_how_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "notify"))
        manager.settimeout(PATIENCE_S)
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
        monkeypatch.setenv("WATCHDOG_USEC", "200000")
        monkeypatch.delenv("WATCHDOG_PID", raising=False)

        def hear(what: str) -> None:
            while not manager.recv(4096).decode().startswith(what):
                pass

        with running(tmp_path) as agent:
            for what in ("READY=1", "WATCHDOG=1", "STATUS=Running; leader 127.0.0.1:", "WATCHDOG=1"):
                hear(what)
            agent.signal(signal.SIGHUP)
            hear("RELOADING=1\nMONOTONIC_USEC=")
            hear("READY=1")
            agent.signal(signal.SIGTERM)
            hear("STOPPING=1")
            agent.wait(PATIENCE_S)


# -- stopping ------------------------------------------------------------------------------------------


@contextlib.contextmanager
def hanging(agent: Agent, folder: Path) -> Iterator[None]:
    """Clients of every kind that never finish, and a template's command that does not end either."""
    with contextlib.closing(agent.connect()) as connection:
        index = connection.request("GET", "/v1/catalog/nodes").headers["x-consul-index"]
    requests = [
        b"",
        b"GET /v1/kv/half",
        b"PUT /v1/kv/x HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\nhalf",
        f"GET /v1/catalog/nodes?index={index} HTTP/1.1\r\nHost: x\r\n\r\n".encode(),
        b"GET /v1/agent/monitor HTTP/1.1\r\nHost: x\r\n\r\n",
    ]
    with contextlib.ExitStack() as stack:
        for request in requests:
            sock = stack.enter_context(socket.create_connection(("127.0.0.1", agent.ports["http"])))
            sock.sendall(request)
        for name in ("server", "serf_lan", "dns"):
            stack.enter_context(socket.create_connection(("127.0.0.1", agent.ports[name]))).sendall(b"\0")
        until(agent, (folder / "began").exists, "the template's command")
        yield


def stubborn(folder: Path) -> dict[str, Any]:
    """A configuration whose template runs a command that heeds no signal, and ends long after the test."""
    command = ["/bin/sh", "-c", f"trap '' TERM INT; touch {folder / 'began'}; sleep 120"]
    return {
        "templates": [{"contents": "x", "destination": str(folder / "out"), "command": command}],
        "checks": [
            {"id": "slow", "name": "slow", "args": ["sleep", "60"], "interval": "1s", "timeout": "1m"}
        ],
        "enable_local_script_checks": True,
    }


def test_sigterm_ends_it_in_time_whatever_hangs(tmp_path: Path) -> None:
    """By its own clock: where it stops in order, with 0, it has not taken longer than it gives itself."""
    assert STOP_WITHIN_S < CUT_OFF_S < STOP_S
    with running(tmp_path, **stubborn(tmp_path)) as agent, hanging(agent, tmp_path):
        agent.signal(signal.SIGTERM)
        assert agent.wait(PATIENCE_S) == 0, agent.tail()
        assert "did not stop cleanly" not in agent.tail()


def test_a_second_signal_ends_it_at_once(tmp_path: Path) -> None:
    pid = tmp_path / "pid"
    with running(tmp_path, pid_file=str(pid), **stubborn(tmp_path)) as agent, hanging(agent, tmp_path):
        agent.signal(signal.SIGTERM)
        logged(agent, "agent: stopping")
        agent.signal(signal.SIGTERM)
        assert agent.wait(PATIENCE_S) == 1
        assert "asked a second time: ends at once" in agent.tail()
    assert not pid.exists()


def test_sigterm_while_it_starts_ends_it_and_leaves_nothing_behind(tmp_path: Path) -> None:
    ports = an_agent(tmp_path).ports
    flags = [f"-{flag}-port={ports[name]}" for flag, name in FLAGS.items()]
    for folder in (tmp_path / "early", tmp_path / "late"):
        folder.mkdir()
        child = subprocess.Popen(
            [*DEV, *flags], stderr=subprocess.PIPE, text=True, env=os.environ | {"TMPDIR": str(folder)}
        )
        with child:
            assert child.stderr is not None
            if folder.name == "late":
                assert "agent: Gemot" in child.stderr.readline()
            else:
                until_made(folder, child)
            child.terminate()
            assert child.wait(PATIENCE_S) == 0
            assert "Traceback" not in child.stderr.read()
        # Python's own probe for a place for temporary files may be cut off; ours must be gone.
        assert list(folder.glob("gemot-*")) == []


FLAGS = {"http": "http", "dns": "dns", "server": "server", "serf-lan": "serf_lan"}


def until_made(folder: Path, child: subprocess.Popen[str]) -> None:
    """Wait for the first file in the private directory of a dev agent: it is still starting then."""
    end = time.monotonic() + PATIENCE_S
    while not list(folder.glob("gemot-dev-*/*")):
        assert time.monotonic() < end, "no data directory"
        assert child.poll() is None


def test_a_signal_for_a_reload_while_it_starts_does_not_end_it(tmp_path: Path) -> None:
    agent = an_agent(tmp_path)
    with ended(agent):
        agent.start()
        end = time.monotonic() + PATIENCE_S
        while "agent: Gemot" not in agent.log.read_text():
            assert time.monotonic() < end, "no banner"
        agent.signal(signal.SIGHUP)
        until(agent, lambda: agent.get("/v1/status/leader") != "", "a leader")


# -- a failing disk ------------------------------------------------------------------------------------


@pytest.mark.parametrize(("code", "said"), [("ENOSPC", "No space left"), ("EIO", "Input/output error")])
def test_a_sync_that_fails_stops_it_with_74_and_acknowledges_nothing(
    tmp_path: Path, code: str, said: str
) -> None:
    program = [sys.executable, str(SUPPORT / "failing_agent.py"), code]
    server = {"server": True, "bootstrap_expect": 1, "raft_log_segment_bytes": 1 << 20}
    with running(tmp_path, program=program, **server) as agent:
        agent.put("/v1/kv/before", b"1")
        agent.signal(signal.SIGUSR1)
        acknowledged = None
        with contextlib.suppress(ClientError):
            acknowledged = agent.put("/v1/kv/after", b"1")
        assert acknowledged is not True
        assert agent.wait(PATIENCE_S) == 74, agent.tail()
        assert said in agent.tail()
        assert "look after the disk, then start the agent again" in agent.tail()


@contextlib.contextmanager
def files_limited_to(size: int) -> Iterator[None]:
    """What is started meanwhile can make no file larger than this: a full disk that needs no root."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_data_directory_that_cannot_be_is_a_mistake_and_no_failed_disk(tmp_path: Path) -> None:
    agent = an_agent(tmp_path)
    file = agent.directory / "data"
    file.write_text("a file is in the way")
    code, said = refused(agent)
    assert code == 78, said
    assert f"data_dir: {file} is not a directory: move it away, or name another directory" in said
    assert "look after" not in said


def test_a_disk_too_full_to_begin_exits_74(tmp_path: Path) -> None:
    with files_limited_to(256 << 10):
        code, said = refused(an_agent(tmp_path))
    assert code == 74, said
    assert "File too large" in said
    assert "Traceback" not in said


def test_a_log_that_finds_no_room_ends_it_at_the_start_and_leaves_nothing_behind(tmp_path: Path) -> None:
    """The first segment was once made at the first write, long after the agent said that it runs."""
    server = {"server": True, "bootstrap_expect": 3, "raft_log_segment_bytes": 8 << 20}
    agent = an_agent(tmp_path, program=CLIENT, **server)
    with files_limited_to(4 << 20):
        code, said = refused(agent)
    assert code == 74, said
    log = agent.directory / "data" / "raft" / "log"
    assert re.search(rf"{log}/0+1-0+1\.seg finds no room: 8388608 bytes are needed, \d+ are free there", said)
    assert "set raft_log_segment_bytes lower" in said
    assert "running" not in said
    assert list(log.iterdir()) == []


def test_a_state_file_that_cannot_grow_stops_it_with_74(tmp_path: Path) -> None:
    agent = an_agent(tmp_path)
    with ended(agent):
        with files_limited_to(2 << 20):
            agent.start()
        until(agent, lambda: agent.get("/v1/status/leader") != "", "a leader")
        with contextlib.suppress(ClientError):
            for number in range(100):
                agent.put(f"/v1/kv/{number}", os.urandom(400 << 10))
        assert agent.wait(PATIENCE_S) == 74, agent.tail()
        assert "state file" in agent.tail()
