"""A whole cluster to try things on: `make cluster`.

Three servers (srv1 to srv3) and two client agents (web1, web2) on 127.0.0.1 to 127.0.0.5, each with Consul's
ports; a web server behind an HTTP check on the host of each client agent; an nginx whose upstream file web1's
agent renders. Data stays in `.cluster/` until that is deleted. Enter starts again what was ended, Ctrl-C
stops everything. Only processes started here are ever touched.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import select
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Protocol

sys.path.insert(0, str(Path(__file__).parents[1]))

from support.cluster import Agent, Cluster
from support.web_stage import Nginx, WebServer

from gemot.agent.client.connection import ClientError

ROOT = Path(__file__).parents[2]
PORTS = {"http": 8500, "dns": 8600, "server": 8300, "serf_lan": 8301}
WEB_PORT = 8000
NGINX_PORT = 8080
START_WITHIN_S = 60.0
STOP_WITHIN_S = 30.0
"""An agent cuts itself off after 10 s at most: one that still runs then hangs."""

LOOK_EVERY_S = 0.2


class Part(Protocol):
    """A process of the demo."""

    @property
    def running(self) -> bool: ...
    @property
    def pid(self) -> int: ...
    def signal(self, number: signal.Signals) -> None: ...
    def wait(self, timeout_s: float) -> int: ...
    def start(self) -> None: ...


class DemoFailed(Exception):
    """The demo cannot go on; the message says why and where to look."""


class Demo:
    """Everything that runs, with its files below `folder`."""

    def __init__(self, *, folder: Path, network: str) -> None:
        self.folder = folder.resolve()
        self.cluster = Cluster(self.folder, servers=3, clients=2, network=network, ports=PORTS)
        self.webs = [WebServer(name=a.name, host=a.host, port=WEB_PORT) for a in self.cluster.clients]
        front = self.cluster.clients[0]
        self.nginx = Nginx(folder=self.folder / "nginx", host=front.host, port=NGINX_PORT)
        self.leader: Agent | None = None
        self._pids = self.folder / "pids"
        self.begun = False

    @property
    def parts(self) -> dict[str, Part]:
        """By the names of their files in `pids/`."""
        agents: dict[str, Part] = {agent.name: agent for agent in self.cluster.agents}
        webs: dict[str, Part] = {f"{web.name}-http": web.process for web in self.webs}
        return {**agents, **webs, "nginx": self.nginx.process}

    def start(self, over: Callable[[], bool]) -> None:
        """Start all parts and wait until the web service is served, or it is over. Raises DemoFailed."""
        self._check_ports()
        self.begun = True  # from here on the folder is this run's; before, it may be another's
        self._pids.mkdir(parents=True, exist_ok=True)
        self._configure()
        for web in self.webs:
            web.process.start()
        self.nginx.start()
        for agent in self.cluster.agents:
            agent.start()
        self.note_pids()
        self._await(lambda: over() or self.find_leader() is not None, "leader")
        self._await(lambda: over() or self.served(), "web servers in the answers and behind nginx")

    def stop(self) -> list[str]:
        """Tell all to end and see that they did; the names of those that had to be killed."""
        running = {name: part for name, part in self.parts.items() if part.running}
        for part in running.values():
            part.signal(signal.SIGTERM)
        deadline, killed = time.monotonic() + STOP_WITHIN_S, []
        for name, part in running.items():
            try:
                part.wait(max(0.0, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                part.signal(signal.SIGKILL)
                part.wait(5)
                killed.append(name)
        shutil.rmtree(self._pids, ignore_errors=True)
        return killed

    def ended(self) -> list[str]:
        return [name for name, part in self.parts.items() if not part.running]

    def revive(self) -> list[str]:
        """Start what ended; its names."""
        names = self.ended()
        for name in names:
            part = self.parts[name]
            if isinstance(part, Agent):
                part.wait(0)
            part.start()
        self.note_pids()
        return names

    def find_leader(self) -> Agent | None:
        """The server that most of those running say leads; None while there is no such."""
        said: list[str] = []
        for server in self.cluster.servers:
            with contextlib.suppress(ClientError):
                if server.running:
                    said.append(str(server.get("/v1/status/leader")))
        named = max(set(said), key=said.count, default="")
        found = [s for s in self.cluster.servers if s.running and f"{s.host}:{PORTS['server']}" == named]
        self.leader = found[0] if found and said.count(named) * 2 > len(self.cluster.servers) else None
        return self.leader

    def served(self) -> bool:
        """Whether every web server is healthy in the catalog and in nginx's list."""
        try:
            healthy = self.cluster.clients[0].get("/v1/health/service/web", passing=True)
        except ClientError:
            return False
        addresses = sorted(web.address for web in self.webs)
        return len(healthy) == len(addresses) and sorted(self.nginx.backends()) == addresses

    def note_pids(self) -> None:
        """Keep `pids/` true: a file for each part, and `leader`."""
        pids = {name: part.pid for name, part in self.parts.items() if part.running}
        if self.leader is not None and self.leader.running:
            pids["leader"] = self.leader.pid
        for stale in set(os.listdir(self._pids)) - set(pids):
            (self._pids / stale).unlink()
        for name, pid in pids.items():
            (self._pids / name).write_text(f"{pid}\n")

    def _check_ports(self) -> None:
        """Every address that will be listened on is free, so that what answers there is ours."""
        wanted = [(agent.host, port) for agent in self.cluster.agents for port in agent.ports.values()]
        wanted += [(web.host, web.port) for web in self.webs]
        host, _, port = self.nginx.address.rpartition(":")
        taken = [f"{host}:{port}" for host, port in [*wanted, (host, int(port))] if not _is_free(host, port)]
        if taken:
            raise DemoFailed(
                f"in use already: {', '.join(taken)}. Stop `make run`, another `make cluster` or what else "
                "listens there (`ss -ltnp` tells), or take other addresses: --network 127.0.7"
            )

    def _configure(self) -> None:
        self.nginx.write_files()
        for agent, web in zip(self.cluster.clients, self.webs, strict=True):
            agent.write_config(services=[web.registration()])
        self.cluster.clients[0].write_config(templates=[self.nginx.template()])

    def _await(self, condition: Callable[[], bool], what: str) -> None:
        deadline = time.monotonic() + START_WITHIN_S
        while not condition():
            for agent in self.cluster.agents:
                if not agent.running:
                    raise DemoFailed(f"{agent.name} ended: {agent.tail(3)}\n({agent.log})")
            if time.monotonic() > deadline:
                raise DemoFailed(f"no {what} within {START_WITHIN_S:g} s: see {self.folder}/*/agent.log")
            time.sleep(LOOK_EVERY_S)


