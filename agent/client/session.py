"""A session that renews itself, and says when it has to be taken for lost.

What is promised: on a host that runs, `lost` is told before the servers end the session for want of a
renewal, by a fifth of its TTL or more, even if no agent answers any more. What is not: a host that slept, or
a process that was stopped, finds out when it wakes up, perhaps after another one was let in; and of a session
that was destroyed, or whose host or check failed, one hears with the next renewal. Whoever writes under a
lock passes the lock's fence along. Source: Consul, sessions; the reckoning is `lease.py`.
"""

from __future__ import annotations

import json
import logging
import threading
import time
from collections.abc import Callable

from gemot.agent.client.agents import Agents
from gemot.agent.client.connection import ClientError, NotAnAgent, Refused, Reply
from gemot.agent.client.lease import Lease, trusted_s
from gemot.agent.client.recipe import within

DEFAULT_TTL_S = 15.0
DEFAULT_LOCK_DELAY_S = 15.0
MAX_LOCK_DELAY_S = 60.0
LOOK_S = 0.25
"""Waits are cut into pieces of this length: a wait does not count the time that the host slept."""

CREATE_S = 5.0
"""How long the answer to the creation is waited for at least by who has the time."""

DESTROY_TRIES = 3
DESTROY_S = 2.0
"""How long each answer to the destruction is waited for."""

log = logging.getLogger(__name__)

Follower = Callable[[float, str], None]
"""Told when the last confirmed renewal was sent, on the boot clock, and why the session is lost, or ""."""


