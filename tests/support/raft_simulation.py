"""A seeded storm over Raft servers: loss, doubling, delay, reordering, cuts, crashes, damage, changes.

`Laws` are checked after every event; `run` ends with the storm over and shows that the group then agrees.
"""

from __future__ import annotations

import contextlib
import random

from support.raft_group import Group, Member

from gemot.server.raft.errors import Busy, Refused
from gemot.server.raft.types import Message, RaftConfig, Role

CONFIG = RaftConfig(
    heartbeat_ticks=1,
    election_ticks=6,
    max_inflight_batches=4,
    max_batch_bytes=160,
    max_uncommitted_bytes=4096,
    max_pending_reads=8,
    window_bytes=400,
)
_MAX_FLYING = 60
_CALM_TICKS = 400


class Storm:
    """One run. The seed decides everything."""

    def __init__(self, seed: int, *, events: int = 4000) -> None:
        self.random = random.Random(seed)
        size = self.random.choice((3, 3, 4, 5))
        self.ids = "abcde"[:size]
        self.group = Group(self.ids, voters=self.ids[:3], seed=seed, config=CONFIG)
        self.flying: list[tuple[str, str, Message]] = []
        self.events = events
        self.speeds = dict.fromkeys(self.ids, 1.0)
        self.next_read = 1
        self.reads: dict[tuple[str, int], int] = {}
        self.answered_reads = 0
        self.proposed = 0
        self.loss = self.random.choice((0.0, 0.02, 0.1))
        self.doubling = self.random.choice((0.0, 0.05))
        self.reordering = self.random.choice((0.0, 0.1, 0.5))
        self.faults = {
            self._cut: self.random.choice((0, 2, 6)),
            self._heal: self.random.choice((2, 4)),
            self._skew: self.random.choice((0, 2)),
            self._crash: self.random.choice((0, 2, 6)),
            self._restart: 6,
            self._compact: self.random.choice((0, 3)),
            self._install: 6,
            self._transfer: self.random.choice((0, 2)),
            self._change: self.random.choice((0, 2)),
        }
        # With two voters one damaged log is one too many: a storm either changes voters or damages logs.
        self.damages = self.faults[self._change] == 0

    def run(self) -> None:
        steps = [self._tick, self._deliver, self._save, self._propose, self._read, self._fault]
        weights = [45, 100, 25, 12, 8, 4]
        for step in self.random.choices(steps, weights, k=self.events):
            step()
            self._check()
        self._calm_down()

    # -- one event ---------------------------------------------------------------------------------

    def _some(self) -> Member | None:
        return self.random.choice(self.group.up) if self.group.up else None

    def _check(self) -> None:
        for member in self.group.up:
            member.pump()
            self.flying.extend((member.id, to, message) for to, message in member.outbox)
            member.outbox.clear()
            for read in member.reads:
                least = self.reads.pop((member.id, read.id))
                assert read.index == 0 or read.index >= least, f"stale read on {member.id}: {read} < {least}"
                self.answered_reads += read.index > 0
            member.reads.clear()
        while len(self.flying) > _MAX_FLYING:
            self.flying.pop(0)

    def _tick(self) -> None:
        member = self._some()
        if member is not None and self.random.random() < self.speeds[member.id]:
            member.raft.tick()

    def _deliver(self) -> None:
        if not self.flying:
            return
        at = self.random.randrange(len(self.flying)) if self.random.random() < self.reordering else 0
        sender, to, message = self.flying[at]
        if self.random.random() >= self.doubling:
            self.flying.pop(at)
        if self.random.random() >= self.loss:
            self.group.deliver(sender, to, message)

    def _save(self) -> None:
        member = self._some()
        if member is not None and member.disk.pending:
            member.finish_save()

    def _propose(self) -> None:
        member = self._some()
        if member is None:
            return
        count = self.random.choice((1, 1, 2, 9))
        self.proposed += 1
        try:
            member.raft.propose([b"%d.%d" % (self.proposed, i) for i in range(count)])
        except Refused:
            return

    def _read(self) -> None:
        if (member := self._some()) is not None:
            self.reads[member.id, self.next_read] = self.group.laws.highest_commit
            member.raft.read_index(self.next_read)
            self.next_read += 1

    # -- faults ------------------------------------------------------------------------------------

    def _fault(self) -> None:
        fault = self.random.choices(list(self.faults), list(self.faults.values()))[0]
        fault()

    def _skew(self) -> None:
        """Clocks run at different speeds; a nearly stopped one is a paused machine that goes on later."""
        for id in self.ids:
            self.speeds[id] = self.random.choice((0.03, 0.5, 1.0, 1.0))

    def _cut(self) -> None:
        leaders = [member.id for member in self.group.up if member.raft.role == Role.LEADER]
        if leaders and self.random.random() < 0.5:
            self.group.isolate(self.random.choice(leaders))
            return
        for a in self.ids:
            for b in self.ids:
                if a != b and self.random.random() < 0.3:
                    self.group.cut[a, b] = None

    def _heal(self) -> None:
        self.group.cut.clear()

    def _crash(self) -> None:
        if (member := self._some()) is not None:
            member.crash()

    def _restart(self) -> None:
        down = [member for member in self.group.members.values() if not member.up]
        if down:
            member = self.random.choice(down)
            member.restart(lost_after=self._damage(member))

    def _damage(self, member: Member) -> int | None:
        """Sometimes some of the log is lost; never on two servers at once, nor where none can spare one."""
        others = [other for other in self.group.members.values() if other is not member]
        healthy = all(other.up and not other.raft.repairing for other in others)
        if member.raft.repairing or (self.damages and healthy and self.random.random() < 0.3):
            return max(member.disk.durable.last - self.random.randrange(6), 1)
        return None

    def _compact(self) -> None:
        if (member := self._some()) is not None:
            member.compact(keep=self.random.choice((0, 3)))

    def _install(self) -> None:
        for member in self.group.up:
            if member.offer is not None:
                member.install(ok=self.random.random() < 0.8)

    def _transfer(self) -> None:
        if (member := self._some()) is not None:
            member.raft.transfer(self.random.choice([None, *self.ids]))

    def _change(self) -> None:
        for member in self.group.up:
            member.raft.feed(list(self.ids))
            voters = set(member.raft.voters) ^ {self.random.choice(self.ids)}
            try:
                member.raft.change_voters(sorted(voters))
            except Refused:
                continue

    # -- the end -----------------------------------------------------------------------------------

    def _calm_down(self) -> None:
        """No more faults: within a bounded number of ticks a new command is applied by all."""
        group = self.group
        group.heal()
        for member in group.members.values():
            if not member.up:
                member.restart(lost_after=member.disk.durable.last if member.raft.repairing else None)
        for _ in range(_CALM_TICKS):
            for member in group.up:
                member.raft.feed(list(self.ids))
                member.raft.tick()
            for sender, to, message in self.flying:
                group.deliver(sender, to, message)
            self.flying.clear()
            group.settle()
            self._install_all()
            self._check()
            ends = [index for index, e in group.laws.committed.items() if e.data == b"the end"]
            if ends and all(member.applied_index >= ends[0] for member in group.up):
                break
            for member in group.up:
                if member.raft.role == Role.LEADER and not ends:
                    with contextlib.suppress(Busy):
                        member.raft.propose([b"the end"])
        else:
            raise AssertionError([member.raft.status() for member in group.members.values()])
        group.settle()
        logs = {member.applied_index for member in group.up}
        assert len(logs) == 1, logs
        assert not any(member.raft.repairing for member in group.up), "every repair comes to an end"

    def _install_all(self) -> None:
        for member in self.group.up:
            if member.offer is not None:
                member.install()
