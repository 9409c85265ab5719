"""The transport over real sockets: framing, limits, streams, compression, ends of connections."""

from __future__ import annotations

import asyncio
import gzip
import os
import socket
import ssl
from collections.abc import AsyncIterator, Callable, Coroutine
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import trustme
from support.http_agent import run as run_asyncio
from support.http_agent import run_uvloop, serving, until

from gemot.agent.http.app import App
from gemot.agent.http.listen import Address, ListenFailed
from gemot.agent.http.message import Handler, Request, Response, Route
from gemot.agent.http.transport import HttpTransport, Limits
from gemot.agent.metrics import Metrics

Run = Callable[[Coroutine[Any, Any, None]], None]


@pytest.fixture(params=[run_asyncio, run_uvloop], ids=["asyncio", "uvloop"])
def run(request: pytest.FixtureRequest) -> Run:
    """Each claim holds on both loops."""
    chosen: Run = request.param
    return chosen


def route(path: str, handler: Handler, *, method: str = "GET", max_body: int = 0) -> Route:
    return Route(path=path, handlers={method: handler}, permission={method: "none"}, max_body=max_body)


def echo(request: Request) -> Response:
    return Response(body=request.body, content_type="application/octet-stream")


ECHO = route("/echo", echo, method="PUT", max_body=1000)


def sized(size: int, kind: str = "application/json") -> Route:
    return route("/sized", lambda request: Response(body=b"x" * size, content_type=kind))


class Parked:
    """A handler that waits until it is released, and tells how its wait ended."""

    def __init__(self) -> None:
        self.waiting = 0
        self.ended: list[str] = []
        self.release = asyncio.Event()

    async def __call__(self, request: Request) -> Response:
        self.waiting += 1
        try:
            await self.release.wait()
        except asyncio.CancelledError:
            self.ended.append("cancelled")
            raise
        self.ended.append("released")
        return Response(body=b"released")


REQUEST = b"GET /parked HTTP/1.1\r\nHost: x\r\n\r\n"
BLOCKING = b"GET /parked?index=1 HTTP/1.1\r\nHost: x\r\n\r\n"


def test_every_response_has_the_headers_that_are_always_on(run: Run) -> None:
    async def work() -> None:
        def crash(request: Request) -> Response:
            raise RuntimeError

        async with serving([ECHO, route("/v1/crash", crash)], response_headers={"X-Mine": "yes"}) as agent:
            asked = [
                ("GET", "/", 200),
                ("GET", "/v1/x", 404),
                ("GET", "/v1/crash", 500),
                ("GET", "/a//b", 301),
            ]
            asked += [("POST", "/echo", 405), ("OPTIONS", "/echo", 200), ("GET", "/v1/%zz", 400)]
            for method, target, status in asked:
                reply = await agent.ask(method, target)
                assert reply.status == status
                assert reply.headers["x-content-type-options"] == "nosniff"
                assert reply.headers["content-security-policy"] == "sandbox"
                assert reply.headers["content-type"] == "text/plain; charset=utf-8"
                assert reply.headers["vary"] == "Accept-Encoding"
                assert reply.headers["x-consul-default-acl-policy"] == "allow"
                assert reply.headers["x-mine"] == "yes"
                assert "date" in reply.headers
                assert len({name for name, _ in reply.pairs}) == len(reply.pairs)

    run(work())


def test_a_connection_serves_many_requests_also_pipelined_and_in_order(run: Run) -> None:
    async def work() -> None:
        async with serving([ECHO]) as agent:
            connection = await agent.connect()
            for number in range(20):
                body = b"%d" % number
                connection.send(
                    b"PUT /echo HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body)
                )
            for number in range(20):
                assert (await connection.reply()).body == b"%d" % number
            await connection.close()

    run(work())


