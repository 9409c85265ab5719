"""Real members on loopback, in one event loop: sockets, seals and timers as the agent has them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from random import Random

from support.ports import free_port

from gemot.agent.gossip.door import Door
from gemot.agent.gossip.keyring import Keyring
from gemot.agent.gossip.loop import Gossip
from gemot.agent.gossip.message import Facts, Status
from gemot.agent.gossip.seal import Purpose, Seal
from gemot.agent.gossip.stream import GREETING, Exchange
from gemot.agent.gossip.swim import Swim
from gemot.agent.gossip.timing import LOCAL, Timing
from gemot.agent.gossip.view import Event

PATIENCE_S = 30.0


class Gossiper:
    """One member, its port, and what it saw."""

    def __init__(
        self,
        number: int,
        *,
        timing: Timing = LOCAL,
        ring: Keyring | None = None,
        label: str = "",
        admit: str = "",
        on_distance: Callable[[str, float, bytes], None] = lambda _id, _rtt_s, _payload: None,
        payload: Callable[[], bytes] = bytes,
    ) -> None:
        loop = asyncio.get_running_loop()
        self.facts = Facts(f"id{number}", f"node{number}", "127.0.0.1", free_port())
        self.events: list[Event] = []
        self.refused: list[str] = []
        self.why = admit
        wall_ms = int(time.time() * 1000)
        swim = Swim(
            me=self.facts,
            timing=timing,
            random=Random(number),
            now_ms=int(loop.time() * 1000),
            payload=payload,
        )
        seals = {
            purpose: Seal(purpose=purpose, label=label, sender=self.facts.id, wall_ms=wall_ms, ring=ring)
            for purpose in Purpose
        }
        self.gossip = Gossip(
            loop=loop,
            swim=swim,
            datagrams=seals[Purpose.DATAGRAM],
            frames=seals[Purpose.FRAME],
            admit=self._admit,
            on_event=self.events.append,
            on_distance=on_distance,
        )
        self.door = Door(
            loop=loop,
            protocols={GREETING: self.gossip.make_answerer},
            refused=lambda host, word, why: self.refused.append(why),
        )

    def _admit(self, exchange: Exchange) -> str:
        return self.why

    async def start(self) -> Gossiper:
        await self.gossip.start("127.0.0.1", self.facts.port)
        await self.door.start("127.0.0.1", self.facts.port)
        return self

    async def stop(self) -> None:
        """As a kill ends it: without a word."""
        self.door.stop()
        await self.gossip.stop()

    async def join(self, other: Gossiper) -> Facts:
        return await self.gossip.exchange("127.0.0.1", other.facts.port, join=True)

    def holds(self, other: Gossiper) -> Status | None:
        record = self.gossip.swim.members.get(other.facts.id)
        return None if record is None else record.status

    def changes(self, other: Gossiper) -> list[str]:
        return [event.change.value for event in self.events if event.record.facts.id == other.facts.id]


async def eventually(holds: object) -> None:
    """Wait until this holds; a test that waits in vain says where."""
    assert callable(holds)
    until = time.monotonic() + PATIENCE_S
    while not holds():
        assert time.monotonic() < until, "it does not come to hold"
        await asyncio.sleep(0.02)
