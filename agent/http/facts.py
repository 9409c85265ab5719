"""What an agent says about itself, as a plain word made of its configuration."""

from __future__ import annotations

from typing import Any

import msgspec

from gemot import __version__
from gemot.agent.config.schema import Config

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
    session_ttl_multiplier: int = 1
    config: dict[str, Any] = {}


def facts_of(config: Config, node_id: str) -> Facts:
    """What this agent says by its configuration."""
    return Facts(
        node=config.node_name,
        node_id=node_id,
        datacenter=config.datacenter,
        address=config.advertise_addr,
        server=config.server,
        version=__version__,
        meta=config.node_meta,
        rpc_port=config.ports.server,
        serf_port=config.ports.serf_lan,
        dns_port=config.ports.dns,
        http_port=config.ports.http,
        bootstrap_expect=config.bootstrap_expect,
        session_ttl_min_ns=round(config.session_ttl_min_s * 1e9),
        session_ttl_multiplier=config.session_ttl_multiplier,
        config=_shown(config),
    )


def _shown(config: Config) -> dict[str, Any]:
    """What anybody may see who may see the configuration: no key."""
    hidden = "hidden" if config.encrypt else ""
    shown: dict[str, Any] = msgspec.to_builtins(
        msgspec.structs.replace(config, services=(), checks=(), templates=(), encrypt=hidden)
    )
    return shown