def test_http_1_0_closes_unless_it_asks_to_be_kept(run: Run) -> None:
    async def work() -> None:
        async with serving([]) as agent:
            connection = await agent.connect()
            connection.send(b"GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n")
            assert (await connection.reply()).headers["connection"] == "keep-alive"
            connection.send(b"GET / HTTP/1.0\r\n\r\n")
            assert (await connection.reply()).headers["connection"] == "close"
            assert await connection.ended()
            await connection.close()

    run(work())


def test_a_chunked_body_is_put_together(run: Run) -> None:
    async def work() -> None:
        async with serving([ECHO]) as agent:
            connection = await agent.connect()
            connection.send(b"PUT /echo HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n")
            connection.send(b"3\r\nabc\r\n")
            await connection.drain()
            connection.send(b"2\r\nde\r\n0\r\n\r\n")
            assert (await connection.reply()).body == b"abcde"
            await connection.close()

    run(work())


def test_a_body_that_comes_in_drops_is_put_together(run: Run) -> None:
    async def work() -> None:
        async with serving([ECHO]) as agent:
            connection = await agent.connect()
            for byte in b"PUT /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\nabc":
                connection.send(bytes((byte,)))
                await connection.drain()
            assert (await connection.reply()).body == b"abc"
            await connection.close()

    run(work())


def test_expect_100_is_answered_before_the_body_and_not_when_the_body_is_refused(run: Run) -> None:
    async def work() -> None:
        async with serving([ECHO]) as agent:
            head = b"PUT /echo HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: %d\r\n\r\n"
            connection = await agent.connect()
            connection.send(head % 3)
            assert (await connection.reply()).status == 100
            connection.send(b"abc")
            assert (await connection.reply()).body == b"abc"
            connection.send(head % 1001)
            assert (await connection.reply()).status == 413
            await connection.close()

    run(work())


def test_a_declared_body_over_the_limit_is_refused_before_it_is_sent(run: Run) -> None:
    async def work() -> None:
        async with serving([ECHO]) as agent:
            connection = await agent.connect()
            connection.send(b"PUT /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 9999999999\r\n\r\n")
            reply = await connection.reply()
            assert reply.status == 413
            assert reply.text == "Request body(9999999999 bytes) too large, max size: 1000 bytes."
            assert reply.headers["connection"] == "close"
            await connection.close()

    run(work())


def test_a_chunked_body_is_refused_where_it_passes_the_limit(run: Run) -> None:
    async def work() -> None:
        async with serving([ECHO]) as agent:
            connection = await agent.connect()
            connection.send(b"PUT /echo HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n")
            connection.send((b"64\r\n" + b"x" * 100 + b"\r\n") * 11)
            reply = await connection.reply()
            assert reply.status == 413
            assert reply.text == "Request body(more than 1000 bytes) too large, max size: 1000 bytes."
            await connection.close()

    run(work())


@pytest.mark.parametrize("size", [1000, 1001, 60_000])
def test_a_chunked_body_that_comes_in_one_piece_has_the_same_limit(run: Run, size: int) -> None:
    """It was taken whole, up to half a megabyte, as it was there before anybody asked for it."""

    async def work() -> None:
        async with serving([ECHO]) as agent:
            connection = await agent.connect()
            head = b"PUT /echo HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
            connection.send(head + b"%x\r\n%b\r\n0\r\n\r\n" % (size, b"x" * size))
            reply = await connection.reply()
            assert (reply.status, len(reply.body) == size) == ((200, True) if size == 1000 else (413, False))
            await connection.close()

    run(work())


def test_a_body_exactly_at_the_limit_is_taken(run: Run) -> None:
    async def work() -> None:
        async with serving([ECHO]) as agent:
            assert (await agent.ask("PUT", "/echo", b"x" * 1000)).status == 200
            assert (await agent.ask("PUT", "/echo", b"x" * 1001)).status == 413

    run(work())


def test_a_body_is_never_unpacked(run: Run) -> None:
    async def work() -> None:
        async with serving([ECHO]) as agent:
            packed = gzip.compress(b"\0" * 100_000)
            reply = await agent.ask("PUT", "/echo", packed, {"Content-Encoding": "gzip"})
            assert reply.body == packed

    run(work())


