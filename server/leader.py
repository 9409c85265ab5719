"""Chores of the leader alone: the clock of the log, upkeep of the state, membership into the catalog.

Each chore proposes an ordinary command, one of a kind at a time; a deposed leader's late command finds
its work done or undone by the new one, and does no harm.
"""

from __future__ import annotations

from collections.abc import Callable

from gemot.server.consensus import Replica
from gemot.server.kv_history import KvHistory
from gemot.server.members import Membership
from gemot.server.model.command import Command
from gemot.server.model.errors import GemotError
from gemot.server.model.kv import ExpireKeys, KvPurge
from gemot.server.model.query import Applied
from gemot.server.model.session import EndLeases
from gemot.server.model.upkeep import PruneRetries, ReapTombstones, Tick, TrimChanges, VerifyState
from gemot.server.ports import Timer
from gemot.server.state.store import State

CLOCK_EVERY_MS = 1_000
LEASES_EVERY_MS = 100
EXPIRY_EVERY_MS = 100
TOMBSTONE_KEEP_MS = 15 * 60_000
TOMBSTONE_STEP_MS = 30_000
RETRY_KEEP_MS = 10 * 60_000
RETRY_STEP_MS = 60_000


class Leader:
    """Does its chores while this server leads; call `on_tick` often, it keeps its own times."""

    def __init__(
        self,
        *,
        replica: Replica,
        state: State,
        membership: Membership,
        timer: Timer,
        history: KvHistory | None = None,
    ) -> None:
        """`history` None: nothing is begun or forgotten of it here."""
        self._replica = replica
        self._state = state
        self._membership = membership
        self._timer = timer
        self._history = history
        self._leads = False
        self._under_way: dict[type, None] = {}
        self._marks: list[tuple[int, int]] = []
        self._due: dict[str, int] = {}
        self._verified = 0
        self.timed_out = 0
        """Sessions whose TTL ended while this server led."""

        self.expired = 0
        """Keys whose TTL ended while this server led."""

        self._begin_at: int | None = None

    def on_leadership(self, leads: bool) -> None:
        self._leads = leads
        if not leads:
            self._membership.end()
        self._under_way = {}
        self._marks = []
        self._due = {}
        self._begin_at = self._replica.raft.last_index if leads else None

    def on_replaced(self) -> None:
        """Another state has taken the place of this one: what was noted of its indexes is of no use."""
        self._marks = []
        if self._leads and self._begin_at is None:
            self._membership.compare_anew()

    def on_tick(self) -> None:
        if not self._leads:
            return
        self._look_after_members()
        if self._every("clock", CLOCK_EVERY_MS) and self._state.deadlines_exist():
            self._propose(Tick())
        if self._every("leases", LEASES_EVERY_MS):
            self._end_leases()
        if self._every("expiry", EXPIRY_EVERY_MS):
            self._expire_keys()
        if self._every("tombstones", TOMBSTONE_STEP_MS):
            self._reap_tombstones()
        if self._every("retries", RETRY_STEP_MS) and self._state.deadlines_exist():
            self._propose(PruneRetries(max(0, self._replica.cluster_time_ms() - RETRY_KEEP_MS)))
        self._purge()
        self._trim()
        self._trim_history()
        self._verify()

    def _look_after_members(self) -> None:
        """From the moment on when the state has all that was committed before: no host is overlooked."""
        if self._begin_at is not None and self._state.applied_index >= self._begin_at:
            self._begin_at = None
            self._membership.begin()
        if self._begin_at is None:
            self._membership.on_tick()

    def _every(self, what: str, every_ms: int) -> bool:
        now = self._timer.now_ms()
        if now < self._due.setdefault(what, now + every_ms):
            return False
        self._due[what] = now + every_ms
        return True

    def _end_leases(self) -> None:
        """Whether one is over is decided once more where the command is applied."""
        now = self._replica.cluster_time_ms()
        due = self._state.leases_due(now)
        if due or self._state.delays_over(now):
            self._propose(EndLeases(due))

    def _expire_keys(self) -> None:
        if due := self._state.keys_due(self._replica.cluster_time_ms()):
            self._propose(ExpireKeys(due))

    def _purge(self) -> None:
        if KvPurge not in self._under_way and (rows := self._state.purge_due()):
            self._propose(KvPurge(rows))

    def _trim(self) -> None:
        if TrimChanges not in self._under_way and (through := self._state.changes_due()):
            self._propose(TrimChanges(through))

    def _trim_history(self) -> None:
        if self._history is not None and (command := self._history.due()) is not None:
            self._propose(command)

    def _verify(self) -> None:
        """Put the newest noted state hash into the log, for every server to compare with its own."""
        index, digest = self._state.newest_checkpoint_hash()
        if index > self._verified:
            self._verified = index
            self._propose(VerifyState(index, digest))

    def _reap_tombstones(self) -> None:
        """Marks say which index the state had reached when: what is old enough goes."""
        now = self._timer.now_ms()
        self._marks.append((now, self._state.index))
        old = [index for at, index in self._marks if now - at >= TOMBSTONE_KEEP_MS]
        if not old:
            return
        self._marks = [(at, index) for at, index in self._marks if now - at < TOMBSTONE_KEEP_MS]
        if self._state.oldest_tombstone() in range(1, old[-1] + 1):
            self._propose(ReapTombstones(old[-1]))

    def _propose(self, command: Command) -> None:
        kind = type(command)
        if kind in self._under_way:
            return
        self._under_way[kind] = None
        self._replica.propose(command, "", None, self._ended(kind))

    def _ended(self, kind: type) -> Callable[[Applied | GemotError], None]:
        def ended(result: Applied | GemotError) -> None:
            self._under_way.pop(kind, None)
            if not isinstance(result, Applied) or not result.value:
                return
            # There may be more: the next look need not wait.
            if kind is EndLeases:
                self.timed_out += int(result.value)
                self._due["leases"] = 0
            elif kind is ExpireKeys:
                self.expired += int(result.value)
                self._due["expiry"] = 0

        return ended
