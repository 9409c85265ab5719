"""The installed package at work: each service started by hand exactly as its unit says, and talked to."""

from __future__ import annotations

import json
import pwd
import stat
import subprocess
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import dns.message
import dns.query
import dns.rdatatype
import pytest
from support.as_unit import read_unit
from support.cluster import free_ports
from support.debian_package import UNITS
from support.service_manager import PATIENCE_S, Service

GEMOT = "/usr/bin/gemot"
AGENT_UNIT = UNITS / "gemot.service"
TEMPLATE_UNIT = UNITS / "gemot-template.service"
CONFIG = Path("/etc/gemot.d/test.json")
RENDERED = Path("/etc/gemot-test/rendered.conf")
FORBIDDEN = Path("/etc/cron.d/gemot-test")
NET_BIND_SERVICE = 1 << 10

# Run by the agent as a check: what a child of the service sees, and may.
LOOK_AROUND = (
    "exec 2>/dev/null; id -un; touch /etc/gemot.d/x /opt/gemot/x && echo wrote; "
    "ls /root /home && echo saw; echo done"
)


@pytest.fixture(scope="module")
def ports(installed: Path) -> dict[str, int]:
    """Of a server by itself, configured as an administrator would: one more file in /etc/gemot.d."""
    ports = free_ports("127.0.0.1")
    configure(ports)
    return ports


