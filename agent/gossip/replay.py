"""Which sealed datagrams were seen before: a sliding window a sender, as IPsec's (RFC 4303, 3.4.3). Pure.

Each sender numbers what it seals with a counter that only grows. A receiver keeps the highest number that it
has seen of a sender, and which of the `WIDTH` before that: a number seen before, or behind the window, is
refused. Numbers count only after the seal was found good, so nobody without a key moves a window.

A sender that starts begins at its wall clock in milliseconds times 2**20 (`first_counter`): ahead of its
former self, whose counter grew by one a datagram and not by 2**20 a millisecond.

What this holds: a member takes each sealed datagram once, for as long as it remembers its sender.

What it does not:
- A datagram kept back by who controls the network, and let through later within the window, is taken as late.
- Each member has windows of its own. What was sent to one can be shown to another, once; words name whom they
  are for where that matters.
- Who restarts, or has forgotten a sender that was silent for longest among too many, takes the next datagram
  of that sender whatever its number, so an old one can be shown before a new one comes. Incarnations bound
  what that does: old news about a member is outdated as soon as newer is known.
- A sender that starts with a clock behind that of its former self is refused by all who remember that one:
  until it is started by a clock that is ahead, or is forgotten (`forget`, when a member is pruned or reaped).
  Nothing else in gossip depends on wall clocks.
- What is not sealed is not numbered, and can be replayed and made up at will.
"""

from __future__ import annotations

WIDTH = 1_024
"""How late a datagram may be, in datagrams of its sender: seconds at the busiest."""

SENDERS = 32_768
"""More than members of any cluster meant here; a few hundred bytes each."""

COUNTER_BITS = 64
_MILLISECOND_BITS = 20
_MASK = (1 << WIDTH) - 1


def first_counter(wall_ms: int) -> int:
    """Where a sender begins that starts now, by its wall clock: since 1970, for some 500 years."""
    assert 0 <= wall_ms < 1 << (COUNTER_BITS - _MILLISECOND_BITS), f"{wall_ms} ms is no wall clock's time"
    return wall_ms << _MILLISECOND_BITS


class Window:
    """What was seen of one sender."""

    __slots__ = ("_newest", "_seen")

    def __init__(self, counter: int) -> None:
        self._newest = counter
        self._seen = 1
        """Bit n stands for the n-th before the newest."""

    def admit(self, counter: int) -> bool:
        """True once for each number that is not behind the window."""
        ahead = counter - self._newest
        if ahead > 0:
            # The distance is the sender's word: it is compared before anything is shifted by it.
            self._seen = (self._seen << ahead | 1) & _MASK if ahead < WIDTH else 1
            self._newest = counter
            return True
        bit = 1 << -ahead if -ahead < WIDTH else 0
        if not bit or self._seen & bit:
            return False
        self._seen |= bit
        return True


class Windows:
    """A window for each of at most so many senders: who was heard of least recently is forgotten first."""

    def __init__(self, most: int = SENDERS) -> None:
        assert most > 0, "somebody is remembered"
        self._most = most
        self._windows: dict[bytes, Window] = {}

    def __len__(self) -> int:
        return len(self._windows)

    def admit(self, sender: bytes, counter: int) -> bool:
        """True if this is new. What is refused keeps nobody in memory."""
        window = self._windows.get(sender)
        if window is None:
            if len(self._windows) == self._most:
                del self._windows[next(iter(self._windows))]
            self._windows[sender] = Window(counter)
            return True
        if not window.admit(counter):
            return False
        self._windows[sender] = self._windows.pop(sender)
        return True

    def forget(self, sender: bytes) -> None:
        """What it says next is believed to be new, whatever its number."""
        self._windows.pop(sender, None)
