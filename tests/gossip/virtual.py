"""Many members on one virtual network: time that only a test moves, datagrams that get lost, hosts that hang.

Everything is drawn from one seed. A member that hangs gets nothing done; what came meanwhile waits for it,
as in the buffer of its socket. One that is cut off hears nobody, and nobody hears it.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Sequence
from functools import lru_cache, partial
from random import Random

from gemot.agent.gossip import packet
from gemot.agent.gossip.members import Members
from gemot.agent.gossip.message import Facts, Ping, Record, Status, Word
from gemot.agent.gossip.swim import Swim
from gemot.agent.gossip.timing import LAN, Timing
from gemot.agent.gossip.view import Change, Event, Place

LATENCY_MS = (1, 4)
STREAM_TIMES = 3
"""A connection takes three times as long as a datagram: it is opened first."""

SOCKET_BUFFER = 500
"""Datagrams that wait for one that hangs; more are lost."""


def decode(data: bytes) -> list[Word]:
    """As `packet.decode`, but a word that a thousand members hear is decoded once: most time went there."""
    return [_word(bytes(part)) for part in packet._parts(data)]


@lru_cache(maxsize=1 << 15)
def _word(part: bytes) -> Word:
    return packet._word(1, memoryview(part))


class Member:
    """One process: its gossip, and whether it runs."""

    def __init__(self, network: Network, facts: Facts, members: Members | None) -> None:
        self.network = network
        self.facts = facts
        self.place = Place(facts.host, facts.port)
        self.swim = Swim(
            me=facts,
            timing=network.timing,
            random=Random(network.random.getrandbits(64)),
            now_ms=network.now_ms,
            members=members,
        )
        self.up = True
        self.hangs = self.deaf = False
        self.waiting: list[Callable[[], None]] = []
        self.unsent: list[Callable[[], None]] = []
        self.events: list[tuple[int, Event]] = []
        self.sent = self.sent_bytes = self.streams = 0
        self._tick_ms = -1
        self.sees(self.swim.take().events)
        self.look_ahead()

    @property
    def id(self) -> str:
        return self.facts.id

    def do(self, action: Callable[[], None]) -> None:
        """What happens to this process, now or as soon as it runs again."""
        if self.hangs:
            if len(self.waiting) < SOCKET_BUFFER:
                self.waiting.append(action)
        elif self.up:
            action()
            self.flush()

    def flush(self) -> None:
        out = self.swim.take()
        for place, data in out.datagrams:
            self.sent += 1
            self.sent_bytes += len(data)
            self._send(partial(self.network.datagram, self, place, data))
        for place, ping in out.streams:
            self.streams += 1
            self._send(partial(self.network.ask_by_stream, self, place, ping))
        for facts in out.exchanges:
            self.streams += 1
            self._send(partial(self.network.exchange, self, Place(facts.host, facts.port)))
        self.sees(out.events)
        self.look_ahead()

    def _send(self, action: Callable[[], None]) -> None:
        if self.deaf:
            self.unsent.append(action)
        else:
            action()

    def hear(self, action: Callable[[], None]) -> None:
        """What comes by the network, for this process."""
        if self.deaf:
            if len(self.waiting) < SOCKET_BUFFER:
                self.waiting.append(action)
        else:
            self.do(action)

    def sees(self, events: Sequence[Event]) -> None:
        for event in events:
            self.events.append((self.network.now_ms, event))
            self.network.saw(self, event)

    def look_ahead(self) -> None:
        due = self.swim.next_ms
        if due != self._tick_ms or due <= self.network.now_ms:
            self._tick_ms = max(due, self.network.now_ms + 1)
            self.network.at(self._tick_ms, self._tick, self._tick_ms)

    def _tick(self, due: int) -> None:
        if due == self._tick_ms:
            self._tick_ms = -1
            self.do(lambda: self.swim.on_tick(self.network.now_ms))

    def holds(self, id: str) -> Status | None:
        record = self.swim.members.get(id)
        return None if record is None else record.status

    # -- what befalls it ---------------------------------------------------------------------------

    def hang(self) -> None:
        """As SIGSTOP does: nothing of it happens."""
        self.hangs = True

    def go_deaf(self) -> None:
        """Its own time goes on, and what it sends and what is sent to it waits: Lifeguard's anomaly."""
        self.deaf = True

    def go_on(self) -> None:
        self.hangs = self.deaf = False
        unsent, self.unsent = self.unsent, []
        for action in unsent:
            action()
        waiting, self.waiting = self.waiting, []
        for action in waiting:
            self.do(action)
        self.do(lambda: None)

    def crash(self) -> None:
        self.up = False


