"""What is thrown at the port: every input gets a clear answer or a closed connection, and changes nothing."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator

import pytest
from support.http_agent import PATIENCE_S, Connection, HttpAgent, run, serving
from support.http_families import FACTS
from support.local_servers import LocalServers, local_servers

from gemot.agent.feeds.feeds import Feeds
from gemot.agent.http import catalog, health, kv, session, status, watch
from gemot.agent.http.transport import Limits
from gemot.agent.user_events import UserEvents
from gemot.agent.views import Views
from gemot.server.model.command import Command, IdempotencyKey
from gemot.server.model.query import Answer, Applied, Options, Query
from gemot.server.rpc.message import Apply, Ask, Numbered, encode

PUT = b"PUT /v1/kv/k HTTP/1.1\r\nHost: x\r\n"
REGISTER = b"PUT /v1/catalog/register HTTP/1.1\r\nHost: x\r\n"
BAD_TOKEN = b"X-Consul-Token: \xff\xfe\r\n"


def get(target: bytes, headers: bytes = b"") -> bytes:
    return b"GET " + target + b" HTTP/1.1\r\nHost: x\r\n" + headers + b"\r\n"


def begin(body: bytes) -> bytes:
    head = b"PUT /v1/session/create HTTP/1.1\r\nHost: x\r\n"
    return head + b"Content-Length: %d\r\n\r\n%b" % (len(body), body)


def register(body: bytes) -> bytes:
    return REGISTER + b"Content-Length: %d\r\n\r\n%b" % (len(body), body)


# What is sent; the status that must come back; a word its text must hold.
INPUTS: list[tuple[str, bytes, int, str]] = [
    ("not http", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\x00" * 64, 400, "not valid HTTP"),
    ("garbage", b"\x00\xff\x00\xff\r\n\r\n", 400, "not valid HTTP"),
    ("no version", b"GET /v1/kv/k\r\n\r\n", 400, "not valid HTTP"),
    ("bad version", b"GET /v1/kv/k HTTP/9.9\r\nHost: x\r\n\r\n", 400, "not valid HTTP"),
    ("http 2 preface", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 400, "not valid HTTP"),
    ("bad method", b"BREW /v1/kv/k HTTP/1.1\r\nHost: x\r\n\r\n", 400, "not valid HTTP"),
    ("lower-case method", b"get /v1/kv/k HTTP/1.1\r\nHost: x\r\n\r\n", 400, "not valid HTTP"),
    ("space in target", b"GET /v1/kv/a b HTTP/1.1\r\nHost: x\r\n\r\n", 400, "not valid HTTP"),
    ("no host", b"GET /v1/kv/k HTTP/1.1\r\n\r\n", 400, "not valid HTTP"),
    ("header without colon", b"GET / HTTP/1.1\r\nHost: x\r\nbroken\r\n\r\n", 400, "not valid HTTP"),
    ("space before colon", b"GET / HTTP/1.1\r\nHost : x\r\n\r\n", 400, "not valid HTTP"),
    ("nul in a header", b"GET / HTTP/1.1\r\nHost: x\r\nA: b\x00c\r\n\r\n", 400, "not valid HTTP"),
    ("nul in a header's name", b"GET / HTTP/1.1\r\nHost: x\r\nA\x00: b\r\n\r\n", 400, "not valid HTTP"),
    ("folded header", b"GET / HTTP/1.1\r\nHost: x\r\nA: b\r\n c\r\n\r\n", 400, "not valid HTTP"),
    ("bare carriage return", b"GET / HTTP/1.1\r\nHost: x\r\nA: b\rc\r\n\r\n", 400, "not valid HTTP"),
    ("length and chunks", PUT + b"Content-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400, ""),
    ("two lengths", PUT + b"Content-Length: 1\r\nContent-Length: 2\r\n\r\nab", 400, "not valid HTTP"),
    ("negative length", PUT + b"Content-Length: -1\r\n\r\n", 400, "not valid HTTP"),
    ("length in hex", PUT + b"Content-Length: 0x10\r\n\r\n", 400, "not valid HTTP"),
    ("length with sign", PUT + b"Content-Length: +5\r\n\r\nabcde", 400, "not valid HTTP"),
    ("length over 64 bits", PUT + b"Content-Length: 99999999999999999999\r\n\r\n", 400, "not valid HTTP"),
    ("length of an exabyte", PUT + b"Content-Length: 1152921504606846976\r\n\r\n", 413, "max size: 524288"),
    ("length just over", PUT + b"Content-Length: 524289\r\n\r\n", 413, "max size: 524288"),
    ("unknown coding", PUT + b"Transfer-Encoding: bogus\r\n\r\nabc", 400, "not valid HTTP"),
    (
        "coding within chunks",
        PUT + b"Transfer-Encoding: gzip, chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
        501,
        "chunked alone",
    ),
    ("bad chunk size", PUT + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n", 400, ""),
    ("huge chunk size", PUT + b"Transfer-Encoding: chunked\r\n\r\nffffffffffffffffff\r\n", 400, ""),
    ("chunk without end", PUT + b"Transfer-Encoding: chunked\r\n\r\n3\r\nabcd\r\n0\r\n\r\n", 400, ""),
    (
        "chunks over the cap",
        PUT + b"Transfer-Encoding: chunked\r\n\r\n" + (b"ffff\r\n" + b"x" * 65535 + b"\r\n") * 9,
        413,
        "more than",
    ),
    (
        "length over the cap on register",
        REGISTER + b"Content-Length: 600000\r\n\r\n",
        413,
        "max size: 524288",
    ),
    ("target too long", get(b"/v1/kv/" + b"a" * 40_000), 431, "16384 bytes"),
    ("header too long", b"GET / HTTP/1.1\r\nHost: x\r\nA: " + b"b" * 20_000 + b"\r\n\r\n", 431, "8192 bytes"),
    (
        "header's name too long",
        b"GET / HTTP/1.1\r\nHost: x\r\n" + b"n" * 20_000 + b": b\r\n\r\n",
        431,
        "8192 bytes",
    ),
    ("too many headers", b"GET / HTTP/1.1\r\nHost: x\r\n" + b"A: b\r\n" * 500 + b"\r\n", 431, "100 headers"),
    (
        "one header too many",
        b"GET / HTTP/1.1\r\nHost: x\r\n" + b"A: b\r\n" * 100 + b"\r\n",
        431,
        "100 headers",
    ),
    ("bad escape", get(b"/v1/kv/%zz"), 400, 'invalid URL escape "%zz"'),
    ("half an escape", get(b"/v1/kv/%a"), 400, 'invalid URL escape "%a"'),
    ("escape cut off", get(b"/v1/kv/%"), 400, 'invalid URL escape "%"'),
    ("bad escape in the query", get(b"/v1/kv/k?index=%g1"), 400, "invalid URL escape"),
    ("query not utf-8", get(b"/v1/kv/k?separator=%ff"), 400, "not valid UTF-8"),
    ("query with 1000 parameters", get(b"/v1/kv/k?" + b"a&" * 1000), 400, "more than 512 parameters"),
    ("nul in the path", get(b"/v1/kv/a%00b"), 400, "cannot be printed"),
    ("line break in the path", get(b"/v1/kv/a%0d%0aSet-Cookie:%20x=1"), 400, "cannot be printed"),
    ("escape character in the path", get(b"/v1/kv/%1b[2J"), 400, "cannot be printed"),
    ("text direction in the path", get(b"/v1/kv/%E2%80%AEtxt"), 400, "cannot be printed"),
    (
        "key too long",
        PUT.replace(b"/k ", b"/" + b"k" * 5000 + b" ") + b"Content-Length: 1\r\n\r\nx",
        413,
        "4096 bytes",
    ),
    ("escapes to a key too long", get(b"/v1/kv/" + b"%41" * 4097), 413, "4096 bytes"),
    ("asterisk", b"GET * HTTP/1.1\r\nHost: x\r\n\r\n", 400, "not valid HTTP"),
    ("foreign scheme", get(b"ftp://host/v1/kv/k"), 400, ""),
    ("connect", b"CONNECT host:443 HTTP/1.1\r\nHost: host:443\r\n\r\n", 400, ""),
    ("trace", b"TRACE /v1/kv/k HTTP/1.1\r\nHost: x\r\n\r\n", 405, "method TRACE not allowed"),
    ("index not a number", get(b"/v1/kv/k?index=NaN"), 400, "Invalid index"),
    ("index of 9000 digits", get(b"/v1/kv/k?index=" + b"9" * 9000), 400, "Invalid index"),
    ("wait of 9000 digits", get(b"/v1/kv/k?index=1&wait=" + b"9" * 9000 + b"s"), 400, "Invalid wait time"),
    (
        "flags of 9000 digits",
        PUT.replace(b"/k ", b"/k?flags=" + b"9" * 9000 + b" ") + b"Content-Length: 0\r\n\r\n",
        500,
        "out of range",
    ),
    ("register nothing", register(b""), 400, "EOF"),
    ("register garbage", register(b"\xff\x00\xff"), 400, "Request decode failed"),
    ("register half", register(b'{"Node":'), 400, "Request decode failed"),
    ("register a list", register(b"[]"), 400, "want an object, found array"),
    ("register deep", register(b'{"Service":' * 30_000), 400, "nested deeper than 32 levels"),
    ("register deep lists", register(b"[" * 500_000), 400, "nested deeper than 32 levels"),
    ("register wrong type", register(b'{"Node":7}'), 400, "Node: expected `str`"),
    (
        "register a port of 9000 digits",
        register(b'{"Service":{"Port":' + b"9" * 9000 + b"}}"),
        400,
        "decode failed",
    ),
    ("register a float for a port", register(b'{"Service":{"Port":1e400}}'), 400, "decode failed"),
    ("register a lone surrogate", register(b'{"Node":"\\ud800"}'), 400, "decode failed"),
    ("register an unknown field", register(b'{"Nde":"n"}'), 400, 'unknown field "Nde"'),
    ("register with a long unknown field", register(b'{"' + b"x" * 100_000 + b'":1}'), 400, "unknown field"),
    ("register without a node", register(b"{}"), 500, "Must provide node"),
    (
        "register a bad status",
        register(b'{"Node":"n","Address":"a","Check":{"Name":"c","Status":"odd"}}'),
        400,
        "odd",
    ),
    ("session of garbage", begin(b"\xff\x00\xff"), 400, "Request decode failed"),
    ("session half", begin(b'{"TTL":'), 400, "Request decode failed"),
    ("session deep", begin(b'{"a":' * 10_000), 400, "nested deeper than 32 levels"),
    ("session of many names", begin(b'{"TTL":7,%b"a":1}' % (b'"a":1,' * 10_000)), 400, "field TTL"),
    ("session too long", begin(b"{" + b" " * 70_000 + b"}"), 413, "max size: 65536"),
    ("session of no node", begin(b'{"Node":"\\u202e"}'), 500, "Missing node registration"),
    (
        "idempotency key too long",
        PUT + b"Idempotency-Key: " + b"k" * 300 + b"\r\nContent-Length: 0\r\n\r\n",
        400,
        "255",
    ),
    ("idempotency key not utf-8", PUT + b"Idempotency-Key: \xff\r\nContent-Length: 0\r\n\r\n", 400, "ASCII"),
    ("token not utf-8", PUT + BAD_TOKEN + b"Content-Length: 0\r\n\r\n", 400, "X-Consul-Token"),
    ("token not utf-8 in a read", get(b"/v1/kv/k", BAD_TOKEN), 400, "X-Consul-Token"),
    ("token not utf-8 in a watch", get(b"/v1/gemot/watch?key=k", BAD_TOKEN), 400, "X-Consul-Token"),
    ("bearer not utf-8", get(b"/v1/kv/k", b"Authorization: Bearer \xe9\r\n"), 400, "Authorization"),
    (
        "cache-control broken",
        b"GET /v1/kv/k HTTP/1.1\r\nHost: x\r\nCache-Control: max-age=x\r\n\r\n",
        400,
        "Cache-Control",
    ),
]

# What is sent before the client closes: no answer can be demanded, only that the agent stays up.
TORN = [
    b"",
    b"G",
    b"GET /v1/kv/k HTTP/1.1\r\n",
    b"GET /v1/kv/k HTTP/1.1\r\nHost: x\r\nX: ",
    PUT + b"Content-Length: 100\r\n\r\nhalf",
    PUT + b"Transfer-Encoding: chunked\r\n\r\n5\r\nab",
    PUT + b"Transfer-Encoding: chunked\r\n\r\n5",
    PUT + b"Expect: 100-continue\r\nContent-Length: 10\r\n\r\n",
    get(b"/v1/kv/k?index=10000&wait=60s"),
    get(b"/v1/kv/k") * 50,
]


@contextlib.asynccontextmanager
async def under_attack(limits: Limits | None = None) -> AsyncIterator[tuple[HttpAgent, LocalServers]]:
    """All families over a real state with one key, which must be the same afterwards.

    What is asked goes through the encoder of RPC, as on a client agent.
    """
    with local_servers() as servers:
        _encode_calls(servers)
        views, feeds = Views(servers=servers, limit=10), Feeds(now=lambda: 0.0)
        events = UserEvents(node="n1", services=dict, now_s=lambda: 0.0, gossip=None)
        routes = [
            *watch.routes(feeds=feeds, servers=servers, views=views, events=events, datacenter="dc1"),
            *kv.routes(servers=servers),
            *catalog.routes(servers=servers, datacenter="dc1"),
            *health.routes(servers=servers, datacenter="dc1"),
            *status.routes(servers=servers, datacenter="dc1"),
            *session.routes(servers=servers, facts=FACTS),
        ]
        async with serving(routes, limits=limits) as agent:
            await agent.ask("PUT", "/v1/kv/k", b"before")
            before = servers.content
            yield agent, servers
            reply = await agent.ask("GET", "/v1/kv/k?raw")
            assert (reply.status, reply.body) == (200, b"before")
            assert servers.content == before
        feeds.stop()
        views.stop()


def _encode_calls(servers: LocalServers) -> None:
    apply, query = servers.apply, servers.query

    def encoded_apply(
        command: Command, *, token: str = "", key: IdempotencyKey | None = None
    ) -> asyncio.Future[Applied]:
        encode(Numbered(1, Apply(command, token, key, 0)))
        return apply(command, token=token, key=key)

    def encoded_query(asked: Query, options: Options) -> asyncio.Future[Answer]:
        encode(Numbered(1, Ask(asked, options, 0)))
        return query(asked, options)

    servers.apply, servers.query = encoded_apply, encoded_query  # type: ignore[method-assign]


async def hostile(agent: HttpAgent, data: bytes, wanted: int, word: str) -> None:
    connection = await agent.connect()
    connection.send(data)
    reply = await connection.reply()
    assert reply.status == wanted
    assert word in reply.text
    assert len(reply.body) < 1000
    assert reply.headers["content-type"].startswith("text/plain")
    assert reply.headers["x-content-type-options"] == "nosniff"
    assert reply.headers["content-security-policy"] == "sandbox"
    await connection.close()


@pytest.mark.parametrize(
    ("data", "status", "word"), [row[1:] for row in INPUTS], ids=[row[0] for row in INPUTS]
)
def test_a_hostile_input_gets_a_clear_answer_and_changes_nothing(data: bytes, status: int, word: str) -> None:
    async def work() -> None:
        async with under_attack() as (agent, _):
            await hostile(agent, data, status, word)

    run(work())


def test_there_are_more_than_sixty_of_them() -> None:
    assert len(INPUTS) > 60
    assert PATIENCE_S > 1


@pytest.mark.parametrize("data", TORN)
def test_a_connection_torn_at_any_point_changes_nothing(data: bytes) -> None:
    async def work() -> None:
        async with under_attack() as (agent, _):
            connection = await agent.connect()
            connection.send(data)
            await connection.drain()
            await connection.close()

    run(work())


def test_slow_heads_do_not_hold_connections_for_ever() -> None:
    async def work() -> None:
        async with under_attack(Limits(head_timeout_s=0.1)) as (agent, _):
            slow: list[Connection] = [await agent.connect() for _ in range(20)]
            for connection in slow:
                connection.send(b"GET /v1/kv/k HTTP/1.1\r\nHost: x\r\nX-Slow: ")
            for connection in slow:
                assert (await connection.reply()).status == 408
                await connection.close()

    run(work())


@pytest.mark.parametrize("seed", range(5))
def test_a_request_with_any_bytes_changed_never_brings_the_agent_down(seed: int) -> None:
    async def work() -> None:
        chance = random.Random(seed)
        async with under_attack() as (agent, _):
            # Reads and registrations only: a changed write of a key might rightly be another write.
            good = [get(b"/v1/kv/k?raw&stale"), get(b"/v1/kv/?recurse"), register(b'{"Node":1}')]
            for _ in range(60):
                data = bytearray(chance.choice(good))
                for _ in range(chance.randrange(1, 6)):
                    data[chance.randrange(len(data))] = chance.randrange(256)
                connection = await agent.connect()
                connection.send(bytes(data))
                await connection.drain()
                await connection.close()

    run(work())
