"""Read indexes: asked together, never answered by an older ask, and given up in time."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from support.virtual import VirtualTimer, chance

from gemot.server import confirm as confirm_module
from gemot.server.confirm import MAX_ASKS, RESEND_MS, Confirmations
from gemot.server.looks import SLICE_US
from gemot.server.model.errors import Busy, NoLeader, Unavailable

HOLD_MS = 7_000


class Scene:
    def __init__(self) -> None:
        self.timer = VirtualTimer()
        self.asked: list[int] = []
        self.on_ask: Callable[[int], None] = lambda id: None
        self.applied = 10
        self.confirmations = Confirmations(
            ask=self._ask,
            applied=lambda: self.applied,
            timer=self.timer,
            random=chance(),
            hold_ms=HOLD_MS,
            waiting=lambda: "Waiting for quorum: have 1 of 3 (srv1)",
        )

    def _ask(self, id: int) -> None:
        self.asked.append(id)
        self.on_ask(id)

    def confirm(self, hold_ms: int = 0) -> list[Unavailable | None]:
        told: list[Unavailable | None] = []
        self.confirmations.confirm(told.append, hold_ms=hold_ms)
        return told

    def pass_ms(self, ms: int) -> None:
        self.timer.pass_ms(ms, tick=self.confirmations.on_tick)


def test_reads_of_one_pass_share_one_ask() -> None:
    scene = Scene()
    told = [scene.confirm() for _ in range(100)]
    scene.timer.run()
    assert len(scene.asked) == 1
    scene.confirmations.on_answer(scene.asked[0], 10)
    assert all(t == [None] for t in told)


def test_a_caller_with_less_time_is_told_in_it_what_is_waited_for() -> None:
    scene = Scene()
    patient, hurried = scene.confirm(), scene.confirm(hold_ms=2_000)
    scene.pass_ms(2_000)
    assert [str(error) for error in hurried] == ["No cluster leader: waiting for quorum: have 1 of 3 (srv1)"]
    assert patient == []


def test_a_read_never_joins_an_ask_that_has_left() -> None:
    scene = Scene()
    scene.confirm()
    scene.timer.run()
    late = scene.confirm()
    scene.timer.run()
    assert len(scene.asked) == 1, "one ask at a time"
    scene.confirmations.on_answer(scene.asked[0], 10)
    assert late == []
    scene.timer.run()
    scene.confirmations.on_answer(scene.asked[1], 10)
    assert late == [None]


def test_a_read_waits_until_the_state_has_reached_its_index() -> None:
    scene = Scene()
    told = scene.confirm()
    scene.timer.run()
    scene.confirmations.on_answer(scene.asked[0], 12)
    assert told == []
    scene.applied = 11
    scene.confirmations.on_applied()
    assert told == []
    scene.applied = 12
    scene.confirmations.on_applied()
    assert told == [None]


def test_a_refused_ask_is_made_again_at_the_next_tick_under_a_new_id() -> None:
    scene = Scene()
    told = scene.confirm()
    scene.timer.run()
    scene.confirmations.on_answer(scene.asked[0], 0)
    assert told == []
    scene.timer.run()
    assert len(scene.asked) == 1
    scene.confirmations.on_tick()
    scene.timer.run()
    assert len(set(scene.asked)) == 2
    scene.confirmations.on_answer(scene.asked[1], 5)
    assert told == [None]


def test_a_late_answer_serves_the_reads_of_its_ask_and_none_that_came_later() -> None:
    """etcd #20418: a late answer to an old id must not confirm a newer read."""
    scene = Scene()
    first = scene.confirm()
    scene.timer.run()
    second = scene.confirm()
    scene.pass_ms(RESEND_MS + 50)
    assert len(scene.asked) == 2
    third = scene.confirm()
    scene.confirmations.on_answer(scene.asked[0], 10)
    assert (first, second, third) == ([None], [], [])
    scene.confirmations.on_answer(scene.asked[1], 10)
    assert (first, second, third) == ([None], [None], [])


def test_the_answer_to_an_ask_made_again_serves_the_reads_of_the_first_one_too() -> None:
    scene = Scene()
    first = scene.confirm()
    scene.pass_ms(RESEND_MS + 50)
    second = scene.confirm()
    scene.confirmations.on_answer(scene.asked[1], 10)
    assert (first, second) == ([None], [])
    scene.confirmations.on_answer(scene.asked[0], 10)
    assert (first, second) == ([None], []), "told once, and nobody by the ask that was overtaken"


def test_an_ask_that_nobody_waits_for_any_more_holds_up_nobody() -> None:
    scene = Scene()
    scene.confirm()
    scene.pass_ms(RESEND_MS + 50)
    scene.confirmations.on_answer(scene.asked[0], 10)
    scene.confirm()
    scene.timer.run()
    assert len(scene.asked) == 3, "nobody waits for the second ask"


@pytest.mark.parametrize("late_ms", [310, 900])
def test_reads_are_served_where_every_answer_is_late(late_ms: int) -> None:
    scene = Scene()

    def answer_late(id: int) -> None:
        scene.timer.call_after(late_ms, lambda: scene.confirmations.on_answer(id, 10))

    scene.on_ask = answer_late
    told = []
    for _ in range(100):
        told.append(scene.confirm())
        scene.pass_ms(50)
    scene.pass_ms(late_ms + RESEND_MS + 50)
    assert told == [[None]] * 100