def test_a_body_where_none_is_wanted_is_dropped(run: Run) -> None:
    async def work() -> None:
        async with serving([route("/none", echo), route("/put", echo, method="PUT")]) as agent:
            assert (await agent.ask("GET", "/none", b"ignored")).body == b""
            assert (await agent.ask("PUT", "/put", b"null")).body == b""
            assert (await agent.ask("PUT", "/put", b"x" * 70_000)).status == 413

    run(work())


def test_large_answers_are_compressed_only_for_those_who_take_it(run: Run) -> None:
    async def work() -> None:
        async with serving([sized(5000)]) as agent:
            packed = await agent.ask("GET", "/sized", headers={"Accept-Encoding": "deflate, gzip;q=0.5"})
            assert packed.headers["content-encoding"] == "gzip"
            assert gzip.decompress(packed.body) == b"x" * 5000
            for accept in ("", "gzip;q=0", "deflate", "gzip;q=0.000"):
                plain = await agent.ask("GET", "/sized", headers={"Accept-Encoding": accept})
                assert "content-encoding" not in plain.headers
                assert plain.body == b"x" * 5000

    run(work())


@pytest.mark.parametrize(("size", "kind"), [(1400, "application/json"), (5000, "application/x-gzip")])
def test_small_answers_and_packed_ones_are_not_compressed(size: int, kind: str, run: Run) -> None:
    async def work() -> None:
        async with serving([sized(size, kind)]) as agent:
            reply = await agent.ask("GET", "/sized", headers={"Accept-Encoding": "gzip"})
            assert "content-encoding" not in reply.headers

    run(work())


def test_an_answer_of_megabytes_arrives_whole(run: Run) -> None:
    async def work() -> None:
        async with serving([sized(3_000_000)]) as agent:
            assert len((await agent.ask("GET", "/sized")).body) == 3_000_000
            packed = await agent.ask("GET", "/sized", headers={"Accept-Encoding": "gzip"})
            assert len(gzip.decompress(packed.body)) == 3_000_000

    run(work())


def test_a_stream_is_sent_in_chunks_as_they_come(run: Run) -> None:
    async def work() -> None:
        step = asyncio.Event()

        async def pieces() -> AsyncIterator[bytes]:
            yield b"one"
            await step.wait()
            yield b""
            yield b"two"

        stream = route("/stream", lambda request: Response(body=pieces()))
        async with serving([stream, ECHO]) as agent:
            connection = await agent.connect()
            connection.send(b"GET /stream HTTP/1.1\r\nHost: x\r\n\r\n")
            seen = b""
            while not seen.endswith(b"3\r\none\r\n"):
                seen += await connection.piece()
            assert b"Transfer-Encoding: chunked" in seen
            step.set()
            assert await connection.piece() == b"3\r\ntwo\r\n0\r\n\r\n"
            connection.send(b"PUT /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\n\r\na")
            assert (await connection.reply()).body == b"a"
            await connection.close()

    run(work())


def test_a_stream_that_fails_is_cut_and_never_looks_whole(run: Run) -> None:
    async def work() -> None:
        closed = []

        async def pieces() -> AsyncIterator[bytes]:
            try:
                yield b"one"
                raise RuntimeError("broken")
            finally:
                closed.append(True)

        async with serving([route("/stream", lambda request: Response(body=pieces()))]) as agent:
            async with aiohttp.ClientSession() as session:
                with pytest.raises(aiohttp.ClientError):
                    async with session.get(f"http://127.0.0.1:{agent.port}/stream") as reply:
                        await reply.read()
            assert closed == [True]
            assert (await agent.ask("GET", "/")).status == 200

    run(work())


def test_a_stream_ends_its_source_when_the_client_goes(run: Run) -> None:
    async def work() -> None:
        closed = asyncio.Event()

        async def pieces() -> AsyncIterator[bytes]:
            try:
                while True:
                    yield b"tick"
                    await asyncio.sleep(0.001)
            finally:
                closed.set()

        async with serving([route("/stream", lambda request: Response(body=pieces()))]) as agent:
            connection = await agent.connect()
            connection.send(b"GET /stream HTTP/1.1\r\nHost: x\r\n\r\n")
            await connection.piece()
            await connection.close()
            await until(closed.is_set)

    run(work())


