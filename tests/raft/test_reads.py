"""Read indexes (bugs 2, 5, 6): never an answer from before the read was asked."""

from __future__ import annotations

import pytest
from support.raft_group import Group, lone

from gemot.server.raft.reads import Forwarded, Read, Rounds
from gemot.server.raft.types import Append, AppendReply, RaftConfig, ReadAsk, ReadReply, ReadState, Role


def test_a_leader_answers_with_its_commit_after_a_quorum_has_answered() -> None:
    group = Group("abc")
    leader = group.elect("a")
    index = leader.raft.propose([b"x"])
    group.settle()
    leader.raft.read_index(1)
    leader.pump()
    assert leader.reads == [], "not before the round"
    group.settle()
    assert leader.reads == [ReadState(1, index)]


def test_a_follower_asks_the_leader() -> None:
    group = Group("abc")
    leader = group.elect("a")
    index = leader.raft.propose([b"x"])
    group.settle()
    group["c"].raft.read_index(8)
    group.settle()
    assert group["c"].reads == [ReadState(8, index)]


def test_reads_that_wait_together_share_one_round() -> None:
    group = Group("abc")
    leader = group.elect("a")
    for id in range(1, 101):
        leader.raft.read_index(id)
    leader.pump()
    assert sum(isinstance(m, Append) for _, m in leader.outbox) == 2
    group.settle()
    assert len(leader.reads) == 100


def test_a_read_waits_until_an_entry_of_the_new_term_is_committed() -> None:
    """Bug 2: before, the new leader may not know what the old one has acknowledged."""
    group = Group("abc")
    old = group.elect("a")
    index = old.raft.propose([b"acknowledged"])
    group.drop = lambda to, m: isinstance(m, Append) and m.commit >= index
    group.settle()
    assert old.raft.commit == index
    assert group["b"].raft.commit < index
    old.crash()
    # The new leader's no-op reaches nobody yet.
    group.drop = lambda to, m: isinstance(m, Append) and m.body != b""
    new = group.elect("b")
    new.raft.read_index(1)
    group.tick(2)
    assert new.raft.role == Role.LEADER
    assert new.reads == []
    group.heal()
    group.tick(2)
    assert new.reads[0].id == 1
    assert new.reads[0].index > index


def test_a_deposed_leader_that_does_not_know_it_answers_no_read() -> None:
    """Bug 5."""
    group = Group("abc")
    old = group.elect("a")
    group.split("a", "bc")
    new = group.elect("b")
    new.raft.propose([b"newer"])
    group.settle()
    assert old.raft.role == Role.LEADER
    old.raft.read_index(1)
    group.settle()
    assert old.reads == []
    group.heal()
    group.tick(3)
    assert old.reads == [ReadState(1, 0)], "and refuses it once it learns"


def test_an_answer_to_an_earlier_round_confirms_no_later_read() -> None:
    """Bug 6 (etcd #20418): a late heartbeat answer must not serve a read that came after it was sent."""
    group = Group("abc")
    leader = group.elect("a")
    group.tick(1)
    late = [
        AppendReply(leader.raft.term, id, True, leader.raft.last_index, 0, round, False)
        for id in "bc"
        for round in (0, 0)
    ]
    leader.raft.read_index(1)
    leader.pump()
    leader.outbox.clear()
    for reply in late:
        leader.raft.step(reply)
    leader.pump()
    assert leader.reads == []
    leader.raft.step(AppendReply(leader.raft.term, "b", True, leader.raft.last_index, 0, 1, False))
    leader.pump()
    assert [read.id for read in leader.reads] == [1]


def test_a_read_that_comes_after_a_round_was_sent_waits_for_the_next_one() -> None:
    group = Group("abc")
    leader = group.elect("a")
    leader.raft.read_index(1)
    leader.pump()
    leader.raft.read_index(2)
    leader.raft.step(AppendReply(leader.raft.term, "b", True, leader.raft.last_index, 0, 1, False))
    leader.pump()
    assert [read.id for read in leader.reads] == [1]
    group.settle()
    assert [read.id for read in leader.reads] == [1, 2]


