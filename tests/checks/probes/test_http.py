"""The HTTP probe against real servers on loopback, well-behaved and not."""

from __future__ import annotations

import asyncio
import socket
import ssl
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trustme

from gemot.checks.definition import CheckDefinition
from gemot.checks.probes import http
from gemot.checks.probes.resolver import Resolver
from gemot.checks.status import Outcome

Reply = Callable[[bytes, asyncio.StreamWriter], Awaitable[None]]


class Server:
    """Answers each connection by `reply`, which is given the request's head; keeps all heads."""

    def __init__(self, reply: Reply) -> None:
        self.reply = reply
        self.heads: list[bytes] = []
        self.bodies: list[bytes] = []
        self.url = ""

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = await reader.readuntil(b"\r\n\r\n")
            self.heads.append(head)
            for line in head.lower().split(b"\r\n"):
                if line.startswith(b"content-length:"):
                    self.bodies.append(await reader.readexactly(int(line[15:])))
            await self.reply(head, writer)
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()


@asynccontextmanager
async def serving(reply: Reply, tls: ssl.SSLContext | None = None) -> AsyncIterator[Server]:
    server = Server(reply)
    listener = await asyncio.start_server(server.serve, "127.0.0.1", 0, ssl=tls)
    port = listener.sockets[0].getsockname()[1]
    server.url = f"http{'s' if tls else ''}://127.0.0.1:{port}"
    try:
        yield server
    finally:
        listener.close()
        await listener.wait_closed()


