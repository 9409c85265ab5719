"""Clients of the key-value store, each doing one thing at a time, and the history of what they saw."""

from __future__ import annotations

from typing import Any

from simulation.node import Node
from simulation.witness import Seen, Violation
from simulation.world import World

from gemot.server.model.errors import GemotError, OutcomeUnknown
from gemot.server.model.kv import KvDelete, KvEntry, KvGet, KvList, KvSet
from gemot.server.model.query import Answer, Applied, Options
from gemot.server.rpc.message import Bookmark

GIVE_UP_US = 12_000_000
ALL = KvList(b"key")
LOOK_US = 150_000
"""How soon a client notices that its server died."""


class Client:
    """Sets, compares-and-sets, deletes and reads a few keys through a server drawn anew each time."""

    def __init__(
        self, *, world: World, nodes: list[Node], number: int, keys: int, think_us: int, history: list[Seen]
    ) -> None:
        self._world = world
        self._nodes = nodes
        self._number = number
        self._think_us = think_us
        self._keys = [f"key{n}".encode() for n in range(keys)]
        self._history = history
        self._indexes: dict[bytes, int] = {}
        self._sequence = 0
        self._operation = 0
        self.stopped = False
        self.unknown = 0
        self.failed = 0

    def start(self) -> None:
        self._think()

    def _think(self) -> None:
        delay = self._world.random.randrange(self._think_us)
        self._world.at(delay, f"client{self._number}", self._act)

    def _act(self) -> None:
        if self.stopped:
            return
        node = self._world.random.choice(self._nodes)
        if node.server is None:
            self._think()
            return
        key = self._world.random.choice(self._keys)
        draw = self._world.random.random()
        if draw < 0.3:
            self._read(node, key)
        elif draw < 0.45:
            self._list(node)
        elif draw < 0.75:
            self._write(node, KvSet(key, self._value()))
        elif draw < 0.9:
            self._write(node, KvSet(key, self._value(), cas=self._indexes.get(key, 0)))
        else:
            self._write(node, KvDelete(key))

    def _value(self) -> bytes:
        self._sequence += 1
        return f"{self._number}-{self._sequence}".encode()

    def _begin(self, node: Node) -> int:
        """Guard the operation: if its server dies the connection breaks, and the outcome is unknown."""
        self._operation += 1
        operation, life, began = self._operation, node.life, self._world.now_us

        def look() -> None:
            if operation != self._operation:
                return
            if node.life != life or self._world.now_us - began >= GIVE_UP_US:
                self.unknown += 1
                self._end()
            else:
                self._world.at(LOOK_US, f"client{self._number} looks", look)

        self._world.at(LOOK_US, f"client{self._number} looks", look)
        return operation

    def _end(self) -> None:
        self._operation += 1
        self._think()

    def _read(self, node: Node, key: bytes) -> None:
        began, operation = self._world.now_us, self._begin(node)

        def done(result: Answer | GemotError) -> None:
            if operation != self._operation or node.opened is None:
                return
            if isinstance(result, Answer):
                entry: KvEntry | None = result.value
                self._indexes[key] = entry.modify_index if entry is not None else 0
                served = node.opened.state.applied_index
                value = entry.value if entry is not None else None
                self._see(Seen("get", key, began, self._world.now_us, served, None, None, value))
            else:
                self.failed += 1
            self._end()

        assert node.server is not None
        node.server.query(KvGet(key), Options(), done)

    def _list(self, node: Node) -> None:
        """All keys at once: each of them is a read of the one state that the list tells."""
        began, operation = self._world.now_us, self._begin(node)

        def done(result: Answer | GemotError) -> None:
            if operation != self._operation or node.opened is None:
                return
            if isinstance(result, Answer):
                served = node.served if node.served is not None else node.opened.state.applied_index
                values = {entry.key: entry.value for entry in result.value}
                for key in self._keys:
                    value = values.get(key)
                    self._see(Seen("get", key, began, self._world.now_us, served, None, None, value))
            else:
                self.failed += 1
            self._end()

        assert node.server is not None
        node.server.query(ALL, Options(), done)

    def _write(self, node: Node, command: KvSet | KvDelete) -> None:
        began, operation = self._world.now_us, self._begin(node)
        kind = "set" if isinstance(command, KvSet) else "delete"
        value = command.value if isinstance(command, KvSet) else None

        def done(result: Any) -> None:
            if operation != self._operation:
                return
            if isinstance(result, Applied):
                if result.value is True and kind == "set":
                    self._indexes[command.key] = result.index
                now = self._world.now_us
                self._see(Seen(kind, command.key, began, now, result.index, value, command.cas, result.value))
            elif isinstance(result, OutcomeUnknown):
                self.unknown += 1
            else:
                self.failed += 1
            self._end()

        assert node.server is not None
        node.server.apply(command, "", None, done)

    def _see(self, seen: Seen) -> None:
        self._world.note(f"{seen.kind} {seen.key!r} {seen.index} {seen.result!r}\n")
        self._history.append(seen)


