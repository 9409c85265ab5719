"""The agent's own operations: `/v1/agent/` monitor, leave, reload, and `/v1/gemot/why/`.

What leaving, reloading and explaining mean is handed in. Source: Consul, agent API; `why` is ours.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Any, Protocol

from gemot.agent.http import parse, render
from gemot.agent.http.message import Handler, Permission, Request, Response, Route
from gemot.agent.logs import LEVELS, JsonLines, PlainLines
from gemot.agent.why import ServiceWhy, TemplateWhy
from gemot.server.model.errors import BadRequest, Busy, RuleFailed

MAX_FOLLOWERS = 16
"""Monitors at once: each has every line rendered for it."""

QUEUED_LINES = 1024
"""Lines kept for a monitor that reads slowly; older ones give way, and it is told how many."""

APPLIED = "X-Gemot-Applied"
NEEDS_RESTART = "X-Gemot-Needs-Restart"

_OTHER_SPELLINGS = {"ERR": "ERROR", "WARNING": "WARN"}


class Followers(Protocol):
    def follow(self, told: Callable[[logging.LogRecord], None], level: int) -> Callable[[], None]:
        """Call `told` for each record of that level and above, on any thread, until the result is called."""


class Reloaded(Protocol):
    """Paths of the configuration that differed."""

    @property
    def applied(self) -> tuple[str, ...]: ...

    @property
    def needs_restart(self) -> tuple[str, ...]: ...


class Why(Protocol):
    async def service(self, name: str, token: str) -> ServiceWhy: ...

    def templates(self, destination: str) -> Sequence[TemplateWhy]: ...


def routes(
    *,
    followers: Followers,
    leave: Callable[[], Awaitable[None]],
    reload: Callable[[], Awaitable[Reloaded | None]],
    why: Why,
) -> list[Route]:
    """`leave` returns once the cluster knows; `reload` raises BadRequest for a bad configuration."""
    family = _Operations(followers=followers, leave=leave, reload=reload, why=why)
    table: list[tuple[str, str, Handler, Permission]] = [
        ("GET", "/v1/agent/monitor", family.monitor, "agent:read"),
        ("PUT", "/v1/agent/leave", family.leave, "agent:write"),
        ("PUT", "/v1/agent/reload", family.reload, "agent:write"),
        ("GET", "/v1/gemot/why/service/", family.why_service, "service:read"),
        ("GET", "/v1/gemot/why/template", family.why_template, "agent:read"),
    ]
    return [Route(path, {method: handler}, {method: needs}) for method, path, handler, needs in table]


class _Operations:
    def __init__(
        self,
        *,
        followers: Followers,
        leave: Callable[[], Awaitable[None]],
        reload: Callable[[], Awaitable[Reloaded | None]],
        why: Why,
    ) -> None:
        self._followers = followers
        self._leave = leave
        self._reload = reload
        self._why = why
        self._following = 0

    def monitor(self, request: Request) -> Response:
        """The log from now on, until the caller goes away."""
        level = _level(parse.first(request, "loglevel") or "INFO")
        as_json = parse.flag(request, "logjson") and parse.first(request, "logjson") not in ("false", "0")
        if self._following >= MAX_FOLLOWERS:
            raise Busy(
                f"{MAX_FOLLOWERS} monitors already follow the log of this agent, the most there may be"
            )
        kind = "application/json" if as_json else "text/plain; charset=utf-8"
        return Response(body=self._lines(level, as_json), content_type=kind)

    async def _lines(self, level: int, as_json: bool) -> AsyncIterator[bytes]:
        line = _Line(asyncio.get_running_loop(), JsonLines() if as_json else PlainLines())
        self._following += 1
        unfollow = self._followers.follow(line.put, level)
        try:
            while True:
                yield await line.take()
        finally:
            unfollow()
            self._following -= 1

    async def leave(self, request: Request) -> Response:
        await self._leave()
        return Response()

    async def reload(self, request: Request) -> Response:
        """Nothing in the body, as Consul has it; in headers of ours, what was taken up and what was not."""
        try:
            done = await self._reload()
        except BadRequest as error:  # the caller is not at fault: Consul answers 500
            raise RuleFailed(error.message) from error
        if done is None:
            return Response()
        told = {APPLIED: done.applied, NEEDS_RESTART: done.needs_restart}
        return Response(headers={name: ", ".join(paths) for name, paths in told.items() if paths})

    async def why_service(self, request: Request) -> Response:
        name = parse.name_in(request, "Missing service name")
        return _told(request, await self._why.service(name, request.token))

    def why_template(self, request: Request) -> Response:
        return _told(request, list(self._why.templates(parse.first(request, "destination") or "")))


class _Line:
    """Records waiting for one reader. `put` may be called on any thread."""

    def __init__(self, loop: asyncio.AbstractEventLoop, formatter: logging.Formatter) -> None:
        self._loop = loop
        self._formatter = formatter
        self._records: deque[logging.LogRecord] = deque(maxlen=QUEUED_LINES)
        self._dropped = 0
        self._some = asyncio.Event()

    def put(self, record: logging.LogRecord) -> None:
        # A deque's append is atomic; the count may be short by one under a race, which harms nobody.
        if len(self._records) == QUEUED_LINES:
            self._dropped += 1
        self._records.append(record)
        try:
            self._loop.call_soon_threadsafe(self._some.set)
        except RuntimeError:  # the loop is closed: there is no reader any more
            return

    async def take(self) -> bytes:
        """Everything that waits, at least one line."""
        while not self._records:
            self._some.clear()
            if not self._records:
                await self._some.wait()
        dropped, self._dropped = self._dropped, 0
        records = [self._records.popleft() for _ in range(len(self._records))]
        lines = [self._formatter.format(record) for record in records]
        if dropped:
            lines.insert(0, self._formatter.format(_gap(dropped)))
        return "".join(f"{text}\n" for text in lines).encode("utf-8", "backslashreplace")


def _gap(dropped: int) -> logging.LogRecord:
    text = "agent: monitor reads too slowly: dropped=%d lines before this one"
    return logging.LogRecord("gemot.agent", logging.WARNING, __file__, 0, text, (dropped,), None)


def _level(text: str) -> int:
    name = _OTHER_SPELLINGS.get(text.upper(), text.upper())
    if name not in LEVELS:
        raise BadRequest(f"Unknown log level: {text:.64}")
    return LEVELS[name]


def _told(request: Request, value: Any) -> Response:
    return render.json_response(request, value)
