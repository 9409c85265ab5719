"""The HTTP API over a state with two hosts that sessions can be of."""

from __future__ import annotations

import contextlib
import json
from collections.abc import AsyncIterator
from typing import Any

from support.http_agent import HttpAgent, Reply
from support.http_families import api_agent
from support.local_servers import LocalServers

from gemot.server.model.catalog import Node, Register, Service
from gemot.server.model.health import Check
from gemot.server.model.session import Sessions


@contextlib.asynccontextmanager
async def session_agent() -> AsyncIterator[tuple[HttpAgent, LocalServers]]:
    """Two hosts, n1 (this agent's) and n2, each with a service and its checks; "sick" is critical."""
    async with api_agent() as (agent, servers):
        for name in ("n1", "n2"):
            checks = (
                Check(name, "serfHealth", "alive", "passing"),
                Check(name, "disk", "disk", "warning"),
                Check(name, "web-check", "web", "passing", service_id="web"),
                Check(name, "sick", "sick", "critical"),
            )
            await servers.apply(Register(Node(name, "10.0.0.1"), (Service("web", "web"),), checks))
        yield agent, servers


async def create(agent: HttpAgent, **body: Any) -> Reply:
    return await agent.ask("PUT", "/v1/session/create", json.dumps(body).encode())


async def made(agent: HttpAgent, **body: Any) -> str:
    reply = await create(agent, **body)
    assert reply.status == 200, reply.text
    return str(reply.json["ID"])


def sessions(servers: LocalServers) -> list[str]:
    rows, _ = servers.state.read(Sessions(), "")
    return [row.id for row in rows]