def test_a_client_that_goes_away_takes_its_wait_with_it(run: Run) -> None:
    async def work() -> None:
        parked = Parked()
        async with serving([route("/parked", parked)]) as agent:
            connection = await agent.connect()
            connection.send(BLOCKING)
            await until(lambda: parked.waiting)
            await connection.close()
            await until(lambda: parked.ended)
            assert parked.ended == ["cancelled"]

    run(work())


def test_a_client_that_sends_no_more_is_answered_what_it_asked_and_then_closed(run: Run) -> None:
    async def work() -> None:
        parked = Parked()
        async with serving([ECHO, route("/parked", parked), route("/write", parked, method="PUT")]) as agent:
            both = await agent.connect()
            both.send(REQUEST + b"PUT /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\nhi")
            write = await agent.connect()
            write.send(b"PUT /write HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n")
            at_once = await agent.connect()
            at_once.send(b"PUT /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\nyo")
            for connection in (both, write, at_once):
                connection.send_no_more()
            assert (await at_once.reply()).body == b"yo"
            await until(lambda: parked.waiting == 2)
            parked.release.set()
            for connection, bodies in ((both, [b"released", b"hi"]), (write, [b"released"])):
                assert [(await connection.reply()).body for _ in bodies] == bodies
            for connection in (both, write, at_once):
                assert await connection.ended()
            assert parked.ended == ["released", "released"]

    run(work())


def test_who_gives_up_takes_no_connection_from_who_does_not(run: Run) -> None:
    """They are answered still, unless they are very many: then they are cut."""

    async def work() -> None:
        parked = Parked()
        served = [ECHO, route("/write", parked, method="PUT")]
        async with serving(served, limits=Limits(max_connections_per_client=3)) as agent:
            for number in range(1, 6):
                gone = await agent.connect()
                gone.send(b"PUT /write HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n")
                await until(lambda number=number: parked.waiting == number)
                gone.send_no_more()
                await until(lambda number=number: agent.transport.connections == min(number, 3))
                await until(lambda number=number: agent.transport._leaving.total() == min(number, 3))
            still = [await agent.connect() for _ in range(3)]
            for connection in still:
                connection.send(b"PUT /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\nhi")
                assert (await connection.reply()).body == b"hi"
            await until(lambda: parked.ended == ["cancelled"] * 2)
            parked.release.set()
            await until(lambda: agent.transport.connections == 3)
            assert not agent.transport._leaving

    run(work())


def test_who_sends_no_more_has_neither_a_blocking_read_nor_a_stream_nor_half_a_request(run: Run) -> None:
    async def work() -> None:
        parked = Parked()

        async def pieces() -> AsyncIterator[bytes]:
            yield b"tick"
            await asyncio.Event().wait()

        stream = route("/stream", lambda request: Response(body=pieces()))
        async with serving([ECHO, route("/parked", parked), stream]) as agent:
            for asked in (
                BLOCKING,
                b"GET /stream HTTP/1.1\r\nHost: x\r\n\r\n",
                b"PUT /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\nh",
                b"GET /echo HTTP",
                b"",
            ):
                for pause in (False, True):
                    connection = await agent.connect()
                    connection.send(asked)
                    if pause:
                        await asyncio.sleep(0.02)
                    connection.send_no_more()
                    while not await connection.ended():
                        pass
            await until(lambda: agent.transport.connections == 0)
            assert parked.ended == ["cancelled"] * parked.waiting

    run(work())


