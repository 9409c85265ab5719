"""News to pass on: each piece a bounded number of times, the least told first.

News about one subject replaces what was to be told about it before (memberlist's rule): nobody is told what
is known to be outdated. A piece that has been sent often enough goes: by then it has reached everyone, but
for a chance that falls with the number of transmissions (SWIM, section 4.1).
"""

from __future__ import annotations

MOST = 4_096
"""Pieces; with more the oldest that was told most goes: exchanges bring it in the end."""


LOOKED_AT = 64
"""Pieces that do not fit before the rest is left for the next datagram."""


class Broadcasts:
    """Encoded words by their subject, until each has been sent often enough. `own` is never crowded out."""

    def __init__(self, own: str = "") -> None:
        self._own = own
        self._tiers: list[dict[str, bytes]] = [{}]
        """By how often they were sent; within one the newest stand last."""

        self._tier_of: dict[str, int] = {}

    def __len__(self) -> int:
        return len(self._tier_of)

    def put(self, subject: str, data: bytes) -> None:
        self.drop(subject)
        self._add(subject, data, 0)
        if len(self._tier_of) > MOST:
            self._crowd_out()

    def drop(self, subject: str) -> None:
        if (tier := self._tier_of.pop(subject, None)) is not None:
            del self._tiers[tier][subject]

    def waits(self, subject: str) -> bool:
        return subject in self._tier_of

    def take(self, room: int, overhead: int, limit: int) -> list[bytes]:
        """What fits into `room` bytes, each with `overhead` beside its own; none more than `limit` times."""
        taken: list[tuple[str, bytes, int]] = []
        misses = 0
        for sent, tier in enumerate(self._tiers):
            for subject in reversed(tier):
                if room <= overhead or misses > LOOKED_AT:
                    break
                data = tier[subject]
                if len(data) + overhead > room:
                    misses += 1
                    continue
                room -= len(data) + overhead
                taken.append((subject, data, sent))
        for subject, data, sent in taken:
            self.drop(subject)
            if sent + 1 < limit:
                self._add(subject, data, sent + 1)
        return [data for _, data, _ in taken]

    def _add(self, subject: str, data: bytes, tier: int) -> None:
        while len(self._tiers) <= tier:
            self._tiers.append({})
        self._tiers[tier][subject] = data
        self._tier_of[subject] = tier

    def _crowd_out(self) -> None:
        """The oldest of those that were sent most often goes."""
        for tier in reversed(self._tiers):
            if (subject := next((each for each in tier if each != self._own), None)) is not None:
                self.drop(subject)
                return
