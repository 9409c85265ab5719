"""Lines of the log that strangers could write by the thousand: each is worth one in a while."""

from __future__ import annotations

EVERY_S = 60.0
MOST = 256
"""Lines that are told apart; who is beyond that waits, too."""


class Throttle:
    def __init__(self) -> None:
        self._until_s: dict[str, float] = {}

    def passes(self, line: str, now_s: float) -> bool:
        """Is it this line's turn?"""
        if self._until_s.get(line, now_s) > now_s:
            return False
        if len(self._until_s) >= MOST:
            self._until_s = {each: until_s for each, until_s in self._until_s.items() if until_s > now_s}
        if len(self._until_s) >= MOST:
            return False
        self._until_s[line] = now_s + EVERY_S
        return True
