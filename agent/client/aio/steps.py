"""Drives by a task what `client/steps.py` drives by a thread."""

from __future__ import annotations

import asyncio
from functools import partial

from gemot.agent.client.aio.kv import Kv
from gemot.agent.client.connection import ClientError
from gemot.agent.client.recipe import Pause
from gemot.agent.client.steps import KeySteps, T


async def drive(kv: Kv, steps: KeySteps[T]) -> T:
    """Do the steps; what they come to. Raises what they raise."""
    go_on = partial(next, steps)
    while True:
        try:
            step = go_on()
        except StopIteration as end:
            result: T = end.value
            return result
        if isinstance(step, Pause):
            await asyncio.sleep(step.for_s)
            go_on = partial(steps.send, None)
            continue
        try:
            go_on = partial(steps.send, await kv.ask(step))
        except ClientError as error:
            go_on = partial(steps.throw, error)
