"""How well this member itself is doing: who is slow must not take the others for dead.

Lifeguard's local health (Dadgar, Phillips, Currey 2018, section IV.A): a score from 0 (well) that grows with
each sign that this member is slow or cut off, and scales how long it waits for others.
"""

from __future__ import annotations


class Awareness:
    """A score of 0 to `most` - 1."""

    def __init__(self, most: int) -> None:
        assert most >= 1, "1 is a score that stays 0"
        self._most = most
        self.score = 0

    def note(self, delta: int) -> None:
        """Above 0 for a bad sign (no answer to a probe, having to refute), below for a good one."""
        self.score = min(self._most - 1, max(0, self.score + delta))

    def scaled(self, ms: int) -> int:
        return ms * (self.score + 1)
