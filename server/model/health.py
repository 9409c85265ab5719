"""Words of health: a check as the catalog holds it, and the reads over checks."""

from __future__ import annotations

from typing import Literal

import msgspec

Status = Literal["passing", "warning", "critical"]

NODE_MAINTENANCE = "_node_maintenance"
SERVICE_MAINTENANCE_PREFIX = "_service_maintenance:"


class Check(msgspec.Struct, frozen=True, array_like=True):
    """The last known result of one check. With `service_id` "" it speaks for the whole node.

    `interval` and `timeout` are Go duration texts for people ("10s"), "" where there is none.
    """

    node: str
    check_id: str
    name: str
    status: Status = "critical"
    notes: str = ""
    output: str = ""
    service_id: str = ""
    service_name: str = ""
    service_tags: tuple[str, ...] = ()
    type: str = ""
    interval: str = ""
    timeout: str = ""
    create_index: int = 0
    modify_index: int = 0


class HealthNode(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=20):
    """Every check of a node. Value: list of Check by id."""

    node: str


class HealthChecks(msgspec.Struct, frozen=True, array_like=True, tag=21):
    """Checks of a service's instances, without node checks. Value: list of Check by node then id."""

    service: str
    node_meta: dict[str, str] = {}
    near: str = ""


class HealthState(msgspec.Struct, frozen=True, array_like=True, tag=22):
    """Checks in a state ("any" for all). Value: list of Check by node then id."""

    state: str
    node_meta: dict[str, str] = {}
    near: str = ""
