"""What an agent says about itself, as a plain word that the daemon fills in."""

from __future__ import annotations

from typing import Any

import msgspec

API_LEVEL = "1.20.0"
"""The release of Consul whose HTTP behaviour is spoken: clients compare it, so it is a plain version."""


class Facts(msgspec.Struct, frozen=True):
    """One agent. `address` is the advertised one; `config` what it runs with, without secrets."""

    node: str
    node_id: str
    datacenter: str
    address: str
    server: bool
    version: str
    meta: dict[str, str] = {}
    rpc_port: int = 8300
    serf_port: int = 8301
    dns_port: int = 8600
    http_port: int = 8500
    bootstrap_expect: int = 0
    session_ttl_min_ns: int = 10_000_000_000
    config: dict[str, Any] = {}
