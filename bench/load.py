"""Load: wrk for rates, and a loader of our own where an exact number of writes is wanted."""

from __future__ import annotations

import asyncio
import base64
import json
import subprocess
from collections.abc import Iterator
from pathlib import Path

import msgspec
import uvloop
from peers import TOOLS

LUA = Path(__file__).resolve().parent / "lua"
VALUE = b"v" * 256
LOADERS = 64


class Rate(msgspec.Struct, frozen=True):
    """One run of wrk. Latencies are in milliseconds, as the client saw them."""

    requests: int
    per_second: float
    p50_ms: float
    p99_ms: float
    errors: int


def run_wrk(peer: str, script: str, address: str, *, connections: int, seconds: float) -> Rate:
    """Drive one script (`put`, `get`) of this peer; one thread, so that both sides pay the same for it."""
    command = [str(TOOLS / "wrk"), "-t1", f"-c{connections}", f"-d{seconds:g}s", "--timeout=10s"]
    command += ["-s", str(LUA / f"{peer}_{script}.lua"), f"http://{address}", "--", str(LUA)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=seconds + 60)
    for line in done.stdout.splitlines():
        if line.startswith("RESULT "):
            found = json.loads(line.removeprefix("RESULT "))
            return Rate(
                found["requests"],
                found["requests"] / (found["duration_us"] / 1e6),
                found["p50_us"] / 1e3,
                found["p99_us"] / 1e3,
                found["errors"],
            )
    raise RuntimeError(f"wrk told no result: {done.stdout[-500:]} {done.stderr[-500:]}")


def load_keys(peer: str, address: str, count: int) -> None:
    """Write the keys bench/key-000000 and on, each once."""
    uvloop.run(_load(peer, address, count))


def put_request(peer: str, address: str, key: str, value: bytes) -> bytes:
    """A whole request that writes one key."""
    if peer == "gemot":
        head = f"PUT /v1/kv/{key} HTTP/1.1\r\nHost: {address}\r\nContent-Length: {len(value)}\r\n\r\n"
        return head.encode() + value
    body = {"key": base64.b64encode(key.encode()).decode(), "value": base64.b64encode(value).decode()}
    return post(address, "/v3/kv/put", json.dumps(body).encode())


def post(address: str, path: str, body: bytes) -> bytes:
    head = f"POST {path} HTTP/1.1\r\nHost: {address}\r\nContent-Length: {len(body)}\r\n\r\n"
    return head.encode() + body


async def _load(peer: str, address: str, count: int) -> None:
    numbers = iter(range(count))
    async with asyncio.TaskGroup() as group:
        for _ in range(LOADERS):
            group.create_task(_put_all(peer, address, numbers))


async def _put_all(peer: str, address: str, numbers: Iterator[int]) -> None:
    host, _, port = address.partition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    for number in numbers:
        writer.write(put_request(peer, address, f"bench/key-{number:06d}", VALUE))
        status, _ = await read_reply(reader)
        if status != 200:
            raise RuntimeError(f"{peer} answered {status} to write {number}")
    writer.close()


async def read_reply(reader: asyncio.StreamReader) -> tuple[int, bytes]:
    """Status and body of a reply with a length."""
    head = await reader.readuntil(b"\r\n\r\n")
    status = int(head[9:12])
    _, _, rest = head.lower().partition(b"content-length:")
    return status, await reader.readexactly(int(rest.split(b"\r\n", 1)[0]))
