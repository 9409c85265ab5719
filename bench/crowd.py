"""Many watchers of one key in one process, each with a connection of its own; started by `crowds.py`.

    crowd.py WAY HOST:PORT COUNT

The ways are `push` and `blocking` (Gemot), `grpc` and `gateway` (etcd), `native` (ZooKeeper). Says `ready`
once all watch. Write number N holds `marker(N)`, and there is no next one before this process has said, in a
line, `N LAST NOTICED`: when the last watcher had the new value, and when the last one heard that there is
one, which on ZooKeeper is earlier (its events hold no value). Times are of the monotonic clock, which all
processes of a host share. Ends when it is killed, or a connection is lost.
"""

from __future__ import annotations

import asyncio
import base64
import json
import sys
import time
from collections.abc import Callable
from typing import Any

import grpc_watch
import jute
import uvloop

KEY = "bench/watched"
NODE = "/watched"
SESSION_MS = 40_000
CONNECTING = 64
_KEPT = 64
"""Bytes of what came before that are looked at again: no mark is longer."""


def marker(number: int) -> bytes:
    return b"%012d" % number


def value(number: int) -> bytes:
    """256 bytes with the marker near the end, at a place from which base64 shows it as by itself."""
    return b"v" * 243 + marker(number) + b"v"


class Crowd:
    """What all watchers share: which write is awaited, and who has not been told of it."""

    def __init__(self, *, address: str, count: int, encoded: bool) -> None:
        self.address = address
        self._count = count
        self._encoded = encoded
        self._not_watching = count
        self.ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.number = -1
        self._next()

    def _next(self) -> None:
        self.number += 1
        plain = marker(self.number)
        self.marker = base64.b64encode(plain) if self._encoded else plain
        self._missing, self._noticed = self._count, 0.0

    def watching(self) -> None:
        self._not_watching -= 1
        if not self._not_watching:
            print("ready", flush=True)

    def noticed(self) -> None:
        self._noticed = time.perf_counter()

    def told(self) -> None:
        self._missing -= 1
        if not self._missing:
            now = time.perf_counter()
            print(self.number, now, self._noticed or now, flush=True)
            self._next()

    def lost(self, why: object) -> None:
        if not self.ended.done():
            self.ended.set_exception(ConnectionError(f"a watcher lost its connection: {why}"))


class Stream(asyncio.Protocol):
    """Asks once over HTTP and is told from then on; `begun` is in what it is told first."""

    def __init__(self, crowd: Crowd, *, request: bytes, begun: bytes) -> None:
        self._crowd = crowd
        self._request = request
        self._begun = begun
        self._kept = b""
        self._told = -1

    def connection_made(self, transport: Any) -> None:
        transport.write(self._request)

    def data_received(self, data: bytes) -> None:
        crowd = self._crowd
        seen = self._kept + data if self._kept else data
        if self._begun and self._begun in seen:
            self._begun = b""
            crowd.watching()
        if crowd.marker in seen and self._told != crowd.number:
            self._told, self._kept = crowd.number, b""
            crowd.told()
        else:
            self._kept = seen[-_KEPT:]

    def connection_lost(self, exc: Exception | None) -> None:
        self._crowd.lost(exc)


class Blocking(asyncio.Protocol):
    """Asks Gemot for the key with the index it has, again after each answer."""

    def __init__(self, crowd: Crowd) -> None:
        self._crowd = crowd
        self._index = 0
        self._seen = b""

    def connection_made(self, transport: Any) -> None:
        self._transport: asyncio.WriteTransport = transport
        self._ask()

    def _ask(self) -> None:
        target = f"/v1/kv/{KEY}?index={self._index}&wait=300s"
        self._transport.write(f"GET {target} HTTP/1.1\r\nHost: {self._crowd.address}\r\n\r\n".encode())

    def data_received(self, data: bytes) -> None:
        self._seen += data
        head, end, body = self._seen.partition(b"\r\n\r\n")
        if not end or len(body) < _number(head, b"content-length:"):
            return
        self._seen = b""
        begun, self._index = self._index, _number(head, b"x-consul-index:")
        if not begun:
            self._crowd.watching()
        elif self._crowd.marker in body:
            self._crowd.told()
        self._ask()

    def connection_lost(self, exc: Exception | None) -> None:
        self._crowd.lost(exc)