def test_stopping_ends_waiting_reads_with_an_answer(run: Run) -> None:
    async def work() -> None:
        parked = Parked()
        async with serving([route("/parked", parked)]) as agent:
            connection = await agent.connect()
            connection.send(REQUEST)
            await until(lambda: parked.waiting)
            port = agent.port
            await agent.transport.stop()
            reply = await connection.reply()
            assert (reply.status, reply.body) == (500, b"This agent is stopping")
            assert reply.headers["connection"] == "close"
            assert await connection.ended()
            await connection.close()
            with pytest.raises(OSError):
                await asyncio.open_connection("127.0.0.1", port)

    run(work())


def test_stopping_lets_a_write_under_way_finish(run: Run) -> None:
    async def work() -> None:
        parked = Parked()
        async with serving([route("/parked", parked, method="PUT")]) as agent:
            connection = await agent.connect()
            connection.send(REQUEST.replace(b"GET", b"PUT"))
            await until(lambda: parked.waiting)
            stopping = asyncio.ensure_future(agent.transport.stop())
            await asyncio.sleep(0)
            parked.release.set()
            assert (await connection.reply()).body == b"released"
            await stopping
            await connection.close()

    run(work())


def test_connections_over_the_limit_of_a_client_get_429(run: Run) -> None:
    async def work() -> None:
        async with serving([], limits=Limits(max_connections_per_client=3)) as agent:
            kept = [await agent.connect() for _ in range(3)]
            for connection in kept:
                connection.send(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
                assert (await connection.reply()).status == 200
            refused = await agent.connect()
            reply = await refused.reply()
            assert reply.status == 429
            assert "more than 3 connections from 127.0.0.1 (limits.http_max_conns_per_client)" in reply.text
            assert await refused.ended()
            await refused.close()
            await kept[0].close()
            await until(lambda: agent.transport.connections == 2)
            assert (await agent.ask("GET", "/")).status == 200
            for connection in kept[1:]:
                await connection.close()

    run(work())


def test_connections_over_the_limit_of_all_get_429(run: Run) -> None:
    async def work() -> None:
        async with serving([], limits=Limits(max_connections=1)) as agent:
            first = await agent.connect()
            first.send(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
            await first.reply()
            assert (await agent.ask("GET", "/")).status == 429
            await first.close()

    run(work())


def test_a_head_that_does_not_arrive_in_time_gets_408(run: Run) -> None:
    async def work() -> None:
        async with serving([], limits=Limits(head_timeout_s=0.05)) as agent:
            connection = await agent.connect()
            connection.send(b"GET / HTTP/1.1\r\nHost:")
            reply = await connection.reply()
            assert reply.status == 408
            assert await connection.ended()
            await connection.close()

    run(work())


def test_a_body_that_does_not_arrive_in_time_gets_408(run: Run) -> None:
    async def work() -> None:
        async with serving([ECHO], limits=Limits(body_timeout_s=0.05)) as agent:
            connection = await agent.connect()
            connection.send(b"PUT /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nab")
            reply = await connection.reply()
            assert reply.status == 408
            assert reply.text == "the request's body did not arrive within 0.05 s"
            await connection.close()

    run(work())


def test_an_idle_connection_is_closed(run: Run) -> None:
    async def work() -> None:
        async with serving([], limits=Limits(idle_timeout_s=0.05)) as agent:
            connection = await agent.connect()
            assert await connection.ended()
            await connection.close()

    run(work())


def test_a_port_in_use_is_told_with_its_holder(run: Run) -> None:
    async def work() -> None:
        with socket.create_server(("127.0.0.1", 0)) as taken:
            port = taken.getsockname()[1]
            app = App(routes=[], metrics=Metrics())
            addresses = [Address("127.0.0.1", 0), Address("127.0.0.1", port)]
            transport = HttpTransport(app=app, addresses=addresses)
            with pytest.raises(ListenFailed) as caught:
                await transport.start()
            assert str(caught.value).startswith(f"Port {port} is in use by pid {os.getpid()} (")
            assert transport.bound == []

    run(work())


def test_an_address_of_another_host_is_told(run: Run) -> None:
    async def work() -> None:
        transport = HttpTransport(
            app=App(routes=[], metrics=Metrics()), addresses=[Address("192.0.2.1", 8500)]
        )
        with pytest.raises(
            ListenFailed, match=r"192\.0\.2\.1:8500: no interface of this host has that address"
        ):
            await transport.start()

    run(work())


def test_a_unix_socket_is_served_and_a_stale_one_replaced(tmp_path: Path, run: Run) -> None:
    async def work() -> None:
        path = str(tmp_path / "http.sock")
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as stale:
            stale.bind(path)
        app = App(routes=[], metrics=Metrics())
        transport = HttpTransport(app=app, addresses=[Address(path=path)])
        await transport.start()
        async with (
            aiohttp.ClientSession(connector=aiohttp.UnixConnector(path)) as session,
            session.get("http://localhost/") as reply,
        ):
            assert reply.status == 200
        with pytest.raises(ListenFailed, match="another process listens there"):
            await HttpTransport(app=app, addresses=[Address(path=path)]).start()
        await transport.stop()

    run(work())


def test_a_header_with_a_line_break_is_never_sent(run: Run) -> None:
    async def work() -> None:
        def inject(request: Request) -> Response:
            return Response(headers={"X-A": "b\r\nSet-Cookie: c=1"})

        async with serving([route("/inject", inject)]) as agent:
            reply = await agent.ask("GET", "/inject")
            assert reply.status == 500
            assert "set-cookie" not in reply.headers

    run(work())


def test_the_first_of_two_equal_headers_counts(run: Run) -> None:
    async def work() -> None:
        def token(request: Request) -> Response:
            return Response(body=request.token.encode())

        async with serving([route("/token", token)]) as agent:
            connection = await agent.connect()
            connection.send(
                b"GET /token HTTP/1.1\r\nHost: x\r\nX-Consul-Token: one\r\nx-consul-token: two\r\n\r\n"
            )
            assert (await connection.reply()).body == b"one"
            await connection.close()

    run(work())


def test_stopping_cuts_a_stream_at_once(run: Run) -> None:
    async def work() -> None:
        closed = asyncio.Event()

        async def pieces() -> AsyncIterator[bytes]:
            try:
                yield b"first"
                await asyncio.Event().wait()
            finally:
                closed.set()

        async with serving([route("/stream", lambda request: Response(body=pieces()))]) as agent:
            connection = await agent.connect()
            connection.send(b"GET /stream HTTP/1.1\r\nHost: x\r\n\r\n")
            seen = b""
            while not seen.endswith(b"first\r\n"):
                seen += await connection.piece()
            await agent.transport.stop()
            assert closed.is_set()
            assert await connection.ended()

    run(work())


def test_tls_is_served_with_the_context_it_is_given(run: Run) -> None:
    async def work() -> None:
        authority = trustme.CA()
        server, client = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), ssl.create_default_context()
        authority.issue_cert("localhost").configure_cert(server)
        authority.configure_trust(client)
        app = App(routes=[ECHO], metrics=Metrics())
        transport = HttpTransport(app=app, addresses=[Address("127.0.0.1", 0, tls=server)])
        await transport.start()
        url = f"https://localhost:{transport.bound[0][1]}/echo"
        connector = aiohttp.TCPConnector(ssl=client, family=socket.AF_INET)
        async with aiohttp.ClientSession(connector=connector) as session:
            async with session.put(url, data=b"secret") as reply:
                assert await reply.read() == b"secret"
            # Not closed cleanly by either side: the close of TLS needs a turn of the loop.
            await asyncio.sleep(0)
        await transport.stop()

    run(work())


def test_new_limits_hold_for_what_comes_after(run: Run) -> None:
    async def work() -> None:
        async with serving([ECHO]) as agent:
            agent.app.reload(routes=[ECHO], response_headers={"X-New": "1"})
            agent.transport.reload(limits=Limits(max_connections_per_client=1))
            first = await agent.connect()
            first.send(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
            assert (await first.reply()).headers["x-new"] == "1"
            assert (await agent.ask("GET", "/")).status == 429

    run(work())
