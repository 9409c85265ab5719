"""Services on real hosts' terms: web servers, agents and servers stop, and every view follows.

Three servers, two client agents with a web server each, and Debian's nginx before them, all as processes.
What the HTTP API, DNS (asked by dnspython and by dig) and the rendered upstream file tell must come to agree.
"""

from __future__ import annotations

import signal
import subprocess
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import dns.message
import dns.query
import dns.rdatatype
import pytest
from support.cluster import Agent, Cluster, free_ports, wait_for
from support.web_stage import Nginx, WebServer, tool

from gemot.agent.client.connection import ClientError

PATIENCE_S = 90.0
"""Bound of every wait: only a hang reaches it."""

NAME = "web.service.consul"

Places = set[tuple[str, int]]
"""Address and port of each instance."""


class Stage:
    """The cluster, the web servers and nginx, and the ways to look at them."""

    def __init__(self, folder: Path) -> None:
        self.cluster = Cluster(folder, servers=3, clients=2, config={"check_update_interval": "0s"})
        self.web1, self.web2 = self.cluster.clients
        self.webs = [
            WebServer(name=agent.name, host=agent.host, port=free_ports(agent.host)["http"])
            for agent in self.cluster.clients
        ]
        self.both: Places = {(web.host, web.port) for web in self.webs}
        host = self.web1.host
        self.nginx = Nginx(folder=folder / "nginx", host=host, port=free_ports(host)["http"])

    def start(self) -> None:
        self.nginx.write_files()
        self.nginx.start()
        for agent, web in zip(self.cluster.clients, self.webs, strict=True):
            web.process.start()
            agent.write_config(services=[web.registration()])
        self.web1.write_config(templates=[self.nginx.template()])
        self.cluster.start()
        self.await_whole()

    def stop(self) -> None:
        self.cluster.stop()
        for process in (*(web.process for web in self.webs), self.nginx.process):
            process.stop()

    def until(self, condition: Callable[[], Any], what: str) -> Any:
        return wait_for(condition, PATIENCE_S, what, self.cluster.agents)

    def await_whole(self) -> None:
        """Until both web servers are in every view."""
        self.until(lambda: self.agree(self.both), "both instances in every view")

    def agree(self, places: Places) -> bool:
        """Whether HTTP, DNS both ways and the upstream file tell exactly these, and no command is owed."""
        views = [*self.views(self.web1), *self.views(self.cluster.servers[0]), self.upstream()]
        return all(view == places for view in views) and self.template()["State"] == "up to date"

    def views(self, agent: Agent) -> list[Places]:
        if not agent.running:
            return []
        return [healthy(agent), asked_by_dnspython(agent), asked_by_dig(agent)]

    def upstream(self) -> Places:
        pairs = [backend.rpartition(":") for backend in self.nginx.backends()]
        return {(host, int(port)) for host, _, port in pairs}

    def template(self) -> dict[str, Any]:
        """How the agent explains its template; HTTP answers a moment before the templates are there."""
        told: list[dict[str, Any]] = self.web1.get("/v1/gemot/why/template")
        return told[0] if told else {"State": "not there yet", "WaitingFor": []}

    def pages(self) -> set[str]:
        """What a dozen visitors get."""
        return {self.nginx.page().strip() for _ in range(12)}


def healthy(agent: Agent) -> Places:
    rows = agent.get("/v1/health/service/web", passing=True)
    return {(row["Service"]["Address"] or row["Node"]["Address"], row["Service"]["Port"]) for row in rows}


def asked_by_dnspython(agent: Agent) -> Places:
    """The SRV records' ports, with the addresses that came along."""
    try:
        reply = dns.query.udp(
            dns.message.make_query(NAME, "SRV"), agent.host, port=agent.ports["dns"], timeout=5
        )
    except (dns.exception.Timeout, OSError) as error:
        raise ClientError(f"no DNS answer from {agent.name}: {error}") from error
    addresses = {
        str(rrset.name): str(rrset[0]) for rrset in reply.additional if rrset.rdtype == dns.rdatatype.A
    }
    return {(addresses[str(srv.target)], srv.port) for rrset in reply.answer for srv in rrset}


