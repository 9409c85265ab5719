"""The one composition root: every part of the agent, started in order, stopped in reverse.

    data directory -> tier (server or client) -> views -> registrations, checks, sync -> HTTP -> DNS
    -> templates -> ready

Each part is handed the two or three things it needs, and the HTTP API what its families need; nobody but
this file knows everybody.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import random
import time
from collections.abc import Awaitable, Callable, Sequence

from gemot.agent import archives
from gemot.agent.checking import Checking
from gemot.agent.config.reload import Reload, difference
from gemot.agent.config.resolve import dns_settings, listening
from gemot.agent.config.schema import Config
from gemot.agent.feeds.feeds import Feeds
from gemot.agent.figures import Figures
from gemot.agent.force_leave import ForceLeave
from gemot.agent.http.api import HttpApi
from gemot.agent.http.listen import Address, ListenFailed, explain
from gemot.agent.http.members import failed_members
from gemot.agent.identity import DataDir
from gemot.agent.keyrings import Keyrings
from gemot.agent.local import LocalState
from gemot.agent.logs import Followers, set_level
from gemot.agent.metrics import Metrics
from gemot.agent.names import Names
from gemot.agent.notify import Notifier
from gemot.agent.registry import Registry
from gemot.agent.snapshots import Plan, SnapshotAgent
from gemot.agent.sync import Sync
from gemot.agent.template.runner import TemplateRunner
from gemot.agent.tier import ClientTier, ServerTier, Tier
from gemot.agent.tier_settings import node_settings, own_member, tier_settings
from gemot.agent.user_events import UserEvents
from gemot.agent.views import Views
from gemot.agent.whereabouts import Whereabouts
from gemot.agent.why import Why
from gemot.dns.config import DnsConfig
from gemot.dns.server import DnsServer
from gemot.server.model.catalog import Node as CatalogNode
from gemot.server.model.coordinate import Coordinate
from gemot.server.model.errors import BadRequest, GemotError
from gemot.server.runtime.timer import Ticker
from gemot.server.storage.disk import Disk
from gemot.server.storage.realdisk import RealDisk
from gemot.server.storage.sqlite import CHECKSUM_VFS

log = logging.getLogger("gemot.agent")

MAX_VIEWS = 20_000
STATUS_EVERY_S = 1.0
TEMPLATES_GRACE_S = 3.0
"""What a template's command may still take at a stop."""


