"""Bugs of the consensus core: elections, replication, commit, reads, handovers."""

from __future__ import annotations

from collections.abc import Callable

import msgspec
from mutants.bug import Patch, bug

from gemot.server.raft import election, node
from gemot.server.raft.core import Core
from gemot.server.raft.follower import Following
from gemot.server.raft.handover import Handover
from gemot.server.raft.leader import Leadership
from gemot.server.raft.log import RaftLog
from gemot.server.raft.progress import Progress
from gemot.server.raft.reads import Rounds, _Round
from gemot.server.raft.types import (
    AppendReply,
    Batch,
    CampaignNow,
    Message,
    SnapshotOffer,
    VoteAsk,
    VoteReply,
)
from gemot.server.raft.voters import VoterHistory
from gemot.server.storage.meta import Meta, MetaFile


@bug(1, script="01-older-term-by-counting", scope="older", law="LeaderCompleteness")
def older_term_counts(patch: Patch) -> None:
    """A leader commits whatever a majority holds."""

    def advance(self: Leadership) -> None:
        index = node_quorum(self)
        if index > self._core.commit:
            self._core.advance_commit(index)
            self.send_due = True

    def node_quorum(self: Leadership) -> int:
        values = self._each_voter(self._core.log.durable, lambda peer: peer.match)
        return sorted(values, reverse=True)[len(values) // 2]

    patch.setattr(Leadership, "_advance", advance)


@bug(3, script="03-vote-before-it-is-durable", scope="divided", law="ElectionSafety")
def votes_twice(patch: Patch) -> None:
    """A vote is given to everyone who asks."""

    def answer(core: Core, ask: VoteAsk, *, unfit: bool) -> bool:
        if not election._fresh_enough(core, ask):
            return False
        core.vote = ask.sender
        core.send_after_save(ask.sender, VoteReply(core.term, core.id, True, False))
        return True

    def save(self: MetaFile, meta: Meta) -> None:
        if meta.term == self.meta.term:
            self.meta = msgspec.structs.replace(self.meta, vote="")  # or the vote file refuses the second one
        save_checked(self, meta)

    save_checked = MetaFile.save
    patch.setattr(node, "answer_vote", answer)
    patch.setattr(MetaFile, "save", save)


@bug(33, script="33-wiped-disk-has-no-vote", scope="deposed", law="LeaderCompleteness")
def votes_for_a_shorter_log(patch: Patch) -> None:
    """The candidate's log is not looked at."""
    patch.setattr(election, "_fresh_enough", lambda core, ask: True)


@bug(17, script="17-old-append-truncates-nothing", scope="steady", law="what may be applied never shrinks")
def truncates_what_agrees(patch: Patch) -> None:
    """Bug 17: whatever an Append brings replaces the rest of the log."""

    def add(self: Following, batch: Batch) -> None:
        self._core.log.append(batch)

    patch.setattr(Following, "_add", add)


@bug(3, 4, script="04-ack-before-sync-crash", scope="steady", law="durable before it is told")
def tells_before_the_save(patch: Patch) -> None:
    """Votes and acknowledgements leave at once."""

    def send(self: Core, to: str, message: Message) -> None:
        self.send(to, message)

    patch.setattr(Core, "send_after_save", send)


@bug(4, script="23-log-cut-before-it-is-durable", scope="steady", law="CommittedIsDurable")
def counts_its_own_unsaved_log(patch: Patch) -> None:
    """The leader's own disk counts before it has the entry."""
    each = Leadership._each_voter

    def each_voter(self: Leadership, own: int, value: Callable[[Progress], int]) -> list[int]:
        log = self._core.log
        return each(self, log.last if own == log.durable else own, value)

    patch.setattr(Leadership, "_each_voter", each_voter)


@bug(4, script="04-ack-before-sync-aba", scope="slow", law="is the same there")
def an_old_save_vouches_for_new_entries(patch: Patch) -> None:
    """The word of a save makes durable what was put in the place of what it saved (ABA)."""
    truncate = RaftLog._truncate

    def truncate_only(self: RaftLog, first: int) -> None:
        lasts = [save.last for save in self._saves]
        truncate(self, first)
        for save, last in zip(self._saves, lasts, strict=True):
            save.last = last

    def saved(self: RaftLog, token: int) -> None:
        while self._saves and self._saves[0].token <= token:
            self.durable = min(max(self.durable, self._saves.popleft().last), self._taken)

    patch.setattr(RaftLog, "_truncate", truncate_only)
    patch.setattr(RaftLog, "saved", saved)


def _as_if_committed(patch: Patch, name: str) -> None:
    real = getattr(Leadership, name)

    def method(self: Leadership, *arguments: object) -> object:
        first, self._first = self._first, 0
        try:
            return real(self, *arguments)
        finally:
            self._first = first

    patch.setattr(Leadership, name, method)


@bug(12, script="12-change-before-an-own-commit", scope="lost", law="LeaderCompleteness")
def changes_before_an_own_commit(patch: Patch) -> None:
    """A leader changes the voters before an entry of its term is committed."""
    _as_if_committed(patch, "change_voters")


@bug(2, script="02-new-leader-knows-no-commit", scope="deposed", law="read 1 is answered")
def reads_before_an_own_commit(patch: Patch) -> None:
    """A leader answers reads before an entry of its term is committed."""
    _as_if_committed(patch, "flush")


@bug(6, script="06-read-answered-by-an-older-round", scope="deposed", law="read 1 is answered")
def reads_join_an_older_round(patch: Patch) -> None:
    """No new round is begun: what was said earlier confirms the read."""

    def begin(self: Rounds, commit: int) -> None:
        self._asked.append(_Round(self.newest, commit, tuple(self._waiting)))
        self._waiting.clear()

    patch.setattr(Rounds, "begin", begin)


@bug(14, script="14-truncated-change", scope="changed", law="goes by voters")
def a_truncated_change_stays(patch: Patch) -> None:
    """A voter set that is cut out of the log stays in force."""
    patch.setattr(VoterHistory, "truncate", lambda self, first: None)


@bug(8, script="08-learners-make-no-quorum")
def learners_count(patch: Patch) -> None:
    """Learners count towards the quorum."""

    def each(self: Leadership, own: int, value: Callable[[Progress], int]) -> list[int]:
        return [own, *(value(peer) for peer in self._peers.values())]

    patch.setattr(Leadership, "_each_voter", each)


@bug(9, script="09-pre-vote-changes-nothing")
def a_pre_vote_raises_the_term(patch: Patch) -> None:
    """Who is asked for a pre-vote takes over its term."""
    answer = election.answer_pre_vote

    def answer_pre_vote(core: Core, ask: VoteAsk, *, unfit: bool) -> None:
        if ask.term > core.term:
            core.enter_term(ask.term)
        answer(core, ask, unfit=unfit)

    patch.setattr(node, "answer_pre_vote", answer_pre_vote)


@bug(10, 11, script="11-removed-server-disturbs-nobody")
def candidates_are_heard_beside_a_leader(patch: Patch) -> None:
    """Who hears its leader listens to candidates all the same."""
    patch.setattr(node.Raft, "_hears_leader", lambda self: False)


@bug(5, 10, script="10-one-way-links")
def a_leader_stays_without_a_quorum(patch: Patch) -> None:
    """A leader that no quorum answers goes on leading."""
    tick = Leadership.tick
    patch.setattr(Leadership, "tick", lambda self: (tick(self), True)[1])


@bug(13, script="13-one-change-at-a-time")
def a_removed_leader_leaves_at_once(patch: Patch) -> None:
    """A leader that is removed leaves before that is committed."""
    patch.setattr(Leadership, "removed", property(lambda self: not self._core.votes))


@bug(15, script="15-learner-behind-is-not-promoted")
def whoever_is_behind_is_promoted(patch: Patch) -> None:
    """A learner becomes a voter before it has the log."""
    patch.setattr(Leadership, "_caught_up", lambda self, id: True)


@bug(15, script="15-promoted-without-knowing")
def only_known_voters_vote(patch: Patch) -> None:
    """Who does not know yet that it is a voter does not vote."""
    answer = election.answer_vote

    def answer_vote(core: Core, ask: VoteAsk, *, unfit: bool) -> bool:
        return core.votes and answer(core, ask, unfit=unfit)

    patch.setattr(node, "answer_vote", answer_vote)


@bug(16, script="16-handover-called-off")
def a_handover_is_never_called_off(patch: Patch) -> None:
    """A handover to one that does not come is waited for for ever."""
    patch.setattr(Handover, "tick", lambda self: None)


@bug(16, script="16-handover-called-off")
def a_handover_to_one_that_is_behind(patch: Patch) -> None:
    """The leadership is handed over before the other has the log."""

    def go(self: Handover, peers: dict[str, Progress]) -> None:
        if self.to:
            self._core.send(self.to, CampaignNow(self._core.term, self._core.id))

    patch.setattr(Handover, "go_when_caught_up", go)


@bug(21, script="21-old-offer-after-a-newer-state")
def an_old_snapshot_is_fetched(patch: Patch) -> None:
    """A snapshot that is offered is fetched, however old."""

    def on_offer(self: Following, offer: SnapshotOffer) -> None:
        self._installing = self._core.install = offer

    patch.setattr(Following, "on_offer", on_offer)


@bug(23, 30, script="23-log-cut-before-it-is-durable")
def what_is_committed_is_applied_unsaved(patch: Patch) -> None:
    """What is committed is applied before it is durable here."""
    patch.setattr(Core, "appliable", property(lambda self: self.commit))


@bug(24, script="24-damaged-tail-is-refilled")
def a_damaged_server_votes(patch: Patch) -> None:
    """A repairing server says that it would vote."""
    answer = election.answer_pre_vote
    patch.setattr(node, "answer_pre_vote", lambda core, ask, unfit: answer(core, ask, unfit=False))


@bug(24, script="24-damaged-tail-is-refilled")
def old_words_of_a_damaged_server_count(patch: Patch) -> None:
    """What a server said before it lost its log still counts."""

    def believe(self: Leadership, peer: Progress, reply: AppendReply) -> bool:
        peer.repair = reply.repair
        return True

    patch.setattr(Leadership, "_believe", believe)


@bug(31, script="31-bounded-without-a-quorum")
def nothing_bounds_the_uncommitted(patch: Patch) -> None:
    """A leader without a quorum takes any number of writes."""
    propose = Leadership.propose

    def unbounded(self: Leadership, commands: list[bytes]) -> int:
        self._uncommitted_bytes = 0
        return propose(self, commands)

    patch.setattr(Leadership, "propose", unbounded)
