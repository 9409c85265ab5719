"""This agent among all agents: port 8301, with gossip on it, and what gossip says in the tier's own words.

Gossip carries of an agent what everybody needs: its role, its release, its RPC address. Node metadata and
tagged addresses are told to the servers (`rpc/message.py`), for they may be long.
"""

from __future__ import annotations

import asyncio
import logging
import os
import random
from collections.abc import Callable, Iterable, Iterator
from typing import Literal, Protocol, cast

import msgspec

from gemot.agent.gossip import stream
from gemot.agent.gossip.door import SILENT, Door
from gemot.agent.gossip.loop import BROKEN_OFF, Gossip
from gemot.agent.gossip.members import HERE
from gemot.agent.gossip.message import PROTOCOL_MAX, PROTOCOL_MIN, Facts, Record, Status
from gemot.agent.gossip.seal import Unopened, Why
from gemot.agent.gossip.swim import Swim
from gemot.agent.gossip.throttle import Throttle
from gemot.agent.gossip.timing import LAN, Timing
from gemot.agent.gossip.view import Change, Event
from gemot.agent.sealing import Sealing
from gemot.server.members import Standing
from gemot.server.rpc import frame
from gemot.server.rpc.message import Member, fault_of
from gemot.server.runtime.connection import Listener
from gemot.server.state.names import fold

log = logging.getLogger("gemot.gossip")

STANDINGS: dict[Status, Standing] = {
    Status.ALIVE: "alive",
    Status.SUSPECT: "suspect",
    Status.FAILED: "failed",
    Status.LEFT: "left",
}
BECAME: dict[Change, Standing] = {
    Change.JOINED: "alive",
    Change.UPDATED: "alive",
    Change.REFUTED: "alive",
    Change.FAILED: "failed",
    Change.LEFT: "left",
    Change.REAPED: "left",
}
"""What the tier makes of a change; a suspicion is nothing yet."""

_GONE = (Change.FAILED, Change.LEFT, Change.REAPED)
_LOUD = (Change.JOINED, Change.FAILED, Change.LEFT, Change.REAPED)


TURNED_AWAY = "turned_away"
"""Strangers of another datacenter, or more members than there is room for (`view.MOST_MEMBERS`)."""


class _Meta(msgspec.Struct, frozen=True, array_like=True):
    """What an agent tells of itself by gossip, beside its name and address."""

    role: Literal["server", "client"]
    datacenter: str
    build: str
    rpc: str = ""


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(_Meta)


class LanConfig(msgspec.Struct, frozen=True):
    """Where gossip listens and how fast it goes."""

    bind: str
    port: int
    timing: Timing = LAN
    sealing: Sealing = Sealing()
    reconnect_timeout_ms: int = 0
    """How long this agent wishes to be remembered once it has failed; 0: as the others have it."""


class Surveyor(Protocol):
    """Finds out where this agent stands (`whereabouts.py`)."""

    def payload(self) -> bytes: ...

    def on_distance(self, id: str, rtt_s: float, payload: bytes) -> None: ...

    def forget(self, id: str) -> None: ...


