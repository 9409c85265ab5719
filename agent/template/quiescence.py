"""When a changed template may render: after `min_s` of quiet, at the latest `max_s` after the first change.

Pure: the time is handed in.
"""

from __future__ import annotations

from gemot.agent.template.definition import Wait


class Quiescence:
    """`due_at` is when to render, None while nothing changed."""

    def __init__(self, wait: Wait) -> None:
        self.due_at: float | None = None
        self._wait = wait
        self._first_at: float | None = None

    def change(self, now: float) -> None:
        if self._first_at is None:
            self._first_at = now
        self.due_at = min(now + self._wait.min_s, self._first_at + self._wait.max_s)

    def change_at_once(self, now: float) -> None:
        """Something that has no reason to wait, such as a template that was never rendered."""
        self._first_at = self.due_at = now

    def clear(self) -> None:
        self._first_at = self.due_at = None
