"""The event family: `/v1/event/`. Each agent answers for itself: what it fired, what it heard.

The index of the list is that of its last event, made of that event's id: it does not grow, and a read waits
while it is the one that was given. Source: Consul, event API.
"""

from __future__ import annotations

import asyncio
import random
from binascii import b2a_base64
from collections.abc import Awaitable
from typing import Any, Protocol

from gemot.agent.client.watch import event_index
from gemot.agent.gossip.events import Fired, UserEvent
from gemot.agent.http import parse, render
from gemot.agent.http.message import Request, Response, Route
from gemot.server.model.errors import BadRequest, RuleFailed, TooLarge

WAIT_S = 600.0
"""How long a read waits, unless it says less."""

_MAX_BODY = 64 << 10
"""Far more than any event may have: so what is too long is told by its own limit."""

_NO_EVENT = 1
"""The index of an empty list. No read asks with 0 for ever."""


class Events(Protocol):
    """What this agent fires and has heard (`user_events.UserEvents`)."""

    def fire(
        self, name: str, payload: bytes = b"", *, node: str = "", service: str = "", tag: str = ""
    ) -> UserEvent: ...

    def list(self, name: str = "") -> list[Fired]: ...

    def wait(self) -> Awaitable[None]: ...


def routes(*, events: Events, datacenter: str) -> list[Route]:
    family = _Event(events=events, datacenter=datacenter)
    return [
        Route("/v1/event/fire/", {"PUT": family.fire}, {"PUT": "event:write"}, max_body=_MAX_BODY),
        Route("/v1/event/list", {"GET": family.list}, {"GET": "event:read"}),
    ]


class _Event:
    def __init__(self, *, events: Events, datacenter: str) -> None:
        self._events = events
        self._datacenter = datacenter

    def fire(self, request: Request) -> Response:
        parse.check_scope(request, datacenter=self._datacenter)
        name = parse.name_in(request, "Missing name")
        node, service, tag = (parse.first(request, each) or "" for each in ("node", "service", "tag"))
        try:
            event = self._events.fire(name, request.body, node=node, service=service, tag=tag)
        except (BadRequest, TooLarge) as error:  # Consul answers 500 to both
            raise RuleFailed(error.message) from error
        return render.json_response(request, shown(event, 0))

    async def list(self, request: Request) -> Response:
        options = parse.read_options(request, datacenter=self._datacenter)
        name = parse.first(request, "name") or ""
        wait_s = min(options.wait_ms / 1000 or WAIT_S, WAIT_S)
        until_s = asyncio.get_running_loop().time() + wait_s * (1 + random.random() / 16)
        found = self._events.list(name)
        try:
            async with asyncio.timeout_at(until_s):
                while options.index and _index(found) == options.index:
                    await self._events.wait()
                    found = self._events.list(name)
        except TimeoutError:
            found = self._events.list(name)
        told = [shown(each.event, each.time) for each in found]
        return render.json_response(request, told, headers={"X-Consul-Index": str(_index(found))})


def _index(found: list[Fired]) -> int:
    return event_index(found[-1].event.id) if found else _NO_EVENT


def shown(event: UserEvent, time: int) -> dict[str, Any]:
    """An event as Consul shows it; `time` is its Lamport time."""
    return {
        "ID": event.id,
        "Name": event.name,
        "Payload": b2a_base64(event.payload, newline=False).decode() if event.payload else None,
        "NodeFilter": event.node,
        "ServiceFilter": event.service,
        "TagFilter": event.tag,
        "Version": event.version,
        "LTime": time,
    }
