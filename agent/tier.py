"""The agent's way to the server tier: being a server, or a client of some. Two sides, one shape.

`ServerTier` runs a server in this process; `ClientTier` keeps a link to one. Both find the others by
`retry_join`, answer on port 8301 who the servers are, and give the agent its `Servers`.
"""

from __future__ import annotations

import asyncio
import os
import random
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, Protocol

import msgspec

from gemot.agent.gossip.timing import LAN, Timing
from gemot.agent.http.listen import Address, ListenFailed, explain
from gemot.agent.in_process import InProcessServers
from gemot.agent.join import DEFAULT_PORT, Joiner
from gemot.agent.lan import Lan, LanConfig
from gemot.agent.memory import Memory
from gemot.agent.rejoin import Rejoin
from gemot.agent.remote import RemoteServers
from gemot.agent.sealing import Sealing
from gemot.agent.servers import Servers
from gemot.server.members import Standing
from gemot.server.model.errors import NoLeader, NotLeader, OutcomeUnknown, Unavailable, unanswered
from gemot.server.raft.types import Message
from gemot.server.rpc.message import PROTOCOL_MAX, PROTOCOL_MIN, Call, Hello, Join, Joined, Member
from gemot.server.runtime.connection import Listener, ListenerLimits
from gemot.server.runtime.node import Node, NodeConfig
from gemot.server.runtime.timer import LoopTimer
from gemot.server.storage.disk import Disk

LEAVE_AGAIN_S = 0.1


class TierConfig(msgspec.Struct, frozen=True):
    """What both sides need: who this agent is, where it listens for joins, whom it asks."""

    me: Member
    bind: str
    join_port: int
    retry_join: tuple[str, ...]
    hold_ms: int
    retry_interval_s: float = 30.0
    retry_max: int = 0
    listener: ListenerLimits = ListenerLimits()
    gossip: Timing = LAN
    sealing: Sealing = Sealing()
    advertise_reconnect_timeout_ms: int = 0
    remember_in: Path | None = None
    """The data directory, where it lasts: there stands who was in the cluster."""

    rejoin_after_leave: bool = False


class Tier(Protocol):
    """The shape that `daemon.py` composes with."""

    @property
    def servers(self) -> Servers: ...

    @property
    def known_servers(self) -> int: ...

    @property
    def lan(self) -> Lan | None:
        """Gossip with all other agents; None if its port is off."""

    @property
    def rejoin(self) -> Rejoin | None:
        """Who was in the cluster is looked for by itself; None if nothing is remembered."""

    async def start(self) -> None:
        """Listen and begin. Raises ListenFailed; `stop` is to be called then too."""

    def on_new_cluster(self, callback: Callable[[], None]) -> None:
        """Call back when the servers turn out to be another cluster than before: indexes begin anew."""

    async def join(self, address: str) -> int:
        """Meet whoever is there, now and once: how many answered. Raises BadRequest, Unavailable."""

    async def leave(self) -> None:
        """Take this host out of the cluster, on purpose."""

    async def stop(self) -> None: ...

    def waiting_for(self) -> str:
        """What keeps this agent from the servers, for people; "" when nothing does."""

    def unanswered(self) -> Unavailable:
        """What a read is told that was held in vain."""


