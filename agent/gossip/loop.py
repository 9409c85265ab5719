"""Gossip on real sockets: the only part of it that knows asyncio. It drives `swim.py`, and seals what leaves.

Datagrams go by one socket; exchanges and the pings that fall back to TCP are a connection each, with one
question and one answer (`stream.py`). Every connection is bounded in time and number.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Any, Protocol, cast

from gemot.agent.gossip import packet, stream
from gemot.agent.gossip.limits import FRAME_BYTES, REASON_BYTES
from gemot.agent.gossip.message import Ack, Facts, News, Ping
from gemot.agent.gossip.seal import NONCE_BYTES, Seal, Unopened, Why, context_of, is_sealed
from gemot.agent.gossip.swim import Swim
from gemot.agent.gossip.throttle import Throttle
from gemot.agent.gossip.view import Change, Event, Place
from gemot.server.model.errors import BadRequest, GemotError, PeerBroke, RuleFailed, Unavailable
from gemot.server.runtime.cause import cause_of

log = logging.getLogger("gemot.gossip")

STREAM_S = 10.0
"""What one connection may take in all."""

MOST_STREAMS = 64
"""Questions under way, of others and own ones, each; more are dropped, and come again."""

MOST_PER_ADDRESS = 8
"""Of those of others."""

MOST_BUFFERED = 64 << 20
"""Bytes of questions that have not come whole yet, all together. Who wants more is sent away."""

GOODBYE_S = 3.0
"""How long a good-bye may take to spread (Consul's leave propagation)."""


BROKEN_OFF = "broken_off"
"""A question that ended, or took too long, before it had come whole."""

_NO_KEY_HERE = "is gossip encrypted there? then its key is needed here, as `encrypt`"


class Freight(Protocol):
    """What is carried for others, beside what members tell of each other. `clock` is a Lamport time."""

    @property
    def clock(self) -> int: ...

    def recent(self) -> tuple[News, ...]:
        """What goes with each exchange, for those that missed the datagrams."""

    def on_news(self, news: News) -> None:
        """A datagram brought this."""

    def on_exchange(self, clock: int, news: tuple[News, ...]) -> None:
        """An exchange brought these, from one whose clock shows that."""


TOLD_AFTER = 3
"""Answers by TCP alone, in a row, from which on UDP seems to be closed."""


class Gossip:
    """One member on the network. Everything that happens is told by the callbacks, on the loop.

    `admit` says why an exchange with this one is refused, "" if it is not.
    """

    def __init__(
        self,
        *,
        loop: asyncio.AbstractEventLoop,
        swim: Swim,
        datagrams: Seal,
        frames: Seal,
        admit: Callable[[stream.Exchange], str],
        on_event: Callable[[Event], None],
        on_distance: Callable[[str, float, bytes], None] = lambda _id, _rtt_s, _payload: None,
        on_ring: Callable[[stream.AskRing], Awaitable[stream.Ring | stream.Refused]] | None = None,
    ) -> None:
        self._loop = loop
        self._throttle = Throttle()
        self.swim = swim
        self._datagrams = datagrams
        self._frames = frames
        self._admit = admit
        self._on_event = on_event
        self._on_distance = on_distance
        self._on_ring = on_ring
        self._freight: Freight | None = None
        self._asked: tuple[int | None, float] = (None, 0.0)
        """The probe under way, and since when: round trips are shorter than the milliseconds of `swim.py`."""

        self._socket: asyncio.DatagramTransport | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._tasks: set[asyncio.Task[Any]] = set()
        self._answerers: dict[_Answerer, None] = {}
        self.buffered = 0
        self._stopped = False
        self._by_stream: dict[str, int] = {}
        """How often in a row a member has answered by TCP alone."""

        self.dropped: Counter[str] = Counter()
        """What was not taken, by why."""

    # -- life --------------------------------------------------------------------------------------

    async def start(self, host: str, port: int) -> None:
        """Raises OSError when the address is in use."""
        self._socket, _ = await self._loop.create_datagram_endpoint(
            lambda: _Datagrams(self), sock=_bound(host, port)
        )
        self._after()

    async def leave(self) -> None:
        """Say good-bye, and wait until it has spread, or for as long as that may take."""
        self.swim.leave(self.now_ms)
        self._after()
        until = self._loop.time() + GOODBYE_S
        while not self.swim.said_goodbye and self._loop.time() < until:  # noqa: ASYNC110 - it is spread by ticks
            await asyncio.sleep(0.05)

    async def stop(self) -> None:
        self._stopped = True
        if self._timer is not None:
            self._timer.cancel()
        if self._socket is not None:
            self._socket.close()
        for answerer in list(self._answerers):
            answerer.end()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def carry(self, freight: Freight) -> None:
        """Carry this too, from now on."""
        self._freight = freight

    def tell(self, subject: str, news: News) -> None:
        """Pass this on to everybody, in place of what `subject` told before."""
        self.do(lambda swim, _now: swim.tell(subject, news))

    @property
    def now_ms(self) -> int:
        return int(self._loop.time() * 1000)

    # -- what is asked of it -----------------------------------------------------------------------

    def do(self, action: Callable[[Swim, int], Any]) -> Any:
        """Whatever changes the member's own view; what follows from it is sent at once."""
        result = action(self.swim, self.now_ms)
        self._after()
        return result

    async def exchange(
        self, host: str, port: int, *, join: bool = False, known: Facts | None = None
    ) -> Facts:
        """Exchange everything with whoever answers there, and tell who it is.

        Raises Unavailable, or BadRequest with why it, or this side, refused.
        """
        question = self._told(join, known)
        answer = await self._ask(host, port, question)
        if isinstance(answer, stream.Refused):
            raise BadRequest(answer.reason)
        if not isinstance(answer, stream.Exchange):
            raise Unavailable(f"an exchange was answered by {type(answer).__name__}")
        if why := self._admit(answer):
            raise BadRequest(why)
        self._take_in(answer, Place(host, port))
        return answer.sender

    async def is_there(self, host: str, port: int, id: str) -> bool:
        """Does this very member answer there? Nothing is told to it. Raises Unavailable."""
        answer = await self._ask(host, port, Ping(0, id, self.swim.me.id))
        return isinstance(answer, Ack)

    async def ask_ring(self, host: str, port: int, question: stream.AskRing) -> stream.Ring:
        """What that member says of its ring; question and answer are sealed, whatever is set.

        Raises Unavailable, BadRequest without a key here, or RuleFailed with why it refused.
        """
        answer = await self._ask(host, port, question, sealed=True)
        if isinstance(answer, stream.Refused):
            raise RuleFailed(answer.reason)
        if not isinstance(answer, stream.Ring):
            raise Unavailable(f"a question for its ring was answered by {type(answer).__name__}")
        return answer

    # -- datagrams ---------------------------------------------------------------------------------

    def on_datagram(self, data: bytes, source: Place) -> None:
        try:
            words = packet.decode(self._datagrams.open_(data))
        except PeerBroke as error:
            self.refuse(source.host, error)
        else:
            self.do(lambda swim, now: swim.on_words(words, source, now))

    def refuse(self, host: str, error: PeerBroke) -> None:
        """The first of each kind is worth a line; how many there were is counted."""
        why = error.why.value if isinstance(error, Unopened) else "malformed"
        self.dropped[why] += 1
        # What a member sent to itself before it was started again may still come.
        loud = self.dropped[why] == (TOLD_AFTER if why == Why.REFLECTED.value else 1)
        level = logging.WARNING if loud else logging.DEBUG
        log.log(level, "gossip: dropped: from=%s why=%s error=%s", host, why, error.message)

    def _after(self) -> None:
        """Carry out what follows from what has just happened, and wait for what is due next."""
        if self._stopped:
            return
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._loop.call_at(self.swim.next_ms / 1000, self._tick)
        out = self.swim.take()
        for id, _, payload in out.acks:
            self._by_stream.pop(id, None)
            self._on_distance(id, time.perf_counter() - self._asked[1], payload)
        if self.swim.asks != self._asked[0]:
            self._asked = (self.swim.asks, time.perf_counter())
        for place, data in out.datagrams:
            self._send(place, data)
        for place, ping in out.streams:
            self._begin(self._ping(place, ping))
        for facts in out.exchanges:
            self._begin(self._exchange_quietly(facts))
        for event in out.events:
            if event.change is Change.REAPED:
                self._by_stream.pop(event.record.facts.id, None)
                self._datagrams.forget(event.record.facts.id)
                self._frames.forget(event.record.facts.id)
            self._on_event(event)
        if self._freight is not None:
            for news in out.news:
                self._freight.on_news(news)

    def _send(self, place: Place, data: bytes) -> None:
        if self._socket is not None and not self._socket.is_closing():
            self._socket.sendto(self._datagrams.seal(data, os.urandom(NONCE_BYTES)), place)

    def _tick(self) -> None:
        self.do(lambda swim, now: swim.on_tick(now))

    # -- own questions -----------------------------------------------------------------------------

    def _begin(self, work: Any) -> bool:
        if len(self._tasks) >= MOST_STREAMS:
            work.close()
            self.dropped["busy"] += 1
            return False
        task = self._loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return True

    async def _ping(self, place: Place, ping: Ping) -> None:
        try:
            answer = await self._ask(*place, ping)
        except GemotError:
            return  # no answer is what a probe is prepared for
        if isinstance(answer, Ack) and answer.seq == ping.seq:
            self._note_by_stream(ping.to, place)
            self.do(lambda swim, now: swim.on_stream_ack(ping.seq, now))

    def _note_by_stream(self, id: str, place: Place) -> None:
        """Once is a member that has just been started again, or a lost datagram."""
        times = self._by_stream[id] = self._by_stream.get(id, 0) + 1
        record = self.swim.members.get(id)
        if times == TOLD_AFTER and record is not None:
            name = record.facts.name
            log.warning("gossip: answers by TCP and not by UDP: member=%s address=%s:%d", name, *place)

    async def _exchange_quietly(self, facts: Facts) -> None:
        try:
            await self.exchange(facts.host, facts.port, known=facts)
        except GemotError as error:
            log.debug("gossip: no exchange: member=%s error=%s", facts.name, error.message)

    async def _ask(
        self, host: str, port: int, question: stream.StreamWord, *, sealed: bool = False
    ) -> stream.StreamWord:
        try:
            async with asyncio.timeout(STREAM_S):
                reader, writer = await asyncio.open_connection(host, port)
                try:
                    envelope = self._frames.seal(
                        stream.word_bytes(question), os.urandom(NONCE_BYTES), always=sealed
                    )
                    writer.write(stream.GREETING + stream.frame(envelope))
                    await writer.drain()
                    length = int.from_bytes(await reader.readexactly(stream.LENGTH_BYTES), "big")
                    if length == int.from_bytes(b"HTTP", "big"):
                        raise PeerBroke(f"{host}:{port} speaks HTTP: gossip has a port of its own")
                    if not 1 <= length <= FRAME_BYTES:
                        raise PeerBroke(f"gossip frame of {length} bytes")
                    answer = await reader.readexactly(length)
                    word = stream.decode(self._frames.open_(answer, context_of(envelope)))
                    if sealed and not is_sealed(answer):
                        raise PeerBroke(f"{host}:{port} answered in clear what must be sealed")
                    return word
                finally:
                    writer.transport.abort()
        except asyncio.IncompleteReadError as error:
            raise Unavailable(f"{host}:{port} {self._hung_up}") from error
        except (OSError, TimeoutError, ValueError, OverflowError) as error:
            why = cause_of(error) or f"no answer within {STREAM_S:g} s"
            raise Unavailable(f"{host}:{port}: {why}") from error

    @property
    def _hung_up(self) -> str:
        why = "has it another gossip key or label?" if self._frames.ring is not None else _NO_KEY_HERE
        return f"closed the connection without an answer ({why})"

    # -- questions of others -----------------------------------------------------------------------

    def make_answerer(self) -> asyncio.Protocol:
        """A protocol that answers one question."""
        return _Answerer(self, self._loop)

    def lets_in(self, answerer: _Answerer) -> bool:
        """May this connection ask something, too?"""
        of_one = sum(each.host == answerer.host for each in self._answerers)
        if len(self._answerers) >= MOST_STREAMS or of_one >= MOST_PER_ADDRESS:
            self.dropped["busy"] += 1
            return False
        self._answerers[answerer] = None
        return True

    def lets_go(self, answerer: _Answerer) -> None:
        self._answerers.pop(answerer, None)

    def answer(self, envelope: bytes, host: str, reply: Callable[[bytes | None], None]) -> None:
        """`reply` is called with the answer's frame, or None when there is none to give.

        At once, but for a ring, whose change has to be on the disk first. Raises PeerBroke.
        """
        question = stream.decode(self._frames.open_(envelope))
        if isinstance(question, stream.AskRing):
            if not is_sealed(envelope):
                raise Unopened("a question for the ring came in clear", Why.UNSEALED)
            if question.to != self.swim.me.id or not self._begin(self._show_ring(question, envelope, reply)):
                reply(None)
            return
        answer = self._answer_to(question, host)
        reply(None if answer is None else self._answered(answer, envelope))

    def _answered(self, answer: stream.StreamWord, envelope: bytes, *, sealed: bool = False) -> bytes:
        body, nonce = stream.word_bytes(answer), os.urandom(NONCE_BYTES)
        return stream.frame(self._frames.seal(body, nonce, context_of(envelope), always=sealed))

    async def _show_ring(
        self, question: stream.AskRing, envelope: bytes, reply: Callable[[bytes | None], None]
    ) -> None:
        assert self._on_ring is not None, "without a ring nothing sealed is opened"
        answer = await self._on_ring(question)
        if isinstance(answer, stream.Refused):
            answer = stream.Refused(_one_line(answer.reason))
        reply(self._answered(answer, envelope, sealed=True))

    def _answer_to(self, question: stream.StreamWord, host: str) -> stream.StreamWord | None:
        match question:
            case Ping() if question.to == self.swim.me.id:
                return Ack(question.seq)
            case stream.Exchange():
                if why := self._admit(question):
                    self._tell_refused(host, question.sender.name, why)
                    return stream.Refused(_one_line(why))
                self._take_in(question, source=host)
                return self._told(False, question.sender)
            case _:
                return None

    def _tell_refused(self, host: str, name: str, why: str) -> None:
        if self._throttle.passes(f"{host} {name}", self._loop.time()):
            log.warning("gossip: exchange refused: from=%s name=%s why=%s", host, name, why)

    def _take_in(self, told: stream.Exchange, dialled: Place | None = None, source: str = "") -> None:
        self.do(lambda swim, now: swim.merge(told.records, told.sender, now, dialled=dialled, source=source))
        if self._freight is not None:
            self._freight.on_exchange(told.clock, told.news)

    def _told(self, join: bool, to: Facts | None) -> stream.Exchange:
        """All this member knows, for that one."""
        clock, news = (self._freight.clock, self._freight.recent()) if self._freight is not None else (0, ())
        return stream.Exchange(join, self.swim.me, self.swim.records(to), clock, news)


class _Datagrams(asyncio.DatagramProtocol):
    def __init__(self, gossip: Gossip) -> None:
        self._gossip = gossip

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        self._gossip.on_datagram(data, Place(addr[0], addr[1]))

    def error_received(self, exc: Exception) -> None:
        """ICMP says that nobody listens there: so do probes."""


class _Answerer(asyncio.Protocol):
    """One connection of another member: its question, our answer, the end."""

    def __init__(self, gossip: Gossip, loop: asyncio.AbstractEventLoop) -> None:
        self._gossip = gossip
        self._loop = loop
        self._reader = stream.FrameReader()
        self._transport: asyncio.Transport | None = None
        self._over: asyncio.TimerHandle | None = None
        self._buffered = 0
        self._asked = False
        self.host = "?"

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        peername = transport.get_extra_info("peername")
        self.host = str(peername[0]) if peername else "?"
        if self._gossip.lets_in(self):
            self._over = self._loop.call_later(STREAM_S, self.end)
        else:
            self.end()

    def data_received(self, data: bytes) -> None:
        if self._transport is None or self._transport.is_closing() or self._asked:
            return
        self._buffered += len(data)
        self._gossip.buffered += len(data)
        try:
            if self._gossip.buffered > MOST_BUFFERED:
                raise PeerBroke(f"more than {MOST_BUFFERED} bytes of unfinished questions at a time")
            for envelope in self._reader.feed(data):
                self._asked = True
                self._gossip.answer(envelope, self.host, self._reply)
                return
        except PeerBroke as error:
            self._asked = True
            self._gossip.refuse(self.host, error)
            self.end()
        except GemotError as error:
            log.error("gossip: no answer can be given: to=%s error=%s", self.host, error.message)
            self.end()

    def _reply(self, answer: bytes | None) -> None:
        if self._transport is not None and not self._transport.is_closing():
            if answer is not None:
                self._transport.write(answer)
            self._transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        if self._buffered and not self._asked:
            self._gossip.dropped[BROKEN_OFF] += 1
        self._gossip.buffered -= self._buffered
        self._gossip.lets_go(self)
        if self._over is not None:
            self._over.cancel()
        self._transport = None

    def end(self) -> None:
        if self._transport is not None:
            self._transport.abort()


def _bound(host: str, port: int) -> socket.socket:
    """For one family of addresses, as the door to the same port is."""
    family, kind, number, _, address = socket.getaddrinfo(
        host, port, type=socket.SOCK_DGRAM, flags=socket.AI_PASSIVE
    )[0]
    bound = socket.socket(family, kind, number)
    try:
        if family == socket.AF_INET6:
            bound.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        bound.setblocking(False)
        bound.bind(address)
    except OSError:
        bound.close()
        raise
    return bound


def _one_line(reason: str) -> str:
    """As a refusal may be: strangers' names stand in it."""
    return (
        "".join(each if each.isprintable() else "?" for each in reason)
        .encode()[:REASON_BYTES]
        .decode(errors="ignore")
    )
