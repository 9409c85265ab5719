"""Who waits for what: topics, and the hub that finds the waiters of a topic by its key.

A topic says what a command touched, or what a read depends on. Most meet as equals; two are wider:
a touched `kv` key also meets the watched prefixes above it, and a deleted range (`kv-prefix`) meets
every watched key and prefix that it overlaps. `node-id` is met by watched prefixes of node ids alike.
`all` meets everyone, and is never watched.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence
from typing import Generic, Literal, TypeVar

from gemot.server.model.autopilot import GetAutopilot
from gemot.server.model.catalog import HealthService, NodeInfo, Nodes, ServiceNodes, Services
from gemot.server.model.changes import KvChanges
from gemot.server.model.coordinate import CoordinateOf, Coordinates
from gemot.server.model.health import HealthChecks, HealthNode
from gemot.server.model.history import KvAsOf, KvRevisions
from gemot.server.model.kv import KvGet, KvKeys, KvKeysPage, KvList, KvListPage
from gemot.server.model.query import Query
from gemot.server.model.session import SessionInfo, Sessions
from gemot.server.model.txn import ReadTxn
from gemot.server.state.names import topic_key
from gemot.server.state.prefixes import Prefixes

Kind = Literal[
    "kv",
    "kv-prefix",
    "nodes",
    "services",
    "checks",
    "node",
    "service",
    "node-id",
    "autopilot",
    "coordinates",
    "coordinate",
    "session",
    "sessions",
    "node-sessions",
    "all",
]
Topic = tuple[Kind, bytes]

MIN_ID_PREFIX = 4
"""Characters of a node id that a read must give at least."""

W = TypeVar("W", bound=Hashable)


def topics(query: Query) -> tuple[Topic, ...]:
    """What the answer to this query depends on."""
    if isinstance(query, KvGet):
        return (("kv", query.key),)
    if isinstance(query, KvList | KvKeys | KvListPage | KvKeysPage):
        return (("kv-prefix", query.prefix),)
    if isinstance(query, KvChanges):
        return (("kv-prefix" if query.prefix else "kv", query.key),)
    if isinstance(query, ServiceNodes | HealthService | HealthChecks):
        return (("service", topic_key(query.service)),)
    if isinstance(query, HealthNode):
        return (("node", topic_key(query.node)),)
    if isinstance(query, NodeInfo):
        name = topic_key(query.node)
        by_id: tuple[Topic, ...] = (("node-id", name),) if may_be_id(query.node) else ()
        return (("node", name), *by_id)
    if isinstance(query, GetAutopilot):
        return (("autopilot", b""),)
    if isinstance(query, Coordinates):
        return (("coordinates", b""),)
    if isinstance(query, CoordinateOf):
        return (("coordinate", topic_key(query.node)),)
    if isinstance(query, SessionInfo):
        return (("session", topic_key(query.id)),)
    if isinstance(query, Sessions):
        return (("node-sessions", topic_key(query.node)) if query.node else ("sessions", b""),)
    if isinstance(query, ReadTxn | KvRevisions | KvAsOf):  # nobody is told of it again: it is asked once
        return ()
    if isinstance(query, Nodes):
        return (("nodes", b""),)
    table: Topic = ("services", b"") if isinstance(query, Services) else ("checks", b"")
    return (table, ("nodes", b"")) if query.node_meta else (table,)


def may_be_id(text: str) -> bool:
    """Could this be the beginning of a node's id (a UUID)?"""
    return len(text) >= MIN_ID_PREFIX and all(c in "0123456789abcdefABCDEF-" for c in text)


class Hub(Generic[W]):
    """Waiters by topic. A waiter is any hashable thing, added once, with all its topics."""

    def __init__(self) -> None:
        self._topics_of: dict[W, tuple[Topic, ...]] = {}
        self._exact: dict[Topic, dict[W, None]] = {}
        self._keys: Prefixes[dict[W, None]] = Prefixes()
        self._prefixes: Prefixes[dict[W, None]] = Prefixes()
        self._ids: Prefixes[dict[W, None]] = Prefixes()
        self.woken = 0

    def __len__(self) -> int:
        """Waiters."""
        return len(self._topics_of)

    @property
    def watched(self) -> int:
        """Distinct topics that someone waits for."""
        return len(self._exact) + len(self._keys) + len(self._prefixes) + len(self._ids)

    def add(self, topics: Sequence[Topic], waiter: W) -> None:
        assert waiter not in self._topics_of, "a waiter is added once"
        self._topics_of[waiter] = tuple(topics)
        for topic in topics:
            self._shelf_for(topic)[waiter] = None

    def remove(self, waiter: W) -> None:
        """Take a waiter away; one that is not there is no error."""
        for topic in self._topics_of.pop(waiter, ()):
            shelf = self._shelf_for(topic)
            shelf.pop(waiter, None)
            if not shelf:
                self._drop_shelf(topic)

    def wake(self, touched: Iterable[Topic]) -> list[W]:
        """Everyone who waits for one of these, each once, in the order touched and then added.

        They stay added: waking is telling.
        """
        found: dict[W, None] = {}
        for topic in touched:
            self._gather(topic, found)
        self.woken += len(found)
        return list(found)

    def wake_all(self) -> list[W]:
        self.woken += len(self._topics_of)
        return list(self._topics_of)

    def _gather(self, topic: Topic, found: dict[W, None]) -> None:
        kind, key = topic
        if kind == "kv":
            if (shelf := self._keys.get(key)) is not None:
                found.update(shelf)
            for shelf in self._prefixes.covering(key):
                found.update(shelf)
        elif kind == "kv-prefix":
            for shelf in self._keys.under(key):
                found.update(shelf)
            for shelf in self._prefixes.overlapping(key):
                found.update(shelf)
        elif kind == "node-id":
            for shelf in self._ids.covering(key):
                found.update(shelf)
        elif kind == "all":
            found.update(dict.fromkeys(self._topics_of))
        elif (shelf := self._exact.get(topic)) is not None:
            found.update(shelf)

    def _family(self, kind: Kind) -> Prefixes[dict[W, None]] | None:
        return {"kv": self._keys, "kv-prefix": self._prefixes, "node-id": self._ids}.get(kind)

    def _shelf_for(self, topic: Topic) -> dict[W, None]:
        family = self._family(topic[0])
        if family is None:
            return self._exact.setdefault(topic, {})
        shelf = family.get(topic[1])
        if shelf is None:
            shelf = {}
            family.put(topic[1], shelf)
        return shelf

    def _drop_shelf(self, topic: Topic) -> None:
        family = self._family(topic[0])
        if family is None:
            del self._exact[topic]
        else:
            family.pop(topic[1])
