"""The bounds of the history of keys, as the leader's configuration has them, and when they are to be applied.

What it is: the leader's chore that proposes `TrimHistory`: once to begin, when every server knows of it, and
then whenever something is to be forgotten. What it is not: how anything is kept or told (`state/history.py`).
"""

from __future__ import annotations

import msgspec

from gemot.server.features import Features
from gemot.server.model.upkeep import TrimHistory
from gemot.server.ports import Timer
from gemot.server.rpc.message import HISTORY
from gemot.server.state.store import State

LOOK_EVERY_MS = 10_000
"""Between two looks at the age of the oldest revision."""


class KvHistoryConfig(msgspec.Struct, frozen=True):
    """How many old revisions of each key, for how long, and how many bytes of all; 0 revisions: none."""

    revisions: int = 64
    keep_ms: int = 30 * 24 * 3_600_000
    max_bytes: int = 128 << 20


class KvHistory:
    """It begins once every server knows of history: an older one would stop at the command."""

    def __init__(self, *, config: KvHistoryConfig, state: State, features: Features, timer: Timer) -> None:
        self._config = config
        self._state = state
        self._features = features
        self._timer = timer
        self._look_at_ms = 0

    def due(self) -> TrimHistory | None:
        """The command that is to be proposed now, if any."""
        config = self._config
        kept, _, size = self._state.history
        before_ms = max(0, self._timer.wall_ms() - config.keep_ms)
        command = TrimHistory(config.revisions, before_ms, config.max_bytes)
        if kept != config.revisions:
            return None if self._features.without(HISTORY) else command
        if size > config.max_bytes + config.max_bytes // 16 or self._state.history_is_overgrown(
            config.max_bytes
        ):
            return command
        return command if self._outlived(before_ms if kept else 1 << 62) else None

    def _outlived(self, before_ms: int) -> bool:
        """What is found once is looked for again at once: one command forgets a bounded number."""
        if self._timer.now_ms() < self._look_at_ms:
            return False
        found = self._state.history_is_older(before_ms)
        if not found:
            self._look_at_ms = self._timer.now_ms() + LOOK_EVERY_MS
        return found
