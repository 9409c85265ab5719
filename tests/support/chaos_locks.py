"""Sessions, locks and fenced writes in the chaos run: what a client does with its lock, and a check.

Locks are few, so that clients meet. A session deletes its locks when it ends, so each change of a lock is one
of its value. Whether a write was right to be refused for its fence is told by the log (`server_log.py`); here
is what needs no log: fences grow in the order of time, and no two acquisitions have the same one.
"""

from __future__ import annotations

import json
import random
import time
from collections.abc import Iterable

import msgspec
from simulation.witness import Effect, Violation

from gemot.agent.client.connection import ClientError, Connection, Refused

LOCKS = 2
PREFIX = "locks/"
SESSION = {"TTL": "10s", "LockDelay": "0s", "Behavior": "delete"}
RENEWS_S = 3.0
GONE = 404


class Acquired(msgspec.Struct, frozen=True):
    """One acquisition that was told, with the nanoseconds of its call and its answer."""

    key: str
    fence: int
    began: int
    ended: int


class LockUser:
    """One session at a time, and the lock that it has by what was told last."""

    def __init__(self, name: str, chance: random.Random) -> None:
        self._name = name
        self._chance = chance
        self._session = self._left = ""
        self._renewed_s = 0.0
        self._written = 0
        self.key = ""
        self.fence = 0
        self.acquired: list[Acquired] = []

    def act(self, connection: Connection) -> bool:
        """One step towards a lock, or away from it. False if it went wrong."""
        try:
            if not self._session:
                self._begin(connection)
            elif self._chance.random() < 0.2:
                self._end(connection)
            elif time.monotonic() - self._renewed_s > RENEWS_S:
                self._renew(connection)
            else:
                self._acquire(connection)
        except ClientError as error:
            # Of unknown outcome, or gone: what comes late is of a session that is used no more.
            self.forget()
            return isinstance(error, Refused) and error.status == GONE
        return True

    def shown(self) -> tuple[str, int]:
        """The lock and the fence to write with: now and then those of before, as of one who is late."""
        if len(self.acquired) > 1 and self._chance.random() < 0.2:
            late = self.acquired[-2]
            return late.key, late.fence
        return self.key, self.fence

    def refused(self, fence: int) -> None:
        """A write with this fence was: if it is the newest, the lock is lost."""
        if fence == self.fence:
            self.forget()

    def forget(self) -> None:
        self._left = self._session or self._left
        self._session, self.key, self.fence = "", "", 0

    def _begin(self, connection: Connection) -> None:
        if self._left:
            # It may still hold a lock, which nobody would get before its TTL is over.
            connection.request("PUT", f"/v1/session/destroy/{self._left}")
            self._left = ""
        reply = connection.request("PUT", "/v1/session/create", body=json.dumps(SESSION).encode())
        self._session, self._renewed_s = str(reply.json()["ID"]), time.monotonic()

    def _end(self, connection: Connection) -> None:
        self.forget()
        self._begin(connection)

    def _renew(self, connection: Connection) -> None:
        sent_s = time.monotonic()
        connection.request("PUT", f"/v1/session/renew/{self._session}")
        self._renewed_s = sent_s

    def _acquire(self, connection: Connection) -> None:
        self._written += 1
        key = self.key or f"{PREFIX}{self._chance.randrange(LOCKS)}"
        began, value = time.monotonic_ns(), f"{self._name} holds {self._written}".encode()
        reply = connection.request("PUT", f"/v1/kv/{key}", params={"acquire": self._session}, body=value)
        if reply.json() is True:
            self.key, self.fence = key, int(reply.headers["x-gemot-fence"])
            if not self.acquired or self.acquired[-1].fence != self.fence:
                self.acquired.append(Acquired(key, self.fence, began, time.monotonic_ns()))
        elif self.key:
            self.forget()  # another one has it


def check_acquired(acquired: Iterable[Acquired], effects: Iterable[Effect]) -> int:
    """Raises Violation for a fence that went back, that two have, or whose entry took no lock."""
    took = {(effect.index, part.key.decode()) for effect in effects for part in effect.parts if part.value}
    by_key: dict[str, list[Acquired]] = {}
    for each in acquired:
        if (each.fence, each.key) not in took:
            raise Violation(f"{each}: the entry of that index took no such lock")
        by_key.setdefault(each.key, []).append(each)
    for mine in by_key.values():
        by_end = sorted(mine, key=lambda one: one.ended)
        at = greatest = 0
        for each in sorted(mine, key=lambda one: one.began):
            while at < len(by_end) and by_end[at].ended < each.began:
                greatest = max(greatest, by_end[at].fence)
                at += 1
            if each.fence < greatest:
                raise Violation(f"{each} began after the fence {greatest} had been told")
    return sum(map(len, by_key.values()))
