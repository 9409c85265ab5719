"""Every read and write family over the real state, served on a loopback port."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator

from support.http_agent import HttpAgent, serving
from support.local_servers import LocalServers, local_servers

from gemot.agent.feeds.feeds import Feeds
from gemot.agent.force_leave import ForceLeave
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
    operator,
    session,
    status,
    txn,
    watch,
)
from gemot.agent.http import self as own
from gemot.agent.http.facts import Facts
from gemot.agent.join import parse_address
from gemot.agent.keyrings import Keyrings
from gemot.agent.metrics import Metrics
from gemot.agent.user_events import UserEvents
from gemot.agent.views import Views
from gemot.server.model.coordinate import Coordinate

WALL_S = 1_700_000_000.0
"""The time of day, as the operator family is told it."""

FACTS = Facts(
    node="n1",
    node_id="40e4a748-2192-161a-0510-9bf59fe950b5",
    datacenter="dc1",
    address="10.0.0.1",
    server=True,
    version="0.1.0",
    meta={"rack": "7"},
    bootstrap_expect=3,
    config={"Server": True},
)


async def _join(address: str) -> int:
    """Somebody is there."""
    parse_address(address, "address")
    return 1


@contextlib.asynccontextmanager
async def api_agent() -> AsyncIterator[tuple[HttpAgent, LocalServers]]:
    with local_servers() as servers:
        views = Views(servers=servers, limit=100)
        feeds = Feeds(now=lambda: 0.0)
        figures = Metrics()
        events = UserEvents(node="n1", services=dict, now_s=lambda: 0.0, gossip=None)
        stats = {"agent": {"checks": "0"}}
        routes = [
            *kv.routes(servers=servers, datacenter="dc1"),
            *fence.routes(servers=servers, datacenter="dc1"),
            *history.routes(servers=servers, datacenter="dc1"),
            *txn.routes(servers=servers, datacenter="dc1"),
            *catalog.routes(servers=servers, datacenter="dc1", node="n1", views=views),
            *health.routes(servers=servers, datacenter="dc1", node="n1", views=views),
            *status.routes(servers=servers, datacenter="dc1"),
            *operator.routes(servers=servers, datacenter="dc1", wall=lambda: WALL_S),
            *coordinate.routes(servers=servers, datacenter="dc1"),
            *event.routes(events=events, datacenter="dc1"),
            *session.routes(servers=servers, facts=FACTS),
            *watch.routes(feeds=feeds, servers=servers, views=views, events=events, datacenter="dc1"),
            *joining.routes(join=_join, force_leave=ForceLeave(servers=servers, lan=None).ask),
            *keyring.routes(keyrings=Keyrings(None), datacenter="dc1"),
            *own.routes(
                servers=servers,
                facts=FACTS,
                metrics=figures,
                stats=lambda: stats,
                where=lambda: Coordinate(error=0.25),
            ),
        ]
        try:
            async with serving(routes) as agent:
                yield agent, servers
        finally:
            feeds.stop()
            views.stop()
