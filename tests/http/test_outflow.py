"""Clients that do not read, or slowly: what is held for them is bounded, what they get is whole."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import socket
import ssl
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any

import pytest
import trustme
from support.followed import Followed
from support.http_agent import Connection, HttpAgent, run_uvloop, serving, until
from support.http_agent import run as run_asyncio
from support.http_families import api_agent
from support.local_servers import LocalServers

from gemot.agent.http.app import App
from gemot.agent.http.listen import Address
from gemot.agent.http.message import Request, Response, Route
from gemot.agent.http.outflow import HIGH_WATER_BYTES, SLICE_BYTES
from gemot.agent.http.transport import HttpTransport, Limits
from gemot.agent.metrics import Metrics
from gemot.server.model.kv import KvSet

FRAMING = 64
BOUND = SLICE_BYTES + HIGH_WATER_BYTES + FRAMING
"""What one transport may hold."""

LONG = 400_000
Run = Callable[[Coroutine[Any, Any, None]], None]


@pytest.fixture(params=[run_asyncio, run_uvloop], ids=["asyncio", "uvloop"])
def run(request: pytest.FixtureRequest) -> Run:
    """Each claim holds on both loops."""
    chosen: Run = request.param
    return chosen


async def unread(agent: HttpAgent, target: str, times: int = 1) -> Connection:
    """A client that asks, and reads nothing before `read_on`; the sockets between keep little."""
    for listener in agent.transport._listeners:
        listener.sockets[0].setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    sock.setblocking(False)
    await asyncio.get_running_loop().sock_connect(sock, ("127.0.0.1", agent.port))
    connection = Connection(*await asyncio.open_connection(sock=sock))
    agent.opened.append(connection)
    connection._reader._transport.pause_reading()  # type: ignore[attr-defined]
    connection.send(f"GET {target} HTTP/1.1\r\nHost: a\r\n\r\n".encode() * times)
    return connection


def read_on(agent: HttpAgent, connection: Connection) -> None:
    for each in transports(agent.transport):
        each.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
    sock = connection._writer.get_extra_info("socket")
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
    connection._reader._transport.resume_reading()  # type: ignore[attr-defined]


def transports(transport: HttpTransport) -> list[Any]:
    """Ours, of the connections there are."""
    assert transport._server is not None
    return [each.transport for each in transport._server.connections if each.transport is not None]


def most_held(agent: HttpAgent) -> int:
    return max(each.get_write_buffer_size() for each in transports(agent.transport))


async def followers(agent: HttpAgent, count: int, query: str) -> list[Connection]:
    opened = [await unread(agent, f"/v1/gemot/watch?{query}") for _ in range(count)]
    await until(lambda: [feed.followers for feed in _feeds(agent)] == [count])
    await asyncio.sleep(0.05)
    return opened


async def write(servers: LocalServers, number: int) -> int:
    entry = await servers.apply(KvSet(b"k", b"%06d" % number + bytes(LONG)))
    await asyncio.sleep(0.01)
    return entry.index


def test_readers_that_do_not_read_hold_little_of_each_event_and_get_all_when_they_do(run: Run) -> None:
    async def work() -> None:
        async with api_agent() as (agent, servers):
            slow = await followers(agent, 3, "key=k")
            indexes = [await write(servers, number) for number in range(5)]
            assert 0 < most_held(agent) <= BOUND
            for connection in slow:
                read_on(agent, connection)
                late = Followed.over(connection)
                told = [await late.next() for _ in range(len(indexes) + 1)]
                assert told[0].kind == "snapshot"
                assert [event.data["Index"] for event in told[1:]] == indexes

    run(work())


def test_a_long_snapshot_is_held_by_nobody_that_does_not_read(run: Run) -> None:
    async def work() -> None:
        async with api_agent() as (agent, servers):
            index = await write(servers, 1)
            slow = await followers(agent, 4, "key=k")
            await asyncio.sleep(0.1)
            assert 0 < most_held(agent) <= BOUND
            read_on(agent, slow[0])
            assert (await Followed.over(slow[0]).next()).id == f"0-{index}"

    run(work())


def test_a_reader_that_goes_in_the_middle_of_an_event_frees_all(run: Run) -> None:
    async def work() -> None:
        async with api_agent() as (agent, servers):
            quick = await agent.connect()
            quick.send(b"GET /v1/gemot/watch?key=k HTTP/1.1\r\nHost: a\r\n\r\n")
            events = Followed.over(quick)
            await events.next()
            (feed,) = _feeds(agent)
            slow = await unread(agent, "/v1/gemot/watch?key=k")
            await until(lambda: feed.followers == 2)
            for number in range(4):
                await write(servers, number)
                await events.next()
            assert feed._in_hand.held > LONG
            await slow.close()
            await until(lambda: feed.followers == 1)
            assert feed._in_hand.held == 0
            assert not feed._in_hand._takers
            assert agent.transport.connections == 1

    run(work())


def _feeds(agent: HttpAgent) -> list[Any]:
    (route,) = [route for route in agent.app.routes if route.path == "/v1/gemot/watch"]
    return list(route.handlers["GET"].__self__._feeds._feeds.values())  # type: ignore[attr-defined]


def test_tls_holds_no_more_of_a_stream(run: Run) -> None:
    """Of its own accord it would be full at 512 KiB only."""

    async def work() -> None:
        async def pieces() -> AsyncIterator[bytes]:
            for _ in range(4):
                yield bytes(LONG)

        async with _tls(_get("/long", lambda request: Response(body=pieces()))) as (transport, client):
            port = transport.bound[0][1]
            reader, writer = await asyncio.open_connection("localhost", port, ssl=client)
            writer.transport.pause_reading()  # type: ignore[attr-defined]
            writer.write(b"GET /long HTTP/1.1\r\nHost: a\r\n\r\n")
            await asyncio.sleep(0.2)
            assert all(each.get_write_buffer_size() <= BOUND for each in transports(transport))
            writer.transport.resume_reading()  # type: ignore[attr-defined]
            seen = b""
            while not seen.endswith(b"\r\n0\r\n\r\n"):
                seen += await reader.read(1 << 16)
            assert seen.count(0) == 4 * LONG
            writer.transport.abort()
            await asyncio.sleep(0)

    run(work())


@contextlib.asynccontextmanager
async def _tls(*routes: Route) -> AsyncIterator[tuple[HttpTransport, ssl.SSLContext]]:
    authority = trustme.CA()
    server, client = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), ssl.create_default_context()
    authority.issue_cert("localhost").configure_cert(server)
    authority.configure_trust(client)
    app = App(routes=routes, metrics=Metrics())
    transport = HttpTransport(app=app, addresses=[Address("127.0.0.1", 0, tls=server)])
    await transport.start()
    try:
        yield transport, client
    finally:
        await transport.stop()


def _get(path: str, handler: Callable[[Request], Response]) -> Route:
    return Route(path=path, handlers={"GET": handler}, permission={"GET": "none"})


ANSWER = json.dumps(list(range(200_000))).encode()
LARGE = _get("/large", lambda request: Response(body=ANSWER, content_type="application/json"))


def test_a_large_answer_is_given_to_the_connection_a_slice_at_a_time(run: Run) -> None:
    async def work() -> None:
        async with serving([LARGE]) as agent:
            slow = await unread(agent, "/large")
            await until(lambda: transports(agent.transport) and most_held(agent))
            assert most_held(agent) <= BOUND
            read_on(agent, slow)
            assert (await slow.reply()).body == ANSWER
            slow.send(b"GET /large HTTP/1.1\r\nHost: a\r\n\r\n")
            assert (await slow.reply()).body == ANSWER

    run(work())


def test_many_short_answers_are_not_held_for_a_client_that_asks_and_does_not_read(run: Run) -> None:
    async def work() -> None:
        short = _get("/short", lambda request: Response(body=bytes(10_000)))
        async with serving([short]) as agent:
            slow = await unread(agent, "/short", times=1_000)
            await asyncio.sleep(0.3)
            assert 0 < most_held(agent) <= 2 * BOUND
            read_on(agent, slow)
            for _ in range(1_000):
                assert (await slow.reply()).body == bytes(10_000)

    run(work())


def test_a_client_that_takes_nothing_of_its_answer_is_cut_and_one_that_takes_little_is_not(run: Run) -> None:
    async def work() -> None:
        async with serving([LARGE], limits=Limits(body_timeout_s=0.4)) as agent:
            stuck, slow = await unread(agent, "/large"), await unread(agent, "/large")
            await until(lambda: len(transports(agent.transport)) == 2)
            sock = slow._writer.get_extra_info("socket")
            taken, loop = b"", asyncio.get_running_loop()
            until_s = loop.time() + 1.5
            while loop.time() < until_s:
                with contextlib.suppress(BlockingIOError):
                    taken += os.read(sock.fileno(), 2_000)
                await asyncio.sleep(0.05)
            assert agent.transport.connections == 1
            read_on(agent, stuck)
            with pytest.raises((asyncio.IncompleteReadError, ConnectionError)):
                await stuck.reply()
            read_on(agent, slow)
            slow._reader.feed_data(taken)
            assert (await slow.reply()).body == ANSWER

    run(work())


def test_a_stream_waits_for_its_reader_however_long(run: Run) -> None:
    async def work() -> None:
        async def pieces() -> AsyncIterator[bytes]:
            yield bytes(1_500_000)

        stream = _get("/stream", lambda request: Response(body=pieces()))
        async with serving([stream], limits=Limits(body_timeout_s=0.1)) as agent:
            slow = await unread(agent, "/stream")
            await asyncio.sleep(0.5)
            assert 0 < most_held(agent) <= BOUND
            read_on(agent, slow)
            assert len((await slow.reply()).body) == 1_500_000

    run(work())
