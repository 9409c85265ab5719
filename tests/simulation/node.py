"""One simulated server: the real replica, reads, writes and storage, on virtual time, network and disk.

A crash first fences every handle (nothing of the dead process can act any more), then drops what was not
synced; a start opens the same directory again, as the real process does. A server whose disk fails it stops
itself (exit code 74) and is started again a while later, as systemd does.
"""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import msgspec
from simulation.archives import SimulatedArchives
from simulation.clock import Clock, SimulatedTimer
from simulation.connections import Connections
from simulation.disk import MEMORY_ONLY, DiskFaults, SimulatedLog, SimulatedSpace
from simulation.joining import seek
from simulation.network import Network
from simulation.scrubbing import SimulatedScrubber
from simulation.upkeep import SimulatedReader, SimulatedUpkeep
from simulation.world import World
from support.lossy_disk import Fenced, LossyDisk
from support.lossy_vfs import LossyVfs

from gemot.server.config import ServerConfig
from gemot.server.machine import Machine, Outcome
from gemot.server.model.errors import GemotError, OutcomeUnknown, StorageFailed, Unavailable
from gemot.server.model.restore import Blob
from gemot.server.raft.types import Batch, Entry, Message, RaftConfig
from gemot.server.recovery import DataConfig, Opened, open_data
from gemot.server.rpc.message import Apply, Call, Forward, Member
from gemot.server.server import Server
from gemot.server.state.permission import ALLOW_ALL
from gemot.server.state.restore import Placement

TICK_US = 50_000
ASK_US = 300
RESTART_US = (500_000, 2_000_000)
BROKEN_US = 600_000
"""How long after a lost call or reply its caller learns that the connection broke."""

Observe = Callable[["Node", Entry, Outcome], None]


def wal_limit(config: ServerConfig) -> int:
    """By default it is so many checkpoints; at a quarter of it the state's log begins anew by itself."""
    return 16 * config.checkpoint_wal_bytes


class _Observed(Machine):
    """The real machine, watched: what was applied where, with which outcome."""

    def observe(self, node: Node, told: Observe) -> None:
        self._node, self._told = node, told

    def apply_ahead(self, entries: Any) -> list[Outcome]:
        outcomes = super().apply_ahead(entries)
        for entry, outcome in zip(entries, outcomes, strict=False):  # it ends before a restore
            self._told(self._node, entry, outcome)
        return outcomes


