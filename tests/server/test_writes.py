"""A write's way to the leader: held, forwarded, tried again; and never called undone when it may be done."""

from __future__ import annotations

from typing import Any

import pytest
from support.virtual import VirtualTimer, chance

from gemot.server import writes as writes_module
from gemot.server.model.command import Command, IdempotencyKey, RetryId, weight
from gemot.server.model.errors import (
    Busy,
    Conflict,
    GemotError,
    NoLeader,
    NotLeader,
    OlderRelease,
    OutcomeForgotten,
    OutcomeUnknown,
    RuleFailed,
    Unavailable,
)
from gemot.server.model.kv import KvSet
from gemot.server.model.query import Applied
from gemot.server.model.session import RenewSession
from gemot.server.writes import Done, Name, RetryIds, Writes

HOLD_MS = 7_000
WRITE = KvSet(b"k", b"v")
DONE = Applied(9, True)


class Scene:
    """This server and the one it forwards to; every try waits in `tries` for the test's answer."""

    def __init__(self) -> None:
        self.timer = VirtualTimer()
        self.leads = False
        self.leader = "srv2"
        self.waiting = ""
        self.tries: list[tuple[str, Name, Done]] = []
        self.ids = RetryIds(b"origin")
        self.writes = Writes(
            proposer=self,
            forwarder=self,
            ids=self.ids,
            timer=self.timer,
            random=chance(),
            hold_ms=HOLD_MS,
            waiting=lambda: self.waiting,
        )

    def leader_id(self) -> str:
        return self.leader

    def propose(self, command: Command, accessor: str, retry: Name, done: Done) -> None:
        self.tries.append(("here", retry, done))

    def forward(self, to: str, command: Command, accessor: str, retry: Name, done: Done) -> None:
        self.tries.append((to, retry, done))

    def apply(self, retry: Name = None, hold_ms: int = 0, command: Command = WRITE) -> list[Any]:
        told: list[Any] = []
        self.writes.apply(command, "", retry, told.append, hold_ms=hold_ms)
        return told

    def answer(self, result: Applied | GemotError, number: int = -1) -> None:
        self.tries[number][2](result)

    def pass_ms(self, ms: int) -> None:
        self.timer.pass_ms(ms, tick=self.writes.on_tick)


def test_a_leader_proposes_itself_without_a_retry_id() -> None:
    scene = Scene()
    scene.leads = True
    told = scene.apply()
    assert scene.tries[0][:2] == ("here", None)
    scene.answer(DONE)
    assert told == [DONE]
    assert scene.writes.held == 0


def test_a_follower_forwards_once_under_a_retry_id() -> None:
    scene = Scene()
    told = scene.apply()
    assert scene.tries[0][:2] == ("srv2", RetryId(b"origin", 1, 0))
    scene.pass_ms(1_000)
    assert len(scene.tries) == 1
    scene.answer(DONE)
    assert told == [DONE]


@pytest.mark.parametrize("name", [RetryId(b"web", 4, 2), IdempotencyKey("k", b"hash")])
def test_a_callers_own_name_is_kept(name: Name) -> None:
    scene = Scene()
    scene.apply(name)
    assert scene.tries[0][1] == name


def test_without_a_leader_a_write_is_held_and_done_when_there_is_one() -> None:
    scene = Scene()
    scene.leader = ""
    told = scene.apply()
    scene.pass_ms(HOLD_MS - 200)
    assert told == []
    assert scene.tries == []
    scene.leader = "srv3"
    scene.pass_ms(100)
    assert scene.tries[0][0] == "srv3"
    scene.answer(DONE)
    assert told == [DONE]


@pytest.mark.parametrize(("given_ms", "held_ms"), [(2_000, 2_000), (60_000, HOLD_MS)])
def test_a_caller_with_less_time_is_answered_in_it(given_ms: int, held_ms: int) -> None:
    scene = Scene()
    scene.leader = ""
    told = scene.apply(hold_ms=given_ms)
    scene.pass_ms(held_ms - 50)
    assert told == []
    scene.pass_ms(50)
    assert [type(error) for error in told] == [NoLeader]


def test_what_is_waited_for_is_told_with_the_outcome() -> None:
    scene = Scene()
    scene.waiting = "Waiting for quorum: have 1 of 3 (srv1)"
    perhaps_done = scene.apply()
    scene.leader = ""
    undone = scene.apply()
    scene.pass_ms(HOLD_MS)
    assert str(undone[0]) == "No cluster leader: waiting for quorum: have 1 of 3 (srv1)"
    assert type(perhaps_done[0]) is OutcomeUnknown
    assert str(perhaps_done[0]).endswith("; at present: waiting for quorum: have 1 of 3 (srv1)")


def test_a_write_that_never_left_is_surely_not_done_at_the_hold_time() -> None:
    scene = Scene()
    scene.leader = ""
    told = scene.apply()
    scene.pass_ms(HOLD_MS - 50)
    assert told == []
    scene.pass_ms(50)
    assert [type(error) for error in told] == [NoLeader]


def test_a_write_that_left_and_was_not_answered_is_unknown() -> None:
    scene = Scene()
    told = scene.apply()
    scene.pass_ms(HOLD_MS)
    assert [type(error) for error in told] == [OutcomeUnknown]
    scene.answer(DONE)
    assert len(told) == 1


