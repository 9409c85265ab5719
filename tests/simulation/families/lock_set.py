"""A set that several add to under one lock, by reading it and writing it back: Jepsen's lock-set.

A holder that is stopped between reading and writing, or whose write is long under way, writes over what the
next holder has added. Each of three copies of the set is written in its own way:

- `unfenced`: a plain write. The control: elements must get lost here, or nothing was shown.
- `check-fence`: in a transaction with a look whether the lock is held with this fence.
- `fence-guard`: in a transaction that refuses fences smaller than the greatest seen. The reading shows the
  fence as well: a holder that wrote late, and before the next one's first write, would else not be refused.

A set is kept as a chain: each value names its element and the value that was read; the set is what is reached
from the value that is there in the end. So a write of an element costs the same however many there are.

Holders are as careless as can be: they go by what they were told last, and have no deadline of their own.
They are careful in one thing: after a write of unknown outcome they begin with a new session, since that
write may come late, and has the fence that they hold.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
from simulation.clients import Client
from simulation.node import Node as Server
from simulation.witness import Seen, Violation
from simulation.world import World

from gemot.server.model.catalog import Node, Register
from gemot.server.model.command import Command
from gemot.server.model.kv import KvGet, KvList, KvSet
from gemot.server.model.query import Answer, Applied, Options
from gemot.server.model.session import CreateSession, DestroySession, RenewSession, Session
from gemot.server.model.txn import CheckFence, FenceGuard, FoundKey, KvOp, Txn, decode

HOST = "lockhost"
HOLDERS_OF_ONE = 3
UNFENCED, CHECKED, GUARDED = WAYS = ("unfenced", "check-fence", "fence-guard")
ALL = KvList(b"set/")

STOPS = 0.01
"""How often a holder stops with the set in its hands."""

STOPPED_US = (500_000, 5_000_000)
MOST_WRITES = 60
"""After about so many it gives the lock to others."""

WAIT_US = 150_000
"""How long it waits for a lock that another one has."""


class Tally(msgspec.Struct):
    """Of one way: elements whose writer was told so, those of them that are not in the set, and writes that
    were refused because of their fence."""

    told: int = 0
    lost: int = 0
    refused: int = 0


class Holder(msgspec.Struct):
    """What one client believes."""

    session: Session | None = None
    fence: int = 0
    held_by: str = ""
    """The session that has the lock by what it was told."""

    renewed_us: int = 0
    writes: int = 0
    read: tuple[str, bytes] | None = None
    """The way and the value of a set that it read and has not written yet."""

    asked: bool = False
    """Something was sent that is not answered."""

    rests_until_us: int = 0


class LockSetFamily:
    operations = tuple((way, 1.0) for way in WAYS)

    def __init__(self, world: World) -> None:
        self._world = world
        self._sequence = 0
        self._holders: dict[int, Holder] = {}
        self._host_known = False
        self._stops = 0
        self._told: dict[str, set[bytes]] = {way: set() for way in WAYS}
        self._parents: dict[bytes, bytes] = {}
        self._hosts: list[Server] = []
        self._fences: dict[bytes, tuple[int, str]] = {}
        self.tallies = {way: Tally() for way in WAYS}
        self.history: list[Seen] = []

    def actors(self, nodes: list[Server]) -> list[Any]:
        self._hosts = nodes
        return []

    # -- the holder --------------------------------------------------------------------------------

    def act(self, client: Client, node: Server, operation: str) -> None:
        holder = self._holders.setdefault(client.number, Holder())
        if (rest_us := holder.rests_until_us - self._world.now_us) > 0:
            self._later(client, rest_us, operation)
            return
        if holder.asked:
            self._begin_anew(holder)
        session = holder.session
        if not self._host_known:
            client.write(node, Register(Node(HOST, "10.2.0.1")), self._registered)
        elif session is None:
            self._begin(client, node, holder)
        elif holder.read is not None:
            # Before anything else: who was stopped here does not know how late it is.
            self._write(client, node, holder, session)
        elif self._world.now_us - holder.renewed_us > session.ttl_ms * 300:
            self._renew(client, node, holder, session)
        elif holder.held_by != session.id:
            self._acquire(client, node, holder, session)
        elif holder.writes > MOST_WRITES * self._world.random.random() + 1:
            self._give_back(client, node, holder, session)
        else:
            self._read(client, node, holder, operation)

    def _later(self, client: Client, us: int, operation: str) -> None:
        def again() -> None:
            node = client.pick()
            if client.stopped or node is None:
                client.end()
                return
            client.began_us = self._world.now_us
            self.act(client, node, operation)

        self._world.at(us, f"client{client.number} goes on", again)

    def _registered(self, _result: Applied) -> None:
        self._host_known = True

    def _begin_anew(self, holder: Holder) -> None:
        """Its session is left to itself, so that nothing of it that is under way has a fence that counts."""
        holder.session, holder.held_by, holder.read, holder.asked = None, "", None, False

    def _begin(self, client: Client, node: Server, holder: Holder) -> None:
        self._sequence += 1
        random = self._world.random
        delay_ns = random.choice([0, 0, 500_000_000])
        session = Session(
            f"session-{self._sequence}",
            HOST,
            ttl_ms=random.choice([1_000, 2_000]),
            lock_delay_ns=delay_ns,
        )

        def begun(_value: bool | int | bytes) -> None:
            holder.session, holder.renewed_us, holder.writes = session, client.began_us, 0

        self._ask(client, node, holder, CreateSession(session), begun)

    def _renew(self, client: Client, node: Server, holder: Holder, session: Session) -> None:
        began = client.began_us

        def renewed(lives: bool | int | bytes) -> None:
            holder.renewed_us = began
            if not lives:
                self._begin_anew(holder)

        self._ask(client, node, holder, RenewSession(session.id), renewed)

    def _acquire(self, client: Client, node: Server, holder: Holder, session: Session) -> None:
        key = _key(client, "lock")

        def got(fence: bool | int | bytes) -> None:
            if fence is False or isinstance(fence, bytes):
                holder.rests_until_us = self._world.now_us + WAIT_US
                return
            holder.fence = int(fence)
            holder.held_by, holder.writes = session.id, 0

        self._ask(client, node, holder, KvSet(key, session.id.encode(), acquire=session.id), got)

    def _give_back(self, client: Client, node: Server, holder: Holder, session: Session) -> None:
        key = _key(client, "lock")

        def done(_value: bool | int | bytes) -> None:
            holder.held_by, holder.rests_until_us = "", self._world.now_us + 2 * WAIT_US

        if self._world.random.random() < 0.5:
            self._ask(client, node, holder, KvSet(key, b"", release=session.id), done)
        else:
            self._ask(
                client, node, holder, DestroySession(session.id), lambda _value: self._begin_anew(holder)
            )

    def _read(self, client: Client, node: Server, holder: Holder, way: str) -> None:
        key = _key(client, way)

        def read(value: bytes) -> None:
            holder.read = way, value
            if self._world.random.random() < STOPS:
                self._stops += 1
                stopped_us = self._world.random.randrange(*STOPPED_US)
                holder.rests_until_us = self._world.now_us + stopped_us

        def seen(answer: Answer, _served: int) -> None:
            read(answer.value.value if answer.value is not None else b"")

        def shown(answer: bool | int | bytes) -> None:
            found = decode(answer)
            if found.errors:
                self.tallies[way].refused += 1
                self._begin_anew(holder)
                return
            (row,) = [each.row for each in found.results if isinstance(each, FoundKey)]
            read(row.value)

        if way == GUARDED:
            command = Txn((FenceGuard(_key(client, "guard"), holder.fence), KvOp("get-or-empty", key)))
            self._ask(client, node, holder, command, shown)
        else:
            client.query(node, KvGet(key), Options(), seen)

    def _write(self, client: Client, node: Server, holder: Holder, session: Session) -> None:
        assert holder.read is not None
        (way, before), holder.read = holder.read, None
        self._sequence += 1
        element = b"%d" % self._sequence
        parent = before.partition(b" ")[0]
        self._parents[element] = parent
        key, value = _key(client, way), b"%b %b" % (element, parent)
        command: Command = KvSet(key, value)
        if way == CHECKED:
            fence = CheckFence(_key(client, "lock"), holder.fence, session.id)
            command = Txn((fence, KvOp("set", key, value)))
        elif way == GUARDED:
            command = Txn((FenceGuard(_key(client, "guard"), holder.fence), KvOp("set", key, value)))
        holder.writes += 1

        def done(answer: bool | int | bytes) -> None:
            if way != UNFENCED and decode(answer).errors:
                self.tallies[way].refused += 1
                self._begin_anew(holder)
                return
            self._told[way].add(element)

        self._ask(client, node, holder, command, done)

    def _ask(
        self,
        client: Client,
        node: Server,
        holder: Holder,
        command: Command,
        then: Callable[[bool | int | bytes], None],
    ) -> None:
        began, kind = client.began_us, type(command).__name__
        holder.asked = True

        def told(result: Applied) -> None:
            holder.asked = False
            self.history.append(
                Seen(kind, b"", began, self._world.now_us, result.index, None, None, result.value)
            )
            then(result.value)

        client.write(node, command, told, refused=lambda: self._begin_anew(holder))

    # -- the verdict -------------------------------------------------------------------------------

    def effect(self, index: int, command: Any, result: Applied) -> None:
        """What counts is what is there in the end; and that each acquisition has a greater fence."""
        if not isinstance(command, KvSet) or command.acquire is None or result.value is False:
            return
        before, by = self._fences.get(command.key, (0, ""))
        if (result.value, command.acquire) != (before, by) and result.value <= before:
            raise Violation(f"{command} got the fence {result.value} after {before} of {by}")
        self._fences[command.key] = (result.value, command.acquire)

    def check(self) -> int:
        states = [host.opened.state for host in self._hosts if host.opened is not None]
        newest = max(states, key=lambda state: state.index)
        entries, _ = newest.read(ALL, "")
        there: dict[str, set[bytes]] = {way: set() for way in WAYS}
        for entry in entries:
            way = entry.key.decode().rpartition("/")[2]
            if way in there:
                there[way] |= self._reached(entry.value.partition(b" ")[0])
        for way, tally in self.tallies.items():
            tally.told = len(self._told[way])
            tally.lost = len(self._told[way] - there[way])
        for way in (CHECKED, GUARDED):
            if lost := sorted(self._told[way] - there[way]):
                raise Violation(f"{len(lost)} elements of {way} are lost, the first is {lost[0]!r}")
        return len(self.history)

    def _reached(self, element: bytes) -> set[bytes]:
        found = set()
        while element:
            found.add(element)
            element = self._parents[element]
        return found

    @property
    def stops(self) -> int:
        """How often a holder stood still between reading and writing."""
        return self._stops


def _key(client: Client, what: str) -> bytes:
    return b"set/%d/%b" % (client.number // HOLDERS_OF_ONE, what.encode())
