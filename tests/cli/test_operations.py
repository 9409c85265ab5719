"""`gemot monitor`, `reload`, `leave` and `validate` against agents of their own."""

from __future__ import annotations

import json
import signal
import socket
import threading
from pathlib import Path

from support.dev_agent import PATIENCE_S, Shell, dev_agent, until


def test_the_monitor_tells_lines_finer_than_the_agents_own_level(tmp_path: Path) -> None:
    with dev_agent(tmp_path, "-log-level=warn") as address:
        shell = Shell(address, tmp_path)
        with shell.running("monitor", "-log-level=debug") as child:
            until(lambda: shell("kv", "get", "a").code == 1 and "/v1/kv/" in shell.shown, "a line")
            assert "[DEBUG]" in shell.shown
            child.send_signal(signal.SIGINT)
            assert child.wait(PATIENCE_S) == 0
        with shell.running("monitor", "-log-level", "debug", "-log-json"):
            until(lambda: shell("kv", "get", "a").code == 1 and "\n" in shell.shown, "a line")
            assert json.loads(shell.shown.splitlines()[0])["@level"] == "debug"
        assert "[DEBUG]" not in (tmp_path / "agent.log").read_text()


def test_an_unknown_level_is_refused(gemot: Shell) -> None:
    done = gemot("monitor", "-log-level=loud")
    assert done.code == 1
    assert "Unknown log level: loud" in done.err


def test_a_monitor_ends_with_its_agent(tmp_path: Path) -> None:
    with dev_agent(tmp_path) as address:
        shell = Shell(address, tmp_path)
        with shell.running("monitor", "-log-level=debug") as child:
            until(lambda: shell("kv", "get", "a").code == 1 and shell.shown, "a line")
            left = shell("leave")
            assert (left.code, left.out) == (0, "Graceful leave complete\n"), left.err
            assert child.wait(PATIENCE_S) == 1
            assert shell.told.startswith("Error: the agent ended the stream")
        until(lambda: shell("members").code == 1, "the end of the agent")


def test_a_monitor_whose_agent_is_killed_says_that_the_stream_ended(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def begin_and_die() -> None:
            accepted, _ = listener.accept()
            with accepted:
                accepted.recv(65536)
                accepted.sendall(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nff\r\na line\n")

        agent = threading.Thread(target=begin_and_die)
        agent.start()
        done = Shell(f"127.0.0.1:{listener.getsockname()[1]}", tmp_path)("monitor")
        agent.join()
    assert done.code == 1
    assert done.err.startswith("Error: the agent ended the stream")


def test_a_reload_takes_up_new_files_and_refuses_bad_ones(tmp_path: Path) -> None:
    config = tmp_path / "config"
    config.mkdir()
    service = config / "web.json"
    service.write_text('{"service": {"name": "web", "port": 80}}')
    with dev_agent(tmp_path, f"-config-dir={config}") as address:
        shell = Shell(address, tmp_path)
        until(lambda: "web" in shell("catalog", "services").out, "the service")
        service.write_text('{"service": {"name": "api", "port": 70000}}')
        refused = shell("reload")
        assert refused.code == 1
        assert f'{service}: service "api": port: Invalid service port: 70000' in refused.err
        service.write_text('{"template": {"contents": "{{ kee(1) }}", "destination": "/nowhere/x"}}')
        refused = shell("reload")
        assert refused.code == 1
        assert f'{service}: template "/nowhere/x": contents: ' in refused.err
        assert "there is no function kee; did you mean key?" in refused.err
        service.write_text('{"service": {"name": "api", "port": 80}}')
        done = shell("reload")
        assert (done.code, done.out) == (0, "Configuration reload triggered\n")
        until(lambda: shell("catalog", "services").out.split() == ["api", "consul"], "the other service")


def test_validate_tells_every_fault_of_every_file(tmp_path: Path) -> None:
    shell = Shell("127.0.0.1:1", tmp_path)
    (tmp_path / "good").mkdir()
    (tmp_path / "good/a.json").write_text('{"data_dir": "/var/lib/gemot", "bind_addr": "10.0.0.1"}')
    assert shell("validate", "good").out == "Configuration is valid!\n"
    quiet = shell("validate", "-quiet", "good")
    assert (quiet.code, quiet.out) == (0, "")
    (tmp_path / "a.json").write_text('{"data_dirr": "/x", "ports": {"http": 70000}}')
    (tmp_path / "b.yaml").write_text("service: {name: web, port: 70000}\n")
    done = shell("validate", "good", "a.json", "b.yaml")
    assert (done.code, done.out) == (78, "")
    assert "a.json: data_dirr: unknown key; did you mean data_dir?" in done.err
    assert "a.json: ports.http: must be from -1 to 65535" in done.err
    assert 'b.yaml: service "web": port: Invalid service port: 70000' in done.err
    (tmp_path / "c.yaml").write_text(
        f"templates:\n- {{source: {tmp_path}/gone.j2, destination: /etc/x}}\n"
        "- {contents: '{{ key(', destination: /etc/y}\n"
    )
    done = shell("validate", "good", "c.yaml")
    assert done.code == 78
    assert (
        f'templates[0] "/etc/x": source: {tmp_path}/gone.j2: the template cannot be read: No such' in done.err
    )
    assert 'templates[1] "/etc/y": contents: contents of /etc/y:1: ' in done.err


def test_validate_warns_of_what_this_host_lacks(tmp_path: Path) -> None:
    shell = Shell("127.0.0.1:1", tmp_path)
    (tmp_path / "a.json").write_text(
        json.dumps({"data_dir": "/d", "retry_join": ["a"], "bind_addr": '{{ GetInterfaceIP "eth99" }}'})
    )
    done = shell("validate", "a.json")
    assert (done.code, done.out) == (0, "Configuration is valid!\n")
    assert (
        'Warning: on this host the agent would not start: bind_addr: {{ GetInterfaceIP "eth99" }}' in done.err
    )
    assert shell("validate", "-quiet", "a.json").err == ""
    (tmp_path / "b.json").write_text(json.dumps({"data_dir": str(tmp_path / "a.json")}))
    done = shell("validate", "a.json", "b.json")
    assert (
        f"Warning: on this host the agent would not start: data_dir: {tmp_path}/a.json is not a" in done.err
    )
    addresses = {"client_addr": "127.0.0.1 203.0.113.7", "ports": {"dns": -1}, "bind_addr": "203.0.113.8"}
    (tmp_path / "c.json").write_text(json.dumps({"data_dir": "/d", "retry_join": ["a"]} | addresses))
    told = [line.rpartition("would not start: ")[2] for line in shell("validate", "c.json").err.splitlines()]
    assert told == [
        "bind_addr: 203.0.113.8 is no address of it",
        "http: 203.0.113.7 is no address of it",
    ]
