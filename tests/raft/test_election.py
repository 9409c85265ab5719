"""Elections: who may lead, what a vote costs, and what disturbs a leader (bug list 1 to 3, 8 to 11)."""

from __future__ import annotations

import pytest
from support.raft_group import CONFIG, Group, Member, lone, voters_entry

from gemot.server.raft.types import (
    Append,
    AppendReply,
    Batch,
    HardState,
    Message,
    RaftConfig,
    Role,
    VoteAsk,
    VoteReply,
)


def ask(
    sender: str = "b", *, term: int, last: tuple[int, int], pre: bool = False, force: bool = False
) -> VoteAsk:
    last_term, last_index = last
    return VoteAsk(term, sender, last_index, last_term, pre, force)


def answers(member: Member) -> list[Message]:
    """What it says at once and after its saves."""
    member.pump()
    member.finish_saves()
    found = [message for _, message in member.outbox]
    member.outbox.clear()
    return found


def votes(member: Member) -> list[tuple[int, bool]]:
    return [(m.term, m.granted) for m in answers(member) if isinstance(m, VoteReply)]


# -- votes -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("last", "granted"),
    [
        ((2, 3), True),  # as complete as ours
        ((2, 4), True),  # longer
        ((3, 1), True),  # a later last term wins over length
        ((2, 2), False),  # shorter
        ((1, 9), False),  # longer, but of an older last term
    ],
)
def test_a_vote_is_given_only_to_a_log_as_complete_as_ours(last: tuple[int, int], granted: bool) -> None:
    member = lone("a", [1, 1, 2])
    member.raft.step(ask(term=5, last=last))
    assert votes(member) == [(5, granted)]


def test_one_vote_a_term() -> None:
    member = lone("a", [1])
    member.raft.step(ask("b", term=5, last=(1, 1)))
    member.raft.step(ask("c", term=5, last=(1, 9)))
    assert sorted(votes(member)) == [(5, False), (5, True)]


def test_the_same_candidate_may_ask_again() -> None:
    member = lone("a", [1])
    for _ in range(2):
        member.raft.step(ask("b", term=5, last=(1, 1)))
    assert votes(member) == [(5, True), (5, True)]


def test_a_vote_leaves_only_after_it_is_durable() -> None:
    """Bug 3."""
    member = lone("a", [1])
    member.raft.step(ask("b", term=5, last=(1, 1)))
    member.pump()
    assert not member.outbox
    member.finish_saves()
    assert member.disk.hard_state == HardState(5, "b")
    assert [m for _, m in member.outbox] == [VoteReply(5, "a", True, False)]


def test_a_doubled_ask_while_the_vote_is_being_saved_is_not_answered_before_the_save() -> None:
    member = lone("a", [1])
    member.raft.step(ask("b", term=5, last=(1, 1)))
    member.pump()
    member.raft.step(ask("b", term=5, last=(1, 1)))
    member.pump()
    assert not member.outbox
    member.finish_save()
    assert len(member.outbox) == 1, "the second answer has a save of its own to wait for"
    member.finish_save()
    assert len(member.outbox) == 2


def test_a_vote_that_was_never_saved_is_never_sent() -> None:
    """A newer term came before the save began: the older vote is not on the disk, nor will it be."""
    member = lone("a", [1])
    member.raft.step(ask("b", term=5, last=(1, 1)))
    member.raft.step(ask("c", term=6, last=(1, 1)))
    assert votes(member) == [(6, True)]


def test_a_vote_survives_a_crash() -> None:
    member = lone("a", [1])
    member.raft.step(ask("b", term=5, last=(1, 1)))
    answers(member)
    member.crash()
    member.restart()
    member.raft.step(ask("c", term=5, last=(1, 9)))
    assert votes(member) == [(5, False)]


def test_a_candidate_asks_for_votes_only_after_its_term_and_own_vote_are_durable() -> None:
    member = lone("a", [1])
    member.raft.campaign()
    member.pump()
    for voter in "bc":
        member.raft.step(VoteReply(2, voter, True, True))
    member.outbox.clear()
    member.pump()
    assert member.raft.role == Role.CANDIDATE
    assert not member.outbox
    member.finish_saves()
    assert member.disk.hard_state == HardState(2, "a")
    assert sum(isinstance(m, VoteAsk) and not m.pre for _, m in member.outbox) == 2