def test_doubled_asks_and_answers_do_no_harm() -> None:
    group = Group("abc")
    leader = group.elect("a")
    ask = ReadAsk(leader.raft.term, "b", 4)
    for _ in range(2):
        leader.raft.step(ask)
    group["b"].raft.read_index(4)
    group.settle()
    assert len(group["b"].reads) == 1


def test_an_answer_nobody_waits_for_is_dropped() -> None:
    group = Group("abc")
    leader = group.elect("a")
    group["b"].raft.step(ReadReply(leader.raft.term, "a", 99, 50))
    group["b"].raft.step(ReadReply(leader.raft.term, "c", 99, 50))
    group.settle()
    assert group["b"].reads == []


def test_reads_on_their_way_are_refused_when_the_leader_changes() -> None:
    group = Group("abc")
    group.elect("a")
    group.isolate("a")
    group["c"].raft.read_index(1)
    group.settle()
    assert group["c"].reads == []
    group.elect("b")
    assert group["c"].reads == [ReadState(1, 0)]


def test_an_ask_without_an_answer_is_refused_after_an_election_timeout() -> None:
    group = Group("abc")
    group.elect("a")
    group.drop = lambda to, m: isinstance(m, ReadAsk)
    group["c"].raft.read_index(1)
    group.tick(12)
    assert group["c"].reads == [ReadState(1, 0)]


def test_without_a_leader_a_read_is_refused_at_once() -> None:
    member = lone("a", [1])
    member.raft.read_index(1)
    member.pump()
    assert member.reads == [ReadState(1, 0)]


def test_reads_beyond_the_limit_are_refused_on_the_leader_and_for_followers() -> None:
    config = RaftConfig(heartbeat_ticks=1, election_ticks=10, max_pending_reads=3)
    group = Group("abc", config=config)
    leader = group.elect("a")
    group.isolate("a")
    for id in range(1, 6):
        leader.raft.read_index(id)
        group["b"].raft.read_index(id)
    group.settle()
    assert [read.id for read in leader.reads] == [4, 5]
    assert [read.id for read in group["b"].reads] == [4, 5]
    leader.raft.step(ReadAsk(leader.raft.term, "c", 9))
    leader.pump()
    assert ("c", ReadReply(leader.raft.term, "a", 9, 0)) in leader.outbox


def test_rounds_hand_out_each_read_once() -> None:
    rounds = Rounds(limit=10)
    assert rounds.add(Read("", 1))
    rounds.begin(5)
    assert rounds.add(Read("b", 2))
    rounds.begin(7)
    assert rounds.confirm(0) == []
    assert rounds.confirm(1) == [(Read("", 1), 5)]
    assert rounds.confirm(2) == [(Read("b", 2), 7)]
    assert rounds.count == 0
    with pytest.raises(AssertionError):
        rounds.confirm(3)


def test_a_read_id_is_never_asked_twice_at_once() -> None:
    forwarded = Forwarded(limit=10)
    assert forwarded.add(1, now=0)
    with pytest.raises(AssertionError, match="fresh"):
        forwarded.add(1, now=1)


def test_an_answer_to_an_older_term_is_of_no_round_of_this_one() -> None:
    """Its sender may lead again: the echo of an old round would confirm a read that nobody has heard of."""
    group = Group("abc")
    old = group.elect("a").raft.term
    group.elect("b")
    group["c"].outbox.clear()
    group["c"].raft.step(Append(old, "a", 1, 1, 1, 7, b"", 0))
    group["c"].pump()
    (reply,) = [message for _, message in group["c"].outbox if isinstance(message, AppendReply)]
    assert (reply.term > old, reply.ok, reply.round) == (True, False, 0)