def asked_by_dig(agent: Agent) -> Places:
    """The same by dig, whose second question resolves each target."""
    found: Places = set()
    for line in dig(agent, NAME, "SRV"):
        _, _, port, target = line.split()
        found |= {(address, int(port)) for address in dig(agent, target, "A")}
    return found


def dig(agent: Agent, name: str, kind: str) -> list[str]:
    command = [tool("dig"), f"@{agent.host}", "-p", str(agent.ports["dns"]), name, kind, "+short", "+tries=1"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=PATIENCE_S)
    if done.returncode:
        raise ClientError(f"dig: {done.stdout} {done.stderr}")
    return done.stdout.splitlines()


def node_status(server: Agent, node: str) -> str:
    """The status of `serfHealth`, "" when there is none."""
    checks = server.get(f"/v1/health/node/{node}")
    return next((str(c["Status"]) for c in checks if c["CheckID"] == "serfHealth"), "")


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    stage = Stage(tmp_path_factory.mktemp("stage"))
    try:
        stage.start()
        yield stage
    finally:
        stage.stop()


@pytest.fixture
def stage(running: Stage) -> Iterator[Stage]:
    """Whole at the start of a test, and made whole again after it."""
    yield running
    for agent in running.cluster.agents:
        if not agent.running:
            agent.start()
    for web in running.webs:
        if not web.process.running:
            web.process.start()
    running.await_whole()


def test_a_stopped_web_server_leaves_every_view_and_nginx_is_reloaded_once(stage: Stage) -> None:
    _, second = stage.webs
    only_first = stage.both - {(second.host, second.port)}
    before = stage.nginx.reloads
    second.process.stop()
    stage.until(lambda: stage.agree(only_first), "the stopped one out of every view")
    stage.until(lambda: stage.pages() == {"hello from web1"}, "nginx serves the one left")

    def told() -> bool:
        """The check after the one that was cut off by the end of the web server."""
        why = stage.web1.get("/v1/gemot/why/service/web")
        left_out = next(one for one in why["Instances"] if one["Node"] == "web2")
        assert not left_out["InPassing"]
        return "connection refused" in left_out["Explanation"]

    stage.until(told, "why it is left out")
    second.process.start()
    stage.await_whole()
    stage.until(lambda: stage.pages() == {"hello from web1", "hello from web2"}, "nginx serves both")
    # Counted only now, so that a reload too many after the first change would show.
    assert stage.nginx.reloads == before + 2, stage.nginx.log()


def test_a_killed_agent_turns_its_host_critical_and_its_services_leave(stage: Stage) -> None:
    stage.web2.kill()
    stage.until(
        lambda: {node_status(server, "web2") for server in stage.cluster.servers} == {"critical"},
        "web2 critical on every server",
    )
    stage.until(lambda: stage.agree(stage.both - {(stage.web2.host, stage.webs[1].port)}), "web2 left out")
    why = stage.web1.get("/v1/gemot/why/service/web")
    left_out = next(one for one in why["Instances"] if one["Node"] == "web2")
    assert not left_out["NodeAlive"]
    assert "no live agent is seen on web2" in left_out["Explanation"]
    stage.web2.start()
    stage.until(lambda: node_status(stage.cluster.servers[0], "web2") == "passing", "web2 alive again")


def test_an_agent_that_leaves_takes_its_host_out_of_the_catalog(stage: Stage) -> None:
    stage.web2.put("/v1/agent/leave")
    assert stage.web2.wait() == 0
    server = stage.cluster.servers[0]
    stage.until(
        lambda: "web2" not in [row["Node"] for row in server.get("/v1/catalog/nodes")],
        "web2 out of the catalog",
    )
    stage.until(lambda: stage.agree(stage.both - {(stage.web2.host, stage.webs[1].port)}), "web2 left out")