class Watcher:
    """A blocking reader: its indexes never go back, and in the end it has seen the last state."""

    def __init__(self, *, world: World, nodes: list[Node], query: KvGet | KvList) -> None:
        self._world = world
        self._nodes = nodes
        self._query = query
        self._index = 0
        self._round = 0
        self.stopped = False
        self.wakes = 0

    def start(self) -> None:
        self._ask()

    def _ask(self) -> None:
        self._round += 1
        asked = self._round
        node = self._world.random.choice(self._nodes)
        self._world.at(3_000_000, "watcher gives up", lambda: self._ask() if asked == self._round else None)
        if node.server is None or self.stopped:
            return

        def done(result: Answer | GemotError) -> None:
            if asked != self._round:
                return
            if isinstance(result, Answer):
                if result.index < self._index:
                    raise Violation(f"a watcher's index went from {self._index} back to {result.index}")
                self.wakes += result.index > self._index
                self._index = result.index
            self._world.at(1_000, "watcher", self._ask)

        node.server.query(self._query, Options(index=self._index, wait_ms=1_500), done)


class Subscriber:
    """Holds the list of all keys as one server tells it: newer each time, and right at each bookmark."""

    def __init__(self, *, world: World, nodes: list[Node]) -> None:
        self._world = world
        self._nodes = nodes
        self._index = 0
        self._value: Any = None
        self._at: tuple[Node, int] | None = None
        self.stopped = False
        self.bookmarks = 0

    def start(self) -> None:
        """Hold on to one server until it dies; cancelled now and then, as agents do that move on."""
        if self._at is None or self._at[0].life != self._at[1]:
            self._begin(self._world.random.choice(self._nodes))
        elif self._world.random.random() < 0.1:
            self._cancel()
            self._begin(self._world.random.choice(self._nodes))
        if not self.stopped:
            self._world.at(300_000, "subscriber looks", self.start)

    def _begin(self, node: Node) -> None:
        self._at = None
        if node.server is not None:
            self._index, self._value, self._at = 0, None, (node, node.life)
            mine = self._at
            self._cancel = node.server.subscribe(ALL, "", 0, lambda event: self._told(mine, event))

    def _told(self, by: tuple[Node, int], event: Any) -> None:
        node = by[0]
        if by is not self._at or node.opened is None:
            raise Violation(f"{node.name} tells a subscription that was cancelled")
        if isinstance(event, Answer):
            if event.index <= self._index:
                raise Violation(f"{node.name} tells a list of {event.index} after one of {self._index}")
            self._index, self._value = event.index, event.value
        elif isinstance(event, Bookmark):
            self.bookmarks += 1
            value, _ = node.opened.state.read(ALL, "")
            if value != self._value:
                raise Violation(f"{node.name} says that all was told, but it told {self._value}, not {value}")
