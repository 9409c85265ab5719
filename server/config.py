"""What one server may and must: its limits and paces. `agent/config/` has what operators set."""

from __future__ import annotations

import msgspec

from gemot.server.kv_history import KvHistoryConfig
from gemot.server.mass_failure import MassFailureConfig
from gemot.server.model.autopilot import AutopilotConfig
from gemot.server.model.query import DEFAULT_WAIT_MS, MAX_WAIT_MS
from gemot.server.reads import LIST_ROWS
from gemot.server.space import SpaceConfig


class ServerConfig(msgspec.Struct, frozen=True):
    """Limits and paces of one server. Times in milliseconds, sizes in entries or bytes."""

    bootstrap_expect: int = 0
    hold_ms: int = 7_000
    snapshot_entries: int = 16_384
    snapshot_rest_ms: int = 30_000
    trailing_entries: int = 10_240
    checkpoint_wal_bytes: int = 16 << 20
    default_wait_ms: int = DEFAULT_WAIT_MS
    max_wait_ms: int = MAX_WAIT_MS
    list_rows: int = LIST_ROWS
    tick_ms: int = 50
    autopilot: AutopilotConfig = AutopilotConfig()
    space: SpaceConfig = SpaceConfig()
    mass_failure: MassFailureConfig = MassFailureConfig()
    kv_history: KvHistoryConfig = KvHistoryConfig()
