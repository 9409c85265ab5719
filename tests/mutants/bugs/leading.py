"""More bugs of the consensus core: who is counted, what is believed, how reads are answered."""

from __future__ import annotations

from collections.abc import Callable

import msgspec
from mutants.bug import Patch, bug

from gemot.server.raft import node
from gemot.server.raft.follower import Following
from gemot.server.raft.leader import Leadership
from gemot.server.raft.log import RaftLog
from gemot.server.raft.progress import Progress
from gemot.server.raft.reads import Read
from gemot.server.raft.types import Append, AppendReply, EntryKind, Message, Voters, encode_voters


@bug(4, script="01-older-term-by-counting", scope="steady", law="CommittedIsDurable")
def what_was_sent_counts(patch: Patch) -> None:
    """An entry counts as held by whom it was sent to."""
    sent = Progress.sent

    def sent_and_held(self: Progress, last: int) -> None:
        sent(self, last)
        self.match = max(self.match, last)

    patch.setattr(Progress, "sent", sent_and_held)


@bug(17, script="01-older-term-by-counting")
def an_append_need_not_fit(patch: Patch) -> None:
    """Entries are added wherever there is one before them, of whatever term."""
    on_append = Following.on_append

    def on_any_append(self: Following, message: Append) -> None:
        term = self._core.log.term(message.prev_index)
        on_append(self, message if term is None else msgspec.structs.replace(message, prev_term=term))

    patch.setattr(Following, "on_append", on_any_append)


@bug(17, script="01-older-term-by-counting")
def all_of_its_log_is_committed(patch: Patch) -> None:
    """A follower commits as far as it is told, also what it holds beyond what agrees with the leader."""
    on_append = Following.on_append

    def on_append_and_commit(self: Following, message: Append) -> None:
        on_append(self, message)
        self._core.advance_commit(min(message.commit, self._core.log.last))

    patch.setattr(Following, "on_append", on_append_and_commit)


@bug(5, script="05-deposed-leader-answers-reads", scope="deposed", law="is answered at")
def a_leader_answers_reads_at_once(patch: Patch) -> None:
    """A leader does not ask a quorum whether it still leads before it answers reads."""

    def read(self: Leadership, read: Read) -> bool:
        self._answer(read, self._core.commit if self.committed_own_term else 0)
        return True

    patch.setattr(Leadership, "read", read)


@bug(5, 7, script="07-clocks-of-any-speed")
def a_lease_instead_of_a_round(patch: Patch) -> None:
    """A leader that a quorum answered within an election timeout of its own clock answers reads at once."""
    round = Leadership.read

    def read(self: Leadership, read: Read) -> bool:
        if not self.committed_own_term or self.quorum_contact_ticks() >= self._core.config.election_ticks:
            return round(self, read)
        self._answer(read, self._core.commit)
        return True

    patch.setattr(Leadership, "read", read)


@bug(6, script="06-echo-of-an-older-term")
def words_of_an_older_term_count(patch: Patch) -> None:
    """A leader believes answers to what it sent in an older term."""
    answer_old = node.Raft._answer_old

    def answer(self: node.Raft, message: Message) -> None:
        if isinstance(message, AppendReply) and self._leadership is not None and message.ok:
            newest = self._leadership._rounds.newest
            match = min(message.match, self._core.log.last)
            word = msgspec.structs.replace(message, round=min(message.round, newest), match=match)
            self._leadership.on_append_reply(word)
        else:
            answer_old(self, message)

    patch.setattr(node.Raft, "_answer_old", answer)


@bug(13, script="13-one-change-at-a-time", scope="grow", law="two uncommitted changes")
def two_changes_at_once(patch: Patch) -> None:
    """A change of the voters may begin before the last one is committed."""
    change = Leadership.change_voters

    def change_voters(self: Leadership, voters: list[str]) -> int:
        core, commit = self._core, self._core.commit
        if self.committed_own_term:
            core.commit = max(commit, core.log.voters.latest_index)
        try:
            return change(self, voters)
        finally:
            core.commit = commit

    patch.setattr(Leadership, "change_voters", change_voters)


@bug(12, 13, script="13-one-change-at-a-time", scope="lost", law="LeaderCompleteness")
def any_change_is_logged(patch: Patch) -> None:
    """The voters are changed whenever it is asked for, several at a time."""

    def change_voters(self: Leadership, voters: list[str]) -> int:
        wanted = tuple(sorted(set(voters)))
        self._append([(EntryKind.VOTERS, encode_voters(Voters(wanted)))])
        self._refresh_peers()
        return self._core.log.last

    patch.setattr(Leadership, "change_voters", change_voters)


@bug(13)
def a_removed_leader_counts_itself(patch: Patch) -> None:
    """A leader that logged its own removal counts its own disk towards the quorum."""
    each = Leadership._each_voter

    def each_voter(self: Leadership, own: int, value: Callable[[Progress], int]) -> list[int]:
        values = each(self, own, value)
        return values if self._core.votes else [*values[1:], own]

    patch.setattr(Leadership, "_each_voter", each_voter)


@bug(24, script="24-whole-at-the-first-word")
def a_repair_is_over_at_the_first_word(patch: Patch) -> None:
    """A server that lost part of its log takes itself for whole as soon as it hears a leader."""

    def check_repair(self: Following) -> None:
        if self._core.leader:
            self._repair = self._repair_target = 0

    patch.setattr(Following, "check_repair", check_repair)


@bug(39, script="39-indexes-beyond-2-to-the-53")
def an_index_in_32_bits(patch: Patch) -> None:
    """What a follower holds is kept in 32 bits."""
    accepted = Progress.accepted

    def accepted_in_32_bits(self: Progress, match: int) -> bool:
        return accepted(self, match & 0xFFFF_FFFF)

    patch.setattr(Progress, "accepted", accepted_in_32_bits)


@bug(4, 17, scope="slow", law="is the same there")
def what_replaces_counts_as_saved(patch: Patch) -> None:
    """Entries that replace durable ones count as durable at once."""
    truncate = RaftLog._truncate

    def keep_durable(self: RaftLog, first: int) -> None:
        durable, taken = self.durable, self._taken
        truncate(self, first)
        self.durable, self._taken = durable, taken

    patch.setattr(RaftLog, "_truncate", keep_durable)
