"""Votes taken on demand, over a real group of the core: tried until committed, refused where it harms."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from support.raft_group import Group, Member

from gemot.server.model.errors import NotLeader, OutcomeUnknown, RuleFailed, Unavailable
from gemot.server.raft.types import Append, Message
from gemot.server.voting import Voting

HOLD_MS = 7_000


class Scene:
    """The voters of a group, led by "a"; `alive` are those that answer."""

    def __init__(self, ids: str) -> None:
        self.group = Group(ids)
        self.leader: Member = self.group.elect("a")
        self.raft = self.leader.raft
        self.alive = list(ids)
        self.unheard: list[str] = []
        self.now_ms = 0
        self.told: list[Any] = []
        self.voting = Voting(
            replica=self,  # type: ignore[arg-type]
            alive=lambda: self.alive,
            answered=lambda: [id for id in self.alive if id not in self.unheard],
            name=lambda id: f"srv-{id}",
            now_ms=lambda: self.now_ms,
            hold_ms=HOLD_MS,
        )

    @property
    def leads(self) -> bool:
        return self.raft.leader == "a"

    def change_voters(self, voters: Sequence[str]) -> None:
        self.raft.change_voters(voters)

    def pass_ticks(self, count: int = 1) -> None:
        for _ in range(count):
            self.group.tick(1)
            self.voting.on_tick()


def _appends(to: str, message: Message) -> bool:
    return isinstance(message, Append) and message.body != b""


def test_a_vote_is_taken_and_told_once_that_is_committed() -> None:
    scene = Scene("abc")
    scene.group.drop = _appends
    scene.voting.remove("c", scene.told.append)
    scene.pass_ticks(3)
    assert scene.raft.voters == ("a", "b")
    assert scene.told == [], "logged is not committed"
    scene.group.heal()
    scene.pass_ticks(3)
    assert scene.told == [True]


def test_two_demands_go_one_after_the_other() -> None:
    scene = Scene("abcde")
    for id in "de":
        scene.voting.remove(id, scene.told.append)
    scene.pass_ticks(5)
    assert scene.told == [True, True]
    assert scene.raft.voters == ("a", "b", "c")


def test_who_has_no_vote_has_nothing_taken() -> None:
    scene = Scene("abc")
    scene.voting.remove("z", scene.told.append)
    assert scene.told == [True]


def test_a_leader_that_gives_its_vote_back_is_told_though_it_leads_no_more() -> None:
    scene = Scene("abc")
    scene.voting.remove("a", scene.told.append)
    scene.pass_ticks(3)
    assert scene.told == [True]
    assert not scene.leads


@pytest.mark.parametrize(
    ("ids", "alive", "removed", "text"),
    [
        ("a", "a", "a", "srv-a is the only voter"),
        ("abc", "ab", "b", "without srv-b only 1 of 2 voters would answer, and 2 have to agree: start or "),
        ("abcd", "ac", "c", "only 1 of 3"),
    ],
)
def test_what_would_leave_no_quorum_is_refused(ids: str, alive: str, removed: str, text: str) -> None:
    scene = Scene(ids)
    scene.alive = list(alive)
    scene.voting.remove(removed, scene.told.append)
    (refusal,) = scene.told
    assert isinstance(refusal, RuleFailed)
    assert text in refusal.message
    assert scene.raft.voters == tuple(ids)


def test_a_dead_one_may_always_go() -> None:
    scene = Scene("abc")
    scene.alive = ["a", "b"]
    scene.voting.remove("c", scene.told.append)
    scene.pass_ticks(3)
    assert scene.told == [True]


def test_a_change_that_is_not_committed_in_time_is_told_as_such() -> None:
    scene = Scene("abc")
    scene.group.drop = _appends
    scene.voting.remove("c", scene.told.append)
    scene.now_ms = HOLD_MS
    scene.pass_ticks(1)
    (error,) = scene.told
    assert isinstance(error, OutcomeUnknown)
    assert error.message == "the vote of srv-c may be taken yet: the change is not committed yet"


def test_a_change_that_could_not_begin_in_time_is_surely_not_done() -> None:
    scene = Scene("abcde")
    scene.group.drop = _appends
    for id in "de":
        scene.voting.remove(id, scene.told.append)
    scene.now_ms = HOLD_MS
    scene.pass_ticks(1)
    assert [type(error) for error in scene.told] == [OutcomeUnknown, Unavailable]
    assert "the vote of srv-e could not be taken" in scene.told[1].message


def test_a_leader_that_is_one_no_more_does_not_know_whether_its_change_stays() -> None:
    """It was told as undone, and asked again: `not found`, of a voter whose removal the next leader kept."""
    scene = Scene("abc")
    scene.group.isolate("a")
    for _ in range(2):
        scene.voting.remove("c", scene.told.append)
    scene.pass_ticks(15)
    assert not scene.leads
    assert [type(error) for error in scene.told] == [OutcomeUnknown] * 2


def test_a_leader_that_is_one_no_more_before_anything_was_changed_says_so() -> None:
    scene = Scene("abcde")
    scene.unheard = ["d", "e"]
    scene.voting.remove("b", scene.told.append)
    scene.group.isolate("a")
    scene.pass_ticks(15)
    (error,) = scene.told
    assert isinstance(error, NotLeader)


def test_nothing_is_changed_on_the_hope_that_the_others_live() -> None:
    """A new leader has heard nobody yet: whoever is dead looks alive to it for an election timeout."""
    scene = Scene("abcde")
    scene.unheard = ["d", "e"]
    scene.voting.remove("b", scene.told.append)
    scene.pass_ticks(3)
    assert scene.told == []
    assert scene.raft.voters == tuple("abcde")
    scene.alive = ["a", "b", "c"]
    scene.pass_ticks(1)
    (refusal,) = scene.told
    assert isinstance(refusal, RuleFailed)
    assert "only 2 of 4 voters would answer" in refusal.message
    assert scene.raft.voters == tuple("abcde")


def test_a_demand_waits_until_the_others_have_answered() -> None:
    scene = Scene("abcde")
    scene.unheard = ["d", "e"]
    scene.voting.remove("b", scene.told.append)
    scene.unheard = ["e"]
    scene.pass_ticks(3)
    assert scene.told == [True]
