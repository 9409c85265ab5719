"""Agents that serve push watches, and who reads them: the feed, its source and its readers, as they are.

They are written for an event loop; here it is one whose time and turns are the world's. Agents follow the
servers and begin anew with an empty ring when they are restarted; readers go from agent to agent with the
place of the last event they had, and are slow now and then. What they were sent is taken apart to the words
of `followers.py`, so the same promise is checked of it, from the change table to the wire.
"""

from __future__ import annotations

import asyncio
from asyncio import events
from base64 import b64decode
from collections.abc import Callable
from typing import Any

import msgspec
from simulation.followers import Began, Heard
from simulation.node import Node
from simulation.watches import Watched
from simulation.witness import Violation
from simulation.world import World

from gemot.agent.feeds.feed import Feed
from gemot.agent.feeds.keys import Keys
from gemot.agent.feeds.reader import AHEAD, Reader
from gemot.agent.feeds.ring import Ring
from gemot.agent.feeds.wire import Place, read_place
from gemot.agent.http.render import duration
from gemot.server.model.changes import KvChange, Told
from gemot.server.model.errors import GemotError, Unavailable
from gemot.server.model.kv import KvEntry
from gemot.server.model.query import Answer, Options, Query
from gemot.server.server import Server

BREAKS_US = (200_000, 2_000_000)
"""How long an agent's connection to one server lasts when that has nothing to tell."""

RINGS = (2, 8, 1_024)
BOOKMARK_S = 0.5
RESTART = 0.03
"""So many of an agent's bookmarks are its last word."""

STAYS_S = 2.5
SLOW = 0.1
SLOW_S = 1.0


class WorldLoop(asyncio.AbstractEventLoop):
    """As much of an event loop as tasks, futures and timeouts need. Each call is an event of the world."""

    def __init__(self, world: World) -> None:
        self._world = world
        self.errors: list[BaseException] = []

    def time(self) -> float:
        return self._world.now_us / 1e6

    def get_debug(self) -> bool:
        return False

    def create_future(self) -> asyncio.Future[Any]:
        return asyncio.Future(loop=self)

    def create_task(self, coro: Any, **named: Any) -> asyncio.Task[Any]:
        return asyncio.Task(coro, loop=self, **named)

    def call_soon(self, callback: Callable[..., Any], *args: Any, context: Any = None) -> asyncio.Handle:
        return self._at(0, asyncio.Handle(callback, args, self, context))

    def call_later(
        self, delay: float, callback: Callable[..., Any], *args: Any, context: Any = None
    ) -> asyncio.TimerHandle:
        return self.call_at(self.time() + delay, callback, *args, context=context)

    def call_at(
        self, when: float, callback: Callable[..., Any], *args: Any, context: Any = None
    ) -> asyncio.TimerHandle:
        handle = asyncio.TimerHandle(when, callback, args, self, context)
        self._at(round(when * 1e6) - self._world.now_us, handle)
        return handle

    def _at(self, delay_us: int, handle: asyncio.Handle) -> asyncio.Handle:
        self._world.at(delay_us, "agents' loop", lambda: self.within(handle._run, handle.cancelled))
        return handle

    def within(self, action: Callable[[], object], unless: Callable[[], bool] = lambda: False) -> None:
        if unless():
            return
        events._set_running_loop(self)
        try:
            action()
        finally:
            events._set_running_loop(None)

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        """Tasks that are under way when the run is over are let go of: that is no error."""
        if (error := context.get("exception")) is not None:
            self.errors.append(error)

    def _timer_handle_cancelled(self, handle: asyncio.TimerHandle) -> None:
        """It is left out when its time comes."""


