"""What must hold after every event, whatever the faults (Raft paper figure 3, and durability).

ElectionSafety, StateMachineSafety (with equal results and equal state hashes), CommittedIsDurable; that term,
commit, applied index and cluster time only grow, that a vote is given once in a term, and that what was
synced is there after a crash or known to be lost.

An event changes one server, so after it that server alone is looked at, and only what changed of it; every
`FULL_EVERY` events, and at the end, all of them are.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Any

import msgspec
from simulation.node import Node
from simulation.witness import Violation

from gemot.server.machine import Outcome
from gemot.server.model.command import Envelope, decode
from gemot.server.model.errors import GemotError
from gemot.server.model.query import Applied
from gemot.server.model.restore import Blob, Restore
from gemot.server.raft.types import AppendReply, Entry, EntryKind, Message, Role, VoteAsk, VoteReply
from gemot.server.recovery import Opened
from gemot.server.state.restore import Placement

FULL_EVERY = 256


class Truth(msgspec.Struct):
    """What the first server that applied an index did there."""

    digest: bytes
    result: object
    by: str


def digest_of(entry: Entry) -> bytes:
    return hashlib.blake2b(entry.data, digest_size=16, key=str(entry.term).encode()).digest()


class Invariants:
    """Told of every applied entry; asked after every event."""

    def __init__(self, nodes: list[Node]) -> None:
        self._nodes = nodes
        self.leaders: dict[int, str] = {}
        self.applied: dict[int, Truth] = {}
        self.effect: Callable[[int, Any, Applied], None] = lambda _index, _command, _result: None
        """Told once of each command that took effect, in the order of the log."""

        self.time_ms = 0
        """Cluster time of the entry whose effect is told."""

        self.commit = 0
        self.restores: dict[int, Placement] = {}
        self.origins: dict[str, int] = {}
        """Of which index a state is whose archive says another, by its SHA-256."""

        self.epoch = 0
        self.newest = 0
        """The newest index that readers were told."""

        self.voters: tuple[str, ...] = ()
        """The newest set that is committed."""

        self.void: dict[str, dict[int, int]] = {}
        """Ids of voters whose disk was wiped, with the terms of the entries that were durable on it."""

        self._blank: dict[str, dict[int, int]] = {}
        """The same of servers without a vote, until they have taken something again."""

        self._marks: dict[str, tuple[int, ...]] = {}
        self._durable_terms: dict[str, int] = {}
        self._hashes: dict[int, tuple[bytes, str]] = {}
        self._votes: dict[tuple[str, int], str] = {}
        self._voters: dict[int, tuple[tuple[str, ...], str]] = {}
        self._synced: dict[str, dict[int, int]] = {}
        self.checked = 0

    def observe(self, node: Node, entry: Entry, outcome: Outcome) -> None:
        """One entry was applied on one server: it must be the same everywhere, with the same result."""
        digest = digest_of(entry)
        result = outcome.result.message if isinstance(outcome.result, GemotError) else outcome.result
        truth = self.applied.get(entry.index)
        if truth is None:
            truth = self.applied[entry.index] = Truth(digest, result, node.name)
            assert node.opened is not None
            self._note_effect(entry, outcome, node.opened.state.index - node.opened.state.applied_index)
        if truth.digest != digest:
            raise Violation(f"StateMachineSafety: {node.name} and {truth.by} differ at {entry.index}")
        if truth.result != result:
            raise Violation(
                f"determinism: at {entry.index} {node.name} got {result}, {truth.by} {truth.result}"
            )

    def restored(self, node: Node, place: Placement, blob: Blob) -> None:
        """This server comes to a restore: it is the same on all, and indexes and epoch only grow."""
        first = self.restores.setdefault(place.applied_index, place)
        if first != place:
            raise Violation(f"{node.name} restores at {place.applied_index} to {place}, another to {first}")
        if first is not place:
            return
        if place.epoch <= self.epoch or place.restored_index <= self.newest:
            raise Violation(f"{place} follows the epoch {self.epoch} and the index {self.newest}")
        self.epoch, self.newest = place.epoch, place.restored_index
        self.time_ms = max(self.time_ms, place.time_ms)
        mark = place.restores[-1]
        index = self.origins.get(blob.sha256, blob.index)
        command = Restore(mark.id, blob.sha256, blob.size, index, blob.epoch)
        self.effect(place.restored_index, command, Applied(place.restored_index, True))

    def said(self, node: Node, to: str, message: Message) -> None:
        """A message leaves: what it promises must be durable already.

        A vote may be late, and told when a newer term is durable: then no other one can follow it.
        """
        assert node.opened is not None
        meta, log = node.opened.durable.meta.meta, node.opened.durable.log
        if node.member.id in self.void:
            self._check_silent(node, to, message)
        elif isinstance(message, AppendReply) and message.ok and message.match > 0:
            self._blank.pop(node.member.id, None)
        if isinstance(message, VoteReply) and message.granted and not message.pre:
            self._vote(node, message.term, to)
            if (meta.term, meta.vote) != (message.term, to) and meta.term <= message.term:
                raise Violation(f"{node.name} votes for {to} in {message.term}, durable is {meta}")
        elif isinstance(message, VoteAsk) and not message.pre:
            self._vote(node, message.term, node.member.id)
            if (meta.term, meta.vote) != (message.term, node.member.id) and meta.term <= message.term:
                raise Violation(f"{node.name} stands in {message.term}, durable is {meta}")
        elif isinstance(message, AppendReply) and message.ok and message.match > log.durable_index:
            raise Violation(f"{node.name} acknowledges {message.match}, durable is {log.durable_index}")

    def _check_silent(self, node: Node, to: str, message: Message) -> None:
        """What a voter promised went with its disk: under its old id it may neither vote nor acknowledge."""
        votes = isinstance(message, VoteReply) and message.granted and not message.pre
        stands = isinstance(message, VoteAsk) and not message.pre
        acknowledges = isinstance(message, AppendReply) and message.ok and message.match > 0
        if votes or stands or acknowledges:
            raise Violation(
                f"{node.name} was wiped, is still a voter by its old id, and tells {to}: {message}"
            )

    def wiped(self, node: Node) -> None:
        """Its disk is gone. Nobody with its id may vote before a set without it is committed.

        A set counts from when a leader has it in its log: what this one acknowledged may be committed by it.
        """
        id = node.member.id
        if id not in self.void:
            held = self.void if id in self._counted() else self._blank
            held.setdefault(id, dict(node.durable_terms))
        self._durable_terms.pop(node.name, None)
        self._marks.pop(node.name, None)
        self._synced.pop(node.name, None)
        self._votes = {vote: to for vote, to in self._votes.items() if vote[0] != node.member.id}

    def _counted(self) -> list[str]:
        """Whose acknowledgements count: voters by the committed set, and by those that leaders go by."""
        leading = [
            n.opened.raft for n in self._nodes if n.opened is not None and n.member.id == n.opened.raft.leader
        ]
        return [*self.voters, *[id for raft in leading for id in raft.voters]]

    def sets(self) -> list[tuple[str, ...]]:
        """The voter sets that somebody may count by: the committed one, and each server's newest."""
        known = [n.opened.raft.voters if n.opened is not None else n.voters for n in self._nodes]
        return [voters for voters in dict.fromkeys([self.voters, *known]) if voters]

    def _vote(self, node: Node, term: int, candidate: str) -> None:
        """One vote a term, whatever crashes lie between.

        What a wiped server promised is forgotten: `void` holds it to silence instead, until its vote is gone.
        """
        given = self._votes.setdefault((node.member.id, term), candidate)
        if given != candidate:
            raise Violation(f"{node.name} votes for {candidate} in {term}, where it voted for {given} before")

    def after_event(self, owner: Node | None) -> None:
        self.checked += 1
        if owner is None or self.checked % FULL_EVERY == 0:
            for node in self._nodes:
                self._check(node)
        else:
            self._check(owner)

    def _check(self, node: Node) -> None:
        opened = node.opened
        if opened is None or node.server is None:
            return
        raft, state = opened.raft, opened.state
        if self._synced.get(node.name) is not node.durable_terms:
            self._check_log(node)
        mark = (
            node.life,
            raft.role,
            raft.term,
            raft.commit,
            state.applied_index,
            opened.durable.meta.meta.term,
            state.cluster_time_ms,
        )
        before = self._marks.get(node.name)
        if mark != before:
            self._marks[node.name] = mark
            self._check_change(node, before, mark)

    def _check_log(self, node: Node) -> None:
        """It was started again, or its log was reset: what was synced is there, or it says that it is not."""
        assert node.opened is not None
        log, now = node.opened.durable.log, node.durable_terms
        before, self._synced[node.name] = self._synced.get(node.name, {}), now
        if node.opened.raft.repairing or log.last_index < log.first_index:
            return
        if lost := lost_entries(before, now, log.first_index, log.last_index):
            raise Violation(
                f"{node.name} lost the synced entries {lost[0]} to {lost[-1]} and does not repair"
            )

    def _check_change(self, node: Node, before: tuple[int, ...] | None, mark: tuple[int, ...]) -> None:
        life, role, term, commit, applied, durable, time_ms = mark
        if before is None or before[0] != life:
            before = (life, 0, 0, 0, 0, 0, 0)
        if role == Role.LEADER:
            leader = self.leaders.setdefault(term, node.name)
            if leader != node.name:
                raise Violation(f"ElectionSafety: {leader} and {node.name} both lead term {term}")
        if term < before[2] or durable < self._durable_terms.get(node.name, 0):
            raise Violation(f"{node.name} went back to term {term}, durably {durable}")
        self._durable_terms[node.name] = durable
        if commit < before[3] or applied < before[4]:
            raise Violation(f"{node.name}: commit or applied index went back")
        if time_ms < before[6]:
            raise Violation(f"{node.name}: cluster time went back from {before[6]} to {time_ms}")
        if applied > commit:
            raise Violation(f"{node.name} applied {applied} beyond commit {commit}")
        if applied > before[4]:
            self._check_state(node)
        if commit > self.commit:
            self._check_durable(commit, node)
            self.commit = commit
            self._note_voters(node)

    def _note_voters(self, node: Node) -> None:
        """Whoever is out of the committed set owes nothing any more, and may begin anew."""
        assert node.opened is not None
        voters = node.opened.raft.voters_at(self.commit)
        self.voters = voters
        if self.void or self._blank:
            counted = self._counted()
            # A leader may give a vote to whom it takes for caught up, and whose disk has gone meanwhile.
            for id in [id for id in self._blank if id in counted]:
                self.void[id] = self._blank.pop(id)
            self.void = {id: held for id, held in self.void.items() if id in counted}

    def _check_state(self, node: Node) -> None:
        """Who has applied the same has the same state, and the same voters."""
        assert node.opened is not None
        state = node.opened.state
        known, by = self._hashes.setdefault(state.applied_index, (state.state_hash, node.name))
        if known != state.state_hash:
            raise Violation(f"state hashes of {node.name} and {by} differ at {state.applied_index}")
        if state.applied_index < node.opened.raft.status().snapshot_index:
            return  # It lost commits, and catches up: no set older than the newest snapshot's is known.
        voters = node.opened.raft.voters_at(state.applied_index)
        agreed, by = self._voters.setdefault(state.applied_index, (voters, node.name))
        if agreed != voters:
            raise Violation(f"{node.name} goes by voters {voters} at {state.applied_index}, {by} by {agreed}")

    def _check_durable(self, commit: int, node: Node) -> None:
        """CommittedIsDurable: a majority of the voters would still have it after a crash of everybody now.

        One that was wiped, or repairs its log, counts for what it had: it cannot vote, so a majority of
        votes still meets one of those that have the entry. The voters are those at the entry, or those that
        the leader counts by since: its log's newest.
        """
        assert node.opened is not None
        raft = node.opened.raft
        term = raft.term_at(commit)
        if term is None:
            return
        holders = {n.member.id: n.name for n in self._nodes if n.durable_terms.get(commit) == term}
        holders |= {id: f"{id}, wiped" for id, held in self.void.items() if held.get(commit) == term}
        holders |= {
            n.member.id: f"{n.name}, damaged"
            for n in self._nodes
            if n.repairing and n.promised.get(commit) == term
        }
        for voters in (raft.voters, raft.voters_at(commit)):
            if 2 * sum(voter in holders for voter in voters) > len(voters):
                return
        named = ", ".join(sorted(holders.values()))
        raise Violation(f"CommittedIsDurable: {commit} is committed but durable only on {named}")

    def check_whole(self, name: str, opened: Opened) -> None:
        """Its rows are those of its applied index, its log is what was committed, its term is not older."""
        state, log = opened.state, opened.durable.log
        known = self._hashes.get(state.applied_index)
        if known is not None and known[0] != state.state_hash:
            raise Violation(f"{name} holds another state of {state.applied_index} than {known[1]} had")
        if opened.durable.meta.meta.term < self._durable_terms.get(name, 0):
            raise Violation(f"{name} forgot a term: it knows {opened.durable.meta.meta}")
        at, last = log.first_index, min(log.last_index, state.applied_index)
        while at <= last:
            for entry in log.read(at, last, 1 << 20):
                truth = self.applied.get(entry.index)
                if truth is not None and truth.digest != digest_of(entry):
                    raise Violation(f"{name} holds another entry {entry.index} than was committed")
                at = entry.index + 1

    def _note_effect(self, entry: Entry, outcome: Outcome, shift: int) -> None:
        """A retried write's second entry answers with the index of the first: it has no effect itself."""
        result, self.newest = outcome.result, entry.index + shift
        if entry.kind != EntryKind.COMMAND:
            return
        envelope: Envelope = decode(entry.data)
        self.time_ms = max(self.time_ms, envelope.time_ms)
        if not isinstance(result, Applied) or result.index != self.newest:
            return
        # A restore that is applied like any command was done before: it is told by `restored` when it is due.
        if not isinstance(envelope.command, Restore):
            self.effect(self.newest, envelope.command, result)


def lost_entries(before: dict[int, int], now: dict[int, int], first: int, last: int) -> list[int]:
    """The indexes of synced entries (index to term) that a log from `first` to `last` lacks.

    Not lost is what a later leader replaced. Its entries may have reached the disk though their sync failed,
    so that nobody was told: the entry at that place, or the last one, is of a higher term then.
    """
    gone = (i for i in before if i >= first and now.get(i, 0) != before[i])
    return [i for i in gone if now.get(min(i, last), 0) <= before[i]]
