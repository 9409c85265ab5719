"""Hostile packets fired at the gossip port of a live agent, 8301/udp and 8301/tcp, among other agents.

make gossip-fuzz-live PACKETS=1000000
.venv/bin/python tests/gossip/fuzz_live.py --datagrams 1000000 --campaign      keeps it in RESULTS.md

Random bytes, words cut off, changed and doubled, lengths that lie, words that are good but not true (of
failed members, good-byes, new incarnations, members that are nowhere), other clusters' labels and keys; over
TCP the same, in pieces, slowly, or never ended. After each hundred datagrams the agent is pinged: its answer
says that it has taken them all. In the end it must serve HTTP, list its members alive, take in a new one, and
miss an old one when that is killed.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import random
import re
import socket
import sys
import tempfile
import time
from collections import Counter
from contextlib import closing
from pathlib import Path

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).parent.parent)

import msgspec
from gossip.fuzz import STRANGERS, WALL_MS, some_facts, some_stream_word, some_word, spoiled
from gossip.record import keep
from support.cluster import Agent, Cluster, wait_for

from gemot.agent.gossip import packet, stream
from gemot.agent.gossip.keyring import Keyring
from gemot.agent.gossip.message import Ack, Alive, Dead, Facts, Ping, Record, Status, Suspect, Word
from gemot.agent.gossip.seal import NONCE_BYTES, Purpose, Seal
from gemot.agent.lan import facts_of
from gemot.server.model.errors import PeerBroke
from gemot.server.rpc.message import Member

PATIENCE_S = 400.0
BETWEEN_PINGS = 100
DATAGRAMS_A_STREAM = 50
OPEN = 120
MOST_GROWTH_MIB = 256
"""A believed length takes more. What is told is how much it was."""

ALIVE, FAILED = 1, 4
INVENTED = 200


class Liar:
    """Packets of one who knows the cluster, its members' ids and places among them."""

    def __init__(self, seed: int, members: list[Facts]) -> None:
        self.random = random.Random(seed)
        self._members = members
        self._seals = {
            purpose: [
                Seal(purpose=purpose, label="", sender="liar", wall_ms=WALL_MS),
                Seal(purpose=purpose, label="dc2", sender="liar", wall_ms=WALL_MS),
                Seal(purpose=purpose, label="", sender="liar", wall_ms=WALL_MS, ring=STRANGERS),
            ]
            for purpose in Purpose
        }

    def datagram(self) -> bytes:
        r = self.random
        if r.random() < 0.05:
            return r.randbytes(r.choice([0, 1, 2, 7, 100, 1_400, 9_000]))
        parts = [packet.word_bytes(self._word()) for _ in range(r.randint(1, 6))]
        body = packet.pack(parts, 1 << 20)
        return self._sealed(Purpose.DATAGRAM, spoiled(r, body) if r.random() < 0.6 else body)[:60_000]

    def stream(self) -> bytes:
        r = self.random
        if r.random() < 0.1:
            return r.randbytes(r.choice([1, 5, 1_000]))
        word = self._exchange() if r.random() < 0.5 else some_stream_word(r)
        body = stream.word_bytes(word)
        data = stream.GREETING + stream.frame(
            self._sealed(Purpose.FRAME, spoiled(r, body) if r.random() < 0.5 else body)
        )
        return spoiled(r, data) if r.random() < 0.5 else data

    def _sealed(self, purpose: Purpose, body: bytes) -> bytes:
        r = self.random
        seal = self._seals[purpose][r.choice([0] * 18 + [1, 2])]
        data = seal.seal(body or b"\0", r.randbytes(NONCE_BYTES))
        return (spoiled(r, data) or b"\0") if r.random() < 0.2 else data

    def _word(self) -> Word:
        """Half of them are about members that there are."""
        r = self.random
        if r.random() < 0.5:
            return some_word(r)
        of, by = r.choice(self._members), r.choice(self._members)
        incarnation = r.choice([0, 1, 2, 50, 1 << 40, (1 << 63) - 1])
        match r.randrange(4):
            case 0:
                return Suspect(of.id, incarnation, by.id)
            case 1:
                return Dead(of.id, incarnation, by.id, r.random() < 0.3, r.random() < 0.3)
            case 2:
                moved = msgspec.structs.replace(of, port=r.randint(1, 65_535))
                return Alive(incarnation, r.choice([of, moved]))
            case _:
                return Alive(incarnation, self._invented())

    def _exchange(self) -> stream.Exchange:
        r = self.random
        told = [r.choice([*self._members, self._invented(), some_facts(r)]) for _ in range(r.randrange(40))]
        records = tuple(Record(facts, r.choice([0, 1, 9, 1 << 40]), r.choice(list(Status))) for facts in told)
        return stream.Exchange(r.random() < 0.5, self._invented(), records, r.getrandbits(62), ())

    def _invented(self) -> Facts:
        """A member that is nowhere, of this datacenter."""
        number = self.random.randrange(INVENTED)
        id = f"{number:08x}-0000-4000-8000-000000000000"
        member = Member(id, f"nowhere{number}", f"127.9.9.{1 + number}", "client", "dc1", "1.0.0", "")
        return facts_of(member, 8301)


