"""A source of a feed of which a test tells what it says."""

from __future__ import annotations

from gemot.agent.feeds.feed import Feed
from gemot.agent.feeds.wire import Place


class Told:
    """A source that begins at once; the test tells the rest."""

    def __init__(self, feed: Feed) -> None:
        self._feed = feed

    def start(self) -> None:
        self._feed.begin({}, Place(1, 0))

    def stop(self) -> None: ...

    def begin_anew(self) -> None: ...

    def contact(self) -> tuple[bool, int]:
        return True, 0

    async def history(self, _place: Place) -> None:
        return None
