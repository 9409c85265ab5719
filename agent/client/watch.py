"""Waiting for changes of one thing: blocking queries, with Consul's rules for the index.

A change is told when index and content have changed. What came and went between two answers is not: that is
what `stream.py` is for. Errors are the caller's to wait out: `back_off_s`.
"""

from __future__ import annotations

from typing import Any

import msgspec

from gemot.agent.client.connection import Connection, Reply

WAIT_S = 300
"""How long a question is held by default, the most that one by Consul's rules usually asks for."""

SLACK_S = 30.0
"""An answer that is later than its wait by more than this, and Consul's sixteenth, does not come any more."""

RETRY_S = 5.0
RETRY_MAX_S = 180.0


class Seen(msgspec.Struct, frozen=True):
    """An answer: the index it is as of, and its decoded JSON, None for what is not there."""

    index: int
    value: Any


class Watching:
    """What was seen of one path of the API, and what is asked next. Pure: `Watch` has the sockets."""

    def __init__(self, path: str, params: dict[str, Any], wait_s: int) -> None:
        self.path = path
        self._params = params
        self._wait_s = wait_s
        self._index = 0
        self._seen: Seen | None = None

    def question(self, *, blocking: bool) -> dict[str, Any]:
        """As a request takes it, beside the path. Blocking: answered when there is more than was seen."""
        ok = (200, 404)
        if not (blocking and self._index):
            return {"params": self._params, "ok": ok}
        waits = {"index": self._index, "wait": f"{self._wait_s}s"}
        return {"params": self._params | waits, "timeout_s": self._wait_s * 17 / 16 + SLACK_S, "ok": ok}

    def read(self, reply: Reply) -> Seen:
        """What there is by this answer. Raises NotAnAgent."""
        # An index of 0 would ask again at once, for ever; blocking on 1 is what is advised then.
        return Seen(max(1, reply.index), None if reply.status == 404 else reply.json())

    def differs(self, seen: Seen) -> bool:
        """Does it, from what was seen before? It is what was seen, from now on."""
        # An index that went back (another cluster, a restore) says nothing: start over.
        self._index = 0 if seen.index < self._index else seen.index
        if self._seen is not None and seen.value == self._seen.value:
            return False
        self._seen = seen
        return True


class Watch(Watching):
    """One path of the API. Not for two threads at once.

    `wait_s` bounds how late an agent that fell silent is noticed: by so much and half a minute.
    """

    def __init__(self, connection: Connection, path: str, *, wait_s: int = WAIT_S, **params: Any) -> None:
        super().__init__(path, params, wait_s)
        self._connection = connection

    def look(self) -> Seen:
        """What there is now. Raises ClientError."""
        return self.read(self._connection.request("GET", self.path, **self.question(blocking=False)))

    def next(self) -> Seen:
        """The present state at first, then each time the next one that differs. Raises ClientError."""
        while True:
            seen = self.read(self._connection.request("GET", self.path, **self.question(blocking=True)))
            if self.differs(seen):
                return seen


def event_index(id: str) -> int:
    """Consul's index of an event: both halves of its id, by XOR. It does not grow with time."""
    value = int(id.replace("-", ""), 16)
    return (value >> 64) ^ (value & (1 << 64) - 1)


def back_off_s(failures: int) -> float:
    """How long to wait after so many failures in a row: 5 s times their square, 3 minutes at most."""
    return min(RETRY_S * failures**2, RETRY_MAX_S)