def _is_free(host: str, port: int) -> bool:
    with socket.socket() as sock:
        # As servers do it, since connections that ended a moment ago hold no port.
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            sock.bind((host, port))
        except OSError:
            return False
    return True


def introduce(demo: Demo) -> Iterator[str]:
    """What runs, where its files are, and what to try."""
    cluster, agents = demo.cluster, demo.cluster.agents
    assert demo.leader is not None
    yield "The cluster runs:"
    for agent in agents:
        role = "server" if agent in cluster.servers else "client"
        leads = ", leads" if agent is demo.leader else ""
        yield f"  {agent.name}  {agent.host}  {role}  pid {agent.pid}{leads}"
    for web in demo.webs:
        yield f"  web server of {web.name}  http://{web.address}/  pid {web.process.pid}"
    yield f"  nginx before both   http://{demo.nginx.address}/  pid {demo.nginx.process.pid}"
    shown = _shown(demo.folder)
    yield f"Files below {shown}/:"
    yield "  NAME/agent.json, NAME/agent.log, NAME/data/  configuration, log and data of each agent"
    yield "  nginx/upstream.conf  what web1's agent renders; nginx/error.log tells each reload"
    yield "  pids/                process ids by name, and pids/leader"
    front = cluster.clients[0]
    yield "Try in another terminal:"
    yield f"  export GEMOT_HTTP_ADDR={front.http}"
    yield "  .venv/bin/gemot status"
    yield f"  .tools/bin/dig @{front.host} -p {PORTS['dns']} web.service.consul +short"
    yield f"  kill $(cat {shown}/pids/web2-http)          # stop one web server, then:"
    yield "  .venv/bin/gemot why service web"
    yield "  .venv/bin/python tests/support/demo_writer.py   # write on and on, and meanwhile:"
    yield f"  kill -9 $(cat {shown}/pids/leader)          # kill the leader"
    yield "Enter starts again what was ended. Ctrl-C stops everything."


def attend(demo: Demo, over: Callable[[], bool]) -> None:
    """Tell what ends and who leads, start again on Enter, until it is over."""
    down: set[str] = set()
    leader = demo.leader
    reading = True
    while not over():
        if _enter_pressed(reading):
            if not sys.stdin.readline():
                reading = False
            elif started := demo.revive():
                say(f"Started again: {', '.join(started)}")
        ended = set(demo.ended())
        for name in sorted(ended - down):
            say(f"{name} ended. Enter starts it again.")
        down = ended
        demo.find_leader()
        if demo.leader is not None and demo.leader is not leader:
            leader = demo.leader
            say(f"{leader.name} leads now.")
        demo.note_pids()


def _enter_pressed(reading: bool) -> bool:
    if not reading:
        time.sleep(LOOK_EVERY_S)
        return False
    return bool(select.select([sys.stdin], [], [], LOOK_EVERY_S)[0])


def _shown(path: Path) -> str:
    try:
        return str(path.relative_to(Path.cwd()))
    except ValueError:
        return str(path)


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--folder", type=Path, default=ROOT / ".cluster", help="where data and logs go")
    parser.add_argument("--network", default="127.0.0", help="first three numbers of the addresses")
    arguments = parser.parse_args()
    asked = False

    def ask(*_: Any) -> None:
        nonlocal asked
        asked = True

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, ask)
    return run(Demo(folder=arguments.folder, network=arguments.network), over=lambda: asked)


def run(demo: Demo, over: Callable[[], bool]) -> int:
    """From start to stop; the exit code. Whatever happens between, what was started is stopped."""
    code = 0
    say("Starting three servers, two client agents, two web servers and nginx ...")
    try:
        demo.start(over)
        if not over():
            say("\n".join(introduce(demo)))
            attend(demo, over)
    except (DemoFailed, AssertionError) as error:
        print(f"demo_cluster: {error}", file=sys.stderr, flush=True)
        code = 1
    finally:
        killed = []
        if demo.begun:
            say("Stopping ...")
            killed = demo.stop()
    if not demo.begun:
        return 1
    if killed:
        print(f"demo_cluster: did not stop in time and was killed: {', '.join(killed)}", file=sys.stderr)
        return 1
    say("All is stopped.")
    return code


def say(line: str) -> None:
    print(line, flush=True)


if __name__ == "__main__":
    sys.exit(main())
