"""One check as its owner defines it (Consul's check definition, durations in seconds)."""

from __future__ import annotations

from typing import Literal

import msgspec

CheckType = Literal["http", "tcp", "script", "ttl", "alias", "maintenance"]


class CheckDefinition(msgspec.Struct, frozen=True):
    """What to probe, how often, and how results become a status.

    Exactly one of `http`, `tcp`, `args`, `ttl_s` is set, as `type` tells; an alias follows the checks of
    `alias_service`, or the node's own when that is "". `interval_s` is at least 1 for http, tcp and script.
    `deregister_after_s` 0 means never; otherwise at least 60. `failures_before_warning` 0 means as many as
    before critical. `from_config` is True for what this host's own configuration files define: only such a
    check may run a script, or reach link-local addresses.
    """

    check_id: str
    name: str
    type: CheckType
    notes: str = ""
    service_id: str = ""
    token: str = ""
    status: Literal["passing", "warning", "critical"] = "critical"
    interval_s: float = 0.0
    timeout_s: float = 0.0
    ttl_s: float = 0.0
    http: str = ""
    method: str = "GET"
    header: dict[str, tuple[str, ...]] = {}
    body: str = ""
    disable_redirects: bool = False
    tls_server_name: str = ""
    tls_skip_verify: bool = False
    tcp: str = ""
    args: tuple[str, ...] = ()
    success_before_passing: int = 0
    failures_before_warning: int = 0
    failures_before_critical: int = 0
    deregister_after_s: float = 0.0
    output_max_bytes: int = 4096
    tcp_use_tls: bool = False
    alias_service: str = ""
    from_config: bool = False