def boot_clock() -> float:
    """Seconds since the host was started, those included in which it slept."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


class Session:
    """A session of this program. May be used by several threads; begins once and ends once."""

    def __init__(
        self,
        agents: Agents,
        *,
        name: str = "",
        ttl_s: float = DEFAULT_TTL_S,
        lock_delay_s: float = DEFAULT_LOCK_DELAY_S,
        behavior: str = "release",
        clock: Callable[[], float] = boot_clock,
    ) -> None:
        """`ttl_s` is bounded by the agent, 10 s to a day by default; more than 70 s counts as 70 here
        (`lease.py`). `lock_delay_s` is at most a minute: with one that is shorter than 0.8 of the TTL, what
        it held may be another's before it is taken for lost here, if it is destroyed or its host fails.

        `behavior` is what its end does to keys it holds: "release" or "delete". With one agent the session
        ends as well when that agent's host is found dead; with several, by its TTL alone, since it is to
        outlive any of them.
        """
        self.id = ""
        self.ttl_s = ttl_s
        self._agents = agents.again()
        self._asked = creation(name, ttl_s, lock_delay_s, behavior, agents=len(agents.addresses))
        self._clock = clock
        self._changed = threading.Condition()
        self._lease: Lease | None = None
        self._ended = False
        self._follower: Follower | None = None

    def begin(self, left_s: float | None = None) -> None:
        """Create it, and renew it from now on. Raises ClientError.

        `left_s`: not much longer than that is the answer waited for. Without one the session may be there;
        its TTL ends it.
        """
        sent_s = self._clock()
        try:
            self.id = self._create(within(max(trusted_s(self.ttl_s), CREATE_S), left_s))
        except BaseException:
            self._agents.close()
            raise
        self._lease = Lease(self.ttl_s, sent_s)
        threading.Thread(target=self._keep, name="session", daemon=True).start()

    def _create(self, timeout_s: float) -> str:
        return created(
            self._agents.request("PUT", "/v1/session/create", body=self._asked, timeout_s=timeout_s)
        )

    @property
    def lost(self) -> str:
        """Why it is lost, "" while it lives. By this process's clock, without a question to anybody."""
        lease = self._lease
        if lease is None:
            return "the session has not begun"
        with self._changed:
            return "the session was ended" if self._ended else lease.lost(self._clock())

    @property
    def over(self) -> bool:
        return bool(self.lost)

    def lose(self, why: str) -> None:
        """It is known to be over, or what it held is: renewing ends."""
        with self._changed:
            if self._lease is not None and not self._ended:
                self._lease.lose(why)
            self._changed.notify_all()
        self._tell_or_log()

    def wait(self, timeout_s: float) -> str:
        """Wait until it is lost or ended, at most so long; why, or ""."""
        until_s = self._clock() + timeout_s
        while not (why := self.lost) and (left_s := until_s - self._clock()) > 0:
            with self._changed:
                self._changed.wait(min(LOOK_S, left_s))
        return why

    def follow(self, follower: Follower) -> None:
        """Have `follower` called now, after each renewal, and when it is lost; in any thread, not by an end.

        What it is called with may be old news by then: a later time, and a loss, count before earlier ones.
        Raises what it raises when it is called now; later that is logged, and renewing goes on.
        """
        self._follower = follower
        self._tell()

    def end(self) -> bool:
        """Destroy it, whether it is lost or not. False: no agent said so; its TTL ends it then.

        What it holds counts as held until then: nobody else gets it, this program least of all.
        """
        with self._changed:
            self._ended = True
            self._changed.notify_all()
        if not self.id:
            return True
        agents = self._agents.again()
        try:
            for _ in range(DESTROY_TRIES):
                try:
                    agents.request("PUT", f"/v1/session/destroy/{self.id}", timeout_s=DESTROY_S)
                    return True
                except ClientError:
                    time.sleep(LOOK_S)
            return False
        finally:
            agents.close()

    def _tell(self) -> None:
        follower, lease = self._follower, self._lease
        if follower is None or lease is None or self._ended:
            return
        with self._changed:
            confirmed_s, why = lease.confirmed_s, lease.lost(self._clock())
        follower(confirmed_s, why)

    def _tell_or_log(self) -> None:
        """A follower that fails must not end the renewals that others count on."""
        try:
            self._tell()
        except Exception:
            log.exception("session %s: a follower failed; it is renewed as before", self.id)

    def _keep(self) -> None:
        """The thread that renews."""
        lease = self._lease
        assert lease is not None
        while not self._ended:
            with self._changed:
                now_s = self._clock()
                lost, due, patience_s = lease.lost(now_s), lease.due(now_s), lease.patience_s(now_s)
                if not lost and not due:
                    self._changed.wait(min(LOOK_S, max(0.001, lease.next_s() - now_s)))
            if lost:
                break
            if due:
                self._renew(lease, patience_s)
                self._tell_or_log()
        self._agents.close()
        self._tell_or_log()

    def _renew(self, lease: Lease, patience_s: float) -> None:
        sent_s, trouble = self._clock(), None
        try:
            self._agents.request("PUT", f"/v1/session/renew/{self.id}", timeout_s=patience_s)
        except ClientError as error:
            trouble = error
        with self._changed:
            renewed(lease, sent_s, self._clock(), trouble)
            self._changed.notify_all()


def creation(name: str, ttl_s: float, lock_delay_s: float, behavior: str, *, agents: int) -> bytes:
    """What is asked for: the body of a creation through so many agents."""
    asked: dict[str, object] = {
        "Name": name,
        "TTL": f"{ttl_s:.15g}s",
        "LockDelay": f"{lock_delay_s:.15g}s",
        "Behavior": behavior,
    }
    return json.dumps(asked | ({"NodeChecks": []} if agents > 1 else {})).encode()


def created(reply: Reply) -> str:
    """The id of the session. Raises NotAnAgent."""
    told = reply.json()
    if not isinstance(told, dict) or not isinstance(told.get("ID"), str):
        raise NotAnAgent("the answer does not name a session: is this the API of an agent?")
    return str(told["ID"])


def renewed(lease: Lease, sent_s: float, now_s: float, trouble: ClientError | None) -> None:
    """What the answer to a renewal, or its failure, means for the lease."""
    if isinstance(trouble, Refused) and trouble.status == 404:
        lease.lose("the session is gone: it was destroyed, or its host or one of its checks failed")
    elif trouble is not None:
        lease.fail(now_s, str(trouble))
    else:
        lease.confirm(sent_s, now_s)
