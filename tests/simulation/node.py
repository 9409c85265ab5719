"""One simulated server: the real replica, reads, writes and storage, on virtual time, network and disk.

A crash first fences every handle (nothing of the dead process can act any more), then drops what was not
synced; a start opens the same directory again, as the real process does.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

from simulation.network import Network
from simulation.world import World
from support.lossy_vfs import LossyVfs

from gemot.server.copies import Incoming, chunk_of, write_snapshot
from gemot.server.machine import Machine, Outcome
from gemot.server.model.errors import GemotError, OutcomeUnknown, Unavailable
from gemot.server.model.query import Query
from gemot.server.pace import SLICE_US
from gemot.server.ports import Inbox
from gemot.server.raft.types import Batch, Entry, HardState, Message, RaftConfig, SnapshotMeta
from gemot.server.recovery import DataConfig, Opened, open_data
from gemot.server.rpc.message import Apply, Call, Forward, Member, SnapshotChunk
from gemot.server.server import Server, ServerConfig
from gemot.server.state.permission import ALLOW_ALL
from gemot.server.state.store import Found
from gemot.server.storage.durable import Save, Step

TICK_US = 50_000
SYNC_MIN_US = 100
SYNC_MAX_US = 3_000
PREPARE_MAX_US = 200_000
LIST_US = 40_000
WORK_US = 400_000
BROKEN_US = 600_000
"""How long after a lost call or reply its caller learns that the connection broke."""

Observe = Callable[["Node", Entry, Outcome], None]


class Fenced(Exception):
    """A dead process tried to act."""


class _Timer:
    """Virtual time as the `Timer` port; dead with its process."""

    def __init__(self, world: World, node: Node) -> None:
        self._world = world
        self._node = node
        self._life = node.life
        self._stopwatch_us = 0

    def call_after(self, delay_ms: int, callback: Callable[[], None]) -> Callable[[], None]:
        return self._world.at(delay_ms * 1000, f"{self._node.name} timer", self._alive(callback))

    def call_soon(self, callback: Callable[[], None]) -> None:
        self._world.soon(self._alive(callback))

    def now_ms(self) -> int:
        return self._world.now_us // 1000

    def stopwatch_us(self) -> int:
        """Each server is quick or slow at its work by chance, so their slices differ."""
        self._stopwatch_us += self._world.random.randrange(2 * SLICE_US)
        return self._stopwatch_us

    def _alive(self, callback: Callable[[], None]) -> Callable[[], None]:
        return lambda: callback() if self._node.life == self._life else None


class _Disk:
    """The `Log` and `Identity` ports: saves take virtual time, and gather while one is under way."""

    def __init__(self, world: World, node: Node, opened: Opened) -> None:
        self._world = world
        self._node = node
        self._life = node.life
        self._durable = opened.durable
        self._queue: list[Save | Step] = []
        self._busy = False
        self._preparing = False
        self._cluster = opened.durable.meta.meta.cluster_id
        self._pledge = opened.durable.meta.meta.promised_cluster

    def save(self, hard_state: HardState | None, append: Batch | None, token: int) -> None:
        self._add(Save(hard_state, append, token))

    def term(self, index: int) -> int | None:
        return self._durable.log.term(index)

    def read(self, first: int, last: int, max_bytes: int) -> tuple[Entry, ...]:
        return self._durable.log.read(first, last, max_bytes)

    def compact(self, through: int) -> None:
        self._add(Step(lambda: self._durable.log.compact(through)))

    def reset(self, meta: SnapshotMeta, done: Callable[[], None]) -> None:
        self._add(Step(lambda: self._durable.reset(meta), done))

    def cluster(self) -> str:
        return self._cluster

    def adopt(self, cluster: str) -> None:
        self._cluster = cluster
        self._add(Step(lambda: self._durable.write_meta(cluster_id=cluster)))

    def pledge(self) -> bytes:
        return bytes.fromhex(self._pledge)

    def keep_pledge(self, pledge: bytes, done: Callable[[], None]) -> None:
        self._pledge = pledge.hex()
        self._add(Step(lambda: self._durable.write_meta(promised_cluster=pledge.hex()), done))

    def repaired(self) -> None:
        self._add(Step(lambda: self._durable.write_meta(repairing=False)))

    def _add(self, item: Save | Step) -> None:
        if self._node.life != self._life:
            raise Fenced(f"{self._node.name} writes after its death")
        self._queue.append(item)
        if not self._busy:
            self._busy = True
            self._world.soon(self._begin)

    def _begin(self) -> None:
        if self._node.life != self._life:
            return
        items, self._queue = self._queue, []
        saves = [item for item in items if isinstance(item, Save)]
        self._durable.append(saves)
        delay = self._world.random.randrange(SYNC_MIN_US, SYNC_MAX_US)
        self._world.at(delay, f"{self._node.name} sync", lambda: self._finish(items, saves))

    def _finish(self, items: list[Save | Step], saves: list[Save]) -> None:
        if self._node.life != self._life:
            return
        self._durable.sync()
        self._durable.keep_vote(saves)
        for item in items:
            if isinstance(item, Step):
                item.work()
                if item.done is not None:
                    self._world.soon(item.done)
        self._node.synced()
        if saves and self._node.server is not None:
            self._node.server.replica.on_saved(saves[-1].token)
        self._busy = bool(self._queue)
        if self._busy:
            self._world.soon(self._begin)
        if self._durable.log.wants_spare and not self._preparing:
            self._preparing = True
            delay = self._world.random.randrange(PREPARE_MAX_US)
            self._world.at(delay, f"{self._node.name} spare", self._prepare)

    def _prepare(self) -> None:
        if self._node.life != self._life:
            return
        spare = self._durable.log.make_spare()
        self._add(Step(lambda: self._durable.log.keep_spare(spare), self._prepared))

    def _prepared(self) -> None:
        self._preparing = False


class _Reader:
    """The `Reader` port: begins at a moment of its own, holds its transaction for a while, then answers."""

    def __init__(self, world: World, node: Node, opened: Opened) -> None:
        self._world = world
        self._node = node
        self._life = node.life
        self._opened = opened

    def submit(self, query: Query, accessor: str, done: Callable[[Found | GemotError], None]) -> None:
        self._opened.state.settle()
        committed, label = self._opened.state.applied_index, f"{self._node.name} list"

        def answer(found: Found) -> None:
            if self._node.life != self._life:
                return
            self._node.lists += 1
            self._node.served = found.applied_index
            done(found)
            self._node.served = None

        def read() -> None:
            if self._node.life != self._life:
                return
            assert not self._node.replacing, "the state file is read while it is replaced"
            with contextlib.closing(self._opened.file.reader()) as connection:
                found = self._opened.state.read_on(connection, query, accessor)
            assert found.applied_index >= committed, "what was committed before is seen"
            self._world.at(self._world.random.randrange(LIST_US), label, lambda: answer(found))

        self._world.at(self._world.random.randrange(LIST_US), label, read)


class _Inbox:
    """An incoming snapshot, verified somewhat later."""

    def __init__(self, node: Node, incoming: Incoming) -> None:
        self._node = node
        self._incoming = incoming
        self.write = incoming.write

    def finish(self, done: Callable[[GemotError | None], None]) -> None:
        def verify() -> None:
            refusal = self._incoming.finish()
            self._node.work("verified", lambda: done(refusal))

        self._node.work("verify", verify)


class _Observed(Machine):
    """The real machine, watched: what was applied where, with which outcome."""

    def observe(self, node: Node, told: Observe) -> None:
        self._node, self._told = node, told

    def apply_ahead(self, entries: Any) -> list[Outcome]:
        outcomes = super().apply_ahead(entries)
        for entry, outcome in zip(entries, outcomes, strict=True):
            self._told(self._node, entry, outcome)
        return outcomes


class Node:
    """A server that can be started, crashed and started again on the same directory."""

    def __init__(
        self,
        *,
        world: World,
        network: Network,
        number: int,
        count: int,
        directory: Path,
        vfs: LossyVfs,
        observe: Observe,
        said: Callable[[Node, str, Message], None],
        config: ServerConfig,
    ) -> None:
        self.world = world
        self._network = network
        self.number = number
        self.name = f"srv{number}"
        self.member = Member(
            id=f"0000000{number}-0000-4000-8000-000000000000",
            name=self.name,
            address=f"10.0.0.{number}",
            role="server",
            datacenter="dc1",
            build="sim",
            rpc=f"10.0.0.{number}:8300",
        )
        self._count = count
        self._directory = directory
        self._vfs = vfs
        directory.mkdir(parents=True)
        self._lossy = vfs.attach(str(directory))
        self._observe = observe
        self._said = said
        self._config = config
        self.nodes: dict[str, Node] = {}
        self.life = 0
        self.server: Server | None = None
        self.opened: Opened | None = None
        self._disk: _Disk | None = None
        self.durable_terms: dict[int, int] = {}
        self.notes: list[str] = []
        self.installs = 0
        self.lists = 0
        self.served: int | None = None
        """The applied index of which a long list is being told at this moment."""

        self.replacing = False

    # -- life --------------------------------------------------------------------------------------

    @property
    def up(self) -> bool:
        return self.server is not None

    def start(self) -> None:
        self.life += 1
        self.replacing = False
        self._random = Random(self.world.random.getrandbits(64))
        self.opened = opened = open_data(
            disk=self._lossy,
            config=DataConfig(
                directory=str(self._directory),
                segment_bytes=8 << 10,
                raft=RaftConfig(),
            ),
            node_id=self.member.id,
            random=self._random,
            authorizer=ALLOW_ALL,
        )
        self.notes += opened.notes
        machine = _Observed(state=opened.state, authorizer=ALLOW_ALL)
        machine.observe(self, self._observe)
        self._disk = _Disk(self.world, self, opened)
        self.server = Server(
            me=self.member,
            config=self._config,
            raft=opened.raft,
            log=self._disk,
            state=opened.state,
            machine=machine,
            identity=self._disk,
            upkeep=self,
            peers=self,
            timer=_Timer(self.world, self),
            random=self._random,
            reader=_Reader(self.world, self, opened),
        )
        for other in self.nodes.values():
            self.server.directory.hint(other.member)
            if other is not self:
                self.server.bootstrap.found(other.member, self._count, "")
        self.synced()
        self.server.start()
        self._schedule_tick(self.life)

    def crash(self) -> None:
        """End the process: fence first, then lose what was not synced."""
        self.life += 1
        self.server = None
        opened, self.opened, self._disk = self.opened, None, None
        self._lossy = self._vfs.crash(str(self._directory), self.world.random)
        if opened is not None:
            # What is left of the dead process's connections; they can write nothing any more.
            with contextlib.suppress(GemotError):
                opened.file.close()

    def detach(self) -> None:
        """The run is over: give the directory back."""
        self._vfs.detach(str(self._directory))

    def synced(self) -> None:
        """Note what this server's log would hold after a crash now."""
        assert self.opened is not None
        log = self.opened.durable.log
        start = max(self.durable_terms, default=0) - 256
        self.durable_terms = {
            index: term for index, term in self.durable_terms.items() if index <= log.last_index
        }
        for index in range(max(log.first_index, start, 1), log.last_index + 1):
            term = log.term(index)
            assert term is not None
            self.durable_terms[index] = term

    def _schedule_tick(self, life: int) -> None:
        jitter = self.world.random.randrange(TICK_US // 10)
        self.world.at(TICK_US + jitter, f"{self.name} tick", lambda: self._tick(life))

    def _tick(self, life: int) -> None:
        if self.life != life or self.server is None:
            return
        self._schedule_tick(life)
        repairing = self.server.stats()["raft"]["repairing"] == "true"
        self.server.on_tick()
        if repairing and self.opened is not None and not self.opened.raft.repairing and self._disk:
            self._disk.repaired()

    # -- Peers -------------------------------------------------------------------------------------

    def send(self, to: str, message: Message) -> None:
        target = self.nodes.get(to)
        if target is None or self.server is None:
            return
        self._said(self, to, message)
        cluster = self.server.hello().cluster
        label = f"{type(message).__name__} {message.term}"

        def deliver() -> None:
            if target.server is not None:
                target.server.on_raft(self.member, cluster, message)

        self._network.send(self.name, target.name, label, deliver)

    def call(self, to: Member, call: Call, done: Callable[[Any], None]) -> None:
        target, life = self.nodes[to.id], self.life
        answered = False

        def answer(result: Any) -> None:
            nonlocal answered
            if not answered and self.life == life:
                answered = True
                done(result)

        def broke() -> None:
            write = isinstance(call, Apply | Forward)
            answer(OutcomeUnknown("broke") if write else Unavailable("broke"))

        def reply(result: Any) -> None:
            self._network.send(target.name, self.name, "reply", lambda: answer(result))

        def deliver() -> None:
            if target.server is not None:
                target.server.handle(self.member, call, reply)

        self._network.send(self.name, target.name, type(call).__name__, deliver)
        self.world.at(BROKEN_US, f"{self.name} call broke", broke)

    def unreached(self, id: str) -> str:
        return "" if self.nodes[id].server is not None else f"{self.nodes[id].member.rpc} is down"

    def greet_again(self) -> None:
        """The virtual network asks for the cluster with each message."""

    # -- Upkeep ------------------------------------------------------------------------------------

    def take_snapshot(
        self, voters_at: Callable[[int], tuple[str, ...]], done: Callable[[SnapshotMeta], None]
    ) -> None:
        life = self.life

        def take() -> None:
            if self.life == life and self.opened is not None:
                opened, state = self.opened, self.opened.state
                done(write_snapshot(opened.file, opened.snapshots, self._lossy, voters_at, state.epoch))

        self.world.at(self.world.random.randrange(50_000), f"{self.name} snapshot", take)

    def checkpoint(self, done: Callable[[int], None]) -> None:
        life = self.life

        def run() -> None:
            if self.life == life and self.opened is not None:
                done(self.opened.file.checkpoint())

        self.world.at(self.world.random.randrange(20_000), f"{self.name} checkpoint", run)

    def newest_snapshot(self) -> SnapshotMeta | None:
        assert self.opened is not None
        return self.opened.snapshots.newest()

    def oldest_snapshot(self) -> SnapshotMeta | None:
        assert self.opened is not None
        return next(iter(self.opened.snapshots.all()), None)

    def read_chunk(self, index: int, term: int, offset: int) -> SnapshotChunk:
        assert self.opened is not None
        return chunk_of(self.opened.snapshots, index, term, offset)

    def inbox(self, meta: SnapshotMeta, first: SnapshotChunk) -> Inbox:
        assert self.opened is not None
        return _Inbox(self, Incoming(self.opened.snapshots, meta, first))

    def replace_state(self, meta: SnapshotMeta, done: Callable[[], None]) -> None:
        assert self.opened is not None
        opened = self.opened
        self.replacing = True
        # Who reads or writes the state before it is replaced fails, as it would at the worst of moments.
        opened.file.close()

        def replaced() -> None:
            self.installs += 1
            self.replacing = False
            opened.state.reload()
            done()

        def replace() -> None:
            opened.file.install(Path(opened.snapshots.path(meta)))
            self.work("replaced", replaced)

        self.work("replace", replace)

    def work(self, label: str, piece: Callable[[], None]) -> None:
        """The worker: one piece of its work, somewhat later, if the process still lives."""
        life = self.life
        delay = self.world.random.randrange(WORK_US)
        self.world.at(delay, f"{self.name} {label}", lambda: piece() if self.life == life else None)
