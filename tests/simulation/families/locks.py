"""Sessions and locks: holders that begin, renew, acquire, release and vanish; their model and checker.

What is checked, over the whole log:

- a lease ends no sooner than the fastest clock of all servers has run a lease since the holder sent the last
  renewal that was confirmed to it: so with true clocks never before its TTL;
- none that is not renewed is there at the end of the run, in calm;
- a key has one holder at a time: between two of them the first released it, or its session ended;
- each acquisition has a greater fence than every one before it, through deletes, restores and new epochs;
- a free key is refused for its lock delay alone.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable
from typing import Any

import msgspec
from simulation.clients import Client
from simulation.node import Node as Server
from simulation.witness import Seen, Violation
from simulation.world import World

from gemot.server.clock import LEAP_MS
from gemot.server.model.catalog import Node, Register
from gemot.server.model.command import Command
from gemot.server.model.kv import KvDelete, KvSet
from gemot.server.model.query import Applied
from gemot.server.model.restore import Restore
from gemot.server.model.session import (
    CreateSession,
    DestroySession,
    EndLeases,
    RenewSession,
    Session,
)
from gemot.server.state.locks import FENCE_BITS
from gemot.server.state.session import DUE_SHARE

HOST = "lockhost"
KEYS = 3
LOOK_US = 20_000
"""How often clocks are compared."""

LATE_US = 2_500_000
"""By how much more than 1.5 TTL a lease may be late: an election."""


class LockFamily:
    """Each client has one session at a time, which it takes for its own for as long as it is told so."""

    operations = (("session", 0.3), ("renew", 1.0), ("acquire", 1.2), ("release", 0.4), ("unlock", 0.2))

    def __init__(self, world: World) -> None:
        self._world = world
        self._sequence = 0
        self._host_known = False
        self._sessions: dict[int, Session] = {}
        self._told: dict[int, tuple[Command, bool | int]] = {}
        """By index: what was asked there, and the answer that its client got."""

        self._sent: dict[int, int] = {}
        """When the client sent what was answered with that index."""

        self._effects: list[tuple[int, int, Any, bool | int]] = []
        self.clocks = FastestClock(world)
        self.history: list[Seen] = []

    def actors(self, nodes: list[Server]) -> list[Any]:
        self.clocks.hosts = nodes
        return [self.clocks]

    # -- the client --------------------------------------------------------------------------------

    def act(self, client: Client, node: Server, operation: str) -> None:
        random = self._world.random
        session = self._sessions.get(client.number)
        if not self._host_known:
            client.write(node, Register(Node(HOST, "10.2.0.1")), self._registered, refused=lambda: None)
        elif session is None or operation == "session":
            self._begin(client, node, session)
        elif operation == "renew":
            self._ask(client, node, RenewSession(session.id), lambda lives: self._renewed(client, lives))
        else:
            key = b"lock/%d" % random.randrange(KEYS)
            self._sequence += 1
            value = b"held %d" % self._sequence
            if operation == "acquire":
                # Now and then by one of long ago, that should have ended.
                id = f"session-{random.randrange(1, self._sequence)}" if random.random() < 0.2 else session.id
                self._ask(client, node, KvSet(key, value, acquire=id))
            elif operation == "release":
                self._ask(client, node, KvSet(key, value, release=session.id))
            else:
                self._ask(client, node, KvDelete(key))

    def _registered(self, _result: Applied) -> None:
        self._host_known = True

    def _begin(self, client: Client, node: Server, before: Session | None) -> None:
        """The session before is destroyed, or left to itself."""
        random = self._world.random
        self._sessions.pop(client.number, None)
        if before is not None and random.random() < 0.5:
            self._ask(client, node, DestroySession(before.id))
            return
        self._sequence += 1
        session = Session(
            f"session-{self._sequence}",
            HOST,
            ttl_ms=random.choice([1_000, 2_000, 4_000]),
            lock_delay_ns=random.choice([0, 1, 3]) * 500_000_000,
            behavior=random.choice(["release", "delete"]),
        )

        def begun(_value: bool | int) -> None:
            self._sessions[client.number] = session

        def refused() -> None:
            self._host_known = False  # a restore took it away

        self._ask(client, node, CreateSession(session), begun, refused)

    def _renewed(self, client: Client, lives: bool | int) -> None:
        if not lives:
            self._sessions.pop(client.number, None)

    def _ask(
        self,
        client: Client,
        node: Server,
        command: Command,
        then: Callable[[bool | int], None] = lambda _value: None,
        refused: Callable[[], None] | None = None,
    ) -> None:
        began = client.began_us

        def told(result: Applied) -> None:
            self._told[result.index] = (command, result.value)
            self._sent[result.index] = began
            kind = type(command).__name__
            seen = Seen(kind, b"", began, self._world.now_us, result.index, None, None, result.value)
            self._world.note(f"{kind} {seen.index} {result.value!r}\n")
            self.history.append(seen)
            then(result.value)

        def gone() -> None:
            # Its session is not there, or there is no leader: a new one does no harm.
            self._sessions.pop(client.number, None)

        client.write(node, command, told, refused=refused or gone)

    # -- the truth ---------------------------------------------------------------------------------

    def effect(self, index: int, command: Any, result: Applied) -> None:
        mine = isinstance(command, CreateSession | DestroySession | RenewSession | EndLeases | Restore)
        on_key = isinstance(command, KvSet | KvDelete) and command.key.startswith(b"lock/")
        if mine or on_key:
            self._effects.append((index, self._world.now_us, command, result.value))

    def check(self) -> int:
        by_index = {index: (command, value) for index, _, command, value in self._effects}
        for index, told in self._told.items():
            if by_index.get(index) != told:
                raise Violation(f"{told} was told of index {index}, where stands {by_index.get(index)}")
        model = LockModel(self.clocks, self._sent)
        archives = [command.index for _, _, command, _ in self._effects if isinstance(command, Restore)]
        as_of: dict[int, LockModel] = {}
        for index, at_us, command, value in self._effects:
            as_of |= {i: model.copy() for i in archives if i < index and i not in as_of}
            if isinstance(command, Restore):
                model.restore(as_of[command.index])
            else:
                model.apply(index, at_us, command, value)
        model.check_end(self._world.now_us)
        return len(self.history)


class Lease(msgspec.Struct):
    """A session as the model has it; `sent_us` is that of its last renewal that was confirmed."""

    session: Session
    generation: int
    epoch: int
    sent_us: int | None
    renewed_us: int


class LockModel:
    """What the log means, in the fewest lines. Cluster time it does not know: it goes by true clocks."""

    def __init__(self, clocks: FastestClock, sent: dict[int, int]) -> None:
        self._clocks = clocks
        self._sent = sent
        self._epoch = 0
        self._leases: dict[str, Lease] = {}
        self._holders: dict[bytes, tuple[str, int]] = {}
        self._delayed: dict[bytes, None] = {}
        """Keys whose last holder's session ended; for how long is a matter of cluster time."""

        self._greatest: dict[bytes, int] = {}
        self._least_epoch = 0

    def copy(self) -> LockModel:
        other = LockModel(self._clocks, self._sent)
        other._leases = {id: msgspec.structs.replace(lease) for id, lease in self._leases.items()}
        other._holders, other._delayed = dict(self._holders), dict(self._delayed)
        return other

    def restore(self, archived: LockModel) -> None:
        """An epoch begins; fences that were given stay given."""
        was = archived.copy()
        self._leases, self._holders, self._delayed = was._leases, was._holders, was._delayed
        self._epoch += 1
        given = max(self._greatest.values(), default=-1)
        self._least_epoch = max(self._least_epoch, (given >> FENCE_BITS) + 1)

    def apply(self, index: int, at_us: int, command: Any, value: bool | int) -> None:
        match command:
            case CreateSession(session=session):
                self._leases[session.id] = Lease(session, 0, self._epoch, self._sent.get(index), at_us)
            case RenewSession(id=id):
                if value is not (id in self._leases):
                    raise Violation(f"index {index}: {command} was answered {value}")
                if value:
                    self._renew(self._leases[id], index, at_us)
            case DestroySession(id=id):
                self._end(id)
            case EndLeases():
                self._end_leases(index, at_us, command, value)
            case KvDelete(key=key):
                self._holders.pop(key, None)
            case KvSet():
                self._lock(index, command, value)

    def _renew(self, lease: Lease, index: int, at_us: int) -> None:
        lease.generation += 1
        lease.epoch = self._epoch
        lease.sent_us = self._sent.get(index, lease.sent_us)
        lease.renewed_us = at_us

    def _end_leases(self, index: int, at_us: int, command: EndLeases, value: bool | int) -> None:
        ended = []
        for id, generation in command.leases:
            lease = self._leases.get(id)
            if lease is None or lease.generation != generation:
                continue
            if lease.epoch != self._epoch:
                self._renew(lease, index, at_us)
                continue
            self._check_due(index, lease, at_us)
            ended.append(id)
        if value != len(ended):
            raise Violation(f"index {index}: {command} ended {value} sessions, {len(ended)} were due")
        for id in ended:
            self._end(id)

    def _check_due(self, index: int, lease: Lease, at_us: int) -> None:
        if lease.sent_us is None:
            return  # nobody was told that it lives
        ttl_us = lease.session.ttl_ms * 1_000
        ran_us = self._clocks.ran_us(lease.sent_us, at_us)
        if ran_us < ttl_us + ttl_us // DUE_SHARE:
            raise Violation(
                f"index {index}: {lease.session.id} with a TTL of {ttl_us} us ended "
                f"{at_us - lease.sent_us} us after its last renewal was sent; the fastest clock ran {ran_us}"
            )

    def _end(self, id: str) -> None:
        lease = self._leases.pop(id, None)
        if lease is None:
            return
        for key in [key for key, (holder, _) in self._holders.items() if holder == id]:
            del self._holders[key]
            if lease.session.lock_delay_ns:
                self._delayed[key] = None

    def _lock(self, index: int, command: KvSet, value: bool | int) -> None:
        holder, fence = self._holders.get(command.key, ("", 0))
        if command.release is not None:
            if value is not (holder == command.release):
                raise Violation(f"index {index}: {command} was answered {value}, the holder is {holder!r}")
            if value:
                del self._holders[command.key]
            return
        assert command.acquire is not None
        if holder:
            if value != (fence if holder == command.acquire else False):
                raise Violation(
                    f"index {index}: {command} was answered {value}, {holder!r} holds it with {fence}"
                )
        elif value is False:
            if command.key not in self._delayed:
                raise Violation(f"index {index}: {command} was refused, and the key is free without a delay")
        else:
            if command.acquire not in self._leases:
                raise Violation(f"index {index}: {command} got the lock without a session")
            if value <= self._greatest.get(command.key, 0):
                raise Violation(f"index {index}: fence {value} after {self._greatest[command.key]}")
            if value % (1 << FENCE_BITS) != index or value >> FENCE_BITS < self._least_epoch:
                raise Violation(f"index {index}: fence {value} in epoch {self._least_epoch} or later")
            self._greatest[command.key] = value
            self._delayed.pop(command.key, None)
            self._holders[command.key] = (command.acquire, value)

    def check_end(self, now_us: int) -> None:
        """In calm, and nobody renews any more."""
        for lease in self._leases.values():
            late_us = now_us - lease.renewed_us - lease.session.ttl_ms * 1_500
            if late_us > LATE_US:
                raise Violation(f"{lease.session.id} is there {late_us} us after 1.5 TTL without a renewal")


class FastestClock:
    """How far the fastest clock of all hosts has run; no look at it adds more than a leader's may."""

    def __init__(self, world: World) -> None:
        self._world = world
        self.nodes: list[Server] = []
        self.hosts: list[Server] = []
        self.stopped = False
        self._times: list[int] = [0]
        self._ran: list[int] = [0]
        self._last: list[int] = []

    def start(self) -> None:
        now = [host.clock.now_us() for host in self.hosts]
        most = LEAP_MS * 1_000 + LOOK_US
        moved = [min(after - before, most) for before, after in zip(self._last, now, strict=False)]
        gone = self._world.now_us - self._times[-1]
        self._last = now
        self._times.append(self._world.now_us)
        self._ran.append(self._ran[-1] + max([gone, *moved]))
        if not self.stopped:
            self._world.at(LOOK_US, "clocks are compared", self.start)

    def ran_us(self, began_us: int, ended_us: int) -> int:
        """Between two moments, to the next look: not less than it was."""
        return self._at(ended_us, 1) - self._at(began_us, 0)

    def _at(self, us: int, after: int) -> int:
        at = bisect_right(self._times, us) - 1 + after
        return self._ran[min(max(at, 0), len(self._ran) - 1)]
