"""The key-value family: writes, deletes, deletes of prefixes, reads of every kind; its model and checker."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from random import Random
from typing import Any

from simulation import blackbox
from simulation.clients import Client
from simulation.linearize import Report
from simulation.node import Node
from simulation.txn_parts import effect_of
from simulation.watches import Awoken, Told, Value, Watched, check_watches
from simulation.witness import STALE, Effect, Seen, Violation, check, replayed
from simulation.world import World

from gemot.server.model.command import Command, IdempotencyKey
from gemot.server.model.errors import GemotError
from gemot.server.model.kv import KvDelete, KvDeletePrefix, KvGet, KvList, KvSet
from gemot.server.model.query import Answer, Applied, Options
from gemot.server.model.restore import Restore
from gemot.server.model.txn import Txn
from gemot.server.model.upkeep import ReapTombstones
from gemot.server.rpc.message import Bookmark
from gemot.server.server import Server

ALL = KvList(b"key")
GIVES_UP_US = 2_000_000
STALE_OPTIONS = Options(consistency="stale")


class KvFamily:
    """A few keys, so that clients meet; no value is ever written twice."""

    operations = (
        ("put", 3.0),
        ("cas", 2.0),
        ("delete", 0.7),
        ("delete-prefix", 0.3),
        ("get", 2.0),
        ("list", 1.2),
        ("blocking", 0.5),
        ("stale", 1.0),
        ("retry", 1.5),
    )

    def __init__(self, world: World, keys: int) -> None:
        self._world = world
        self.keys = [f"key{n}".encode() for n in range(keys)]
        self._sequence = 0
        self.indexes: dict[tuple[int, bytes], int] = {}
        self.newest: dict[bytes, int] = {}
        """The index of each key as it was written last, for those who compare and want to be right."""

        self._effects: list[Effect] = []
        self._values: dict[bytes, int] = {}
        self._reaped = 0
        self._asked = 0
        self._unanswered: dict[int, Seen] = {}
        """Writes that were asked for and not answered: under way, or of unknown outcome for ever."""

        self._refused: list[Seen] = []
        self.transacted: list[Seen] = []
        self.transacted_open: list[Seen] = []
        self.transacted_in_vain: list[Seen] = []
        """What transactions did to single keys, may have done, and surely did not: told by their family."""

        self.awoken: list[Awoken] = []
        self.told: list[Told] = []
        self.due: int | None = None
        """What is applied up to this index, every watcher must have seen in the end."""

        self.history: list[Seen] = []

    def actors(self, nodes: list[Node]) -> list[Watcher | Subscriber]:
        watched: tuple[KvGet | KvList, ...] = (KvGet(b"key0"), ALL)
        watchers = [
            Watcher(world=self._world, nodes=nodes, query=query, awoken=self.awoken) for query in watched
        ]
        return [*watchers, Subscriber(world=self._world, nodes=nodes, told=self.told)]

    # -- the client --------------------------------------------------------------------------------

    def act(self, client: Client, node: Node, operation: str) -> None:
        key = self._world.random.choice(self.keys)
        match operation:
            case "get":
                self._read(client, node, key, Options(), "get")
            case "stale":
                self._read(client, node, key, STALE_OPTIONS, STALE)
            case "blocking":
                index = self.indexes.get((client.number, key), 0)
                self._read(client, node, key, Options(index=index, wait_ms=1_500), "get")
            case "list":
                self._list(client, node)
            case "put":
                self._write(client, node, KvSet(key, self.new_value()))
            case "cas":
                index = self.indexes.get((client.number, key), 0)
                self._write(client, node, KvSet(key, self.new_value(), cas=index))
            case "retry":
                value = self.new_value()
                self._write(client, node, KvSet(key, value), IdempotencyKey(value.decode(), b"once"))
            case "delete":
                self._write(client, node, KvDelete(key))
            case _:
                whole = self._world.random.random() < 0.2
                self._write(client, node, KvDeletePrefix(b"key" if whole else key))

    def new_value(self) -> bytes:
        self._sequence += 1
        return b"value %d" % self._sequence

    def _read(self, client: Client, node: Node, key: bytes, options: Options, kind: str) -> None:
        began = client.began_us

        def seen(answer: Answer, served: int) -> None:
            entry = answer.value
            if kind != STALE:
                self.indexes[client.number, key] = entry.modify_index if entry is not None else 0
            value = entry.value if entry is not None else None
            self.see(Seen(kind, key, began, self._world.now_us, served, None, None, value))

        client.query(node, KvGet(key), options, seen)

    def _list(self, client: Client, node: Node) -> None:
        """All keys at once: each of them is a read of the one state that the list tells."""
        began = client.began_us

        def seen(answer: Answer, served: int) -> None:
            values = {entry.key: entry.value for entry in answer.value}
            for key in self.keys:
                value = values.pop(key, None)
                self.see(Seen("get", key, began, self._world.now_us, served, None, None, value))
            if values:
                raise Violation(f"{node.name} lists keys that nobody wrote: {values}")

        client.query(node, ALL, Options(), seen)

    def _write(self, client: Client, node: Node, command: Command, key: IdempotencyKey | None = None) -> None:
        began = client.began_us
        effect = _effect_of(0, command)
        assert effect is not None
        self._asked += 1
        asked = self._asked
        self._unanswered[asked] = Seen(
            effect.kind, effect.key, began, began, 0, effect.value, effect.cas, None
        )

        def refused() -> None:
            self._refused.append(self._unanswered.pop(asked))

        def told(result: Applied) -> None:
            del self._unanswered[asked]
            if result.value is True and effect.kind == "set":
                self.indexes[client.number, effect.key] = result.index
            now = self._world.now_us
            self.see(
                Seen(
                    effect.kind, effect.key, began, now, result.index, effect.value, effect.cas, result.value
                )
            )

        client.write(node, command, told, key, refused=refused)

    def see(self, seen: Seen) -> None:
        self._world.note(f"{seen.kind} {seen.key!r} {seen.index} {seen.result!r}\n")
        self.history.append(seen)

    # -- the truth ---------------------------------------------------------------------------------

    def effect(self, index: int, command: Any, result: Applied) -> None:
        if isinstance(command, Restore):
            state = _state_at(command.index, self._effects)
            self._effects.append(Effect(index, "restore", b"", None, None, state))
        if isinstance(command, ReapTombstones):
            self._reaped = max(self._reaped, command.through)
        if isinstance(command, Txn):
            effect = effect_of(index, command, result)
        else:
            effect = _effect_of(index, command)
        if effect is None:
            return
        for part in effect.parts or (effect,):
            if result.value is not False:
                written = index if part.kind == "set" else 0
                self.newest |= {key: written for key in self.keys if part.touches(key)}
            if part.value is None:
                continue
            # Clients never write a value twice: one that stands at two indexes was applied twice.
            before = self._values.setdefault(part.value, index)
            if before != index:
                raise Violation(f"{command} was applied twice, at {before} and {index}")
        self._effects.append(effect)

    def check(self) -> int:
        lost = self._unanswered.values()
        return check(self.history, self._effects, unanswered=lost, refused=self._refused)

    def check_black_box(self, random: Random, restores: Mapping[int, tuple[int, int]]) -> Report:
        """The same history again, some keys of it, by a check that believes no index.

        `restores`: when those that were told as done were asked for, and told.
        """
        return blackbox.check_sample(
            blackbox.Story(
                [*self.history, *self.transacted],
                self._effects,
                [*self._unanswered.values(), *self.transacted_open],
                [*self._refused, *self.transacted_in_vain],
                restores,
            ),
            self.keys,
            random,
        )

    def check_watches(self) -> int:
        """What watchers were told. In the end there was calm, and they asked again after what is `due`."""
        return check_watches(
            self.awoken,
            self.told,
            self._effects,
            [*self.history, *self.transacted],
            due=self.due,
            reaped=self._reaped,
        )


def _state_at(index: int, effects: list[Effect]) -> dict[bytes, tuple[bytes, int]]:
    """What an archive of that index holds."""
    state: dict[bytes, tuple[bytes, int]] = {}
    for _, stored in replayed(effect for effect in effects if effect.index <= index):
        state = stored
    return dict(state)


def _effect_of(index: int, command: Any) -> Effect | None:
    if isinstance(command, KvSet) and command.acquire is None and command.release is None:
        return Effect(index, "set", command.key, command.value, command.cas)
    if isinstance(command, KvDelete):
        return Effect(index, "delete", command.key, None, command.cas)
    if isinstance(command, KvDeletePrefix):
        return Effect(index, "delete-prefix", command.prefix, None, None)
    return None


# -- who watches -----------------------------------------------------------------------------------


class Watcher:
    """A blocking reader. What it was told is noted; `watches.py` has the rules."""

    def __init__(
        self, *, world: World, nodes: list[Node], query: KvGet | KvList, awoken: list[Awoken]
    ) -> None:
        self._world = world
        self.nodes = nodes
        self._query = query
        self._awoken = awoken
        one = isinstance(query, KvGet)
        self._watched = Watched(query.key if isinstance(query, KvGet) else query.prefix, prefix=not one)
        self._index = 0
        self._round = 0
        self._turn = world.random.randrange(len(nodes))
        self.stopped = False
        self.wakes = 0

    def start(self) -> None:
        self._ask()

    def _ask(self) -> None:
        self._round += 1
        asked = self._round
        self._turn += 1  # not by chance: one of a minority that does not serve is not asked again and again
        node = self.nodes[self._turn % len(self.nodes)]
        began = self._world.now_us
        self._world.at(GIVES_UP_US, "watcher gives up", lambda: self._ask() if asked == self._round else None)
        if not node.up or self.stopped:
            return

        def done(result: Answer | GemotError) -> None:
            if asked != self._round:
                return
            if isinstance(result, Answer):
                self._note(began, result)
                self.wakes += result.index > self._index
                self._index = result.index
            self._world.at(1_000, "watcher", self._ask)

        options = Options(index=self._index, wait_ms=1_500)
        node.ask("watcher asks", lambda server: server.query(self._query, options, done))

    def _note(self, began: int, answer: Answer) -> None:
        entries = answer.value if self._watched.prefix else [answer.value] if answer.value else []
        name = self._watched.key.decode() + "*" * self._watched.prefix
        self._awoken.append(Awoken(name, self._watched, began, self._index, answer.index, _value_of(entries)))


def _value_of(entries: Any) -> Value:
    return {entry.key: entry.value for entry in entries}


class Subscriber:
    """Holds the list of all keys as one server tells it: newer each time, and right at each bookmark."""

    def __init__(self, *, world: World, nodes: list[Node], told: list[Told]) -> None:
        self._world = world
        self.nodes = nodes
        self._heard = told
        self._begun = 0
        self._index = 0
        self._value: Any = None
        self._at: tuple[Node, int] | None = None
        self._cancel: Callable[[], None] | None = None
        self.stopped = False
        self.bookmarks = 0

    def start(self) -> None:
        """Hold on to one server until it dies; cancelled now and then, as agents do that move on."""
        random = self._world.random
        if self._at is None or self._at[0].life != self._at[1]:
            self._begin(random.choice(self.nodes))
        elif random.random() < 0.1 and self._cancel is not None and not self._at[0].paused:
            cancel, self._cancel = self._cancel, None
            cancel()
            self._begin(random.choice(self.nodes))
        if not self.stopped:
            self._world.at(300_000, "subscriber looks", self.start)

    def _begin(self, node: Node) -> None:
        self._at, self._cancel = None, None
        if not node.up:
            return
        mine = self._at = (node, node.life)

        def subscribe(server: Server) -> None:
            if self._at is mine:
                self._begun += 1
                self._index, self._value = 0, None
                self._cancel = server.subscribe(ALL, "", 0, lambda event: self._told(mine, event))

        node.ask("subscriber asks", subscribe)

    def _told(self, by: tuple[Node, int], event: Any) -> None:
        node = by[0]
        if by is not self._at or node.opened is None:
            raise Violation(f"{node.name} tells a subscription that was cancelled")
        if isinstance(event, Answer):
            self._note(event.index, _value_of(event.value))
            self._index, self._value = event.index, event.value
        elif isinstance(event, Bookmark):
            self.bookmarks += 1
            self._note(event.index, None)
            value, _ = node.opened.state.read(ALL, "")
            if value != self._value:
                raise Violation(f"{node.name} says that all was told, but it told {self._value}, not {value}")

    def _note(self, index: int, value: Value | None) -> None:
        """A subscription is a watcher of its own: one on another server may begin with an older state."""
        name = f"subscription {self._begun}"
        self._heard.append(Told(name, Watched(ALL.prefix, prefix=True), index, value))
