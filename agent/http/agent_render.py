"""A service as the agent that runs it shows it: Consul's AgentService, without the catalog's indexes."""

from __future__ import annotations

from typing import Any

from gemot.agent.http import render
from gemot.server.model.catalog import Service
from gemot.server.model.health import NODE_MAINTENANCE, SERVICE_MAINTENANCE_PREFIX, Check

_SEVERITY = {"passing": 0, "warning": 1, "critical": 2, "maintenance": 3}
HEALTH_CODES = {"passing": 200, "warning": 429, "critical": 503, "maintenance": 503}
"""A load balancer's probe reads the status from the code alone."""


def service(row: Service, *, datacenter: str) -> dict[str, Any]:
    shown: dict[str, Any] = {
        "ID": row.id,
        "Service": row.service,
        "Tags": row.tags,
        "Meta": row.meta,
        "Port": row.port,
        "Address": row.address,
        "Weights": {"Passing": row.weights.passing, "Warning": row.weights.warning},
        "EnableTagOverride": row.enable_tag_override,
        "Datacenter": datacenter,
    }
    # Left out when there are none, as Consul does: clients compare the whole object.
    if row.tagged_addresses:
        shown["TaggedAddresses"] = {
            name: {"Address": at.address, "Port": at.port} for name, at in row.tagged_addresses.items()
        }
    if row.kind:
        shown["Kind"] = row.kind
    if row.socket_path:
        shown["SocketPath"] = row.socket_path
    return shown


def health(row: Service, checks: list[Check], *, datacenter: str) -> dict[str, Any]:
    return {
        "AggregatedStatus": aggregate(checks),
        "Service": service(row, datacenter=datacenter),
        "Checks": [render.check(check) for check in checks],
    }


def aggregate(checks: list[Check]) -> str:
    """The worst of these, where maintenance is worse than critical."""
    return worst([_weigh(check) for check in checks])


def worst(statuses: list[str]) -> str:
    return max(statuses, key=_SEVERITY.__getitem__, default="passing")


def _weigh(check: Check) -> str:
    if check.check_id == NODE_MAINTENANCE or check.check_id.startswith(SERVICE_MAINTENANCE_PREFIX):
        return "maintenance"
    return check.status
