"""A real server: a data directory opened, threads and sockets started, the event handlers driven."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec

from gemot.server.config import ServerConfig
from gemot.server.copies import Copy, Incoming, chunk_of, copy_state, keep_copy
from gemot.server.members import Standing
from gemot.server.model.errors import DiskFailed, GemotError, StorageFailed, Unavailable
from gemot.server.ports import Inbox
from gemot.server.raft.types import Message, RaftConfig, SnapshotMeta
from gemot.server.recovery import DataConfig, Opened, open_data
from gemot.server.rpc.message import Call, Hello, Member, SnapshotChunk
from gemot.server.runtime.archives import ArchiveThread
from gemot.server.runtime.connection import Dialler, Listener, ListenerLimits
from gemot.server.runtime.disk import LogThread, Worker
from gemot.server.runtime.reader import ReaderThread
from gemot.server.runtime.scrubber import DAY_S, Scrubber
from gemot.server.runtime.space import DiskWatch
from gemot.server.runtime.timer import LoopTimer, Ticker
from gemot.server.server import Server
from gemot.server.state.permission import ALLOW_ALL
from gemot.server.status import STALLED
from gemot.server.storage.blobs import Blobs
from gemot.server.storage.disk import Disk
from gemot.server.storage.sqlite import CHECKSUM_VFS
from gemot.server.storage.statefile import WAL_LIMIT_BYTES

log = logging.getLogger("gemot.server")

TICK_MS = 50
"""One tick of Raft's clock: a heartbeat is 3 (150 ms), an election 20 to 40 (1 to 2 s)."""

HAND_OVER_S = 3.0

WAL_SHARE = 16
"""The share of a small disk that the state's write-ahead log may take."""


class NodeConfig(msgspec.Struct, frozen=True):
    """One server as the configuration describes it."""

    me: Member
    directory: str
    bind: str
    rpc_port: int
    segment_bytes: int
    raft_multiplier: int
    server: ServerConfig
    listener: ListenerLimits = ListenerLimits()
    scrub_bytes_per_s: int = 8 << 20
    scrub_every_s: float = DAY_S
    sync: bool = True
    vfs: str = CHECKSUM_VFS