@pytest.mark.parametrize("refused", [0, 1])
def test_a_refusal_of_one_ask_leaves_its_reads_to_the_other(refused: int) -> None:
    scene = Scene()
    first = scene.confirm()
    scene.pass_ms(RESEND_MS + 50)
    scene.confirmations.on_answer(scene.asked[refused], 0)
    assert first == []
    scene.confirmations.on_answer(scene.asked[1 - refused], 10)
    assert first == [None]


def test_reads_of_asks_that_are_all_refused_are_asked_for_anew_together() -> None:
    scene = Scene()
    told = [scene.confirm()]
    scene.pass_ms(RESEND_MS + 50)
    told.append(scene.confirm())
    for id in list(scene.asked):
        scene.confirmations.on_answer(id, 0)
    scene.confirmations.on_tick()
    scene.timer.run()
    assert len(set(scene.asked)) == 3
    scene.confirmations.on_answer(scene.asked[0], 10)
    scene.confirmations.on_answer(scene.asked[1], 10)
    assert told == [[], []], "a refused ask is answered no more"
    scene.confirmations.on_answer(scene.asked[2], 10)
    assert told == [[None], [None]]


def test_of_too_many_asks_the_oldest_is_given_up_and_its_reads_stay_in_the_others() -> None:
    scene = Scene()
    told = scene.confirm()
    scene.pass_ms(RESEND_MS * MAX_ASKS + 50)
    assert len(scene.asked) == len(set(scene.asked)) == MAX_ASKS + 1
    scene.confirmations.on_answer(scene.asked[0], 10)
    assert told == []
    scene.confirmations.on_answer(scene.asked[1], 10)
    assert told == [None]


def test_reads_whose_time_is_over_leave_no_ask_behind() -> None:
    scene = Scene()
    told = scene.confirm()
    scene.pass_ms(HOLD_MS)
    assert [type(error) for error in told] == [NoLeader]
    asked = len(scene.asked)
    scene.pass_ms(HOLD_MS)
    assert len(scene.asked) == asked, "nobody is left to ask for"
    for id in list(scene.asked):
        scene.confirmations.on_answer(id, 10)
    assert len(told) == 1, "told once"


def test_two_starts_of_a_server_ask_under_different_ids() -> None:
    asked: list[int] = []
    for seed in (1, 2):
        confirmations = Confirmations(
            ask=asked.append,
            applied=lambda: 1,
            timer=(timer := VirtualTimer()),
            random=chance(seed),
            hold_ms=1,
        )
        confirmations.confirm(lambda error: None)
        timer.run()
    assert abs(asked[0] - asked[1]) > 1_000


def test_without_a_leader_a_read_fails_at_the_hold_time_and_not_before() -> None:
    scene = Scene()
    told = scene.confirm()
    scene.pass_ms(HOLD_MS - 100)
    assert told == []
    scene.pass_ms(100)
    assert [type(error) for error in told] == [NoLeader]


def test_a_read_whose_index_is_never_reached_fails_at_the_hold_time_too() -> None:
    scene = Scene()
    told = scene.confirm()
    scene.timer.run()
    scene.confirmations.on_answer(scene.asked[0], 99)
    scene.pass_ms(HOLD_MS + 50)
    assert [type(error) for error in told] == [NoLeader]
    scene.applied = 99
    scene.confirmations.on_applied()
    assert len(told) == 1, "told once"


@pytest.mark.parametrize("stage", ["waiting", "asked", "unapplied"])
def test_reads_count_towards_the_limit_wherever_they_wait(
    monkeypatch: pytest.MonkeyPatch, stage: str
) -> None:
    monkeypatch.setattr(confirm_module, "MAX_WAITING", 3)
    scene = Scene()
    waiting = [scene.confirm() for _ in range(3)]
    if stage != "waiting":
        scene.timer.run()
    if stage == "unapplied":
        scene.confirmations.on_answer(scene.asked[0], 99)
    refused = scene.confirm()
    assert isinstance(refused[0], Busy)
    assert "3 reads" in refused[0].message
    if stage == "unapplied":
        scene.applied = 99
        scene.confirmations.on_applied()
        assert waiting == [[None]] * 3
        assert scene.confirm() == []


# -- many at once ----------------------------------------------------------------------------------


@pytest.mark.parametrize("come", ["served", "applied", "given up"])
def test_many_that_are_told_together_are_told_in_slices(come: str) -> None:
    """What they do with it takes time: thousands in one go cost the leader its place."""
    scene = Scene()
    scene.timer.each_look_us = SLICE_US
    told = [scene.confirm() for _ in range(10)]
    scene.timer.run()
    if come == "given up":
        scene.timer.be_late(HOLD_MS)
        scene.confirmations.on_tick()
    else:
        scene.confirmations.on_answer(scene.asked[0], 10 if come == "served" else 11)
        scene.applied = 11
        scene.confirmations.on_applied()
    late = scene.confirm()
    for turn in range(1, 11):
        assert [len(each) for each in told] == [1] * turn + [0] * (10 - turn), "in their order"
        scene.timer.run_once()
    assert {type(error) for (error,) in told} == {NoLeader if come == "given up" else type(None)}
    assert late == [], "it came after their ask had left"


def test_who_is_still_to_be_told_counts_towards_the_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(confirm_module, "MAX_WAITING", 3)
    scene = Scene()
    scene.timer.each_look_us = SLICE_US
    for _ in range(3):
        scene.confirm()
    scene.timer.run()
    scene.confirmations.on_answer(scene.asked[0], 10)
    assert scene.confirm() == []
    assert isinstance(scene.confirm()[0], Busy)
