"""What is to be done to its end, though the task that wants it is cancelled: giving back, closing."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


async def to_its_end(work: Coroutine[Any, Any, T]) -> T:
    """Wait for it. A cancellation meanwhile is raised once it is done: `work` has an end of its own."""
    task = asyncio.create_task(work, name="ending")
    cancelled: asyncio.CancelledError | None = None
    while not task.done():
        try:
            await asyncio.wait([task])
        except asyncio.CancelledError as error:
            cancelled = error
    if cancelled is not None:
        if not task.cancelled():
            task.exception()  # is looked at
        raise cancelled
    return task.result()