class Node:
    """Start it, ask its `server`, stop it. `fatal` is called when the node cannot go on."""

    def __init__(
        self,
        *,
        config: NodeConfig,
        disk: Disk,
        loop: asyncio.AbstractEventLoop,
        fatal: Callable[[BaseException], None],
    ) -> None:
        self._config = config
        self._disk = disk
        self._loop = loop
        self._fatal = fatal
        self._links: dict[str, Dialler] = {}
        self._stopped = False
        self._timer = LoopTimer(loop)
        # Raft's random waits must differ between hosts started together: the system's entropy seeds them.
        self._random = random.Random(os.urandom(16))
        self._stalled = False
        self._leader = ""
        self._short = False
        self._open()

    def _open_data(self, wal_limit: int) -> Opened:
        config = self._config
        data = DataConfig(
            directory=config.directory,
            segment_bytes=config.segment_bytes,
            raft=RaftConfig(
                heartbeat_ticks=3 * config.raft_multiplier, election_ticks=20 * config.raft_multiplier
            ),
            sync=config.sync,
            vfs=config.vfs,
            wal_limit_bytes=wal_limit,
        )
        opened = open_data(
            disk=self._disk,
            config=data,
            node_id=config.me.id,
            random=self._random,
            authorizer=ALLOW_ALL,
        )
        for note in opened.notes:
            log.warning("server: data directory put right: %s", note)
        return opened

    def _open(self) -> None:
        config = self._config
        wal_limit = wal_limit_for(self._disk.disk_bytes(config.directory))
        self._opened = opened = self._open_data(wal_limit)
        self._worker = Worker(loop=self._loop, tell=self._guard, fatal=self._failed)
        self._log = LogThread(
            loop=self._loop,
            durable=opened.durable,
            on_saved=self._on_saved,
            tell=self._guard,
            fatal=self._failed,
            worker=self._worker,
        )
        self._reader = ReaderThread(
            loop=self._loop,
            file=opened.file,
            state=opened.state,
            timer=self._timer,
            tell=self._guard,
            fatal=self._failed,
        )
        self._space = DiskWatch(
            loop=self._loop,
            disk=self._disk,
            directory=config.directory,
            applied=lambda: opened.state.applied_index,
            tell=self._guard,
            fatal=self._failed,
        )
        self._archives = ArchiveThread(
            loop=self._loop,
            blobs=Blobs.open(self._disk, config.directory, config.vfs),
            file=opened.file,
            state=opened.state,
            snapshots=opened.snapshots,
            vfs=config.vfs,
            worker=self._worker,
            tell=self._guard,
            fatal=self._failed,
        )
        self.server = Server(
            me=config.me,
            config=msgspec.structs.replace(
                config.server,
                checkpoint_wal_bytes=min(config.server.checkpoint_wal_bytes, wal_limit // 4),
            ),
            raft=opened.raft,
            log=self._log,
            state=opened.state,
            machine=opened.machine,
            identity=self._log,
            upkeep=self,
            peers=self,
            timer=_Guarded(self._timer, self._guard),
            random=self._random,
            reader=self._reader,
            disk_space=self._space,
            archives=self._archives,
        )
        self.scrubber = self._make_scrubber()
        self._listener = Listener(
            loop=self._loop,
            tier=self.server.endpoint,
            host=config.bind,
            port=config.rpc_port,
            limits=config.listener,
            failed=self._failed,
        )
        self._ticker = Ticker(loop=self._loop, every_ms=TICK_MS, callback=self._tick)
        self._repairing = opened.raft.repairing

    def _make_scrubber(self) -> Scrubber:
        return Scrubber(
            loop=self._loop,
            disk=self._disk,
            directory=self._config.directory,
            opened=self._opened,
            server=self.server,
            worker=self._worker,
            bytes_per_s=self._config.scrub_bytes_per_s,
            every_s=self._config.scrub_every_s,
            fatal=self._failed,
        )

    # -- life --------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Listen and begin. Raises OSError when the RPC port is taken."""
        await self._listener.start()
        self._log.start()
        self._worker.start()
        self._reader.start()
        self._space.start()
        self.scrubber.start()
        self._archives.start()
        self.server.start()
        self._ticker.start()

    async def hand_over(self) -> None:
        """If this server leads, let another one lead before it stops; bounded."""
        if not self.server.leads or len(self._opened.raft.voters) < 2:
            return
        self.server.replica.transfer(None)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(HAND_OVER_S):
                while self.server.leads:  # noqa: ASYNC110 - the tier has no coroutines to signal with
                    await asyncio.sleep(0.02)

    async def stop(self) -> None:
        """Close everything; what was acknowledged is durable."""
        self._ticker.stop()
        self._space.stop_ticking()
        self.scrubber.stop()
        await self._listener.stop()
        for link in self._links.values():
            await link.stop()
        await asyncio.to_thread(self._space.stop)
        await asyncio.to_thread(self._reader.stop)
        await asyncio.to_thread(self._archives.stop)
        await asyncio.to_thread(self._worker.stop)
        await asyncio.to_thread(self._log.stop)
        # What the loop still holds of this node's events would meet closed files.
        self._stopped = True
        with contextlib.suppress(StorageFailed):
            self._opened.state.settle()
        self._opened.file.close()
        self._opened.durable.log.close()

    @property
    def connections(self) -> int:
        """Connections that others hold to this server."""
        return self._listener.connections

    @property
    def sync_s(self) -> tuple[float, int]:
        """Seconds spent syncing the log, and how often."""
        return self._log.sync_s, self._log.syncs

    def on_gossip(self, member: Member, standing: Standing) -> None:
        """What the agent of this host hears of another one."""
        self._guard(lambda: self.server.on_gossip(member, standing))

    # -- Peers -------------------------------------------------------------------------------------

    def send(self, to: str, message: Message) -> None:
        if (link := self._link(to)) is not None:
            link.send_raft(message)

    def call(self, to: Member, call: Call, done: Callable[[Any], None]) -> None:
        self.server.directory.hint(to)
        link = self._link(to.id)
        if link is None:
            done(Unavailable(f"the address of {to.name} is not known"))
        else:
            link.call(call, done)

    def unreached(self, id: str) -> str:
        link = self._link(id)
        if link is None:
            return f"the address of {self.server.directory.name(id)} is not known"
        member = self.server.directory.get(id)
        where = member.rpc if member is not None else id
        return "" if link.ready else "; ".join(link.answers) or f"{where} is not tried yet"

    def greet_again(self) -> None:
        for link in self._links.values():
            link.redial()

    def _link(self, id: str) -> Dialler | None:
        link = self._links.get(id)
        if link is None and self.server.directory.get(id) is not None and id != self._config.me.id:
            link = self._links[id] = Dialler(
                loop=self._loop,
                timer=self._timer,
                address=lambda: self._address(id),
                hello=self.server.endpoint.hello,
                on_ready=lambda peer: self._greeted(id, peer),
                failed=self._failed,
            )
            link.start()
        return link

    def _greeted(self, id: str, peer: Hello) -> None:
        """Whoever answers is learnt; a server wiped and born anew must not be taken for its former self."""
        self.server.directory.learn(peer.member)
        if peer.member.id != id:
            log.warning("server: another server than the one known answers: address=%s", peer.member.rpc)
            self._links[id].redial(f"{peer.member.name} answers there, a server of another id")

    def _address(self, id: str) -> tuple[str, int] | None:
        member = self.server.directory.get(id)
        if member is None or not member.rpc:
            return None
        host, _, port = member.rpc.rpartition(":")
        return host.strip("[]"), int(port)

    # -- Upkeep ------------------------------------------------------------------------------------

    def take_snapshot(
        self, voters_at: Callable[[int], tuple[str, ...]], done: Callable[[SnapshotMeta], None]
    ) -> None:
        opened, disk, epoch = self._opened, self._disk, self._opened.state.epoch

        def copy() -> Callable[[], None]:
            copied = copy_state(opened.file, opened.snapshots)
            return lambda: keep(copied)

        def keep(copied: Copy) -> None:
            voters = voters_at(copied.index)

            def work() -> Callable[[], None]:
                meta = keep_copy(opened.snapshots, disk, copied, voters, epoch)
                return lambda: done(meta)

            self._worker.submit(work)

        self._worker.submit(copy)

    def checkpoint(self, done: Callable[[int], None]) -> None:
        file = self._opened.file

        def work() -> Callable[[], None]:
            proven = file.checkpoint()
            return lambda: done(proven)

        self._worker.submit(work)

    def newest_snapshot(self) -> SnapshotMeta | None:
        return self._opened.snapshots.newest()

    def oldest_snapshot(self) -> SnapshotMeta | None:
        return next(iter(self._opened.snapshots.all()), None)

    def read_chunk(self, index: int, term: int, offset: int) -> SnapshotChunk:
        return chunk_of(self._opened.snapshots, index, term, offset)

    def inbox(self, meta: SnapshotMeta, first: SnapshotChunk) -> Inbox:
        return _Inbox(Incoming(self._opened.snapshots, meta, first), self._worker)

    def replace_state(self, meta: SnapshotMeta, done: Callable[[], None]) -> None:
        opened = self._opened

        def replaced() -> None:
            opened.state.reload()
            done()

        def work() -> Callable[[], None]:
            opened.file.install(Path(opened.snapshots.path(meta)))
            return replaced

        self._worker.submit(work)

    # -- inside ------------------------------------------------------------------------------------

    def _tick(self) -> None:
        self._guard(self.server.on_tick)
        if self._repairing and not self._opened.raft.repairing:
            self._repairing = False
            self._log.repaired()
            log.info("server: repaired: the log is whole again")
        if self._leader != (leader := self._opened.raft.leader):
            self._leader = leader
            if leader:
                name, term = self.server.directory.name(leader), self._opened.raft.term
                log.info("server: leader: server=%s id=%s term=%d", name, leader, term)
            else:
                log.warning("server: no leader: term=%d", self._opened.raft.term)
        if self._short != bool(told := self.server.space.told):
            self._short = not self._short
            if told:
                log.warning("server: no space: %s", told)
            else:
                log.info("server: space again: new writes are accepted")
        if self._stalled != self._opened.raft.stalled:
            self._stalled = not self._stalled
            if self._stalled:
                log.warning("server: disk stalled: %s", STALLED)
            else:
                log.info("server: disk works again: the log is synced, this server takes part as before")

    def _on_saved(self, token: int) -> None:
        self._guard(lambda: self.server.replica.on_saved(token))

    def _guard(self, event: Callable[[], None]) -> None:
        """Run an event of the server: one that fails ends the node, instead of being lost in the loop."""
        if self._stopped:
            return
        try:
            event()
        except Exception as error:
            self._failed(error)

    def _failed(self, error: BaseException) -> None:
        if isinstance(error, DiskFailed | OSError | MemoryError):
            log.error("server: disk failed: %s", error)
        else:
            log.error("server: cannot go on: %s", error, exc_info=error)
        self._fatal(error)


def wal_limit_for(disk_bytes: int) -> int:
    return max(4 << 20, min(WAL_LIMIT_BYTES, disk_bytes // WAL_SHARE))


class _Inbox:
    """An incoming snapshot that the worker verifies."""

    def __init__(self, incoming: Incoming, worker: Worker) -> None:
        self._incoming = incoming
        self._worker = worker
        self.write = incoming.write

    def finish(self, done: Callable[[GemotError | None], None]) -> None:
        def work() -> Callable[[], None]:
            refusal = self._incoming.finish()
            return lambda: done(refusal)

        self._worker.submit(work)


class _Guarded:
    """A timer whose callbacks are events of the server, run by `guard`."""

    def __init__(self, timer: LoopTimer, guard: Callable[[Callable[[], None]], None]) -> None:
        self._timer = timer
        self._guard = guard
        self.now_ms = timer.now_ms
        self.wall_ms = timer.wall_ms
        self.stopwatch_us = timer.stopwatch_us

    def call_after(self, delay_ms: int, callback: Callable[[], None]) -> Callable[[], None]:
        return self._timer.call_after(delay_ms, lambda: self._guard(callback))

    def call_soon(self, callback: Callable[[], None]) -> None:
        self._timer.call_soon(lambda: self._guard(callback))
