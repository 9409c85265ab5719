"""The recipe of a lock that one program of the cluster holds at a time, first come, first served. Pure.

Under a prefix: `.lock` is Consul's key with Consul's flags, so its own command and libraries keep out ours,
and are kept out. `.queue/` has an entry for each of our waiters, in the order of their fences; only the first
of them tries for the lock. Entries are held by their waiters' sessions and deleted with them, so a dead one
is in nobody's way. Who waits with Consul's clients stands in no queue.

What is promised (`hold.py` keeps it): on a host that runs, the holder knows that the lock is lost before its
lease can end, and for its session's lock delay after that nobody gets it. What is not: a host that slept or a
process that was stopped wakes up, and writes before it has looked; and who deletes or releases the key by
hand lets the next one in at once. Only the fence keeps out what is late: pass it with each write, and have
what is written to refuse a fence smaller than one it has seen. Source: Consul, `consul lock`, and its guide
to leader election; queue and fence are ours.
"""

from __future__ import annotations

import json
import os
import socket
from abc import ABC, abstractmethod
from collections.abc import Sequence

import msgspec

from gemot.agent.client.entry import Entry, entries
from gemot.agent.client.recipe import Ask, LockConflict, Pause, Steps, Tell, fence_of

LOCK_FLAGS = 0x2DDCCBC058A50C18
"""By which Consul's clients know a lock from other keys, a semaphore's among them."""

DELAYED_S = 1.0
"""Until the next try where the lock is refused and nobody holds it: no read is told of the end of a lock
delay."""


class Waiter(msgspec.Struct, frozen=True):
    """An entry of the queue."""

    key: str
    session: str
    order: int


def ahead_of(session: str, queue: Sequence[Waiter]) -> Waiter | None:
    """Whom this session waits behind: the last one with a session who came before it; None if it is first.

    Raises KeyError where the session is not in the queue.
    """
    mine = [each.order for each in queue if each.session == session]
    if not mine:
        raise KeyError(session)
    before = [each for each in queue if each.session and each.order < mine[0]]
    return max(before, key=lambda each: each.order, default=None)


class Mutex(ABC):
    """One key that one session holds, and a queue before it. What is common to locks and elections."""

    def __init__(self, key: str, queue: str, *, flags: int, value: bytes) -> None:
        """`queue` is the prefix of the waiters' keys; `flags` and `value` are written with an acquisition."""
        self.key = key
        self._queue = queue
        self._flags = flags
        self._value = value

    @abstractmethod
    def conflict(self, entry: Entry) -> str:
        """Why an entry that is found at the key is something else's; "" if it is not."""

    def guard(self, session: str) -> str:
        return self.key

    def look(self) -> Ask:
        return Ask("GET", self.key)

    def lost(self, session: str, rows: Sequence[Entry]) -> str:
        return (
            "" if [row.session for row in rows] == [session] else f"{self.key} was taken from it or deleted"
        )

    def take(self, session: str) -> Steps[int]:
        mine = self._queue + session
        while (before := (yield from self._before(session))) is not None:
            yield Tell(f"waiting behind {before.key}")
            yield from self._await_end(before)
        while True:
            reply = yield self.look()
            entry = next(iter(entries(reply)), None)
            if entry is not None and (why := self.conflict(entry)):
                raise LockConflict(why)
            if entry is not None and entry.session not in ("", session):
                yield Tell(f"waiting: {self.key} is held by {shown(entry)}")
                yield Ask("GET", self.key, after=reply.index)
                continue
            params = {"acquire": session, "flags": self._flags}
            got = yield Ask("PUT", self.key, params=params, body=self._value)
            if got.json() is True:
                # The next in line may wait for the key itself now; if this fails, once the session ends.
                yield Ask("DELETE", mine, once=True)
                return fence_of(got)
            entry = next(iter(entries((yield self.look()))), None)
            if entry is None or not entry.session:
                yield Tell(f"waiting: {self.key} was lost by its holder, and is free after its lock delay")
                yield Pause(DELAYED_S)

    def give_back(self, session: str) -> Steps[bool]:
        params = {"release": session, "flags": self._flags}
        tried = False
        while True:
            entry = next(iter(entries((yield self.look()))), None)
            if entry is None or entry.session != session:
                break
            tried = True
            reply = yield Ask("PUT", self.key, params=params, body=self._value)
            if reply.json() is True:
                if index := reply.headers.get("x-gemot-index"):
                    # As it was left, with nobody who has it: otherwise it stays.
                    yield Ask("DELETE", self.key, params={"cas": index}, once=True)
                return True
        if tried and entry is not None and not entry.session and entry.value == self._value:
            yield Ask("DELETE", self.key, params={"cas": entry.modify_index}, once=True)
        return tried  # by a write whose answer did not arrive

    def _before(self, session: str) -> Steps[Waiter | None]:
        """Who is next before this session in the queue, which it joins if it has to."""
        while True:
            rows = entries((yield Ask("GET", self._queue, params={"recurse": True})))
            waiters = [Waiter(row.key, row.session, row.fence or row.create_index) for row in rows]
            try:
                return ahead_of(session, waiters)
            except KeyError:
                yield Ask("PUT", self._queue + session, params={"acquire": session}, body=self._value)

    def _await_end(self, waiter: Waiter) -> Steps[None]:
        reply = yield Ask("GET", waiter.key)
        if [row.session for row in entries(reply)] == [waiter.session]:
            yield Ask("GET", waiter.key, after=reply.index)


class Lock(Mutex):
    """`Hold(agents, Lock("jobs/nightly"))` takes it; see the module."""

    def __init__(self, prefix: str) -> None:
        """Raises ValueError where there is no prefix."""
        prefix = prefix.strip("/")
        if not prefix:
            raise ValueError("a lock needs a prefix, such as jobs/nightly")
        super().__init__(f"{prefix}/.lock", f"{prefix}/.queue/", flags=LOCK_FLAGS, value=this_process())

    def conflict(self, entry: Entry) -> str:
        if entry.flags == LOCK_FLAGS:
            return ""
        return f"{self.key} is there and is not a lock (its flags are {entry.flags})"


def this_process() -> bytes:
    """What a key says of who holds it, for people."""
    return json.dumps({"Host": socket.gethostname(), "Pid": os.getpid()}).encode()


def shown(entry: Entry) -> str:
    """Who holds it, by what the holder wrote there; Consul's clients write something else, or nothing."""
    try:
        told = json.loads(entry.value)
        return f"process {int(told['Pid'])} on {str(told['Host'])[:255]!r}"
    except (ValueError, KeyError, TypeError, RecursionError):
        return f"session {entry.session}"
