"""User events on this agent: fired here or heard by gossip, passed on once, kept if meant for this host.

What an event is, and when it is new, is in `gossip/events.py`; here it meets the network. Datagrams carry it
at once; exchanges carry the last ones again, each with its age, for members that the datagrams missed. By the
age a member knows, too, what was fired before it was one: that is not for it, whoever tells of it how late.
So no event comes twice to a host whose agent was started again. Before its first exchange it hears nothing,
and what that one brings was there before it. What a datagram brings and may be from before is left for an
exchange to decide.

Ages are measured by each member's own clock, from when it heard: they may be too short and are never too
long, so that nothing that was fired after a member joined is too old for it.

Each new event costs time here and room in everybody's datagrams, so those of others are bounded in number.
What is more is dropped as if it had not come: exchanges may bring it again.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Protocol
from uuid import uuid4

import msgspec

from gemot.agent.gossip.allowance import Allowance
from gemot.agent.gossip.events import KEPT, TOPIC, Events, Fired, UserEvent, is_meant
from gemot.agent.gossip.loop import Freight
from gemot.agent.gossip.message import News
from gemot.server.model.catalog import Service
from gemot.server.model.errors import Busy

log = logging.getLogger("gemot.agent")

AGED = 2
"""The topic of an event in an exchange: `_Aged`. Datagrams bring events as they were fired."""

MAX_WAITERS = 4_096
"""Reads of the list that wait for the next event."""

BURST = KEPT
"""New events of others at once: as many as an exchange brings."""

EACH_S = 64
"""New events of others a second, when it goes on."""

_AGE_MAX_MS = 1 << 53


class _Aged(msgspec.Struct, frozen=True, array_like=True):
    """An event, and how long ago the teller heard it."""

    age_ms: int
    body: bytes


class Carrier(Protocol):
    """What is needed of gossip (`gossip.loop.Gossip`)."""

    def carry(self, freight: Freight) -> None: ...

    def tell(self, subject: str, news: News) -> None:
        """To everybody, by datagram."""


def boot_s() -> float:
    """A clock that goes on while the host is suspended, as the ages of what others fired meanwhile do."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


class UserEvents:
    """`services` are those registered with this agent, by id: their names and tags are what filters look at.

    Without gossip an event reaches this agent alone.
    """

    def __init__(
        self,
        *,
        node: str,
        services: Callable[[], Mapping[str, Service]],
        now_s: Callable[[], float] = boot_s,
        gossip: Carrier | None,
    ) -> None:
        self._node = node
        self._services = services
        self._now_s = now_s
        self._gossip = gossip
        self._events = Events()
        self._recent: deque[tuple[float, News]] = deque(maxlen=KEPT)
        self._allowance = Allowance(BURST, EACH_S)
        self._member_since_s: float | None = None
        self._waiting: dict[asyncio.Future[None], None] = {}
        self.fired = 0
        self.heard = 0

    def start(self) -> None:
        if self._gossip is not None:
            self._gossip.carry(self)

    @property
    def dropped(self) -> int:
        return self._events.dropped

    # -- what is asked of it -----------------------------------------------------------------------

    def fire(
        self, name: str, payload: bytes = b"", *, node: str = "", service: str = "", tag: str = ""
    ) -> UserEvent:
        """Tell everybody, this agent too. Raises BadRequest, or TooLarge for more than 512 bytes in all."""
        event = UserEvent(str(uuid4()), name, payload, node, service, tag)
        news = self._events.fire(event)
        self.fired += 1
        self._hear(news, own=True)
        return event

    def list(self, name: str = "") -> list[Fired]:
        """The last that were meant for this host, the oldest first; with a name those of that name."""
        return [each for each in self._events.heard if not name or each.event.name == name]

    def numbered(self, name: str = "") -> Sequence[tuple[int, Fired]]:
        """`list`, each with its number: those of all names are counted together, from 1 at the start."""
        kept = enumerate(self._events.heard, self.forgotten + 1)
        return [(number, each) for number, each in kept if not name or each.event.name == name]

    @property
    def accepted(self) -> int:
        """The number of the last one, 0 before the first."""
        return self._events.accepted

    @property
    def forgotten(self) -> int:
        """The number of the last one that is not kept any more."""
        return self.accepted - len(self._events.heard)

    async def wait(self) -> None:
        """Until the next one is kept. Raises Busy if too many wait."""
        if len(self._waiting) >= MAX_WAITERS:
            raise Busy(f"{MAX_WAITERS} reads wait for events on this agent, the most there may be")
        kept: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting[kept] = None
        try:
            await kept
        finally:
            self._waiting.pop(kept, None)

    # -- Freight: what gossip brings and takes -----------------------------------------------------

    @property
    def clock(self) -> int:
        return self._events.clock.time

    def recent(self) -> tuple[News, ...]:
        now_s = self._now_s()
        return tuple(
            News(AGED, _encoder.encode(_Aged(int(1000 * (now_s - heard_s)), news.body)))
            for heard_s, news in self._recent
        )

    def on_news(self, news: News) -> None:
        if self._member_since_s is not None:
            self._hear(news)

    def on_exchange(self, clock: int, news: tuple[News, ...]) -> None:
        if self._member_since_s is None:
            self._member_since_s = self._now_s()
            told = [News(TOPIC, aged.body) for each in news if (aged := _aged(each)) is not None]
            self._events.ignore_before(clock, told)
            return
        self._events.clock.catch_up(clock)
        for each in news:
            if (aged := _aged(each)) is not None:
                self._hear(News(TOPIC, aged.body), aged.age_ms / 1000)
            elif each.topic == AGED:
                self._events.dropped += 1

    # -- inside ------------------------------------------------------------------------------------

    def _hear(self, news: News, told_s: float | None = None, *, own: bool = False) -> None:
        """`told_s`: its age, if that is told. Also what is not for this member is noted as heard."""
        may = lambda: own or self._allowance.take(self._now_s())  # noqa: E731
        fired = self._events.hear(news, may, aged=told_s is not None)
        age_s = told_s or 0.0
        if fired is None or age_s > self._now_s() - (self._member_since_s or 0.0):
            return
        self.heard += 1
        self._recent.append((self._now_s() - age_s, news))
        if self._gossip is not None:
            self._gossip.tell(f"event {fired.event.id}", news)
        if is_meant(fired.event, self._node, self._here()):
            self._keep(fired)

    def _keep(self, fired: Fired) -> None:
        log.debug("agent: event: name=%r id=%s", fired.event.name, fired.event.id)
        self._events.accept(fired)
        waiting, self._waiting = self._waiting, {}
        for each in waiting:
            if not each.done():
                each.set_result(None)

    def _here(self) -> Iterable[tuple[str, tuple[str, ...]]]:
        return [(each.service, each.tags) for each in self._services().values()]


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(_Aged)


def _aged(news: News) -> _Aged | None:
    """None for what is none: it comes from outside."""
    if news.topic != AGED:
        return None
    try:
        aged = _decoder.decode(news.body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    return aged if 0 <= aged.age_ms <= _AGE_MAX_MS else None
