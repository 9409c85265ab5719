"""`gemot template` as a process: once, kept rendered over the agent's HTTP API, and checked only."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.dev_agent import PATIENCE_S, Shell, free_ports, until


def define(folder: Path, key: str, command: str = "") -> Path:
    """A directory with one template that shows a key, and its definition; the file that it writes."""
    config = folder / "config"
    config.mkdir(exist_ok=True)
    (config / "t.j2").write_text(f'{{{{ key("{key}") }}}} on {{{{ node().node.name }}}}\n')
    line = f"  command: {command}\n" if command else ""
    text = f"templates:\n- source: {config}/t.j2\n  destination: {folder}/out\n{line}"
    (config / "t.yaml").write_text(text)
    return folder / "out"


def test_a_dry_run_shows_the_file_and_writes_nothing(gemot: Shell, tmp_path: Path) -> None:
    gemot("kv", "put", "tpl/dry", "v1")
    out = define(tmp_path, "tpl/dry")
    done = gemot("template", "render", "-dry", "-config-dir=config")
    assert (done.code, done.out) == (0, f"> {out}\nv1 on n1\n")
    assert not out.exists()


def test_a_render_writes_what_differs_and_runs_its_command(gemot: Shell, tmp_path: Path) -> None:
    gemot("kv", "put", "tpl/once", "v1")
    out = define(tmp_path, "tpl/once", command=f"echo ran >> {tmp_path}/ran")
    done = gemot("template", "render", "-once", "-config-dir", "config")
    assert (done.code, done.out) == (0, f"Wrote {out}\n")
    assert out.read_text() == "v1 on n1\n"
    again = gemot("template", "render", "-config-file=config/t.yaml")
    assert (again.code, again.out) == (0, "")
    assert (tmp_path / "ran").read_text() == "ran\n"


def test_a_template_given_by_a_flag_is_rendered(gemot: Shell, tmp_path: Path) -> None:
    gemot("kv", "put", "tpl/flag", "v1")
    loop = '{% for one in service("consul") %}{{ one.node }}{% endfor %}'
    (tmp_path / "t").write_text('{{ key("tpl/flag") }}:' + loop)
    done = gemot("template", "render", "-template", "t:made/out:echo x > ran")
    assert done.code == 0, done.err
    assert (tmp_path / "made/out").read_text() == "v1:n1"
    assert (tmp_path / "ran").read_text() == "x\n"


def test_what_is_missing_is_named_at_the_timeout(gemot: Shell, tmp_path: Path) -> None:
    out = define(tmp_path, "tpl/never")
    done = gemot("template", "render", "-config-dir=config", "-timeout=3s")
    assert done.code == 1
    assert "key tpl/never (it does not exist)" in done.err
    assert not out.exists()


def test_a_failed_command_is_exit_code_2_with_its_output(gemot: Shell, tmp_path: Path) -> None:
    gemot("kv", "put", "tpl/fails", "v1")
    out = define(tmp_path, "tpl/fails", command="echo why; exit 3")
    done = gemot("template", "render", "-config-dir=config")
    assert done.code == 2
    assert "the files are written, but a command failed: " in done.err
    assert "why" in done.err
    assert out.read_text() == "v1 on n1\n"


def test_a_file_that_cannot_be_written_is_exit_code_1_and_no_command_runs(
    gemot: Shell, tmp_path: Path
) -> None:
    gemot("kv", "put", "tpl/nowhere", "v1")
    out = define(tmp_path, "tpl/nowhere", command=f"echo ran >> {tmp_path}/ran")
    out.mkdir()
    done = gemot("template", "render", "-config-dir=config")
    assert done.code == 1, done.err
    assert not (tmp_path / "ran").exists()


def test_validate_tells_every_fault_and_needs_no_agent(tmp_path: Path) -> None:
    shell = Shell("127.0.0.1:1", tmp_path)
    define(tmp_path, "any")
    assert shell("template", "validate", "-config-dir=config").out == "1 templates are valid\n"
    assert shell("template", "validate", "-quiet", "-config-dir=config").out == ""
    (tmp_path / "a.j2").write_text("ok\n{{ key( }}")
    (tmp_path / "b.j2").write_text("{% nonsense %}")
    done = shell("template", "validate", "-template=a.j2:x", "-template=b.j2:y")
    assert done.code == 78
    assert "a.j2:2" in done.err
    assert "b.j2:1" in done.err
    (tmp_path / "config/agent.yaml").write_text("node_name: n1\nservice: {name: web}\n")
    misplaced = shell("template", "validate", "-config-dir=config")
    assert misplaced.code == 78
    assert "agent.yaml: node_name: only templates are read here" in misplaced.err
    assert "agent.yaml: service: only templates are read here" in misplaced.err


class Manager:
    """A service manager's socket: what was sent to it so far."""

    def __init__(self, path: Path) -> None:
        self.path = str(path)
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(self.path)
        self._socket.setblocking(False)
        self._told: list[str] = []

    def told(self) -> list[str]:
        while True:
            try:
                self._told += self._socket.recv(4096).decode().splitlines()
            except BlockingIOError:
                return self._told

    def close(self) -> None:
        self._socket.close()


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[Manager]:
    with contextlib.closing(Manager(tmp_path / "notify")) as manager:
        yield manager


