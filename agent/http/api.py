"""The HTTP API of an agent, served: every family's routes by the present configuration, on the transport.

What each family is for is in its own file; here each is handed the parts of the agent that it needs.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Sequence

import msgspec

from gemot.agent.config.reload import Reload
from gemot.agent.config.schema import Config
from gemot.agent.feeds.feeds import Feeds
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
from gemot.agent.http.listen import Address
from gemot.agent.http.members import Known
from gemot.agent.http.message import Route
from gemot.agent.http.reading import Waits
from gemot.agent.http.transport import HttpTransport, Limits
from gemot.agent.keyrings import Keyrings
from gemot.agent.local import LocalState
from gemot.agent.logs import Followers
from gemot.agent.metrics import Metrics
from gemot.agent.registration import Policy
from gemot.agent.registry import Registry
from gemot.agent.servers import Servers
from gemot.agent.sync import Sync
from gemot.agent.user_events import UserEvents
from gemot.agent.views import Views
from gemot.agent.why import Why
from gemot.server.model.coordinate import Coordinate

GRACE_S = 1.5
"""What writes under way may still take at a stop; then, once more, what their cancelling takes."""

HURRIED_S = 0.1
"""The same, where nobody will answer them."""


class HttpApi:
    """From `start()` to `stop()`, on `addresses`. `leave` and `reload` are what the agent does when asked."""

    def __init__(
        self,
        *,
        config: Config,
        addresses: Sequence[Address],
        node_id: str,
        servers: Servers,
        join: joining.Join,
        known: Known | None,
        force_leave: joining.ForceLeave,
        keyrings: Keyrings,
        local: LocalState,
        sync: Sync,
        registry: Registry,
        events: UserEvents,
        views: Views,
        feeds: Feeds,
        why: Why,
        where: Callable[[], Coordinate | None],
        stats: Callable[[], dict[str, dict[str, str]]],
        metrics: Metrics,
        followers: Followers,
        leave: Callable[[], Awaitable[None]],
        reload: Callable[[], Awaitable[Reload]],
    ) -> None:
        self._config = config
        self._node_id = node_id
        self._servers = servers
        self._join = join
        self._known = known
        self._force_leave = force_leave
        self._keyrings = keyrings
        self._local = local
        self._sync = sync
        self._registry = registry
        self._events = events
        self._views = views
        self._feeds = feeds
        self._where = where
        self._stats = stats
        self._metrics = metrics
        self._operations = operations.routes(followers=followers, leave=leave, reload=reload, why=why)
        self._app = App(
            routes=self._routes(),
            metrics=metrics,
            allowed_hosts=_lower(config.http_config.allowed_hosts),
            response_headers=config.http_config.response_headers,
        )
        self._transport = HttpTransport(app=self._app, addresses=addresses, limits=self._limits())

    @property
    def connections(self) -> int:
        """How many are open."""
        return self._transport.connections

    async def start(self) -> None:
        """Raises ListenFailed."""
        await self._transport.start()

    async def stop(self) -> None:
        await self._transport.stop()

    def reload(self, config: Config) -> None:
        """Go by another configuration from now on; where it listens stays."""
        self._config = config
        self._app.reload(
            routes=self._routes(),
            allowed_hosts=_lower(config.http_config.allowed_hosts),
            response_headers=config.http_config.response_headers,
        )
        self._transport.reload(limits=self._limits())

    def hurry(self) -> None:
        """The stop that comes cuts writes under way: this process must not go on."""
        self._transport.reload(limits=msgspec.structs.replace(self._limits(), stop_timeout_s=HURRIED_S))

    def _limits(self) -> Limits:
        return Limits(
            max_connections_per_client=self._config.limits.http_max_conns_per_client,
            stop_timeout_s=GRACE_S,
        )

    def _routes(self) -> list[Route]:
        """Every route, by the present configuration."""
        config, servers, datacenter = self._config, self._servers, self._config.datacenter
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
            *joining.routes(join=self._join, force_leave=self._force_leave),
            *keyring.routes(keyrings=self._keyrings, datacenter=datacenter),
            *snapshot.routes(servers=servers, datacenter=datacenter),
            *self_api.routes(
                servers=servers,
                facts=facts,
                metrics=self._metrics,
                stats=self._stats,
                known=self._known,
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


def _lower(names: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(name.lower() for name in names)
