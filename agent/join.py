"""Finding the servers: `retry_join` addresses are asked on port 8301 who the servers are.

Where gossip is sealed and nothing is taken in clear, that question is not answered: an exchange of gossip,
sealed, tells who is here, and the servers among them are asked on their own port. So an address without the
key tells nobody where the servers are.

Names are resolved anew at every try (a replaced server's address changes), and asking goes on for as long
as the agent runs, so that an agent never holds on to servers that are gone.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Callable
from typing import Any

from gemot.agent.lan import Lan
from gemot.server.model.errors import BadRequest, GemotError, Unavailable
from gemot.server.rpc.client import Link
from gemot.server.rpc.frame import FrameReader
from gemot.server.rpc.message import Call, Hello, Join, Joined, Member
from gemot.server.runtime.cause import cause_of
from gemot.server.runtime.connection import DIAL_TIMEOUT_S, Connection, ago, unreachable
from gemot.server.runtime.timer import LoopTimer

log = logging.getLogger("gemot.agent")

DEFAULT_PORT = 8301
MAX_SHOWN = 256
MOST_ADDRESSES = 32
"""Of one name, that are joined at once."""

UNGREETED = ", which said nothing (is gossip encrypted there? then its key is needed here, as `encrypt`)"
"""What a connection may mean that ends before a word came over it."""

QUICK_S = 0.3
"""Between tries while the cluster may still be forming."""

MOST_SERVERS = 32
"""Asked at once, of those that gossip tells of."""

QUICK_FOR_S = 30.0
"""How long tries are quick, from the start and whenever the servers are lost; after that, one an interval."""


def parse_address(text: str, field: str = "retry_join", default_port: int = DEFAULT_PORT) -> tuple[str, int]:
    """`host`, `host:port`, `[v6]:port` or a bare IPv6 address. Raises BadRequest, which names the field."""
    host, port = text, str(default_port)
    if text.startswith("["):
        host, bracket, rest = text[1:].partition("]")
        port = rest[1:] if rest.startswith(":") else port if bracket and not rest else ""
    elif text.count(":") == 1:
        host, _, port = text.partition(":")
    if not host or not port.isdecimal() or not 0 < int(port) < 65536:
        raise BadRequest(f"{field}: {text[:MAX_SHOWN]!r} is not host, host:port or [ipv6]:port")
    return host, int(port)


async def ask(
    *, loop: asyncio.AbstractEventLoop, timer: LoopTimer, address: tuple[str, int], hello: Hello, call: Call
) -> Any:
    """The answer of this address to one call, over a connection of its own. Raises GemotError."""
    answer: asyncio.Future[Any] = loop.create_future()
    greeted = False

    def settled(result: Any) -> None:
        if not answer.done():
            if isinstance(result, GemotError):
                answer.set_exception(result)
            else:
                answer.set_result(result)

    def opened(connection: Connection) -> Link:
        link = Link(
            hello=hello,
            send=connection.send,
            close=connection.abort,
            now_ms=timer.now_ms,
            on_ready=lambda _peer: asked(),
        )

        def asked() -> None:
            nonlocal greeted
            greeted = True
            link.call(call, settled)

        link.on_open()
        return link

    def closed(_connection: Connection, reason: str) -> None:
        settled(Unavailable(reason if greeted else f"{reason}{UNGREETED}"))

    def make() -> Connection:
        return Connection(loop=loop, reader=FrameReader(greeted=True), opened=opened, closed=closed)

    try:
        async with asyncio.timeout(DIAL_TIMEOUT_S):
            _transport, connection = await loop.create_connection(make, *address)
            try:
                return await answer
            finally:
                connection.close("asked")
    except (OSError, TimeoutError, ValueError, OverflowError) as error:
        raise Unavailable(unreachable(error)) from error


class Joiner:
    """Asks every address: quickly at first, until `settled` says that enough is known, then each interval.

    `port` is that of addresses without one. With `tries_max` it calls `given_up` once so many intervals went
    by from the start without any answer.
    """

    def __init__(
        self,
        *,
        loop: asyncio.AbstractEventLoop,
        timer: LoopTimer,
        addresses: tuple[str, ...],
        port: int = DEFAULT_PORT,
        hello: Callable[[], Hello],
        expect: int,
        on_joined: Callable[[Joined], None],
        settled: Callable[[], bool],
        interval_s: float = 30.0,
        tries_max: int = 0,
        given_up: Callable[[GemotError], None] | None = None,
        lan: Lan | None = None,
    ) -> None:
        self._loop = loop
        self._timer = timer
        self._port = port
        self._addresses = [parse_address(text, default_port=port) for text in addresses]
        self._hello = hello
        self._expect = expect
        self._on_joined = on_joined
        self._servers_known = settled
        self._interval_s = interval_s
        self._tries_max = tries_max
        self._given_up = given_up
        self._lan = lan
        self._answered = False
        self._apart = False
        self._task: asyncio.Task[None] | None = None
        self._errors: dict[str, tuple[str, float]] = {}
        self._unmet: dict[str, str] = {}

    def start(self) -> None:
        if self._addresses:
            self._task = self._loop.create_task(self._run())

    async def stop(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    @property
    def waiting_for(self) -> str:
        """What each address that has not answered said last, and when; "" when all have, or none is asked."""
        now = self._loop.time()
        return "; ".join(f"{where} {ago(error, now - at)}" for where, (error, at) in self._errors.items())

    async def join(self, text: str) -> int:
        """Meet all addresses of a name, now and once: how many answered. Raises BadRequest, Unavailable."""
        addresses = await self._resolved(parse_address(text, "address", self._port))
        told = await asyncio.gather(*(self.meet(address) for address in addresses))
        if not (count := told.count("")):
            raise Unavailable("; ".join(told))
        return count

    async def meet(self, address: tuple[str, int], id: str = "") -> str:
        """Meet whoever is there, now and once; with `id` that member and no other. Why it failed, or ""."""
        try:
            if self._lan is None:
                self._on_joined(await self._who(address))
            elif not _is_own(self._lan, address):
                if id and not await self._lan.gossip.is_there(*address, id):
                    raise Unavailable("another member has that address now")
                await self._lan.gossip.exchange(*address, join=True)
                await self._reach(address)
        except GemotError as error:
            return f"Failed to join {address[0]}:{address[1]}: {error.message}"
        return ""

    async def _resolved(self, address: tuple[str, int]) -> list[tuple[str, int]]:
        """All addresses of a host. Raises Unavailable."""
        host, port = address
        try:
            found = await self._loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        except (OSError, UnicodeError) as error:
            raise Unavailable(f"Failed to resolve {host[:MAX_SHOWN]}: {cause_of(error)}") from error
        return list(dict.fromkeys((str(at[0]), port) for *_, at in found))[:MOST_ADDRESSES]

    async def _run(self) -> None:
        give_up_at = self._loop.time() + self._tries_max * self._interval_s
        quick_until = self._loop.time() + QUICK_FOR_S
        while True:
            await asyncio.gather(*(self._ask(address) for address in self._addresses))
            if self._tries_max and not self._answered and self._loop.time() >= give_up_at:
                self._give_up()
                return
            if await self._pause(quick_until):
                quick_until = self._loop.time() + QUICK_FOR_S

    def _settled(self) -> bool:
        """Is enough known, of the servers and of everybody?"""
        return self._servers_known() and not (self._lan is not None and self._lan.alone)

    async def _pause(self, quick_until: float) -> bool:
        """Wait until the next round is due. True when the servers were lost meanwhile."""
        was_settled = self._settled()
        quick = not was_settled and self._loop.time() < quick_until
        until = self._loop.time() + (min(QUICK_S, self._interval_s) if quick else self._interval_s)
        while (left_s := until - self._loop.time()) > 0:
            await asyncio.sleep(min(QUICK_S, left_s))
            if was_settled and not self._settled():
                return True
        return False

    def _give_up(self) -> None:
        if self._given_up is not None:
            self._given_up(
                Unavailable(
                    f"No server could be joined in {self._tries_max} tries, one each {self._interval_s:g} s "
                    f"(retry_max): {self.waiting_for}"
                )
            )

    async def _ask(self, address: tuple[str, int]) -> None:
        where = f"{address[0]}:{address[1]}"
        try:
            await self._reach(address)
        except GemotError as error:
            message = error.message.removeprefix(f"{where} ").removeprefix(f"{where}: ")
            if self._errors.get(where, ("", 0.0))[0] != message:
                log.warning("agent: cannot join yet: address=%s error=%s", where, message)
            self._errors[where] = (message, self._loop.time())
            return
        self._answered = True
        self._errors.pop(where, None)

    async def _reach(self, address: tuple[str, int]) -> None:
        """Learn of the servers, and of everybody, from whoever answers there. Raises GemotError."""
        if self._lan is not None and self._lan.sealing.only:
            await self._reach_sealed(self._lan, address)
            return
        try:
            joined = await self._who(address)
        except GemotError:
            # Encryption is being turned on, and there it is on already: without a key this fails as well.
            if self._lan is None or self._lan.sealing.ring is None:
                raise
            await self._reach_sealed(self._lan, address)
            return
        self._on_joined(joined)
        if self._lan is not None and (self._lan.alone or self._lan.misses(joined.servers)):
            await self._meet(self._lan, address)

    async def _reach_sealed(self, lan: Lan, address: tuple[str, int]) -> None:
        """Who has the key is told of everybody, and asks the servers among them on their own port.

        Servers that only the others know may have begun apart: one of theirs stands behind some address.
        """
        enough = self._settled() and not self._apart and _living_servers(lan)
        if not enough:
            await self._exchange(lan, address)
        servers = _living_servers(lan)
        others = [member for member in servers[:MOST_SERVERS] if member.id != self._hello().member.id]
        apart = await asyncio.gather(*(self._ask_server(lan, member) for member in others))
        self._apart = any(apart)

    async def _exchange(self, lan: Lan, address: tuple[str, int]) -> None:
        """With the first of its addresses that answers. Raises GemotError.

        Not with this member itself, which often stands in `retry_join`, too: no member opens its own seal.
        """
        error: GemotError | None = None
        for each in await self._resolved(address):
            if not _is_own(lan, each):
                try:
                    await lan.gossip.exchange(*each, join=True)
                    return
                except GemotError as failed:
                    error = failed
        if error is not None:
            raise error

    async def _ask_server(self, lan: Lan, member: Member) -> bool:
        """Whether it knows servers of which gossip knows nothing."""
        host, _, port = member.rpc.rpartition(":")
        try:
            joined = await self._who((host.strip("[]"), int(port)))
        except GemotError:
            return False  # it is asked again; that gossip reaches it is enough
        self._on_joined(joined)
        return lan.misses(joined.servers)

    async def _who(self, address: tuple[str, int]) -> Joined:
        joined: Joined = await ask(
            loop=self._loop,
            timer=self._timer,
            address=address,
            hello=self._hello(),
            call=Join(self._expect),
        )
        return joined

    async def _meet(self, lan: Lan, address: tuple[str, int]) -> None:
        """Gossip with whoever is there: once is enough to know all the others, and to be known.

        Those who began apart, while the rest was away, are two clusters of gossip until one of each meets.
        """
        where, error = f"{address[0]}:{address[1]}", ""
        try:
            await lan.gossip.exchange(*address, join=True)
        except GemotError as refused:
            error = refused.message
        if error and self._unmet.get(where) != error:
            log.info("agent: no gossip yet: address=%s error=%s", where, error)
        self._unmet[where] = error


def _living_servers(lan: Lan) -> list[Member]:
    return [member for member, standing in lan.everyone() if member.rpc and standing == "alive"]


def _is_own(lan: Lan, address: tuple[str, int]) -> bool:
    me = lan.gossip.swim.me
    return address == (me.host, me.port)
