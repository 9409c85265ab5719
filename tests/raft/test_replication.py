"""Appends: what is sent, what is acknowledged, what is truncated, and what is committed (bugs 4, 17, 18)."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from support.raft_group import Group, Member, entry, lone

from gemot.server.raft.errors import Busy, NotLeader
from gemot.server.raft.types import (
    Append,
    AppendReply,
    Batch,
    Entry,
    Message,
    RaftConfig,
    VoteReply,
)


def append(
    entries: Sequence[Entry], *, prev: tuple[int, int], term: int, commit: int = 0, round: int = 0
) -> Append:
    prev_index, prev_term = prev
    body = Batch(entries).body if entries else b""
    return Append(term, "b", prev_index, prev_term, commit, round, body)


def take_replies(member: Member) -> list[AppendReply]:
    found = [m for _, m in member.outbox if isinstance(m, AppendReply)]
    member.outbox.clear()
    return found


def terms(member: Member) -> list[int]:
    return [member.raft.term_at(index) or 0 for index in range(1, member.raft.last_index + 1)]


# -- the follower's side (paper, figure 7 and 5.3) ---------------------------------------------------


FIGURE_7 = {
    "a: one entry is missing": [1, 1, 1, 4, 4, 5, 5, 6, 6],
    "b: most are missing": [1, 1, 1, 4],
    "c: one too many": [1, 1, 1, 4, 4, 5, 5, 6, 6, 6, 6],
    "d: two of a later term": [1, 1, 1, 4, 4, 5, 5, 6, 6, 6, 7, 7],
    "e: others of an older term": [1, 1, 1, 4, 4, 4, 4],
    "f: others of two older terms": [1, 1, 1, 2, 2, 2, 3, 3, 3, 3, 3],
}
LEADER_LOG = [1, 1, 1, 4, 4, 5, 5, 6, 6, 6]


@pytest.mark.parametrize("case", FIGURE_7)
def test_a_leader_brings_every_log_of_figure_7_to_its_own(case: str) -> None:
    leader = lone("a", LEADER_LOG, term=7)
    follower = lone("b", FIGURE_7[case], term=7)
    leader.raft.campaign()
    leader.pump()
    leader.raft.step(VoteReply(8, "c", True, True))
    leader.pump()
    leader.finish_saves()
    leader.raft.step(VoteReply(8, "c", True, False))
    trips = 0
    while follower.raft.last_index < leader.raft.last_index or leader.raft.commit < leader.raft.last_index:
        trips += 1
        assert trips < 8, "a step back for each term, not for each entry"
        leader.pump()
        leader.finish_saves()
        for to, message in list(leader.outbox):
            if to == "b":
                follower.raft.step(message)
        leader.outbox.clear()
        follower.pump()
        follower.finish_saves()
        for _, message in follower.outbox:
            leader.raft.step(message)
        follower.outbox.clear()
    assert terms(follower) == [*LEADER_LOG, 8]


def test_an_acknowledgement_waits_for_the_save() -> None:
    """Bug 4."""
    member = lone("a", [1])
    member.raft.step(append([entry(1, 2), entry(1, 3)], prev=(1, 1), term=1))
    member.pump()
    assert take_replies(member) == []
    member.finish_saves()
    (reply,) = take_replies(member)
    assert (reply.ok, reply.match) == (True, 3)


def test_a_heartbeat_during_a_save_is_answered_at_once_but_covers_only_what_is_durable() -> None:
    member = lone("a", [1])
    member.raft.step(append([entry(1, 2)], prev=(1, 1), term=1))
    member.pump()
    member.raft.step(append([], prev=(2, 1), term=1, round=9))
    member.pump()
    (reply,) = take_replies(member)
    assert (reply.ok, reply.match, reply.round) == (True, 1, 9)


def test_appends_that_are_saved_together_are_acknowledged_by_one_word() -> None:
    member = lone("a", [1])
    for index in (2, 3, 4):
        member.raft.step(append([entry(1, index)], prev=(index - 1, 1), term=1, round=index))
    member.pump()
    assert len(member.disk.pending) == 1
    member.finish_saves()
    (reply,) = take_replies(member)
    assert (reply.match, reply.round) == (4, 4)


def test_an_acknowledgement_of_an_old_term_is_dropped_when_its_entries_were_replaced_unsaved() -> None:
    member = lone("a", [1])
    member.raft.step(append([entry(1, 2), entry(1, 3)], prev=(1, 1), term=1))
    member.raft.step(Append(2, "c", 1, 1, 0, 0, Batch([entry(2, 2)]).body))
    member.pump()
    member.finish_saves()
    assert [(r.term, r.match) for r in take_replies(member)] == [(2, 2)]


@pytest.mark.parametrize(
    "old",
    [
        append([entry(1, 2)], prev=(1, 1), term=3),
        append([entry(1, 2), entry(1, 3)], prev=(1, 1), term=3),
        append([], prev=(2, 1), term=3),
        append([], prev=(0, 0), term=3),
    ],
)
def test_an_old_or_doubled_append_shortens_nothing(old: Append) -> None:
    """Bug 17."""
    member = lone("a", [1, 1, 1, 3, 3], term=3)
    member.raft.step(old)
    member.pump()
    assert terms(member) == [1, 1, 1, 3, 3]
    assert not member.disk.pending or member.disk.pending[0].append is None


def test_a_conflicting_suffix_is_replaced_from_the_first_difference_on() -> None:
    member = lone("a", [1, 1, 2, 2, 2], term=3)
    member.raft.step(append([entry(1, 2), entry(3, 3)], prev=(1, 1), term=3))
    member.pump()
    assert terms(member) == [1, 1, 3]
    saved = member.disk.pending[0].append
    assert saved is not None
    assert saved.first == 3, "what agrees is not written again"


def test_what_is_committed_is_never_truncated() -> None:
    member = lone("a", [1, 1, 2], term=2, commit=3)
    with pytest.raises(AssertionError, match="never truncated"):
        member.raft.step(append([entry(3, 3)], prev=(2, 1), term=3))
    with pytest.raises(AssertionError, match="committed entries agree"):
        member.raft.step(append([entry(3, 4)], prev=(3, 3), term=3))


def test_a_follower_commits_no_further_than_it_is_known_to_agree() -> None:
    """Its log may be longer than what this Append vouches for, by entries of another leader."""
    member = lone("a", [1, 1, 2, 2, 2], term=3)
    member.raft.step(append([], prev=(2, 1), term=3, commit=5))
    assert member.raft.commit == 2


def test_what_is_applied_is_durable_here_though_others_committed_it_sooner() -> None:
    member = lone("a", [1])
    member.raft.step(append([entry(1, 2)], prev=(1, 1), term=1, commit=2))
    member.pump()
    assert member.raft.commit == 2
    assert member.applied_index == 1
    member.finish_saves()
    assert member.applied_index == 2


@pytest.mark.parametrize(
    "body",
    [
        b"\x00",
        b"not a batch",
        Batch([entry(1, 7)]).body,  # not at its place
        Batch([entry(9, 2)]).body,  # of a term after the leader's
        Batch([entry(1, 2, b"?")]).body.replace(b"\x00", b"\x02"),  # a voter set that is none
    ],
)
def test_an_append_that_no_leader_would_send_is_dropped_and_counted(body: bytes) -> None:
    member = lone("a", [1])
    member.raft.step(Append(1, "b", 1, 1, 0, 0, body))
    member.pump()
    assert member.raft.last_index == 1
    assert member.raft.status().malformed_messages == 1


def test_the_bytes_that_came_are_the_bytes_that_are_saved() -> None:
    member = lone("a", [1])
    message = append([entry(1, 2, b"x"), entry(1, 3, b"y")], prev=(1, 1), term=1)
    member.raft.step(message)
    member.pump()
    saved = member.disk.pending[0].append
    assert saved is not None
    assert saved.body is message.body


# -- the leader's side -------------------------------------------------------------------------------


def appends(member: Member, to: str) -> list[Append]:
    return [m for t, m in member.outbox if t == to and isinstance(m, Append)]


def test_entries_travel_before_they_are_durable_here_and_are_encoded_once() -> None:
    group = Group("abc")
    leader = group.elect("a")
    leader.raft.propose([b"x", b"y"])
    leader.pump()
    assert leader.raft.durable_index < leader.raft.last_index
    (to_b,), (to_c,) = appends(leader, "b"), appends(leader, "c")
    saved = leader.disk.pending[0].append
    assert saved is not None
    assert to_b.body is to_c.body
    assert to_b.body is saved.body


def test_a_majority_of_others_commits_while_the_leaders_own_disk_still_works() -> None:
    group = Group("abc")
    leader = group.elect("a")
    index = leader.raft.propose([b"x"])
    leader.pump()
    for to, message in list(leader.outbox):
        group.deliver("a", to, message)
    leader.outbox.clear()
    for id in "bc":
        group[id].pump()
        group[id].finish_saves()
        for _, message in group[id].outbox:
            leader.raft.step(message)
        group[id].outbox.clear()
    leader.pump()
    assert leader.raft.commit == index
    assert leader.applied_index < index, "but the leader itself applies only what it has durably"
    leader.finish_saves()
    assert leader.applied_index == index


def test_what_is_proposed_together_is_one_batch_and_one_save() -> None:
    group = Group("abc")
    leader = group.elect("a")
    first = leader.raft.propose([b"1", b"2", b"3"])
    leader.pump()
    (message,) = appends(leader, "b")
    assert [e.index for e in Batch.decode(message.body).entries] == [first, first + 1, first + 2]
    assert len(leader.disk.pending) == 1


def test_a_large_proposal_is_cut_at_the_batch_limit() -> None:
    group = Group("ab", config=RaftConfig(heartbeat_ticks=1, election_ticks=10, max_batch_bytes=300))
    leader = group.elect("a")
    leader.raft.propose([b"x" * 100] * 10)
    leader.pump()
    sizes = [Batch.decode(m.body).size for m in appends(leader, "b")]
    assert len(sizes) == 5
    assert max(sizes) <= 300
    assert all(s.append is None or s.append.size <= 300 for s in leader.disk.pending)
    group.settle()
    assert group["b"].commands() == [b"x" * 100] * 10


def test_a_follower_that_does_not_answer_holds_no_more_than_the_window() -> None:
    config = RaftConfig(heartbeat_ticks=1, election_ticks=10, max_inflight_batches=4)
    group = Group("abc", config=config)
    leader = group.elect("a")
    group.isolate("c")
    for number in range(20):
        leader.raft.propose([b"%d" % number])
        group.settle()
    peer = next(p for p in leader.raft.status().peers if p.id == "c")
    assert peer.inflight == 4
    group.heal()
    group.tick(3)
    assert group["c"].commands() == [b"%d" % number for number in range(20)]


def test_a_lost_append_is_noticed_and_sent_again() -> None:
    group = Group("abc")
    leader = group.elect("a")
    group.drop = lambda to, m: to == "c" and isinstance(m, Append) and m.body != b""
    leader.raft.propose([b"lost"])
    group.settle()
    group.drop = lambda to, m: False
    group.tick(2)
    assert group["c"].commands() == [b"lost"]


def test_a_leader_without_a_quorum_piles_up_only_so_much() -> None:
    """Bug 31's half in the core."""
    config = RaftConfig(heartbeat_ticks=1, election_ticks=10, max_uncommitted_bytes=1000)
    group = Group("abc", config=config)
    leader = group.elect("a")
    group.isolate("a")
    leader.raft.propose([b"x" * 700])
    with pytest.raises(Busy, match=r"1000 \(max_uncommitted_bytes\)"):
        leader.raft.propose([b"x" * 700])
    group.heal()
    group.tick(3)
    leader.raft.propose([b"x" * 700])


