"""The guard against mass failure: where many hosts fail at once, the fault is rarely theirs.

A switch that dies, a firewall rule, a leader that is cut off: believed, each empties the answers at once, and
what was merely hard to reach is gone for everybody. So when more than a share of all hosts fails within a
window, those that fail are kept in service for a while, marked as suspect. Who is silent already and has not
failed yet counts, so that this is noticed before the first of many has gone; who went shortly before comes
back. Each is kept once, for a bounded time: a failure that lasts is one, however many there are.

Soft, like all of membership: a new leader holds nobody anew whom the one before has marked.
"""

from __future__ import annotations

from collections.abc import Iterable

import msgspec


class MassFailureConfig(msgspec.Struct, frozen=True):
    """`share` of all hosts (1 or more: never), at least `least` of them, within `window_ms`."""

    share: float = 0.3
    least: int = 5
    window_ms: int = 30_000
    hold_ms: int = 60_000


class MassFailure:
    """What the leader knows of failures, by name. Times are those of its clock, milliseconds."""

    def __init__(self, config: MassFailureConfig) -> None:
        self._config = config
        self._failed: dict[str, int] = {}
        """When each failed, for as long as the window, or for as long as it is kept."""

        self._held: dict[str, int] = {}
        """Until when each is kept in service."""

        self._spent: set[str] = set()
        """Who was kept already, and failed in the end."""

    def begin(self, marked: Iterable[str]) -> None:
        """A new leader: these are marked already."""
        self._failed = {}
        self._held = {}
        self._spent = set(marked)

    def holds(self, name: str, now_ms: int) -> bool:
        """Is it kept in service, though nobody hears it?"""
        return self._held.get(name, now_ms) > now_ms

    @property
    def held(self) -> int:
        return len(self._held)

    def judge(
        self, failing: Iterable[str], known: Iterable[str], silent: Iterable[str], now_ms: int
    ) -> list[str]:
        """These hosts fail now, and no guard holds them yet, or not any more. Whom it keeps from now on.

        Among those may be some that failed a little earlier. `known` are all of which something was heard,
        the failing among them; `silent` those that fail soon unless they are heard.
        """
        over = [name for name in failing if name in self._held]
        for name in over:
            del self._held[name]
        self._spent.update(over)
        since_ms = now_ms - self._config.window_ms
        self._failed = {
            name: at_ms for name, at_ms in self._failed.items() if at_ms >= since_ms or name in self._held
        }
        fresh = [name for name in failing if name not in self._spent]
        self._failed |= dict.fromkeys(fresh, now_ms)
        if not fresh or not self._are_many(known, silent):
            return []
        ends_ms = {name: at_ms + self._config.hold_ms for name, at_ms in self._failed.items()}
        kept = [
            name
            for name, until_ms in ends_ms.items()
            if until_ms > now_ms and name not in self._held and name not in self._spent
        ]
        self._held |= {name: ends_ms[name] for name in kept}
        return kept

    def lives(self, name: str) -> None:
        """It was heard of, or is expected no more: nothing is held against it, or for it."""
        self._failed.pop(name, None)
        self._held.pop(name, None)
        self._spent.discard(name)

    def _are_many(self, known: Iterable[str], silent: Iterable[str]) -> bool:
        many = len({*self._failed, *silent})
        return many >= self._config.least and many > self._config.share * len({*self._failed, *known})
