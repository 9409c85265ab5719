"""When a watch tells something, and what: changes are gathered, told in one run, and what was told is kept.

No sockets, and no clock of its own: it is handed where events come from, who is told, and the time.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable
from typing import Any, Protocol

import msgspec

from gemot.agent.cli.watch_state import Kept
from gemot.agent.cli.watched import Watched
from gemot.agent.client.events import Event, Snapshot
from gemot.agent.client.mirror import Changed, Mirror
from gemot.agent.client.watch import event_index

MOST_GATHERED = 4_096
"""Events that are told in one run at most."""

MOST_USER_EVENTS = 4_096
"""User events remembered as told: many more than an agent keeps."""

RETRY_S = 1.0
RETRY_MAX_S = 60.0

Tell = Callable[[int, str], bool]
"""Told the index and the JSON; False if that failed."""


class Events(Protocol):
    def take(self, timeout_s: float | None) -> Event | None: ...


class State(Protocol):
    def write(self, *, told: str, place: str, items: dict[str, Any] | None) -> None: ...


class Telling:
    """`by_change`: what is told are the changes, each with what was there before; else how it is now. Of user
    events, in either way, the new ones."""

    def __init__(
        self,
        *,
        events: Events,
        watched: Watched,
        kept: Kept,
        state: State,
        tell: Tell,
        by_change: bool = False,
        debounce_s: float = 0.0,
        at_once: int = MOST_GATHERED,
        retries: bool = False,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self._events = events
        self._watched = watched
        self._of_events = watched.kind == "event"
        self._keeps_items = by_change or self._of_events
        self._told = kept.told
        self._mirror = Mirror(kept.items)
        self._state = state
        self._tell = tell
        self._by_change = by_change
        self._debounce_s = debounce_s
        self._at_once = at_once
        self._retries = retries
        self._now = now
        self._pending: list[Changed] = []
        self._place, self._index = kept.place, 0

    def run(self) -> None:
        """For ever. Raises what ends the events, or what `tell` raises."""
        failures = 0
        while True:
            if failures:
                self._gather(back_off_s(failures))
            else:
                while not self._take(self._events.take(None)):
                    pass
                self._gather(self._debounce_s)
            text, told = self._news()
            done = not text or self._tell(self._shown_index(), text)
            if done or not self._retries:
                failures, self._told = 0, told
                self._pending.clear()
            else:
                failures += 1
            if done and text:
                items = self._mirror.items if self._keeps_items else None
                self._state.write(told=told, place=self._place, items=items)

    def _gather(self, for_s: float) -> None:
        """What comes in that time, and what is there already when it is over."""
        until_s = self._now() + for_s
        for _ in range(self._at_once - 1):
            left_s = until_s - self._now()
            event = self._events.take(max(0.0, left_s))
            if event is None and left_s <= 0:
                return
            self._take(event)

    def _take(self, event: Event | None) -> bool:
        """May there be something to tell?"""
        if event is None:
            return False
        if self._of_events and isinstance(event, Snapshot):  # another agent may list fewer, and others
            event = msgspec.structs.replace(event, items=self._mirror.items | event.items)
        changed = self._mirror.take(event)
        self._place, self._index = event.place, event.index
        if self._of_events:
            self._forget()
        if self._keeps_items:
            self._pending += changed
        return bool(changed) or isinstance(event, Snapshot)

    def _forget(self) -> None:
        """An agent does not tell which events it keeps no longer."""
        items = self._mirror.items
        for id in list(items)[: max(0, len(items) - MOST_USER_EVENTS)]:
            del items[id]

    def _news(self) -> tuple[str, str]:
        """What is to be told, "" for nothing, and its hash."""
        if self._by_change:
            told = {"Index": self._index, "Changes": self._pending} if self._pending else None
            return (msgspec.json.encode(told).decode() if told else ""), "changes"
        if self._of_events:
            new = {each.key: each.new for each in self._pending}
            return (_text(self._watched.value(new)) if new or not self._told else ""), "events"
        text = _text(self._watched.value(self._mirror.items))
        told_hash = hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
        return (text if told_hash != self._told else ""), told_hash

    def _shown_index(self) -> int:
        """Of events, Consul's: it names the last of them."""
        if not self._of_events or self._by_change or not self._pending:
            return max(1, self._index)
        new = {each.key: each.new for each in self._pending}
        return event_index(self._watched.value(new)[-1]["ID"])


def back_off_s(failures: int) -> float:
    """How long to wait before the command is run again: twice as long each time, up to a minute."""
    return float(min(RETRY_S * 2 ** min(failures - 1, 10), RETRY_MAX_S))


def _text(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)
