"""Whom to ask and whom to tell: everybody in turn or by chance, and more often those known to be real.

Anybody who can send datagrams to a cluster without a key can invent members, by the thousand. Each of them is
found out in its turn, but until then a true failure would wait for its turn among them, and news go to them.
So a member that has answered once is told from one that is known by hearsay alone, and while the latter are
many and the most, every other turn to be probed is for the former, and so is most of what is asked and told.
"""

from __future__ import annotations

from collections.abc import Callable

from gemot.agent.gossip.members import DRAWS, HERE, Members, Random, Rounds
from gemot.agent.gossip.message import Record

CROWD = 128
"""With fewer members all have their turn soon enough. A large cluster that is young is none the worse for it:
each member has heard some others, so together they probe everyone as often."""


class Turns:
    def __init__(self, *, me: str, members: Members, random: Random) -> None:
        self._me = me
        self._members = members
        self._random = random
        self._all = Rounds(random)
        self._some = Rounds(random)
        self._answered: dict[str, int] = {}
        """Who has, and its place in `_order`."""

        self._order: list[str] = []
        self._of_all = False

    def answered(self, id: str) -> None:
        """It has answered a probe, or exchanged all with this member from where it says to be."""
        if id not in self._answered:
            self._answered[id] = len(self._order)
            self._order.append(id)

    def is_real(self, id: str) -> bool:
        """It is not known by hearsay alone."""
        return id in self._answered or id == self._me

    def forget(self, id: str) -> None:
        if (place := self._answered.pop(id, None)) is not None:
            last = self._order.pop()
            if last != id:
                self._order[place] = last
                self._answered[last] = place

    @property
    def crowded(self) -> bool:
        """Most are known by hearsay alone, and they are many."""
        return self._members.here > CROWD and 0 < len(self._order) < self._members.here / 2

    def some(self, count: int, fits: Callable[[Record], bool], *, anyone: int = 0) -> list[Record]:
        """So many different ones that fit, by chance; in a crowd real ones, but for so many of `anyone`."""
        if not self.crowded:
            return self._members.some(count, self._random, fits)
        found: dict[str, Record] = {}
        for _ in range(DRAWS * (count - anyone)):
            record = self._members.get(self._order[self._random.randrange(len(self._order))])
            if len(found) < count - anyone and record is not None and fits(record):
                found[record.facts.id] = record
        for record in self._members.some(anyone, self._random, fits) if anyone else ():
            found[record.facts.id] = record
        return list(found.values())

    def next(self) -> Record | None:
        """None if nobody is there, or those who would be are gone."""
        self._of_all = not (self._of_all and self.crowded)
        if not self._of_all:
            for _ in range(len(self._order)):
                record = self._members.get(self._order[self._some.next(len(self._order))])
                if record is not None and record.status in HERE:
                    return record
        for _ in range(self._members.places):
            record = self._members.at(self._all.next(self._members.places))
            if record is not None and record.status in HERE and record.facts.id != self._me:
                return record
        return None
