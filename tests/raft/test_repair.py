"""A server that lost part of its log counts for nothing until it has everything again."""

from __future__ import annotations

from support.raft_group import Group, Member, lone

from gemot.server.raft.types import Append, AppendReply, Batch, ReadState, Role, VoteAsk, VoteReply


def damaged(lost_after: int = 3) -> tuple[Group, Member, Member]:
    """b has lost its log after an index, and has not been heard by the leader yet."""
    group = Group("abc")
    leader = group.elect("a")
    leader.raft.propose([b"1", b"2", b"3"])
    group.settle()
    group["b"].crash()
    group["b"].restart(lost_after=lost_after)
    return group, leader, group["b"]


def test_it_gives_no_vote_and_does_not_stand() -> None:
    _, _, b = damaged()
    for _ in range(100):
        b.raft.tick()
    b.raft.step(VoteAsk(9, "c", 99, 9, True, False))
    b.raft.step(VoteAsk(9, "c", 99, 9, False, True))
    b.pump()
    b.finish_saves()
    assert b.raft.role == Role.FOLLOWER
    assert not any(isinstance(m, VoteAsk) for _, m in b.outbox)
    assert [m.granted for _, m in b.outbox if isinstance(m, VoteReply)] == [False, False]


def test_it_is_filled_again_and_then_is_an_ordinary_member() -> None:
    group, leader, b = damaged()
    group.tick(3)
    assert not b.raft.repairing
    assert b.commands() == [b"1", b"2", b"3"]
    assert b.raft.last_index == leader.raft.last_index
    group["c"].crash()
    index = leader.raft.propose([b"x"])
    group.tick(3)
    assert leader.raft.commit == index, "it counts again"


def test_meanwhile_its_word_counts_for_no_commit_no_read_and_no_quorum() -> None:
    group, leader, b = damaged()
    group.tick(1)
    group.isolate("c")
    # The repair cannot end: the leader's echo of it is lost on the way.
    b.crash()
    b.restart(lost_after=3)
    group.drop = lambda to, m: to == "b" and isinstance(m, Append) and m.repair != 0
    before = leader.raft.commit
    leader.raft.propose([b"x"])
    leader.raft.read_index(1)
    group.tick(4)
    assert b.raft.repairing
    assert leader.raft.commit == before
    assert leader.reads == []
    group.tick(10)
    assert leader.raft.role == Role.FOLLOWER
    assert leader.reads == [ReadState(1, 0)]


def test_it_serves_no_reads() -> None:
    group, _, b = damaged()
    b.raft.step(Append(group["a"].raft.term, "a", 0, 0, 0, 0, b""))
    b.raft.read_index(1)
    b.pump()
    assert b.reads == [ReadState(1, 0)]


def test_a_word_from_before_the_loss_counts_no_more_once_the_leader_knows() -> None:
    group, leader, b = damaged()
    group["c"].crash()
    index = leader.raft.propose([b"x"])
    before = leader.raft.commit
    old = AppendReply(leader.raft.term, "b", True, index, 0, 0, False)
    leader.raft.step(AppendReply(leader.raft.term, "b", False, 3, 1, 0, True, 77))
    leader.raft.step(old)
    leader.pump()
    leader.finish_saves()
    assert leader.raft.commit == before, "an acknowledgement of what is not there any more"
    leader.outbox.clear()
    group.tick(4)
    assert not b.raft.repairing
    assert leader.raft.commit == index


def test_it_does_not_end_by_the_leaders_word_alone() -> None:
    """The leader may not know of the loss yet, and still count an old word above this commit."""
    group, leader, b = damaged(lost_after=5)
    assert b.raft.last_index == leader.raft.commit
    b.raft.step(Append(leader.raft.term, "a", 5, leader.raft.term, 5, 0, b""))
    b.pump()
    assert b.raft.commit == 5
    assert b.raft.repairing
    group.tick(3)
    assert not b.raft.repairing


def test_an_echo_of_another_repair_ends_nothing() -> None:
    _, leader, b = damaged(lost_after=5)
    b.raft.step(Append(leader.raft.term, "a", 5, leader.raft.term, 5, 0, b"", 12345))
    b.pump()
    assert b.raft.repairing


def test_it_does_not_end_by_a_commit_of_an_older_term() -> None:
    member = lone("b", [1, 1, 1], repairing=True)
    member.raft.step(Append(2, "a", 3, 1, 3, 0, b""))
    member.pump()
    member.finish_saves()
    replies = [m for _, m in member.outbox if isinstance(m, AppendReply)]
    member.raft.step(Append(2, "a", 3, 1, 3, 0, b"", replies[-1].repair))
    member.pump()
    assert member.raft.commit == 3
    assert member.raft.repairing


def test_a_server_that_lost_what_it_had_acknowledged_is_probed_from_where_it_is() -> None:
    """Its match was higher: an ordinary refusal below the match would be taken for old news."""
    group, leader, b = damaged(lost_after=1)
    group.tick(3)
    assert b.raft.last_index == leader.raft.last_index


def test_a_state_beyond_the_logs_end_is_accepted_only_while_repairing() -> None:
    member = lone("b", [1, 1, 1], repairing=True, commit=9)
    assert member.raft.commit == 3
    assert member.raft.repairing


def test_what_a_repairing_server_says_it_holds_counts_for_nothing() -> None:
    group, leader, _ = damaged()
    group["b"].crash()
    group["c"].crash()
    index = leader.raft.propose([b"x"])
    before = leader.raft.commit
    leader.raft.read_index(1)
    leader.pump()
    leader.finish_saves()
    for round in (1, 2):
        leader.raft.step(AppendReply(leader.raft.term, "b", True, index, 0, round, True, 77))
        leader.pump()
    assert leader.raft.commit == before
    assert leader.reads == []
    assert leader.raft.quorum_contact_ticks >= leader.raft.status().peers[1].heard_ticks_ago
    leader.raft.step(AppendReply(leader.raft.term, "b", True, index, 0, 2, False))
    leader.pump()
    assert leader.raft.commit == index, "its word after the repair does"


def test_it_does_not_end_before_what_came_again_is_durable() -> None:
    group, leader, b = damaged(lost_after=2)
    group.tick(1)
    b.crash()
    b.restart(lost_after=2)
    repair = 0
    entries = leader.raft.entries(3, 5)
    for _ in range(2):
        b.raft.step(Append(leader.raft.term, "a", 2, entries[0].term, 5, 0, Batch(entries).body, repair))
        b.pump()
        if not repair:
            b.raft.step(Append(leader.raft.term, "a", 2, entries[0].term, 5, 0, b"", repair))
            b.pump()
            repair = next(m.repair for _, m in b.outbox if isinstance(m, AppendReply))
    assert b.raft.commit == 5
    assert b.raft.repairing
    b.finish_saves()
    assert not b.raft.repairing


def test_a_second_loss_during_the_repair_takes_the_match_back_again() -> None:
    group, leader, _ = damaged()
    group["b"].crash()
    for ok, match in ((True, 5), (False, 2)):
        leader.raft.step(AppendReply(leader.raft.term, "b", ok, match, leader.raft.term, 0, True, 77))
    peer = next(p for p in leader.raft.status().peers if p.id == "b")
    assert (peer.match, peer.next) == (2, 3)
