"""Why the core refuses a proposal. Consensus imports nothing of ours: the replica translates these."""

from __future__ import annotations


class Refused(Exception):
    """Root: the proposal was not logged and never will be. `message` is a sentence for people."""

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message


class NotLeader(Refused):
    """Another server leads (`leader`), or none that is known ("")."""

    def __init__(self, leader: str) -> None:
        super().__init__(f"{leader} leads, not this server" if leader else "no leader is known")
        self.leader = leader


class Busy(Refused):
    """Too much waits already, or the leadership is being handed over: ask again later."""


class BadChange(Refused):
    """This change of the voters is not allowed, or not yet; `message` says why."""
