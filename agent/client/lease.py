"""The lease of a session as its holder counts it: when to renew it, and when to take it for lost. Pure.

Every time is handed in, in seconds of one clock that runs on while the host sleeps (CLOCK_BOOTTIME). A lease
counts from when the last renewal that was confirmed was *sent*: the servers cannot have counted from earlier.
It is taken for lost at `END_SHARE` of the TTL, and lost stays lost. Only confirmations move its end.

A session can be ended at any moment after a renewal (it is destroyed, its host or a check of it fails). What
it held passes once its lock delay is over, a minute later however long the TTL is. So a long TTL is one to
the servers alone: here it counts as `TRUSTED_S`, for the end as for the renewals.
"""

from __future__ import annotations

TRUSTED_S = 70.0
"""The most that a TTL counts for: END_SHARE of it is 56 s, a little before the greatest lock delay (60 s)."""

RENEW_SHARE = 1 / 3
"""Of the TTL, after which it is renewed: one renewal can fail, and the next one be in time."""

END_SHARE = 0.8
"""Of the TTL, after which nothing may be done under it. The rest is for clocks that run at different rates;
the servers wait a quarter longer than the TTL on their side."""

ANSWER_SHARE = 1 / 6
"""Of the TTL, how long the answer to a renewal is waited for: one that hangs must leave time for another."""

AGAIN_SHARE = 1 / 30
"""Of the TTL, between a renewal that failed and the next try."""


def trusted_s(ttl_s: float) -> float:
    """What the TTL of a session counts for here: all times of its holder are shares of this."""
    return min(ttl_s, TRUSTED_S)


class Lease:
    """Not for two threads at once: a Session puts a lock around it."""

    def __init__(self, ttl_s: float, sent_s: float) -> None:
        """Begun by a request that was sent at `sent_s` and confirmed."""
        self._ttl_s = trusted_s(ttl_s)
        self.confirmed_s = sent_s
        """When the last confirmed renewal was sent."""
        self._try_s = sent_s + self._ttl_s * RENEW_SHARE
        self._lost = ""
        self._trouble = ""

    @property
    def end_s(self) -> float:
        """From then on it counts as lost, unless a renewal is confirmed before."""
        return self.confirmed_s + self._ttl_s * END_SHARE

    def lost(self, now_s: float) -> str:
        """Why it is lost; "" while it is not."""
        if not self._lost and now_s >= self.end_s:
            trouble = f": {self._trouble}" if self._trouble else ""
            self._lost = f"no renewal was confirmed within {self._ttl_s * END_SHARE:g} s{trouble}"
        return self._lost

    def due(self, now_s: float) -> bool:
        """Is it to be renewed now?"""
        return not self.lost(now_s) and now_s >= self._try_s

    def next_s(self) -> float:
        """When there is something to do next: a renewal, or to take it for lost."""
        return min(self._try_s, self.end_s)

    def patience_s(self, now_s: float) -> float:
        """How long the answer to a renewal that is sent now may take."""
        return max(0.001, min(self._ttl_s * ANSWER_SHARE, self.end_s - now_s))

    def confirm(self, sent_s: float, now_s: float) -> None:
        """A renewal sent at `sent_s` is confirmed. One whose answer came after the end changes nothing."""
        if self.lost(now_s) or sent_s <= self.confirmed_s:
            return
        self.confirmed_s = sent_s
        self._try_s = sent_s + self._ttl_s * RENEW_SHARE
        self._trouble = ""

    def fail(self, now_s: float, why: str) -> None:
        """A renewal failed, or its outcome is not known: it is tried again until the end."""
        self._trouble = why
        self._try_s = now_s + self._ttl_s * AGAIN_SHARE

    def lose(self, why: str) -> None:
        """It is known to be over, before its time."""
        self._lost = self._lost or why
