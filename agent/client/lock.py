"""A lock that one program of the cluster holds at a time, first come, first served.

Under a prefix: `.lock` is Consul's key with Consul's flags, so its own command and libraries keep out ours,
and are kept out. `.queue/` has an entry for each of our waiters, in the order of their fences; only the first
of them tries for the lock. Entries are held by their waiters' sessions and deleted with them, so a dead one
is in nobody's way. Who waits with Consul's clients stands in no queue.

What is promised: on a host that runs, the holder knows that the lock is lost (`held`, `lost`) before its
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
import threading
from collections.abc import Callable, Sequence
from typing import Any

import msgspec

from gemot.agent.client.agents import Agents, passes
from gemot.agent.client.connection import ClientError, NotAnAgent, Reply
from gemot.agent.client.kv import Entry, entries
from gemot.agent.client.path import escape
from gemot.agent.client.session import (
    DEFAULT_TTL_S,
    MAX_LOCK_DELAY_S,
    Follower,
    Session,
    boot_clock,
)

LOCK_FLAGS = 0x2DDCCBC058A50C18
"""By which Consul's clients know a lock from other keys, a semaphore's among them."""

WAIT_S = 10.0
"""How long one blocking read waits."""

SLACK_S = 5.0
"""How much later its answer may be."""

DELAYED_S = 1.0
"""Until the next try where the lock is refused and nobody holds it: no read is told of the end of a lock
delay."""

AGAIN_S = 0.5
"""Until the next try after an error that may pass."""

RELEASE_S = 5.0
"""How long it is tried to give the lock back in order; after that the end of the session does it."""


class LockLost(ClientError):
    """The lock, or the place in the queue, is lost. What is done under it must end now."""


class LockConflict(ClientError):
    """The key is there, and is not a lock."""


class _OutOfTime(ClientError):
    pass


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


class Lock:
    """One lock, of one thread: others may ask `held`, `lost` and `fence`.

    `with lock:` waits for it without end, and gives it back.
    """

    def __init__(
        self,
        agents: Agents,
        prefix: str,
        *,
        name: str = "",
        ttl_s: float = DEFAULT_TTL_S,
        lock_delay_s: float | None = None,
        tell: Callable[[str], None] = lambda text: None,
        clock: Callable[[], float] = boot_clock,
    ) -> None:
        """`name` and `ttl_s` are the session's. `tell` is told what is waited for.

        `lock_delay_s` is how long nobody gets the lock after its session ended with it: by default its TTL, a
        minute at most, by when a holder whose session was destroyed has heard of it.
        """
        prefix = prefix.strip("/")
        if not prefix:
            raise ValueError("a lock needs a prefix, such as jobs/nightly")
        self.key = f"{prefix}/.lock"
        self.fence = 0
        """Of the last acquisition; greater than that of any before it. 0 from a server that has none."""
        self._queue = f"{prefix}/.queue/"
        self._agents = agents
        self._name = name or f"Lock {prefix}"
        self._ttl_s = ttl_s
        self._lock_delay_s = min(ttl_s, MAX_LOCK_DELAY_S) if lock_delay_s is None else lock_delay_s
        self._tell = tell
        self._told = ""
        self._clock = clock
        self._value = json.dumps({"Host": socket.gethostname(), "Pid": os.getpid()}).encode()
        self._session: Session | None = None
        self._releasing = threading.Event()

    # -- what a holder asks ------------------------------------------------------------------------

    @property
    def session(self) -> str:
        """The id of the session that holds it, "" if none does."""
        return self._session.id if self._session is not None else ""

    @property
    def held(self) -> bool:
        return self._session is not None and not self._session.over

    @property
    def lost(self) -> str:
        """Why it is not held (any more); "" while it is. Asks nobody: cheap, and right without an agent."""
        return self._session.lost if self._session is not None else "the lock was not acquired"

    def check(self) -> int:
        """The fence. Raises LockLost."""
        if why := self.lost:
            raise LockLost(f"{self.key}: {why}")
        return self.fence

    def wait_lost(self, timeout_s: float) -> str:
        """Wait until it is lost, at most so long; why, or ""."""
        return self._session.wait(timeout_s) if self._session is not None else self.lost

    def follow(self, follower: Follower) -> None:
        """See Session.follow."""
        if self._session is not None:
            self._session.follow(follower)

    # -- acquire and release -----------------------------------------------------------------------

    def acquire(self, timeout_s: float | None = None) -> int | None:
        """Wait for the lock, at most so long; its fence, or None when the time is over.

        Raises LockConflict where the key is something else's, and ClientError where no agent takes the first
        request or one refuses for good. After that, errors are waited out. A session that is lost meanwhile
        is followed by a new one, at the end of the queue. However it ends without the lock, the session is
        destroyed: an acquisition of which nobody knows whether it was done is undone with it, and counts as
        done until then.
        """
        assert self._session is None, "a lock is acquired once before it is released"
        until_s = None if timeout_s is None else self._clock() + timeout_s
        session = self._new()
        session.begin()
        while True:
            try:
                self.fence = self._attempt(session, until_s)
                self._hold(session)
                return self.fence
            except LockLost as error:
                session.end()
                self._say(f"waiting anew: {error}")
            except _OutOfTime:
                session.end()
                return None
            except BaseException:
                session.end()
                raise
            again = self._begun_again(until_s)
            if again is None:
                return None
            session = again

    def release(self) -> bool:
        """Give it back; False if it was lost before. The session is over then, or its TTL ends it.

        Where no agent answers the lock stays taken until then, and True says that it was held until now.
        """
        session, self._session = self._session, None
        if session is None:
            return False
        self._releasing.set()
        try:
            return not session.over and self._give_back(session)
        finally:
            session.end()

    def _give_back(self, session: Session) -> bool:
        """False: it was another's, or nobody's."""
        params = {"release": session.id, "flags": LOCK_FLAGS}
        try:
            until_s = self._clock() + RELEASE_S
            reply = self._ask(session, until_s, "PUT", self.key, params=params, body=self._value)
            if reply.json() is not True:
                return False
            if index := reply.headers.get("x-gemot-index"):
                # As it was left, with nobody who has it: otherwise it stays.
                self._agents.request("DELETE", _path(self.key), params={"cas": index}, timeout_s=AGAIN_S)
        except ClientError:
            pass  # the end of the session does it
        return True

    def __enter__(self) -> Lock:
        self.acquire()
        return self

    def __exit__(self, *_: object) -> None:
        self.release()

    # -- one attempt -------------------------------------------------------------------------------

    def _new(self) -> Session:
        return Session(
            self._agents,
            name=self._name,
            ttl_s=self._ttl_s,
            lock_delay_s=self._lock_delay_s,
            behavior="delete",
            clock=self._clock,
        )

    def _begun_again(self, until_s: float | None) -> Session | None:
        """A session after one that was lost; None when the time is over."""
        while until_s is None or self._clock() < until_s:
            session = self._new()
            try:
                session.begin()
                return session
            except ClientError as error:
                if not passes(error):
                    raise
                self._say(f"again in a moment: {error}")
            threading.Event().wait(AGAIN_S)
        return None

    def _attempt(self, session: Session, until_s: float | None) -> int:
        """The fence. Raises LockLost (the session is), _OutOfTime, LockConflict, ClientError."""
        mine = self._queue + session.id
        while (before := self._before(session, until_s)) is not None:
            self._say(f"waiting behind {before.key}")
            self._await_end(session, until_s, before)
        while True:
            reply, entry = self._read(session, until_s, self.key)
            if entry is not None and entry.flags != LOCK_FLAGS:
                raise LockConflict(f"{self.key} is there and is not a lock (its flags are {entry.flags})")
            if entry is not None and entry.session not in ("", session.id):
                self._say(f"waiting: {self.key} is held by {_shown(entry)}")
                self._read(session, until_s, self.key, index=reply.index)
                continue
            params = {"acquire": session.id, "flags": LOCK_FLAGS}
            got = self._ask(session, until_s, "PUT", self.key, params=params, body=self._value)
            if got.json() is True:
                # The next in line may wait for the key itself now; if this fails, once the session ends.
                self._drop(mine)
                return _fence(got)
            _, entry = self._read(session, until_s, self.key)
            if entry is None or not entry.session:
                self._say(f"waiting: {self.key} was lost by its holder, and is free after its lock delay")
                self._pause(session, until_s, DELAYED_S)

    def _before(self, session: Session, until_s: float | None) -> Waiter | None:
        """Who is next before this session in the queue, which it joins if it has to."""
        while True:
            try:
                return ahead_of(session.id, self._waiters(session, until_s))
            except KeyError:
                params = {"acquire": session.id}
                self._ask(session, until_s, "PUT", self._queue + session.id, params=params, body=self._value)

    def _waiters(self, session: Session, until_s: float | None) -> list[Waiter]:
        reply = self._ask(session, until_s, "GET", self._queue, params={"recurse": True}, ok=(200, 404))
        return [Waiter(row.key, row.session, row.fence or row.create_index) for row in entries(reply)]

    def _await_end(self, session: Session, until_s: float | None, waiter: Waiter) -> None:
        reply, entry = self._read(session, until_s, waiter.key)
        if entry is not None and entry.session == waiter.session:
            self._read(session, until_s, waiter.key, index=reply.index)

    def _drop(self, key: str) -> None:
        try:
            self._agents.request("DELETE", _path(key), timeout_s=self._ttl_s / 10)
        except ClientError:
            pass

    def _hold(self, session: Session) -> None:
        if why := session.lost:
            raise LockLost(why)
        self._releasing = threading.Event()
        self._session = session
        watch = (session, self._agents.again(), self._releasing)
        threading.Thread(target=self._watch, args=watch, name="lock", daemon=True).start()

    def _watch(self, session: Session, agents: Agents, releasing: threading.Event) -> None:
        """The thread that looks whether the key still is the session's. It shares the session's end."""
        index = 0
        while not releasing.is_set() and not session.over:
            try:
                reply = agents.request("GET", _path(self.key), **_blocking(index, WAIT_S))
                rows = entries(reply)
            except ClientError:
                index = 0
                session.wait(AGAIN_S)
                continue
            index = reply.index
            if not releasing.is_set() and [row.session for row in rows] != [session.id]:
                session.lose(f"{self.key} was taken from it or deleted")
        agents.close()

    # -- asking ------------------------------------------------------------------------------------

    def _read(
        self, session: Session, until_s: float | None, key: str, *, index: int = 0
    ) -> tuple[Reply, Entry | None]:
        """The entry, at once, or once it has changed since that index, or after some time."""
        left_s = WAIT_S if until_s is None else min(WAIT_S, max(0.001, until_s - self._clock()))
        reply = self._ask(session, until_s, "GET", key, **_blocking(index, left_s))
        return reply, next(iter(entries(reply)), None)

    def _ask(self, session: Session, until_s: float | None, method: str, key: str, **asked: Any) -> Reply:
        """Until it is answered: errors that may pass are waited out while session and time last."""
        asked.setdefault("timeout_s", max(SLACK_S, self._ttl_s))
        while True:
            self._pause(session, until_s, 0)
            try:
                return self._agents.request(method, _path(key), **asked)
            except ClientError as error:
                if isinstance(error, NotAnAgent) or not passes(error):
                    raise
                self._say(f"again in a moment: {error}")
            self._pause(session, until_s, AGAIN_S)

    def _pause(self, session: Session, until_s: float | None, for_s: float) -> None:
        """Raises LockLost or _OutOfTime."""
        left_s = for_s if until_s is None else min(for_s, until_s - self._clock())
        if why := session.wait(left_s) if left_s > 0 else session.lost:
            raise LockLost(why)
        if until_s is not None and self._clock() >= until_s:
            raise _OutOfTime("the time is over")

    def _say(self, text: str) -> None:
        """Each thing once in a row."""
        if text != self._told:
            self._told = text
            self._tell(text)


def _path(key: str) -> str:
    return f"/v1/kv/{escape(key)}"


def _blocking(index: int, wait_s: float) -> dict[str, Any]:
    """A read that waits for a change after `index`; one that does not wait, for index 0."""
    timeout_s = wait_s * 17 / 16 + SLACK_S if index else SLACK_S
    params = {"index": index, "wait": f"{max(1, round(wait_s * 1000))}ms"} if index else {}
    return {"params": params, "timeout_s": timeout_s, "ok": (200, 404)}


def _fence(reply: Reply) -> int:
    told = reply.headers.get("x-gemot-fence", "")
    return int(told) if told.isascii() and told.isdigit() and len(told) <= 20 else 0


def _shown(entry: Entry) -> str:
    """Who holds it, by what the holder wrote there; Consul's clients write something else, or nothing."""
    try:
        told = json.loads(entry.value)
        return f"process {int(told['Pid'])} on {str(told['Host'])[:255]!r}"
    except (ValueError, KeyError, TypeError, RecursionError):
        return f"session {entry.session}"