def test_the_wait_for_an_election_is_drawn_anew_each_time() -> None:
    member = lone("a", [1], config=RaftConfig(heartbeat_ticks=3, election_ticks=50))
    waits: list[int] = []
    since = 0
    for tick in range(2000):
        member.raft.tick()
        member.pump()
        if member.outbox:
            waits.append(tick - since)
            since = tick
            member.outbox.clear()
    assert len(set(waits)) > 5
    assert all(50 <= wait < 101 for wait in waits)


# -- pre-vote ----------------------------------------------------------------------------------------


def test_a_pre_vote_changes_nothing_durable_on_either_side() -> None:
    """Bug 9."""
    asked, asking = lone("b", [1]), lone("a", [1])
    asked.raft.step(ask("a", term=9, last=(1, 1), pre=True))
    assert answers(asked) == [VoteReply(9, "b", True, True)]
    asking.raft.campaign()
    asking.pump()
    for member in (asked, asking):
        assert member.disk.hard_state == HardState(1, "")
        assert not member.disk.pending
        assert member.raft.term == 1


def test_a_server_that_cannot_win_never_raises_its_term() -> None:
    group = Group("abc")
    group.elect("a")
    group.isolate("b")
    group.tick(200)
    assert group["b"].raft.term == group["a"].raft.term
    group.heal()
    group.tick(20)
    assert group["a"].raft.role == Role.LEADER, "its return disturbs nobody"
    assert group["b"].raft.leader == "a"


def test_a_server_that_hears_its_leader_hears_no_candidate() -> None:
    member = lone("a", [1])
    member.raft.step(Append(1, "c", 1, 1, 0, 0, b""))
    answers(member)
    for pre in (True, False):
        member.raft.step(ask("b", term=7, last=(9, 9), pre=pre))
    assert answers(member) == []
    assert member.raft.term == 1


def test_a_pre_vote_asked_of_it_does_not_put_off_a_servers_own_election() -> None:
    """Bug 9 (hashicorp/raft #605): being asked is no contact with a leader."""
    member = lone("a", [1, 1])
    for _ in range(2 * CONFIG.election_ticks):
        member.raft.tick()
        member.raft.step(ask("b", term=2, last=(1, 1), pre=True))
    assert any(isinstance(m, VoteAsk) for m in answers(member))


def test_a_member_with_a_higher_term_than_the_leader_is_taken_back() -> None:
    """Bugs 9 and 11: check-quorum and pre-vote shut it out for ever, did the leader not learn its term."""
    group = Group("abc")
    group.elect("a")
    group["b"].crash()
    group["b"].disk.hard_state = HardState(40, "b")
    group["b"].restart()
    group.tick(60)
    assert group.leader().raft.term > 40
    assert len({member.raft.leader for member in group.up}) == 1


def test_an_old_leaders_append_is_answered_with_the_newer_term() -> None:
    member = lone("a", [1], term=8)
    member.raft.step(Append(3, "b", 0, 0, 0, 4, b""))
    (reply,) = answers(member)
    assert isinstance(reply, AppendReply)
    assert (reply.term, reply.ok, reply.round) == (8, False, 0)


def test_an_old_candidate_is_told_the_newer_term() -> None:
    member = lone("a", [1], term=8)
    member.raft.step(ask("b", term=3, last=(9, 9), pre=True))
    assert votes(member) == [(8, False)]


# -- leaders -----------------------------------------------------------------------------------------


def test_a_single_server_leads_itself_without_a_message() -> None:
    group = Group("a")
    group.tick(30)
    raft = group["a"].raft
    assert raft.role == Role.LEADER
    index = raft.propose([b"x"])
    group.settle()
    assert raft.commit == index
    raft.read_index(1)
    group.settle()
    assert group["a"].reads[-1].index == index
    assert not group["a"].outbox


