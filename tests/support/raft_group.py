"""Raft servers on simulated disks and links, driven step by step, by scripts and by storms."""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable
from itertools import pairwise

from support.raft_disk import Disk, Save

from gemot.server.raft.core import Random
from gemot.server.raft.node import Raft
from gemot.server.raft.types import (
    AppendReply,
    Batch,
    Entry,
    EntryKind,
    HardState,
    Message,
    RaftConfig,
    ReadState,
    Role,
    SnapshotMeta,
    SnapshotOffer,
    VoteAsk,
    VoteReply,
    Voters,
    encode_voters,
)

CONFIG = RaftConfig(heartbeat_ticks=1, election_ticks=10)


class Laws:
    """What must hold after every event, over the whole life of a group."""

    def __init__(self) -> None:
        self.leaders: dict[int, str] = {}
        self.places: dict[tuple[int, int], tuple[bytes, int]] = {}
        self.committed: dict[int, Entry] = {}
        self.highest_commit = 0

    def on_append(self, batch: Batch, prev_term: int) -> None:
        """LogMatching: a (index, term) means one entry after one previous term, everywhere."""
        terms = [prev_term, *(entry.term for entry in batch.entries)]
        for entry, before in zip(batch.entries, terms, strict=False):
            known = self.places.setdefault((entry.index, entry.term), (entry.data, before))
            assert known == (entry.data, before), f"LogMatching broken at {entry}"
        assert all(a <= b for a, b in pairwise(terms)), "terms never go back along a log"

    def on_role(self, raft: Raft) -> None:
        """ElectionSafety and LeaderCompleteness."""
        if raft.role != Role.LEADER:
            return
        known = self.leaders.get(raft.term)
        if known is None:
            self.leaders[raft.term] = raft.id
            for index, entry in self.committed.items():
                held = raft.term_at(index)
                assert held == entry.term or index < raft.lowest - 1, f"{raft.id} leads without {index}"
        else:
            assert known == raft.id, f"{known} and {raft.id} both lead in term {raft.term}"

    def on_apply(self, entry: Entry) -> None:
        """StateMachineSafety."""
        known = self.committed.setdefault(entry.index, entry)
        assert known == entry, f"two entries applied at {entry.index}: {known} and {entry}"