class Daemon:
    """An agent from `start()` to `stop()`. `config` is resolved; `fatal` hears what ends the process."""

    def __init__(
        self,
        *,
        config: Config,
        fatal: Callable[[BaseException], None],
        notifier: Notifier,
        followers: Followers,
        reread: Callable[[], Config],
        stop_soon: Callable[[], None],
        disk: Disk | None = None,
        vfs: str = CHECKSUM_VFS,
    ) -> None:
        self.config = config
        self._fatal = fatal
        self._notifier = notifier
        self._followers = followers
        self._reread = reread
        self._stop_soon = stop_soon
        self._disk = disk or RealDisk(sync=not config.unsafe_no_fsync)
        self._vfs = vfs
        self._reloading = asyncio.Lock()
        self._stops: list[Callable[[], Awaitable[None]]] = []
        self._edges: list[Callable[[], Awaitable[None]]] = []
        """What serves or runs for others, and may have to wait for them: templates, HTTP, DNS, checks."""
        self._watching: asyncio.Task[None] | None = None
        self._http: HttpApi | None = None
        self._dns: DnsServer | None = None
        self._snapshots: SnapshotAgent | None = None

    # -- life --------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Start every part in order; on a failure those that run are stopped, and the error goes on."""
        try:
            await self._start()
        except BaseException:
            await self.stop()
            raise

    async def _start(self) -> None:
        config = self.config
        self._data = DataDir.open(config.data_dir, self._disk)
        self._on_stop(self._close_data)
        self._node_id = self._data.node_id(config.node_id)
        self._tier = self._make_tier(self._node_id)
        self._keyrings = Keyrings(self._tier.lan, failed=self._failed_members)
        self._force_leave = ForceLeave(servers=self._tier.servers, lan=self._tier.lan)
        self._on_stop(self._tier.stop)
        self._make_local(self._node_id)
        self._events.start()
        self._make_whereabouts()
        await self._tier.start()
        self._views = Views(
            servers=self._tier.servers,
            limit=MAX_VIEWS,
            hold_s=config.performance.rpc_hold_timeout_s,
            unanswered=self._tier.unanswered,
        )
        self._on_stop(_at_once(self._views.stop))
        self._start_local()
        self._metrics = Metrics()
        self._feeds = Feeds(now=time.monotonic)
        self._on_stop(_at_once(self._feeds.stop))
        self._names = Names(views=self._views)
        self._on_stop(_at_once(self._names.stop))
        self._make_templates()
        await self._start_http()
        await self._start_dns()
        self._edges.append(lambda: self._templates.stop(TEMPLATES_GRACE_S))
        await self._templates.start()
        await self._start_snapshots()
        self._start_figures()
        self._start_watching()
        self._notifier.ready()
        log.info("agent: Consul agent running!")

    async def stop(self, *, failed: bool = False) -> None:
        """Stop the edges together, then every part in reverse; each has its turn whatever the others do.

        `failed`: this process must not go on, so writes under way, which nobody will answer, are cut.
        """
        self._notifier.stopping()
        if failed and self._http is not None:
            self._http.hurry()
        if self._watching is not None:
            self._watching.cancel()
            await asyncio.gather(self._watching, return_exceptions=True)
            self._watching = None
        edges, self._edges = self._edges, []
        await asyncio.gather(*(_stopped(stop) for stop in reversed(edges)))
        while self._stops:
            await _stopped(self._stops.pop())

    async def leave(self) -> None:
        """Leave the cluster on purpose, then stop."""
        await self._tier.leave()
        self._stop_soon()

    async def reload(self) -> Reload:
        """Read the configuration again and take up what may change: all or nothing. Raises ConfigFaults."""
        async with self._reloading:
            self._notifier.reloading()
            try:
                reload = difference(self.config, await asyncio.to_thread(self._reread))
                # What can fail comes first: once templates switch, nothing that follows does.
                self._local.check_reload(reload.config.services, reload.config.checks)
                dns = dns_settings(reload.config)
                async with self._templates.reloading(reload.config.templates) as switch_templates:
                    self._local.reload(reload.config.services, reload.config.checks)
                    switch_templates()
                    self._take_up(reload.config, dns)
            finally:
                self._notifier.ready()
        log.info("agent: configuration reloaded: applied=%s", ", ".join(reload.applied) or "nothing")
        if reload.needs_restart:
            log.warning("agent: needs a restart to take effect: %s", ", ".join(reload.needs_restart))
        return reload

    def _take_up(self, config: Config, dns: DnsConfig) -> None:
        """The settings of a new configuration, where they go. Nothing here fails."""
        self.config = config
        set_level(config.log_level)
        self._local.check_states.configure(
            check_update_interval_s=config.check_update_interval_s,
            discard_output=config.discard_check_output,
        )
        self._why.configure(only_passing=config.dns_config.only_passing)
        if self._dns is not None:
            self._dns.configure(dns)
        if self._http is not None:
            self._http.reload(config)

    # -- the tier ----------------------------------------------------------------------------------

    def _make_tier(self, node_id: str) -> Tier:
        config, loop, data_dir = self.config, asyncio.get_running_loop(), self._data.path
        tier = tier_settings(config, me=own_member(config, node_id), data_dir=data_dir, now_s=loop.time)
        if not config.server:
            return ClientTier(config=tier, loop=loop, fatal=self._fatal)
        node = node_settings(config, tier, data_dir=data_dir, vfs=self._vfs)
        return ServerTier(config=tier, node=node, disk=self._disk, loop=loop, fatal=self._fatal)

    def _failed_members(self) -> Awaitable[dict[str, str]]:
        return failed_members(self._tier.servers)

    # -- what is registered here -------------------------------------------------------------------

    def _make_local(self, node_id: str) -> None:
        """What is registered, before gossip asks for it: events are for those hosts that run something."""
        config = self.config
        node = CatalogNode(
            node=config.node_name,
            address=config.advertise_addr,
            id=node_id,
            datacenter=config.datacenter,
            tagged_addresses=config.tagged_addresses,
            meta=config.node_meta,
        )
        self._registry = Registry(data_dir=self._data.path)
        self._on_stop(self._registry.close)
        self._local = LocalState(
            node=node,
            store=self._registry,
            now=time.monotonic,
            wall=time.time,
            uniform=random.random,
            check_update_interval_s=config.check_update_interval_s,
            discard_output=config.discard_check_output,
        )
        self._local.restore()
        self._local.reload(config.services, config.checks)
        self._events = UserEvents(
            node=config.node_name,
            services=self._local.services,
            gossip=self._tier.lan.gossip if self._tier.lan is not None else None,
        )

    def _start_local(self) -> None:
        self._sync = Sync(local=self._local, servers=self._tier.servers)
        self._checking = Checking(local=self._local)
        self._tier.on_new_cluster(self._begin_anew)
        self._sync.start()
        self._on_stop(self._sync.stop)
        self._checking.start()
        self._edges.append(self._checking.stop)

    def _make_whereabouts(self) -> None:
        """Before the first probe; gossip knows by then whom it measures for."""
        self._whereabouts: Whereabouts | None = None
        if not self.config.disable_coordinates:
            self._whereabouts = Whereabouts(
                node=self.config.node_name,
                servers=self._tier.servers,
                gossip=self._tier.lan,
                file=self._data.path / "coordinate",
                random=random.Random(),
            )
            self._whereabouts.start()
            self._on_stop(self._whereabouts.stop)

    def _begin_anew(self) -> None:
        """The servers are another cluster: its indexes are others, and it was told nothing yet."""
        self._views.begin_anew()
        self._feeds.begin_anew()
        self._sync.compare_soon()

    def _make_templates(self) -> None:
        self._templates = TemplateRunner(
            definitions=self.config.templates,
            views=self._views,
            data_dir=self._data.path,
            node=self.config.node_name,
        )

    # -- interfaces --------------------------------------------------------------------------------

    async def _start_http(self) -> None:
        config = self.config
        self._why = Why(
            servers=self._tier.servers,
            templates=self._templates.status,
            node_id=self._node_id,
            checks=self._local.checks,
            domain=config.domain,
            only_passing=config.dns_config.only_passing,
        )
        addresses = [Address(host=host, port=port) for host, port in listening(config, "http")]
        if not addresses:
            return
        self._http = HttpApi(
            config=config,
            addresses=addresses,
            node_id=self._node_id,
            servers=self._tier.servers,
            join=self._tier.join,
            known=self._tier.lan.known if self._tier.lan is not None else None,
            force_leave=self._force_leave.ask,
            keyrings=self._keyrings,
            local=self._local,
            sync=self._sync,
            registry=self._registry,
            events=self._events,
            views=self._views,
            feeds=self._feeds,
            why=self._why,
            where=self._where,
            stats=self._stats,
            metrics=self._metrics,
            followers=self._followers,
            leave=self.leave,
            reload=self.reload,
        )
        await self._http.start()
        self._edges.append(self._http.stop)

    def _where(self) -> Coordinate | None:
        return self._whereabouts.coordinate if self._whereabouts is not None else None

    def _stats(self) -> dict[str, dict[str, str]]:
        agent = {name: str(count) for name, count in self._local.counts().items()}
        if refusal := self._sync.refusal:
            agent["refused"] = refusal
        stats = {"agent": agent, "tier": {"waiting": self._tier.waiting_for()}}
        if self._tier.lan is not None:
            stats["serf_lan"] = self._tier.lan.stats()
        return stats if self._snapshots is None else stats | {"snapshot_agent": self._snapshots.stats()}

    async def _start_dns(self) -> None:
        addresses = listening(self.config, "dns")
        if not addresses:
            return
        self._dns = DnsServer(
            config=dns_settings(self.config),
            catalog=self._names,
            addresses=addresses,
            random=random.Random(),
            count=lambda kind, code, n: self._metrics.count("gemot_dns_queries_total", (kind, code), n),
        )
        try:
            await self._dns.start()
        except BadRequest as error:
            raise _dns_failed(error, addresses) from error
        self._edges.append(self._dns.stop)

    # -- while it runs -----------------------------------------------------------------------------

    def _start_figures(self) -> None:
        figures = Figures(metrics=self._metrics, loop=asyncio.get_running_loop())
        figures.watch_tier(self._tier)
        if self._tier.lan is not None:
            figures.watch_lan(self._tier.lan)
        if isinstance(self._tier, ServerTier):
            figures.watch_server(self._tier.node)
            figures.watch_snapshots(self._snapshots)
        figures.watch_agent(views=self._views, names=self._names, local=self._local, sync=self._sync)
        figures.watch_templates(self._templates)
        figures.watch_events(self._events)
        figures.watch_feeds(self._feeds)
        if self._whereabouts is not None:
            figures.watch_whereabouts(self._whereabouts)
        if (http := self._http) is not None:
            figures.watch_http(lambda: http.connections)
        figures.start()
        self._on_stop(_at_once(figures.stop))

    async def _start_snapshots(self) -> None:
        config = self.config.snapshot_agent
        if not config.enabled or not isinstance(self._tier, ServerTier):
            return
        tier = self._tier
        self._snapshots = SnapshotAgent(
            plan=Plan(config.path, config.interval_s, config.retain, config.verify),
            leads=lambda: tier.node.server.leads,
            save=lambda: archives.save(tier.servers.archive, stale=False, token=""),
        )
        await self._snapshots.start()
        self._on_stop(self._snapshots.stop)

    def _start_watching(self) -> None:
        """Tell the service manager how things are, and, apart from that, that the loop is alive."""
        loop = asyncio.get_running_loop()
        self._watching = loop.create_task(self._watch())
        if self._notifier.watchdog_s:
            every_ms = max(1, int(self._notifier.watchdog_s * 1000))
            ticker = Ticker(loop=loop, every_ms=every_ms, callback=self._notifier.alive)
            ticker.start()
            self._on_stop(_at_once(ticker.stop))

    async def _watch(self) -> None:
        waited, epoch = False, ""
        while True:
            leader = ""
            with contextlib.suppress(GemotError, TimeoutError):
                async with asyncio.timeout(STATUS_EVERY_S):
                    # Asked without a leader too: by the answer a client agent knows what is waited for.
                    leader = await self._tier.servers.leader()
            waiting = self._tier.waiting_for()
            if waited and not waiting:
                self._sync.compare_soon()  # what changed meanwhile need not wait for its next try
            waited = bool(waiting)
            before, epoch = epoch, self._tier.servers.stats().get("consul", {}).get("epoch") or epoch
            if before and epoch != before:
                self._sync.compare_soon()  # a snapshot was restored: the catalog is of another time
            refused = f"The servers refuse this host: {told}" if (told := self._sync.refusal) else ""
            self._notifier.status(waiting or refused or f"Running; leader {leader or 'unknown'}")
            await asyncio.sleep(STATUS_EVERY_S)

    def _on_stop(self, stop: Callable[[], Awaitable[None]]) -> None:
        self._stops.append(stop)

    async def _close_data(self) -> None:
        self._data.close()


def _dns_failed(error: BadRequest, addresses: Sequence[tuple[str, int]]) -> Exception:
    """A port that another program has is no mistake of the configuration; who has it can often be told."""
    if not isinstance(error.__cause__, OSError):
        return error
    if error.__cause__.errno != errno.EADDRINUSE:
        return ListenFailed(error.message)
    return ListenFailed(explain(Address(*addresses[0]), error.__cause__))


async def _stopped(stop: Callable[[], Awaitable[None]]) -> None:
    try:
        await stop()
    except Exception:
        log.exception("agent: a part did not stop cleanly")


def _at_once(stop: Callable[[], None]) -> Callable[[], Awaitable[None]]:
    async def stopped() -> None:
        stop()

    return stopped
