"""The one composition root: every part of the agent, started in order, stopped in reverse.

    data directory -> tier (server or client) -> views -> registrations, checks, sync -> HTTP -> DNS
    -> templates -> ready

Each part is handed the two or three things it needs; nobody but this file knows everybody.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import random
import time
from collections.abc import Awaitable, Callable, Sequence

import msgspec

from gemot import __version__
from gemot.agent import archives
from gemot.agent.checking import Checking
from gemot.agent.config.reload import Reload, difference
from gemot.agent.config.resolve import (
    autopilot_settings,
    dns_settings,
    gossip_timing,
    kv_history_settings,
    listening,
    mass_failure_settings,
)
from gemot.agent.config.schema import Config
from gemot.agent.feeds.feeds import Feeds
from gemot.agent.figures import Figures
from gemot.agent.force_leave import ForceLeave
from gemot.agent.http import agent as agent_api
from gemot.agent.http import (
    catalog,
    coordinate,
    event,
    fence,
    health,
    history,
    joining,
    keyring,
    kv,
    operations,
    operator,
    session,
    snapshot,
    status,
    txn,
    watch,
)
from gemot.agent.http import self as self_api
from gemot.agent.http.app import App
from gemot.agent.http.facts import facts_of
from gemot.agent.http.listen import Address, ListenFailed, explain
from gemot.agent.http.members import failed_members
from gemot.agent.http.message import Route
from gemot.agent.http.reading import Waits
from gemot.agent.http.transport import HttpTransport, Limits
from gemot.agent.identity import DataDir
from gemot.agent.keyrings import Keyrings
from gemot.agent.local import LocalState
from gemot.agent.logs import Followers, set_level
from gemot.agent.metrics import Metrics
from gemot.agent.names import Names
from gemot.agent.notify import Notifier
from gemot.agent.registration import Policy
from gemot.agent.registry import Registry
from gemot.agent.sealing import Sealing, held_ring
from gemot.agent.snapshots import Plan, SnapshotAgent
from gemot.agent.sync import Sync
from gemot.agent.template.runner import TemplateRunner
from gemot.agent.tier import ClientTier, ServerTier, Tier, TierConfig
from gemot.agent.user_events import UserEvents
from gemot.agent.views import Views
from gemot.agent.whereabouts import Whereabouts
from gemot.agent.why import Why
from gemot.dns.config import DnsConfig
from gemot.dns.server import DnsServer
from gemot.server.config import ServerConfig
from gemot.server.model.catalog import Node as CatalogNode
from gemot.server.model.coordinate import Coordinate
from gemot.server.model.errors import BadRequest, GemotError
from gemot.server.rpc.message import Member
from gemot.server.runtime.connection import ListenerLimits
from gemot.server.runtime.node import NodeConfig
from gemot.server.runtime.timer import Ticker
from gemot.server.space import SpaceConfig
from gemot.server.storage.disk import Disk
from gemot.server.storage.realdisk import RealDisk
from gemot.server.storage.statefile import CHECKSUM_VFS

log = logging.getLogger("gemot.agent")

MAX_VIEWS = 20_000
STATUS_EVERY_S = 1.0
HTTP_GRACE_S = 1.5
"""What writes under way may still take at a stop; then, once more, what their cancelling takes."""

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
        self._transport: HttpTransport | None = None
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
        self._views = Views(servers=self._tier.servers, limit=MAX_VIEWS)
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
        if failed and self._transport is not None:
            self._transport.reload(limits=msgspec.structs.replace(self._http_limits(), stop_timeout_s=0.1))
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
        self._local.configure(
            check_update_interval_s=config.check_update_interval_s,
            discard_output=config.discard_check_output,
        )
        self._why.configure(only_passing=config.dns_config.only_passing)
        if self._dns is not None:
            self._dns.configure(dns)
        if self._transport is not None:
            self._app.reload(
                routes=self._routes(),
                allowed_hosts=_lower(config.http_config.allowed_hosts),
                response_headers=config.http_config.response_headers,
            )
            self._transport.reload(limits=self._http_limits())

    # -- the tier ----------------------------------------------------------------------------------

    def _make_tier(self, node_id: str) -> Tier:
        config, loop = self.config, asyncio.get_running_loop()
        me = Member(
            id=node_id,
            name=config.node_name,
            address=config.advertise_addr,
            role="server" if config.server else "client",
            datacenter=config.datacenter,
            build=__version__,
            rpc=_joined(config.advertise_addr, config.ports.server) if config.server else "",
            meta=config.node_meta,
            tagged_addresses=config.tagged_addresses,
        )
        tier = TierConfig(
            me=me,
            bind=config.bind_addr,
            join_port=config.ports.serf_lan,
            retry_join=config.retry_join,
            hold_ms=int(config.performance.rpc_hold_timeout_s * 1000),
            retry_interval_s=config.retry_interval_s,
            retry_max=config.retry_max,
            listener=ListenerLimits(
                max_per_client=config.limits.rpc_max_conns_per_client,
                handshake_s=config.limits.rpc_handshake_timeout_s,
            ),
            gossip=gossip_timing(config),
            sealing=self._sealing(),
            advertise_reconnect_timeout_ms=round(config.advertise_reconnect_timeout_s * 1000),
            remember_in=self._data.path if config.data_dir else None,
            rejoin_after_leave=config.rejoin_after_leave,
        )
        if not config.server:
            return ClientTier(config=tier, loop=loop, fatal=self._fatal)
        node = NodeConfig(
            me=me,
            directory=str(self._data.path / "raft"),
            bind=config.bind_addr,
            rpc_port=config.ports.server,
            segment_bytes=config.raft_log_segment_bytes,
            raft_multiplier=config.performance.raft_multiplier,
            server=ServerConfig(
                bootstrap_expect=config.bootstrap_expect or int(config.bootstrap),
                hold_ms=tier.hold_ms,
                snapshot_entries=config.raft_snapshot_threshold,
                trailing_entries=config.raft_trailing_logs,
                default_wait_ms=int(config.default_query_time_s * 1000),
                max_wait_ms=int(config.max_query_time_s * 1000),
                autopilot=autopilot_settings(config),
                mass_failure=mass_failure_settings(config),
                kv_history=kv_history_settings(config),
                space=SpaceConfig(
                    reserve=config.limits.disk_reserve_bytes, segment=config.raft_log_segment_bytes
                ),
            ),
            listener=tier.listener,
            scrub_bytes_per_s=config.limits.scrub_bytes_per_second,
            scrub_every_s=config.limits.scrub_interval_s,
            sync=not config.unsafe_no_fsync,
            vfs=self._vfs,
        )
        return ServerTier(config=tier, node=node, disk=self._disk, loop=loop, fatal=self._fatal)

    def _failed_members(self) -> Awaitable[dict[str, str]]:
        return failed_members(self._tier.servers)

    def _sealing(self) -> Sealing:
        config, loop = self.config, asyncio.get_running_loop()
        ring = held_ring(config.encrypt, None if config.disable_keyring_file else self._data.path, loop.time)
        return Sealing(
            config.gossip_label, ring, config.encrypt_verify_incoming, config.encrypt_verify_outgoing
        )

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
            domain=config.domain,
            only_passing=config.dns_config.only_passing,
        )
        addresses = [Address(host=host, port=port) for host, port in listening(config, "http")]
        if not addresses:
            return
        self._operations = operations.routes(
            followers=self._followers, leave=self.leave, reload=self.reload, why=self._why
        )
        self._app = App(
            routes=self._routes(),
            metrics=self._metrics,
            allowed_hosts=_lower(config.http_config.allowed_hosts),
            response_headers=config.http_config.response_headers,
        )
        self._transport = HttpTransport(app=self._app, addresses=addresses, limits=self._http_limits())
        await self._transport.start()
        self._edges.append(self._transport.stop)

    def _http_limits(self) -> Limits:
        return Limits(
            max_connections_per_client=self.config.limits.http_max_conns_per_client,
            stop_timeout_s=HTTP_GRACE_S,
        )

    def _routes(self) -> list[Route]:
        """Every route, by the present configuration."""
        config, servers, datacenter = self.config, self._tier.servers, self.config.datacenter
        limits = config.limits
        waits = Waits(int(config.default_query_time_s * 1000), int(config.max_query_time_s * 1000))
        facts = facts_of(config, self._node_id)
        policy = Policy(output_max_bytes=config.check_output_max_size)
        return [
            *kv.routes(servers=servers, datacenter=datacenter, max_value_bytes=limits.kv_max_value_size),
            *fence.routes(servers=servers, datacenter=datacenter),
            *history.routes(servers=servers, datacenter=datacenter),
            *txn.routes(
                servers=servers,
                datacenter=datacenter,
                limits=txn.Limits(limits.txn_max_ops, limits.txn_max_req_len, limits.kv_max_value_size),
            ),
            *catalog.routes(
                servers=servers, datacenter=datacenter, node=config.node_name, views=self._views, waits=waits
            ),
            *health.routes(
                servers=servers, datacenter=datacenter, node=config.node_name, views=self._views, waits=waits
            ),
            *status.routes(servers=servers, datacenter=datacenter),
            *operator.routes(servers=servers, datacenter=datacenter, wall=time.time),
            *joining.routes(join=self._tier.join, force_leave=self._force_leave.ask),
            *keyring.routes(keyrings=self._keyrings, datacenter=datacenter),
            *snapshot.routes(servers=servers, datacenter=datacenter),
            *self_api.routes(
                servers=servers,
                facts=facts,
                metrics=self._metrics,
                stats=self._stats,
                known=self._tier.lan.known if self._tier.lan is not None else None,
                where=self._where,
            ),
            *agent_api.routes(
                local=self._local,
                sync=self._sync,
                registry=self._registry,
                policy=policy,
                datacenter=datacenter,
            ),
            *coordinate.routes(servers=servers, datacenter=datacenter, disabled=config.disable_coordinates),
            *event.routes(events=self._events, datacenter=datacenter),
            *session.routes(servers=servers, facts=facts),
            *watch.routes(
                feeds=self._feeds,
                servers=servers,
                views=self._views,
                events=self._events,
                datacenter=datacenter,
            ),
            *self._operations,
        ]

    def _where(self) -> Coordinate | None:
        return self._whereabouts.coordinate if self._whereabouts is not None else None

    def _stats(self) -> dict[str, dict[str, str]]:
        counts = {name: str(count) for name, count in self._local.counts().items()}
        stats = {"agent": counts, "tier": {"waiting": self._tier.waiting_for()}}
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
        if (transport := self._transport) is not None:
            figures.watch_http(lambda: transport.connections)
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
            self._notifier.status(waiting or f"Running; leader {leader or 'unknown'}")
            await asyncio.sleep(STATUS_EVERY_S)

    def _on_stop(self, stop: Callable[[], Awaitable[None]]) -> None:
        self._stops.append(stop)

    async def _close_data(self) -> None:
        self._data.close()


def _joined(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _lower(names: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(name.lower() for name in names)


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
