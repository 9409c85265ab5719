"""Faults for the chaos run: a schedule drawn from a seed, and the hand that does it to a real cluster.

The schedule is replayable; the moment and who leads then are the run's own. One fault at a time, each undone
before the next; what is meant for a leader finds out who leads when its time has come.
"""

from __future__ import annotations

import itertools
import random
import shutil
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable

import msgspec
from support.cluster import Agent, Cluster
from support.link_proxy import Links, Pair

from gemot.agent.client.connection import ClientError

KINDS = (
    "pause",
    "pause-leader",
    "kill",
    "kill-leader",
    "kill-two",
    "kill-agent",
    "cut-agents",
    "majority",
    "isolate-leader",
    "ring",
    "deaf-leader",
    "mute-leader",
    "one-way",
    "slow-one",
    "slow-all",
)
WIPE = "wipe"
"""Only where servers can be taken out of the voters and put in anew."""


class Fault(msgspec.Struct, frozen=True):
    """What is done when, for how long, and a number that chooses whom."""

    at_s: float
    kind: str
    lasts_s: float
    draw: int


def schedule(seed: int, seconds: float, *, wipe: bool = False) -> list[Fault]:
    """The faults of one run: every kind once before any comes again."""
    chance = random.Random(seed)
    faults: list[Fault] = []
    kinds: list[str] = []
    at = 1.5
    while True:
        # Some outlast the silence that a connection is given up after (5 s) and the hold of a write (7 s).
        lasts = round(chance.uniform(5.0, 9.0) if chance.random() < 0.2 else chance.uniform(1.5, 4.0), 1)
        if at + lasts > seconds:
            return faults
        if not kinds:
            kinds = [*KINDS, WIPE] if wipe else list(KINDS)
            chance.shuffle(kinds)
        faults.append(Fault(round(at, 1), kinds.pop(), lasts, chance.randrange(1 << 30)))
        at += lasts + chance.uniform(1.0, 2.5)


class Nemesis(threading.Thread):
    """Does the faults of a schedule, and keeps what could be reached when."""

    def __init__(self, cluster: Cluster, links: Links, faults: list[Fault]) -> None:
        super().__init__(name="nemesis", daemon=True)
        self._cluster = cluster
        self._links = links
        self._faults = faults
        self._names = [server.name for server in cluster.servers]
        self._down: set[str] = set()
        self._cut: set[Pair] = set()
        self._over = threading.Event()
        self.fired: Counter[str] = Counter()
        self.majority: list[tuple[float, bool]] = [(time.monotonic(), True)]
        """Since when a majority was up and connected each to each, or not."""
        self.error = ""

    def run(self) -> None:
        began = time.monotonic()
        try:
            for fault in self._faults:
                if self._over.wait(max(0.0, began + fault.at_s - time.monotonic())):
                    return
                undo = self._begin(fault)
                self.fired[fault.kind] += 1
                self._over.wait(fault.lasts_s)
                undo()
        except Exception as error:
            self.error = f"{error!r}"
            raise

    def end(self) -> None:
        """No more faults; the one under way is undone."""
        self._over.set()
        self.join(30)
        assert not self.is_alive(), "the nemesis hangs"
        assert not self.error, self.error

    def _begin(self, fault: Fault) -> Callable[[], None]:
        chance = random.Random(fault.draw)
        kind, _, whom = fault.kind.partition("-")
        leader = self._leader() or chance.choice(self._cluster.servers)
        one = leader if whom == "leader" else chance.choice(self._cluster.servers)
        others = [name for name in self._names if name != one.name]
        if kind == "pause":
            return self._pause(one)
        if fault.kind == "kill-agent":
            return self._kill([chance.choice(self._cluster.clients)])
        if fault.kind == "cut-agents":
            lost = [
                (agent.name, server)
                for agent in self._cluster.clients
                for server in chance.sample(self._names, 3)
            ]
            return self._net(cut={*lost, *((b, a) for a, b in lost)})
        if fault.kind == "kill-two":
            return self._kill(chance.sample(self._cluster.servers, 2))
        if kind in ("kill", "wipe"):
            return self._kill([one], wipe=kind == "wipe")
        if kind == "slow":
            named = others if whom == "all" else [one.name]
            delay = chance.choice([0.01, 0.05, 0.2])
            pairs = [p for p in itertools.permutations(self._names, 2) if p[0] in named or p[1] in named]
            return self._net(delay_s=dict.fromkeys(pairs, delay))
        return self._net(cut=self._cut_of(kind, one.name, chance))

    def _cut_of(self, kind: str, one: str, chance: random.Random) -> set[Pair]:
        names = self._names.copy()
        chance.shuffle(names)
        pairs = set(itertools.permutations(names, 2))
        if kind == "majority":
            few = set(names[: len(names) // 2])
            return {(a, b) for a, b in pairs if (a in few) != (b in few)}
        if kind == "ring":
            beside = {frozenset((a, b)) for a, b in zip(names, names[1:] + names[:1], strict=True)}
            return {pair for pair in pairs if frozenset(pair) not in beside}
        if kind == "deaf":
            return {(a, b) for a, b in pairs if b == one}
        if kind == "mute":
            return {(a, b) for a, b in pairs if a == one}
        if kind == "one":  # one way: a half of the links, each in one direction
            return {pair for pair in pairs if chance.random() < 0.25}
        assert kind == "isolate", kind
        return {(a, b) for a, b in pairs if one in (a, b)}

    def _net(
        self, cut: set[Pair] | None = None, delay_s: dict[Pair, float] | None = None
    ) -> Callable[[], None]:
        def undo() -> None:
            self._links.set()
            self._cut = set()
            self._note()

        self._cut = cut or set()
        self._links.set(self._cut, delay_s)
        self._note()
        return undo

    def _pause(self, agent: Agent) -> Callable[[], None]:
        def undo() -> None:
            agent.signal(signal.SIGCONT)
            self._down.discard(agent.name)
            self._note()

        self._down.add(agent.name)
        agent.signal(signal.SIGSTOP)
        self._note()
        return undo

    def _kill(self, agents: list[Agent], *, wipe: bool = False) -> Callable[[], None]:
        def undo() -> None:
            for agent in agents:
                if wipe:
                    shutil.rmtree(agent.directory / "data")
                agent.start()
                self._down.discard(agent.name)
            self._note()

        for agent in agents:
            self._down.add(agent.name)
            agent.kill()
        self._note()
        return undo

    def _leader(self) -> Agent | None:
        """Whoever says now that it leads; more than one may, and then the newest term does."""
        best: tuple[int, Agent | None] = (0, None)
        for server in self._cluster.servers:
            try:
                raft = server.stats()["raft"]
            except (ClientError, KeyError):
                continue
            if raft["state"] == "Leader":
                best = max(best, (int(raft["term"]), server), key=lambda found: found[0])
        return best[1]

    def _note(self) -> None:
        up = [name for name in self._names if name not in self._down]
        most = len(self._names) // 2 + 1
        whole = any(
            not any(pair in self._cut for pair in itertools.permutations(group, 2))
            for group in itertools.combinations(up, most)
        )
        self.majority.append((time.monotonic(), whole))
