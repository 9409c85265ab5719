"""One seed, one cluster, one run: faults drawn from the seed, then calm, progress, and every check.

python tests/simulation/run.py --seeds 100 --from 1      runs seeds 1 to 100, on all cores
python tests/simulation/run.py --from 17 --trace         replays seed 17 and prints every event
python tests/simulation/run.py --seeds 10000 --campaign  writes what came of it into RESULTS.md
python tests/simulation/run.py --seeds 100 --faults stale-meta,flip-wal --chores leave   aims at rare pairs
"""

from __future__ import annotations

import gc
import shutil
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from random import Random

import msgspec

sys.path.insert(0, str(Path(__file__).parent.parent))

from simulation.atlas import Atlas
from simulation.clients import Client, Draws
from simulation.coverage import Coverage, Table
from simulation.damage import Ledger
from simulation.families.every import Family, every
from simulation.families.kv import KvFamily
from simulation.families.operator import CHORES, OperatorFamily
from simulation.families.push import told_at_once
from simulation.faults.every import FAULTS
from simulation.invariants import Invariants
from simulation.network import CALM, WIDE_US, Network
from simulation.node import Node
from simulation.swarm import AS_DRAWN, Aim, draw
from simulation.witness import Violation, check_real_time
from simulation.world import World
from support.lossy_vfs import LossyVfs

from gemot.server.model.restore import Blob
from gemot.server.state.restore import Placement

SECOND_US = 1_000_000
FAULTY_S = 46
CALM_S = 12
LONG_CALM_S = 40
DRAIN_S = 9
LAST_LOOK_S = 7
"""How long watchers go on when clients begin nothing new: they ask a few servers in turn."""

OPERATORS = 2
CHORE_US = SECOND_US
"""The longest an operator rests; no client waits for what they do."""

ROOM_AGAIN_US = 8 * SECOND_US
"""After all disks have room again, no write may be refused for space any more."""

MIN_OPERATIONS = 300
ENOUGH_OPERATIONS = 330
"""Answered ones, some of which prove nothing."""

MIN_KINDS = 3
MIN_PROGRESS = 20


SELDOM = 200_000
"""New objects from one look for cycles to the next."""


class Result(msgspec.Struct):
    """What one run came to. `invalid` says why it proves too little, "" if it does not."""

    seed: int
    digest: str
    events: int
    operations: int
    unknown: int
    failed: int
    terms: int
    installs: int
    lists: int
    snapshots: int
    checkpoints: int
    wakes: int
    black_box: int
    """Operations of the sample that was checked without believing an index, on how many keys."""

    keys: int
    undecided: int
    """Keys of it whose check came to no end."""

    watched: int
    """Answers to watchers and followers, and events of subscriptions, that were checked."""

    lapsed: int
    """Sessions that ended because nobody renewed them: none early or late by any host's clock."""

    deaths: int
    damages: int
    noticed: int
    repaired: int
    virtual_s: float
    fired: dict[str, int]
    begun: dict[str, int]
    table: Table
    damage: dict[str, int] = {}
    """How the damages of disks ended, see `damage.py`."""

    invalid: str = ""