class Node:
    """A server that can be started, crashed, paused and started again on the same directory."""

    wal_limit = staticmethod(wal_limit)
    log_type: type[SimulatedLog] = SimulatedLog
    upkeep_type: type[SimulatedUpkeep] = SimulatedUpkeep
    archives_type: type[SimulatedArchives] = SimulatedArchives

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
        fired: Callable[[str], None] = lambda _: None,
        raft: RaftConfig | None = None,
        segment_bytes: int = 8 << 10,
        founds: bool = True,
        scrub_rest_us: int = 0,
    ) -> None:
        self.world = world
        self.network = network
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
        self.founds = founds
        """It is one of those that found the cluster, and not one that joins it."""

        self.directory = directory
        self._vfs = vfs
        directory.mkdir(parents=True)
        self.lossy = vfs.attach(str(directory), LossyDisk(str(directory), only_memory=MEMORY_ONLY))
        self.disk = DiskFaults(world, fired)
        self._observe = observe
        self._said = said
        self.fired = fired
        self._config = config
        self._raft = raft or RaftConfig()
        self._segment_bytes = segment_bytes
        self.nodes: dict[str, Node] = {}
        """All there are, by id; the same dictionary for all of them."""

        self.voters: tuple[str, ...] = ()
        """Who voted by its log when it ended last."""

        self.connections = Connections(world)
        self.promised: dict[int, int] = {}
        """The terms of the entries that were durable before its log was damaged."""

        self.life = 0
        self.server: Server | None = None
        self.opened: Opened | None = None
        self.clock = Clock(world)
        self.held: list[tuple[str, Callable[[], None]]] | None = None
        self.log: SimulatedLog | None = None
        self.durable_terms: dict[int, int] = {}
        self._durable_last = 0
        self.marked_us = 0
        """When the vote file last learnt up to where the log is durable."""

        self.gone = False
        """It stays down: nothing starts it again."""

        self.notes: list[str] = []
        self.deaths: list[str] = []
        self.said_of_disk: list[tuple[int, str]] = []
        """Notes and deaths, with their time."""

        self.calls: dict[int, tuple[str, Callable[[], None]]] = {}
        self._next_call = 0
        self.stage: Callable[[Node, str, int], None] = lambda _node, _stage, _us: None
        """Told of each piece of long work that begins, and how long it will take."""

        self._scrub_rest_us = scrub_rest_us
        self.scrubs = 0
        self.beyond_repair = False
        """Its scrubber found a damaged state that cannot be built again here: somebody is to be told."""

        self.told_restore: Callable[[Node, Placement, Blob], None] = lambda _node, _place, _blob: None
        """Told of each restore that this server comes to in its log."""

        self.restores = 0
        self.installs = 0
        self.lists = 0
        self.snapshots = 0
        self.checkpoints = 0
        self.served: int | None = None
        """The index of the state of which a long list is being told at this moment."""

        self.replacing = False
        self._repairing = False
        self._whole = True
        self._belongs = False

    # -- life --------------------------------------------------------------------------------------

    @property
    def up(self) -> bool:
        return self.server is not None

    @property
    def paused(self) -> bool:
        return self.held is not None

    @property
    def belongs(self) -> bool:
        """Does its vote file, when it was looked at last, name the cluster?"""
        if self.log is not None:
            self._belongs = bool(self.log.cluster())
        return self._belongs

    @property
    def repairing(self) -> bool:
        """Does its vote file say, or did it when the process ended, that its log is not whole?"""
        if self.opened is not None:
            self._whole = not self.opened.durable.meta.meta.repairing
        return not self._whole

    @property
    def forgetful(self) -> bool:
        """Its disk lost a synced write, and its vote file does not say yet that there was one.

        A crash now would go unnoticed (`storage/tail.py` names this limit); so it gets none.
        """
        return self.marked_us <= self.disk.bent_us

    def start(self) -> None:
        """Open the directory and begin. What the disk does to it meanwhile ends it, and it is tried again."""
        self.life += 1
        self.replacing = False
        self.disk.attach(self.lossy)
        try:
            self._start()
        except (StorageFailed, Fenced) as error:
            self.died(error)

    def open(self) -> Opened:
        """Read what is on its disk, as a start does."""
        self._random = Random(self.world.random.getrandbits(64))
        opened = open_data(
            disk=self.lossy,
            config=DataConfig(
                directory=str(self.directory),
                segment_bytes=self._segment_bytes,
                raft=self._raft,
                wal_limit_bytes=self.wal_limit(self._config),
            ),
            node_id=self.member.id,
            random=self._random,
            authorizer=ALLOW_ALL,
        )
        self.say_of_disk(*opened.notes)
        return opened

    def say_of_disk(self, *sentences: str) -> None:
        self.said_of_disk += [(self.world.now_us, sentence) for sentence in sentences]

    def _start(self) -> None:
        opened = self.opened = self.open()
        self._repairing = opened.raft.repairing
        self.notes += opened.notes
        for note in opened.notes:
            self.world.tell(f"{self.name}: {note}")
        machine = _Observed(state=opened.state, authorizer=ALLOW_ALL)
        machine.observe(self, self._observe)
        self.log = self.log_type(self.world, self, opened)
        upkeep = self.upkeep_type(self.world, self, opened)
        self.server = Server(
            me=self.member,
            config=self._config,
            raft=opened.raft,
            log=self.log,
            state=opened.state,
            machine=machine,
            identity=self.log,
            upkeep=upkeep,
            peers=self,
            timer=SimulatedTimer(self.world, self),
            random=self._random,
            reader=SimulatedReader(self.world, self, opened),
            disk_space=SimulatedSpace(self.disk, opened),
            archives=self.archives_type(self, opened, upkeep),
        )
        for other in self.nodes.values():
            self.server.directory.hint(other.member)
            if other is not self and self.founds and other.founds:
                self.server.bootstrap.found(other.member, self._count, "")
        self.look_at_log()
        self.server.start()
        self._schedule_tick()
        if self._scrub_rest_us:
            SimulatedScrubber(self.world, self, opened, self._scrub_rest_us).start()
        if not self.founds:
            seek(self)

    def crash(self) -> None:
        """Lose the power: fence first, then lose what was not synced."""
        before = self.lossy
        self._end(lambda: self._vfs.crash(str(self.directory), self.world.random))
        for count, name in ((before.lost, "unsynced-lost"), (before.torn, "torn-write")):
            if count:
                self.fired(name)

    def kill(self) -> None:
        """End the process and not the host: its unsynced bytes are still in the page cache."""
        self._end(lambda: self._vfs.attach(str(self.directory), self.lossy.kill()))

    def died(self, error: Exception) -> None:
        """The disk failed it: the process stops itself, and is started again a while later."""
        if self.forgetful:
            # Nobody could tell what it has lost: it is not started again.
            self.gone = True
        if self.disk.power_lost:
            self.crash()
        else:
            self.deaths.append(str(error))
            self.say_of_disk(str(error))
            self.world.tell(f"{self.name} stops: {error}")
            if self.world.random.random() < 0.5:
                self.kill()
            else:
                self.crash()
        self.start_in(self.world.random.randrange(*RESTART_US))

    def start_in(self, delay_us: int) -> None:
        """Start it then, unless it runs or was started and ended again by then."""
        life = self.life

        def start() -> None:
            if self.life == life and not self.up and not self.gone:
                self.start()

        self.world.at(delay_us, f"{self.name} restart", start)

    def _end(self, take_disk: Callable[[], LossyDisk]) -> None:
        self.life += 1
        self.server = self.log = None
        self.held = None
        self.calls.clear()
        self.connections.clear()
        self.disk.power_lost, self.disk.cut_in = False, None
        if not self.repairing:
            self.promised = self.durable_terms
        self.belongs  # noqa: B018 - looked at for the last time
        opened, self.opened = self.opened, None
        if opened is not None:
            self.voters = opened.raft.voters
        self.lossy = take_disk()
        if opened is not None:
            # What is left of the dead process's connections; they can write nothing any more.
            with contextlib.suppress(GemotError):
                opened.file.close()

    def wipe(self, id: str) -> None:
        """Its disk is gone, and with it all it promised: it comes back empty, under this id, and joins."""
        assert not self.up, "a disk is changed while the host is off"
        self.lossy.discard()
        self._vfs.detach(str(self.directory))
        shutil.rmtree(self.directory)
        self.directory.mkdir()
        self.lossy = self._vfs.attach(
            str(self.directory), LossyDisk(str(self.directory), only_memory=MEMORY_ONLY)
        )
        self.disk.mend()
        self.disk.bent_us = -1
        self.founds, self.voters, self._whole = False, (), True
        self.durable_terms, self.promised, self._durable_last = {}, {}, 0
        del self.nodes[self.member.id]
        self.member = msgspec.structs.replace(self.member, id=id)
        self.nodes[id] = self

    def owns(self, path: str) -> bool:
        """Is this a path of its data directory?"""
        return path.startswith(f"{self.directory}/")

    def detach(self) -> None:
        """The run is over: give the directory back."""
        self._vfs.detach(str(self.directory))

    def pause(self) -> None:
        """As SIGSTOP does: nothing of it happens until `resume`, while time goes on."""
        if self.up and self.held is None:
            self.held = []

    def resume(self) -> None:
        if self.held is not None:
            self.world.resume(self)

    def ask(self, label: str, action: Callable[[Server], None]) -> None:
        """What a client next to this server asks of it, a moment later."""
        life = self.life

        def act() -> None:
            if self.life == life and self.server is not None:
                action(self.server)

        self.world.at(self.world.random.randrange(ASK_US), label, act, self)

    def later(
        self, delay_us: int, label: str, action: Callable[[], None], life: int = 0
    ) -> Callable[[], None]:
        """An event of this process (or of that life): it does not come if the process is over by then."""
        life = life or self.life
        return self.world.at(delay_us, label, lambda: action() if self.life == life else None, self)

    # -- what its log would hold after a crash now -----------------------------------------------------

    def look_at_log(self) -> None:
        assert self.opened is not None
        log = self.opened.durable.log
        self.durable_terms = {i: log.term(i) or 0 for i in range(max(log.first_index, 1), log.last_index + 1)}
        self._durable_last = log.last_index

    def note_durable(self, batch: Batch) -> None:
        """This batch was synced: it stands, and nothing that it replaced or that stood behind it."""
        terms = self.durable_terms
        for index in range(batch.first, self._durable_last + 1):
            terms.pop(index, None)
        for entry in batch.entries:
            terms[entry.index] = entry.term
        self._durable_last = batch.last

    # -- ticks -------------------------------------------------------------------------------------

    def _schedule_tick(self) -> None:
        jitter = self.world.random.randrange(TICK_US // 10)
        self.later(self.clock.real_us(TICK_US) + jitter, f"{self.name} tick", self._tick)

    def _tick(self) -> None:
        assert self.server is not None
        assert self.opened is not None
        assert self.log is not None
        self._schedule_tick()
        self.connections.hang_up(self.server)
        self.server.on_tick()
        if self._repairing and not self.opened.raft.repairing:
            self._repairing = False
            self.log.repaired()

    # -- Peers -------------------------------------------------------------------------------------

    def send(self, to: str, message: Message) -> None:
        target = self.nodes.get(to)
        if target is None or self.server is None:
            return
        self._said(self, to, message)
        cluster, member = self.server.endpoint.hello().cluster, self.member
        label = f"{type(message).__name__} {message.term}"

        def deliver() -> None:
            if target.server is not None:
                target.hear(self, member)
                target.server.endpoint.on_raft(member, cluster, message)

        self.network.send(self.name, target.name, label, deliver, target, message)

    def call(self, to: Member, call: Call, done: Callable[[Any], None]) -> None:
        target, life, member = self.nodes.get(to.id), self.life, self.member
        if target is None:
            self._find_another(to, done)
            return
        self._next_call += 1
        number = self._next_call

        def answer(result: Any) -> None:
            if self.life == life and self.calls.pop(number, None) is not None:
                call_off()
                done(result)

        def broke() -> None:
            write = isinstance(call, Apply | Forward)
            answer(OutcomeUnknown("broke") if write else Unavailable("broke"))

        def reply(result: Any) -> None:
            self.network.send(
                target.name, self.name, "reply", lambda: answer(result), self, result, once=True
            )

        def deliver() -> None:
            if target.server is not None:
                target.hear(self, member)
                target.server.endpoint.handle(member, call, reply)

        self.calls[number] = (target.name, broke)
        self.network.send(self.name, target.name, type(call).__name__, deliver, target, call, once=True)
        call_off = self.later(BROKEN_US, f"{self.name} call broke", broke)

    def hear(self, sender: Node, member: Member) -> None:
        """A connection of it brings something."""
        if self.server is not None and sender.member is member:
            self.connections.heard(self.server, sender.life, member)

    def _find_another(self, to: Member, done: Callable[[Any], None]) -> None:
        """Nobody has this id any more; whoever answers at its address says another one."""
        assert self.server is not None
        for node in self.nodes.values():
            if node.member.rpc == to.rpc and node.up:
                self.server.directory.learn(node.member)
        self.later(ASK_US, f"{self.name} call broke", lambda: done(Unavailable(f"{to.rpc} is another")))

    def unreached(self, id: str) -> str:
        node = self.nodes.get(id)
        if node is None:
            return f"{id} is no more"
        return "" if node.server is not None else f"{node.member.rpc} is down"

    def greet_again(self) -> None:
        """The virtual network asks for the cluster with each message."""
