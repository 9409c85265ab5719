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
from support.chaos_operator import ORDERS, Operator, node_id
from support.cluster import Agent, Cluster
from support.link_proxy import Links, Pair
from support.reach import Reach

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
    "refuse-one",
    "refuse-leader",
    "reset-all",
    "stall-disk",
    "stall-leader",
    "wipe",
    "wipe-two",
    "wipe-keeping-id",
    *ORDERS,
)
"""Orders of an operator are given in the middle of another fault, half of the time."""

NOT_WHOLE = "wipe passed over"
WHOLE_S = 60.0
"""A disk is lost only while all servers vote and are well, which is waited for so long: what a majority loses
is lost."""

STALL = (signal.SIGUSR1, signal.SIGUSR2)
"""Between them no sync of the log ends: `lossy_agent.py`."""

STUCK = 4
"""So many wipes passed over in a row, each after that calm, mean that nothing gets better any more."""

AROUND_ORDERS = ("one-way", "deaf-leader", "mute-leader", "slow-all", "isolate-leader")


class Fault(msgspec.Struct, frozen=True):
    """What is done when, for how long, and a number that chooses whom."""

    at_s: float
    kind: str
    lasts_s: float
    draw: int


def schedule(seed: int, seconds: float) -> list[Fault]:
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
            kinds = list(KINDS)
            chance.shuffle(kinds)
        faults.append(Fault(round(at, 1), kinds.pop(), lasts, chance.randrange(1 << 30)))
        at += lasts + chance.uniform(1.0, 2.5)


class Nemesis(threading.Thread):
    """Does the faults of a schedule, later ones later if a wipe had to wait."""

    def __init__(
        self, *, cluster: Cluster, links: Links, reach: Reach, operator: Operator, faults: list[Fault]
    ) -> None:
        super().__init__(name="nemesis", daemon=True)
        self._cluster = cluster
        self._links = links
        self._reach = reach
        self._operator = operator
        self._faults = faults
        self._names = [server.name for server in cluster.servers]
        self._over = threading.Event()
        self._in_a_row = 0
        """Wipes passed over since the last one that was done."""
        self.fired: Counter[str] = Counter()
        self.error = ""

    def run(self) -> None:
        late_s, began = 0.0, time.monotonic()
        try:
            for fault in self._faults:
                if self._over.wait(max(0.0, began + fault.at_s + late_s - time.monotonic())):
                    return
                self._expect_all_to_run()
                self._do(fault)
                late_s = max(0.0, time.monotonic() - began - fault.at_s - fault.lasts_s)
        except Exception as error:
            self.error = f"{error!r}"
            raise

    def _do(self, fault: Fault) -> None:
        if fault.kind.startswith("wipe"):
            if not self._is_whole_soon():
                self.fired[NOT_WHOLE] += 1
                self._in_a_row += 1
                assert self._in_a_row < STUCK, "the voters do not become whole again, however long it is calm"
                return
            self._in_a_row = 0
        undo = self._begin(fault)
        self.fired[fault.kind] += 1
        self._over.wait(fault.lasts_s)
        undo()

    def _is_whole_soon(self) -> bool:
        until = time.monotonic() + WHOLE_S
        while not self._operator.whole():
            if time.monotonic() >= until or self._over.wait(0.3):
                return False
        return True

    def _expect_all_to_run(self) -> None:
        """Between faults nothing is down on purpose."""
        for agent in self._cluster.agents:
            assert agent.running, f"{agent.name} ended by itself, with {agent.code}:\n{agent.tail()}"

    def end(self) -> None:
        """No more faults; the one under way is undone."""
        self._over.set()
        self.join(90)
        assert not self.is_alive(), "the nemesis hangs"
        assert not self.error, self.error

    def _begin(self, fault: Fault) -> Callable[[], None]:
        chance = random.Random(fault.draw)
        kind, _, whom = fault.kind.partition("-")
        leader = self._leader() or chance.choice(self._cluster.servers)
        one = leader if whom == "leader" else chance.choice(self._cluster.servers)
        others = [name for name in self._names if name != one.name]
        if kind == "pause":
            return self._hold(one, signal.SIGSTOP, signal.SIGCONT)
        if kind == "stall":
            return self._hold(one, *STALL)
        if kind == "reset":
            return self._reset()
        if kind == "refuse":
            return self._refuse({p for p in itertools.permutations(self._names, 2) if one.name in p})
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
        if kind == "kill":
            return self._kill([one])
        if kind == "wipe":
            wiped = chance.sample(self._cluster.servers, 2 if whom == "two" else 1)
            return self._wipe(wiped, keeping_id=whom == "keeping-id")
        if fault.kind in ORDERS:
            return self._order(fault, chance)
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

    def _order(self, fault: Fault, chance: random.Random) -> Callable[[], None]:
        around = chance.choice(AROUND_ORDERS) if chance.random() < 0.5 else ""
        heal = self._begin(msgspec.structs.replace(fault, kind=around)) if around else None
        ended = self._operator.order(fault.kind, fault.draw)

        def undo() -> None:
            if heal is not None:
                heal()
            ended()

        return undo

    def _net(
        self, cut: set[Pair] | None = None, delay_s: dict[Pair, float] | None = None
    ) -> Callable[[], None]:
        self._links.set(cut or (), delay_s)
        self._reach.cut(cut or ())
        return self._heal

    def _heal(self) -> None:
        self._links.set()
        self._reach.cut(())

    def _refuse(self, pairs: set[Pair]) -> Callable[[], None]:
        self._links.set(refused=pairs)
        self._reach.cut(pairs)
        return self._heal

    def _reset(self) -> Callable[[], None]:
        self._links.reset()
        return lambda: None

    def _hold(self, agent: Agent, begin: signal.Signals, end: signal.Signals) -> Callable[[], None]:
        """The process, or its disk, does nothing from one signal to the other."""

        def undo() -> None:
            agent.signal(end)
            self._reach.up(agent.name)

        self._reach.down(agent.name)
        agent.signal(begin)
        return undo

    def _kill(self, agents: list[Agent]) -> Callable[[], None]:
        def undo() -> None:
            for agent in agents:
                agent.start()
            self._reach.up(*names)

        names = [agent.name for agent in agents]
        self._reach.down(*names)
        for agent in agents:
            agent.kill()
        return undo

    def _wipe(self, servers: list[Agent], *, keeping_id: bool) -> Callable[[], None]:
        """Nothing is left of their disks, or nothing but the id; they are down until they vote anew."""

        def undo() -> None:
            for server in servers:
                data, old = server.directory / "data", node_id(server)
                shutil.rmtree(data)
                if keeping_id:
                    data.mkdir()
                    (data / "node-id").write_text(old)
                server.start()
                self._operator.lost(server, old, keeps_id=keeping_id)

        self._reach.down(*(server.name for server in servers))
        for server in servers:
            server.kill()
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
