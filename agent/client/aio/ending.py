"""What is to be done to its end, though the task that wants it is cancelled: giving back, closing.

A task of its own does it, which only those can cancel who cancel every task there is, as `asyncio.run` does
at its end: then it is begun once more, and nobody cancels that. So it has to bear to be done twice.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


async def to_its_end(work: Callable[[], Coroutine[Any, Any, T]]) -> T:
    """Wait for it. A cancellation meanwhile is raised once it is done: `work` has an end of its own."""
    task, cancelled = await _ended(work)
    if task.cancelled():
        task, again = await _ended(work)
        cancelled = cancelled or again
    if cancelled is not None:
        if not task.cancelled():
            task.exception()  # is looked at
        raise cancelled
    return task.result()


async def _ended(
    work: Callable[[], Coroutine[Any, Any, T]],
) -> tuple[asyncio.Task[T], asyncio.CancelledError | None]:
    """The task that does it, once it is over, and what was to end the waiting."""
    task = asyncio.create_task(work(), name="ending")
    cancelled: asyncio.CancelledError | None = None
    while not task.done():
        try:
            await asyncio.wait([task])
        except asyncio.CancelledError as error:
            cancelled = error
    return task, cancelled
