"""One member of gossip, and what it says, word by word, while time goes on in steps."""

from __future__ import annotations

from random import Random

from gemot.agent.gossip.message import (
    Ack,
    Alive,
    Facts,
    Ping,
    Status,
    Word,
)
from gemot.agent.gossip.packet import decode
from gemot.agent.gossip.swim import Output, Swim
from gemot.agent.gossip.timing import LAN, Timing
from gemot.agent.gossip.view import Place

SOMEWHERE = Place("10.9.9.9", 8301)


def facts(number: int) -> Facts:
    return Facts(f"id{number}", f"node{number}", f"10.0.0.{number}", 8301)


class One:
    """Member 1, and those that it knows; time goes on in steps."""

    def __init__(self, others: int = 3, timing: Timing = LAN) -> None:
        self.now_ms = 0
        self.swim = Swim(me=facts(1), timing=timing, random=Random(1), now_ms=0)
        self.out = Output([], [], [], [], [], [])
        self.hear(*(Alive(0, facts(number)) for number in range(2, 2 + others)))
        self.pass_ms(5_000, answered=True)
        self.forget()

    def hear(self, *words: Word, source: Place = SOMEWHERE) -> None:
        self.swim.on_words(words, source, self.now_ms)
        self._take()

    def pass_ms(self, ms: int, *, answered: bool = False, step_ms: int = 20) -> None:
        until = self.now_ms + ms
        while self.now_ms < until:
            self.now_ms = min(until, self.now_ms + step_ms)
            self.swim.on_tick(self.now_ms)
            self._take()
            if answered:
                for place, word in self.told(Ping):
                    self.hear(Ack(word.seq), source=place)
                self.out.datagrams.clear()

    def _take(self) -> None:
        for mine, new in zip(self.out, self.swim.take(), strict=True):
            mine.extend(new)  # type: ignore[attr-defined]

    def forget(self) -> None:
        self.out = Output([], [], [], [], [], [])

    def told(self, kind: type[Word]) -> list[tuple[Place, Word]]:
        return [
            (to, word) for to, data in self.out.datagrams for word in decode(data) if isinstance(word, kind)
        ]

    def words(self, kind: type[Word]) -> list[Word]:
        """What was passed on, each once."""
        return list({repr(word): word for _, word in self.told(kind)}.values())

    @property
    def changes(self) -> list[tuple[str, str]]:
        return [(event.change.value, event.record.facts.id) for event in self.out.events]

    def status(self, number: int) -> Status | None:
        record = self.swim.members.get(f"id{number}")
        return None if record is None else record.status
