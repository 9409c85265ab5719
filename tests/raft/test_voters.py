"""Changing who votes, one server at a time (bugs 11 to 15)."""

from __future__ import annotations

import pytest
from support.raft_group import Group, entry, lone, voters_entry

from gemot.server.raft.errors import BadChange, NotLeader
from gemot.server.raft.types import Append, Role, SnapshotMeta
from gemot.server.raft.voters import VoterHistory, decode_voters


def test_a_learner_that_has_caught_up_becomes_a_voter() -> None:
    group = Group("abcd", voters="abc")
    leader = group.elect("a")
    with pytest.raises(BadChange, match="d has not caught up"):
        leader.raft.change_voters("abcd")
    leader.raft.feed(["d"])
    group.tick(2)
    leader.raft.change_voters("abcd")
    group.settle()
    assert {member.raft.voters for member in group.up} == {("a", "b", "c", "d")}


def test_a_learner_that_is_behind_is_not_promoted() -> None:
    """Bug 15."""
    group = Group("abcd", voters="abc")
    leader = group.elect("a")
    leader.raft.feed(["d"])
    group.tick(2)
    group.isolate("d")
    leader.raft.propose([b"x"])
    group.settle()
    with pytest.raises(BadChange, match="d has not caught up"):
        leader.raft.change_voters("abcd")


@pytest.mark.parametrize("wanted", ["abc", "a", "abcde", "", "abd"])
def test_exactly_one_server_changes_at_a_time(wanted: str) -> None:
    group = Group("abc")
    leader = group.elect("a")
    with pytest.raises(BadChange, match="one server at a time"):
        leader.raft.change_voters(wanted)


def test_no_change_before_an_entry_of_the_own_term_is_committed() -> None:
    """Bug 12 (Ongaro, 2015-07-10)."""
    group = Group("abc")
    group.drop = lambda to, m: isinstance(m, Append) and m.body != b""
    leader = group.elect("a")
    with pytest.raises(BadChange, match="entry of its term"):
        leader.raft.change_voters("ab")


def test_no_second_change_before_the_first_is_committed() -> None:
    """Bug 13."""
    group = Group("abc")
    leader = group.elect("a")
    group.isolate("a")
    assert leader.raft.voters_settled
    index = leader.raft.change_voters("ab")
    assert (leader.raft.voters_settled, leader.raft.voters_index) == (False, index)
    with pytest.raises(BadChange, match="not committed yet"):
        leader.raft.change_voters("a")


def test_only_the_leader_changes_the_voters() -> None:
    with pytest.raises(NotLeader):
        lone("a", [1]).raft.change_voters("ab")


def test_a_leader_that_removes_itself_leads_until_that_is_committed() -> None:
    group = Group("abc")
    leader = group.elect("a")
    group.drop = lambda to, m: isinstance(m, Append) and m.body != b""
    leader.raft.change_voters("bc")
    group.tick(1)
    assert leader.raft.role == Role.LEADER
    group.heal()
    group.tick(2)
    assert leader.raft.role == Role.FOLLOWER
    group.tick(60)
    assert group.leader().id in "bc"


def test_a_removed_server_disturbs_nobody() -> None:
    """Bug 11: it never learned of its removal."""
    group = Group("abc")
    leader = group.elect("a")
    group.isolate("c")
    leader.raft.change_voters("ab")
    group.settle()
    group.heal()
    term = leader.raft.term
    group.tick(200)
    assert leader.raft.role == Role.LEADER
    assert leader.raft.term == term


def test_a_truncated_change_never_was() -> None:
    """Bug 14."""
    group = Group("abcd", voters="abc")
    old = group.elect("a")
    old.raft.feed(["d"])
    group.tick(2)
    group.isolate("a")
    old.raft.change_voters("abcd")
    group.settle()
    assert old.raft.voters == ("a", "b", "c", "d")
    new = group.elect("b")
    new.raft.propose([b"x"])
    group.heal()
    group.tick(3)
    assert old.raft.voters == ("a", "b", "c")


def test_one_of_two_that_logged_its_own_removal_can_still_stand() -> None:
    """Thesis 4.2.2: its log is longer, so the other cannot win; it wins, and removes itself for good."""
    group = Group("ab")
    leader = group.elect("a")
    group.cut[("a", "b")] = None
    leader.raft.change_voters("b")
    group.settle()
    leader.crash()
    leader.restart()
    group.heal()
    group.tick(100)
    assert group.leader().id == "b"
    assert group["b"].raft.voters == ("b",)


def test_founding_is_refused_where_there_is_raft_data() -> None:
    with pytest.raises(BadChange, match="already has Raft data"):
        lone("a", [1]).raft.bootstrap("abc")
    with pytest.raises(BadChange, match="do not name this server d"):
        lone("d", []).raft.bootstrap("abc")


def test_a_voter_set_is_sorted_and_names_nobody_twice() -> None:
    for voters in ("ba", "aa", ""):
        with pytest.raises(ValueError, match="voter set"):
            decode_voters(voters_entry(1, 1, voters))


def test_the_voters_at_an_index_are_those_a_snapshot_up_to_it_names() -> None:
    history = VoterHistory(SnapshotMeta(10, 1, ("a",)))
    history.note([entry(1, 11), voters_entry(1, 12, "ab"), voters_entry(1, 15, "abc")])
    assert [len(history.at(index)) for index in (10, 11, 12, 14, 15, 99)] == [1, 1, 2, 2, 3, 3]
    history.compact(13)
    assert [len(history.at(index)) for index in (13, 15)] == [2, 3]
    assert history.names_since("a", 99)
    assert not history.names_since("z", 0)