@pytest.fixture(scope="module")
def service(ports: dict[str, int], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    agent = Service(AGENT_UNIT, tmp_path_factory.mktemp("agent") / "log")
    try:
        agent.start()
        yield agent
    finally:
        agent.stop()


def configure(ports: dict[str, int], **more: Any) -> None:
    check = {"id": "look", "name": "look", "args": ["/bin/sh", "-c", LOOK_AROUND], "interval": "1s"}
    config = {
        "server": True,
        "bootstrap_expect": 1,
        "node_name": "n1",
        "bind_addr": "127.0.0.1",
        "ports": ports,
        "raft_log_segment_bytes": 1 << 20,
        "enable_local_script_checks": True,
        "checks": [check],
        "log_file": "/var/log/gemot/agent.log",
        "pid_file": "/run/gemot/agent.pid",
        **more,
    }
    CONFIG.write_text(json.dumps(config))
    CONFIG.chmod(0o644)


def gemot(ports: dict[str, int], *arguments: str) -> str:
    """As any user of this host would call it."""
    environ = {"PATH": "/usr/bin:/bin", "GEMOT_HTTP_ADDR": f"127.0.0.1:{ports['http']}"}
    done = subprocess.run(
        ["setpriv", "--reuid=nobody", "--regid=nogroup", "--clear-groups", GEMOT, *arguments],
        capture_output=True,
        text=True,
        check=False,
        env=environ,
        cwd="/",
        timeout=PATIENCE_S,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def ask(ports: dict[str, int], path: str) -> Any:
    with urllib.request.urlopen(f"http://127.0.0.1:{ports['http']}{path}", timeout=PATIENCE_S) as reply:
        return json.load(reply)


def until(condition: Callable[[], object], what: str) -> None:
    end = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < end, f"{what} did not come"
        time.sleep(0.05)


def process_facts(pid: int) -> dict[str, str]:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}


def test_ready_means_that_http_and_dns_answer(service: Service, ports: dict[str, int]) -> None:
    """Asked once each, at once: nobody waits for a leader here, nor tries again."""
    service.terminate()
    service.wait()
    service.start()
    question = dns.message.make_query("n1.node.consul", dns.rdatatype.A)
    answer = dns.query.udp(question, "127.0.0.1", timeout=5, port=ports["dns"])
    assert answer.id == question.id
    assert ask(ports, "/v1/agent/self")["Config"]["NodeName"] == "n1"


def test_the_status_names_the_leader(service: Service, ports: dict[str, int]) -> None:
    assert service.wait_for("STATUS=Running; leader ").endswith(f"127.0.0.1:{ports['server']}")


def test_the_main_process_alone_tells_again_and_again_that_it_is_alive(service: Service) -> None:
    for _ in range(3):
        service.wait_for("WATCHDOG=1")
    assert service.inbox.senders == {service.pid}


def test_values_are_kept_by_way_of_the_command(service: Service, ports: dict[str, int]) -> None:
    gemot(ports, "kv", "put", "packaging/greeting", "hello")
    assert gemot(ports, "kv", "get", "packaging/greeting") == "hello\n"


def test_it_runs_as_its_own_user_with_one_power(service: Service) -> None:
    facts = process_facts(service.pid)
    uid = pwd.getpwnam("gemot").pw_uid
    assert facts["Uid"].split() == [str(uid)] * 4
    assert {int(facts[name], 16) for name in ("CapEff", "CapBnd", "CapAmb")} == {NET_BIND_SERVICE}
    assert (facts["NoNewPrivs"], facts["Seccomp"]) == ("1", "2")


def test_checks_run_under_its_rules(service: Service, ports: dict[str, int]) -> None:
    def output() -> str:
        return str(ask(ports, "/v1/agent/checks")["look"]["Output"])

    until(lambda: "done" in output(), "the check")
    assert output() == "gemot\ndone\n"


def test_it_may_write_logs_and_its_process_id_where_they_belong(service: Service) -> None:
    assert Path("/run/gemot/agent.pid").read_text() == f"{service.pid}\n"
    assert "agent running" in Path("/var/log/gemot/agent.log").read_text()


def test_what_it_keeps_is_for_its_user_alone(service: Service) -> None:
    kept = [Path("/var/lib/gemot"), *Path("/var/lib/gemot").rglob("*")]
    assert len(kept) > 3
    assert [path for path in kept if stat.S_IMODE(path.lstat().st_mode) & 0o077] == []


def test_a_reload_takes_up_what_is_valid_and_refuses_what_is_not(
    service: Service, ports: dict[str, int]
) -> None:
    configure(ports, services=[{"name": "web", "port": 80}])
    assert service.reload().returncode == 0
    service.wait_for("RELOADING=1")
    assert service.wait_for("MONOTONIC_USEC=")
    service.wait_for("READY=1")
    assert "web" in gemot(ports, "catalog", "services")

    configure(ports, services=[{"name": "web", "port": "eighty"}])
    refused = service.reload()
    assert refused.returncode == 78
    assert 'services[0] "web": port: wants a whole number' in refused.stderr
    service.wait_for("WATCHDOG=1")
    assert service.log().count("configuration reloaded") == 1
    configure(ports)


def test_a_configuration_that_cannot_be_used_ends_it_for_good(ports: dict[str, int], tmp_path: Path) -> None:
    agent = Service(AGENT_UNIT, tmp_path / "log")
    try:
        configure(ports, bootstrap_expect=-3)
        agent.launch()
        assert str(agent.wait()) in read_unit(AGENT_UNIT)["RestartPreventExitStatus"][0].split()
        assert "bootstrap_expect" in agent.log()
    finally:
        configure(ports)
        agent.stop()


def test_files_under_etc_are_rendered_by_the_second_service(
    service: Service, ports: dict[str, int], tmp_path: Path
) -> None:
    gemot(ports, "kv", "put", "packaging/port", "80")
    templates = Path("/etc/gemot-template.d")
    definition = {"contents": "listen {{ key('packaging/port') }}\n", "perms": "0640", "group": "gemot"}
    copy = RENDERED.with_suffix(".copied")
    wanted = [
        {**definition, "destination": str(RENDERED), "command": ["/bin/cp", str(RENDERED), str(copy)]},
        {**definition, "destination": str(FORBIDDEN)},
    ]
    (templates / "test.json").write_text(json.dumps({"templates": wanted}))
    (templates / "gemot.env").write_text(f"GEMOT_HTTP_ADDR=127.0.0.1:{ports['http']}\nPYTHONPATH=/nowhere\n")
    renderer = Service(TEMPLATE_UNIT, tmp_path / "log")
    RENDERED.parent.mkdir(exist_ok=True)
    try:
        renderer.start()
        renderer.wait_for("STATUS=2 templates: 1 failing")
        until(lambda: copy.exists() and copy.read_text() == "listen 80\n", "the file and its command")
        assert stat.S_IMODE(RENDERED.stat().st_mode) == 0o640
        assert RENDERED.group() == "gemot"
        assert not FORBIDDEN.exists()
        assert "read-only" in renderer.log()
        gemot(ports, "kv", "put", "packaging/port", "81")
        until(lambda: copy.read_text() == "listen 81\n", "the changed file")
        renderer.terminate()
        assert renderer.wait() == 0
    finally:
        renderer.stop()
        for path in (*RENDERED.parent.iterdir(), FORBIDDEN):
            path.unlink(missing_ok=True)
        RENDERED.parent.rmdir()


def test_it_stops_in_order_and_goes_on_where_it_was(service: Service, ports: dict[str, int]) -> None:
    """In order, with 0: by its own clock that was within the time that it gives itself."""
    gemot(ports, "kv", "put", "packaging/kept", "yes")
    service.terminate()
    assert service.wait() == 0
    service.wait_for("STOPPING=1")
    service.start()
    assert gemot(ports, "kv", "get", "packaging/kept") == "yes\n"