class Run:
    """A cluster of 3 or 5 with its clients and its faults, all drawn from one seed."""

    node_type: type[Node] = Node

    def __init__(self, seed: int, directory: Path, vfs: LossyVfs, aim: Aim = AS_DRAWN) -> None:
        self.seed = seed
        self.world = World(seed)
        self.random = self.world.random
        self.plan = plan = aim.at(draw(self.random, list(FAULTS), list(CHORES)))
        self.coverage = Coverage(self.world)
        self.strike = self.coverage.strike
        self.network = Network(self.world, plan.weather, self.strike)
        self.nodes: list[Node] = []
        self.invariants = Invariants(self.nodes)
        servers = [
            self._make(number, directory / f"srv{number}", vfs)
            for number in range(1, plan.servers + plan.spares + 1)
        ]
        self.nodes += servers[: plan.servers]
        self.spares = servers[plan.servers :]
        by_id = {node.member.id: node for node in self.nodes}
        for node in servers:
            node.nodes = by_id
            node.stage = self._on_stage
            node.told_restore = self._on_restore
        self.ledger = Ledger(self.world)
        for node in servers:
            node.disk.damaged = partial(self.ledger.note, node)
        self.atlas = Atlas(world=self.world, nodes=self.nodes, truth=self.invariants)
        self.atlas.most = plan.damaged
        self.kv = KvFamily(self.world, plan.keys)
        self.operator = OperatorFamily(self.world, self.atlas, plan, directory)
        ordinary = self._ordinary()
        self.families = [*ordinary, self.operator]
        self.clients = [self._client(n, plan.think_us, [*ordinary]) for n in range(plan.clients)]
        if plan.chores:
            self.clients += [
                self._client(plan.clients + n, CHORE_US, [self.operator]) for n in range(OPERATORS)
            ]
        self.actors = [actor for family in self.families for actor in family.actors(self.nodes)]
        self.armed: dict[str, str] = {}
        self.old_metas: dict[str, list[bytes]] = {}
        self.calm = False
        self._overs: dict[int, Callable[[], None]] = {}
        self._next_over = 0
        self.core: list[Node] = self.nodes
        self.invariants.effect = self._effect
        self.world.after_event = self.invariants.after_event  # type: ignore[assignment]

    def _ordinary(self) -> list[Family]:
        """What clients do; a campaign with an aim of its own has its own."""
        return every(self.world, self.kv, lambda: self.invariants.time_ms)

    def _make(self, number: int, directory: Path, vfs: LossyVfs) -> Node:
        plan, founds = self.plan, number <= self.plan.servers
        config = plan.server if founds else msgspec.structs.replace(plan.server, bootstrap_expect=0)
        return self.node_type(
            world=self.world,
            network=self.network,
            number=number,
            count=plan.servers,
            directory=directory,
            vfs=vfs,
            observe=self.invariants.observe,
            said=self.invariants.said,
            config=config,
            fired=self.strike,
            raft=plan.raft,
            segment_bytes=plan.segment_bytes,
            founds=founds,
            scrub_rest_us=plan.scrub_rest_us,
        )

    def _client(self, number: int, think_us: int, families: list[Draws]) -> Client:
        return Client(
            world=self.world,
            nodes=self.nodes,
            number=number,
            think_us=think_us,
            families=families,
            coverage=self.coverage,
        )

    def go(self) -> Result:
        with told_at_once(self.plan.told):
            return self._go()

    def _go(self) -> Result:
        for node in self.nodes:
            self.world.at(self.random.randrange(300_000), f"{node.name} start", node.start)
        for actor in [*self.clients, *self.actors]:
            self.world.at(self.random.randrange(SECOND_US), "actor starts", actor.start)
        self._begin_weather()
        self.atlas.start()
        self._keep_metas()
        self.world.at(self.random.randrange(4 * SECOND_US), "faults begin", self._next_fault)
        self.world.run(FAULTY_S * SECOND_US)
        self._calm()
        return self._judge()

    # -- Scene: what the faults use --------------------------------------------------------------------

    def leader(self) -> Node | None:
        leaders = [n for n in self.nodes if n.server is not None and n.server.leads]
        return self.random.choice(leaders) if leaders else None

    def may_crash(self, node: Node) -> bool:
        return node.up and not node.forgetful and node.disk.bent is None

    def crash(self, node: Node, fault: str, away_us: int, *, keep_pages: bool = False) -> None:
        if keep_pages:
            node.kill()
        else:
            node.crash()
        node.start_in(away_us)
        self.last(fault, (away_us, away_us + 1), lambda: None)

    def wipe(self, node: Node, id: str, fault: str) -> None:
        self.invariants.wiped(node)
        node.wipe(id)
        self.atlas.wiped(node, fault)
        self.old_metas = {path: old for path, old in self.old_metas.items() if not node.owns(path)}

    def last(
        self, fault: str, us: tuple[int, int], over: Callable[[], object], *, counted: bool = True
    ) -> None:
        if counted:
            self.strike(fault)
        self.coverage.last(fault)
        self._next_over += 1
        number = self._next_over

        def end() -> None:
            if self._overs.pop(number, None) is not None:
                self.coverage.over(fault)
                over()

        self._overs[number] = end
        self.world.at(self.random.randrange(*us), f"{fault} is over", end)

    # -- phase one ---------------------------------------------------------------------------------

    def _begin_weather(self) -> None:
        weather = self.plan.weather
        rates = {"loss": weather.loss, "duplicate": weather.duplicate, "delay": weather.slow}
        rates["reorder"] = weather.delay_max_us // WIDE_US
        for name, rate in rates.items():
            if rate:
                self.coverage.last(name)

    def _next_fault(self) -> None:
        if self.calm:
            return
        name = self.random.choice(self.plan.faults)
        FAULTS[name](self)
        self.world.at(self.random.randrange(200_000, self.plan.pause_us), f"after {name}", self._next_fault)

    def _on_restore(self, node: Node, place: Placement, blob: Blob) -> None:
        is_first = place.applied_index not in self.invariants.restores
        if is_first and blob.sha256 in self.invariants.origins:
            self.strike("restore-from-elsewhere")
        self.invariants.restored(node, place, blob)

    def _on_stage(self, node: Node, stage: str, us: int) -> None:
        fault = self.armed.get(stage)
        if fault is None or self.calm:
            return
        del self.armed[stage]
        life = node.life

        def strike() -> None:
            if node.life == life and self.may_crash(node):
                self.crash(node, fault, self.random.randrange(50_000, 2_000_000))

        self.world.at(self.random.randrange(2 * us + 1), f"{node.name} {fault}", strike)

    def _keep_metas(self) -> None:
        for node in self.nodes:
            for name in ("meta-a", "meta-b"):
                path = f"{node.directory}/{name}"
                inode = node.lossy.find(path)
                if inode is not None and inode.durable:
                    known = self.old_metas.setdefault(path, [])
                    known += [bytes(inode.durable)] if bytes(inode.durable) not in known else []
        self.world.at(3 * SECOND_US, "vote files are copied", self._keep_metas)

    def _effect(self, index: int, command: object, result: object) -> None:
        for family in self.families:
            family.effect(index, command, result)  # type: ignore[arg-type]

    # -- phase two ---------------------------------------------------------------------------------

    def _calm(self) -> None:
        """Heal a majority: it must make progress now, and come to one state."""
        self.calm = self.operator.calm = True
        self.armed.clear()
        self.network.heal()
        self.network.weather = CALM
        for end in list(self._overs.values()):
            end()
        for node in self.nodes:
            node.disk.mend()
            node.clock.turn(1.0)
            node.resume()
        for client in self.clients:
            client.roomy_us = self.world.now_us + ROOM_AGAIN_US
        self._choose_core()
        before = self._seen()
        self.world.run((FAULTY_S + CALM_S) * SECOND_US)
        if self._seen() - before < MIN_PROGRESS:
            raise Violation(f"no progress after healing: {self._seen() - before} operations")
        calm_s = CALM_S
        while self._seen() < ENOUGH_OPERATIONS and calm_s < LONG_CALM_S:
            calm_s += 1  # faults that took the quorum for most of the time left few operations
            self.world.run((FAULTY_S + calm_s) * SECOND_US)
        for client in self.clients:
            client.stopped = True
        self.kv.due = self.invariants.newest
        self.world.run((FAULTY_S + calm_s + LAST_LOOK_S) * SECOND_US)
        for actor in self.actors:
            actor.stopped = True
        self.world.run((FAULTY_S + calm_s + DRAIN_S) * SECOND_US)

    def _choose_core(self) -> None:
        """All that can run, or a bare majority of the voters; whose disk was damaged needs all the others.

        No bare majority while a server may be about to vote: with it the majority is another.
        """
        able = [node for node in self.nodes if not node.gone]
        damaged = any(n.name in self.atlas.cases or n.repairing for n in able)
        self.core = able
        sets = self.invariants.sets()
        settled = len(sets) == 1 and len(sets[0]) == len(able) and not self.invariants.void
        if settled and not damaged and len(able) == len(self.nodes) and self.random.random() < 0.5:
            voters = [node for node in able if node.member.id in sets[0]]
            self.core = self.random.sample(voters, len(voters) // 2 + 1)
        names = [node.name for node in self.core]
        for node in self.nodes:
            if node in self.core:
                if not node.up:
                    node.start_in(self.random.randrange(SECOND_US))
            elif self.random.random() < 0.5 and self.may_crash(node):
                node.gone = True
                node.crash()
            else:
                node.gone = not node.up
                self.network.partition([[node.name], names], one_way=False)
        for actor in [*self.clients, *self.actors]:
            actor.nodes = [node for node in self.core if self._may_serve(node)]
            actor.in_calm = True
        self.world.tell(f"calm: {', '.join(names)} are to make progress")

    def _may_serve(self, node: Node) -> bool:
        return node.member.id not in self.invariants.void

    def _seen(self) -> int:
        return sum(len(family.history) for family in self.families)

    # -- the verdict -------------------------------------------------------------------------------

    def _judge(self) -> Result:
        check_real_time([seen for family in self.families for seen in family.history])
        operations = sum(family.check() for family in self.families)
        # Chance of its own: what is looked at changes nothing of the run.
        self._sample = self.kv.check_black_box(Random(self.seed), self.operator.restores())
        self._watched = self.kv.check_watches() + sum(getattr(f, "heard", 0) for f in self.families)
        # A wiped voter stays out for as long as its old id has a vote; and whose disk failed it in the calm,
        # by what was done to it before, may have lost what nobody can tell.
        self.core = [node for node in self.core if self._may_serve(node) and not node.gone]
        self._settle()
        self.invariants.after_event(None)
        self._check_one_state()
        for node in self.core:
            self._check_whole(node)
        if rotten := self.atlas.rotten([node for node in self.core if node.up]):
            raise Violation(f"damage that no scrubber found: {', '.join(rotten)}")
        result = self._result(operations)
        result.damage = self.ledger.close(self.invariants)
        return result

    def _settle(self) -> None:
        """The leader's clock ticks on: look at a moment when everybody has applied the same."""
        for _ in range(400):
            if len({n.opened.state.applied_index for n in self.core if n.opened is not None}) == 1:
                return
            self.world.run(self.world.now_us + 5_000)

    def _check_one_state(self) -> None:
        states = {
            n.name: (n.opened.state.applied_index, n.opened.state.state_hash.hex())
            if n.opened is not None
            else "down: " + " | ".join([*n.deaths, *n.notes][-2:])
            for n in self.core
        }
        if len(set(states.values())) != 1:
            raise Violation(f"the servers ended in different states: {states}")

    def _check_whole(self, node: Node) -> None:
        """Every row fits the state hash, and every entry of the log is the one that was committed."""
        assert node.opened is not None
        if node.opened.raft.repairing:
            raise Violation(f"{node.name} is still repairing")
        node.opened.state.settle()
        node.opened.state.verify()
        self.invariants.check_whole(node.name, node.opened)

    def _result(self, operations: int) -> Result:
        kinds, virtual_s = len(self.coverage.begun), self.world.now_us / SECOND_US
        invalid = ""
        if operations < MIN_OPERATIONS or kinds < MIN_KINDS or virtual_s < 60:
            invalid = f"{operations} operations of {kinds} kinds in {virtual_s:.0f} s prove too little"
        return Result(
            seed=self.seed,
            digest=self.world.digest(),
            events=self.world.events,
            operations=operations,
            unknown=sum(c.unknown for c in self.clients),
            failed=sum(c.failed for c in self.clients),
            terms=max(n.opened.raft.term for n in self.nodes if n.opened is not None),
            installs=sum(n.installs for n in self.nodes),
            lists=sum(n.lists for n in self.nodes),
            snapshots=sum(n.snapshots for n in self.nodes),
            checkpoints=sum(n.checkpoints for n in self.nodes),
            wakes=sum(getattr(actor, "wakes", 0) for actor in self.actors),
            deaths=sum(len(n.deaths) for n in self.nodes),
            black_box=self._sample.operations,
            keys=self._sample.keys,
            undecided=len(self._sample.undecided),
            watched=self._watched,
            lapsed=sum(getattr(family, "lapsed", 0) for family in self.families),
            damages=self.atlas.damages,
            noticed=self.atlas.noticed,
            repaired=self.atlas.repaired,
            virtual_s=virtual_s,
            fired=self.coverage.fired,
            begun=self.coverage.begun,
            table=self.coverage.table,
            invalid=invalid,
        )

    def close(self) -> None:
        for node in [*self.nodes, *self.spares]:
            if node.up:
                node.crash()
            node.detach()
        self.world.forget()


def run_seed(
    seed: int,
    vfs: LossyVfs,
    *,
    trace: bool = False,
    aim: Aim = AS_DRAWN,
    make: Callable[[int, Path, LossyVfs, Aim], Run] = Run,
) -> Result:
    """Run one seed in a directory of its own. Raises Violation."""
    base = "/dev/shm" if Path("/dev/shm").is_dir() else None
    directory = Path(tempfile.mkdtemp(prefix="gemot-sim-", dir=base))
    # Each run leaves cycles: looking for them seldom, and between runs, is cheaper than all the time, and
    # cheaper still where what was there before the first of them is not looked at.
    thresholds = gc.get_threshold()
    gc.set_threshold(SELDOM)
    gc.freeze()
    run = make(seed, directory, vfs, aim)
    if trace:
        run.world.trace = print
        print(f"seed {seed}: {run.plan}")
    try:
        return run.go()
    finally:
        run.close()
        del run
        gc.set_threshold(*thresholds)
        gc.collect()
        gc.collect()  # tasks that were under way come back for once, to be closed
        gc.unfreeze()
        shutil.rmtree(directory, ignore_errors=True)


if __name__ == "__main__":
    from simulation.campaign import main

    sys.exit(main())
