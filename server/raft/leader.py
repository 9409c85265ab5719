"""The side that leads: replication, commit, read rounds, and whether a quorum still answers.

One `Leadership` lives for one term and dies with it, and all that it knew of others with it. Events only
note what came; `flush`, once before each `Ready`, sends everything: so what was proposed together travels
together, and a read round starts after all the reads that are to share it have arrived.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence

from gemot.server.raft import quorum
from gemot.server.raft.core import Core
from gemot.server.raft.errors import BadChange, Busy
from gemot.server.raft.handover import Handover
from gemot.server.raft.progress import Mode, Progress
from gemot.server.raft.reads import Read, Rounds
from gemot.server.raft.status import PeerStatus
from gemot.server.raft.types import (
    Append,
    AppendReply,
    Batch,
    Entry,
    EntryKind,
    ReadAsk,
    ReadReply,
    SnapshotOffer,
    SnapshotReply,
    Voters,
    encode_voters,
    entry_size,
)

_PROBE_BYTES = 16 << 10
"""A probe carries entries only if they are few: it is likely to be refused."""

_NOTHING = -1


class Leadership:
    """What a leader knows and does in its term."""

    def __init__(self, *, core: Core, learners: Sequence[str]) -> None:
        self._core = core
        self._learners = tuple(learners)
        self._first = core.log.last + 1
        self._peers: dict[str, Progress] = {}
        self._refresh_peers()
        self._rounds = Rounds(core.config.max_pending_reads)
        self._uncommitted: deque[tuple[int, int]] = deque()
        self._uncommitted_bytes = 0
        self._since_heartbeat = 0
        self._heartbeat_due = False
        self._handover = Handover(core=core)
        self.send_due = True
        self._append([(EntryKind.NOOP, b"")])

    # -- what callers ask --------------------------------------------------------------------------

    def propose(self, commands: Sequence[bytes]) -> int:
        """Log the commands; returns the index of the first. Raises Busy."""
        assert commands, "something is proposed"
        if self._handover.to:
            raise Busy(f"the leadership is being handed over to {self._handover.to}")
        size = sum(len(command) for command in commands)
        limit = self._core.config.max_uncommitted_bytes
        # One proposal alone always passes, however large: otherwise it never could.
        if self._uncommitted_bytes and self._uncommitted_bytes + size > limit:
            raise Busy(
                f"{self._uncommitted_bytes} bytes wait for a quorum, the limit is {limit} "
                f"(max_uncommitted_bytes): ask again when they are committed"
            )
        first = self._core.log.last + 1
        self._append([(EntryKind.COMMAND, command) for command in commands])
        return first

    def change_voters(self, voters: Sequence[str]) -> int:
        """Log a voter set that differs by one server; returns its index. Raises BadChange or Busy."""
        core, wanted = self._core, tuple(sorted(set(voters)))
        changed = sorted(set(wanted) ^ set(core.voters))
        if self._handover.to:
            raise Busy(f"the leadership is being handed over to {self._handover.to}")
        if not wanted or len(changed) != 1:
            raise BadChange(f"one server at a time is added or removed, not {len(changed)}: {changed}")
        # Without an entry of this term, two leaders' changes could decide by disjoint majorities
        # (Ongaro, raft-dev 2015-07-10).
        if not self.committed_own_term:
            raise BadChange("this leader has not committed an entry of its term yet: ask again")
        if core.log.voters.latest_index > core.commit:
            raise BadChange(f"the change at index {core.log.voters.latest_index} is not committed yet")
        if changed[0] in wanted and not self._caught_up(changed[0]):
            raise BadChange(f"{changed[0]} has not caught up with the log yet, or is not fed")
        self._append([(EntryKind.VOTERS, encode_voters(Voters(wanted)))])
        self._refresh_peers()
        return core.log.last

    def feed(self, learners: Sequence[str]) -> None:
        """Servers that get the log but do not vote: they count in no quorum."""
        self._learners = tuple(learners)
        self._refresh_peers()
        self.send_due = True

    def read(self, read: Read) -> bool:
        """Let it join the next round. False when too many wait."""
        self.send_due = True
        return self._rounds.add(read)

    def transfer(self, to: str | None) -> bool:
        """Begin to hand over. False if there is nobody to hand over to."""
        self.send_due = True
        return self._handover.begin(to, self._peers)

    # -- messages ----------------------------------------------------------------------------------

    def on_append_reply(self, reply: AppendReply) -> None:
        peer = self._peers.get(reply.sender)
        if peer is None:
            return
        peer.heard_tick = self._core.now
        if reply.round > self._rounds.newest or (reply.ok and reply.match > self._core.log.last):
            raise AssertionError(f"{reply.sender} answers what was never sent: {reply}")
        if not self._believe(peer, reply):
            return
        if reply.ok:
            if peer.accepted(reply.match):
                self.send_due = True
            if peer.mode is Mode.SNAPSHOT and peer.match >= self._core.log.base:
                peer.leave_snapshot(peer.match)
            self._advance()
        elif peer.refused(self._core.log.floor(reply.match, reply.hint_term)):
            self.send_due = True
        if not peer.repairing and reply.round > peer.round:
            peer.round = reply.round
            self._confirm()

    def _believe(self, peer: Progress, reply: AppendReply) -> bool:
        """Keep repair in mind (the rule is in `follower`). False for a word from before a loss."""
        if reply.repairing:
            if peer.repair != reply.repair:
                peer.note_repair(reply.repair, self._rounds.mark())
                self._heartbeat_due = self.send_due = True
            return True
        if reply.round < peer.repair_round:
            return False
        if peer.repairing:
            peer.note_repaired(reply.match if reply.ok else 0)
        return True

    def on_snapshot_reply(self, reply: SnapshotReply) -> None:
        peer = self._peers.get(reply.sender)
        if peer is None:
            return
        peer.heard_tick = self._core.now
        # One that could not be installed is offered again with the next heartbeat.
        if reply.ok and peer.mode is Mode.SNAPSHOT and reply.index >= self._core.log.base:
            peer.leave_snapshot(reply.index)
            self.send_due = True
            self._advance()

    def on_read_ask(self, ask: ReadAsk) -> None:
        if not self.read(Read(ask.sender, ask.id)):
            self._core.send(ask.sender, ReadReply(self._core.term, self._core.id, ask.id, 0))

    # -- time --------------------------------------------------------------------------------------

    def tick(self) -> bool:
        """False when it is to step down: no quorum of voters has answered for an election timeout, or the
        disk has taken nothing for as long. A sole voter stays: nobody could do better."""
        self._since_heartbeat += 1
        if self._since_heartbeat >= self._core.config.heartbeat_ticks:
            self._since_heartbeat = 0
            self._heartbeat_due = self.send_due = True
        self._handover.tick()
        if self._core.stalled and self._core.voters != (self._core.id,):
            self._handover.leave_to_best(self._peers)
            return False
        return self.quorum_contact_ticks() < self._core.config.election_ticks

    def quorum_contact_ticks(self) -> int:
        """How long ago the last voter of the freshest quorum was heard. Repairing ones do not count."""
        return self._core.now - quorum.reached(self._each_voter(self._core.now, lambda p: p.heard_tick))

    def silent(self) -> tuple[str, ...]:
        """Voters not heard for an election timeout."""
        core = self._core
        since = core.now - core.config.election_ticks
        return tuple(id for id in core.voters if id != core.id and self._peers[id].heard_tick <= since)

    # -- commit ------------------------------------------------------------------------------------

    @property
    def committed_own_term(self) -> bool:
        return self._core.commit >= self._first

    def on_durable(self) -> None:
        """The own log is durable further than before."""
        self._advance()

    def _advance(self) -> None:
        core = self._core
        index = quorum.reached(self._each_voter(core.log.durable, lambda p: p.match))
        # Entries of older terms are committed only by one of ours above them (paper 5.4.2, figure 8).
        if index <= core.commit or core.log.term(index) != core.term:
            return
        core.advance_commit(index)
        while self._uncommitted and self._uncommitted[0][0] <= core.commit:
            self._uncommitted_bytes -= self._uncommitted.popleft()[1]
        self.send_due = True

    def _each_voter(self, own: int, value: Callable[[Progress], int]) -> list[int]:
        """One value for each voter; a repairing one has reached nothing."""
        values: list[int] = []
        for voter in self._core.voters:
            if voter == self._core.id:
                values.append(own)
            else:
                peer = self._peers[voter]
                values.append(_NOTHING if peer.repairing else value(peer))
        return values

    def _confirm(self) -> None:
        round = quorum.reached(self._each_voter(self._rounds.newest, lambda p: p.round))
        for read, index in self._rounds.confirm(max(round, 0)):
            self._answer(read, index)

    def _answer(self, read: Read, index: int) -> None:
        if read.asker:
            self._core.send(read.asker, ReadReply(self._core.term, self._core.id, read.id, index))
        else:
            self._core.answer_read(read.id, index)

    def refuse_reads(self) -> None:
        """The leadership ends: whoever waits for it asks again elsewhere."""
        for read in self._rounds.drain():
            self._answer(read, 0)

    # -- members -----------------------------------------------------------------------------------

    @property
    def removed(self) -> bool:
        """This leader is in the committed voter set no more: its work is done."""
        return not self._core.votes and self._core.log.voters.latest_index <= self._core.commit

    def _refresh_peers(self) -> None:
        core = self._core
        old, self._peers = self._peers, {}
        for id in sorted({*core.voters, *self._learners}):
            if id != core.id:
                self._peers[id] = old.get(id) or Progress(
                    next=core.log.last + 1, now=core.now, max_inflight=core.config.max_inflight_batches
                )

    def _caught_up(self, id: str) -> bool:
        peer = self._peers.get(id)
        return peer is not None and not peer.repairing and peer.match >= self._core.commit

    # -- sending -----------------------------------------------------------------------------------

    def _append(self, items: Sequence[tuple[EntryKind, bytes]]) -> None:
        """One batch in the log, or as few as the batch limit allows."""
        core = self._core
        entries: list[Entry] = []
        size = 0
        for offset, (kind, data) in enumerate(items, core.log.last + 1):
            entry = Entry(core.term, offset, kind, data)
            if entries and size + entry_size(entry) > core.config.max_batch_bytes:
                self._append_batch(Batch(entries))
                entries, size = [], 0
            entries.append(entry)
            size += entry_size(entry)
        self._append_batch(Batch(entries))
        self.send_due = True

    def _append_batch(self, batch: Batch) -> None:
        assert batch.first == self._core.log.last + 1, "a leader never overwrites its own log"
        self._core.log.append(batch)
        self._uncommitted.append((batch.last, batch.size))
        self._uncommitted_bytes += batch.size

    def flush(self) -> None:
        """Send what is due to everyone. Called once before each `Ready`."""
        if not self.send_due:
            return
        self.send_due = False
        nudge = heartbeat = self._heartbeat_due
        self._heartbeat_due = False
        # Reads wait until an entry of this term is committed: before, the commit may be behind what an
        # earlier leader has acknowledged.
        if self._rounds.waiting and self.committed_own_term:
            self._rounds.begin(self._core.commit)
            nudge = True
        for id, peer in self._peers.items():
            self._feed(id, peer, nudge=nudge, heartbeat=heartbeat)
        self._confirm()
        self._handover.go_when_caught_up(self._peers)

    def _feed(self, id: str, peer: Progress, *, nudge: bool, heartbeat: bool) -> None:
        core = self._core
        if peer.mode is not Mode.SNAPSHOT and peer.next - 1 < core.log.base:
            peer.offer_snapshot()
            heartbeat = nudge = True
        if peer.mode is Mode.SNAPSHOT:
            if heartbeat:
                core.send(id, SnapshotOffer(core.term, core.id, core.log.snapshot))
            if nudge:
                self._send(id, peer, after=0, body=b"")
        elif peer.mode is Mode.PROBE:
            if peer.probe_due or nudge:
                self._send(id, peer, after=peer.next - 1, body=self._probe_body(peer))
                peer.probe_due = False
        elif not self._send_ahead(id, peer) and (nudge or peer.commit_sent < core.commit):
            self._send(id, peer, after=peer.next - 1, body=b"")

    def _probe_body(self, peer: Progress) -> bytes:
        log = self._core.log
        if not peer.probe_due or not log.memory_first <= peer.next <= log.last:
            return b""
        batch = log.batch_from(peer.next, _PROBE_BYTES)
        return batch.body if batch.size <= _PROBE_BYTES else b""

    def _send_ahead(self, id: str, peer: Progress) -> bool:
        """Everything new, as far as the window allows. False if nothing was sent."""
        core, any_sent = self._core, False
        while peer.next <= core.log.last and not peer.full:
            batch = core.log.batch_from(peer.next, core.config.max_batch_bytes)
            self._send(id, peer, after=peer.next - 1, body=batch.body)
            peer.sent(batch.last)
            any_sent = True
        return any_sent

    def _send(self, id: str, peer: Progress, *, after: int, body: bytes) -> None:
        core = self._core
        prev_term = core.log.term(after) if after else 0
        assert prev_term is not None, "the entry before what is sent has a known term"
        peer.commit_sent = core.commit
        core.send(
            id,
            Append(
                term=core.term,
                sender=core.id,
                prev_index=after,
                prev_term=prev_term,
                commit=core.commit,
                round=self._rounds.newest,
                body=body,
                repair=peer.repair,
            ),
        )

    # -- for people --------------------------------------------------------------------------------

    @property
    def handing_over_to(self) -> str:
        return self._handover.to

    def peer_status(self) -> tuple[PeerStatus, ...]:
        core = self._core
        return tuple(
            PeerStatus(
                id=id,
                voter=id in core.voters,
                mode=peer.mode.value,
                match=peer.match,
                next=peer.next,
                inflight=peer.inflight,
                heard_ticks_ago=core.now - peer.heard_tick,
                repairing=peer.repairing,
            )
            for id, peer in self._peers.items()
        )
