"""Bugs to plant in the core, each one rule left out, to show that scripts and model check see them.

Where the core would stop itself by an assertion, the plant takes the assertion out too, as far as it can:
what is to be shown is that the laws see the consequence.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest

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

Plant = Callable[[pytest.MonkeyPatch], None]


def older_term_counts(patch: pytest.MonkeyPatch) -> None:
    """Bug 1: a leader commits whatever a majority holds."""

    def advance(self: Leadership) -> None:
        index = node_quorum(self)
        if index > self._core.commit:
            self._core.advance_commit(index)
            self.send_due = True

    def node_quorum(self: Leadership) -> int:
        values = self._each_voter(self._core.log.durable, lambda peer: peer.match)
        return sorted(values, reverse=True)[len(values) // 2]

    patch.setattr(Leadership, "_advance", advance)


def votes_twice(patch: pytest.MonkeyPatch) -> None:
    """A vote is given to everyone who asks."""

    def answer(core: Core, ask: VoteAsk, *, unfit: bool) -> bool:
        if not election._fresh_enough(core, ask):
            return False
        core.vote = ask.sender
        core.send_after_save(ask.sender, VoteReply(core.term, core.id, True, False))
        return True

    patch.setattr(node, "answer_vote", answer)


def votes_for_a_shorter_log(patch: pytest.MonkeyPatch) -> None:
    """The candidate's log is not looked at."""
    patch.setattr(election, "_fresh_enough", lambda core, ask: True)


def truncates_what_agrees(patch: pytest.MonkeyPatch) -> None:
    """Bug 17: whatever an Append brings replaces the rest of the log."""

    def add(self: Following, batch: Batch) -> None:
        self._core.log.append(batch)

    patch.setattr(Following, "_add", add)


def tells_before_the_save(patch: pytest.MonkeyPatch) -> None:
    """Bugs 3 and 4: votes and acknowledgements leave at once."""

    def send(self: Core, to: str, message: Message) -> None:
        self.send(to, message)

    patch.setattr(Core, "send_after_save", send)


def counts_its_own_unsaved_log(patch: pytest.MonkeyPatch) -> None:
    """Bug 4, on the leader: its own disk counts before it has the entry."""
    each = Leadership._each_voter

    def each_voter(self: Leadership, own: int, value: Callable[[Progress], int]) -> list[int]:
        log = self._core.log
        return each(self, log.last if own == log.durable else own, value)

    patch.setattr(Leadership, "_each_voter", each_voter)


def an_old_save_vouches_for_new_entries(patch: pytest.MonkeyPatch) -> None:
    """Bug 4, the ABA case: the word of a save made durable what was put in its place."""
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


def _as_if_committed(patch: pytest.MonkeyPatch, name: str) -> None:
    real = getattr(Leadership, name)

    def method(self: Leadership, *arguments: object) -> object:
        first, self._first = self._first, 0
        try:
            return real(self, *arguments)
        finally:
            self._first = first

    patch.setattr(Leadership, name, method)


def changes_before_an_own_commit(patch: pytest.MonkeyPatch) -> None:
    """Bug 12."""
    _as_if_committed(patch, "change_voters")


def reads_before_an_own_commit(patch: pytest.MonkeyPatch) -> None:
    """Bug 2."""
    _as_if_committed(patch, "flush")


def reads_join_an_older_round(patch: pytest.MonkeyPatch) -> None:
    """Bug 6: no new round is begun, so what was said earlier confirms the read."""

    def begin(self: Rounds, commit: int) -> None:
        self._asked.append(_Round(self.newest, commit, tuple(self._waiting)))
        self._waiting.clear()

    patch.setattr(Rounds, "begin", begin)


def a_truncated_change_stays(patch: pytest.MonkeyPatch) -> None:
    """Bug 14."""
    patch.setattr(VoterHistory, "truncate", lambda self, first: None)


# -- rules that the model check leaves out, or that are about progress -----------------------------------