class Agent:
    """One feed of one thing, fed by whichever server it asks."""

    def __init__(self, *, world: World, loop: WorldLoop, nodes: list[Node], watched: Watched) -> None:
        self._world = world
        self._loop = loop
        self.nodes = nodes
        self._watched = watched
        self._turn = world.random.randrange(len(nodes))
        self._most_events = world.random.choice(RINGS)
        self.stopped = False
        self.feed, self._keys = self._made()

    def _made(self) -> tuple[Feed, Keys]:
        feed = Feed()
        feed.ring = Ring(most_events=self._most_events)
        feed.source = keys = Keys(
            feed,
            servers=self,
            key=self._watched.key,
            prefix=self._watched.prefix,
            token="",
            now=self._loop.time,
        )
        return feed, keys

    def start(self) -> None:
        self._loop.within(self._keys.start)
        self._loop.call_later(BOOKMARK_S, self._bookmark)

    def _bookmark(self) -> None:
        if self.stopped:
            return
        self.feed.bookmark()
        if self.feed.failure is not None or self._world.random.random() < RESTART:
            self._keys.stop()
            self.feed, self._keys = self._made()
            self._keys.start()
        self._loop.call_later(BOOKMARK_S, self._bookmark)

    def query(self, query: Query, options: Options) -> asyncio.Future[Answer]:
        """The port of `Keys`: of the server that it has a connection to, until that breaks."""
        future: asyncio.Future[Answer] = self._loop.create_future()
        node = self.nodes[self._turn % len(self.nodes)]

        def done(result: Answer | GemotError) -> None:
            if future.done():
                return
            if isinstance(result, Answer):
                future.set_result(result)
            else:
                self._turn += 1
                future.set_exception(result)

        def ask(server: Server) -> None:
            server.query(query, options, done)

        if node.up and not self.stopped:
            node.ask("agent asks", ask)
        breaks_us = self._world.random.randrange(*BREAKS_US)
        self._world.at(breaks_us, "agent's connection breaks", lambda: done(Unavailable("broke")))
        return future


class Subscriber:
    """Reads a feed by its events, at one agent and then at another; it keeps its place alone."""

    def __init__(
        self,
        *,
        world: World,
        loop: WorldLoop,
        agents: list[Agent],
        watched: Watched,
        newest: Callable[[], int],
    ) -> None:
        self._world = world
        self._loop = loop
        self._agents = agents
        self.watched = watched
        self._newest = newest
        self.story: list[Began | Heard] = []
        self.nodes: list[Node] = []
        self._place: Place | None = None
        self._gone = False
        self.stopped = False
        self._part = b""

    def start(self) -> None:
        self._loop.create_task(self._read())

    async def _read(self) -> None:
        random = self._world.random
        while not self.stopped:
            agent = random.choice(self._agents)
            self._gone = False
            try:
                async with asyncio.timeout(random.random() * STAYS_S):
                    await agent.feed.begun()
                    await self._read_of(agent.feed)
            except (TimeoutError, GemotError):
                await asyncio.sleep(0.001)

    async def _read_of(self, feed: Feed) -> None:
        random = self._world.random
        reader, self._part = Reader(feed, self._place), b""
        reader.attach(self._take_at_once)
        async for piece in reader:
            self._take(piece)
            if random.random() < SLOW:
                await asyncio.sleep(random.random() * SLOW_S)

    def _take_at_once(self, piece: bytes) -> bool:
        """The connection is full now and then."""
        if self._world.random.random() < SLOW:
            return False
        self._take(piece)
        return True

    def _take(self, piece: bytes) -> None:
        *whole, self._part = (self._part + piece).split(b"\n\n")
        for event in whole:
            fields = dict(line.split(b": ", 1) for line in event.split(b"\n"))
            if b"event" in fields:
                self._hear(fields[b"event"], fields.get(b"id", b"").decode(), fields[b"data"])

    def _hear(self, kind: bytes, id: str, data: bytes) -> None:
        said = msgspec.json.decode(data)
        before, place = self._place, read_place(id)
        if kind == b"compacted":
            self._gone = said["Reason"] != AHEAD
            return
        if place is None or kind == b"error":
            raise Violation(f"a reader of {self.watched} was told {kind!r}, {data!r}")
        if kind == b"snapshot":
            if before is not None and self._gone:
                index = self._newest() if place.epoch == before.epoch else place.index
                self.story.append(Heard(before.index, index, place.epoch, Told([], 0, compacted=True)))
            entries = tuple(_entry(item["Item"]) for item in said["Items"])
            self.story.append(Began(place.index, place.epoch, entries))
        elif before is None:
            raise Violation(f"a reader of {self.watched} was told {data!r}, and has not begun")
        else:
            changes = [_change(place.index, change) for change in said.get("Changes", ())]
            self.story.append(Heard(before.index, place.index, place.epoch, Told(changes, place.index)))
        self._place = place


_TTLS = {duration(ms): ms for ms in (1_000, 2_000)}


def _change(index: int, said: dict[str, Any]) -> KvChange:
    entry = _entry(said["Item"]) if said["Op"] == "set" else None
    return KvChange(index, said["Op"], said["Key"].encode(), entry)


def _entry(item: dict[str, Any]) -> KvEntry:
    return KvEntry(
        item["Key"].encode(),
        b64decode(item["Value"] or ""),
        item["Flags"],
        item["LockIndex"],
        item.get("Session", ""),
        item["CreateIndex"],
        item["ModifyIndex"],
        item.get("Fence", 0),
        ttl_ms=_TTLS[item["TTL"]] if "TTL" in item else 0,
    )
