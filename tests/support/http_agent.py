"""The real transport on a loopback port, and raw sockets to talk to it byte by byte."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Coroutine, Sequence
from typing import Any

import uvloop

from gemot.agent.http.app import App
from gemot.agent.http.listen import Address
from gemot.agent.http.message import Route
from gemot.agent.http.transport import HttpTransport, Limits
from gemot.agent.metrics import Metrics

PATIENCE_S = 20.0
"""Bound of every wait: only a hang reaches it."""


class Reply:
    """A response as it came over the wire. Header names are lower-case."""

    def __init__(self, status: int, headers: list[tuple[str, str]], body: bytes) -> None:
        self.status = status
        self.pairs = headers
        self.headers = dict(headers)
        self.body = body

    @property
    def text(self) -> str:
        return self.body.decode()

    @property
    def json(self) -> Any:
        return json.loads(self.body)


class Connection:
    """A plain TCP connection that writes what it is told and reads HTTP responses by their framing."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    def send(self, data: bytes) -> None:
        self._writer.write(data)

    def send_no_more(self) -> None:
        """Close this half of the connection."""
        self._writer.write_eof()

    async def drain(self) -> None:
        async with asyncio.timeout(PATIENCE_S):
            await self._writer.drain()

    async def reply(self) -> Reply:
        async with asyncio.timeout(PATIENCE_S):
            head = await self._reader.readuntil(b"\r\n\r\n")
            lines = head.decode("latin-1").split("\r\n")
            status = int(lines[0].split(" ")[1])
            headers = []
            for line in lines[1:-2]:
                name, _, value = line.partition(": ")
                headers.append((name.lower(), value))
            return Reply(status, headers, await self._body(status, dict(headers)))

    async def _body(self, status: int, headers: dict[str, str]) -> bytes:
        if status == 100:
            return b""
        if headers.get("transfer-encoding") != "chunked":
            if "content-length" not in headers:
                return await self._reader.read()
            return await self._reader.readexactly(int(headers["content-length"]))
        body = b""
        while size := int(await self._reader.readline(), 16):
            body += await self._reader.readexactly(size)
            await self._reader.readexactly(2)
        await self._reader.readexactly(2)
        return body

    async def piece(self) -> bytes:
        async with asyncio.timeout(PATIENCE_S):
            return await self._reader.read(65536)

    async def ended(self) -> bool:
        """Wait for the other side to close; False when it sends something instead."""
        async with asyncio.timeout(PATIENCE_S):
            try:
                return await self._reader.read(1) == b""
            except ConnectionError:
                return True

    async def close(self) -> None:
        self._writer.close()
        with contextlib.suppress(ConnectionError):
            await self._writer.wait_closed()


class HttpAgent:
    """An application served on a free loopback port."""

    def __init__(self, transport: HttpTransport, app: App, metrics: Metrics) -> None:
        self.transport = transport
        self.app = app
        self.metrics = metrics
        self.opened: list[Connection] = []

    @property
    def port(self) -> int:
        return int(self.transport.bound[0][1])

    async def connect(self) -> Connection:
        async with asyncio.timeout(PATIENCE_S):
            connection = Connection(*await asyncio.open_connection("127.0.0.1", self.port))
        self.opened.append(connection)
        return connection

    async def ask(
        self, method: str, target: str, body: bytes = b"", headers: dict[str, str] | None = None
    ) -> Reply:
        """One request on a connection of its own."""
        connection = await self.connect()
        try:
            lines = [f"{method} {target} HTTP/1.1", "Host: localhost", "Connection: close"]
            lines += [f"{name}: {value}" for name, value in (headers or {}).items()]
            if body or method in ("PUT", "POST"):
                lines.append(f"Content-Length: {len(body)}")
            connection.send("\r\n".join(lines).encode("latin-1") + b"\r\n\r\n" + body)
            return await connection.reply()
        finally:
            await connection.close()


@contextlib.asynccontextmanager
async def serving(
    routes: Sequence[Route], *, limits: Limits | None = None, **options: Any
) -> AsyncIterator[HttpAgent]:
    metrics = Metrics()
    app = App(routes=routes, metrics=metrics, **options)
    transport = HttpTransport(app=app, addresses=[Address("127.0.0.1", 0)], limits=limits)
    await transport.start()
    agent = HttpAgent(transport, app, metrics)
    try:
        yield agent
    finally:
        for connection in agent.opened:
            await connection.close()
        await transport.stop()


def run(work: Coroutine[Any, Any, None]) -> None:
    """Run one test's coroutine; the tests of this project need no plugin for it."""
    asyncio.run(work)


def run_uvloop(work: Coroutine[Any, Any, None]) -> None:
    """As `run`, on the loop that the daemon uses."""
    runner = asyncio.Runner(loop_factory=uvloop.new_event_loop)
    runner.run(work)
    # Not after a failure: uvloop would wait here, for ever, for the servers that a failed test leaves open.
    runner.close()


async def until(condition: Any) -> None:
    """Let the loop turn until `condition()` holds."""
    async with asyncio.timeout(PATIENCE_S):
        while not condition():  # noqa: ASYNC110 - the condition is of the tested code, which has no event
            await asyncio.sleep(0.001)
