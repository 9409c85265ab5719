"""Something held by a session of this program, with threads: a lock, a slot of a semaphore, an election.

    with Hold(Agents(), Lock("jobs/nightly")) as hold:
        kv.put("reports/today", b"done", lock=hold.guard, fence=hold.fence)

What a holder can rely on is said in the recipe's module (`lock.py`, `semaphore.py`, `election.py`).
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Any

from gemot.agent.client.agents import Agents, passes
from gemot.agent.client.connection import ClientError, NotAnAgent
from gemot.agent.client.entry import Entry, entries
from gemot.agent.client.held import Held
from gemot.agent.client.recipe import (
    AGAIN_S,
    RELEASE_S,
    Ask,
    LockLost,
    OutOfTime,
    Pause,
    Recipe,
    Steps,
    T,
    Tell,
)
from gemot.agent.client.session import (
    DEFAULT_TTL_S,
    Follower,
    Session,
    boot_clock,
)


class Hold(Held[Session]):
    """Of one thread: others may ask `held`, `lost` and `fence`. May be acquired again once it is released.

    `with hold:` waits for it without end, and gives it back.
    """

    def __init__(
        self,
        agents: Agents,
        recipe: Recipe,
        *,
        name: str = "",
        ttl_s: float = DEFAULT_TTL_S,
        lock_delay_s: float | None = None,
        tell: Callable[[str], None] = lambda text: None,
        seen: Callable[[Sequence[Entry]], None] = lambda rows: None,
        clock: Callable[[], float] = boot_clock,
    ) -> None:
        """`name` and `ttl_s` are the session's. `tell` is told what is waited for.

        `lock_delay_s` is how long nobody gets what the session held after it ended with it: by default its
        TTL, a minute at most, by when a holder whose session was destroyed has heard of it, or takes it for
        lost without that (`lease.py`); with a shorter one two may believe that they hold it. `seen` is handed
        the entry that is held, in a thread, each time it changes while it is; what it raises is logged,
        and the watch goes on.
        """
        super().__init__(
            recipe, name=name, ttl_s=ttl_s, lock_delay_s=lock_delay_s, tell=tell, seen=seen, clock=clock
        )
        self._agents = agents
        self._releasing = threading.Event()

    # -- what a holder asks ------------------------------------------------------------------------

    def wait_lost(self, timeout_s: float) -> str:
        """Wait until it is lost, at most so long; why, or ""."""
        return self._session.wait(timeout_s) if self._session is not None else self.lost

    def follow(self, follower: Follower) -> None:
        """See Session.follow."""
        if self._session is not None:
            self._session.follow(follower)

    # -- acquire and release -----------------------------------------------------------------------

    def acquire(self, timeout_s: float | None = None) -> int | None:
        """Wait for it, at most so long; its fence, or None when the time is over.

        Raises LockConflict where the key is something else's, and ClientError where no agent takes the first
        request or one refuses for good. After that, errors are waited out. A session that is lost meanwhile
        is followed by a new one, at the end of the queue. However it ends without it, the session is
        destroyed: an acquisition of which nobody knows whether it was done is undone with it, and counts as
        done until then.
        """
        assert self._session is None, "it is acquired once before it is released"
        until_s = None if timeout_s is None else self._clock() + timeout_s
        session = self._new()
        session.begin(timeout_s)
        while True:
            try:
                self.fence = self._drive(self.recipe.take(session.id), session, until_s)
                self._hold(session)
                return self.fence
            except LockLost as error:
                session.end()
                self._say(f"waiting anew: {error}")
            except OutOfTime:
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

        Where no agent answers it stays taken until then, and True says that it was held until now.
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
        try:
            return self._drive(self.recipe.give_back(session.id), session, self._clock() + RELEASE_S)
        except ClientError:
            return True  # the end of the session does it

    def __enter__(self) -> Hold:
        self.acquire()
        return self

    def __exit__(self, *_: object) -> None:
        self.release()

    # -- the session -------------------------------------------------------------------------------

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
                session.begin(None if until_s is None else until_s - self._clock())
                return session
            except ClientError as error:
                if not passes(error):
                    raise
                self._say(f"again in a moment: {error}")
            threading.Event().wait(AGAIN_S)
        return None

    def _hold(self, session: Session) -> None:
        if why := session.lost:
            raise LockLost(why)
        self._releasing = threading.Event()
        self._session = session
        watch = (session, self._agents.again(), self._releasing)
        threading.Thread(target=self._watch, args=watch, name="hold", daemon=True).start()

    def _watch(self, session: Session, agents: Agents, releasing: threading.Event) -> None:
        """The thread that looks whether it still is the session's. It shares the session's end."""
        try:
            self._watch_until_lost(session, agents, releasing)
        finally:
            agents.close()

    def _watch_until_lost(self, session: Session, agents: Agents, releasing: threading.Event) -> None:
        index, look = 0, self.recipe.look()
        while not releasing.is_set() and not session.over:
            asked = Ask(look.method, look.key, look.params, after=index)
            try:
                reply = agents.request(asked.method, asked.path, **asked.sent(self._ttl_s))
                rows = entries(reply)
            except ClientError:
                index = 0
                session.wait(AGAIN_S)
                continue
            index = reply.index
            if releasing.is_set():
                break
            if why := self.recipe.lost(session.id, rows):
                session.lose(why)
            else:
                self._show(rows)

    # -- asking ------------------------------------------------------------------------------------

    def _drive(self, steps: Steps[T], session: Session, until_s: float | None) -> T:
        """Do the steps; what they come to. Raises LockLost, OutOfTime, LockConflict, ClientError."""
        answer: Any = None
        while True:
            try:
                step = steps.send(answer)
            except StopIteration as end:
                result: T = end.value
                return result
            answer = None
            if isinstance(step, Tell):
                self._say(step.text)
            elif isinstance(step, Pause):
                self._pause(session, until_s, step.for_s)
            else:
                answer = self._ask(step, session, until_s)

    def _ask(self, step: Ask, session: Session, until_s: float | None) -> Any:
        """Until it is answered: errors that may pass are waited out while session and time last."""
        while True:
            if not step.once:
                self._pause(session, until_s, 0)
            left_s = None if until_s is None else until_s - self._clock()
            try:
                return self._agents.request(step.method, step.path, **step.sent(self._ttl_s, left_s))
            except ClientError as error:
                if step.once:
                    return None
                if isinstance(error, NotAnAgent) or not passes(error):
                    raise
                self._say(f"again in a moment: {error}")
            self._pause(session, until_s, AGAIN_S)

    def _pause(self, session: Session, until_s: float | None, for_s: float) -> None:
        """Raises LockLost or OutOfTime."""
        left_s = for_s if until_s is None else min(for_s, until_s - self._clock())
        if why := session.wait(left_s) if left_s > 0 else session.lost:
            raise LockLost(why)
        if until_s is not None and self._clock() >= until_s:
            raise OutOfTime("the time is over")