class Member:
    """One server: a `Raft`, its disk, and a state that remembers what was applied."""

    def __init__(self, id: str, config: RaftConfig, chance: Random, laws: Laws) -> None:
        self.id = id
        self.disk = Disk()
        self.laws = laws
        self.outbox: deque[tuple[str, Message]] = deque()
        self.reads: list[ReadState] = []
        self.applied: list[Entry] = []
        self.applied_index = 0
        self.offer: SnapshotOffer | None = None
        self.up = True
        self.stalled = False
        self._config = config
        self._chance = chance
        self._waiting: dict[int, tuple[tuple[str, Message], ...]] = {}
        self._state_index = 0
        self.raft = self._open(repairing=False)

    def _open(self, *, repairing: bool) -> Raft:
        return Raft(
            id=self.id,
            config=self._config,
            random=self._chance,
            hard_state=self.disk.hard_state,
            snapshot=self.disk.snapshot,
            log=self.disk,
            last_index=self.disk.durable.last,
            commit=self.applied_index,
            repairing=repairing,
        )

    # -- life --------------------------------------------------------------------------------------

    def crash(self) -> None:
        """Everything not durable is gone, the state but for a snapshot's worth too."""
        self.up = False
        self.disk.crash()
        self.outbox.clear()
        self.reads.clear()
        self._waiting.clear()
        self.offer = None
        self.applied_index = self.disk.snapshot.index
        self.applied = [entry for entry in self.applied if entry.index <= self.applied_index]

    def restart(self, *, lost_after: int | None = None) -> None:
        """Come back; with `lost_after` the durable log after that index was found damaged."""
        assert not self.up, "only a crashed server restarts"
        if lost_after is not None:
            self.disk.lose_tail(max(lost_after, self.disk.snapshot.index))
        self.up = True
        self.raft = self._open(repairing=lost_after is not None)

    # -- driving -----------------------------------------------------------------------------------

    def pump(self) -> None:
        """Take and carry out every Ready; saves are begun, not finished."""
        while self.raft.has_ready():
            ready = self.raft.ready()
            if ready.token:
                self._check_save(ready.append)
                self.disk.save(Save(ready.token, ready.hard_state, ready.append))
                self._waiting[ready.token] = ready.after_save
            else:
                assert not ready.after_save, "what waits for a save comes with one"
                assert ready.append is None
                assert ready.hard_state is None
            for to, message in ready.messages:
                self._send(to, message)
            self.reads.extend(ready.read_states)
            if ready.install is not None:
                self.offer = ready.install
            self._apply(ready.commit)
        durable = self.raft.durable_index
        assert durable <= self.disk.durable.last, "what is durable is on the disk"
        assert self.disk.durable.term(durable) == self.raft.term_at(durable), "and is the same there"
        self.laws.on_role(self.raft)
        self.laws.highest_commit = max(self.laws.highest_commit, self.raft.commit)

    def _check_save(self, append: Batch | None) -> None:
        if append is not None:
            before = self.disk.term(append.first - 1)
            assert before is not None
            assert append.body == Batch(append.entries).body, "a joined body is what the encoder would write"
            self.laws.on_append(append, before)

    def _send(self, to: str, message: Message) -> None:
        if isinstance(message, AppendReply) and message.ok:
            assert message.match <= self.disk.durable.last, "only what is durable is acknowledged"
        elif isinstance(message, VoteReply) and message.granted and not message.pre:
            assert self._stands_on_disk(message.term, to), "a vote is durable before it is told"
        elif isinstance(message, VoteAsk) and not message.pre:
            assert self._stands_on_disk(message.term, self.id), "a candidacy is durable before it is told"
        self.outbox.append((to, message))

    def _stands_on_disk(self, term: int, vote: str) -> bool:
        return self.disk.hard_state.term > term or self.disk.hard_state == HardState(term, vote)

    def _apply(self, commit: int) -> None:
        assert commit <= self.disk.durable.last, "only what is durable here is applied"
        while self.applied_index < commit:
            for entry in self.raft.entries(self.applied_index + 1, commit):
                assert entry.index == self.applied_index + 1
                self.laws.on_apply(entry)
                self.applied.append(entry)
                self.applied_index = entry.index
            self.raft.applied(self.applied_index)

    def finish_save(self) -> None:
        save = self.disk.finish()
        self.raft.saved(save.token)
        for to, message in self._waiting.pop(save.token):
            self._send(to, message)
        self.pump()

    def finish_saves(self) -> None:
        while self.disk.pending:
            self.finish_save()

    def install(self, *, ok: bool = True) -> None:
        """Install the snapshot that was offered; what the state then holds the others have applied."""
        assert self.offer is not None, "an offer came"
        self.finish_saves()
        meta = self.offer.meta
        self.offer = None
        if ok:
            self.disk.install(meta)
            self.applied_index = meta.index
        self.raft.installed(meta, ok)
        self.pump()

    def compact(self, *, keep: int = 0) -> None:
        """Snapshot what is applied, and cut the log `keep` entries before it."""
        index = min(self.applied_index, self.disk.durable.last)
        term = self.raft.term_at(index)
        if index <= self.disk.snapshot.index or term is None:
            return
        meta = SnapshotMeta(index, term, self.raft.voters_at(index))
        self.disk.take_snapshot(meta)
        through = max(index - keep, self.disk.durable.base)
        self.disk.compact(through)
        self.raft.compacted(through, meta)

    def commands(self) -> list[bytes]:
        return [entry.data for entry in self.applied if entry.kind == EntryKind.COMMAND]