def test_only_the_leader_takes_proposals_and_the_others_name_it() -> None:
    group = Group("abc")
    group.elect("a")
    with pytest.raises(NotLeader) as refused:
        group["b"].raft.propose([b"x"])
    assert refused.value.leader == "a"


def test_a_write_that_a_majority_holds_survives_any_minority() -> None:
    group = Group("abcde")
    leader = group.elect("a")
    group.isolate("d", "e")
    leader.raft.propose([b"kept"])
    group.settle()
    leader.crash()
    group["b"].crash()
    group.heal()
    group.tick(100)
    assert all(b"kept" in member.commands() for member in group.up)


def test_an_entry_of_a_deposed_leader_gives_way() -> None:
    group = Group("abc")
    old = group.elect("a")
    group.split("a", "bc")
    index = old.raft.propose([b"never"])
    group.settle()
    new = group.elect("b")
    new.raft.propose([b"always"])
    group.settle()
    group.heal()
    group.tick(5)
    assert old.commands() == [b"always"]
    assert old.raft.term_at(index) == new.raft.term


def test_what_was_applied_before_a_restart_is_not_applied_again() -> None:
    """Bug 18, the core's half: it starts from the applied index that it is told."""
    member = lone("a", [1, 1, 1], voters="a", commit=3)
    for _ in range(30):
        member.raft.tick()
        member.pump()
        member.finish_saves()
    assert [e.index for e in member.applied] == [4]


def test_messages_from_nobody_or_from_itself_are_dropped() -> None:
    member = lone("a", [1])
    strange: list[Message] = [Append(9, "", 0, 0, 0, 0, b""), Append(9, "a", 0, 0, 0, 0, b"")]
    for message in strange:
        member.raft.step(message)
    assert member.raft.term == 1
