"""The server tier over RPC, as a client agent's `Servers`.

One link at a time, to one of the known servers; when it breaks, the next is dialled. Reads are asked
again, writes are sent again under their retry id (applied at most once), subscriptions go on from the
index they had reached. All within the hold time; then the caller is told what is known (`asking.py`).
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Any

import msgspec

from gemot.agent.asking import RETRY_MS, Asking
from gemot.agent.in_process import REFUSED_AGAIN_S, deliver, settle
from gemot.agent.join import ask
from gemot.agent.servers import Subscription
from gemot.server.model.command import Command, IdempotencyKey, may_be_repeated
from gemot.server.model.coordinate import NodeCoordinate
from gemot.server.model.errors import GemotError
from gemot.server.model.query import DEFAULT_WAIT_MS, MAX_WAIT_MS, Answer, Applied, Options, Query
from gemot.server.rpc.message import (
    Apply,
    Ask,
    Bookmark,
    Call,
    Hello,
    Leave,
    Locate,
    Member,
    Operate,
    ReadArchive,
    Status,
    Subscribe,
    Survey,
    TierStatus,
    Upload,
)
from gemot.server.runtime.connection import Dialler
from gemot.server.runtime.timer import LoopTimer
from gemot.server.writes import RetryIds

log = logging.getLogger("gemot.agent")

UNBEGUN_MS = 1_000
"""How long one stays with a server that has no cluster yet before it is greeted anew."""

STATUS_HOLD_MS = 800
"""Who leads and who votes is answered without a quorum: a server that can be asked says it in this time."""

SEEN_MS = 5_000
"""So long what a server said of the tier is told on, while its link breaks and another is found."""

LEADERLESS_MS = 5_000
"""So often, at a server that hears no leader, it is looked for one that does, on the better side of a cut."""


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
        self._hello = hello
        self._hold_ms = hold_ms
        self._looking: asyncio.Task[None] | None = None
        self._shuffle = shuffle
        self._ids = RetryIds(origin)
        self._known: dict[str, Member] = {}
        self._queue: list[Member] = []
        self._subscriptions: dict[_Remote, None] = {}
        self._moved_on_ms = timer.now_ms()
        self._cluster = ""
        self._tier: TierStatus | None = None
        self._tier_seen_ms = 0
        self.on_new_cluster: Callable[[], None] = _nothing
        """To be set by who must know that the servers are another cluster, whose indexes begin anew."""
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
        if self._looking is not None:
            self._looking.cancel()
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
        """What keeps this agent from the servers, or them from serving (in the words of the one asked)."""
        seen = self._tier is not None and self._timer.now_ms() - self._tier_seen_ms < SEEN_MS
        if self._tier is not None and self._tier.leader is None and (seen or self.connected_to is not None):
            return self._tier.stats.get("consul", {}).get("waiting", "") or "Waiting for a leader"
        if self.connected_to is not None:
            return ""
        if not self._known:
            return "Waiting for servers: none is known yet"
        return f"Waiting for a server: {self._tried()}"

    def _tried(self) -> str:
        return "; ".join(self._dialler.answers) or self._dialler.last_error

    # -- Servers -----------------------------------------------------------------------------------

    def apply(
        self, command: Command, *, token: str = "", key: IdempotencyKey | None = None
    ) -> asyncio.Future[Applied]:
        future: asyncio.Future[Applied] = self._loop.create_future()
        minted = self._ids.mint() if key is None and not may_be_repeated(command) else None
        if minted is not None:
            future.add_done_callback(lambda _: self._ids.answered(minted))
        self._ask(lambda hold_ms: Apply(command, token, key or minted, hold_ms), future)
        return future

    def query(self, query: Query, options: Options) -> asyncio.Future[Answer]:
        future: asyncio.Future[Answer] = self._loop.create_future()
        if options.index == 0:
            self._ask(lambda hold_ms: Ask(query, options, hold_ms), future)
            return future
        wait_ms = min(options.wait_ms if options.wait_ms > 0 else DEFAULT_WAIT_MS, MAX_WAIT_MS)
        until_ms = self._timer.now_ms() + wait_ms

        def call(_hold_ms: int) -> Ask:
            """On the next server it waits for what is left of its time."""
            left_ms = max(1, until_ms - self._timer.now_ms())
            return Ask(query, msgspec.structs.replace(options, wait_ms=left_ms))

        self._ask(call, future, waits=True)
        return future

    def subscribe(
        self,
        query: Query,
        on_answer: Callable[[Answer], None],
        on_bookmark: Callable[[Answer], None] | None = None,
        on_refusal: Callable[[GemotError], None] | None = None,
    ) -> Subscription:
        remote = _Remote(query, on_answer, on_bookmark, on_refusal, self)
        self._subscriptions[remote] = None
        if self._dialler.ready:
            remote.open(self._dialler)
        return remote

    def operate(self, call: Operate | Survey) -> asyncio.Future[Any]:
        future: asyncio.Future[Any] = self._loop.create_future()
        hold_ms = min(STATUS_HOLD_MS, self._hold_ms) if isinstance(call, Survey) and call.here else None
        self._ask(lambda _hold_ms: call, future, hold_ms=hold_ms)
        return future

    def locate(self, row: NodeCoordinate, *, token: str = "") -> asyncio.Future[bool]:
        future: asyncio.Future[bool] = self._loop.create_future()
        self._send_once(Locate(row, token), future, self._timer.now_ms())
        return future

    def archive(self, call: Call) -> asyncio.Future[Any]:
        future: asyncio.Future[Any] = self._loop.create_future()
        if isinstance(call, ReadArchive) and not call.id:
            # Making the copy takes its time: the hold time counts anew with every server that is lost.
            self._ask(lambda _hold_ms: call, future, waits=True)
        elif isinstance(call, Upload) and not call.offset and not call.last:
            self._ask(lambda _hold_ms: call, future, waits=True)
        else:
            # A whole archive in one piece has no server yet; the later pieces of one belong to theirs.
            whole = isinstance(call, Upload) and not call.offset
            self._send_once(call, future, self._timer.now_ms() + (self._hold_ms if whole else 0))
        return future

    def _send_once(self, call: Call, future: asyncio.Future[Any], until_ms: int) -> None:
        """Never a second time; before that, wait for a link until then."""
        if future.done():
            return
        if not self._dialler.ready and self._timer.now_ms() < until_ms:
            self._timer.call_after(RETRY_MS, lambda: self._send_once(call, future, until_ms))
            return
        cancel = self._dialler.call(call, settle(future))
        future.add_done_callback(lambda done: cancel() if done.cancelled() else None)

    def leader(self) -> asyncio.Future[str]:
        return self._status(lambda status: status.leader.rpc if status.leader is not None else "")

    def peers(self) -> asyncio.Future[list[str]]:
        return self._status(lambda status: sorted(v.rpc for v in status.voters if v.rpc))

    def stats(self) -> dict[str, dict[str, str]]:
        to = self.connected_to
        told = self._tier.stats.get("consul", {}) if self._tier is not None else {}
        return {
            "consul": {
                "epoch": told.get("epoch", ""),
                "server": "false",
                "known_servers": str(len(self._known)),
                "connected_to": f"{to.name} {to.rpc}" if to is not None else "",
                "waiting": self.waiting_for,
            }
        }

    def leave(self, node: str) -> asyncio.Future[bool]:
        """Say that this node leaves on purpose."""
        future: asyncio.Future[bool] = self._loop.create_future()
        self._ask(lambda _hold_ms: Leave(node), future)
        return future

    # -- inside ------------------------------------------------------------------------------------

    def _status(self, pick: Callable[[TierStatus], Any]) -> asyncio.Future[Any]:
        future: asyncio.Future[Any] = self._loop.create_future()
        status: asyncio.Future[TierStatus] = self._loop.create_future()

        def answered(done: asyncio.Future[TierStatus]) -> None:
            if done.cancelled():
                return
            if (error := done.exception()) is None:
                self._see(done.result())
            settle(future)(error or pick(done.result()))

        status.add_done_callback(answered)
        future.add_done_callback(lambda done: status.cancel() if done.cancelled() else None)
        self._ask(lambda _hold_ms: Status(), status, hold_ms=min(STATUS_HOLD_MS, self._hold_ms))
        return future

    def _see(self, status: TierStatus) -> None:
        self._tier, self._tier_seen_ms = status, self._timer.now_ms()

    def _ask(
        self,
        call: Callable[[int], Call],
        future: asyncio.Future[Any],
        *,
        waits: bool = False,
        hold_ms: int | None = None,
    ) -> None:
        hold_ms = self._hold_ms if hold_ms is None else hold_ms
        Asking(way=self, timer=self._timer, call=call, future=future, hold_ms=hold_ms, waits=waits).start()

    # -- Way ---------------------------------------------------------------------------------------

    @property
    def ready(self) -> bool:
        return self._dialler.ready

    def send(self, call: Call, done: Callable[[Any], None]) -> Callable[[], None]:
        return self._dialler.call(call, done)

    def leave_leaderless(self) -> None:
        """This server is cut off from the others, or all have no leader: see whether another one has."""
        now = self._timer.now_ms()
        if self._looking is None and len(self._known) > 1 and now - self._moved_on_ms >= LEADERLESS_MS:
            self._moved_on_ms = now
            self._looking = self._loop.create_task(self._look_elsewhere())
            self._looking.add_done_callback(self._looked)

    def _looked(self, _task: asyncio.Task[None]) -> None:
        self._looking = None

    async def _look_elsewhere(self) -> None:
        """Go over to a server that has a leader. Without one all stay: breaking links would help nobody."""
        here = self.connected_to
        others = [member for member in self._known.values() if here is None or member.id != here.id]
        self._shuffle(others)
        for member in others:
            try:
                status = await ask(
                    loop=self._loop,
                    timer=self._timer,
                    address=_address(member),
                    hello=self._hello(),
                    call=Status(),
                )
            except GemotError:
                continue
            if here is None or self.connected_to is not here:
                return
            if isinstance(status, TierStatus) and status.leader is not None:
                log.warning(
                    "agent: server has no leader, another one has: server=%s next=%s", here.name, member.name
                )
                self._queue = [member]
                self._dialler.redial(f"{here.name} has no leader")
                return

    def again_soon(self, remote: _Remote) -> None:
        """That subscription was refused by a server that is still there."""

        def again() -> None:
            if remote in self._subscriptions and self._dialler.ready and not remote.is_open:
                remote.open(self._dialler)

        self._timer.call_after(int(REFUSED_AGAIN_S * 1000), again)

    def forget(self, remote: _Remote) -> None:
        self._subscriptions.pop(remote, None)

    def holds(self, remote: _Remote) -> bool:
        return remote in self._subscriptions

    def _next_address(self) -> tuple[str, int] | None:
        if not self._queue:
            self._queue = list(self._known.values())
            self._shuffle(self._queue)
        if not self._queue:
            return None
        return _address(self._queue.pop())

    def _ready(self, peer: Hello) -> None:
        self.connected_to = peer.member
        self._moved_on_ms = self._timer.now_ms()
        self._known[peer.member.id] = peer.member
        if peer.cluster != self._cluster:
            self._meet(peer)
        for remote in list(self._subscriptions):
            remote.open(self._dialler)
        self._dialler.call(Status(), self._learn_voters)

    def _meet(self, peer: Hello) -> None:
        """A server of another cluster than the last one: the first, one begun anew, or one not begun yet."""
        if not peer.cluster:
            self._timer.call_after(UNBEGUN_MS, lambda: self._greet_anew(peer))
            return
        before, self._cluster = self._cluster, peer.cluster
        if not before:
            return
        log.warning(
            "agent: the servers are another cluster now, all is read and told anew: server=%s was=%s is=%s",
            peer.member.name,
            before,
            peer.cluster,
        )
        for remote in self._subscriptions:
            remote.begin_anew()
        self.on_new_cluster()

    def _greet_anew(self, peer: Hello) -> None:
        if self._dialler.peer is peer:
            self._dialler.redial(f"{peer.member.name} had no cluster yet")

    def _learn_voters(self, status: TierStatus | GemotError) -> None:
        """The voters are the servers; whoever was one before is asked no more."""
        if not isinstance(status, TierStatus):
            return
        self._see(status)
        if status.leader is None:
            return
        kept = [voter.id for voter in status.voters]
        if self.connected_to is not None:
            kept.append(self.connected_to.id)
        self._known = {id: member for id, member in self._known.items() if id in kept}
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
        on_refusal: Callable[[GemotError], None] | None,
        servers: RemoteServers,
    ) -> None:
        self._query = query
        self._on_answer = on_answer
        self._on_bookmark = on_bookmark
        self._on_refusal = on_refusal
        self._servers = servers
        self._index = 0
        self.is_open = False
        self._cancel: Callable[[], None] = _nothing

    def open(self, dialler: Dialler) -> None:
        self.is_open = True
        self._cancel = dialler.call(Subscribe(self._query, "", self._index), self._event)

    def begin_anew(self) -> None:
        """Ask for everything: the index it had reached is another cluster's."""
        self._index = 0

    def cancel(self) -> None:
        self._servers.forget(self)
        self._cancel()

    def _event(self, event: Answer | Bookmark | GemotError) -> None:
        if not self._servers.holds(self):
            return
        if isinstance(event, GemotError):
            self.is_open = False
            self._servers.again_soon(self)
            if self._on_refusal is not None:
                self._on_refusal(event)
            return
        if isinstance(event, Answer):
            if event.index <= self._index:
                return
            self._index = event.index
        elif not event.known_leader and event.last_contact_ms >= LEADERLESS_MS:
            self._servers.leave_leaderless()
        deliver(event, self._on_answer, self._on_bookmark)


def _address(member: Member) -> tuple[str, int]:
    host, _, port = member.rpc.rpartition(":")
    return host.strip("[]"), int(port)


def _nothing() -> None:
    """Cancels what has not been sent; hears what nobody listens to."""