class ServerTier:
    """A server in this process."""

    def __init__(
        self,
        *,
        config: TierConfig,
        node: NodeConfig,
        disk: Disk,
        loop: asyncio.AbstractEventLoop,
        fatal: Callable[[BaseException], None],
    ) -> None:
        self._config = config
        self._rpc_port = node.rpc_port
        self.node = Node(config=node, disk=disk, loop=loop, fatal=fatal)
        self._own = InProcessServers(server=self.node.server, loop=loop)
        self.servers: Servers = self._own
        server = self.node.server
        self.lan = _make_lan(loop, server.endpoint, config, self.node.on_gossip)
        if self.lan is not None:
            server.membership.gossip = self.lan
        self._joiner = Joiner(
            loop=loop,
            timer=LoopTimer(loop),
            addresses=config.retry_join,
            port=config.join_port if config.join_port > 0 else DEFAULT_PORT,
            hello=server.endpoint.hello,
            expect=node.server.bootstrap_expect,
            on_joined=self._joined,
            settled=lambda: bool(server.endpoint.hello().cluster),
            interval_s=config.retry_interval_s,
            tries_max=config.retry_max,
            given_up=fatal,
            lan=self.lan,
        )
        self.rejoin = _make_rejoin(loop, self.lan, config, self._joiner)
        self._loop = loop

    async def start(self) -> None:
        await _listen(self.node.start, self._config.bind, self._rpc_port)
        if self.lan is not None:
            await _listen(self.lan.start, self._config.bind, self._config.join_port)
        self._joiner.start()
        _start(self.rejoin)

    def on_new_cluster(self, callback: Callable[[], None]) -> None:
        """Never: a server belongs to one cluster for good."""

    @property
    def known_servers(self) -> int:
        return len(self.node.server.directory.servers())

    async def join(self, address: str) -> int:
        return await self._joiner.join(address)

    async def leave(self) -> None:
        """Hand over first if this server leads, then have its vote taken and its node out of the catalog.

        Waited for are the commit of both by those that stay. Raises GemotError when they could not go on
        without this server; it then stays what it is. The last voter just ends: its cluster is in its data.
        """
        server, raft = self.node.server, self.node.server.replica.raft
        if raft.voters in ((), (self._config.me.id,)):
            await _say_goodbye(self.lan, self.rejoin)
            return
        if server.leads and (refusal := server.operator.voting.refusal(self._config.me.id)) is not None:
            raise refusal
        await self.node.hand_over()
        server.operator.leaving = self._config.me.name
        try:
            await self._leave(self._loop.time() + self._config.hold_ms / 1000)
        except BaseException:
            server.operator.leaving = ""
            raise
        await _say_goodbye(self.lan, self.rejoin)

    async def _leave(self, until_s: float) -> None:
        """Ask whoever leads, again while that changes: leaving twice is leaving once."""
        while True:
            try:
                await self._own.leave(self._config.me.name)
                return
            except (Unavailable, OutcomeUnknown) as error:
                if self._loop.time() >= until_s:
                    if isinstance(error, (NoLeader, NotLeader)):
                        raise NoLeader.because(self.waiting_for()) from error
                    raise
            await asyncio.sleep(LEAVE_AGAIN_S)

    async def stop(self) -> None:
        await _stop(self.rejoin)
        await self._joiner.stop()
        if self.lan is not None:
            await self.lan.stop()
        await self.node.hand_over()
        await self.node.stop()

    def waiting_for(self) -> str:
        server = self.node.server
        waiting = server.status.waiting_for()
        if not waiting or server.endpoint.hello().cluster:
            return waiting  # of a cluster that has begun, the voters and not the joiners are waited for
        return "; ".join(filter(None, (waiting, self._joiner.waiting_for, _unmet(self.rejoin))))

    def unanswered(self) -> Unavailable:
        return unanswered(self.waiting_for(), linked=True)

    def _joined(self, joined: Joined) -> None:
        server = self.node.server
        server.operator.joining.met(joined.servers, joined.cluster)
        for member in joined.servers:
            server.directory.hint(member)
            server.bootstrap.rumoured(member)