class Grpc(asyncio.Protocol):
    """etcd's own protocol, one watch a connection."""

    def __init__(self, crowd: Crowd) -> None:
        self._crowd = crowd
        self._rest = b""
        self._begun = False

    def connection_made(self, transport: Any) -> None:
        self._transport: asyncio.WriteTransport = transport
        transport.write(grpc_watch.watch(self._crowd.address, KEY))

    def data_received(self, data: bytes) -> None:
        told, owed, self._rest = grpc_watch.take(self._rest + data)
        if owed:
            self._transport.write(owed)
        if told and not self._begun:
            self._begun = True
            self._crowd.watching()
        elif self._crowd.marker in told:
            self._crowd.told()

    def connection_lost(self, exc: Exception | None) -> None:
        self._crowd.lost(exc)


class Native(asyncio.Protocol):
    """A session of ZooKeeper that reads the node, with a watch, again after each event."""

    def __init__(self, crowd: Crowd) -> None:
        self._crowd = crowd
        self._rest = b""
        self._connected = False
        self._begun = False
        self._ping_s = SESSION_MS / 3000
        self._ask = jute.get_and_watch(1, NODE)

    def connection_made(self, transport: Any) -> None:
        self._transport: asyncio.WriteTransport = transport
        self._write(jute.connect(SESSION_MS))

    def _write(self, data: bytes) -> None:
        self._transport.write(data)
        self._said_at = time.perf_counter()

    def ping(self) -> None:
        """As every client does when it had nothing to say for a third of its session's life."""
        if self._connected and time.perf_counter() - self._said_at > self._ping_s:
            self._write(jute.ping())

    def data_received(self, data: bytes) -> None:
        messages, self._rest = jute.split(self._rest + data)
        for message in messages:
            if self._connected:
                self._take(jute.reply(message))
            else:
                self._connected = True
                self._ping_s = jute.granted_timeout_ms(message) / 3000
                self._write(self._ask)

    def _take(self, reply: jute.Reply) -> None:
        if reply.error:
            self._crowd.lost(f"ZooKeeper answers {reply.error}")
        elif reply.xid == jute.EVENT_XID:
            self._crowd.noticed()
            self._write(self._ask)
        elif reply.xid != jute.PING_XID and not self._begun:
            self._begun = True
            self._crowd.watching()
        elif self._crowd.marker in reply.body:
            self._crowd.told()

    def connection_lost(self, exc: Exception | None) -> None:
        self._crowd.lost(exc)


def _number(head: bytes, name: bytes) -> int:
    return int(head.lower().partition(name)[2].split(b"\r\n", 1)[0])


def _maker(way: str, crowd: Crowd) -> Callable[[], asyncio.Protocol]:
    if way == "push":
        request = f"GET /v1/gemot/watch?key={KEY} HTTP/1.1\r\nHost: {crowd.address}\r\n\r\n".encode()
        return lambda: Stream(crowd, request=request, begun=b"event: snapshot")
    if way == "gateway":
        body = json.dumps({"create_request": {"key": base64.b64encode(KEY.encode()).decode()}})
        head = f"POST /v3/watch HTTP/1.1\r\nHost: {crowd.address}\r\nContent-Length: {len(body)}\r\n\r\n"
        return lambda: Stream(crowd, request=(head + body).encode(), begun=b'"created":true')
    return {
        "blocking": lambda: Blocking(crowd),
        "grpc": lambda: Grpc(crowd),
        "native": lambda: Native(crowd),
    }[way]


async def _run(way: str, address: str, count: int) -> None:
    loop = asyncio.get_running_loop()
    crowd = Crowd(address=address, count=count, encoded=way not in ("grpc", "native"))
    make = _maker(way, crowd)
    host, _, port = address.partition(":")
    room = asyncio.Semaphore(CONNECTING)

    async def connect() -> asyncio.Protocol:
        async with room:
            _, protocol = await loop.create_connection(make, host, int(port))
            return protocol

    watchers = await asyncio.gather(*[connect() for _ in range(count)])
    while True:
        await asyncio.wait([crowd.ended], timeout=1.0)
        if crowd.ended.done():
            crowd.ended.result()
        for watcher in watchers:
            if isinstance(watcher, Native):
                watcher.ping()


if __name__ == "__main__":
    uvloop.run(_run(sys.argv[1], sys.argv[2], int(sys.argv[3])))