class Streams:
    """Connections of the liar: some closed at once, some slow, some never ended; each address has some."""

    def __init__(self, liar: Liar, target: tuple[str, int]) -> None:
        self._liar = liar
        self._target = target
        self._open: list[tuple[socket.socket, bytearray]] = []
        self.opened = 0

    def another(self) -> None:
        r = self._liar.random
        if len(self._open) >= OPEN:
            self._open.pop(0)[0].close()
        made = socket.socket()
        made.setblocking(False)
        made.bind((f"127.0.2.{r.randint(1, 40)}", 0))
        with contextlib.suppress(BlockingIOError):
            made.connect(self._target)
        self.opened += 1
        self._open.append((made, bytearray(self._liar.stream())))

    def push(self) -> None:
        """Each sends some more. Most then hang up, some stay and say nothing."""
        r = self._liar.random
        left: list[tuple[socket.socket, bytearray]] = []
        for made, data in self._open:
            size = r.choice([1, 100, len(data)])
            with contextlib.suppress(OSError):
                del data[: made.send(data[:size])]
            if not data and r.random() < 0.7:
                made.close()
            else:
                left.append((made, data))
        self._open = left

    def close(self) -> None:
        for made, _ in self._open:
            made.close()


class Prey:
    """The agent that is fired at, and what is to be known of it."""

    def __init__(self, agent: Agent, ring: Keyring | None = None, label: str = "") -> None:
        self.agent = agent
        self.place = (agent.host, agent.ports["serf_lan"])
        self.id = agent.get("/v1/agent/self")["Config"]["NodeID"]
        self._ids: dict[str, str] = {}
        self._seal = Seal(purpose=Purpose.DATAGRAM, label=label, sender="pinger", wall_ms=WALL_MS, ring=ring)
        self._socket = socket.socket(type=socket.SOCK_DGRAM)
        self._socket.bind((agent.host, 0))
        self._socket.settimeout(1.0)

    def close(self) -> None:
        self._socket.close()

    def await_answer(self, seq: int, sender: str) -> None:
        """It has taken all that came before. Datagrams of loopback keep their order."""
        until = time.monotonic() + PATIENCE_S
        while time.monotonic() < until:
            ping = packet.encode([Ping(seq, self.id, sender)])
            self._socket.sendto(self._seal.seal(ping, os.urandom(NONCE_BYTES)), self.place)
            with contextlib.suppress(TimeoutError, PeerBroke):
                words = packet.decode(self._seal.open_(self._socket.recv(65_536)))
                if any(isinstance(word, Ack) and word.seq == seq for word in words):
                    return
        raise AssertionError(f"no answer to a ping:\n{self.agent.tail()}")

    def dropped(self) -> Counter[str]:
        with closing(self.agent.connect()) as connection:
            text = connection.request("GET", "/metrics").body.decode()
        found = re.findall(r'gemot_gossip_dropped_total\{why="(\w+)"\} (\S+)', text)
        return Counter({why: int(float(count)) for why, count in found})

    def memory_mib(self, field: str = "VmRSS") -> float:
        text = Path(f"/proc/{self.agent.pid}/status").read_text()
        return next(int(line.split()[1]) for line in text.splitlines() if line.startswith(field)) / 1024

    def lists(self, agent: Agent, status: int) -> bool:
        """By id: names and addresses are invented as well."""
        if agent.name not in self._ids:
            self._ids[agent.name] = agent.get("/v1/agent/self")["Config"]["NodeID"]
        listed = {one["Tags"]["id"]: one["Status"] for one in self.agent.get("/v1/agent/members")}
        return listed.get(self._ids[agent.name]) == status