class ClientTier:
    """A link to the servers; this process keeps no state of the cluster."""

    def __init__(
        self,
        *,
        config: TierConfig,
        loop: asyncio.AbstractEventLoop,
        fatal: Callable[[BaseException], None],
    ) -> None:
        self._config = config
        timer = LoopTimer(loop)
        # Which server is dialled first, and the names of this process's writes, must differ between hosts.
        chance = random.Random(os.urandom(16))
        self.remote = RemoteServers(
            loop=loop,
            timer=timer,
            hello=self._hello,
            origin=os.urandom(8),
            hold_ms=config.hold_ms,
            shuffle=chance.shuffle,
        )
        self.servers: Servers = self.remote
        self.lan = _make_lan(loop, _Pointer(self.remote, self._hello), config, self._heard)
        self._joiner = Joiner(
            loop=loop,
            timer=timer,
            addresses=config.retry_join,
            port=config.join_port if config.join_port > 0 else DEFAULT_PORT,
            hello=self._hello,
            expect=0,
            on_joined=lambda joined: self.remote.learn(joined.servers),
            settled=lambda: self.remote.connected_to is not None,
            interval_s=config.retry_interval_s,
            tries_max=config.retry_max,
            given_up=fatal,
            lan=self.lan,
        )
        self.rejoin = _make_rejoin(loop, self.lan, config, self._joiner)

    async def start(self) -> None:
        if self.lan is not None:
            await _listen(self.lan.start, self._config.bind, self._config.join_port)
        self._joiner.start()
        _start(self.rejoin)
        self.remote.start()

    def on_new_cluster(self, callback: Callable[[], None]) -> None:
        self.remote.on_new_cluster = callback

    @property
    def known_servers(self) -> int:
        return len(self.remote.known())

    async def join(self, address: str) -> int:
        return await self._joiner.join(address)

    async def leave(self) -> None:
        await self.remote.leave(self._config.me.name)
        await _say_goodbye(self.lan, self.rejoin)

    async def stop(self) -> None:
        await _stop(self.rejoin)
        await self._joiner.stop()
        if self.lan is not None:
            await self.lan.stop()
        await self.remote.stop()

    def waiting_for(self) -> str:
        waiting = self.remote.waiting_for
        if not waiting or self.remote.known():
            return waiting
        return "; ".join(filter(None, (waiting, self._joiner.waiting_for, _unmet(self.rejoin))))

    def unanswered(self) -> Unavailable:
        return unanswered(self.waiting_for(), linked=self.remote.connected_to is not None)

    def _heard(self, member: Member, standing: Standing) -> None:
        if standing == "alive" and member.role == "server":
            self.remote.learn((member,))

    def _hello(self) -> Hello:
        return Hello(PROTOCOL_MIN, PROTOCOL_MAX, "", self._config.me)


class _Pointer:
    """What a client agent answers on port 8301: not itself, but the servers it knows."""

    def __init__(self, remote: RemoteServers, hello: Callable[[], Hello]) -> None:
        self._remote = remote
        self.hello = hello

    def handle(self, member: Member, call: Call, reply: Callable[[Any], None]) -> Callable[[], None]:
        assert isinstance(call, Join), "the session lets nothing else through"
        reply(Joined(tuple(self._remote.known()), 0, "known"))
        return lambda: None

    def on_raft(self, member: Member, cluster: str, message: Message) -> None: ...

    def on_connected(self, member: Member) -> None: ...

    def on_disconnected(self, member: Member) -> None: ...


def _make_lan(
    loop: asyncio.AbstractEventLoop,
    tier: Any,
    config: TierConfig,
    heard: Callable[[Member, Standing], None],
) -> Lan | None:
    if config.join_port < 0:
        return None
    joins = Listener(
        loop=loop,
        tier=tier,
        host=config.bind,
        port=config.join_port,
        join_only=True,
        limits=config.listener,
    )
    lan = LanConfig(
        config.bind, config.join_port, config.gossip, config.sealing, config.advertise_reconnect_timeout_ms
    )
    return Lan(loop=loop, config=lan, me=config.me, joins=joins, heard=heard)


def _make_rejoin(
    loop: asyncio.AbstractEventLoop, lan: Lan | None, config: TierConfig, joiner: Joiner
) -> Rejoin | None:
    if lan is None or config.remember_in is None:
        return None
    memory = Memory(
        loop=loop,
        members=lan,
        own_id=config.me.id,
        data_dir=config.remember_in,
        unmet_for_s=config.gossip.reconnect_timeout_ms / 1000,
    )
    return Rejoin(
        loop=loop,
        memory=memory,
        meet=joiner.meet,
        alone=lambda: lan.alone,
        random=random.Random(os.urandom(16)),
        interval_s=config.retry_interval_s,
        after_leave=config.rejoin_after_leave,
    )


def _start(rejoin: Rejoin | None) -> None:
    if rejoin is not None:
        rejoin.start()


async def _stop(rejoin: Rejoin | None) -> None:
    if rejoin is not None:
        await rejoin.stop()


def _unmet(rejoin: Rejoin | None) -> str:
    return rejoin.waiting_for if rejoin is not None else ""


async def _say_goodbye(lan: Lan | None, rejoin: Rejoin | None) -> None:
    if lan is not None:
        await lan.gossip.leave()
    if rejoin is not None:
        await rejoin.leave()


async def _listen(start: Callable[[], Awaitable[None]], host: str, port: int) -> None:
    try:
        await start()
    except OSError as error:
        raise ListenFailed(explain(Address(host, port), error)) from error
