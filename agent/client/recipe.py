"""What a recipe is: the steps by which something is taken and given back, without the asking. Pure.

A recipe (Lock, Semaphore, Election) yields what it wants asked, one step at a time, and is sent the answers.
Who drives it, with threads (`hold.py`) or asyncio (`aio/hold.py`), adds what all of them need: a session, the
patience, retries, and the watch. So the protocol is written once.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from typing import Any, Protocol, TypeVar

import msgspec

from gemot.agent.client.connection import ClientError, Reply
from gemot.agent.client.entry import Entry
from gemot.agent.client.lease import trusted_s
from gemot.agent.client.path import escape

WAIT_S = 10.0
"""How long one blocking read waits."""

SLACK_S = 5.0
"""How much later its answer may be."""

LATE_S = 2.0
"""How much later than the time of whoever asks: an answer that is on its way by then is worth hearing."""

AGAIN_S = 0.5
"""Until the next try after an error that may pass."""

RELEASE_S = 5.0
"""How long it is tried to give back in order; after that the end of the session does it."""


class LockLost(ClientError):
    """What was held, or the place among those who wait, is lost. What is done under it must end now."""


class LockConflict(ClientError):
    """The key is there and is something else's, or its holders have agreed on something else."""


class OutOfTime(ClientError):
    """It was not had within the time."""


class Ask(msgspec.Struct, frozen=True):
    """A request about a key, or those below it: asked until it is answered, while session and time last.

    `after`: a read that is answered once there is a change after this index, or after `wait_s`. `once`: asked
    once, shortly; where it fails that is told as None, and the recipe goes on.
    """

    method: str
    key: str
    params: dict[str, Any] = {}
    body: bytes = b""
    after: int = 0
    wait_s: float = WAIT_S
    once: bool = False

    @property
    def path(self) -> str:
        return f"/v1/kv/{escape(self.key)}"

    @property
    def ok(self) -> tuple[int, ...]:
        return (200, 404) if self.method == "GET" else (200,)

    def sent(self, ttl_s: float, left_s: float | None = None) -> dict[str, Any]:
        """As a request takes it, for who has a session of this TTL; `left_s` None: as long as it takes."""
        if self.once:
            return {"params": self.params, "body": self.body or None, "timeout_s": AGAIN_S, "ok": self.ok}
        if not self.after:
            timeout_s = within(SLACK_S if self.method == "GET" else max(SLACK_S, trusted_s(ttl_s)), left_s)
            return {"params": self.params, "body": self.body or None, "timeout_s": timeout_s, "ok": self.ok}
        wait_s = max(0.001, self.wait_s if left_s is None else min(self.wait_s, left_s))
        waits = {"index": self.after, "wait": f"{max(1, round(wait_s * 1000))}ms"}
        timeout_s = within(wait_s * 17 / 16 + SLACK_S, left_s)
        return {"params": self.params | waits, "timeout_s": timeout_s, "ok": self.ok}


class Pause(msgspec.Struct, frozen=True):
    """Nothing to ask for so long."""

    for_s: float


class Tell(msgspec.Struct, frozen=True):
    """What is waited for, for people."""

    text: str


Step = Ask | Pause | Tell
T = TypeVar("T")
Steps = Generator[Step, Any, T]
"""Sent back is the Reply to each Ask (None for one that failed and was asked `once`), None to the others."""


class Recipe(Protocol):
    """One thing that a session can hold. Has no life of its own: it may be taken again and again."""

    @property
    def key(self) -> str:
        """The key that it is about, for people."""
        ...

    def guard(self, session: str) -> str:
        """The key whose fence it is: what a guarded write names as `?lock=`."""
        ...

    def take(self, session: str) -> Steps[int]:
        """Wait for it, and take it; the fence. Raises LockConflict."""
        ...

    def give_back(self, session: str) -> Steps[bool]:
        """False: it was not this session's any more."""
        ...

    def look(self) -> Ask:
        """The read by which a holder sees whether it still has it; repeated with `after`."""
        ...

    def lost(self, session: str, rows: Sequence[Entry]) -> str:
        """By the answer to that read: why it is not this session's any more, "" if it is."""
        ...


def within(timeout_s: float, left_s: float | None) -> float:
    """How long an answer is waited for by who has so much time left, None for no end of it."""
    return timeout_s if left_s is None else min(timeout_s, max(0.0, left_s) + LATE_S)


def fence_of(reply: Reply) -> int:
    """What an acquisition was given; 0 by a server that has no fences."""
    told = reply.headers.get("x-gemot-fence", "")
    return int(told) if told.isascii() and told.isdigit() and len(told) <= 20 else 0