class Group:
    """Members and the links between them. Nothing happens unless it is asked for."""

    def __init__(
        self,
        ids: str,
        *,
        voters: str | None = None,
        seed: int = 1,
        config: RaftConfig = CONFIG,
        chance: Random | None = None,
    ) -> None:
        self.laws = Laws()
        self.random = random.Random(seed)
        self.members = {id: Member(id, config, chance or self.random, self.laws) for id in ids}
        self.cut: dict[tuple[str, str], None] = {}
        self.drop: Callable[[str, Message], bool] = lambda to, message: False
        for id in voters if voters is not None else ids:
            self[id].raft.bootstrap(list(voters if voters is not None else ids))
        self.settle()

    def __getitem__(self, id: str) -> Member:
        return self.members[id]

    @property
    def up(self) -> list[Member]:
        return [member for member in self.members.values() if member.up]

    def settle(self, *, saves: bool = True) -> None:
        """Deliver and save until nothing moves any more."""
        for _ in range(10_000):
            moved = False
            for member in self.up:
                member.pump()
                if saves and not member.stalled:
                    moved = moved or bool(member.disk.pending)
                    member.finish_saves()
            for member in self.up:
                while member.outbox:
                    moved = True
                    self.deliver(member.id, *member.outbox.popleft())
            if not moved:
                return
        raise AssertionError("the group never comes to rest")

    def deliver(self, sender: str, to: str, message: Message) -> None:
        assert message.sender == sender
        target = self.members.get(to)
        if target is None or not target.up or (sender, to) in self.cut or self.drop(to, message):
            return
        target.raft.step(message)

    def tick(self, count: int = 1, ids: str = "") -> None:
        """Time passes, on `ids` or on all; all messages travel between two ticks."""
        for _ in range(count):
            for member in self.up:
                if not ids or member.id in ids:
                    member.raft.tick()
            self.settle()

    def elect(self, id: str) -> Member:
        """Let `id`'s clock alone run until it leads."""
        for _ in range(200):
            if self[id].raft.role == Role.LEADER:
                return self[id]
            for member in self.up:
                if member.id != id and member.raft.role != Role.LEADER:
                    # The others must not hear an old leader any more to listen to a candidate.
                    while member.raft.leader and member.raft.quorum_contact_ticks < 10:
                        member.raft.tick()
            self[id].raft.tick()
            self.settle()
        raise AssertionError(f"{id} cannot be elected: {self[id].raft.status()}")

    def isolate(self, *ids: str) -> None:
        """Cut all links of each of these servers, both ways."""
        for id in ids:
            for other in self.members:
                self.cut[(id, other)] = None
                self.cut[(other, id)] = None

    def split(self, *sides: str) -> None:
        """Only servers on one side hear each other."""
        self.cut.clear()
        for side in sides:
            for id in side:
                for other in self.members:
                    if other not in side:
                        self.cut[(id, other)] = None

    def heal(self) -> None:
        self.cut.clear()
        self.drop = lambda to, message: False

    def leader(self) -> Member:
        leaders = [member for member in self.up if member.raft.role == Role.LEADER]
        assert leaders, "someone leads"
        return max(leaders, key=lambda member: member.raft.term)


def entry(term: int, index: int, data: bytes = b"", kind: EntryKind = EntryKind.COMMAND) -> Entry:
    return Entry(term, index, kind, data)


def voters_entry(term: int, index: int, voters: str) -> Entry:
    return Entry(term, index, EntryKind.VOTERS, encode_voters(Voters(tuple(voters))))


def lone(
    id: str,
    terms: list[int],
    *,
    voters: str = "abc",
    vote: str = "",
    term: int | None = None,
    config: RaftConfig = CONFIG,
    repairing: bool = False,
    commit: int = 0,
    seed: int = 1,
) -> Member:
    """One member with a durable log of these terms (entry 1 names the voters), and nobody around it."""
    member = Member(id, config, random.Random(seed), Laws())
    entries = [voters_entry(terms[0], 1, voters)] if terms else []
    entries += [entry(t, i, b"%d" % i) for i, t in enumerate(terms[1:], 2)]
    member.disk.durable.entries = entries
    member.disk.hard_state = HardState(term if term is not None else (terms[-1] if terms else 0), vote)
    member.applied_index = commit
    member.disk.crash()
    member.up = True
    member.raft = member._open(repairing=repairing)
    return member
