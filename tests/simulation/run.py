"""One seed, one cluster, one run: faults drawn from the seed, then calm, progress, and every check.

python tests/simulation/run.py --seeds 100 --from 1      runs seeds 1 to 100
python tests/simulation/run.py --from 17 --trace         replays seed 17 and prints every event
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
import time
from pathlib import Path

import msgspec

sys.path.insert(0, str(Path(__file__).parent.parent))

from simulation.clients import ALL, Client, Subscriber, Watcher
from simulation.invariants import Invariants
from simulation.network import CALM, Network, Weather
from simulation.node import Node
from simulation.planted import BUGS
from simulation.witness import Seen, Violation, check
from simulation.world import World
from support.lossy_vfs import LossyVfs, registered

from gemot.server.model.kv import KvGet
from gemot.server.server import ServerConfig

SECOND_US = 1_000_000
FAULTY_S = 20
CALM_S = 15


class Result(msgspec.Struct):
    """What one run came to."""

    seed: int
    digest: str
    events: int
    operations: int
    unknown: int
    failed: int
    terms: int
    crashes: int
    installs: int
    lists: int
    wakes: int
    fired: dict[str, int]


class Run:
    """A cluster of 3 or 5 with its clients and its faults, all drawn from one seed."""

    def __init__(self, seed: int, directory: Path, vfs: LossyVfs) -> None:
        self.seed = seed
        self.world = World(seed)
        random = self.world.random
        self.count = random.choice([3, 3, 5])
        self._rough = Weather(
            loss=random.choice([0.0, 0.02, 0.1]),
            duplicate=random.choice([0.0, 0.05, 0.2]),
            delay_min_us=100,
            delay_max_us=random.choice([500, 5_000, 60_000]),
            slow=random.choice([0.0, 0.01, 0.05]),
        )
        self.network = Network(self.world, self._rough)
        self.invariants = Invariants()
        config = ServerConfig(
            bootstrap_expect=self.count,
            snapshot_rest_ms=0,
            snapshot_entries=random.choice([12, 12, 40, 1_000]),
            trailing_entries=random.choice([2, 2, 10, 500]),
            checkpoint_wal_bytes=random.choice([64 << 10, 1 << 20]),
            list_rows=random.choice([0, 0, 3, 1_000]),
        )
        self.nodes = [
            Node(
                world=self.world,
                network=self.network,
                number=number,
                count=self.count,
                directory=directory / f"srv{number}",
                vfs=vfs,
                observe=self.invariants.observe,
                said=self.invariants.said,
                config=config,
            )
            for number in range(1, self.count + 1)
        ]
        by_id = {node.member.id: node for node in self.nodes}
        for node in self.nodes:
            node.nodes = by_id
        self.history: list[Seen] = []
        keys, think_us = random.choice([1, 3, 8]), random.choice([8_000, 40_000])
        self.clients = [
            Client(
                world=self.world,
                nodes=self.nodes,
                number=n,
                keys=keys,
                think_us=think_us,
                history=self.history,
            )
            for n in range(random.choice([2, 4, 8]))
        ]
        self.watchers = [
            Watcher(world=self.world, nodes=self.nodes, query=query) for query in (KvGet(b"key0"), ALL)
        ]
        self.subscriber = Subscriber(world=self.world, nodes=self.nodes)
        self.crashes = 0
        self.world.after_event = lambda: self.invariants.after_event(self.nodes)

    def go(self) -> Result:
        for node in self.nodes:
            self.world.at(self.world.random.randrange(300_000), f"{node.name} start", node.start)
        for actor in [*self.clients, *self.watchers, self.subscriber]:
            self.world.at(self.world.random.randrange(SECOND_US), "actor starts", actor.start)
        self._plan_faults()
        self.world.run(FAULTY_S * SECOND_US)
        self._calm()
        return self._judge()

    def _plan_faults(self) -> None:
        random = self.world.random
        faults = [
            self._crash_one,
            self._crash_one,
            self._crash_all,
            self._cut,
            self._pause_net,
            self._leave_behind,
        ]
        at = 2 * SECOND_US
        while at < (FAULTY_S - 1) * SECOND_US:
            at += random.randrange(200_000, 2_500_000)
            fault = random.choice(faults)
            self.world.at(at, fault.__name__, fault)

    def _crash_one(self) -> None:
        random = self.world.random
        leaders = [n for n in self.nodes if n.server is not None and n.server.leads]
        node = leaders[0] if leaders and random.random() < 0.5 else random.choice(self.nodes)
        self._crash(node)

    def _leave_behind(self) -> None:
        """One server misses so much that it needs a snapshot."""
        self._crash(self.world.random.choice(self.nodes), longest_us=12_000_000)

    def _crash_all(self) -> None:
        for node in self.nodes:
            self._crash(node)

    def _crash(self, node: Node, longest_us: int = 3_000_000) -> None:
        if node.up:
            self.crashes += 1
            node.crash()
            delay = self.world.random.randrange(50_000, longest_us)
            self.world.at(delay, f"{node.name} restart", lambda: node.start() if not node.up else None)

    def _cut(self) -> None:
        random = self.world.random
        names = [node.name for node in self.nodes]
        random.shuffle(names)
        at = random.randrange(1, len(names))
        self.network.partition([names[:at], names[at:]], one_way=random.random() < 0.4)
        self.world.at(random.randrange(500_000, 5_000_000), "heal", self.network.heal)

    def _pause_net(self) -> None:
        self.network.weather = msgspec.structs.replace(self._rough, loss=0.6)

        def over() -> None:
            self.network.weather = self._rough

        self.world.at(self.world.random.randrange(200_000, 1_500_000), "storm over", over)

    def _calm(self) -> None:
        """Heal everything; a majority must make progress now, and all must come to the same state."""
        self.network.heal()
        self.network.weather = CALM
        for node in self.nodes:
            if not node.up:
                node.start()
        before = len(self.history)
        self.world.run((FAULTY_S + CALM_S) * SECOND_US)
        if len(self.history) - before < 20:
            raise Violation(f"no progress after healing: {len(self.history) - before} operations")
        for actor in [*self.clients, *self.watchers, self.subscriber]:
            actor.stopped = True
        self.world.run((FAULTY_S + CALM_S + 14) * SECOND_US)

    def _judge(self) -> Result:
        operations = check(self.history, self.invariants.effects.values())
        self._settle()
        states = {
            (n.opened.state.applied_index, n.opened.state.state_hash)
            for n in self.nodes
            if n.opened is not None
        }
        if len(states) != 1:
            raise Violation(f"the servers ended in different states: {states}")
        return Result(
            seed=self.seed,
            digest=self.world.digest(),
            events=self.world.events,
            operations=operations,
            unknown=sum(c.unknown for c in self.clients),
            failed=sum(c.failed for c in self.clients),
            terms=max(n.opened.raft.term for n in self.nodes if n.opened is not None),
            crashes=self.crashes,
            installs=sum(n.installs for n in self.nodes),
            lists=sum(n.lists for n in self.nodes),
            wakes=sum(w.wakes for w in self.watchers),
            fired=self.network.fired,
        )

    def _settle(self) -> None:
        """The leader's clock ticks on: look at a moment when everybody has applied the same."""
        for _ in range(200):
            if len({n.opened.state.applied_index for n in self.nodes if n.opened is not None}) == 1:
                return
            self.world.run(self.world.now_us + 5_000)

    def close(self) -> None:
        for node in self.nodes:
            if node.up:
                node.crash()
            node.detach()


