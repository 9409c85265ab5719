"""The side that is led: appends, snapshot offers, reads forwarded to the leader, and repair.

Repair. A server that found damage in its log has lost entries which it may have acknowledged. Until it has
them again it must not vote (it could elect a leader without them) and must not be counted (others rely on
its word). When does it have them again? Not when its log reaches the leader's commit as it happens to be
heard: an acknowledgement from before the loss may still be on its way, and be counted by the leader for
an entry above that commit. So:

1. its replies carry a fresh repair id; the leader notes it, begins a new round, and from then on takes
   only words of that round or newer from this server: the old ones are worth nothing any more;
2. the leader's Appends echo the id. The commit in the first one covers everything that was committed
   with the help of an old word, in this term and, if it is of the leader's own term, in every earlier
   one (leader completeness; an older leader that could still count such a word has been deposed by a
   majority which this server, not voting, was no part of);
3. when this server's durable log has reached that commit, and its entry there is of the leader's term,
   the repair is over.
"""

from __future__ import annotations

import msgspec

from gemot.server.raft.core import Core
from gemot.server.raft.reads import Forwarded
from gemot.server.raft.types import (
    Append,
    AppendReply,
    Batch,
    EntryKind,
    ReadAsk,
    ReadReply,
    SnapshotMeta,
    SnapshotOffer,
    SnapshotReply,
)
from gemot.server.raft.voters import decode_voters


