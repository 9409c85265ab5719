"""What must hold after every event, whatever the faults (Raft paper figure 3, and durability).

ElectionSafety, StateMachineSafety (with equal results and equal state hashes), CommittedIsDurable, and
that term, commit and applied index only grow.
"""

from __future__ import annotations

import hashlib

import msgspec
from simulation.node import Node
from simulation.witness import Effect, Violation

from gemot.server.machine import Outcome
from gemot.server.model.command import decode
from gemot.server.model.errors import GemotError
from gemot.server.model.kv import KvDelete, KvSet
from gemot.server.model.query import Applied
from gemot.server.raft.types import AppendReply, Entry, EntryKind, Message, Role, VoteAsk, VoteReply


class Truth(msgspec.Struct):
    """What the first server that applied an index did there."""

    digest: bytes
    result: object
    by: str


class Invariants:
    """Told of every applied entry; asked after every event."""

    def __init__(self) -> None:
        self.leaders: dict[int, str] = {}
        self.applied: dict[int, Truth] = {}
        self.effects: dict[int, Effect] = {}
        self._terms: dict[tuple[str, int], int] = {}
        self._durable_terms: dict[str, int] = {}
        self._progress: dict[tuple[str, int], tuple[int, int]] = {}
        self._commit = 0
        self._hashes: dict[int, tuple[bytes, str]] = {}
        self._values: dict[bytes, int] = {}
        self.checked = 0

    def observe(self, node: Node, entry: Entry, outcome: Outcome) -> None:
        """One entry was applied on one server: it must be the same everywhere, with the same result."""
        digest = hashlib.blake2b(entry.data, digest_size=16, key=str(entry.term).encode()).digest()
        result = outcome.result.message if isinstance(outcome.result, GemotError) else outcome.result
        truth = self.applied.setdefault(entry.index, Truth(digest, result, node.name))
        if truth.digest != digest:
            raise Violation(f"StateMachineSafety: {node.name} and {truth.by} differ at {entry.index}")
        if truth.result != result:
            raise Violation(
                f"determinism: at {entry.index} {node.name} got {result}, {truth.by} {truth.result}"
            )
        if entry.kind == EntryKind.COMMAND and truth.by == node.name:
            self._note_effect(entry, outcome)

    def said(self, node: Node, to: str, message: Message) -> None:
        """A message leaves: what it promises must be durable already."""
        assert node.opened is not None
        meta, log = node.opened.durable.meta.meta, node.opened.durable.log
        if isinstance(message, VoteReply) and message.granted and not message.pre:
            if (meta.term, meta.vote) != (message.term, to):
                raise Violation(f"{node.name} votes for {to} in {message.term}, durable is {meta}")
        elif isinstance(message, VoteAsk) and not message.pre:
            if (meta.term, meta.vote) != (message.term, node.member.id):
                raise Violation(f"{node.name} stands in {message.term}, durable is {meta}")
        elif isinstance(message, AppendReply) and message.ok and message.match > log.durable_index:
            raise Violation(f"{node.name} acknowledges {message.match}, durable is {log.durable_index}")

    def after_event(self, nodes: list[Node]) -> None:
        self.checked += 1
        for node in nodes:
            if node.opened is not None and node.server is not None:
                self._check(node, nodes)

    def _check(self, node: Node, nodes: list[Node]) -> None:
        assert node.opened is not None
        raft, state = node.opened.raft, node.opened.state
        life = (node.name, node.life)
        if raft.role == Role.LEADER:
            leader = self.leaders.setdefault(raft.term, node.name)
            if leader != node.name:
                raise Violation(f"ElectionSafety: {leader} and {node.name} both lead term {raft.term}")
        durable = node.opened.durable.meta.meta.term
        if raft.term < self._terms.get(life, 0) or durable < self._durable_terms.get(node.name, 0):
            raise Violation(f"{node.name} went back to term {raft.term}, durably {durable}")
        self._terms[life] = raft.term
        self._durable_terms[node.name] = durable
        commit, applied = self._progress.get(life, (0, 0))
        if raft.commit < commit or state.applied_index < applied:
            raise Violation(f"{node.name}: commit or applied index went back")
        self._progress[life] = (raft.commit, state.applied_index)
        if state.applied_index > raft.commit:
            raise Violation(f"{node.name} applied {state.applied_index} beyond commit {raft.commit}")
        if state.applied_index > applied:
            self._check_hash(node)
        if raft.commit > self._commit:
            self._check_durable(raft.commit, node, nodes)
            self._commit = raft.commit

    def _check_hash(self, node: Node) -> None:
        assert node.opened is not None
        state = node.opened.state
        known, by = self._hashes.setdefault(state.applied_index, (state.state_hash, node.name))
        if known != state.state_hash:
            raise Violation(f"state hashes of {node.name} and {by} differ at {state.applied_index}")

    def _check_durable(self, commit: int, node: Node, nodes: list[Node]) -> None:
        """CommittedIsDurable: a majority would still have it after a crash of everybody now."""
        assert node.opened is not None
        term = node.opened.raft.term_at(commit)
        if term is None:
            return
        holders = [n.name for n in nodes if n.durable_terms.get(commit) == term]
        if len(holders) * 2 <= len(nodes):
            raise Violation(f"CommittedIsDurable: {commit} is committed but durable only on {holders}")

    def _note_effect(self, entry: Entry, outcome: Outcome) -> None:
        command = decode(entry.data).command
        result = outcome.result
        # A retried write's second entry answers with the index of the first: it has no effect itself.
        if not isinstance(result, Applied) or result.index != entry.index:
            return
        if isinstance(command, KvSet):
            # Clients never write a value twice: one that stands at two indexes was applied twice.
            before = self._values.setdefault(command.value, entry.index)
            if before != entry.index:
                raise Violation(f"{command} was applied twice, at {before} and {entry.index}")
            self.effects[entry.index] = Effect(entry.index, "set", command.key, command.value, command.cas)
        elif isinstance(command, KvDelete):
            self.effects[entry.index] = Effect(entry.index, "delete", command.key, None, command.cas)
