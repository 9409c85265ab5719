"""Watch notification: from the start of a PUT until the last of N HTTP watchers has been told the new value.

Each watcher has a connection of its own: on Gemot a blocking query, asked again after each answer as every
client does; on etcd a stream of its gateway's /v3/watch. All run in this process, which shares the machine.
"""

from __future__ import annotations

import asyncio
import base64
import json
import statistics
import time
from typing import Any

import msgspec
import uvloop
from load import VALUE, post, put_request, read_reply

KEY = "bench/watched"
WARM_UP = 3
WRITES = 30
SETTLE_S = 0.25
"""Between writes, so that every watcher waits again: what is measured is telling, not asking anew."""
LIMIT_S = 30.0


class Notified(msgspec.Struct, frozen=True):
    """Milliseconds from the start of a PUT, medians over the writes: until the first, until the last watcher
    was told, and until the write itself was answered. `slowest_ms` is the worst last one."""

    first_ms: float
    last_ms: float
    slowest_ms: float
    put_ms: float


class _Round:
    """One write under way: which bytes tell it, who was told when."""

    def __init__(self, watchers: int) -> None:
        self.marker = b""
        self.missing = watchers
        self.first = 0.0
        self.last = 0.0
        self.over = asyncio.Event()

    def begin(self, marker: bytes, watchers: int) -> None:
        self.marker, self.missing, self.first = marker, watchers, 0.0
        self.over.clear()

    def told(self) -> None:
        self.last = time.perf_counter()
        self.first = self.first or self.last
        self.missing -= 1
        if not self.missing:
            self.over.set()


class _Watcher(asyncio.Protocol):
    """One connection; `asks` gives the request to send again after an answer, b"" for a stream."""

    def __init__(self, round_: _Round, address: str, stream: bool, index: int) -> None:
        self._round = round_
        self._address = address
        self._stream = stream
        self._index = index
        self._seen = b""
        self._told = b""
        self.lost: Exception | None = None

    def connection_made(self, transport: Any) -> None:
        self._transport: asyncio.WriteTransport = transport
        if self._stream:
            key = base64.b64encode(KEY.encode()).decode()
            body = json.dumps({"create_request": {"key": key}}).encode()
            transport.write(post(self._address, "/v3/watch", body))
        else:
            self._ask()

    def _ask(self) -> None:
        query = f"/v1/kv/{KEY}?index={self._index}&wait=120s"
        self._transport.write(f"GET {query} HTTP/1.1\r\nHost: {self._address}\r\n\r\n".encode())

    def data_received(self, data: bytes) -> None:
        self._seen = (self._seen + data)[-4096:]
        marker = self._round.marker
        if not marker or marker == self._told or marker not in self._seen:
            return
        if not self._stream:
            head, _, body = self._seen.partition(b"\r\n\r\n")
            _, _, rest = head.lower().partition(b"content-length:")
            if len(body) < int(rest.split(b"\r\n", 1)[0]):
                return
            _, _, rest = head.lower().partition(b"x-consul-index:")
            self._index = int(rest.split(b"\r\n", 1)[0])
        self._told, self._seen = marker, b""
        self._round.told()
        if not self._stream:
            self._ask()

    def connection_lost(self, exc: Exception | None) -> None:
        self.lost = exc or ConnectionError("closed by the server")


def measure(peer: str, address: str, watchers: int) -> Notified:
    """Watch a key with this many connections and write it WRITES times."""
    return uvloop.run(_measure(peer, address, watchers))


async def _measure(peer: str, address: str, watchers: int) -> Notified:
    host, _, port = address.partition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(put_request(peer, address, KEY, VALUE))
    await read_reply(reader)
    index = await _index_of(reader, writer, address) if peer == "gemot" else 0
    round_ = _Round(watchers)
    loop = asyncio.get_running_loop()
    protocols = []
    for _ in range(watchers):
        _, protocol = await loop.create_connection(
            lambda: _Watcher(round_, address, peer == "etcd", index), host, int(port)
        )
        protocols.append(protocol)
    await asyncio.sleep(1.0)
    times = []
    for number in range(WARM_UP + WRITES):
        text = f"{number:012d}"
        round_.begin(base64.b64encode(text.encode()), watchers)
        start = time.perf_counter()
        writer.write(put_request(peer, address, KEY, text.encode() + VALUE[12:]))
        status, _ = await read_reply(reader)
        answered = time.perf_counter()
        if status != 200:
            raise RuntimeError(f"{peer} answered {status} to a write")
        try:
            async with asyncio.timeout(LIMIT_S):
                await round_.over.wait()
        except TimeoutError:
            lost = next((p.lost for p in protocols if p.lost), None)
            raise RuntimeError(f"{peer}: {round_.missing} of {watchers} were never told ({lost})") from None
        times.append((round_.first - start, round_.last - start, answered - start))
        await asyncio.sleep(SETTLE_S)
    first, last, put = zip(*times[WARM_UP:], strict=True)
    return Notified(
        statistics.median(first) * 1e3,
        statistics.median(last) * 1e3,
        max(last) * 1e3,
        statistics.median(put) * 1e3,
    )


async def _index_of(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, address: str) -> int:
    writer.write(f"GET /v1/kv/{KEY} HTTP/1.1\r\nHost: {address}\r\n\r\n".encode())
    _, body = await read_reply(reader)
    return int(json.loads(body)[0]["ModifyIndex"])