def test_a_try_that_surely_failed_goes_to_the_new_leader_under_the_same_id() -> None:
    scene = Scene()
    told = scene.apply()
    scene.answer(NotLeader("srv3"))
    scene.leader = "srv3"
    scene.pass_ms(60)
    assert [to for to, _, _ in scene.tries] == ["srv2", "srv3"]
    assert scene.tries[0][1] == scene.tries[1][1]
    scene.answer(DONE)
    assert told == [DONE]


def test_a_broken_try_is_made_again_under_its_id_by_this_server_too() -> None:
    scene = Scene()
    told = scene.apply()
    scene.answer(OutcomeUnknown("broke"))
    scene.leads = True
    scene.pass_ms(60)
    assert scene.tries[1][:2] == ("here", RetryId(b"origin", 1, 0))
    scene.answer(DONE)
    assert told == [DONE]


@pytest.mark.parametrize("later", [NoLeader(), NotLeader("srv3"), Unavailable("refused")])
def test_after_a_broken_try_surely_not_done_is_never_said(later: GemotError) -> None:
    scene = Scene()
    told = scene.apply()
    scene.answer(OutcomeUnknown("broke"))
    scene.pass_ms(60)
    scene.answer(later)
    scene.leader = ""
    scene.pass_ms(HOLD_MS)
    assert [type(error) for error in told] == [OutcomeUnknown]


@pytest.mark.parametrize("refusal", [Busy("full"), OlderRelease("srv2 is of an older release")])
def test_what_concerns_one_try_alone_is_told_at_once_unless_an_earlier_one_may_be_done(
    refusal: GemotError,
) -> None:
    scene = Scene()
    told = scene.apply()
    scene.answer(refusal)
    assert told == [refusal]
    told = scene.apply()
    scene.answer(OutcomeUnknown("broke"))
    scene.pass_ms(60)
    scene.answer(refusal)
    assert [type(error) for error in told] == [OutcomeUnknown]


@pytest.mark.parametrize("refusal", [RuleFailed("no"), Conflict("other body"), OutcomeForgotten("old")])
def test_a_refusal_by_a_rule_is_final(refusal: GemotError) -> None:
    scene = Scene()
    told = scene.apply()
    scene.answer(refusal)
    scene.pass_ms(1_000)
    assert told == [refusal]
    assert len(scene.tries) == 1


def test_an_unnamed_write_of_unknown_outcome_is_not_tried_again() -> None:
    """The leader's own proposal carries no id: a second one could be applied twice."""
    scene = Scene()
    scene.leads = True
    told = scene.apply()
    scene.answer(OutcomeUnknown("a snapshot came between"))
    scene.pass_ms(1_000)
    assert len(scene.tries) == 1
    assert isinstance(told[0], OutcomeUnknown)


@pytest.mark.parametrize("leads", [True, False])
def test_a_renewal_has_no_name_and_is_tried_again_all_the_same(leads: bool) -> None:
    """Twice applied it counts from the second, and tells whether the session lives by then."""
    scene = Scene()
    scene.leads = leads
    told = scene.apply(command=RenewSession("s1"))
    scene.answer(OutcomeUnknown("broke"))
    scene.pass_ms(60)
    assert [name for _, name, _ in scene.tries] == [None, None]
    scene.answer(DONE)
    assert told == [DONE]


def test_an_answer_to_a_former_try_is_not_taken_for_the_present_one() -> None:
    scene = Scene()
    told = scene.apply()
    scene.answer(NotLeader(""))
    scene.pass_ms(60)
    assert len(scene.tries) == 2
    scene.answer(NotLeader(""), number=0)
    scene.pass_ms(60)
    assert len(scene.tries) == 2, "the second try is still under way"
    scene.answer(DONE)
    assert told == [DONE]


def test_more_writes_than_the_limit_are_refused_naming_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writes_module, "MAX_HELD", 2)
    scene = Scene()
    scene.apply()
    scene.apply()
    refused = scene.apply()
    assert isinstance(refused[0], Busy)
    assert "2 writes" in refused[0].message
    scene.answer(DONE)
    assert scene.apply() == []


def test_more_bytes_than_the_limit_are_refused_naming_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a quorum every write is held for 7 s: 20,000 of half a MiB would take 10 GB (bug list 31)."""
    monkeypatch.setattr(writes_module, "MAX_HELD_BYTES", 2 * weight(WRITE))
    scene = Scene()
    scene.apply()
    scene.apply()
    refused = scene.apply()
    assert isinstance(refused[0], Busy)
    assert f"the limit is {2 * weight(WRITE)}" in refused[0].message
    scene.answer(DONE)
    assert scene.apply() == [], "there is room again"


def test_one_write_alone_is_taken_however_large(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writes_module, "MAX_HELD_BYTES", 1)
    scene = Scene()
    assert scene.apply() == []


def test_the_watermark_passes_what_was_answered_without_a_gap() -> None:
    ids = RetryIds(b"o")
    minted = [ids.mint() for _ in range(4)]
    assert [m.sequence for m in minted] == [1, 2, 3, 4]
    ids.answered(minted[2])
    assert ids.mint().acknowledged == 0
    ids.answered(minted[0])
    assert ids.mint().acknowledged == 1
    ids.answered(minted[1])
    assert ids.refresh(minted[3]) == RetryId(b"o", 4, 3)


def test_every_end_of_a_write_moves_the_watermark() -> None:
    scene = Scene()
    ends: list[Applied | GemotError] = [DONE, RuleFailed("no"), Busy("full")]
    for end in ends:
        scene.apply()
        scene.answer(end)
    scene.apply()
    scene.pass_ms(HOLD_MS)
    scene.apply()
    assert scene.tries[-1][1] == RetryId(b"origin", 5, 4)
