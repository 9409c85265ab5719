"""Snapshots: a follower behind the log's start, and what may happen while it installs."""

from __future__ import annotations

import pytest
from support.raft_group import Group, Member, entry, lone

from gemot.server.raft.types import Append, Batch, SnapshotMeta, SnapshotOffer, SnapshotReply


def behind() -> tuple[Group, Member, Member]:
    """c is down while the others write and cut their logs; then it comes back."""
    group = Group("abc")
    leader = group.elect("a")
    group["c"].crash()
    for number in range(20):
        leader.raft.propose([b"%d" % number])
        group.settle()
    group["a"].compact()
    group["b"].compact()
    group["c"].restart()
    group.tick(2)
    return group, leader, group["c"]


def test_a_follower_behind_the_logs_start_is_offered_a_snapshot_and_then_follows() -> None:
    group, leader, c = behind()
    assert c.offer is not None
    assert c.offer.meta == leader.disk.snapshot
    c.install()
    index = leader.raft.propose([b"after"])
    group.tick(1)
    assert c.applied_index == index
    assert c.raft.voters == ("a", "b", "c")


def test_the_offer_is_repeated_until_it_is_answered_but_handed_out_once() -> None:
    group, _, c = behind()
    offers: list[SnapshotOffer] = []

    def watch(to: str, message: object) -> bool:
        if isinstance(message, SnapshotOffer):
            offers.append(message)
        return False

    group.drop = watch
    first, c.offer = c.offer, None
    group.tick(5)
    assert len(offers) >= 5
    assert c.offer is None
    c.offer = first
    c.install()
    group.settle()
    offers.clear()
    group.tick(5)
    assert offers == []


def test_an_install_that_failed_is_offered_again() -> None:
    group, leader, c = behind()
    c.install(ok=False)
    group.tick(2)
    assert c.offer is not None
    c.install()
    group.tick(2)
    assert c.applied_index == leader.applied_index


def test_a_server_that_installs_answers_its_leader_but_takes_no_entries_and_does_not_stand() -> None:
    group, leader, c = behind()
    last = c.raft.last_index
    entries = Batch([entry(leader.raft.term, last + 1)])
    c.raft.step(Append(leader.raft.term, "a", last, c.raft.term_at(last) or 0, 0, 0, entries.body))
    group.tick(50)
    assert c.raft.last_index == last
    peer = next(p for p in leader.raft.status().peers if p.id == "c")
    assert peer.heard_ticks_ago <= 1
    assert peer.mode == "snapshot"
    group.isolate("c")
    group.tick(100)
    assert c.raft.term == leader.raft.term
    c.raft.campaign()
    assert c.raft.role.name == "FOLLOWER"


def test_a_leader_with_one_installing_follower_keeps_its_quorum() -> None:
    group, leader, c = behind()
    group["b"].crash()
    leader.raft.read_index(1)
    group.tick(40)
    assert leader.raft.role.name == "LEADER"
    assert leader.reads[0].index > 0
    assert c.raft.leader == "a"


def test_a_snapshot_of_what_is_here_already_is_not_installed() -> None:
    member = lone("b", [1, 1, 1, 1], commit=2)
    for index in (2, 4):
        member.raft.step(SnapshotOffer(1, "a", SnapshotMeta(index, 1, ("a", "b", "c"))))
        member.pump()
        assert member.offer is None
        assert member.outbox.pop() == ("a", SnapshotReply(1, "b", index, True))
    assert member.raft.commit == 4
    assert member.raft.last_index == 4


def test_a_snapshot_over_a_conflicting_log_replaces_it() -> None:
    member = lone("b", [1, 1, 1, 1], commit=2)
    meta = SnapshotMeta(3, 2, ("a", "b"))
    member.raft.step(SnapshotOffer(3, "a", meta))
    member.pump()
    member.install()
    assert (member.raft.last_index, member.raft.commit, member.raft.durable_index) == (3, 3, 3)
    assert member.raft.voters == ("a", "b")
    assert member.outbox.pop() == ("a", SnapshotReply(3, "b", 3, True))


def test_an_install_for_an_older_leader_is_not_reported_to_the_new_one() -> None:
    member = lone("b", [1], commit=1)
    member.raft.step(SnapshotOffer(1, "a", SnapshotMeta(9, 1, ("a", "b", "c"))))
    member.pump()
    member.raft.step(Append(5, "c", 0, 0, 0, 0, b""))
    member.pump()
    member.finish_saves()
    member.outbox.clear()
    member.install()
    assert not any(isinstance(m, SnapshotReply) for _, m in member.outbox)
    assert member.raft.last_index == 9


def test_only_what_was_offered_is_installed() -> None:
    with pytest.raises(AssertionError):
        lone("b", [1]).raft.installed(SnapshotMeta(9, 1, ("a",)), True)


def test_a_follower_whose_log_differs_at_the_leaders_base_gets_a_snapshot() -> None:
    group = Group("abc")
    old = group.elect("a")
    group.isolate("a")
    for number in range(30):
        old.raft.propose([b"lost %d" % number])
    group.settle()
    new = group.elect("b")
    for number in range(10):
        new.raft.propose([b"kept %d" % number])
        group.settle()
    new.compact()
    group.heal()
    group.tick(3)
    assert old.offer is not None
    old.install()
    group.tick(3)
    assert old.applied_index == new.applied_index
