"""A set that several add to under one lock, by reading it and writing it back: Jepsen's lock-set.

A holder that is stopped between reading and writing, or whose write is long under way, writes over what the
next holder has added. Each of three copies of the set is written in its own way:

- `unfenced`: a plain write. The control: elements must get lost here, or nothing was shown.
- `check-fence`: in a transaction with a look whether the lock is held with this fence.
- `fence-guard`: in a transaction that refuses fences smaller than the greatest seen. The reading shows the
  fence as well: a holder that wrote late, and before the next one's first write, would else not be refused.

A set is kept as a chain: each value names its element and the value that was read; the set is what is reached
from the value that is there in the end. So a write of an element costs the same however many there are.

Operators restore snapshots meanwhile. That takes back what was written after the snapshot, and nothing else:
of what was written before it, in the same lineage (`lineage.py`), nothing may be lost. A restore brings locks
back as they were held, and guards as they stood. So no fence can tell a holder that what it has read belongs
to a state that is gone: what it then writes over is counted by itself, as carried over a restore. Only a
write that compares the index of what was read (`cas`) is safe from that.

Holders are as careless as can be: they go by what they were told last, and have no deadline of their own.
They are careful in one thing: after a write of unknown outcome they begin with a new session, since that
write may come late, and has the fence that they hold.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import msgspec
from simulation.clients import Client
from simulation.lineage import Lineage
from simulation.node import Node as Server
from simulation.witness import Seen, Violation
from simulation.world import World

from gemot.server.model.catalog import Node, Register
from gemot.server.model.command import Command
from gemot.server.model.kv import KvGet, KvList, KvSet
from gemot.server.model.query import Answer, Applied, Options
from gemot.server.model.restore import Restore
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
    """Of one way: elements whose writer was told so; those of them that are not in the set and should be,
    that a restore took back, and that were written over by who had read a state that is gone; and writes that
    were refused because of their fence."""

    told: int = 0
    lost: int = 0
    taken_back: int = 0
    carried_over: int = 0
    refused: int = 0


class Write(msgspec.Struct, frozen=True):
    """Of one element: at which index it was done, and which one its writer had read."""

    index: int
    element: bytes
    parent: bytes


class Holder(msgspec.Struct):
    """What one client believes."""

    session: Session | None = None
    fence: int = 0
    held_by: str = ""
    """The session that has the lock by what it was told."""

    renewed_us: int = 0
    writes: int = 0
    read: tuple[str, bytes, int] | None = None
    """The way and the value of a set that it read and has not written yet, and the index of the reading."""

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
        self._read_at: dict[bytes, int] = {}
        """Of each element, the index of what its writer had read."""

        self._writes: dict[bytes, list[Write]] = {}
        """What was written to each key, told or not, in the order of the log."""

        self._parents: dict[bytes, bytes] = {}
        self._hosts: list[Server] = []
        self.lineage = Lineage()
        self._acquired: list[tuple[int, bytes, str, int]] = []
        """Index, key, session and fence of each acquisition."""

        self._held: dict[bytes, tuple[str, int]] = {}
        """The last acquisition of each key in the present state."""

        self._greatest: dict[bytes, int] = {}
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

        def begun(_result: Applied) -> None:
            holder.session, holder.renewed_us, holder.writes = session, client.began_us, 0

        def refused() -> None:
            self._host_known = False  # a restore took it away
            self._begin_anew(holder)

        self._ask(client, node, holder, CreateSession(session), begun, refused)

    def _renew(self, client: Client, node: Server, holder: Holder, session: Session) -> None:
        began = client.began_us

        def renewed(result: Applied) -> None:
            holder.renewed_us = began
            if not result.value:
                self._begin_anew(holder)

        self._ask(client, node, holder, RenewSession(session.id), renewed)

    def _acquire(self, client: Client, node: Server, holder: Holder, session: Session) -> None:
        key = _key(client, "lock")

        def got(result: Applied) -> None:
            fence = result.value
            if fence is False or isinstance(fence, bytes):
                holder.rests_until_us = self._world.now_us + WAIT_US
                return
            holder.fence = int(fence)
            holder.held_by, holder.writes = session.id, 0

        self._ask(client, node, holder, KvSet(key, session.id.encode(), acquire=session.id), got)

    def _give_back(self, client: Client, node: Server, holder: Holder, session: Session) -> None:
        key = _key(client, "lock")

        def done(_result: Applied) -> None:
            holder.held_by, holder.rests_until_us = "", self._world.now_us + 2 * WAIT_US

        if self._world.random.random() < 0.5:
            self._ask(client, node, holder, KvSet(key, b"", release=session.id), done)
        else:
            self._ask(
                client, node, holder, DestroySession(session.id), lambda _result: self._begin_anew(holder)
            )

    def _read(self, client: Client, node: Server, holder: Holder, way: str) -> None:
        key = _key(client, way)

        def read(value: bytes, index: int) -> None:
            holder.read = way, value, index
            if self._world.random.random() < STOPS:
                self._stops += 1
                stopped_us = self._world.random.randrange(*STOPPED_US)
                holder.rests_until_us = self._world.now_us + stopped_us

        def seen(answer: Answer, served: int) -> None:
            read(answer.value.value if answer.value is not None else b"", served)

        def shown(result: Applied) -> None:
            found = decode(result.value)
            if found.errors:
                self.tallies[way].refused += 1
                self._begin_anew(holder)
                return
            (row,) = [each.row for each in found.results if isinstance(each, FoundKey)]
            read(row.value, result.index)

        if way == GUARDED:
            command = Txn((FenceGuard(_key(client, "guard"), holder.fence), KvOp("get-or-empty", key)))
            self._ask(client, node, holder, command, shown)
        else:
            client.query(node, KvGet(key), Options(), seen)

    def _write(self, client: Client, node: Server, holder: Holder, session: Session) -> None:
        assert holder.read is not None
        (way, before, read_at), holder.read = holder.read, None
        self._sequence += 1
        element = b"%d" % self._sequence
        parent = before.partition(b" ")[0]
        self._parents[element] = parent
        self._read_at[element] = read_at
        key, value = _key(client, way), b"%b %b" % (element, parent)
        command: Command = KvSet(key, value)
        if way == CHECKED:
            fence = CheckFence(_key(client, "lock"), holder.fence, session.id)
            command = Txn((fence, KvOp("set", key, value)))
        elif way == GUARDED:
            command = Txn((FenceGuard(_key(client, "guard"), holder.fence), KvOp("set", key, value)))
        holder.writes += 1

        def done(result: Applied) -> None:
            if way != UNFENCED and decode(result.value).errors:
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
        then: Callable[[Applied], None],
        refused: Callable[[], None] | None = None,
    ) -> None:
        began, kind = client.began_us, type(command).__name__
        holder.asked = True

        def told(result: Applied) -> None:
            holder.asked = False
            self.history.append(
                Seen(kind, b"", began, self._world.now_us, result.index, None, None, result.value)
            )
            then(result)

        client.write(node, command, told, refused=refused or (lambda: self._begin_anew(holder)))

    # -- the verdict -------------------------------------------------------------------------------

    def effect(self, index: int, command: Any, result: Applied) -> None:
        """What counts is what is there in the end; and that each acquisition has a greater fence."""
        if isinstance(command, Restore):
            self._restored(index, command.index)
        self._note_write(index, command, result)
        if isinstance(command, KvSet) and command.acquire is not None and result.value is not False:
            self._check_fence(index, command.key, command.acquire, int(result.value))

    def _note_write(self, index: int, command: Any, result: Applied) -> None:
        if isinstance(command, Txn) and not decode(result.value).errors:
            command = command.ops[-1]
        written = isinstance(command, KvSet | KvOp) and command.key.rpartition(b"/")[2].decode() in WAYS
        if written and command.value:
            element, _, parent = command.value.partition(b" ")
            self._writes.setdefault(command.key, []).append(Write(index, element, parent))

    def _check_fence(self, index: int, key: bytes, by: str, fence: int) -> None:
        """Who holds a lock and asks again is told its fence again; any other is greater than all before."""
        if self._held.get(key) == (by, fence):
            return
        if fence <= (greatest := self._greatest.get(key, 0)):
            raise Violation(
                f"{by} got {key!r} with the fence {fence} at {index}, {greatest} was given before"
            )
        self._greatest[key] = fence
        self._held[key] = by, fence
        self._acquired.append((index, key, by, fence))

    def _restored(self, at: int, of: int) -> None:
        """Locks are held again as they were; fences that were given stay given."""
        self.lineage.restore(at, of)
        self._held = {key: (by, fence) for i, key, by, fence in self._acquired if self.lineage.lives(i)}

    def check(self) -> int:
        states = [host.opened.state for host in self._hosts if host.opened is not None]
        newest = max(states, key=lambda state: state.index)
        entries, _ = newest.read(ALL, "")
        values = {entry.key: entry.value.partition(b" ")[0] for entry in entries}
        lost: dict[str, list[Write]] = {way: [] for way in WAYS}
        for key, writes in self._writes.items():
            way = key.decode().rpartition("/")[2]
            lost[way] += self._look_through(way, writes, self._reached(values.get(key, b"")))
        for way, tally in self.tallies.items():
            tally.told = len(self._told[way])
            if odd := self._told[way] - {each.element for all in self._writes.values() for each in all}:
                raise Violation(f"{len(odd)} elements of {way} were told and stand nowhere in the log")
        for way in (CHECKED, GUARDED):
            if lost[way]:
                raise Violation(
                    f"{len(lost[way])} elements of {way} are lost, the first is {lost[way][0]}; the restores "
                    f"were, at and of: {self.lineage.restores}"
                )
        return len(self.history)

    def _look_through(self, way: str, writes: list[Write], there: set[bytes]) -> list[Write]:
        """Of one key: what was told, was not taken back by a restore, and is lost."""
        tally = self.tallies[way]
        told = [each for each in writes if each.element in self._told[way]]
        owed = [each for each in told if self.lineage.lives(each.index)]
        missing = [each for each in owed if each.element not in there]
        carried = self._carried_over([each for each in writes if self.lineage.lives(each.index)])
        lost = [each for each in missing if each.element not in carried]
        tally.taken_back += len(told) - len(owed)
        tally.carried_over += len(missing) - len(lost)
        tally.lost += len(lost)
        return lost

    def _carried_over(self, writes: list[Write]) -> set[bytes]:
        """What was written over by those whose reading was taken back by a restore.

        `writes` are those of one key that made its present value.
        """
        found: set[bytes] = set()
        for before, write in pairwise(writes):
            read_at = self._read_at[write.element]
            if write.parent != before.element and not self.lineage.lives(read_at):
                found |= self._reached(before.element) - self._reached(write.element)
        return found

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
