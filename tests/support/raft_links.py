"""What a group must do under one set of working links, each way on its own (promise P8).

Wherever a majority can speak with each other, both ways, a leader is there within ten election timeouts and
stays, and writes commit; a leader that has such a majority around it is never disturbed. Wherever there is
none, nothing unsafe happens. When all links work again, everyone is there again, with all that was committed.

A link that is cut loses everything. Clocks differ a little: now and then a server misses a tick, or has two.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import combinations, permutations
from random import Random

import msgspec
from support.raft_group import Group, Member

from gemot.server.raft.errors import Refused
from gemot.server.raft.quorum import majority
from gemot.server.raft.types import RaftConfig, Role

Link = tuple[str, str]
CONFIG = RaftConfig(heartbeat_ticks=3, election_ticks=10)
STARTS = ("steady", "uneven", "leaderless")
TIMEOUTS = 10
"""Within so many election timeouts a leader is there."""


class Outcome(msgspec.Struct, frozen=True):
    """`good`: there is a majority. `ticks`: after how many the leader that stays was there (-1: none)."""

    good: bool
    ticks: int


def all_links(ids: str) -> list[Link]:
    return list(permutations(ids, 2))


def every_graph(ids: str) -> Iterator[frozenset[Link]]:
    """Every set of working links."""
    links = all_links(ids)
    for count in range(len(links) + 1):
        for working in combinations(links, count):
            yield frozenset(working)


def some_graph(ids: str, seed: int) -> frozenset[Link]:
    """One for each seed; half of them have a majority planted, for pure chance seldom makes one of five."""
    random = Random(seed)
    share = random.choice((0.2, 0.4, 0.6, 0.8))
    working = {link for link in all_links(ids) if random.random() < share}
    if random.random() < 0.5:
        working.update(permutations(random.sample(ids, majority(len(ids))), 2))
    return frozenset(working)


def majorities(ids: str, working: frozenset[Link]) -> list[tuple[str, ...]]:
    """The smallest majorities in which everyone speaks with everyone, both ways."""
    chosen = combinations(ids, majority(len(ids)))
    return [some for some in chosen if working.issuperset(permutations(some, 2))]


class Trial:
    """One group under one graph, from one start."""

    def __init__(self, ids: str, working: frozenset[Link], start: str, seed: int) -> None:
        self.group = Group(ids, seed=seed, config=CONFIG)
        self._majorities = majorities(ids, working)
        self._working = working
        self._start = start
        self._writes = 0

    def run(self) -> Outcome:
        self._begin()
        leads = [m for m in self.group.up if m.raft.role == Role.LEADER]
        undisturbed = leads[0] if leads and any(leads[0].id in some for some in self._majorities) else None
        term = undisturbed.raft.term if undisturbed is not None else 0
        for link in all_links("".join(self.group.members)):
            if link not in self._working:
                self.group.cut[link] = None
        ticks = self._under_the_graph()
        if undisturbed is not None:
            assert undisturbed.raft.role == Role.LEADER, f"{undisturbed.id} was disturbed"
            assert undisturbed.raft.term == term, f"{undisturbed.id} was disturbed, and leads again"
        self._healed()
        return Outcome(bool(self._majorities), ticks)

    def _begin(self) -> None:
        ids = list(self.group.members)
        if self._start == "leaderless":
            return
        self.group.elect(ids[0])
        if self._start == "uneven":
            self.group.isolate(*ids[majority(len(ids)) :])
            self._write(self.group[ids[0]])
            self.group.settle()
            self.group.heal()

    def _under_the_graph(self) -> int:
        """The tick at which the leader that stays was there."""
        told, since = self._tick(TIMEOUTS * CONFIG.election_ticks, told=("", 0))
        if not self._majorities:
            self._tick(TIMEOUTS * CONFIG.election_ticks, told=told)
            return -1
        assert told[0], "no leader, though a majority is connected"
        leader = self.group[told[0]]
        index = self._write(leader)
        again, _ = self._tick(CONFIG.election_ticks, told=told)
        assert leader.raft.commit >= index > 0, f"{leader.id} leads, and commits nothing"
        again, _ = self._tick(TIMEOUTS * CONFIG.election_ticks, told=again)
        assert again == told, f"{told} did not stay: {again}"
        return since

    def _tick(self, count: int, *, told: tuple[str, int]) -> tuple[tuple[str, int], int]:
        """Who leads at the end, and since which tick. Whoever thinks that it leads writes meanwhile."""
        since = 0
        for tick in range(count):
            for member in self.group.up:
                chance = self.group.random.random()
                for _ in range(0 if chance < 0.05 else 2 if chance > 0.95 else 1):
                    member.raft.tick()
            self.group.settle()
            leaders = [m for m in self.group.up if m.raft.role == Role.LEADER]
            # Not from a steady start: whose log is as new as the leader's could win an election against it.
            if tick % CONFIG.election_ticks == 0 and self._start != "steady":
                for leader in leaders:
                    self._write(leader)
                self.group.settle()
            best = max(leaders, key=lambda m: m.raft.term, default=None)
            now = (best.id, best.raft.term) if best is not None else ("", 0)
            if now != told:
                told, since = now, tick + 1
        return told, since

    def _write(self, leader: Member) -> int:
        self._writes += 1
        try:
            return leader.raft.propose([b"%d" % self._writes])
        except Refused:
            return 0

    def _healed(self) -> None:
        self.group.heal()
        told, index = ("", 0), 0
        for _ in range(TIMEOUTS):
            told, _ = self._tick(CONFIG.election_ticks, told=told)
            index = self._write(self.group[told[0]]) if told[0] else 0
            self._tick(CONFIG.election_ticks, told=told)
            if index and all(member.applied_index >= index for member in self.group.up):
                break
        assert index, "no leader, though all links work"
        committed = self.group.laws.committed
        for member in self.group.up:
            assert member.applied_index >= index, f"{member.id} does not follow"
            held = {entry.index: entry for entry in member.applied}
            assert all(held.get(at) == entry for at, entry in committed.items()), "a commit was lost"


def trial(ids: str, working: frozenset[Link], start: str, seed: int) -> Outcome:
    """Raises AssertionError, which names the graph."""
    try:
        return Trial(ids, working, start, seed).run()
    except AssertionError as error:
        links = " ".join(f"{a}->{b}" for a, b in sorted(working))
        raise AssertionError(f"{error}\n  {start}, seed {seed}, links that work: {links}") from error
