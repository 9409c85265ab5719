"""Members of gossip in the simulated world: one in the process of each server, and hosts beside them.

What `agent/gossip/loop.py` does with sockets is done here with the network of the simulation, so that faults
take gossip and the tier alike.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from random import Random
from typing import Any, Protocol

from simulation.network import Network
from simulation.node import Node
from simulation.world import World

from gemot.agent.gossip.message import Facts, Ping, Status
from gemot.agent.gossip.packet import decode
from gemot.agent.gossip.swim import Swim
from gemot.agent.gossip.timing import LAN
from gemot.agent.gossip.view import Event, Place
from gemot.agent.lan import BECAME, STANDINGS, facts_of, member_of
from gemot.server.members import Standing
from gemot.server.rpc.message import Member

PORT = 8301
QUICK_JOIN_US, JOIN_US = 1_000_000, 30_000_000
PING_US = 1_000_000
SILENT_US = 5_000_000
"""A connection that brings nothing for so long is dialled anew."""


class Together(Protocol):
    """What all of them share; `mixed.Mixed` fulfils it."""

    world: World
    network: Network
    nodes: list[Node]
    speakers: dict[Place, Speaker]

    def mute(self, one: str, other: str) -> bool:
        """Does gossip not pass between these two?"""

    def saw(self, speaker: Speaker, event: Event) -> None: ...


class Speaker:
    """The gossip of one process. `owner` waits when the process hangs; `lives` says whether it still runs."""

    def __init__(self, run: Together, member: Member, owner: Any, lives: Callable[[], bool]) -> None:
        self.name = member.name
        self.place = Place(member.address, PORT)
        self.id = member.id
        self._run = run
        self._world = run.world
        self._owner = owner
        self.lives = lives
        self.heard: Callable[[Member, Standing], None] = lambda _member, _standing: None
        self.swim = Swim(
            me=facts_of(member, PORT),
            timing=LAN,
            random=Random(run.world.random.getrandbits(64)),
            now_ms=self.now_ms,
        )
        self._tick_ms = -1
        run.speakers[self.place] = self
        self._after()
        self._join()

    @property
    def now_ms(self) -> int:
        return self._world.now_us // 1_000

    def holds(self, id: str) -> Status | None:
        record = self.swim.members.get(id)
        return None if record is None else record.status

    # -- what a leader asks: `server.members.Gossip` ------------------------------------------------------

    def standing(self, id: str) -> Standing | None:
        status = self.holds(id)
        return None if status is None else STANDINGS[status]

    def member(self, id: str) -> Member | None:
        record = self.swim.members.get(id)
        return None if record is None else member_of(record.facts)

    def everyone(self) -> Iterator[tuple[Member, Standing]]:
        for record in self.swim.members:
            if (member := member_of(record.facts)) is not None:
                yield member, STANDINGS[record.status]

    def expect_no_more(self, id: str) -> None:
        self._do(lambda: self.swim.expect_no_more(id, self.now_ms))

    # -- the loop --------------------------------------------------------------------------------------

    def _do(self, action: Callable[[], Any]) -> None:
        if self.lives():
            action()
            self._after()

    def _after(self) -> None:
        out = self.swim.take()
        for place, data in out.datagrams:
            self._send(place, "gossip", lambda to, data=data: to.on_datagram(data, self.place))
        for place, ping in out.streams:
            self._send(place, "stream", lambda to, ping=ping: to.on_ping(ping, self), once=True)
        for facts in out.exchanges:
            self._exchange(Place(facts.host, facts.port))
        for event in out.events:
            self._run.saw(self, event)
            self._tell(event)
        due_ms = max(self.swim.next_ms, self.now_ms + 1)
        if due_ms != self._tick_ms:
            self._tick_ms = due_ms
            self._at(due_ms * 1_000 - self._world.now_us, "gossip tick", lambda: self._tick(due_ms))

    def _tick(self, due_ms: int) -> None:
        if due_ms == self._tick_ms:
            self._tick_ms = -1
            self._do(lambda: self.swim.on_tick(self.now_ms))

    def _tell(self, event: Event) -> None:
        member, standing = member_of(event.record.facts), BECAME.get(event.change)
        if member is not None and standing is not None:
            self.heard(member, standing)

    def _at(self, delay_us: int, what: str, action: Callable[[], None]) -> None:
        self._world.at(delay_us, f"{self.name} {what}", action, self._owner)

    def _join(self) -> None:
        """As `agent/join.py`: ask all servers that are not here, soon again while nobody is."""
        if not self.lives():
            return
        for server in self._run.nodes:
            if server.name != self.name and self.standing(server.member.id) not in ("alive", "suspect"):
                self._exchange(Place(server.member.address, PORT))
        alone = self.swim.members.here <= 1
        self._at(QUICK_JOIN_US if alone else JOIN_US, "joins", self._join)

    # -- the ways --------------------------------------------------------------------------------------

    def _send(self, to: Place, what: str, act: Callable[[Speaker], None], *, once: bool = False) -> None:
        target = self._run.speakers.get(to)
        if target is not None and not self._run.mute(self.name, target.name):
            deliver = lambda: act(target) if target.lives() else None  # noqa: E731
            self._run.network.send(self.name, target.name, what, deliver, target._owner, once=once)

    def on_datagram(self, data: bytes, source: Place) -> None:
        self._do(lambda: self.swim.on_words(decode(data), source, self.now_ms))

    def on_ping(self, ping: Ping, asker: Speaker) -> None:
        def answer(to: Speaker) -> None:
            to._do(lambda: to.swim.on_stream_ack(ping.seq, to.now_ms))

        if ping.to == self.id:
            self._send(asker.place, "stream ack", answer, once=True)

    def _exchange(self, to: Place) -> None:
        told, me = self.swim.records(), self.swim.me
        self._send(to, "exchange", lambda other: other.on_exchange(told, me, self, to), once=True)

    def on_exchange(self, told: Any, of: Facts, asker: Speaker, dialled: Place) -> None:
        self._do(lambda: self.swim.merge(told, of, self.now_ms))
        answer, me = self.swim.records(of), self.swim.me

        def merge(to: Speaker) -> None:
            to._do(lambda: to.swim.merge(answer, me, to.now_ms, dialled=dialled))

        self._send(asker.place, "exchange reply", merge, once=True)


class MixedNode(Node):
    """A server with gossip in its process."""

    run: Together
    speaker: Speaker | None = None

    def _start(self) -> None:
        super()._start()
        life, server = self.life, self.server
        assert server is not None
        self.speaker = Speaker(self.run, self.member, self, lambda: self.life == life)
        self.speaker.heard = server.on_gossip
        server.membership.gossip = self.speaker


class Host:
    """A client agent: gossip, and a connection to one server."""

    def __init__(self, run: Together, number: int) -> None:
        self._run = run
        self._world = run.world
        self.name = f"web{number}"
        self.member = Member(
            f"1000000{number}-0000-4000-8000-000000000000",
            self.name,
            f"10.2.1.{number}",
            "client",
            "dc1",
            "sim",
        )
        self.held: list[tuple[str, Callable[[], None]]] | None = None
        self.up = False
        self.speaker: Speaker | None = None
        self.server: Node | None = None
        self._life = 0
        self._connection = 0
        self._heard_us = 0

    @property
    def paused(self) -> bool:
        return self.held is not None

    def died(self, error: Exception) -> None:
        raise error

    def start(self) -> None:
        self._life += 1
        life = self._life
        self.up, self.server = True, None
        self.speaker = Speaker(self._run, self.member, self, lambda: self._life == life)
        self._ping(life)

    def crash(self) -> None:
        self._life += 1
        self.up, self.held, self.speaker = False, None, None

    def pause(self) -> None:
        self.held = []

    def resume(self) -> None:
        if self.held is not None:
            self._world.resume(self)

    def _ping(self, life: int) -> None:
        if self._life != life:
            return
        server = self.server
        if server is None or not server.up or self._world.now_us - self._heard_us >= SILENT_US:
            server = self.server = self._world.random.choice(self._run.nodes)
            self._connection += 1
            self._heard_us = self._world.now_us
        number = life << 20 | self._connection

        def came() -> None:
            if server.server is not None:
                server.connections.heard(server.server, number, self.member)
                self._run.network.send(server.name, self.name, "pong", heard, self, once=True)

        def heard() -> None:
            self._heard_us = self._world.now_us

        self._run.network.send(self.name, server.name, "ping", came, server, once=True)
        self._world.at(PING_US, f"{self.name} pings", lambda: self._ping(life), self)