class Network:
    def __init__(self, seed: int, *, timing: Timing = LAN, loss: float = 0.0, streams: bool = True) -> None:
        self.random = Random(seed)
        self.timing = timing
        self.loss = loss
        self.streams = streams
        """Do connections pass? A firewall may let datagrams through alone."""

        self.now_ms = 0
        self.members: dict[Place, Member] = {}
        self.apart: Callable[[Member, Member], bool] = lambda _a, _b: False
        """Do these two not hear each other?"""

        self.told: list[Callable[[Member, Event], None]] = []
        self._heap: list[tuple[int, int, Callable[..., None], tuple[object, ...]]] = []
        self._next = 0

    # -- members -----------------------------------------------------------------------------------

    def add(self, number: int, members: Members | None = None, *, id: str = "") -> Member:
        host = f"10.{number >> 16 & 255}.{number >> 8 & 255}.{number & 255}"
        member = Member(self, Facts(id or f"id-{number:05d}", f"node{number}", host, 8301), members)
        self.members[member.place] = member
        return member

    def grown(self, count: int) -> list[Member]:
        """So many that all know each other from the beginning, on one shared table."""
        base = Members()
        for number in range(1, count + 1):
            host = f"10.{number >> 16 & 255}.{number >> 8 & 255}.{number & 255}"
            base.put(Record(Facts(f"id-{number:05d}", f"node{number}", host, 8301)), 0)
        return [self.add(number, Members(base)) for number in range(1, count + 1)]

    def saw(self, member: Member, event: Event) -> None:
        for each in self.told:
            each(member, event)

    # -- time --------------------------------------------------------------------------------------

    def at(self, at_ms: int, action: Callable[..., None], *arguments: object) -> None:
        self._next += 1
        heapq.heappush(self._heap, (at_ms, self._next, action, arguments))

    def run(self, until_ms: int) -> None:
        heap = self._heap
        while heap and heap[0][0] <= until_ms:
            self.now_ms, _, action, arguments = heapq.heappop(heap)
            action(*arguments)
        self.now_ms = until_ms

    def run_for(self, ms: int) -> None:
        self.run(self.now_ms + ms)

    def run_until(self, holds: Callable[[], bool], most_ms: int, step_ms: int = 20) -> int | None:
        """The time it took until this held, looked at each step; None if it did not in that time."""
        began = self.now_ms
        while self.now_ms - began < most_ms:
            if holds():
                return self.now_ms - began
            self.run_for(step_ms)
        return None

    # -- the ways ----------------------------------------------------------------------------------

    def _way_ms(self, a: Member, place: Place, loss: float) -> tuple[Member, int] | None:
        b = self.members.get(place)
        if b is None or self.apart(a, b) or (loss and self.random.random() < loss):
            return None
        return b, self.random.randint(*LATENCY_MS)

    def datagram(self, sender: Member, to: Place, data: bytes) -> None:
        if (way := self._way_ms(sender, to, self.loss)) is None:
            return
        member, ms = way
        self.at(self.now_ms + ms, self._arrives, member, data, sender.place)

    def _arrives(self, member: Member, data: bytes, source: Place) -> None:
        member.hear(lambda: member.swim.on_words(decode(data), source, self.now_ms))

    def _stream(self, sender: Member, to: Place, asked: Callable[[Member], None]) -> None:
        """A connection repeats what is lost; it needs both ways and a process that runs."""
        way = self._way_ms(sender, to, 0.0) if self.streams else None
        if way is not None and way[0].up and not self.apart(way[0], sender):
            member, ms = way
            self.at(self.now_ms + STREAM_TIMES * ms, lambda: member.hear(lambda: asked(member)))

    def ask_by_stream(self, sender: Member, to: Place, ping: Ping) -> None:
        def asked(member: Member) -> None:
            if ping.to == member.id and not self.apart(member, sender):
                ms = self.random.randint(*LATENCY_MS)
                answer = lambda: sender.hear(lambda: sender.swim.on_stream_ack(ping.seq, self.now_ms))  # noqa: E731
                self.at(self.now_ms + ms, answer)

        self._stream(sender, to, asked)

    def exchange(self, sender: Member, to: Place) -> None:
        told = sender.swim.records()

        def asked(member: Member) -> None:
            member.swim.merge(told, sender.facts, self.now_ms)
            answer = member.swim.records(sender.facts)
            if not self.apart(member, sender):
                ms = self.random.randint(*LATENCY_MS)
                merge = lambda: sender.swim.merge(answer, member.facts, self.now_ms, dialled=to)  # noqa: E731
                self.at(self.now_ms + ms, lambda: sender.hear(merge))

        self._stream(sender, to, asked)

    # -- everybody's view --------------------------------------------------------------------------

    @property
    def running(self) -> list[Member]:
        return [member for member in self.members.values() if member.up]

    def everyone_holds(self, id: str, *statuses: Status | None) -> bool:
        return all(member.holds(id) in statuses for member in self.running if member.id != id)

    def failures(self, of: Callable[[str], bool]) -> list[tuple[Member, str]]:
        """Who saw whose failure."""
        return [
            (member, event.record.facts.id)
            for member in self.members.values()
            for _, event in member.events
            if event.change is Change.FAILED and of(event.record.facts.id)
        ]
