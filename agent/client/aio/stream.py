"""A push watch of one thing, for asyncio: `/v1/gemot/watch`, as an iterator that goes on by itself.

    async with Stream(agents, {"prefix": "app/"}) as events:
        async for event in events:
            mirror.take(event)

What is guaranteed and what is not is said in `client/stream.py`; the events are those of `client/events.py`,
and `Mirror` of `client/mirror.py` takes them. Besides: where a wait for the next event is cancelled, or ends
by `asyncio.timeout`, no event goes with it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import aiohttp

from gemot.agent.client.aio.agents import Agents
from gemot.agent.client.connection import ClientError, why
from gemot.agent.client.events import Event
from gemot.agent.client.resuming import PATH, PATIENCE_S, Resuming, Trouble, turned_already
from gemot.agent.client.sse import MAX_EVENT_BYTES


class Stream(Resuming):
    """Events of one watched thing, for ever. Of one task at a time; `async with` closes it.

    A loop that something blocks reads nothing: the agent keeps no queue for it, and it goes on where it was.
    """

    def __init__(
        self,
        agents: Agents,
        watched: dict[str, Any],
        *,
        place: str = "",
        trouble: Trouble | None = None,
        patience_s: float = PATIENCE_S,
        most_bytes: int = MAX_EVENT_BYTES,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        """As that of `client/stream.py`. It has connections of its own, to the same agents."""
        super().__init__(watched, place=place, trouble=trouble, patience_s=patience_s, most_bytes=most_bytes)
        self._agents = agents.again()
        self._sleep = sleep
        self._response: aiohttp.ClientResponse | None = None
        self._again_s = 0.0
        """When it is tried again, by the loop's clock; 0 for at once."""

    async def __aenter__(self) -> Stream:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    def __aiter__(self) -> Stream:
        return self

    async def __anext__(self) -> Event:
        """The next event, however long it takes. Waits and raises as that of `client/stream.py`."""
        while not self._arrived:
            await self._wait_out()
            try:
                self._raise_kept()
                self._take(await self._read(self._response or await self._connect()))
            except ClientError as error:
                self._drop()
                if not turned_already(error):
                    self._agents.turn()
                self._again_s = asyncio.get_running_loop().time() + self._delay_s(error)
        return self._hand_out()

    async def _wait_out(self) -> None:
        """What is left until it is tried again: a wait that is cancelled before counts on."""
        if (left_s := self._again_s - asyncio.get_running_loop().time()) > 0:
            await self._sleep(left_s)
        self._again_s = 0.0

    async def close(self) -> None:
        """The next event, if one is asked for, comes over a new connection."""
        self._drop()
        closed, self._agents = self._agents, self._agents.again()
        await closed.close()

    def _drop(self) -> None:
        self._kept = None
        if self._response is not None:
            self._response.close()
            self._response = None

    async def _connect(self) -> aiohttp.ClientResponse:
        self._response = await self._agents.stream(
            PATH, self._watched, headers=self._headers(), timeout_s=self._patience_s
        )
        self._begin(self._response.headers.get("Content-Type"))
        return self._response

    async def _read(self, response: aiohttp.ClientResponse) -> bytes:
        """What is there, at least one byte; b"" at the end."""
        try:
            return await response.content.readany()
        except TimeoutError as error:
            raise self._silent() from error
        except aiohttp.ClientPayloadError as error:
            raise self._cut() from error
        except (aiohttp.ClientError, OSError, ValueError) as error:
            raise self._broken(why(error)) from error