def test_without_servers_a_starting_agent_keeps_the_file_rendered_before(stage: Stage) -> None:
    before, status = stage.nginx.upstream.read_bytes(), stage.nginx.upstream.stat()
    for agent in (stage.web1, *stage.cluster.servers):
        agent.kill()
    reloads = stage.nginx.reloads
    stage.web1.start()
    told = stage.until(lambda: stage.template() if stage.template()["WaitingFor"] else None, "the agent up")
    assert told["State"] == "waiting"
    assert "service web" in told["Explanation"]
    after = stage.nginx.upstream.stat()
    assert stage.nginx.upstream.read_bytes() == before
    assert (after.st_ino, after.st_mtime_ns) == (status.st_ino, status.st_mtime_ns)
    assert stage.nginx.reloads == reloads
    for server in stage.cluster.servers:
        server.start()
    stage.await_whole()


def test_a_registration_over_http_survives_a_kill_of_its_agent(stage: Stage) -> None:
    stage.web2.put("/v1/agent/service/register", {"Name": "api", "Port": 9000, "Check": {"TTL": "10m"}})
    server = stage.cluster.servers[0]

    def registered() -> bool:
        return [row["ServicePort"] for row in server.get("/v1/catalog/service/api")] == [9000]

    stage.until(registered, "api in the catalog")
    stage.web2.kill()
    # Taken out of the catalog meanwhile, so that only the agent can bring it back.
    with closing(server.connect()) as connection:
        connection.request("PUT", "/v1/catalog/deregister", body=b'{"Node": "web2", "ServiceID": "api"}')
    assert server.get("/v1/catalog/service/api") == []
    stage.web2.start()
    stage.until(registered, "api in the catalog again")
    stage.web2.put("/v1/agent/service/deregister/api")
    stage.until(lambda: server.get("/v1/catalog/service/api") == [], "api deregistered")


def test_a_reload_takes_up_a_new_service(stage: Stage) -> None:
    own = stage.webs[1].registration()
    stage.web2.write_config(services=[own, {"name": "cache", "port": 6379}])
    stage.web2.signal(signal.SIGHUP)
    server = stage.cluster.servers[0]
    stage.until(
        lambda: [row["Node"] for row in server.get("/v1/catalog/service/cache")] == ["web2"],
        "the new service in the catalog",
    )
    stage.web2.write_config(services=[own])
    stage.web2.signal(signal.SIGHUP)
    stage.until(lambda: server.get("/v1/catalog/service/cache") == [], "the service gone again")


@pytest.mark.parametrize(
    ("template", "fault"),
    [
        ({"contents": "x", "destination": "not/absolute"}, "destination: must be an absolute path"),
        ({"contents": "{% if x %}", "destination": "/nowhere/x"}, "Unexpected end of template"),
    ],
    ids=["the file is wrong", "a template in it is wrong"],
)
def test_a_reload_refuses_a_broken_configuration_and_all_stays_as_it_was(
    stage: Stage, template: dict[str, str], fault: str
) -> None:
    services = stage.web2.get("/v1/agent/services")
    pid, size = stage.web2.pid, stage.web2.log.stat().st_size
    added = {"name": "half", "port": 1}
    stage.web2.write_config(services=[stage.webs[1].registration(), added], templates=[template])
    stage.web2.signal(signal.SIGHUP)
    stage.until(lambda: _told(stage.web2.log, size, "not reloaded"), "the refusal in the agent's log")
    assert _told(stage.web2.log, size, fault)
    assert stage.web2.get("/v1/agent/services") == services
    assert stage.web2.pid == pid
    assert stage.web2.running
    stage.web2.write_config(services=[stage.webs[1].registration()], templates=[])
    stage.web2.signal(signal.SIGHUP)
    stage.until(lambda: _told(stage.web2.log, size, "configuration reloaded"), "the next reload")
    assert stage.web2.get("/v1/agent/services") == services


def _told(log: Path, size: int, words: str) -> bool:
    """Whether the log has these words behind its first `size` bytes."""
    return words.encode() in log.read_bytes()[size:]
