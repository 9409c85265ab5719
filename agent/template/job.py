"""One template at work: its program, what it depends on, when it is due, and how it fares."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

from gemot.agent.template.definition import TemplateDefinition
from gemot.agent.template.dependencies import FILE_POLL_S, Dependencies, Need, Views, describe, key_of
from gemot.agent.template.errors import TemplateFailed
from gemot.agent.template.functions import MAX_NEEDS
from gemot.agent.template.quiescence import Quiescence
from gemot.agent.template.render import Program

MAX_ROUNDS = 64
"""Evaluations in a row, each of which only asked for what the one before made it ask for."""


class Job:
    """Due at once when made. For one event loop; `wake` is called when it becomes due, or later than it was.

    `waiting_for` and `error` tell why the file may not be up to date. Wall-clock times are for people.
    """

    def __init__(
        self,
        *,
        definition: TemplateDefinition,
        program: Program,
        views: Views,
        wake: Callable[[], None],
        now: Callable[[], float],
        file_poll_s: float = FILE_POLL_S,
    ) -> None:
        self.definition = definition
        self.waiting_for: tuple[str, ...] = ()
        self.error = ""
        self.rendered_at = 0.0
        self.written_at = 0.0
        self.writes = 0
        self.failures = 0
        self.failed_in_a_row = 0
        self._program = program
        self._dependencies = Dependencies(views=views, on_change=self._on_change, file_poll_s=file_poll_s)
        self._quiescence = Quiescence(definition.wait)
        self._wake = wake
        self._now = now
        self._retry_at: float | None = None
        self._quiescence.change_at_once(now())

    @property
    def due_at(self) -> float | None:
        """When to evaluate, None while there is no reason to."""
        due_at = self._quiescence.due_at
        if self._retry_at is None:
            return due_at
        return self._retry_at if due_at is None else min(due_at, self._retry_at)

    @property
    def age_s(self) -> float:
        """Seconds for which nothing vouched for the oldest of its values: 0 while all are kept current."""
        return self._dependencies.age_s()

    async def evaluate(self, *, environ: Mapping[str, str], node: str) -> bytes | None:
        """The bytes for the file; None while something is missing, and then watched. Raises GemotError.

        Goes on as long as each evaluation asks for more that is answered at once.
        """
        self._retry_at = None
        for _ in range(MAX_ROUNDS):
            self._quiescence.clear()
            known = dict(self._dependencies.known)
            evaluation = await self._program.evaluate(known, environ=environ, node=node)
            complete = evaluation.content is not None
            self._dependencies.watch(evaluation.needs, only=complete)
            self.waiting_for = _waiting_for(evaluation.unanswered, evaluation.absent)
            if complete:
                return evaluation.content
            if not any(key_of(need) in self._dependencies.known for need in evaluation.unanswered):
                self.error = ""
                return None
            self._check_count()
        raise TemplateFailed(
            f"{self._program.name}: after {MAX_ROUNDS} evaluations it still asks for something new, last for "
            f"{', '.join(self.waiting_for)}"
        )

    def succeed(self, *, written: bool) -> None:
        self.error = ""
        self.failed_in_a_row = 0
        self.rendered_at = time.time()
        if written:
            self.written_at = self.rendered_at
            self.writes += 1

    def fail(self, message: str, *, retry_s: float) -> None:
        """Tried again after `retry_s`, or sooner when a value changes."""
        self.error = message
        self.failures += 1
        self.failed_in_a_row += 1
        self._retry_at = self._now() + retry_s

    def stop(self) -> None:
        """Give up every watch; it is never due again."""
        self._dependencies.stop()
        self._quiescence.clear()
        self._retry_at = None

    def _on_change(self) -> None:
        if self.rendered_at:
            self._quiescence.change(self._now())
        else:
            self._quiescence.change_at_once(self._now())
        self._wake()

    def _check_count(self) -> None:
        if len(self._dependencies) > 2 * MAX_NEEDS:
            raise TemplateFailed(
                f"{self._program.name}: it keeps asking for other things, {len(self._dependencies)} by now"
            )


def _waiting_for(unanswered: tuple[Need, ...], absent: tuple[Need, ...]) -> tuple[str, ...]:
    texts = [f"{describe(need)} (it does not exist)" for need in absent]
    return tuple(texts + [f"{describe(need)} (no answer yet)" for need in unanswered])
