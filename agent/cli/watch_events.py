"""The events that `gemot watch` goes by: pushed, or asked for where an agent cannot push.

They are read on a thread, so that they can be waited for with a limit.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Iterator
from typing import Any

import click

from gemot.agent.cli.watched import Watched
from gemot.agent.client.agents import Agents
from gemot.agent.client.connection import ClientError, Connection, Refused
from gemot.agent.client.events import Event, Snapshot
from gemot.agent.client.stream import Stream
from gemot.agent.client.watch import Watch, back_off_s

MOST_WAITING = 256
"""More stay with the agent, which knows how to go on where a reader is slow."""

_TOLD_EACH = ("key", "keyprefix")
"""Of all else it is told how it is, and for that a snapshot is enough."""

_NO_SUCH_PATH = (404, 405)


def events(connection: Connection, watched: Watched, read: dict[str, Any], place: str) -> Iterator[Event]:
    """From `place` on, for ever. Raises what asking again would not mend."""
    if watched.pushed is not None and not read["stale"]:
        agents = Agents(connection.address, token=connection.token, slow=connection.slow)
        try:
            for event in Stream(agents, watched.pushed, place=place, trouble=_tell):
                if isinstance(event, Snapshot) and event.lost and watched.kind in _TOLD_EACH:
                    click.echo(f"gemot watch: not each change is known: {event.lost}", err=True)
                yield event
        except Refused as error:
            if error.status not in _NO_SUCH_PATH:
                raise
            told = "the agent has no push watches (/v1/gemot/watch): it is asked by blocking queries instead"
            click.echo(f"gemot watch: {told}", err=True)
    yield from _asked(connection, watched, read)


def _asked(connection: Connection, watched: Watched, read: dict[str, Any]) -> Iterator[Event]:
    """Each answer is all there is: what came and went between two of them is not told."""
    watch, failures = Watch(connection, watched.path, **watched.params, **read), 0
    while True:
        try:
            seen = watch.next()
            yield Snapshot("", seen.index, watched.items(seen.value))
            failures = 0
        except ClientError as error:
            if isinstance(error, Refused) and 400 <= error.status < 500 and error.status != 429:
                raise
            failures += 1
            _tell(error, back_off_s(failures))
            time.sleep(back_off_s(failures))


def _tell(error: ClientError, delay_s: float) -> None:
    click.echo(f"gemot watch: {error}; again in {delay_s:.1f} s", err=True)


class Inbox:
    """Events of another thread, in their order, and what ended them."""

    def __init__(self, events: Iterator[Event]) -> None:
        self._events = events
        self._queue: queue.Queue[Event | Exception] = queue.Queue(MOST_WAITING)

    def start(self) -> None:
        threading.Thread(target=self._fill, name="watch", daemon=True).start()

    def take(self, timeout_s: float | None) -> Event | None:
        """The next; None if there is none in time. Raises what ended them."""
        try:
            found = self._queue.get(timeout_s is None or timeout_s > 0, timeout_s)
        except queue.Empty:
            return None
        if isinstance(found, Exception):
            raise found
        return found

    def _fill(self) -> None:
        try:
            for event in self._events:
                self._queue.put(event)
        except Exception as error:  # whatever it is, it is the main thread's to tell
            self._queue.put(error)
