"""A request and a response as handlers see them, and a route: no transport in sight.

A handler is given a `Request` and gives a `Response`, or is a coroutine function when it must wait. Errors
are raised (`gemot.server.model.errors`); `app.py` turns them into statuses by one table.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Literal, Protocol

import msgspec

Permission = Literal[
    "none",
    "key:read",
    "key:write",
    "node:read",
    "node:write",
    "service:read",
    "service:write",
    "event:read",
    "event:write",
    "agent:read",
    "agent:write",
    "operator:read",
    "operator:write",
    "keyring:read",
    "keyring:write",
    "session:read",
    "session:write",
]
"""What a route needs. "none" says openly that it is for everybody."""


class Request(msgspec.Struct, frozen=True):
    """One request. `path` is the raw path's part behind the route's, decoded once, as bytes; `route` is the
    route's own.

    `query` keeps order and doubles: (name, value) pairs, decoded once. `headers` has lower-case names.
    `stream` has the body in pieces where the route is `streamed`; `body` is empty then. It raises BadRequest
    for a body that breaks off.
    `token` is taken from `?token=`, `X-Consul-Token` or `Authorization: Bearer`, in this order, else "".
    """

    method: str
    path: bytes
    query: tuple[tuple[str, str], ...]
    headers: dict[str, str]
    body: bytes
    token: str
    remote: str
    stream: AsyncIterator[bytes] | None = None
    route: str = ""


class Pushed(Protocol):
    """A stream that can write a piece by itself, at once, while its reader waits for the next one."""

    def attach(self, write: Callable[[bytes], bool], abort: Callable[[], None]) -> None:
        """`write` sends a piece, or says False and does nothing where the connection is full or the piece is
        long. `abort` ends the connection at once: what it has not taken of a piece is let go."""

    def __aiter__(self) -> AsyncIterator[bytes]: ...


class Response(msgspec.Struct, frozen=True):
    """One response. `body` is whole, or a stream of pieces."""

    status: int = 200
    body: bytes | AsyncIterator[bytes] | Pushed = b""
    content_type: str = "text/plain; charset=utf-8"
    headers: dict[str, str] = {}


Handler = Callable[[Request], Response | Awaitable[Response]]


class Route(msgspec.Struct, frozen=True):
    """`path` is exact, or a prefix when it ends in "/" (`/v1/kv/` takes every key).

    `max_body` is the greatest body in bytes; one longer is refused with 413 before it is read. Where it is 0
    no body is looked at. `limit_name` is the setting to name when it is passed, "" for none. A body that is
    `streamed` comes to the handler in pieces, as it arrives (PUT and POST).
    """

    path: str
    handlers: dict[str, Handler]
    permission: dict[str, Permission]
    max_body: int = 0
    limit_name: str = ""
    streamed: bool = False
