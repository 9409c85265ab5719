"""Sessions and locks: holders that begin, renew, acquire, release and vanish; their model and checker.

What is checked, over the whole log:

- a lease ends no sooner than the fastest clock of all servers has run a lease since the holder sent the last
  renewal that was confirmed to it: so with true clocks never before its TTL;
- it ends no later than 1.5 TTL and an election after, by the slowest clock of all, while the tier served; and
  none that is not renewed is there at the end of the run, in calm;
- a key has one holder at a time: between two of them the first released it, or its session ended;
- each acquisition has a greater fence than every one before it, through deletes, restores and new epochs;
- a free key is refused for its lock delay, by the time in the log, and for nothing else;
- what the state holds at the end is what all that came to.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
from simulation.clients import Client
from simulation.host_clocks import HostClocks
from simulation.node import Node as Server
from simulation.txn_parts import carried_out
from simulation.witness import Seen, Violation
from simulation.world import World

from gemot.server.model.catalog import Deregister, Node, Register
from gemot.server.model.command import Command
from gemot.server.model.kv import KvDelete, KvDeletePrefix, KvList, KvSet
from gemot.server.model.query import Applied
from gemot.server.model.restore import Restore
from gemot.server.model.session import (
    CreateSession,
    DestroySession,
    EndLeases,
    RenewSession,
    Session,
    Sessions,
)
from gemot.server.model.txn import Txn
from gemot.server.state.locks import FENCE_BITS
from gemot.server.state.session import DUE_SHARE

HOST = "lockhost"
ALL = KvList(b"lock/")
KEYS = 3
LATE_US = 2_500_000
"""By how much more than 1.5 TTL a lease may be late: an election, or as many as there were."""


class LockFamily:
    """Each client has one session at a time, which it takes for its own for as long as it is told so."""

    operations = (
        ("session", 0.3),
        ("renew", 1.0),
        ("acquire", 1.2),
        ("release", 0.8),
        ("unlock", 0.2),
        ("unlock-all", 0.1),
    )

    def __init__(self, world: World, time_ms: Callable[[], int]) -> None:
        self._world = world
        self._time_ms = time_ms
        self._sequence = 0
        self._host_known = False
        self.sessions: dict[int, Session] = {}
        self.fences: list[tuple[bytes, str, int]] = []
        """Key, session and fence of every acquisition that was told."""

        self._told: dict[int, tuple[Command, bool | int]] = {}
        """By index: what was asked there, and the answer that its client got."""

        self._sent: dict[int, int] = {}
        """When the client sent what was answered with that index."""

        self._effects: list[Told] = []
        self.clocks = HostClocks(world)
        self.history: list[Seen] = []

    def actors(self, nodes: list[Server]) -> list[Any]:
        self.clocks.hosts = nodes
        return [self.clocks]

    # -- the client --------------------------------------------------------------------------------

    def act(self, client: Client, node: Server, operation: str) -> None:
        random = self._world.random
        session = self.sessions.get(client.number)
        if not self._host_known:
            client.write(node, Register(Node(HOST, "10.2.0.1")), self._registered, refused=lambda: None)
        elif session is None or operation == "session":
            self._begin(client, node, session)
        elif operation == "renew":
            self._ask(client, node, RenewSession(session.id), lambda lives: self._renewed(client, lives))
        else:
            key = b"%b%d" % (ALL.prefix, random.randrange(KEYS))
            self._sequence += 1
            value = b"held %d" % self._sequence
            if operation == "acquire":
                # Now and then by one of long ago, that should have ended.
                id = f"session-{random.randrange(1, self._sequence)}" if random.random() < 0.2 else session.id
                self._ask(client, node, KvSet(key, value, acquire=id))
            elif operation == "release":
                self._ask(client, node, KvSet(key, value, release=session.id))
            elif operation == "unlock-all":
                self._ask(client, node, KvDeletePrefix(ALL.prefix))
            else:
                self._ask(client, node, KvDelete(key))

    def _registered(self, _result: Applied) -> None:
        self._host_known = True

    def _begin(self, client: Client, node: Server, before: Session | None) -> None:
        """The session before is destroyed, or left to itself."""
        random = self._world.random
        self.sessions.pop(client.number, None)
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
            self.sessions[client.number] = session

        def refused() -> None:
            self._host_known = False  # a restore took it away

        self._ask(client, node, CreateSession(session), begun, refused)

    def _renewed(self, client: Client, lives: bool | int) -> None:
        if not lives:
            self.sessions.pop(client.number, None)

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
            if isinstance(command, KvSet) and command.acquire is not None and result.value is not False:
                self.fences.append((command.key, command.acquire, int(result.value)))
            then(result.value)

        def gone() -> None:
            # Its session is not there, or there is no leader: a new one does no harm.
            self.sessions.pop(client.number, None)

        client.write(node, command, told, refused=refused or gone)

    # -- the truth ---------------------------------------------------------------------------------

    def effect(self, index: int, command: Any, result: Applied) -> None:
        if isinstance(command, Txn):
            for part, value in carried_out(command, result):
                self.effect(index, part, Applied(index, value))
            return
        mine = isinstance(command, CreateSession | DestroySession | RenewSession | EndLeases | Restore)
        on_key = isinstance(command, KvSet | KvDelete) and command.key.startswith(ALL.prefix)
        on_all = isinstance(command, KvDeletePrefix) and ALL.prefix.startswith(command.prefix)
        gone = command == Deregister(HOST)
        if mine or on_key or on_all or gone:
            self._effects.append(Told(index, self._world.now_us, self._time_ms(), command, result.value))

    def check(self) -> int:
        by_index = {told.index: (told.command, told.value) for told in self._effects}
        for index, answer in self._told.items():
            if by_index.get(index) != answer:
                raise Violation(f"{answer} was told of index {index}, where stands {by_index.get(index)}")
        model = LockModel(self.clocks, self._sent)
        archives = [told.command.index for told in self._effects if isinstance(told.command, Restore)]
        as_of: dict[int, LockModel] = {}
        for told in self._effects:
            as_of |= {i: model.copy() for i in archives if i < told.index and i not in as_of}
            if isinstance(told.command, Restore):
                model.restore(as_of[told.command.index])
            else:
                model.apply(told)
        model.check_end(self._world.now_us)
        self.lapsed = model.lapsed
        self._compare(model)
        return len(self.history)

    def _compare(self, model: LockModel) -> None:
        """With the state of one that has applied all of it."""
        states = [host.opened.state for host in self.clocks.hosts if host.opened is not None]
        newest = max(states, key=lambda state: state.index, default=None)
        if newest is None or (self._effects and newest.index < self._effects[-1].index):
            return
        sessions, _ = newest.read(Sessions(), "")
        entries, _ = newest.read(ALL, "")
        model.compare(
            [each.id for each in sessions], {each.key: (each.session, each.fence) for each in entries}
        )


class Told(msgspec.Struct, frozen=True):
    """One effect: at which index, when it was first applied, by which cluster time, and what came of it."""

    index: int
    at_us: int
    time_ms: int
    command: Any
    value: bool | int


class Lease(msgspec.Struct):
    """A session as the model has it; `sent_us` is that of its last renewal that was confirmed."""

    session: Session
    generation: int
    epoch: int
    sent_us: int | None
    renewed_us: int
    deadline_ms: int


class LockModel:
    """What the log means, in the fewest lines."""

    def __init__(self, clocks: HostClocks, sent: dict[int, int]) -> None:
        self._clocks = clocks
        self._sent = sent
        self._epoch = 0
        self._leases: dict[str, Lease] = {}
        self._holders: dict[bytes, tuple[str, int]] = {}
        self._keys: dict[bytes, int] = {}
        """Keys that are there, with the fence of their last acquisition."""

        self._delays: dict[bytes, int] = {}
        """Until when, by cluster time, nobody gets a key's lock."""

        self._greatest: dict[bytes, int] = {}
        self._least_epoch = 0
        self.lapsed = 0
        """Leases that ended because nobody renewed them."""

    def copy(self) -> LockModel:
        other = LockModel(self._clocks, self._sent)
        other._leases = {id: msgspec.structs.replace(lease) for id, lease in self._leases.items()}
        other._holders, other._keys, other._delays = dict(self._holders), dict(self._keys), dict(self._delays)
        return other

    def restore(self, archived: LockModel) -> None:
        """An epoch begins; fences that were given stay given."""
        was = archived.copy()
        self._leases, self._holders, self._keys, self._delays = (
            was._leases,
            was._holders,
            was._keys,
            was._delays,
        )
        self._epoch += 1
        given = max(self._greatest.values(), default=-1)
        self._least_epoch = max(self._least_epoch, (given >> FENCE_BITS) + 1)

    def apply(self, told: Told) -> None:
        match told.command:
            case CreateSession(session=session):
                self._leases[session.id] = Lease(session, -1, self._epoch, None, 0, 0)
                self._renew(session.id, told)
            case RenewSession(id=id):
                if told.value is not (id in self._leases):
                    raise Violation(f"renewed what is not there, or the other way round: {told}")
                if told.value:
                    self._renew(id, told)
            case DestroySession(id=id):
                self._end(id, told)
            case EndLeases():
                self._end_leases(told)
            case Deregister():
                for id in list(self._leases):
                    self._end(id, told)
            case KvDelete(key=key):
                self._holders.pop(key, None)
                self._keys.pop(key, None)
            case KvDeletePrefix():
                self._holders, self._keys = {}, {}
            case KvSet(acquire=None, release=None, key=key):
                self._keys.setdefault(key, 0)
            case KvSet(release=None):
                self._acquire(told)
            case KvSet():
                self._release(told)

    def _renew(self, id: str, told: Told) -> None:
        lease = self._leases[id]
        ttl_ms = lease.session.ttl_ms
        lease.generation += 1
        lease.epoch = self._epoch
        lease.sent_us = self._sent.get(told.index, lease.sent_us)
        lease.renewed_us = told.at_us
        lease.deadline_ms = told.time_ms + ttl_ms + ttl_ms // DUE_SHARE

    def _end_leases(self, told: Told) -> None:
        ended = []
        for id, generation in told.command.leases:
            lease = self._leases.get(id)
            if lease is None or lease.generation != generation:
                continue
            if lease.epoch != self._epoch:
                self._renew(id, told)
            elif lease.deadline_ms <= told.time_ms:
                self._check_due(lease, told)
                self._check_late(lease, told.at_us, told)
                self.lapsed += 1
                ended.append(id)
        if told.value != len(ended):
            raise Violation(f"{len(ended)} leases were due: {told}")
        for id in ended:
            self._end(id, told)

    def _check_due(self, lease: Lease, told: Told) -> None:
        """By the clocks of the hosts: what the log says of time might be wrong itself."""
        if lease.sent_us is None:
            return  # nobody was told that it lives
        ttl_us = lease.session.ttl_ms * 1_000
        ran_us = self._clocks.fastest_us(lease.sent_us, told.at_us)
        if ran_us < ttl_us + ttl_us // DUE_SHARE:
            raise Violation(
                f"{told}: {lease.session.id} with a TTL of {ttl_us} us ended {told.at_us - lease.sent_us} us "
                f"after its last renewal was sent; the fastest clock ran {ran_us}"
            )

    def _check_late(self, lease: Lease, now_us: int, told: object) -> None:
        served_us = self._clocks.slowest_served_us(lease.renewed_us, now_us)
        elections = self._clocks.elections(lease.renewed_us, now_us)
        late_us = served_us - lease.session.ttl_ms * 1_500
        if late_us > LATE_US * max(1, elections):
            raise Violation(
                f"{told}: {lease.session.id} with a TTL of {lease.session.ttl_ms} ms was there {late_us} us "
                f"after 1.5 TTL without a renewal, {elections} elections in between"
            )

    def _end(self, id: str, told: Told) -> None:
        lease = self._leases.pop(id, None)
        if lease is None:
            return
        for key in [key for key, (holder, _) in self._holders.items() if holder == id]:
            del self._holders[key]
            if lease.session.behavior == "delete":
                del self._keys[key]
            if lease.session.lock_delay_ns:
                self._delays[key] = told.time_ms + lease.session.lock_delay_ns // 1_000_000

    def _release(self, told: Told) -> None:
        key = told.command.key
        holder, _ = self._holders.get(key, ("", 0))
        if told.value is not (holder == told.command.release):
            raise Violation(f"the holder is {holder!r}: {told}")
        if told.value:
            del self._holders[key]

    def _acquire(self, told: Told) -> None:
        key, wanted = told.command.key, told.command.acquire
        holder, fence = self._holders.get(key, ("", 0))
        if holder:
            if told.value != (fence if holder == wanted else False):
                raise Violation(f"{holder!r} holds it with {fence}: {told}")
            return
        if wanted not in self._leases:
            raise Violation(f"there is no such session: {told}")
        if (self._delays.get(key, 0) > told.time_ms) is not (told.value is False):
            raise Violation(f"the key is free, its delay goes until {self._delays.get(key)}: {told}")
        if told.value is False:
            return
        self._check_fence(told)
        self._holders[key] = (wanted, told.value)
        self._greatest[key] = self._keys[key] = told.value

    def _check_fence(self, told: Told) -> None:
        greatest = self._greatest.get(told.command.key, 0)
        index, epoch = told.value % (1 << FENCE_BITS), told.value >> FENCE_BITS
        if told.value <= greatest or index != told.index or epoch < self._least_epoch:
            raise Violation(
                f"the fence before was {greatest}, the epoch is {self._least_epoch} at least: {told}"
            )

    def check_end(self, now_us: int) -> None:
        """In calm, and nobody renews any more."""
        for lease in self._leases.values():
            late_us = now_us - lease.renewed_us - lease.session.ttl_ms * 1_500
            if late_us > LATE_US:
                raise Violation(f"{lease.session.id} is there {late_us} us after 1.5 TTL without a renewal")

    def compare(self, sessions: list[str], keys: dict[bytes, tuple[str, int]]) -> None:
        if sorted(self._leases) != sessions:
            raise Violation(f"the sessions are {sessions}, and should be {sorted(self._leases)}")
        wanted = {key: (self._holders.get(key, ("", 0))[0], fence) for key, fence in self._keys.items()}
        if wanted != keys:
            raise Violation(f"the locks are {keys}, and should be {wanted}")
