"""The source of a feed of what is no key: instances, nodes, checks, a session. It follows a view.

What is told is how each answer differs from the one before it. An answer is all of one state: what changed
at one index comes together. Changes that follow each other at once may be told as one: who follows a service
wants to know how it is.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol

from gemot.agent.feeds import wire
from gemot.agent.feeds.feed import Feed
from gemot.agent.feeds.wire import Place
from gemot.agent.servers import Subscription
from gemot.server.model.errors import GemotError
from gemot.server.model.query import Answer, Query

Items = Callable[[Any], Mapping[bytes, bytes]]
"""An answer's value as items, JSON by key."""


class Views(Protocol):
    def watch(
        self, query: Query, callback: Callable[[Answer], None], on_same: Callable[[Answer], None]
    ) -> Subscription: ...

    def age_s(self, query: Query) -> float: ...


class Rows:
    """Feeds `feed` with how the answer to `query` changes."""

    def __init__(self, feed: Feed, *, views: Views, query: Query, items: Items) -> None:
        self._feed = feed
        self._views = views
        self._query = query
        self._items = items
        self._watching: Subscription | None = None

    def start(self) -> None:
        try:
            self._watching = self._views.watch(self._query, self._on_answer, self._on_same)
        except GemotError as error:
            self._feed.fail(error)

    def stop(self) -> None:
        if self._watching is not None:
            self._watching.cancel()

    def begin_anew(self) -> None:
        """The view tells the new cluster's answers by itself, at their own indexes."""

    def contact(self) -> tuple[bool, int]:
        age_s = self._views.age_s(self._query)
        return age_s == 0.0, int(1000 * age_s)

    async def history(self, _place: Place) -> None:
        return None

    def _on_answer(self, answer: Answer) -> None:
        try:
            self._tell(answer)
        except Exception:
            self._feed.crash()

    def _tell(self, answer: Answer) -> None:
        feed, place = self._feed, Place(answer.index, answer.epoch)
        items = self._items(answer.value)
        if not feed.has_begun:
            feed.begin(dict(items), place)
        elif place.epoch != feed.place.epoch or place.index < feed.place.index:
            feed.begin(dict(items), place, feed.other_epoch)
        elif changes := self._differences(items):
            feed.change(place, changes)
        elif place.index > feed.place.index:
            feed.advance(place)

    def _on_same(self, answer: Answer) -> None:
        """Nothing differs, but it is known how far: who comes from another agent has been told that index."""
        feed, place = self._feed, Place(answer.index, answer.epoch)
        if place.epoch == feed.place.epoch and place.index >= feed.place.index:
            feed.advance(place)
        else:
            self._on_answer(answer)

    def _differences(self, items: Mapping[bytes, bytes]) -> list[bytes]:
        """How these differ from the feed's, which they become."""
        feed = self._feed
        gone = [key for key in feed.items if key not in items]
        put = [(key, item) for key, item in items.items() if feed.items.get(key) != item]
        for key in gone:
            feed.drop(key)
        for key, item in put:
            feed.set(key, item)
        return [wire.gone(key) for key in gone] + [wire.set_item(key, item) for key, item in put]
