"""Waiting for changes of one thing: blocking queries, with Consul's rules for the index.

A change is told when index and content have changed. What came and went between two answers is not: that is
what `stream.py` is for. Errors are the caller's to wait out: `back_off_s`.
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


def event_index(id: str) -> int:
    """Consul's index of an event: both halves of its id, by XOR. It does not grow with time."""
    value = int(id.replace("-", ""), 16)
    return (value >> 64) ^ (value & (1 << 64) - 1)


def _ask(connection: Connection, path: str, params: dict[str, Any], index: int) -> Seen:
    params = params | ({"index": index, "wait": f"{WAIT_S}s"} if index else {})
    timeout_s = WAIT_S * 17 / 16 + _SLACK_S if index else None
    reply = connection.request("GET", path, params=params, timeout_s=timeout_s, ok=(200, 404))
    # An index of 0 would ask again at once, for ever; blocking on 1 is what is advised then.
    return Seen(max(1, reply.index), None if reply.status == 404 else reply.json())


def back_off_s(failures: int) -> float:
    """How long to wait after so many failures in a row: 5 s times their square, 3 minutes at most."""
    return min(RETRY_S * failures**2, RETRY_MAX_S)
