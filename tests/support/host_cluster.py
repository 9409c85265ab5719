"""A cluster of which each agent has a host of its own (`hosts.py`), with Consul's ports and timings.

It is asked the way a program on the agent's own host asks: HTTP and DNS on that host's loopback.
"""

from __future__ import annotations

import http.client
import json
import re
import signal
import socket
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import dns.message
import dns.rdatatype
from support.cluster import Agent, Cluster
from support.hosts import NETWORK, Host, Lan

PORTS = {"http": 8500, "dns": 8600, "server": 8300, "serf_lan": 8301}
LOOPBACK = "127.0.0.1"
ANSWER_S = 5.0
DNS_S = 1.0
ALIVE, LEFT, FAILED = 1, 3, 4


class NoAnswer(Exception):
    """The agent did not answer, or with an error."""


class Seat:
    """One agent on its host. Its service is named after it, so that each can be asked for alone."""

    def __init__(self, agent: Agent, host: Host) -> None:
        self.agent = agent
        self.host = host
        self.name = agent.name
        self.service = f"of-{agent.name}"
        self._http: http.client.HTTPConnection | None = None
        self._dns: socket.socket | None = None
        agent.write_config(services=[{"name": self.service, "port": 80}])

    def start(self) -> None:
        self.hang_up()
        with self.host.inside():
            self.agent.start()

    def ask(self, method: str, path: str, body: bytes | None = None) -> Any:
        """The answer's JSON. Raises NoAnswer."""
        try:
            if self._http is None:
                self._http = http.client.HTTPConnection(LOOPBACK, PORTS["http"], timeout=ANSWER_S)
                with self.host.inside():
                    self._http.connect()
            self._http.request(method, path, body)
            answer = self._http.getresponse()
            text = answer.read()
        except (OSError, http.client.HTTPException) as error:
            self.hang_up()
            raise NoAnswer(str(error)) from error
        if answer.status != 200:
            raise NoAnswer(f"{answer.status}: {text[:200]!r}")
        return json.loads(text)

    def members(self) -> dict[str, int]:
        return {one["Name"]: one["Status"] for one in self.ask("GET", "/v1/agent/members")}

    def passes(self, service: str) -> bool:
        return bool(self.ask("GET", f"/v1/health/service/{service}?passing"))

    def resolves(self, service: str) -> bool:
        """Does its DNS give an address of this service? Raises NoAnswer."""
        query = dns.message.make_query(f"{service}.service.consul", dns.rdatatype.A)
        if self._dns is None:
            with self.host.inside():
                self._dns = socket.socket(type=socket.SOCK_DGRAM)
            self._dns.settimeout(DNS_S)
        try:
            self._dns.sendto(query.to_wire(), (LOOPBACK, PORTS["dns"]))
            while (answer := dns.message.from_wire(self._dns.recv(4_096))).id != query.id:
                pass
        except OSError as error:
            raise NoAnswer(str(error)) from error
        return bool(answer.answer)

    def lock(self) -> str:
        """Take a lock for this host, without a TTL: it ends when the host is found dead. The key.

        Raises NoAnswer, too, before every server has said that it knows sessions.
        """
        session = self.ask("PUT", "/v1/session/create", b'{"LockDelay": "0s"}')["ID"]
        key = f"lock/{session}"
        assert self.ask("PUT", f"/v1/kv/{key}?acquire={session}", b"") is True, f"nobody else has {key}"
        return key

    def is_free(self, key: str) -> bool:
        return "Session" not in self.ask("GET", f"/v1/kv/{key}")[0]

    def hang_up(self) -> None:
        if self._http is not None:
            self._http.close()
        self._http = None

    def failures(self) -> list[str]:
        """Of whom its log says that they failed, each as often as it does."""
        return re.findall(r"gossip: member failed: node=(\S+)", self.agent.log.read_text())


class HostCluster:
    """`servers` and `clients`, srv1.. and web1.., on a network that can be cut, lossy and slow."""

    def __init__(self, folder: Path, *, servers: int, clients: int) -> None:
        self.lan = Lan(servers + clients)
        self.cluster = Cluster(
            folder,
            servers=servers,
            clients=clients,
            network=NETWORK,
            ports=PORTS,
            config={"client_addr": LOOPBACK},
        )
        self.seats = [
            Seat(agent, host) for agent, host in zip(self.cluster.agents, self.lan.hosts, strict=True)
        ]
        self.servers, self.clients = self.seats[:servers], self.seats[servers:]

    def start(self, *, pause_s: float = 0.0) -> None:
        for seat in self.seats:
            seat.start()
            time.sleep(pause_s)

    def stop(self) -> None:
        for seat in self.seats:
            if seat.agent.running:
                seat.agent.signal(signal.SIGCONT)
        self.cluster.stop()
        self.lan.stop()

    def others(self, *but: Seat) -> list[Seat]:
        return [seat for seat in self.seats if seat not in but]

    def leader(self) -> Seat | None:
        """Of whom all servers agree that it leads."""
        try:
            told = {server.ask("GET", "/v1/status/leader") for server in self.servers}
        except NoAnswer:
            return None
        return next((s for s in self.servers if told == {f"{s.host.address}:{PORTS['server']}"}), None)

    def lists_whole(self) -> bool:
        """All are alive in the list of each."""
        names = {seat.name for seat in self.seats}
        return all(
            holds(lambda seat=seat: {n for n, s in seat.members().items() if s == ALIVE} == names)  # type: ignore[misc]
            for seat in self.seats
        )

    def whole(self) -> bool:
        """And there is a leader, and every service passes, for HTTP as for DNS."""
        return (
            self.leader() is not None
            and self.lists_whole()
            and all(
                holds(lambda seat=seat: seat.passes(seat.service) and seat.resolves(seat.service))  # type: ignore[misc]
                for seat in self.seats
            )
        )

    def until(self, condition: Callable[[], bool], what: str, most_s: float = 300.0) -> float:
        """How long it took, in seconds."""
        began = time.monotonic()
        while not condition():
            took = time.monotonic() - began
            assert took < most_s, f"{what}: not within {most_s:g} s\n{self.cluster.agents[0].tail()}"
            time.sleep(0.1)
        return time.monotonic() - began

    def wrongly_failed(self, before: dict[str, int], but: Iterable[str] = ()) -> list[tuple[str, str]]:
        """Who has taken whom for failed since `before`; whom `but` names counts neither way."""
        left_out = set(but)
        return [
            (seat.name, failed)
            for seat in self.seats
            if seat.name not in left_out
            for failed in seat.failures()[before[seat.name] :]
            if failed not in left_out
        ]

    def failures(self) -> dict[str, int]:
        """How many each has seen so far."""
        return {seat.name: len(seat.failures()) for seat in self.seats}


def holds(asked: Callable[[], bool]) -> bool:
    """Who does not answer says neither."""
    try:
        return asked()
    except NoAnswer:
        return False