def run_seed(seed: int, vfs: LossyVfs, *, trace: bool = False) -> Result:
    """Run one seed in a directory of its own. Raises Violation."""
    base = "/dev/shm" if Path("/dev/shm").is_dir() else None
    directory = Path(tempfile.mkdtemp(prefix="gemot-sim-", dir=base))
    run = Run(seed, directory, vfs)
    if trace:
        run.world.trace = print
    try:
        return run.go()
    finally:
        run.close()
        shutil.rmtree(directory, ignore_errors=True)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=int, default=1, help="how many seeds to run")
    parser.add_argument("--from", dest="first", type=int, default=1, help="the first seed")
    parser.add_argument("--trace", action="store_true", help="print every event")
    parser.add_argument("--plant", choices=sorted(BUGS), help="plant this bug first: the run must fail")
    parser.add_argument("--stop-at-first", action="store_true", help="end with the first seed that fails")
    options = parser.parse_args()
    if options.plant:
        BUGS[options.plant]()
    with registered("gemot-sim") as vfs:
        return _run_seeds(options, vfs)


def _run_seeds(options: argparse.Namespace, vfs: LossyVfs) -> int:
    bad: list[int] = []
    began, operations, events = time.monotonic(), 0, 0
    for seed in range(options.first, options.first + options.seeds):
        try:
            result = run_seed(seed, vfs, trace=options.trace)
        except Exception as error:
            bad.append(seed)
            print(f"seed {seed}: {type(error).__name__}: {error}")
            print(f"  replay: python tests/simulation/run.py --from {seed} --trace")
            if options.stop_at_first:
                break
            if options.seeds == 1:
                raise
            continue
        operations += result.operations
        events += result.events
        print(
            f"seed {seed}: {result.digest} {result.operations} operations, {result.unknown} unknown, "
            f"{result.crashes} crashes, {result.installs} installs, {result.lists} lists, "
            f"{result.terms} terms"
        )
    took = time.monotonic() - began
    print(
        f"{options.seeds - len(bad)} passed, {len(bad)} failed; "
        f"{operations} operations, {events} events, {took:.0f} s"
    )
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
