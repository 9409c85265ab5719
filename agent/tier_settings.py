"""The configuration in the words of the tier: who this agent is, whom it meets, how its server runs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from gemot import __version__
from gemot.agent.config.resolve import (
    autopilot_settings,
    gossip_timing,
    kv_history_settings,
    mass_failure_settings,
)
from gemot.agent.config.schema import Config
from gemot.agent.sealing import Sealing, held_ring
from gemot.agent.tier import TierConfig
from gemot.server.config import ServerConfig
from gemot.server.rpc.message import Member
from gemot.server.runtime.connection import ListenerLimits
from gemot.server.runtime.node import NodeConfig
from gemot.server.space import SpaceConfig


def own_member(config: Config, node_id: str) -> Member:
    """What this agent tells the others of itself."""
    return Member(
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


def tier_settings(config: Config, *, me: Member, data_dir: Path, now_s: Callable[[], float]) -> TierConfig:
    """What servers and clients both need. `now_s` is the clock by which a ring of keys is held."""
    ring = held_ring(config.encrypt, None if config.disable_keyring_file else data_dir, now_s)
    sealing = Sealing(
        config.gossip_label, ring, config.encrypt_verify_incoming, config.encrypt_verify_outgoing
    )
    return TierConfig(
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
        sealing=sealing,
        advertise_reconnect_timeout_ms=round(config.advertise_reconnect_timeout_s * 1000),
        remember_in=data_dir if config.data_dir else None,
        rejoin_after_leave=config.rejoin_after_leave,
    )


def node_settings(config: Config, tier: TierConfig, *, data_dir: Path, vfs: str) -> NodeConfig:
    """What a server needs besides."""
    return NodeConfig(
        me=tier.me,
        directory=str(data_dir / "raft"),
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
        vfs=vfs,
    )


def _joined(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