class Following:
    """Lives as long as the server: a leader has one too, at rest."""

    def __init__(self, *, core: Core, repairing: bool) -> None:
        self._core = core
        self._matched = core.commit
        self._installing: SnapshotOffer | None = None
        self._forwarded = Forwarded(core.config.max_pending_reads)
        self._repair = int(core.random.random() * (1 << 53)) + 1 if repairing else 0
        self._repair_target = 0
        self._said: tuple[int, AppendReply] | None = None
        self.malformed = 0

    @property
    def repairing(self) -> bool:
        return self._repair != 0

    @property
    def installing(self) -> bool:
        return self._installing is not None

    def lose_leader(self) -> None:
        """The term or the leader changed: nothing is known about what agrees above the commit."""
        self._matched = self._core.commit
        self._repair_target = 0
        for id in self._forwarded.drain():
            self._core.answer_read(id, 0)

    # -- appends -----------------------------------------------------------------------------------

    def on_append(self, message: Append) -> None:
        assert message.term == self._core.term, "older terms are answered before"
        if self._installing is not None:
            # The log is about to be replaced: nothing is added to it. Contact and round still count.
            self._accept(message)
            return
        batch = self._decode(message)
        if batch is None and message.body:
            self.malformed += 1
            return
        log, commit = self._core.log, self._core.commit
        if log.term(message.prev_index) != message.prev_term:
            # What is committed here agrees with every leader, whether its term is still known or not.
            if message.prev_index > commit:
                self._refuse(message)
                return
            assert message.prev_index < log.base or message.prev_index == 0, "committed entries agree"
        if batch is not None:
            self._add(batch)
        reached = batch.last if batch is not None else message.prev_index
        self._matched = max(self._matched, reached, commit)
        self._core.advance_commit(min(message.commit, self._matched))
        if self._repair and message.repair == self._repair and self._repair_target == 0:
            self._repair_target = message.commit
        self.check_repair()
        self._accept(message)

    def _decode(self, message: Append) -> Batch | None:
        """The entries, or None when there are none or they cannot be what a leader sends."""
        if not message.body:
            return None
        try:
            batch = Batch.decode(message.body)
            for entry in batch.entries:
                if entry.kind == EntryKind.VOTERS:
                    decode_voters(entry)
        except (msgspec.DecodeError, ValueError):
            return None
        fits = batch.first == message.prev_index + 1 and batch.last_term <= message.term
        return batch if fits and batch.entries[0].term >= message.prev_term else None

    def _add(self, batch: Batch) -> None:
        """Append what is not here yet. Only a real conflict truncates: old Appends shorten nothing."""
        log = self._core.log
        if batch.first == log.last + 1:
            log.append(batch)
            return
        first = max(batch.first, log.base + 1)
        while first <= batch.last and log.term(first) == batch.entries[first - batch.first].term:
            first += 1
        if first > batch.last:
            return
        assert first > self._core.commit, f"committed entry {first} is never truncated"
        log.append(batch if first == batch.first else Batch(batch.entries[first - batch.first :]))

    def _accept(self, message: Append) -> None:
        core = self._core
        if core.log.taken < self._matched or core.hard_unsaved:
            reply = self._reply(message, ok=True, match=self._matched)
            core.send_after_save(message.sender, reply)
        else:
            reply = self._reply(message, ok=True, match=min(self._matched, core.log.durable))
            if not message.body and self._said == (core.now, reply):
                # It only told what is committed, and would hear what it heard within this tick. A reply
                # that was lost is made up for by the next heartbeat's, which is never in the same tick.
                return
            core.send(message.sender, reply)
        self._said = (core.now, reply)

    def _refuse(self, message: Append) -> None:
        log = self._core.log
        self._said = None
        hint = log.floor(min(message.prev_index, log.last), message.prev_term)
        reply = self._reply(message, ok=False, match=hint, hint_term=log.term(hint) or 0)
        self._core.send(message.sender, reply)

    def _reply(self, message: Append, *, ok: bool, match: int, hint_term: int = 0) -> AppendReply:
        return AppendReply(
            term=self._core.term,
            sender=self._core.id,
            ok=ok,
            match=match,
            hint_term=hint_term,
            round=message.round,
            repairing=self.repairing,
            repair=self._repair,
        )

    def check_repair(self) -> None:
        """The repair may be over: see the rule above."""
        core, target = self._core, self._repair_target
        if not self._repair or target == 0 or min(core.commit, core.log.durable) < target:
            return
        if core.log.term(target) == core.term:
            self._repair = 0
        self._repair_target = 0

    # -- snapshots ---------------------------------------------------------------------------------

    def on_offer(self, offer: SnapshotOffer) -> None:
        core, meta = self._core, offer.meta
        if self._installing is not None:
            return
        if meta.index <= core.commit or core.log.term(meta.index) == meta.term:
            # All of it is here: a snapshot holds committed entries only.
            self._matched = max(self._matched, meta.index, core.commit)
            core.advance_commit(max(meta.index, core.commit))
            if core.log.durable >= meta.index:
                core.send(offer.sender, SnapshotReply(core.term, core.id, meta.index, True))
            return
        self._installing = offer
        core.install = offer

    def installed(self, meta: SnapshotMeta, ok: bool) -> None:
        core, offer = self._core, self._installing
        assert offer is not None, "an install was offered"
        assert offer.meta == meta, "only what was offered is installed"
        self._installing = None
        if ok:
            core.log.reset(meta)
            assert core.commit < meta.index, "a snapshot never takes the state back"
            core.commit = meta.index
            self._matched = max(self._matched, meta.index)
            self.check_repair()
        if core.leader == offer.sender and core.term == offer.term:
            core.send(offer.sender, SnapshotReply(core.term, core.id, meta.index, ok))

    # -- reads -------------------------------------------------------------------------------------

    def read_index(self, id: int) -> None:
        core = self._core
        if core.leader == "" or self.repairing or not self._forwarded.add(id, core.now):
            core.answer_read(id, 0)
            return
        core.send(core.leader, ReadAsk(core.term, core.id, id))

    def on_read_reply(self, reply: ReadReply) -> None:
        if reply.sender == self._core.leader and self._forwarded.answered(reply.id):
            self._core.answer_read(reply.id, reply.index)

    def tick(self) -> None:
        core = self._core
        for id in self._forwarded.expire(core.now - core.config.election_ticks):
            core.answer_read(id, 0)
