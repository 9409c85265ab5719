"""Read indexes: on the leader by rounds, on a follower by asking the leader.

A round is one exchange with a quorum. A read joins only a round that has not been sent yet: answers to an
earlier one prove nothing about the moment at which the read arrived (thesis 6.4; etcd #20418).
"""

from __future__ import annotations

from collections import deque
from typing import NamedTuple


class Read(NamedTuple):
    """One read waiting for an index. `asker` is "" for this server itself."""

    asker: str
    id: int


class _Round(NamedTuple):
    number: int
    commit: int
    reads: tuple[Read, ...]


class Rounds:
    """The leader's rounds of one term. Dies with the term; the reads in it are then refused."""

    def __init__(self, limit: int) -> None:
        self.newest = 0
        self._limit = limit
        self._count = 0
        self._waiting: list[Read] = []
        self._asked: deque[_Round] = deque()

    def add(self, read: Read) -> bool:
        """False when too many wait already."""
        if self._count >= self._limit:
            return False
        self._waiting.append(read)
        self._count += 1
        return True

    @property
    def waiting(self) -> bool:
        return bool(self._waiting)

    @property
    def count(self) -> int:
        """How many reads wait, in rounds sent and not sent."""
        return self._count

    def begin(self, commit: int) -> None:
        """Start a round now, before anything more is sent; every waiting read is in it."""
        self._asked.append(_Round(self.mark(), commit, tuple(self._waiting)))
        self._waiting.clear()

    def mark(self) -> int:
        """A new round without reads: what echoes it, or a later one, was said after now."""
        self.newest += 1
        return self.newest

    def confirm(self, number: int) -> list[tuple[Read, int]]:
        """A quorum has answered round `number`: the reads of it and earlier ones, with their index."""
        assert number <= self.newest, "nobody answers a round that was not sent"
        answered: list[tuple[Read, int]] = []
        while self._asked and self._asked[0].number <= number:
            done = self._asked.popleft()
            self._count -= len(done.reads)
            answered.extend((read, done.commit) for read in done.reads)
        return answered

    def drain(self) -> list[Read]:
        """Every read that is left, to be refused."""
        left = [read for asked in self._asked for read in asked.reads] + self._waiting
        self._asked.clear()
        self._waiting = []
        self._count = 0
        return left


class Forwarded:
    """Reads that a follower has asked the leader about, by id, with the tick of the ask."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._asked: dict[int, int] = {}

    def add(self, id: int, now: int) -> bool:
        """False when too many are out already."""
        assert id not in self._asked, f"read id {id} is asked twice: ids are fresh for every ask"
        if len(self._asked) >= self._limit:
            return False
        self._asked[id] = now
        return True

    def answered(self, id: int) -> bool:
        """False for an answer nobody waits for: doubled, or to an ask that was given up."""
        return self._asked.pop(id, None) is not None

    def expire(self, before: int) -> list[int]:
        """Give up the asks made before this tick: ask or answer is lost."""
        late: list[int] = []
        for id, asked in self._asked.items():  # in the order they were asked
            if asked >= before:
                break
            late.append(id)
        for id in late:
            del self._asked[id]
        return late

    def drain(self) -> list[int]:
        left = list(self._asked)
        self._asked.clear()
        return left
