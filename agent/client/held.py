"""What is the same of everything held, whether threads (`hold.py`) or tasks (`aio/hold.py`) hold it."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Generic, Protocol, TypeVar

from gemot.agent.client.entry import Entry
from gemot.agent.client.lease import ANSWER_SHARE, trusted_s
from gemot.agent.client.recipe import LockLost, Recipe
from gemot.agent.client.session import MAX_LOCK_DELAY_S

LEAST_S = 2.0
"""However short the TTL is: an answer that takes so long may still come."""

log = logging.getLogger(__name__)


class Living(Protocol):
    """What is looked at of a session. `lost` says why it is over, "" while it is not."""

    id: str

    @property
    def lost(self) -> str: ...

    @property
    def over(self) -> bool: ...


S = TypeVar("S", bound=Living)


class Held(Generic[S]):
    """A recipe, the session that holds what it is about, and what is known of both without an agent."""

    def __init__(
        self,
        recipe: Recipe,
        *,
        name: str,
        ttl_s: float,
        lock_delay_s: float | None,
        tell: Callable[[str], None],
        seen: Callable[[Sequence[Entry]], None],
        clock: Callable[[], float],
    ) -> None:
        """As `hold.Hold`."""
        self.recipe = recipe
        self.key = recipe.key
        self.fence = 0
        """Of the last acquisition; greater than that of any before it. 0 from a server that has none."""
        self._name = name or f"Hold {recipe.key}"
        self._ttl_s = ttl_s
        self._lock_delay_s = min(ttl_s, MAX_LOCK_DELAY_S) if lock_delay_s is None else lock_delay_s
        self._tell = tell
        self._told = ""
        self._seen = seen
        self._clock = clock
        self._session: S | None = None

    @property
    def session(self) -> str:
        """The id of the session that holds it, "" if none does."""
        return self._session.id if self._session is not None else ""

    @property
    def guard(self) -> str:
        """The key to name as `lock=` beside `fence=` in a write that is done only while this is held."""
        return self.recipe.guard(self.session)

    @property
    def held(self) -> bool:
        return self._session is not None and not self._session.over

    @property
    def lost(self) -> str:
        """Why it is not held (any more); "" while it is. Asks nobody: cheap, and right without an agent."""
        return self._session.lost if self._session is not None else "it was not acquired"

    @property
    def patience_s(self) -> float:
        """How long the answer to one question that is asked under it is waited for: as to a renewal."""
        return max(LEAST_S, trusted_s(self._ttl_s) * ANSWER_SHARE)

    def check(self) -> int:
        """The fence. Raises LockLost."""
        if why := self.lost:
            raise LockLost(f"{self.key}: {why}")
        return self.fence

    def _show(self, rows: Sequence[Entry]) -> None:
        try:
            self._seen(rows)
        except Exception:
            log.exception("%s: what is told of each change (seen) failed; the watch goes on", self.key)

    def _say(self, text: str) -> None:
        """Each thing once in a row."""
        if text != self._told:
            self._told = text
            self._tell(text)
