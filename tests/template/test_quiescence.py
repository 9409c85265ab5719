"""When a changed template is due: after quiet, but never later than the longest delay."""

from __future__ import annotations

import pytest

from gemot.agent.template.definition import Wait
from gemot.agent.template.quiescence import Quiescence


def test_without_a_wait_a_change_is_due_at_once() -> None:
    quiescence = Quiescence(Wait())
    assert quiescence.due_at is None
    quiescence.change(5.0)
    assert quiescence.due_at == 5.0


def test_each_change_begins_the_quiet_time_anew_up_to_the_longest_delay() -> None:
    quiescence = Quiescence(Wait(2.0, 5.0))
    due = []
    for now in (10.0, 11.0, 12.0, 13.0, 14.0, 14.9):
        quiescence.change(now)
        due.append(quiescence.due_at)
    assert due == [12.0, 13.0, 14.0, 15.0, 15.0, 15.0]


def test_after_it_was_cleared_the_next_change_begins_afresh() -> None:
    quiescence = Quiescence(Wait(2.0, 5.0))
    quiescence.change(10.0)
    quiescence.clear()
    assert quiescence.due_at is None
    quiescence.change(20.0)
    assert quiescence.due_at == 22.0


def test_what_was_never_rendered_does_not_wait() -> None:
    quiescence = Quiescence(Wait(2.0, 5.0))
    quiescence.change_at_once(10.0)
    assert quiescence.due_at == pytest.approx(10.0)