class Lan:
    """Gossip on its port. `heard` is told on the loop how a member stands from now on."""

    def __init__(
        self,
        *,
        loop: asyncio.AbstractEventLoop,
        config: LanConfig,
        me: Member,
        joins: Listener,
        heard: Callable[[Member, Standing], None],
    ) -> None:
        self._loop = loop
        self._throttle = Throttle()
        self._config = config
        self._me = me
        self._joins = joins
        self._heard = heard
        self._surveyor: Surveyor | None = None
        self._changed: Callable[[], None] = lambda: None
        self.sealing = config.sealing
        datagrams, frames = config.sealing.seals(me.id)
        self.gossip = Gossip(
            loop=loop,
            swim=Swim(
                me=facts_of(me, config.port, config.reconnect_timeout_ms),
                timing=config.timing,
                # Whom each member asks and tells must differ between hosts.
                random=random.Random(os.urandom(16)),
                now_ms=int(loop.time() * 1000),
                payload=lambda: self._surveyor.payload() if self._surveyor is not None else b"",
                admits=lambda facts: not self._foreign(facts),
            ),
            datagrams=datagrams,
            frames=frames,
            admit=self._refusal,
            on_event=self._on_event,
            on_distance=self._on_distance,
            on_ring=config.sealing.ring.answer if config.sealing.ring is not None else None,
        )
        joining = joins.make if not config.sealing.only else lambda: _Unsealed(self.gossip)
        self._door = Door(
            loop=loop,
            protocols={stream.GREETING: self.gossip.make_answerer, frame.GREETING: joining},
            refused=self._refused,
        )

    def _refused(self, host: str, word: str, why: str) -> None:
        self.gossip.dropped[word] += 1
        if self._throttle.passes(f"{host} {why}", self._loop.time()):
            log.warning("gossip: connection refused: from=%s why=%s", host, why)

    async def start(self) -> None:
        """Raises OSError when the port is in use, for connections or for datagrams."""
        await self._door.start(self._config.bind, self._config.port)
        self._joins.start_unbound()
        await self.gossip.start(self._config.bind, self._config.port)

    async def stop(self) -> None:
        self._door.stop()
        await self._joins.stop()
        await self.gossip.stop()

    @property
    def alone(self) -> bool:
        """Nobody else is here, as far as this agent knows."""
        return self.here <= 1

    @property
    def here(self) -> int:
        """How many members there are, this agent among them."""
        return self.gossip.swim.members.here

    def survey(self, surveyor: Surveyor) -> None:
        """Have this one measure, from now on."""
        self._surveyor = surveyor

    def watch(self, changed: Callable[[], None]) -> None:
        """Have this called, from now on, whenever something became of a member."""
        self._changed = changed

    def _on_distance(self, id: str, rtt_s: float, payload: bytes) -> None:
        if self._surveyor is not None:
            self._surveyor.on_distance(id, rtt_s, payload)

    def misses(self, servers: Iterable[Member]) -> bool:
        """Is one of these servers not here, as far as this agent knows?"""
        return any(self.standing(server.id) not in ("alive", "suspect") for server in servers)

    # -- what the tier asks ----------------------------------------------------------------------------

    def standing(self, id: str) -> Standing | None:
        record = self.gossip.swim.members.get(id)
        return None if record is None else STANDINGS[record.status]

    def member(self, id: str) -> Member | None:
        record = self.gossip.swim.members.get(id)
        return None if record is None else member_of(record.facts)

    def everyone(self) -> Iterator[tuple[Member, Standing]]:
        """All that gossip knows, this agent among them."""
        for member, record in self.known():
            yield member, STANDINGS[record.status]

    def records(self) -> list[Record]:
        """All that gossip knows, in its own words: a copy, to be looked through elsewhere."""
        return list(self.gossip.swim.members)

    def expect_no_more(self, id: str, *, prune: bool = False) -> None:
        self.gossip.do(lambda swim, now: swim.expect_no_more(id, now, prune=prune))

    def known(self) -> Iterator[tuple[Member, Record]]:
        for record in self.gossip.swim.members:
            if (member := member_of(record.facts)) is not None:
                yield member, record

    # -- for metrics -----------------------------------------------------------------------------------

    DROPS = ("malformed", "busy", BROKEN_OFF, SILENT, TURNED_AWAY, *(why.value for why in Why))

    def count(self, status: Status) -> int:
        swim = self.gossip.swim
        suspected = len(swim.view.suspicions)
        match status:
            case Status.ALIVE:
                return swim.members.here - suspected
            case Status.SUSPECT:
                return suspected
            case _:
                return len(swim.members.gone[status])

    @property
    def awareness(self) -> int:
        return self.gossip.swim.awareness.score

    def stats(self) -> dict[str, str]:
        """For people, in Consul's words."""
        return {
            "encrypted": "true" if self.sealing.ring is not None else "false",
            "members": str(len(self.gossip.swim.members)),
            "failed": str(self.count(Status.FAILED)),
            "left": str(self.count(Status.LEFT)),
            "health_score": str(self.awareness),
            "label": self.sealing.label,
        }

    def dropped(self, why: str) -> int:
        return self.gossip.swim.view.turned_away if why == TURNED_AWAY else self.gossip.dropped[why]

    # -- what gossip asks ------------------------------------------------------------------------------

    def _refusal(self, exchange: stream.Exchange) -> str:
        """Why there is to be no exchange with this one, "" if there is."""
        return self._foreign(exchange.sender) or self._name_taken(exchange.sender)

    def _foreign(self, facts: Facts) -> str:
        """Why this one can be no member here, whoever tells of it; "" if it can."""
        member = member_of(facts)
        if member is None:
            return f"{facts.name} says of itself what is not understood here"
        if member.datacenter != self._me.datacenter:
            return f"{facts.name} is of datacenter {member.datacenter}, this is {self._me.datacenter}"
        if facts.protocol_min > PROTOCOL_MAX or facts.protocol_max < PROTOCOL_MIN:
            spoken = f"{facts.protocol_min} to {facts.protocol_max}"
            return f"{facts.name} speaks gossip {spoken}, this member {PROTOCOL_MIN} to {PROTOCOL_MAX}"
        return ""

    def _name_taken(self, sender: Facts) -> str:
        """A host that was wiped gets its name once its former self has failed."""
        for record in self.gossip.swim.members:
            facts = record.facts
            if _are_namesakes(facts, sender) and record.status is Status.ALIVE:
                return f"the name {sender.name} is taken: {facts.host} has it (id {facts.id})"
        return ""

    def _on_event(self, event: Event) -> None:
        facts = event.record.facts
        self._changed()
        if event.change in _LOUD:
            told = "gossip: member %s: node=%s address=%s id=%s"
            log.info(told, event.change.value, facts.name, facts.host, facts.id)
        if self._surveyor is not None and event.change in _GONE:
            self._surveyor.forget(facts.id)
        if event.change is Change.REAPED and self._has_namesake(facts):
            return  # its name goes on
        member, standing = member_of(facts), BECAME.get(event.change)
        if member is not None and standing is not None:
            self._heard(member, standing)

    def _has_namesake(self, facts: Facts) -> bool:
        members = self.gossip.swim.members
        return any(_are_namesakes(r.facts, facts) and r.status in HERE for r in members)


def _are_namesakes(one: Facts, other: Facts) -> bool:
    """Two that the catalog has no two places for."""
    return one.id != other.id and fold(one.name) == fold(other.name)


class _Unsealed(asyncio.Protocol):
    """Who asks in clear who the servers are, where gossip is sealed: without the key nobody is told."""

    def __init__(self, gossip: Gossip) -> None:
        self._gossip = gossip

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        host = (transport.get_extra_info("peername") or "?")[0]
        self._gossip.refuse(host, Unopened("a question for the servers came in clear", Why.UNSEALED))
        cast(asyncio.Transport, transport).abort()


def facts_of(me: Member, port: int, reconnect_timeout_ms: int = 0) -> Facts:
    meta = _encoder.encode(_Meta(me.role, me.datacenter, me.build, me.rpc))
    return Facts(me.id, me.name, me.address, port, meta, reconnect_timeout_ms=reconnect_timeout_ms)


def member_of(facts: Facts) -> Member | None:
    """The same member in the tier's words; None for what cannot be one."""
    try:
        meta = _decoder.decode(facts.meta)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None
    member = Member(facts.id, facts.name, facts.host, meta.role, meta.datacenter, meta.build, meta.rpc)
    return None if fault_of(member) else member
