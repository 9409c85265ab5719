"""Handing the leadership over (bug 16)."""

from __future__ import annotations

import pytest
from support.raft_group import CONFIG, Group, lone

from gemot.server.raft.errors import Busy
from gemot.server.raft.types import Append, CampaignNow, Role


def test_the_named_voter_takes_over_at_once_though_the_others_hear_the_leader() -> None:
    group = Group("abc")
    old = group.elect("a")
    group.tick(3)
    assert old.raft.transfer("c")
    group.settle()
    assert group["c"].raft.role == Role.LEADER
    assert {member.raft.leader for member in group.up} == {"c"}


def test_without_a_name_the_most_caught_up_voter_takes_over() -> None:
    group = Group("abc")
    old = group.elect("a")
    group.drop = lambda to, m: to == "b" and isinstance(m, Append) and m.body != b""
    old.raft.propose([b"x"])
    group.settle()
    assert old.raft.transfer(None)
    group.settle()
    assert group["c"].raft.role == Role.LEADER


def test_the_other_first_gets_everything() -> None:
    group = Group("abc")
    old = group.elect("a")
    group.drop = lambda to, m: to == "c"
    old.raft.propose([b"1", b"2"])
    group.settle()
    old.raft.transfer("c")
    group.settle()
    assert old.raft.role == Role.LEADER
    group.drop = lambda to, m: False
    group.tick(2)
    assert group["c"].raft.role == Role.LEADER
    assert group["c"].commands() == [b"1", b"2"]


def test_nothing_is_proposed_meanwhile_and_it_goes_on_when_it_is_called_off() -> None:
    group = Group("abc")
    leader = group.elect("a")
    group.isolate("c")
    leader.raft.transfer("c")
    with pytest.raises(Busy, match="handed over to c"):
        leader.raft.propose([b"x"])
    group.tick(CONFIG.election_ticks)
    assert leader.raft.status().handing_over_to == ""
    leader.raft.propose([b"x"])
    group.settle()
    assert leader.commands() == [b"x"]
    assert leader.raft.transfer("b"), "and it can be tried again"
    group.settle()
    assert group["b"].raft.role == Role.LEADER


def test_a_doubled_word_starts_one_election() -> None:
    group = Group("abc")
    old = group.elect("a")
    term = old.raft.term
    old.raft.transfer("b")
    group.settle()
    group["b"].raft.step(CampaignNow(term, "a"))
    group.settle()
    assert group["b"].raft.role == Role.LEADER
    assert group["b"].raft.term == term + 1


@pytest.mark.parametrize("to", ["a", "x", "d"])
def test_it_is_not_begun_towards_itself_a_stranger_or_a_learner(to: str) -> None:
    group = Group("abcd", voters="abc")
    leader = group.elect("a")
    leader.raft.feed(["d"])
    group.tick(2)
    assert not leader.raft.transfer(to)
    leader.raft.propose([b"x"])


def test_a_single_server_has_nobody_to_hand_over_to() -> None:
    group = Group("a")
    group.tick(30)
    assert not group["a"].raft.transfer(None)


def test_a_server_that_does_not_lead_hands_nothing_over() -> None:
    assert not lone("a", [1]).raft.transfer("b")


def test_under_load_no_acknowledged_write_is_lost_and_terms_have_one_leader() -> None:
    group = Group("abcde", seed=3)
    group.elect("a")
    written: list[bytes] = []
    for number in range(60):
        leader = group.leader()
        if number % 7 == 0:
            leader.raft.transfer(None)
        try:
            leader.raft.propose([b"%d" % number])
            written.append(b"%d" % number)
        except Busy:
            pass
        group.tick(1)
    group.tick(3)
    assert len(group.laws.leaders) > 5
    assert all(member.commands() == written for member in group.up)
