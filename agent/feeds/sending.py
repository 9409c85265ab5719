"""The snapshots of one feed: that of now, those that readers are still being sent, and what they hold."""

from __future__ import annotations

from collections.abc import Mapping

from gemot.agent.feeds.snapshot import Snapshot
from gemot.agent.feeds.turns import Turns
from gemot.agent.feeds.wire import Place


class Sending:
    """An item that the feed gives up lives on in the snapshots that were taken before. It is counted once,
    for the newest of them; where that one is sent, an older one may still have it."""

    def __init__(self, turns: Turns) -> None:
        self.held = 0
        """Bytes, about, beside the feed's own items."""
        self._turns = turns
        self._now: Snapshot | None = None
        self._readers: dict[Snapshot, int] = {}
        """Of each that is being sent, the oldest first."""
        self._new: set[bytes] = set()
        """Keys of the feed whose items are in none of those: no more than it has."""

    def open(self, place: Place, items: Mapping[bytes, bytes], size: int) -> Snapshot:
        """For one reader more, who closes it. The same as before, unless `outdate` was called since."""
        if self._now is None:
            self._now = Snapshot(place, items, size, self._turns)
        if self._now not in self._readers:
            if not self._now.is_short:
                self._new.clear()
            self._readers[self._now] = 0
            self.held += self._now.held
        self._readers[self._now] += 1
        return self._now

    def close(self, snapshot: Snapshot) -> None:
        if snapshot not in self._readers:
            return  # it was cut
        self._readers[snapshot] -= 1
        if not self._readers[snapshot]:
            self._forget(snapshot)

    def outdate(self) -> None:
        """The next one is of another place."""
        now, self._now = self._now, None
        if now is not None and now.is_short and now in self._readers:
            self._outdate(now, now.size)

    def replaced(self, key: bytes, item: bytes | None) -> None:
        """The feed has another item there than the one that it had; None: it had none."""
        if not self._readers or key in self._new:
            return
        self._new.add(key)
        if item is not None:
            self._outdate_newest(len(key) + len(item))

    def dropped(self, key: bytes, item: bytes) -> None:
        """The feed has nothing there any more."""
        if key in self._new:
            self._new.remove(key)
        elif self._readers:
            self._outdate_newest(len(key) + len(item))

    def replaced_all(self) -> None:
        self._new.clear()
        self._outdate_newest(None)

    def cut(self) -> None:
        """Have the readers of what is not of now come back: they are slow, and hold what nobody else does."""
        for snapshot in list(self._readers):
            if snapshot is not self._now:
                snapshot.cut()
                self._forget(snapshot)

    def _forget(self, snapshot: Snapshot) -> None:
        """What only it held is gone; what an older one has as well is that one's to count."""
        older = None
        for each in self._readers:
            if each is snapshot:
                break
            older = older if each.is_short else each
        del self._readers[snapshot]
        self.held -= snapshot.held
        if not self._readers:
            self._new.clear()
        if snapshot.is_short:
            return
        if older is not None:
            self._outdate(older, snapshot.outdated)
        if snapshot is self._now:
            self._now = None

    def _outdate_newest(self, more: int | None) -> None:
        """A short one has a rendering of its own, which is counted as a whole."""
        newest = next((each for each in reversed(self._readers) if not each.is_short), None)
        if newest is not None:
            self._outdate(newest, newest.size if more is None else more)

    def _outdate(self, snapshot: Snapshot, more: int) -> None:
        more = min(more, snapshot.size - snapshot.outdated)
        snapshot.outdated += more
        self.held += more