def learners_count(patch: pytest.MonkeyPatch) -> None:
    """Bug 8."""

    def each(self: Leadership, own: int, value: Callable[[Progress], int]) -> list[int]:
        return [own, *(value(peer) for peer in self._peers.values())]

    patch.setattr(Leadership, "_each_voter", each)


def a_pre_vote_raises_the_term(patch: pytest.MonkeyPatch) -> None:
    """Bug 9."""
    answer = election.answer_pre_vote

    def answer_pre_vote(core: Core, ask: VoteAsk, *, unfit: bool) -> None:
        if ask.term > core.term:
            core.enter_term(ask.term)
        answer(core, ask, unfit=unfit)

    patch.setattr(node, "answer_pre_vote", answer_pre_vote)


def candidates_are_heard_beside_a_leader(patch: pytest.MonkeyPatch) -> None:
    """Bugs 10 and 11."""
    patch.setattr(node.Raft, "_hears_leader", lambda self: False)


def a_leader_stays_without_a_quorum(patch: pytest.MonkeyPatch) -> None:
    """Bugs 5 and 10."""
    tick = Leadership.tick
    patch.setattr(Leadership, "tick", lambda self: (tick(self), True)[1])


def a_removed_leader_leaves_at_once(patch: pytest.MonkeyPatch) -> None:
    """Bug 13."""
    patch.setattr(Leadership, "removed", property(lambda self: not self._core.votes))


def whoever_is_behind_is_promoted(patch: pytest.MonkeyPatch) -> None:
    """Bug 15."""
    patch.setattr(Leadership, "_caught_up", lambda self, id: True)


def only_known_voters_vote(patch: pytest.MonkeyPatch) -> None:
    """Bug 15, the other way."""
    answer = election.answer_vote

    def answer_vote(core: Core, ask: VoteAsk, *, unfit: bool) -> bool:
        return core.votes and answer(core, ask, unfit=unfit)

    patch.setattr(node, "answer_vote", answer_vote)


def a_handover_is_never_called_off(patch: pytest.MonkeyPatch) -> None:
    """Bug 16."""
    patch.setattr(Handover, "tick", lambda self: None)


def a_handover_to_one_that_is_behind(patch: pytest.MonkeyPatch) -> None:
    """Bug 16, the other way."""

    def go(self: Handover, peers: dict[str, Progress]) -> None:
        if self.to:
            self._core.send(self.to, CampaignNow(self._core.term, self._core.id))

    patch.setattr(Handover, "go_when_caught_up", go)


def an_old_snapshot_is_fetched(patch: pytest.MonkeyPatch) -> None:
    """Bug 21."""

    def on_offer(self: Following, offer: SnapshotOffer) -> None:
        self._installing = self._core.install = offer

    patch.setattr(Following, "on_offer", on_offer)


def what_is_committed_is_applied_unsaved(patch: pytest.MonkeyPatch) -> None:
    """Bugs 23 and 30."""
    patch.setattr(Core, "appliable", property(lambda self: self.commit))


def a_damaged_server_votes(patch: pytest.MonkeyPatch) -> None:
    """Bug 24."""
    answer = election.answer_pre_vote
    patch.setattr(node, "answer_pre_vote", lambda core, ask, unfit: answer(core, ask, unfit=False))


def old_words_of_a_damaged_server_count(patch: pytest.MonkeyPatch) -> None:
    """Bug 24, the other half."""

    def believe(self: Leadership, peer: Progress, reply: AppendReply) -> bool:
        peer.repair = reply.repair
        return True

    patch.setattr(Leadership, "_believe", believe)


def nothing_bounds_the_uncommitted(patch: pytest.MonkeyPatch) -> None:
    """Bug 31."""
    propose = Leadership.propose

    def unbounded(self: Leadership, commands: list[bytes]) -> int:
        self._uncommitted_bytes = 0
        return propose(self, commands)

    patch.setattr(Leadership, "propose", unbounded)