def answer(status: str, body: bytes = b"", *headers: str) -> Reply:
    async def reply(head: bytes, writer: asyncio.StreamWriter) -> None:
        lines = [f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", *headers]
        writer.write("\r\n".join(lines).encode() + b"\r\n\r\n" + body)
        await writer.drain()

    return reply


async def probe(definition: CheckDefinition) -> Outcome:
    return await http.probe(definition, Resolver())


def define(url: str, **fields: Any) -> CheckDefinition:
    return CheckDefinition(check_id="c", name="c", type="http", http=url, **{"timeout_s": 20.0, **fields})


def ask(reply: Reply, path: str = "/health", **fields: Any) -> tuple[Outcome, Server]:
    async def work() -> tuple[Outcome, Server]:
        async with serving(reply) as server:
            return await probe(define(server.url + path, **fields)), server

    return asyncio.run(work())


def test_a_name_with_a_dead_address_is_asked_at_another_one_and_not_at_hundreds() -> None:
    async def work() -> None:
        async with serving(answer("200 OK", b"fine")) as server:
            url = server.url.replace("127.0.0.1", "web.example")
            kind = (socket.AF_INET, socket.SOCK_STREAM, 6, "")
            dead = [(*kind, (f"127.0.0.{last}", 0)) for last in range(2, 2 + http.MAX_ADDRESSES)]
            for before, status in ((dead[:-1], "passing"), (dead, "critical")):
                found = [*before, (*kind, ("127.0.0.1", 0))]
                outcome = await http.probe(define(url), Resolver(look_up=lambda _, found=found: found))
                assert outcome.status == status

    asyncio.run(work())


def test_a_host_may_have_a_name() -> None:
    async def work() -> None:
        async with serving(answer("200 OK", b"fine")) as server:
            url = server.url.replace("127.0.0.1", "localhost") + "/health"
            outcome = await probe(define(url))
            assert outcome == Outcome("passing", f"HTTP GET {url}: 200 OK Output: fine")
            assert f"host: {url.split('/')[2]}".encode() in server.heads[0].lower()

    asyncio.run(work())


@pytest.mark.parametrize(
    ("status", "expected"),
    [
        ("200 OK", "passing"),
        ("204 No Content", "passing"),
        ("299 Odd", "passing"),
        ("429 Too Many Requests", "warning"),
        ("199 Odd", "critical"),
        ("300 Multiple Choices", "critical"),
        ("404 Not Found", "critical"),
        ("500 Internal Server Error", "critical"),
        ("503 Service Unavailable", "critical"),
    ],
)
def test_the_answers_status_is_the_checks(status: str, expected: str) -> None:
    # An informational answer alone is none: the probe waits for the real one.
    alone = status[0] == "1"
    body = b"" if status[:3] in ("204", "199") else b"text"
    outcome, server = ask(answer(status, body), timeout_s=2.0 if alone else 20.0)
    assert outcome.status == expected
    if not alone:
        assert outcome.output.startswith(f"HTTP GET {server.url}/health: {status} Output: ")


def test_the_output_shows_the_body() -> None:
    outcome, server = ask(answer("200 OK", "gut, grün".encode()))
    assert outcome.output == f"HTTP GET {server.url}/health: 200 OK Output: gut, grün"


def test_the_probe_names_itself_and_takes_any_text() -> None:
    _, server = ask(answer("200 OK"))
    head = server.heads[0]
    assert b"User-Agent: Consul Health Check\r\n" in head
    assert b"Accept: text/plain, text/*, */*\r\n" in head
    assert b"accept-encoding" not in head.lower()


def test_given_headers_win_and_the_host_can_be_set() -> None:
    header = {"User-Agent": ("mine",), "Host": ("web.example",), "X-Two": ("a", "b")}
    _, server = ask(answer("200 OK"), header=header)
    head = server.heads[0]
    assert b"User-Agent: mine\r\n" in head
    assert b"Consul Health Check" not in head
    assert b"Host: web.example\r\n" in head
    assert b"X-Two: a\r\nX-Two: b\r\n" in head


def test_method_and_body_are_sent() -> None:
    outcome, server = ask(answer("200 OK"), method="POST", body='{"ping": 1}')
    assert server.heads[0].startswith(b"POST /health HTTP/1.1\r\n")
    assert server.bodies == [b'{"ping": 1}']
    assert outcome.output.startswith("HTTP POST ")


def test_no_more_of_a_body_is_read_than_is_shown() -> None:
    sent = 0

    async def endless(head: bytes, writer: asyncio.StreamWriter) -> None:
        nonlocal sent
        writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
        while True:
            writer.write(b"x" * 65536)
            await writer.drain()
            sent += 65536

    outcome, _ = ask(endless)
    assert outcome.status == "passing"
    assert outcome.output.endswith(" Output: " + "x" * 4096)
    assert sent < 64 * 1024 * 1024


def test_a_lower_limit_of_output_is_kept() -> None:
    outcome, _ = ask(answer("200 OK", b"abcdefgh"), output_max_bytes=3)
    assert outcome.output.endswith("Output: abc")


def test_a_server_that_dribbles_is_cut_off_and_its_status_counts() -> None:
    async def dribble(head: bytes, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
        while True:
            writer.write(b".")
            await writer.drain()
            await asyncio.sleep(0.01)

    outcome, _ = ask(dribble, timeout_s=3.0)
    assert outcome.status == "passing"
    assert "(the body did not end in time)" in outcome.output


def test_a_server_that_dribbles_its_head_times_out() -> None:
    async def dribble(head: bytes, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nX-A: ")
        while True:
            writer.write(b".")
            await writer.drain()
            await asyncio.sleep(0.01)

    outcome, server = ask(dribble, timeout_s=0.3)
    assert outcome == Outcome("critical", f'Get "{server.url}/health": timed out after 0.3s')


def test_an_endless_head_is_refused() -> None:
    async def endless(head: bytes, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\n")
        while True:
            writer.write(b"X-A: " + b"a" * 9000 + b"\r\n")
            await writer.drain()

    assert ask(endless)[0].status == "critical"


@pytest.mark.parametrize(
    "garbage", [b"", b"SSH-2.0-OpenSSH_9.6\r\n\r\n", b"\0" * 100, b"HTTP/1.1 banana\r\n\r\n"]
)
def test_what_is_no_http_is_critical(garbage: bytes) -> None:
    async def reply(head: bytes, writer: asyncio.StreamWriter) -> None:
        writer.write(garbage)
        await writer.drain()

    outcome, server = ask(reply, timeout_s=2.0)
    assert outcome.status == "critical"
    assert server.url in outcome.output


def test_nobody_there_is_critical_and_says_so() -> None:
    outcome = asyncio.run(probe(define("http://127.0.0.1:1/health")))
    assert outcome == Outcome(
        "critical", 'Get "http://127.0.0.1:1/health": dial tcp 127.0.0.1:1: connect: connection refused'
    )


def test_a_server_that_is_killed_while_it_answers_is_critical_and_its_end_is_told_in_words() -> None:
    async def die(head: bytes, writer: asyncio.StreamWriter) -> None:
        sock = writer.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # its close is a reset
        writer.transport.abort()

    outcome, server = ask(die)
    assert outcome == Outcome("critical", f'Get "{server.url}/health": connection reset by peer')


def test_a_redirect_to_the_same_place_is_followed() -> None:
    async def reply(head: bytes, writer: asyncio.StreamWriter) -> None:
        moved = head.startswith(b"GET /health ")
        await (answer("302 Found", b"", "Location: /ok") if moved else answer("200 OK", b"there"))(
            head, writer
        )

    outcome, _ = ask(reply)
    assert outcome.status == "passing"
    assert outcome.output.endswith("200 OK Output: there")


def test_a_redirect_is_not_followed_when_the_check_says_so() -> None:
    outcome, server = ask(answer("302 Found", b"", "Location: /ok"), disable_redirects=True)
    assert outcome.status == "critical"
    assert len(server.heads) == 1


@pytest.mark.parametrize("code", ["301 A", "302 B", "303 C", "307 D", "308 E"])
def test_a_redirect_to_another_place_is_not_followed(code: str) -> None:
    async def work() -> None:
        async with serving(answer("200 OK", b"secret")) as inner:
            async with serving(answer(code, b"", f"Location: {inner.url}/latest/meta-data")) as outer:
                outcome = await probe(define(outer.url))
            assert outcome.status == "critical"
            assert f"not followed: {inner.url}" in outcome.output
            assert "secret" not in outcome.output
            assert inner.heads == []

    asyncio.run(work())


@pytest.mark.parametrize(
    "target", ["file:///etc/passwd", "https://127.0.0.1/", "//evil.example/", "http://[::1]/"]
)
def test_a_redirect_to_another_scheme_or_host_is_not_followed(target: str) -> None:
    outcome, _ = ask(answer("302 Found", b"", f"Location: {target}"))
    assert outcome.status == "critical"


def test_redirects_in_a_circle_end() -> None:
    outcome, server = ask(answer("302 Found", b"", "Location: /health"))
    assert outcome == Outcome("critical", f'Get "{server.url}/health": stopped after 10 redirects')
    assert len(server.heads) == 11


def test_a_redirected_post_becomes_a_get_unless_the_code_keeps_it() -> None:
    for code, method in (("303 See Other", b"GET"), ("307 Temporary Redirect", b"POST")):

        async def reply(head: bytes, writer: asyncio.StreamWriter, code: str = code) -> None:
            moved = b" /health " in head
            await (answer(code, b"", "Location: /ok") if moved else answer("200 OK"))(head, writer)

        _, server = ask(reply, method="POST", body="x")
        assert server.heads[1].startswith(method + b" /ok ")


def test_an_api_check_cannot_reach_link_local_addresses() -> None:
    outcome = asyncio.run(probe(define("http://169.254.169.254/latest/meta-data/")))
    assert outcome.status == "critical"
    assert "only checks from this host's configuration files may reach" in outcome.output


def test_proxies_of_the_environment_are_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    assert ask(answer("200 OK"))[0].status == "passing"


def test_a_certificate_nobody_vouches_for_is_refused_unless_told_otherwise() -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    trustme.CA().issue_cert("127.0.0.1").configure_cert(context)

    async def work() -> None:
        async with serving(answer("200 OK", b"safe"), context) as server:
            assert (await probe(define(server.url))).status == "critical"
            outcome = await probe(define(server.url, tls_skip_verify=True))
            assert outcome.status == "passing"
            assert outcome.output.endswith("safe")

    asyncio.run(work())
