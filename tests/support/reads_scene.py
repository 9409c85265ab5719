"""Reads over the real state, on virtual time, with a reader of long lists that is moved by hand."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from support.one_state import OneState
from support.virtual import FixedChance, VirtualTimer

from gemot.server.confirm import Confirmations
from gemot.server.model.command import Command
from gemot.server.model.errors import GemotError
from gemot.server.model.kv import KvGet, KvSet
from gemot.server.model.query import Options, Query
from gemot.server.reads import Reads
from gemot.server.state.permission import ALLOW_ALL, Authorizer
from gemot.server.state.store import Found, State
from gemot.server.state.watch import Hub

KEY = KvGet(b"k")
LIST_ROWS = 3
"""Longer lists are read at the reader."""


class Counting:
    """The state, and how often it was read; `after_read` runs right after each look."""

    def __init__(self, state: State) -> None:
        self._state = state
        self.looks = 0
        self.queries: list[Query] = []
        self.after_read: Callable[[], None] = lambda: None

    def read(self, query: Query, accessor: str, limit: int) -> tuple[Any, int]:
        self.looks += 1
        self.queries.append(query)
        found = self._state.read(query, accessor, limit)
        self.after_read()
        return found

    @property
    def index(self) -> int:
        return self._state.index

    @property
    def epoch(self) -> int:
        return self._state.epoch


class Scene:
    """One server's reads. The leader confirms at once unless `leaderless`."""

    def __init__(self, folder: Path, *, authorizer: Authorizer = ALLOW_ALL) -> None:
        self.one = OneState(folder, authorizer=authorizer)
        self.timer = VirtualTimer()
        self.chance = FixedChance(0.0)
        self.leaderless = False
        self.contact_ms = 0
        self.asks = 0
        self.read_index: int | None = None
        self.state = Counting(self.one.state)
        self.submitted: list[tuple[Query, str, Callable[[Found | GemotError], None]]] = []
        self.confirmations = Confirmations(
            ask=self._ask,
            applied=lambda: self.one.state.applied_index,
            timer=self.timer,
            random=self.chance,
            hold_ms=7_000,
        )
        self.reads = Reads(
            state=self.state,  # type: ignore[arg-type]
            hub=Hub(),
            contact=self,
            confirmations=self.confirmations,
            timer=self.timer,
            random=self.chance,
            reader=self,
            list_rows=LIST_ROWS,
        )

    def submit(self, query: Query, accessor: str, done: Callable[[Found | GemotError], None]) -> None:
        """The `Reader` port: a read begins with `begin_read`, and is told with `tell_read`."""
        self.submitted.append((query, accessor, done))

    def begin_read(self) -> None:
        query, accessor, _ = self.submitted[0]
        try:
            self.found: Found | GemotError = self.one.read_elsewhere(query, accessor)
        except GemotError as refusal:
            self.found = refusal

    def tell_read(self) -> None:
        _, _, done = self.submitted.pop(0)
        done(self.found)
        self.timer.run()

    def read_long(self) -> None:
        self.begin_read()
        self.tell_read()

    def _ask(self, id: int) -> None:
        self.asks += 1
        if not self.leaderless:
            index = self.read_index if self.read_index is not None else self.one.state.applied_index
            self.timer.call_soon(lambda: self.confirmations.on_answer(id, index))

    def last_contact_ms(self) -> int:
        return self.contact_ms

    def knows_leader(self) -> bool:
        return not self.leaderless

    def write(self, *commands: Command) -> int:
        """Apply and tell; the index."""
        outcomes = self.one.apply(*commands)
        self.reads.on_applied([topic for outcome in outcomes for topic in outcome.touched])
        return outcomes[-1].index

    def set(self, value: bytes = b"v", key: bytes = b"k") -> int:
        return self.write(KvSet(key, value))

    def ask(self, query: Query = KEY, **options: Any) -> list[Any]:
        told: list[Any] = []
        self.cancel = self.reads.query(query, Options(**options), "", told.append)
        self.timer.run()
        return told

    def subscribe(self, query: Query = KEY, from_index: int = 0) -> list[Any]:
        told: list[Any] = []
        self.cancel = self.reads.subscribe(query, "", from_index, told.append)
        return told

    def pass_ms(self, ms: int) -> None:
        self.timer.pass_ms(ms, tick=self.confirmations.on_tick)
