"""Thresholds, the end of a TTL, and how output is cut."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gemot.checks.schedule import first_delay_s, next_run_s
from gemot.checks.status import Outcome, Status, Streak, cut_note, cut_tail, expired_output, is_expired

P: Status = "passing"
W: Status = "warning"
C: Status = "critical"


@pytest.mark.parametrize(
    ("passing_at", "warning_at", "critical_at", "results", "verdicts"),
    [
        (0, 0, 0, [C, P, W, C], [C, P, W, C]),
        (3, 0, 0, [P, C, P, P, P], [P, C, None, None, P]),
        (2, 0, 0, [C, P, C, P, P], [C, None, C, None, P]),
        (2, 0, 0, [C, W, P], [C, None, P]),
        (2, 0, 0, [C, P, W], [C, None, W]),
        (0, 0, 3, [C, P, C, C, C], [C, P, None, None, C]),
        (0, 0, 3, [P, C, C, P, C, C, C], [P, None, None, P, None, None, C]),
        (0, 1, 3, [P, C, C, C, C], [P, W, W, C, C]),
        (0, 2, 3, [P, C, C, C], [P, None, W, C]),
        (2, 0, 2, [P, C, P, C, C, P, P], [P, None, None, None, C, None, P]),
    ],
)
def test_a_status_changes_after_enough_results_in_a_row(
    passing_at: int,
    warning_at: int,
    critical_at: int,
    results: list[Status],
    verdicts: list[Status | None],
) -> None:
    streak = Streak(
        success_before_passing=passing_at,
        failures_before_warning=warning_at,
        failures_before_critical=critical_at,
    )
    judged = [streak.judge(Outcome(status, "text")) for status in results]
    assert [one.status if one else None for one in judged] == verdicts


@given(st.sampled_from([P, W, C]), st.integers(0, 9), st.integers(0, 9), st.integers(0, 9))
def test_the_very_first_result_always_counts(
    status: Status, passing_at: int, warning_at: int, critical_at: int
) -> None:
    streak = Streak(
        success_before_passing=passing_at,
        failures_before_warning=min(warning_at, critical_at),
        failures_before_critical=critical_at,
    )
    assert streak.judge(Outcome(status, "text")) == Outcome(status, "text")


def test_a_verdict_carries_the_output_of_its_result() -> None:
    streak = Streak(failures_before_warning=1, failures_before_critical=5)
    streak.judge(Outcome("passing", "fine"))
    assert streak.judge(Outcome("critical", "broken")) == Outcome("warning", "broken")


def test_an_expired_ttl_says_what_was_last_said() -> None:
    assert expired_output("all well") == "TTL expired (last output before timeout follows): all well"
    assert expired_output("") == "TTL expired"


def test_a_ttl_ends_at_its_deadline_and_not_before() -> None:
    assert not is_expired(10.0, 9.999)
    assert is_expired(10.0, 10.0)


def test_short_output_is_left_alone() -> None:
    assert cut_note("abc", 3) == "abc"
    assert cut_tail(b"abc", 3) == "abc"


def test_long_output_keeps_its_end_and_says_how_much_there_was() -> None:
    assert cut_tail(b"defg", 1000) == "Captured 4 of 1000 bytes\n...\ndefg"


def test_a_long_note_keeps_its_head_and_says_how_much_there_was() -> None:
    assert cut_note("x" * 5000, 4096) == "x" * 4096 + " ... (captured 4096 of 5000 bytes)"


@given(st.text(max_size=80), st.integers(1, 40))
def test_cutting_never_breaks_a_character(text: str, limit: int) -> None:
    data = text.encode("utf-8", "replace")
    assert "\ufffd" not in cut_tail(data[-limit:], len(data)) or "\ufffd" in text
    assert "\ufffd" not in cut_note(text, limit) or "\ufffd" in text


@given(st.binary(max_size=200))
def test_any_bytes_become_text(data: bytes) -> None:
    cut_tail(data[-50:], len(data)).encode()


@given(st.floats(0, 0.999999), st.floats(1, 3600))
def test_first_runs_are_spread_over_the_interval(random: float, interval_s: float) -> None:
    assert 0 <= first_delay_s(interval_s, random) < interval_s


def test_the_next_run_counts_from_the_end_of_the_last_one() -> None:
    assert next_run_s(100.0, 10.0) == 110.0


def test_no_check_runs_more_than_once_a_second() -> None:
    assert next_run_s(100.0, 0.01) == 101.0
