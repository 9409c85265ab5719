"""Push watches: followers of a key or a prefix read once, and then hear each change through the change table.

They do what the source of a feed does (`agent/feeds/keys.py`), and move between servers at will. They follow
what all families write; here are the writes that the others lack: keys that expire or are locked by sessions
that end, entries of several keys, and the upkeep of the change table made small, so that what is asked for
may be gone. The rules are in `followers.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from simulation.agents import Agent, Subscriber, WorldLoop
from simulation.clients import Client
from simulation.families.kv import KvFamily
from simulation.families.locks import LockFamily
from simulation.followers import Began, Heard, Logged, Truth, bare, check_follower
from simulation.node import Node
from simulation.swarm import Told
from simulation.watches import Watched
from simulation.witness import Seen, Violation
from simulation.world import World

from gemot.agent.feeds import feed
from gemot.server.model.changes import KvChanges
from gemot.server.model.command import Command
from gemot.server.model.errors import GemotError
from gemot.server.model.kv import KvDelete, KvDeletePrefix, KvGet, KvList, KvSet
from gemot.server.model.query import Answer, Applied, Options
from gemot.server.model.txn import KvOp, Txn
from gemot.server.server import Server
from gemot.server.state import changes

PREFIX = b"push/"
KEYS = (b"push", b"push/0", b"push/0/below", b"push/1", b"push/2", b"push/3")
FOLLOWED = (
    Watched(b"", prefix=True),
    Watched(PREFIX, prefix=True),
    Watched(b"push/0"),
    Watched(b"lock/", prefix=True),
    Watched(b"key0"),
    Watched(b"nothing/", prefix=True),
)
FED = Watched(PREFIX, prefix=True)
AGENTS = 2
READERS = 2
LENGTHS = (2, 3, 5, 9)
TTLS_MS = (1_000, 2_000)
WAITS_MS = (50, 400, 1_500)
STALE_MS = (0, 1_000, 5_000)
GIVES_UP_US = (200_000, 2_000_000)
STAYS = 0.5
"""So often is the same server asked again."""

COMES_BACK = 0.15
"""So often is it asked as one asks who comes back with a place, and waits for nothing."""

AWAY = 0.05
AWAY_US = 2_000_000
"""So often, and so long at most, it asks nobody: there is much to be told then, or it is gone."""


@contextmanager
def told_at_once(told: Told) -> Iterator[None]:
    """The limits of the change table as they are drawn, not as servers have them; readers one by one."""
    before = changes.TOLD_ROWS, changes.KEEP_INDEXES, changes.STEP_INDEXES, feed.WAKE_SLICE
    changes.TOLD_ROWS, changes.KEEP_INDEXES, changes.STEP_INDEXES = told.rows, told.kept, told.step
    feed.WAKE_SLICE = 1
    try:
        yield
    finally:
        changes.TOLD_ROWS, changes.KEEP_INDEXES, changes.STEP_INDEXES, feed.WAKE_SLICE = before


class PushFamily:
    operations = (
        ("push-set", 0.8),
        ("push-expiring", 0.4),
        ("push-lock", 0.4),
        ("push-delete", 0.3),
        ("push-sweep", 0.2),
        ("push-several", 0.5),
    )

    def __init__(self, world: World, kv: KvFamily, locks: LockFamily, time_ms: Callable[[], int]) -> None:
        self._world = world
        self._kv = kv
        self._locks = locks
        self._time_ms = time_ms
        self._log: list[Logged] = []
        self._nodes: list[Node] = []
        self._followers: list[Follower] = []
        self._loop = WorldLoop(world)
        self._readers: list[Subscriber] = []
        self.history: list[Seen] = []

    def actors(self, nodes: list[Node]) -> list[Any]:
        self._nodes = nodes
        self._followers = [Follower(world=self._world, nodes=nodes, watched=each) for each in FOLLOWED]
        agents = [Agent(world=self._world, loop=self._loop, nodes=nodes, watched=FED) for _ in range(AGENTS)]
        self._readers = [
            Subscriber(world=self._world, loop=self._loop, agents=agents, watched=FED, newest=self._newest)
            for _ in range(READERS)
        ]
        return [*self._followers, *agents, *self._readers]

    def _newest(self) -> int:
        return self._log[-1].index if self._log else 0

    # -- the client --------------------------------------------------------------------------------

    def act(self, client: Client, node: Node, operation: str) -> None:
        random = self._world.random
        key, value = random.choice(KEYS), self._kv.new_value()
        session = self._locks.sessions.get(client.number)
        match operation:
            case "push-expiring":
                self._write(client, node, KvSet(key, value, ttl_ms=random.choice(TTLS_MS)))
            case "push-lock" if session is not None:
                self._write(client, node, KvSet(key, value, acquire=session.id))
            case "push-delete":
                self._write(client, node, KvDelete(key))
            case "push-sweep":
                self._write(client, node, KvDeletePrefix(random.choice([b"pu", PREFIX, b"push/0"])))
            case "push-several":
                self._write(client, node, self._several())
            case _:
                self._write(client, node, KvSet(key, value))

    def _several(self) -> Txn:
        """Of the same keys twice and thrice, too."""
        random, ops = self._world.random, list[KvOp]()
        for _ in range(random.choice(LENGTHS)):
            key = random.choice(KEYS)
            match random.choice(["set", "set", "set", "set", "expiring", "delete", "delete-tree"]):
                case "set":
                    ops.append(KvOp("set", key, self._kv.new_value()))
                case "expiring":
                    ops.append(KvOp("set", key, self._kv.new_value(), ttl_ms=random.choice(TTLS_MS)))
                case "delete":
                    ops.append(KvOp("delete", key))
                case _:
                    ops.append(KvOp("delete-tree", random.choice([PREFIX, b"push/0"])))
        return Txn(tuple(ops))

    def _write(self, client: Client, node: Node, command: Command) -> None:
        began = client.began_us

        def told(result: Applied) -> None:
            kind = type(command).__name__
            self._world.note(f"push {kind} {result.index} {result.value!r}\n")
            now = self._world.now_us
            self.history.append(Seen(kind, PREFIX, began, now, result.index, None, None, result.value))

        client.write(node, command, told)

    # -- the truth ---------------------------------------------------------------------------------

    def effect(self, index: int, command: Any, result: Applied) -> None:
        self._log.append(Logged(index, self._time_ms(), command, result.value))

    def check(self) -> int:
        truth = Truth(self._log)
        for follower in self._followers:
            name = f"follower of {follower.watched}"
            where, rows = check_follower(name, follower.watched, follower.story, truth, self._kv.due)
            self._compare(name, follower.watched, where, rows)
        for reader in self._readers:
            name = f"reader of {reader.watched}"
            check_follower(name, reader.watched, reader.story, truth, self._kv.due)
        for error in self._loop.errors:
            raise Violation(f"an agent failed: {error!r}")
        return len(self.history)

    def _compare(self, name: str, watched: Watched, where: int, rows: Any) -> None:
        """With what is read of a server, where nothing of it has changed since."""
        states = [node.opened.state for node in self._nodes if node.opened is not None]
        newest = max(states, key=lambda state: state.index, default=None)
        if newest is None or (self._log and newest.index < self._log[-1].index):
            return
        entries, index = newest.read(KvList(watched.key), "")
        mine = {entry.key: bare(entry) for entry in entries if watched.holds(entry.key)}
        if index <= where and mine != rows:
            raise Violation(f"{name} has {rows} at {where}, and {mine} is read")

    @property
    def heard(self) -> int:
        """Answers to followers, and events that readers were sent."""
        return sum(len(each.story) for each in [*self._followers, *self._readers])


class Follower:
    """Follows one key or prefix; what it was told is noted, and no more is kept than where it stands."""

    def __init__(self, *, world: World, nodes: list[Node], watched: Watched) -> None:
        self._world = world
        self.nodes = nodes
        self.watched = watched
        self.story: list[Began | Heard] = []
        self._place: tuple[int, int] | None = None
        """Index and epoch; None before it has read what there is."""

        self._turn = world.random.randrange(len(nodes))
        self._round = 0
        self._cancel: tuple[Node, int, Callable[[], None]] | None = None
        self.in_calm = False
        """Then it stays: it is to come to the end, a few changes at a time."""
        self.stopped = False

    def start(self) -> None:
        self._ask()

    def _ask(self) -> None:
        if self.stopped:
            return
        self._round += 1
        asked, random = self._round, self._world.random
        node = self.nodes[self._turn % len(self.nodes)]
        self._world.at(random.randrange(*GIVES_UP_US), "follower moves", lambda: self._move(asked))
        if not node.up:
            return
        self._begin(node, asked) if self._place is None else self._go_on(node, asked, *self._place)

    def _move(self, asked: int) -> None:
        """To another server, away from one that died or has nothing to tell."""
        if asked != self._round:
            return
        self._round += 1
        self._turn += 1
        cancelled, self._cancel = self._cancel, None
        if cancelled is not None and cancelled[0].life == cancelled[1] and not cancelled[0].paused:
            cancelled[2]()
        self._ask()

    def _begin(self, node: Node, asked: int) -> None:
        key = self.watched.key
        query = KvList(key) if self.watched.prefix else KvGet(key)

        def begun(answer: Answer) -> None:
            found = answer.value if self.watched.prefix else [answer.value] if answer.value else []
            self.story.append(Began(answer.index, answer.epoch, tuple(found)))
            self._place = (answer.index, answer.epoch)

        self._query(node, asked, query, Options(), begun)

    def _go_on(self, node: Node, asked: int, after: int, epoch: int) -> None:
        random = self._world.random
        options = Options(
            index=after,
            wait_ms=random.choice(WAITS_MS),
            consistency="stale",
            max_stale_ms=random.choice(STALE_MS),
        )
        if random.random() < COMES_BACK:
            options = Options()

        def heard(answer: Answer) -> None:
            self.story.append(Heard(after, answer.index, answer.epoch, answer.value))
            told = answer.value
            gone = told.compacted or answer.epoch != epoch
            self._place = None if gone else (max(after, told.through), epoch)

        self._query(node, asked, KvChanges(self.watched.key, self.watched.prefix, after), options, heard)

    def _query(
        self, node: Node, asked: int, query: Any, options: Options, heard: Callable[[Answer], None]
    ) -> None:
        def done(result: Answer | GemotError) -> None:
            if asked != self._round:
                return
            self._round += 1
            self._cancel = None
            if isinstance(result, Answer):
                heard(result)
            random = self._world.random
            if not isinstance(result, Answer) or random.random() >= STAYS:
                self._turn += 1
            away = random.random() < AWAY and not self.in_calm
            rest_us = random.randrange(AWAY_US) if away else 1_000
            self._world.at(rest_us, "follower", self._ask)

        def ask(server: Server) -> None:
            if asked == self._round:
                cancel = server.query(query, options, done)
                self._cancel = (node, node.life, cancel) if asked == self._round else None

        node.ask("follower asks", ask)
