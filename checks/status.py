"""What a check's results mean: thresholds, the end of a TTL, and how output is cut. Pure: no clock, no IO.

Not the place where a status is kept (that is the agent's local state), nor where probes run.
Source: Consul's health check pages; the texts are those that its users' scripts match.
"""

from __future__ import annotations

from typing import Literal

import msgspec

Status = Literal["passing", "warning", "critical"]

_CUT_PREFIX = "Captured {kept} of {total} bytes\n...\n"
_UTF8_CONTINUATION = range(0x80, 0xC0)
_MAX_UTF8_TAIL = 3


class Outcome(msgspec.Struct, frozen=True):
    """One result of one check."""

    status: Status
    output: str


class Streak:
    """Counts results in a row and tells which of them become the check's status.

    A success is a passing or a warning result. Both counters start full, so that the very first result
    counts at once; each result sets the other counter back to 0. Ttl and alias checks have no streak.
    """

    def __init__(
        self,
        *,
        success_before_passing: int = 0,
        failures_before_warning: int = 0,
        failures_before_critical: int = 0,
    ) -> None:
        self._passing_at = success_before_passing
        self._critical_at = failures_before_critical
        self._warning_at = failures_before_warning or failures_before_critical
        self._successes = success_before_passing
        self._failures = failures_before_critical

    def judge(self, outcome: Outcome) -> Outcome | None:
        """What the check now is, or None when it stays as it was (its output too)."""
        if outcome.status != "critical":
            self._failures = 0
            self._successes += 1
            return outcome if self._successes >= self._passing_at else None
        self._successes = 0
        self._failures += 1
        if self._failures >= self._critical_at:
            return outcome
        if self._failures >= self._warning_at:
            return Outcome("warning", outcome.output)
        return None


def expired_output(last_output: str) -> str:
    """The output of a TTL check that nobody updated in time."""
    if not last_output:
        return "TTL expired"
    return f"TTL expired (last output before timeout follows): {last_output}"


def is_expired(deadline_s: float, now_s: float) -> bool:
    """Whether a TTL with this deadline has ended. At the deadline itself it has."""
    return now_s >= deadline_s


def cut_note(output: str, limit_bytes: int) -> str:
    """The head of what a caller pushed to a TTL check, with a remark when something was cut."""
    data = output.encode("utf-8", "replace")
    if len(data) <= limit_bytes:
        return data.decode()
    head = data[:limit_bytes].decode("utf-8", "ignore")
    return f"{head} ... (captured {limit_bytes} of {len(data)} bytes)"


def cut_tail(tail: bytes, total_bytes: int) -> str:
    """The text of a program's last output, of which `tail` was kept and `total_bytes` were written."""
    if total_bytes <= len(tail):
        return tail.decode("utf-8", "replace")
    start = 0
    while start < min(_MAX_UTF8_TAIL, len(tail)) and tail[start] in _UTF8_CONTINUATION:
        start += 1  # the rest of a character whose beginning was cut off
    prefix = _CUT_PREFIX.format(kept=len(tail), total=total_bytes)
    return prefix + tail[start:].decode("utf-8", "replace")
