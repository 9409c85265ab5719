"""How the servers are looked after: Consul's autopilot configuration, as a replicated row."""

from __future__ import annotations

import msgspec


class AutopilotConfig(msgspec.Struct, frozen=True, array_like=True):
    """What the leader goes by when it promotes and removes servers. Times in milliseconds.

    A server is healthy while it answers within `last_contact_threshold_ms` (beyond a heartbeat) and is not
    more than `max_trailing_logs` entries behind. `min_quorum` is how many voters clean-up leaves at least, 0
    for no such limit.
    """

    cleanup_dead_servers: bool = True
    last_contact_threshold_ms: int = 200
    max_trailing_logs: int = 250
    min_quorum: int = 0
    server_stabilization_time_ms: int = 10_000


class AutopilotRow(msgspec.Struct, frozen=True, array_like=True):
    """The configuration as it was set last."""

    config: AutopilotConfig
    create_index: int
    modify_index: int


class SetAutopilot(msgspec.Struct, frozen=True, array_like=True, tag=30):
    """Set it all. With `cas` only if the row's index still is that one (0: if it was never set)."""

    config: AutopilotConfig
    cas: int | None = None


class GetAutopilot(msgspec.Struct, frozen=True, array_like=True, tag=30):
    """The row, or None while it was never set: then the defaults hold."""