def test_a_single_server_leads_only_once_its_own_vote_is_durable() -> None:
    member = lone("a", [1], voters="a")
    member.raft.campaign()
    member.pump()
    assert member.raft.role == Role.CANDIDATE
    member.finish_saves()
    assert member.raft.role.name == "LEADER"


def test_a_new_leader_commits_an_empty_entry_of_its_own() -> None:
    """Bug 2."""
    group = Group("abc")
    leader = group.elect("a")
    assert leader.raft.commit == leader.raft.last_index
    assert leader.raft.term_at(leader.raft.commit) == leader.raft.term


def test_a_leader_without_a_quorum_steps_down_within_an_election_timeout() -> None:
    group = Group("abc")
    leader = group.elect("a")
    group.isolate("a")
    group.tick(CONFIG.election_ticks, "a")
    assert leader.raft.role == Role.FOLLOWER
    assert leader.raft.leader == ""


def test_learners_keep_no_leader_in_office() -> None:
    """Bug 8: three voters and four learners; the voters are cut off, the learners answer."""
    group = Group("abcdefg", voters="abc")
    leader = group.elect("a")
    leader.raft.feed(list("defg"))
    group.tick(3)
    assert group["g"].raft.last_index == leader.raft.last_index
    group.isolate("b", "c")
    before = leader.raft.commit
    leader.raft.propose([b"x"])
    group.tick(3)
    assert group["d"].raft.last_index == leader.raft.last_index
    assert leader.raft.commit == before, "learners commit nothing"
    leader.raft.read_index(77)
    group.tick(CONFIG.election_ticks)
    assert leader.raft.role == Role.FOLLOWER
    assert [read.index for read in leader.reads] == [0], "learners confirm no read"


def test_a_server_outside_the_voter_set_never_campaigns() -> None:
    learner = lone("d", [1], voters="abc")
    nobody = lone("a", [])
    for _ in range(200):
        learner.raft.tick()
        nobody.raft.tick()
    nobody.raft.step(ask("b", term=3, last=(9, 9)))
    nobody.raft.step(ask("b", term=3, last=(9, 9), pre=True))
    assert answers(learner) == []
    assert answers(nobody) == [], "and one that belongs to no cluster does not even answer"


def test_a_server_that_does_not_know_of_its_promotion_votes() -> None:
    """Bug 15 (etcd, campaign_learner_must_vote): else one crash could leave a majority without a leader."""
    member = lone("d", [1], voters="abc")
    member.raft.step(ask("b", term=5, last=(2, 4)))
    assert votes(member) == [(5, True)]


def test_figure_8_an_entry_of_an_older_term_is_not_committed_by_counting() -> None:
    """Bug 1, paper 5.4.2: S1 leads, then S5, then S1 again, which brings its old entry to a majority."""
    group = Group("abcde", config=RaftConfig(heartbeat_ticks=1, election_ticks=10, max_batch_bytes=1))
    s1 = group.elect("a")
    group.split("ab", "cde")
    old = s1.raft.propose([b"two"])
    group.settle()
    s1.crash()
    group["b"].crash()
    group.drop = lambda to, m: isinstance(m, Append)
    s5 = group.elect("e")
    s5.crash()
    s1.restart()
    group["b"].restart()
    group.heal()
    group.drop = lambda to, m: isinstance(m, Append) and has_newer_entries(m, s5.raft.term)
    leader = group.elect("a")
    group.tick(5)
    assert s5.disk.durable.term(old) == s5.raft.term, "S5 holds another entry there, of a newer term"
    held = [m.id for m in group.up if m.disk.durable.term(old) == s1.raft.term_at(old)]
    assert held == ["a", "b", "c", "d"], "the old entry is durable on a majority"
    assert leader.raft.commit < old, "and yet not committed: S5 could still overwrite it"
    group.heal()
    group.tick(3)
    assert leader.raft.commit > old, "an entry of the own term commits it"


def has_newer_entries(message: Append, term: int) -> bool:
    return bool(message.body) and Batch.decode(message.body).last_term > term


def test_a_voters_entry_names_each_founder() -> None:
    group = Group("abc")
    assert group["b"].raft.entries(1, 1) == (voters_entry(1, 1, "abc"),)
