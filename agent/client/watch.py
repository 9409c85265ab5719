"""Waiting for changes of one thing: blocking queries, with Consul's rules for the index.

A change is told when index and content have changed; of events only the new ones. Errors are the caller's to
wait out: `back_off_s`.
"""

from __future__ import annotations

from typing import Any

import msgspec

from gemot.agent.client.connection import Connection

WAIT_S = 300
_SLACK_S = 30.0

RETRY_S = 5.0
RETRY_MAX_S = 180.0


class Seen(msgspec.Struct, frozen=True):
    """An answer: the index it is as of, and its decoded JSON, None for what is not there."""

    index: int
    value: Any


class Watch:
    """One path of the API. Not for two threads at once."""

    def __init__(self, connection: Connection, path: str, **params: Any) -> None:
        self._connection = connection
        self._path = path
        self._params = params
        self._index = 0
        self._seen: Seen | None = None

    def look(self) -> Seen:
        """What there is now. Raises ClientError."""
        return self._ask(0)

    def next(self) -> Seen:
        """The present state at first, then each time the next one that differs. Raises ClientError."""
        while True:
            seen = self._ask(self._index)
            # An index that went back (another cluster, a restore) says nothing: start over.
            self._index = 0 if seen.index < self._index else seen.index
            if self._seen is None or seen.value != self._seen.value:
                self._seen = seen
                return seen

    def _ask(self, index: int) -> Seen:
        return _ask(self._connection, self._path, self._params, index)


class EventWatch:
    """The events that an agent has heard, each told once. Not for two threads at once.

    The index of their list says which event is its last. It does not grow: it is only compared.
    """

    def __init__(self, connection: Connection, path: str, **params: Any) -> None:
        self._connection = connection
        self._path = path
        self._params = params
        self._index = 0

    def look(self) -> Seen:
        """Those that the agent still has. Raises ClientError."""
        return _ask(self._connection, self._path, self._params, 0)

    def next(self) -> Seen:
        """Those that the agent still has at first, perhaps none; then each time the new ones."""
        while True:
            seen, before = _ask(self._connection, self._path, self._params, self._index), self._index
            self._index = seen.index
            new = _after(seen.value, before)
            if new or not before:
                return Seen(seen.index, new)


def event_index(id: str) -> int:
    """Consul's index of an event: both halves of its id, by XOR. It does not grow with time."""
    value = int(id.replace("-", ""), 16)
    return (value >> 64) ^ (value & (1 << 64) - 1)


def _after(events: list[dict[str, Any]], index: int) -> list[dict[str, Any]]:
    """Those behind the one of this index; all, where it is not there any more."""
    for at, event in enumerate(events):
        if event_index(event["ID"]) == index:
            return events[at + 1 :]
    return events


def _ask(connection: Connection, path: str, params: dict[str, Any], index: int) -> Seen:
    params = params | ({"index": index, "wait": f"{WAIT_S}s"} if index else {})
    timeout_s = WAIT_S * 17 / 16 + _SLACK_S if index else None
    reply = connection.request("GET", path, params=params, timeout_s=timeout_s, ok=(200, 404))
    # An index of 0 would ask again at once, for ever; blocking on 1 is what is advised then.
    return Seen(max(1, reply.index), None if reply.status == 404 else reply.json())


def back_off_s(failures: int) -> float:
    """How long to wait after so many failures in a row: 5 s times their square, 3 minutes at most."""
    return min(RETRY_S * failures**2, RETRY_MAX_S)
