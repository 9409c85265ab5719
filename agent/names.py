"""What DNS asks, answered from this agent's views: one watched query for each node or service asked for.

The number of watched names is bounded, and names that are not in the catalog have a small pool of their own:
a flood of random names pushes out other random names, not those in use. A name nobody asks for any more is
given up. While the servers are away, what was known is still answered (Consul: allow_stale); what is not
known fails within `wait_s`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Protocol

from gemot.dns.catalog import Ask, Found, NodeAsk
from gemot.server.model.catalog import HealthService, NodeDetail, NodeInfo
from gemot.server.model.errors import Busy, Unavailable
from gemot.server.model.query import Answer, Query

KNOWN_LIMIT = 4096
UNKNOWN_LIMIT = 512
WAIT_S = 2.0
"""Resolvers ask again after 2 to 5 s: a later answer has no reader."""

MOST_USES = 15
"""More uses than this count no more: a name needs four rounds of ageing to be given up."""

SWEEP_S = 30.0
KNOWN_IDLE_SWEEPS = 20
UNKNOWN_IDLE_SWEEPS = 2


class Watch(Protocol):
    def cancel(self) -> None: ...


class Watched(Protocol):
    """The part of `Views` that is needed."""

    def watch(self, query: Query, callback: Callable[[Answer], None]) -> Watch:
        """Call back with the present answer, if there is one, then on each change, until cancelled."""


class Names:
    """The `Catalog` that DNS looks into. For one event loop.

    `known_limit` and `unknown_limit` bound the names held that the catalog has, and has not (yet).
    """

    def __init__(
        self,
        *,
        views: Watched,
        known_limit: int = KNOWN_LIMIT,
        unknown_limit: int = UNKNOWN_LIMIT,
        wait_s: float = WAIT_S,
    ) -> None:
        self._views = views
        self._wait_s = wait_s
        self._known = _Pool(known_limit, KNOWN_IDLE_SWEEPS)
        self._unknown = _Pool(unknown_limit, UNKNOWN_IDLE_SWEEPS)
        self._sweeper: asyncio.TimerHandle | None = None
        self._stopped = False

    def __len__(self) -> int:
        return len(self._known.names) + len(self._unknown.names)

    def peek(self, ask: Ask) -> Found | None:
        name = self._get(ask)
        if name is None or name.found is None:
            return None
        name.found.used += 1
        return name.found

    async def fetch(self, ask: Ask) -> None:
        """Watch this name, and wait for its first answer. Raises Unavailable, or Busy at the limit."""
        name = self._get(ask) or self._open(ask)
        if name.found is not None:
            return
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        name.waiters.add(waiter)
        try:
            async with asyncio.timeout(self._wait_s):
                await waiter
        except TimeoutError as error:
            raise Unavailable(
                f"no server told about {_describe(ask)} within {self._wait_s:g} s: see `gemot status`"
            ) from error
        finally:
            name.waiters.discard(waiter)

    def sweep(self) -> None:
        """Give up names that nobody has asked for since the last few sweeps. Called by a timer of our own."""
        for pool in (self._known, self._unknown):
            for name in pool.pick_idle():
                self._drop(name)

    def stop(self) -> None:
        """Give up everything; no answer comes after this."""
        self._stopped = True
        if self._sweeper is not None:
            self._sweeper.cancel()
        for pool in (self._known, self._unknown):
            for name in list(pool.names.values()):
                self._drop(name)

    def _get(self, ask: Ask) -> _Name | None:
        return self._known.names.get(ask) or self._unknown.names.get(ask)

    def _open(self, ask: Ask) -> _Name:
        if self._stopped:
            raise Unavailable("This agent is stopping: it looks up no new names.")
        if not self._make_room(self._unknown):
            raise Busy(
                f"{self._unknown.limit} names wait for their first answer, the limit: the servers do not "
                "answer now, or something asks this agent's DNS for very many names that do not exist"
            )
        name = _Name(ask)
        self._unknown.names[ask] = name
        try:
            name.watch = self._views.watch(_query(ask), lambda answer: self._on_answer(name, answer))
        except BaseException:
            self._drop(name)
            raise
        if name.dropped:  # given up from within the call above
            name.watch.cancel()
        self._arm()
        return name

    def _on_answer(self, name: _Name, answer: Answer) -> None:
        if name.dropped:
            return
        found = name.tell(_find(name.ask, answer))
        pool, other = (self._unknown, self._known) if found.empty else (self._known, self._unknown)
        if other.names.pop(name.ask, None) is None:
            return
        if self._make_room(pool):
            pool.names[name.ask] = name
        else:
            name.drop()

    def _make_room(self, pool: _Pool) -> bool:
        """Whether there is room for one more; at the limit the name not used for longest is given up."""
        if len(pool.names) < pool.limit:
            return True
        name = pool.pick_least_used()
        if name is None:
            return False
        self._drop(name)
        return True

    def _drop(self, name: _Name) -> None:
        self._known.names.pop(name.ask, None)
        self._unknown.names.pop(name.ask, None)
        name.drop()

    def _arm(self) -> None:
        if self._sweeper is None:
            self._sweeper = asyncio.get_running_loop().call_later(SWEEP_S, self._on_sweep)

    def _on_sweep(self) -> None:
        self._sweeper = None
        self.sweep()
        if len(self):
            self._arm()


class _Name:
    """One watched name: what was found last, and who waits for the first answer."""

    def __init__(self, ask: Ask) -> None:
        self.ask = ask
        self.found: Found | None = None
        self.watch: Watch | None = None
        self.waiters: set[asyncio.Future[None]] = set()
        self.idle_sweeps = 0
        self.dropped = False

    def tell(self, found: Found) -> Found:
        """Take over what was found, unless it says the same; what holds now."""
        if self.found is not None and _essence(found) == _essence(self.found):
            return self.found
        if self.found is not None:
            found.used = self.found.used
            self.found.live = False
        self.found = found
        for waiter in list(self.waiters):
            if not waiter.done():
                waiter.set_result(None)
        return found

    def age(self) -> bool:
        """Whether it was used of late. Each call halves what uses count, so that many outweigh one."""
        if self.waiters:
            return True
        if self.found is None or not self.found.used:
            return False
        self.found.used = min(self.found.used, MOST_USES) >> 1
        return True

    def drop(self) -> None:
        self.dropped = True
        if self.watch is not None:
            self.watch.cancel()
        if self.found is not None:
            self.found.live = False
        for waiter in list(self.waiters):
            if not waiter.done():
                waiter.set_exception(Unavailable(f"the watch of {_describe(self.ask)} was given up"))


class _Pool:
    """Names held up to a limit, in the order they would be given up."""

    def __init__(self, limit: int, idle_sweeps: int) -> None:
        self.limit = limit
        self.names: dict[Ask, _Name] = {}
        self._idle_sweeps = idle_sweeps

    def pick_least_used(self) -> _Name | None:
        """The first whose uses have aged away; None if all have someone waiting."""
        waiting = 0
        while waiting < len(self.names):
            ask = next(iter(self.names))
            name = self.names.pop(ask)
            self.names[ask] = name
            if not name.age():
                return name
            waiting = waiting + 1 if name.waiters else 0
        return None

    def pick_idle(self) -> list[_Name]:
        idle = []
        for name in self.names.values():
            name.idle_sweeps = 0 if name.age() else name.idle_sweeps + 1
            if name.idle_sweeps >= self._idle_sweeps:
                idle.append(name)
        return idle


def _query(ask: Ask) -> Query:
    return NodeInfo(ask.name) if isinstance(ask, NodeAsk) else HealthService(ask.name)


def _find(ask: Ask, answer: Answer) -> Found:
    if not isinstance(ask, NodeAsk):
        return Found(instances=tuple(answer.value))
    detail: NodeDetail | None = answer.value
    return Found(node=detail.node if detail is not None else None)


def _essence(found: Found) -> object:
    """What DNS can tell of it: a check's new output changes no answer."""
    states = [tuple(check.status for check in one.checks) for one in found.instances]
    return found.node, [(one.node, one.service) for one in found.instances], states


def _describe(ask: Ask) -> str:
    return f"{'node' if isinstance(ask, NodeAsk) else 'service'} {ask.name!r}"
