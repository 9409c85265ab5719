"""Who is known, and how each is held: the table that one member has of all the others.

A table may begin with another's, which it shares and never changes (`Members(base)`): what is told of one
member later stands in the table's own part. Thousands of tables in one process cost little that way.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Protocol

from gemot.agent.gossip.message import Record, Status

HERE = (Status.ALIVE, Status.SUSPECT)
"""Of these an answer is expected."""

FEW = 64
"""Up to here all are looked at to choose some; beyond, places are drawn."""

DRAWS = 5


class Random(Protocol):
    def random(self) -> float:
        """In [0, 1)."""

    def randrange(self, stop: int, /) -> int:
        """In [0, stop)."""


class Members:
    def __init__(self, base: Members | None = None) -> None:
        self._base: dict[str, Record] = {} if base is None else base._own
        self._base_order: list[str] = [] if base is None else base._order
        self._own: dict[str, Record] = {}
        self._order: list[str] = []
        self._place: dict[str, int] = {}
        self._dropped: dict[str, None] = {}
        self._changed_ms: dict[str, int] = {}
        self.here: int = len(self._base_order) if base is None else base.here
        """How many are held for alive, suspected ones among them."""

        self.gone: dict[Status, dict[str, None]] = {Status.FAILED: {}, Status.LEFT: {}}
        """The ids of those that failed, and of those that left."""

    def get(self, id: str) -> Record | None:
        record = self._own.get(id)
        if record is None and id not in self._dropped:
            return self._base.get(id)
        return record

    def __len__(self) -> int:
        return len(self._base) + len(self._order) - len(self._dropped)

    def __iter__(self) -> Iterator[Record]:
        for number in range(self.places):
            if (record := self.at(number)) is not None:
                yield record

    def put(self, record: Record, now_ms: int) -> None:
        id = record.facts.id
        before = self.get(id)
        if before is None and (id not in self._base or id in self._dropped):
            self._place[id] = len(self._order)
            self._order.append(id)
        self._count(before, -1)
        self._own[id] = record
        self._count(record, 1)
        if before is None or before.status != record.status:
            self._changed_ms[id] = now_ms

    def drop(self, id: str) -> None:
        before = self.get(id)
        assert before is not None, "only who is known is forgotten"
        self._count(before, -1)
        self._own.pop(id, None)
        self._changed_ms.pop(id, None)
        if (place := self._place.pop(id, None)) is not None:
            last = self._order.pop()
            if last != id:
                self._order[place] = last
                self._place[last] = place
        if id in self._base:
            self._dropped[id] = None

    def changed_ms(self, id: str) -> int:
        """Since when it has its status."""
        return self._changed_ms.get(id, 0)

    def _count(self, record: Record | None, by: int) -> None:
        if record is None:
            return
        if record.status in HERE:
            self.here += by
        elif by > 0:
            self.gone[record.status][record.facts.id] = None
        else:
            del self.gone[record.status][record.facts.id]

    # -- by place ----------------------------------------------------------------------------------

    @property
    def places(self) -> int:
        """Numbers that `at` takes; some may be empty."""
        return len(self._base_order) + len(self._order)

    def at(self, place: int) -> Record | None:
        beyond = place - len(self._base_order)
        if beyond >= 0:
            return self._own.get(self._order[beyond])
        id = self._base_order[place]
        return None if id in self._dropped else self._own.get(id) or self._base[id]

    def some(self, count: int, random: Random, fits: Callable[[Record], bool]) -> list[Record]:
        """So many different ones that fit, drawn by chance; fewer if there are no more, or hard to find."""
        places = self.places
        if places <= FEW:
            all_that_fit = [record for record in self if fits(record)]
            return [
                all_that_fit.pop(random.randrange(len(all_that_fit)))
                for _ in range(min(count, len(all_that_fit)))
            ]
        found: dict[str, Record] = {}
        # Those that are gone keep their places for days: as many more draws as there are more places.
        for _ in range(count * DRAWS * math.ceil(places / max(1, self.here))):
            record = self.at(random.randrange(places))
            if record is not None and fits(record):
                found[record.facts.id] = record
                if len(found) == count:
                    break
        return list(found.values())


class Rounds:
    """Everybody in turn, each round in another order (SWIM, section 4.3: a bound on the time to detection).

    A round steps through the places by a stride that has no divisor in common with their number: no list
    has to be shuffled and kept. Who comes during a round has its turn in the next one.
    """

    def __init__(self, random: Random) -> None:
        self._random = random
        self._places = self._left = self._at = self._stride = 0

    def next(self, places: int) -> int:
        """The place whose turn it is, of at least one."""
        if self._left == 0 or places < self._places:
            self._begin(places)
        self._left -= 1
        self._at = (self._at + self._stride) % self._places
        return self._at

    def _begin(self, places: int) -> None:
        self._places = self._left = places
        self._at = self._random.randrange(places)
        self._stride = 1 + self._random.randrange(places)
        while math.gcd(self._stride, places) != 1:
            self._stride = 1 + self._random.randrange(places)
