"""What is done with keys by several questions, each by what came of those before it; and who asks them.

As a recipe (`recipe.py`), but of no session: the error of a question is raised where it was asked. Here a
thread drives the steps, in `aio/steps.py` a task.
"""

from __future__ import annotations

import time
from collections.abc import Generator
from functools import partial
from typing import Any, TypeVar

from gemot.agent.client.connection import ClientError
from gemot.agent.client.kv import Kv
from gemot.agent.client.questions import Question
from gemot.agent.client.recipe import Pause

T = TypeVar("T")
KeyStep = Question[Any] | Pause
KeySteps = Generator[KeyStep, Any, T]
"""Sent back is what each Question asked for, None for a Pause."""


def drive(kv: Kv, steps: KeySteps[T]) -> T:
    """Do the steps; what they come to. Raises what they raise."""
    go_on = partial(next, steps)
    while True:
        try:
            step = go_on()
        except StopIteration as end:
            result: T = end.value
            return result
        if isinstance(step, Pause):
            time.sleep(step.for_s)
            go_on = partial(steps.send, None)
            continue
        try:
            go_on = partial(steps.send, kv.ask(step))
        except ClientError as error:
            go_on = partial(steps.throw, error)