def fire(prey: Prey, members: list[Facts], datagrams: int, seed: int) -> int:
    """How many connections there were beside the datagrams."""
    liar = Liar(seed, members)
    streams = Streams(liar, prey.place)
    others = [facts for facts in members if facts.id != prey.id]
    with socket.socket(type=socket.SOCK_DGRAM) as gun:
        gun.bind((prey.agent.host, 0))
        for number in range(1, datagrams + 1):
            gun.sendto(liar.datagram(), prey.place)
            if number % DATAGRAMS_A_STREAM == 0:
                streams.another()
                streams.push()
            if number % BETWEEN_PINGS == 0:
                prey.await_answer(number & 0xFFFF_FFFF, liar.random.choice(others).id)
            if number % 50_000 == 0:
                print(f"{number:,}: {prey.memory_mib():.0f} MiB, {dict(prey.dropped())}", flush=True)
    streams.close()
    return streams.opened


def facts_told(agents: list[Agent]) -> list[Facts]:
    told = []
    for agent in agents:
        config = agent.get("/v1/agent/self")["Config"]
        role = "server" if config["Server"] else "client"
        rpc = f"{agent.host}:{agent.ports['server']}" if config["Server"] else ""
        member = Member(config["NodeID"], agent.name, agent.host, role, "dc1", config["Version"], rpc)
        told.append(facts_of(member, agent.ports["serf_lan"]))
    return told


def live(cluster: Cluster, options: argparse.Namespace) -> list[list[str]]:
    """What came of it, as a table. Raises AssertionError for what must not be."""
    *old, new = cluster.agents
    for agent in old:
        agent.start()
    prey = Prey(wait_for(lambda: cluster.leader() and old[0], PATIENCE_S, "a leader", old))
    whole = lambda: all(prey.lists(agent, ALIVE) for agent in old)  # noqa: E731
    wait_for(whole, PATIENCE_S, "all are alive", old)
    before, resident, began = prey.dropped(), prey.memory_mib(), time.monotonic()
    streams = fire(prey, facts_told(old), options.datagrams, options.seed)
    took_s, dropped = time.monotonic() - began, prey.dropped() - before
    assert prey.agent.running, f"it ended:\n{prey.agent.tail()}"
    grown = prey.memory_mib() - resident
    assert_it_goes_on(prey, old, new, kill=options.kill)
    assert grown < MOST_GROWTH_MIB, f"it has {grown:.0f} MiB more than before"
    prey.close()
    head = ["datagrams", "connections", "a second", "MiB before", "after", "peak", *sorted(dropped)]
    row = [f"{options.datagrams:,}", f"{streams:,}", f"{options.datagrams / took_s:,.0f}", f"{resident:.0f}"]
    row += [f"{resident + grown:.0f}", f"{prey.memory_mib('VmHWM'):.0f}"]
    return [head, row + [f"{dropped[why]:,}" for why in sorted(dropped)]]


def assert_it_goes_on(prey: Prey, old: list[Agent], new: Agent, *, kill: bool) -> None:
    """It lists all old ones alive, takes the new one in, misses the last if that is killed, and writes."""
    whole = lambda: all(prey.lists(agent, ALIVE) for agent in old)  # noqa: E731
    wait_for(whole, PATIENCE_S, "all are alive again", old)
    new.start()
    wait_for(lambda: prey.lists(new, ALIVE), PATIENCE_S, "a new one is taken in", [*old, new])
    if kill:
        old[-1].kill()
        wait_for(lambda: prey.lists(old[-1], FAILED), PATIENCE_S, "an old one is missed", old[:1])
    assert prey.agent.put("/v1/kv/after", b"all that") is True
    for agent in old:
        assert "Traceback" not in agent.log.read_text(), agent.tail()


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--datagrams", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--no-kill", action="store_false", dest="kill", help="let the old member live")
    parser.add_argument("--campaign", action="store_true", help="keep it in RESULTS.md")
    options = parser.parse_args()
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="gemot-fuzz-") as folder:
        cluster = Cluster(Path(folder), servers=1, clients=2, network="127.0.3")
        try:
            rows = live(cluster, options)
        finally:
            cluster.stop()
    for cells in zip(*rows, strict=True):
        print(f"{cells[0]:>14}  {cells[1]}")
    if options.campaign:
        text = "Fired at a live server, which then listed all alive, took in a new member, and missed an old "
        text += "one that was killed. What was dropped is by its metric."
        keep("fuzz, live", text, rows, time.monotonic() - began)
    return 0


if __name__ == "__main__":
    sys.exit(main())
