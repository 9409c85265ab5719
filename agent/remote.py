"""The server tier over RPC, as a client agent's `Servers`.

One link at a time, to one of the known servers; when it breaks, the next is dialled. Reads are asked
again, writes are sent again under their retry id (applied at most once), subscriptions go on from the
index they had reached. All within the hold time; then the caller is told what is known.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from gemot.agent.in_process import deliver, settle
from gemot.agent.servers import Subscription
from gemot.server.model.command import Command, IdempotencyKey
from gemot.server.model.errors import GemotError, OutcomeUnknown, Unavailable
from gemot.server.model.query import Answer, Applied, Options, Query
from gemot.server.rpc.message import (
    Apply,
    Ask,
    Bookmark,
    Call,
    Hello,
    Leave,
    Member,
    Status,
    Subscribe,
    TierStatus,
)
from gemot.server.runtime.connection import Dialler
from gemot.server.runtime.timer import LoopTimer
from gemot.server.writes import RetryIds

RETRY_MS = 50


class RemoteServers:
    """Speaks to whichever server answers. `start()` dials; calls before that wait for the link."""

    def __init__(
        self,
        *,
        loop: asyncio.AbstractEventLoop,
        timer: LoopTimer,
        hello: Callable[[], Hello],
        origin: bytes,
        hold_ms: int,
        shuffle: Callable[[list[Member]], None],
    ) -> None:
        self._loop = loop
        self._timer = timer
        self._hold_ms = hold_ms
        self._shuffle = shuffle
        self._ids = RetryIds(origin)
        self._known: dict[str, Member] = {}
        self._queue: list[Member] = []
        self._subscriptions: dict[_Remote, None] = {}
        self._waiting: list[Callable[[], None]] = []
        self._dialler = Dialler(
            loop=loop,
            timer=timer,
            address=self._next_address,
            hello=hello,
            on_ready=self._ready,
            on_lost=self._lost,
        )
        self.connected_to: Member | None = None

    # -- life --------------------------------------------------------------------------------------

    def start(self) -> None:
        self._dialler.start()

    async def stop(self) -> None:
        await self._dialler.stop()

    def learn(self, servers: tuple[Member, ...]) -> None:
        """These are the servers, as one of them said."""
        for member in servers:
            if member.rpc:
                self._known[member.id] = member

    def known(self) -> list[Member]:
        return list(self._known.values())

    @property
    def waiting_for(self) -> str:
        if self.connected_to is not None:
            return ""
        if not self._known:
            return "Waiting for servers: none is known yet"
        return f"Waiting for a server: {self._dialler.last_error}"

    # -- Servers -----------------------------------------------------------------------------------

    def apply(
        self, command: Command, *, token: str = "", key: IdempotencyKey | None = None
    ) -> asyncio.Future[Applied]:
        future: asyncio.Future[Applied] = self._loop.create_future()
        minted = self._ids.mint() if key is None else None
        if minted is not None:
            future.add_done_callback(lambda _: self._ids.answered(minted))
        self._ask(lambda: Apply(command, token, key or minted), future)
        return future

    def query(self, query: Query, options: Options) -> asyncio.Future[Answer]:
        future: asyncio.Future[Answer] = self._loop.create_future()
        self._ask(lambda: Ask(query, options), future)
        return future

    def subscribe(
        self,
        query: Query,
        on_answer: Callable[[Answer], None],
        on_bookmark: Callable[[Answer], None] | None = None,
    ) -> Subscription:
        remote = _Remote(query, on_answer, on_bookmark, self._subscriptions)
        self._subscriptions[remote] = None
        if self._dialler.ready:
            remote.open(self._dialler)
        return remote

    def leader(self) -> asyncio.Future[str]:
        return self._status(lambda status: status.leader.rpc if status.leader is not None else "")

    def peers(self) -> asyncio.Future[list[str]]:
        return self._status(lambda status: sorted(v.rpc for v in status.voters if v.rpc))

    def stats(self) -> dict[str, dict[str, str]]:
        to = self.connected_to
        return {
            "consul": {
                "server": "false",
                "known_servers": str(len(self._known)),
                "connected_to": f"{to.name} {to.rpc}" if to is not None else "",
                "waiting": self.waiting_for,
            }
        }

    def leave(self, node: str) -> asyncio.Future[bool]:
        """Say that this node leaves on purpose."""
        future: asyncio.Future[bool] = self._loop.create_future()
        self._ask(lambda: Leave(node), future)
        return future

    # -- inside ------------------------------------------------------------------------------------

    def _status(self, pick: Callable[[TierStatus], Any]) -> asyncio.Future[Any]:
        future: asyncio.Future[Any] = self._loop.create_future()
        status: asyncio.Future[TierStatus] = self._loop.create_future()
        status.add_done_callback(
            lambda done: (
                settle(future)(done.exception() or pick(done.result())) if not done.cancelled() else None
            )
        )
        self._ask(Status, status)
        return future

    def _ask(self, call: Callable[[], Call], future: asyncio.Future[Any]) -> None:
        """Ask until it is answered; give up at the hold time with what is known."""
        deadline_ms = self._timer.now_ms() + self._hold_ms
        cancel: Callable[[], None] = _nothing
        future.add_done_callback(lambda done: cancel() if done.cancelled() else None)

        def attempt() -> None:
            nonlocal cancel
            if future.done():
                return
            if self._dialler.ready:
                cancel = self._dialler.call(call(), answered)
            else:
                answered(Unavailable(f"No known server answers ({self._dialler.last_error})"))

        def answered(result: Any) -> None:
            again = isinstance(result, Unavailable | OutcomeUnknown)
            if again and self._timer.now_ms() < deadline_ms:
                self._timer.call_after(RETRY_MS, attempt)
            else:
                settle(future)(result)

        attempt()

    def _next_address(self) -> tuple[str, int] | None:
        if not self._queue:
            self._queue = list(self._known.values())
            self._shuffle(self._queue)
        if not self._queue:
            return None
        host, _, port = self._queue.pop().rpc.rpartition(":")
        return host.strip("[]"), int(port)

    def _ready(self, peer: Hello) -> None:
        self.connected_to = peer.member
        self._known[peer.member.id] = peer.member
        for remote in list(self._subscriptions):
            remote.open(self._dialler)
        self._dialler.call(Status(), self._learn_voters)

    def _learn_voters(self, status: TierStatus | GemotError) -> None:
        if isinstance(status, TierStatus):
            self.learn(status.voters)

    def _lost(self, _reason: str) -> None:
        self.connected_to = None


class _Remote:
    """One subscription, opened anew on each link from where it had got to."""

    def __init__(
        self,
        query: Query,
        on_answer: Callable[[Answer], None],
        on_bookmark: Callable[[Answer], None] | None,
        registry: dict[_Remote, None],
    ) -> None:
        self._query = query
        self._on_answer = on_answer
        self._on_bookmark = on_bookmark
        self._registry = registry
        self._index = 0
        self._cancel: Callable[[], None] = _nothing

    def open(self, dialler: Dialler) -> None:
        self._cancel = dialler.call(Subscribe(self._query, "", self._index), self._event)

    def cancel(self) -> None:
        self._registry.pop(self, None)
        self._cancel()

    def _event(self, event: Answer | Bookmark | GemotError) -> None:
        if self not in self._registry:
            return
        if isinstance(event, Answer):
            if event.index <= self._index:
                return
            self._index = event.index
        deliver(event, self._on_answer, self._on_bookmark)


def _nothing() -> None:
    """Cancels what has not been sent."""
