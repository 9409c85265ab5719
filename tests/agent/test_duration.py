"""Go durations: what is read, what is refused, and the canonical form that is written."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gemot.agent.duration import (
    format_duration,
    format_nanoseconds,
    parse_duration,
    parse_nanoseconds,
)
from gemot.server.model.errors import BadRequest


@pytest.mark.parametrize(
    ("text", "nanoseconds"),
    [
        ("0", 0),
        ("-0", 0),
        ("0s", 0),
        ("10s", 10_000_000_000),
        ("15.0s", 15_000_000_000),
        ("0.001s", 1_000_000),
        (".5s", 500_000_000),
        ("5.s", 5_000_000_000),
        ("20ms", 20_000_000),
        ("120000ms", 120_000_000_000),
        ("1h30m", 5_400_000_000_000),
        ("1m30s", 90_000_000_000),
        ("1h1m1s1ms1us1ns", 3_661_001_001_001),
        ("3µs", 3_000),
        ("3μs", 3_000),
        ("+5s", 5_000_000_000),
        ("-1.5h", -5_400_000_000_000),
        ("9223372036854775807ns", (1 << 63) - 1),
        (30_000_000_000, 30_000_000_000),
        (0, 0),
    ],
)
def test_reads_what_go_reads(text: str | int, nanoseconds: int) -> None:
    assert parse_nanoseconds(text) == nanoseconds
    assert parse_duration(text) == nanoseconds / 1e9


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", 'time: invalid duration ""'),
        ("10", 'time: missing unit in duration "10"'),
        ("1m30", 'time: missing unit in duration "1m30"'),
        ("10x", 'time: unknown unit "x" in duration "10x"'),
        ("10 s", 'time: unknown unit " s" in duration "10 s"'),
        ("s", 'time: invalid duration "s"'),
        (".s", 'time: invalid duration ".s"'),
        ("-", 'time: invalid duration "-"'),
        ("--1s", 'time: invalid duration "--1s"'),
        ("1.2.3s", 'time: missing unit in duration "1.2.3s"'),
        ("١s", 'time: invalid duration "١s"'),
        ("9223372036854775808ns", "more than 292 years"),
        ("9" * 40 + "s", "more than 292 years"),
        ("1s" * 100, "time: invalid duration"),
        (1 << 63, "more than 292 years"),
        ("1s\x00", "time: unknown unit"),
    ],
)
def test_refuses_the_rest_saying_what_is_wrong(text: str | int, says: str) -> None:
    with pytest.raises(BadRequest) as caught:
        parse_nanoseconds(text)
    assert says in caught.value.message
    assert len(caught.value.message) < 250


@pytest.mark.parametrize("value", [True, None, 1.5, ["10s"]])
def test_refuses_values_of_another_type(value: object) -> None:
    with pytest.raises(BadRequest, match="invalid duration"):
        parse_nanoseconds(value)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0s"),
        (60, "1m0s"),
        (30, "30s"),
        (90, "1m30s"),
        (3600, "1h0m0s"),
        (86400, "24h0m0s"),
        (0.2, "200ms"),
        (0.0015, "1.5ms"),
        (1.5, "1.5s"),
        (0.000001, "1µs"),
        (0.000000001, "1ns"),
        (3600.5, "1h0m0.5s"),
        (-90, "-1m30s"),
        (31_536_000, "8760h0m0s"),
    ],
)
def test_writes_gos_canonical_form(seconds: float, text: str) -> None:
    assert format_duration(seconds) == text


@given(st.integers(-(1 << 63), (1 << 63) - 1))
def test_what_is_written_is_read_back_exactly(nanoseconds: int) -> None:
    assert parse_nanoseconds(format_nanoseconds(nanoseconds)) == nanoseconds


@given(st.text(max_size=80))
def test_any_text_is_read_or_refused_never_a_crash(text: str) -> None:
    try:
        parse_nanoseconds(text)
    except BadRequest:
        pass