def test_run_keeps_the_file_rendered_reloads_and_stops(
    gemot: Shell, tmp_path: Path, manager: Manager
) -> None:
    gemot("kv", "put", "tpl/run", "v1")
    gemot("kv", "put", "tpl/other", "o1")
    out = define(tmp_path, "tpl/run", command=f"echo ran >> {tmp_path}/ran")
    flags = ["-config-dir=config", "-state-dir=state"]
    with gemot.running("template", "run", *flags, NOTIFY_SOCKET=manager.path) as child:
        until(lambda: out.exists() and out.read_text() == "v1 on n1\n", "the file")
        gemot("kv", "put", "tpl/run", "v2")
        until(lambda: out.read_text() == "v2 on n1\n", "the change")
        until(lambda: (tmp_path / "ran").read_text() == "ran\nran\n", "the commands")
        until(lambda: "STATUS=1 templates: all up to date" in manager.told(), "the status")
        assert "READY=1" in manager.told()
        second = gemot("template", "run", *flags)
        assert second.code == 1
        assert "in use by another" in second.err

        (tmp_path / "config/t.yaml").write_text("templates: nonsense")
        os.kill(child.pid, signal.SIGHUP)
        until(lambda: "configuration not reloaded" in gemot.told, "the refusal")
        define(tmp_path, "tpl/other")
        os.kill(child.pid, signal.SIGHUP)
        until(lambda: out.read_text() == "o1 on n1\n", "the other template")

        child.send_signal(signal.SIGTERM)
        assert child.wait(PATIENCE_S) == 0
        assert manager.told()[-1] == "STOPPING=1"
    assert "Traceback" not in gemot.told


def test_run_is_ready_and_can_be_stopped_while_the_agent_is_away(tmp_path: Path, manager: Manager) -> None:
    shell = Shell(f"127.0.0.1:{free_ports(1)[0]}", tmp_path)
    define(tmp_path, "any")
    flags = ["-config-dir=config", "-state-dir=state"]
    with shell.running("template", "run", *flags, NOTIFY_SOCKET=manager.path) as child:
        until(lambda: "waiting for the agent" in shell.told, "the warning")
        assert "READY=1" in manager.told()
        child.send_signal(signal.SIGTERM)
        assert child.wait(PATIENCE_S) == 0


def test_a_command_owed_at_the_end_is_run_at_the_next_start(gemot: Shell, tmp_path: Path) -> None:
    gemot("kv", "put", "tpl/owed", "v1")
    out = define(tmp_path, "tpl/owed", command=f"test -e {tmp_path}/may && echo ran >> {tmp_path}/ran")
    flags = ["-config-dir=config", "-state-dir=state"]
    with gemot.running("template", "run", *flags) as child:
        until(lambda: "again in" in gemot.told, "the failure")
        child.send_signal(signal.SIGKILL)
    assert out.exists()
    (tmp_path / "may").touch()
    with gemot.running("template", "run", *flags) as child:
        until(lambda: (tmp_path / "ran").exists(), "the command")
        child.send_signal(signal.SIGTERM)
        assert child.wait(PATIENCE_S) == 0


def test_definitions_that_cannot_be_used_end_a_run_with_the_code_systemd_is_told(gemot: Shell) -> None:
    (gemot.folder / "t.j2").write_text("{{ ")
    text = f"templates: [{{source: {gemot.folder}/t.j2, destination: {gemot.folder}/out}}]"
    (gemot.folder / "t.yaml").write_text(text)
    done = gemot("template", "run", "-config-file=t.yaml", "-state-dir=state")
    assert done.code == 78
    assert "t.j2:1" in done.err
