"""A disk that stands still: such a server neither leads, stands nor votes, but follows (bug list 30).

Heartbeats come from memory, so without this a leader whose syncs hang for a minute (etcd #15247) stays in
office and answers nobody.
"""

from __future__ import annotations

import pytest
from support.raft_group import CONFIG, Group, lone

from gemot.server.raft.types import Append, CampaignNow, Role, VoteAsk, VoteReply

TIMEOUT = CONFIG.election_ticks


def stalled_leader(ids: str = "abc") -> Group:
    """`a` leads, and its disk has just stopped with a write under way."""
    group = Group(ids)
    group.elect("a")
    group["a"].stalled = True
    group["a"].raft.propose([b"x"])
    group.settle()
    return group


def test_a_leader_whose_disk_stalls_for_an_election_timeout_steps_down() -> None:
    group = stalled_leader()
    group.tick(TIMEOUT - 1)
    assert group["a"].raft.role == Role.LEADER
    group.tick(1)
    assert group["a"].raft.role == Role.FOLLOWER
    assert group["a"].raft.stalled
    assert group["a"].raft.stalls == 1


def test_another_server_takes_over_at_once_and_commits_while_the_disk_stalls() -> None:
    group = stalled_leader()
    group.tick(TIMEOUT + 1)
    leader = group.leader()
    assert leader.id in "bc"
    leader.raft.propose([b"y"])
    group.settle()
    assert leader.commands() == [b"x", b"y"]
    assert group["a"].raft.leader == leader.id, "it follows"
    assert group["a"].commands() == [], "nothing is applied that is not durable"


def test_while_the_stall_lasts_it_never_stands_even_with_nobody_else_there() -> None:
    group = stalled_leader()
    group.split("a", "bc")
    term = group["a"].raft.term
    group.tick(10 * TIMEOUT)
    assert group["a"].raft.role == Role.FOLLOWER
    assert group["a"].raft.term == term


def test_when_the_disk_is_back_it_follows_and_has_everything() -> None:
    group = stalled_leader()
    group.tick(2 * TIMEOUT)
    leader = group.leader()
    leader.raft.propose([b"y"])
    group.tick(1)
    group["a"].stalled = False
    group.tick(2)
    assert not group["a"].raft.stalled
    assert group.leader() is leader
    assert group["a"].commands() == [b"x", b"y"]
    leader.raft.transfer("a")
    group.tick(3)
    assert group["a"].raft.role == Role.LEADER, "and may lead again"


def test_a_disk_that_is_slow_but_moves_costs_no_leadership() -> None:
    group = Group("abc")
    leader = group.elect("a")
    leader.stalled = True
    for _ in range(5):
        leader.raft.propose([b"x"])
        group.tick(TIMEOUT - 1)
        leader.finish_save()
        group.settle()
    assert leader.raft.role == Role.LEADER


def test_an_idle_leader_has_no_stall() -> None:
    group = Group("abc")
    group.elect("a")
    group["a"].stalled = True
    group.tick(10 * TIMEOUT)
    assert group["a"].raft.role == Role.LEADER


def test_a_sole_voter_leads_on_since_nobody_could_do_better() -> None:
    group = Group("a")
    group.elect("a")
    group["a"].stalled = True
    group["a"].raft.propose([b"x"])
    group.tick(3 * TIMEOUT)
    assert group["a"].raft.stalled
    assert group["a"].raft.role == Role.LEADER


def test_a_follower_whose_disk_stalls_keeps_following_and_holds_nobody_up() -> None:
    group = Group("abc")
    leader = group.elect("a")
    group["b"].stalled = True
    for _ in range(3):
        leader.raft.propose([b"x"])
        group.tick(TIMEOUT)
    assert group["b"].raft.stalled
    assert group["b"].raft.leader == "a"
    assert leader.raft.role == Role.LEADER
    assert leader.commands() == [b"x"] * 3


@pytest.mark.parametrize("pre", [True, False])
def test_a_stalled_server_refuses_its_vote_at_once(pre: bool) -> None:
    member = lone("a", [1])
    member.raft.step(Append(2, "b", 1, 1, 0, 0, b""))
    member.pump()  # the new term waits for the disk
    for _ in range(2 * TIMEOUT):
        member.raft.tick()
        member.pump()
    member.outbox.clear()
    member.raft.step(VoteAsk(3, "c", 9, 2, pre, False))
    member.pump()
    replies = [m for _, m in member.outbox if isinstance(m, VoteReply)]
    assert [(m.granted, m.pre) for m in replies] == [(False, pre)]


def test_a_pre_candidate_whose_disk_stalls_does_not_go_on_to_campaign() -> None:
    member = lone("a", [1], term=1)
    member.raft.step(Append(2, "b", 1, 1, 0, 0, b""))
    member.pump()
    for _ in range(TIMEOUT // 2):
        member.raft.tick()
    member.raft.campaign()
    assert member.raft.role == Role.PRE_CANDIDATE
    for _ in range(TIMEOUT - TIMEOUT // 2):
        member.raft.tick()
    assert member.raft.stalled
    assert member.raft.role == Role.PRE_CANDIDATE
    member.raft.step(VoteReply(3, "b", True, True))
    assert member.raft.role == Role.FOLLOWER
    assert member.raft.term == 2


def test_told_to_campaign_it_does_not_while_its_disk_stalls() -> None:
    group = Group("abc")
    group.elect("a")
    group["b"].stalled = True
    group["a"].raft.propose([b"x"])
    group.tick(TIMEOUT + 1)
    assert group["b"].raft.stalled
    group["b"].raft.step(CampaignNow(group["a"].raft.term, "a"))
    assert group["b"].raft.role == Role.FOLLOWER
