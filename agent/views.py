"""Local copies of watched state: one upstream subscription per query, shared by all who look at it.

HTTP `cached` reads, DNS, templates and streams all look through here. A view is kept current by its
subscription and answers at once; it never takes part in a default (linearizable) read. Not a cache with
expiry: a view that loses its servers keeps its last answer, and only its age tells.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from typing import Protocol

import msgspec

from gemot.agent.servers import Subscription
from gemot.server.model.errors import Busy, GemotError, Unavailable, unanswered
from gemot.server.model.query import Answer, Query

IDLE_S = 600.0
"""A view nobody watched or asked for this long gives its subscription back."""

SWEEP_S = 30.0

HOLD_S = 7.0
"""So long a first answer is waited for, by default: as long as other reads are held."""

HOLD_MIN_S = 0.5
"""Not less, as a server that is well needs time to answer too."""

FRESH_S = 3.0
"""Bookmarks come each second; up to this long without one the age is still told as 0."""

REOPEN_MIN_S = 0.25
REOPEN_MAX_S = 30.0

_log = logging.getLogger(__name__)
_encoder = msgspec.msgpack.Encoder(order="deterministic")


def _in_vain() -> Unavailable:
    return unanswered("", linked=False)


class Upstream(Protocol):
    """What is needed of the servers: subscriptions (see `Servers.subscribe`)."""

    def subscribe(
        self,
        query: Query,
        on_answer: Callable[[Answer], None],
        on_bookmark: Callable[[Answer], None] | None = None,
        on_refusal: Callable[[GemotError], None] | None = None,
    ) -> Subscription: ...


class Views:
    """All views of this agent. For one event loop; nothing here blocks.

    `limit` bounds how many different queries are held. At the limit the idle view used longest ago makes
    room; when none is idle the caller gets `Busy`. `now` is a clock in seconds that never goes back.
    `hold_s` bounds the wait for a first answer; `unanswered` is what any read is told that was held in vain.
    """

    def __init__(
        self,
        *,
        servers: Upstream,
        limit: int,
        now: Callable[[], float] = time.monotonic,
        idle_s: float = IDLE_S,
        hold_s: float = HOLD_S,
        unanswered: Callable[[], Unavailable] = _in_vain,
    ) -> None:
        self._servers = servers
        self._limit = limit
        self._now = now
        self._idle_s = idle_s
        self._hold_s = max(hold_s, HOLD_MIN_S)
        self._unanswered = unanswered
        self._views: dict[bytes, _View] = {}
        self._sweeper: asyncio.TimerHandle | None = None
        self._stopped = False

    def __len__(self) -> int:
        return len(self._views)

    def get(self, query: Query) -> asyncio.Future[Answer]:
        """The present answer, or the first one when it comes. Cancelling the future stops the wait.

        Raises Busy at the limit; what the servers refuse (BadRequest, Forbidden) is raised too. The wait
        fails with Unavailable at the end of the hold time; the view goes on, for who asks again.
        """
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Answer] = loop.create_future()
        view = self._view(query)
        if view.answer is not None:
            future.set_result(view.answer)
        else:
            view.waiters.add(future)
            future.add_done_callback(view.waiters.discard)
            over = loop.call_later(self._hold_s, self._give_up, view, future)
            future.add_done_callback(lambda _: over.cancel())
        return future

    def peek(self, query: Query) -> Answer | None:
        """The answer held now, or None. Opens nothing, but counts as use of a view that is open."""
        view = self._views.get(_encoder.encode(query))
        if view is None:
            return None
        view.used_at = self._now()
        return view.answer

    def watch(
        self,
        query: Query,
        callback: Callable[[Answer], None],
        on_same: Callable[[Answer], None] | None = None,
    ) -> Subscription:
        """Call `callback` with the present answer if there is one, then on each change, until cancelled.

        `on_same` is told an answer with the same value as the one before, at a newer index.
        """
        view = self._view(query)
        watcher = _Watcher(view, callback, on_same, self._now)
        view.watchers[watcher] = None
        if view.answer is not None:
            watcher.tell(view.answer)
        return watcher

    def age_s(self, query: Query) -> float:
        """Seconds for which nothing vouched for the answer: 0 while bookmarks come, or with no view."""
        view = self._views.get(_encoder.encode(query))
        if view is None:
            return 0.0
        age_s = self._now() - view.heard_at
        return age_s if age_s > FRESH_S else 0.0

    def begin_anew(self) -> None:
        """Take the next answers whatever their index: the servers are another cluster, with other indexes.

        Until they come, what is held is told on.
        """
        for view in self._views.values():
            if view.answer is not None:
                view.answer = msgspec.structs.replace(view.answer, index=1)

    def sweep(self) -> None:
        """Drop the views that have been idle for too long. Called by a timer of our own."""
        horizon = self._now() - self._idle_s
        for key, view in list(self._views.items()):
            if view.idle and view.used_at <= horizon:
                self._drop(key)

    def stop(self) -> None:
        """Cancel every subscription and every wait: no callback comes after this, later use is refused."""
        self._stopped = True
        if self._sweeper is not None:
            self._sweeper.cancel()
        for key in list(self._views):
            self._drop(key)

    def _give_up(self, view: _View, future: asyncio.Future[Answer]) -> None:
        if not future.done():
            # A refusal of another kind is that a link broke: what is waited for now says more.
            error = view.refusal if isinstance(view.refusal, Busy) else self._unanswered()
            future.set_exception(error)

    def _view(self, query: Query) -> _View:
        if self._stopped:
            raise Unavailable("This agent is stopping: it takes no new reads of its views.")
        key = _encoder.encode(query)
        view = self._views.get(key)
        if view is None:
            self._make_room()
            view = _View(query, self._now)
            self._views[key] = view
            try:
                view.open(self._servers)
            except GemotError:
                self._drop(key)
                raise
            self._arm()
        view.used_at = self._now()
        return view

    def _make_room(self) -> None:
        if len(self._views) < self._limit:
            return
        idle = [(view.used_at, key) for key, view in self._views.items() if view.idle]
        if not idle:
            raise Busy(
                f"This agent already keeps {self._limit} different queries watched, its limit of views, and "
                "all are in use: watch fewer things (a prefix in place of many keys), or raise the limit."
            )
        self._drop(min(idle)[1])

    def _drop(self, key: bytes) -> None:
        view = self._views.pop(key, None)
        if view is not None:
            view.close()

    def _arm(self) -> None:
        if self._sweeper is None and not self._stopped:
            self._sweeper = asyncio.get_running_loop().call_later(SWEEP_S, self._on_sweep)

    def _on_sweep(self) -> None:
        self._sweeper = None
        self.sweep()
        if self._views:
            self._arm()


class _View:
    """One query: its last answer, its upstream subscription, and who looks at it."""

    def __init__(self, query: Query, now: Callable[[], float]) -> None:
        self.query = query
        self.answer: Answer | None = None
        self.watchers: dict[_Watcher, None] = {}
        self.waiters: set[asyncio.Future[Answer]] = set()
        self.refusal: Unavailable | None = None
        self.used_at = now()
        self.heard_at = now()
        self._now = now
        self._upstream: Subscription | None = None
        self._reopening: asyncio.TimerHandle | None = None
        self._reopen_s = REOPEN_MIN_S
        self._closed = False

    @property
    def idle(self) -> bool:
        return not self.watchers and not self.waiters

    def open(self, servers: Upstream) -> None:
        """Subscribe. While the servers are unavailable, try again later; other refusals are raised."""
        self._reopening = None
        try:
            upstream = servers.subscribe(self.query, self._on_answer, self._on_bookmark, self._on_refusal)
        except Unavailable as error:
            self._reopen_later(servers, error)
            return
        if self._closed:  # an answer told from within `subscribe` made someone close this view
            upstream.cancel()
            return
        self._upstream = upstream
        self._reopen_s = REOPEN_MIN_S

    def close(self) -> None:
        self._closed = True
        for part in (self._upstream, self._reopening):
            if part is not None:
                part.cancel()
        self.watchers.clear()
        for waiter in list(self.waiters):
            waiter.cancel()

    def _reopen_later(self, servers: Upstream, error: GemotError) -> None:
        _log.debug("views: %s is not watched yet, next try in %.2f s: %s", self.query, self._reopen_s, error)
        loop = asyncio.get_running_loop()
        self._reopening = loop.call_later(self._reopen_s, self._reopen, servers)
        self._reopen_s = min(self._reopen_s * 2, REOPEN_MAX_S)

    def _reopen(self, servers: Upstream) -> None:
        try:
            self.open(servers)
        except GemotError as error:
            _log.warning("views: %s cannot be watched: %s", self.query, error)
            self._on_refusal(error)
            self._reopen_later(servers, error)

    def _on_answer(self, answer: Answer) -> None:
        if self._closed:
            return
        known = self.answer
        if known is not None and answer.index < known.index:
            return  # a server that lags: what we hold is newer
        self._heard(answer)
        if known is not None and answer.value == known.value:
            if answer.index > known.index:
                self.answer = answer
                for watcher in list(self.watchers):
                    watcher.tell_same(answer)
            return
        self.answer = answer
        for waiter in list(self.waiters):
            if not waiter.done():
                waiter.set_result(answer)
        for watcher in list(self.watchers):
            watcher.tell(answer)

    def _on_refusal(self, error: GemotError) -> None:
        """It is asked again. Who waits for a first answer waits on only where that may help."""
        if self._closed:
            return
        if isinstance(error, Unavailable):
            self.refusal = error
            return
        for waiter in list(self.waiters):
            if not waiter.done():
                waiter.set_exception(error)

    def _on_bookmark(self, bookmark: Answer) -> None:
        if bookmark.known_leader:
            self._heard(bookmark)

    def _heard(self, answer: Answer) -> None:
        self.heard_at = max(self.heard_at, self._now() - answer.last_contact_ms / 1000)


class _Watcher:
    """One callback on one view; the `Subscription` its owner holds."""

    def __init__(
        self,
        view: _View,
        callback: Callable[[Answer], None],
        on_same: Callable[[Answer], None] | None,
        now: Callable[[], float],
    ) -> None:
        self._view = view
        self._callback = callback
        self._on_same = on_same
        self._now = now

    def tell(self, answer: Answer) -> None:
        self._call(self._callback, answer)

    def tell_same(self, answer: Answer) -> None:
        if self._on_same is not None:
            self._call(self._on_same, answer)

    def _call(self, callback: Callable[[Answer], None], answer: Answer) -> None:
        if self not in self._view.watchers:
            return  # cancelled by a callback that ran before this one
        try:
            callback(answer)
        except Exception:
            _log.exception("views: a watcher of %s failed; the others go on", self._view.query)

    def cancel(self) -> None:
        if self._view.watchers.pop(self, self) is None:
            self._view.used_at = self._now()
