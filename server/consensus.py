"""The replica: Raft's `Ready` carried out over ports, commands in, outcomes out. No clock, no threads.

What it is: the place where the pure core, the durable log, the state and the callers meet, as
synchronous event handlers (`on_message`, `on_tick`, `on_saved`, `propose`). What it is not: it reads for no
one (`reads.py`), forwards nothing (`writes.py`), and has no chores of its own (`leader.py`).

Rules of the file:
- Everything of one pass goes together: events only note what came; `_flush`, once after them, proposes
  all new commands as one batch and carries out what the core then asks.
- Entries are applied in slices of about 2 ms (`pace.py`): heartbeats and replies are never far behind.
- A failure of disk or state is not handled here: it leaves the handler, and the runtime stops the node.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

import msgspec

from gemot.server.clock import LeaderClock
from gemot.server.machine import Machine, Outcome, RestoreDue
from gemot.server.model.command import Command, Envelope, IdempotencyKey, RetryId, encode, version_of
from gemot.server.model.errors import Busy, GemotError, NotLeader, OutcomeUnknown
from gemot.server.model.query import Applied
from gemot.server.pace import Pace
from gemot.server.ports import Log, Timer, Wire
from gemot.server.raft.errors import NotLeader as NotLeading
from gemot.server.raft.errors import Refused
from gemot.server.raft.node import Raft
from gemot.server.raft.types import (
    Append,
    AppendReply,
    Message,
    ReadState,
    Ready,
    Role,
    SnapshotMeta,
    SnapshotOffer,
)
from gemot.server.state.store import State
from gemot.server.state.watch import Topic

NEVER_MS = 1 << 31
"""The last contact told by a server that has not heard a leader since it started: about 25 days."""

Done = Callable[[Applied | GemotError], None]


class Watcher(Protocol):
    """Who is told what this replica learns, each on the loop and in order."""

    def on_read_states(self, states: tuple[ReadState, ...]) -> None: ...

    def on_applied(self, touched: list[Topic]) -> None: ...

    def on_replaced(self) -> None:
        """The whole state was replaced by a snapshot: every waiter looks again."""

    def on_restore(self, due: RestoreDue) -> None:
        """The next entry replaces the state: nothing is applied until `Replica.on_restored`."""

    def on_leadership(self, leads: bool) -> None: ...

    def on_install(self, offer: SnapshotOffer) -> None: ...


class _Waiter(msgspec.Struct, frozen=True):
    term: int
    done: Done


class _Proposal(msgspec.Struct, frozen=True):
    command: Command
    accessor: str
    retry: RetryId | IdempotencyKey | None
    done: Done


class Replica:
    """One server's part in the agreement. Start it with `start(watcher)`; drive it by the `on_` methods."""

    def __init__(
        self, *, raft: Raft, log: Log, machine: Machine, state: State, wire: Wire, timer: Timer
    ) -> None:
        self.raft = raft
        self._log = log
        self._machine = machine
        self._state = state
        self._wire = wire
        self._timer = timer
        self._watcher: Watcher | None = None
        self._proposals: list[_Proposal] = []
        self._waiters: dict[int, list[_Waiter]] = {}
        """By the index at which the entry was written: of as many terms as this server led and lost it in."""
        self._after_save: dict[int, tuple[tuple[str, Message], ...]] = {}
        self._commit = state.applied_index
        self._notices: list[tuple[str, Message]] = []
        self._flush_due = False
        self._held = False
        self._pace = Pace()
        self._leads = False
        self._heard_leader_ms = timer.now_ms() - NEVER_MS
        self.former_leader: tuple[str, int] = ("", self._heard_leader_ms)
        """The id of the server last heard leading, other than this one, and when that was."""
        self._clock = LeaderClock(timer)
        self._clock.set(state.cluster_time_ms)

    def start(self, watcher: Watcher) -> None:
        self._watcher = watcher
        if self.raft.voters == (self.raft.id,):
            # There is nobody whose leader this could disturb, so nothing to wait an election timeout for.
            self._timer.call_soon(self._campaign)
        self._schedule()

    # -- events ------------------------------------------------------------------------------------

    def on_message(self, message: Message) -> None:
        if isinstance(message, Append | SnapshotOffer) and message.term >= self.raft.term:
            self._heard_leader_ms = self._timer.now_ms()
            self.former_leader = (message.sender, self._heard_leader_ms)
        self.raft.step(message)
        self._schedule()

    def on_tick(self) -> None:
        self._clock.now_ms()
        self.raft.tick()
        self._schedule()

    def on_saved(self, token: int) -> None:
        """The log is durable up to this save. Earlier saves are too: they finish in order."""
        self.raft.saved(token)
        for earlier in [t for t in self._after_save if t <= token]:
            for to, message in self._after_save.pop(earlier):
                # Not to a leader of an older term: what was accepted from it may be replaced by now.
                if not isinstance(message, AppendReply) or message.term >= self.raft.term:
                    self._wire.send(to, message)
        self._schedule()

    def hold(self) -> None:
        """Log and state are about to be replaced: apply nothing until `on_installed`.

        The entries that are still to be applied leave the log at a moment that this thread does not see.
        """
        self._state.settle()
        self._held = True

    def on_installed(self, meta: SnapshotMeta, ok: bool) -> None:
        """The snapshot that was offered now is the state and the log's start (or could not be had)."""
        self._held = False
        self.raft.installed(meta, ok)
        if ok:
            self._commit = max(self._commit, meta.index)
            for index in [i for i in self._waiters if i <= meta.index]:
                for waiter in self._waiters.pop(index):
                    waiter.done(_OUTCOME_IN_SNAPSHOT)
            self._told().on_replaced()
        self._schedule()

    def on_restored(self, due: RestoreDue) -> None:
        """The blob is the state now, as of the restore's own entry."""
        self._held = False
        place = due.placement
        self.raft.applied(place.applied_index)
        # The clock goes on, or forward to the snapshot's: deadlines never come early.
        self._clock.set(self.cluster_time_ms())
        self._answer(
            place.applied_term, Outcome(place.applied_index, Applied(place.restored_index, True), ())
        )
        self._told().on_replaced()
        self._schedule()

    @property
    def held(self) -> bool:
        """Is the state being replaced? It is neither read nor written meanwhile."""
        return self._held

    # -- what callers ask --------------------------------------------------------------------------

    def propose(
        self, command: Command, accessor: str, retry: RetryId | IdempotencyKey | None, done: Done
    ) -> None:
        """Log a command; `done` gets its result once it is applied here.

        `done(NotLeader)` means that it surely was not and will not be applied. `done` may be called much
        later (no quorum), or never if this node stops: the caller keeps the deadline.
        """
        self._proposals.append(_Proposal(command, accessor, retry, done))
        self._schedule()

    def bootstrap(self, voters: Sequence[str], *, campaign: bool) -> None:
        """Write the first entry of the log, the same on every voter: who votes. Raises BadChange."""
        self.raft.bootstrap(voters)
        if campaign:
            self._timer.call_soon(self._campaign)
        self._schedule()

    def _campaign(self) -> None:
        self.raft.campaign()
        self._schedule()

    def read_index(self, id: int) -> None:
        self.raft.read_index(id)
        self._schedule()

    def transfer(self, to: str | None) -> bool:
        """Hand the leadership over (`to` None: to the most caught-up voter). False if it cannot begin."""
        begun = self.raft.transfer(to)
        self._schedule()
        return begun

    def change_voters(self, voters: Sequence[str]) -> None:
        """Add or remove one voter: the core's rules. Raises Refused: ask again, or never, as it says."""
        self.raft.change_voters(voters)
        self._schedule()

    def feed(self, learners: Sequence[str]) -> None:
        """Also send the log to these servers while this one leads."""
        self.raft.feed(learners)
        self._schedule()

    @property
    def leads(self) -> bool:
        return self._leads

    @property
    def applied_index(self) -> int:
        return self._state.applied_index

    def last_contact_ms(self) -> int:
        """How long ago the leader was heard; 0 on the leader itself."""
        return 0 if self._leads else self._timer.now_ms() - self._heard_leader_ms

    def cluster_time_ms(self) -> int:
        """The stamp that a command proposed now would carry.

        It goes on from the newest stamp that is applied: the log may hold later ones than there were when
        this server began to lead, and would stand still for as long as they span.
        """
        now_ms, applied_ms = self._clock.now_ms(), self._state.cluster_time_ms
        if applied_ms > now_ms:
            self._clock.set(applied_ms)
        return max(now_ms, applied_ms)

    # -- one pass ----------------------------------------------------------------------------------

    def _schedule(self) -> None:
        if not self._flush_due:
            self._flush_due = True
            self._timer.call_soon(self._flush)

    def _flush(self) -> None:
        self._flush_due = False
        self._send_notices()
        self._propose_all()
        while self.raft.has_ready():
            self._carry_out(self.raft.ready())
        if self._apply_slice() or self._notices:
            self._timer.call_soon(self._clear_up)

    def _clear_up(self) -> None:
        """What the answers of a pass did not have to wait for."""
        self._send_notices()
        self._state.settle()

    def _send_notices(self) -> None:
        notices, self._notices = self._notices, []
        for to, message in notices:
            self._wire.send(to, message)

    def _propose_all(self) -> None:
        proposals, self._proposals = self._proposals, []
        if not proposals:
            return
        now, wall = self.cluster_time_ms(), self._timer.wall_ms()
        commands = [
            encode(Envelope(version_of(p.command), now, p.accessor, p.retry, p.command, wall))
            for p in proposals
        ]
        try:
            first = self.raft.propose(commands)
        except Refused as refusal:
            for proposal in proposals:
                proposal.done(self._translate(refusal))
            return
        term = self.raft.term
        for offset, proposal in enumerate(proposals):
            # That an older entry of ours has left this log does not say that it has left all others: who
            # waits for that is answered once it is known which entry is committed there.
            self._waiters.setdefault(first + offset, []).append(_Waiter(term, proposal.done))

    def _translate(self, refusal: Refused) -> NotLeader | Busy:
        """The core's refusal in the callers' words. A leader that hands over is as good as none."""
        if isinstance(refusal, NotLeading):
            return NotLeader(refusal.leader)
        return NotLeader("") if self.raft.status().handing_over_to else Busy(refusal.message)

    def _carry_out(self, ready: Ready) -> None:
        if ready.commit > self._commit and not ready.token and ready.role == Role.LEADER:
            # Nobody's disk waits for these. They tell what is committed, and leave once it is applied and
            # answered here: each takes as long to send as the answer.
            self._notices.extend(ready.messages)
        else:
            # The wire first: the followers' disks then work while this one's does.
            self._send_notices()
            for to, message in ready.messages:
                self._wire.send(to, message)
        if ready.token:
            self._after_save[ready.token] = ready.after_save
            self._log.save(ready.hard_state, ready.append, ready.token)
        else:
            assert not ready.after_save, "messages that wait for a save come with one"
        self._commit = max(self._commit, ready.commit)
        leads = ready.role == Role.LEADER
        if leads != self._leads:
            self._leads = leads
            self._clock.set(self._state.cluster_time_ms)
            self._heard_leader_ms = self._timer.now_ms()
            self._told().on_leadership(leads)
        if ready.read_states:
            self._told().on_read_states(ready.read_states)
        if ready.install is not None:
            self._told().on_install(ready.install)

    def _apply_slice(self) -> bool:
        """True if something was applied; it is to be settled once its answers are out."""
        applied = self._state.applied_index
        if applied >= self._commit or self._held:
            return False
        last = min(self._commit, applied + self._pace.entries)
        entries = self._pace.cut(self.raft.entries(applied + 1, last))
        assert entries, "a committed entry is held until it is applied"
        began_us = self._timer.stopwatch_us()
        outcomes = self._machine.apply_ahead(entries)
        due = self._machine.restore_due
        entries = entries[: len(outcomes)]
        self._pace.took(len(entries), self._timer.stopwatch_us() - began_us)
        self.raft.applied(self._state.applied_index)
        touched: list[Topic] = []
        for entry, outcome in zip(entries, outcomes, strict=True):
            touched.extend(outcome.touched)
            self._answer(entry.term, outcome)
        self._told().on_applied(touched)
        if due is not None:
            self.hold()
            self._told().on_restore(due)
            return False
        if self._state.applied_index < self._commit:
            self._schedule()
        return True

    def _answer(self, term: int, outcome: Outcome) -> None:
        for waiter in self._waiters.pop(outcome.index, ()):
            # Another term's entry at our place: ours was never committed and never can be.
            waiter.done(outcome.result if waiter.term == term else NotLeader(self.raft.leader))

    def _told(self) -> Watcher:
        assert self._watcher is not None, "start() comes first"
        return self._watcher


_OUTCOME_IN_SNAPSHOT = OutcomeUnknown(
    "the outcome of this write is unknown: a snapshot replaced the log before its entry was seen here"
)
