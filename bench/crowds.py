"""A crowd of idle watchers on one server: what each takes, and how soon the last of them has a new value.

Each watcher has a connection of its own; they run in two processes (`crowd.py`), which share the machine
with the server. A watcher was told when it has the whole new value: by Gemot's push and etcd's watch at once,
by ZooKeeper after it has read the node again, as its events hold none. What is resident of a JVM or a Go
server is what its collector has not given back: not what a watcher needs, but what the host lacks.
"""

from __future__ import annotations

import asyncio
import resource
import signal
import statistics
import sys
import time
from asyncio.subprocess import PIPE, Process
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import jute
import msgspec
import uvloop
from crowd import KEY, NODE, SESSION_MS, value
from load import put_request, read_reply
from peers import processor_seconds, resident_bytes

CROWD = Path(__file__).resolve().parent / "crowd.py"
WAYS = {"push": "gemot", "blocking": "gemot", "grpc": "etcd", "gateway": "etcd", "native": "zookeeper"}
"""Each way to watch, and whose it is."""

PROCESSES = 2
WARM_UP = 3
WRITES = 30
WRITES_BEFORE = 200
"""Before memory is looked at: what the server makes at its first writes is not the watchers'."""

SETTLE_S = 0.25
"""Between writes, so that every watcher waits again: what is measured is telling, not asking anew."""

LIMIT_S = 120.0
SPARE_FILES = 500

SAID = (
    f"{WRITES} writes of 256 B to one server, a connection a watcher from {PROCESSES} processes; etcd is "
    "written over its gateway; ZooKeeper's events hold no value, so it is read again, with the next watch"
)


class Found(msgspec.Struct, frozen=True):
    """Of one server with so many watchers: resident bytes of it before and with them; then of writes, each
    in seconds from its start: until the last watcher had the value, until the last one heard of it, until
    the write itself was answered; and the server's processor seconds for one watcher told."""

    before_bytes: int
    watched_bytes: int
    last_s: list[float]
    noticed_s: list[float]
    put_s: list[float]
    processor_s: float


Put = Callable[[int], Awaitable[None]]
"""Writes the value of that number, until it is answered."""


def measure(way: str, address: str, pid: int, watchers: int, *, writes: int = WRITES) -> Found:
    """Watch a key of this server in this way, and write it. Raises RuntimeError if not all are told."""
    allow_files(watchers)
    return uvloop.run(_measure(way, address, pid, watchers, writes))


def allow_files(watchers: int) -> None:
    """Let this process and those it starts open a file for each watcher; the server needs them all."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = watchers + SPARE_FILES
    if hard != resource.RLIM_INFINITY and hard < wanted:
        raise RuntimeError(f"{watchers} watchers need {wanted} open files; `ulimit -Hn` allows {hard}")
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


async def _measure(way: str, address: str, pid: int, watchers: int, writes: int) -> Found:
    put, writer = await _writer(WAYS[way], address)
    for _ in range(WRITES_BEFORE):
        await put(10**11)
    before = await _settled_bytes(pid)
    crowds = await _start(way, address, watchers)
    try:
        await _all(crowds, "are not all watching", lambda line: line == "ready")
        watched = await _settled_bytes(pid)
        times = []
        used_s = 0.0
        for number in range(WARM_UP + writes):
            if number == WARM_UP:
                used_s = processor_seconds([pid])
            times.append(await _write(crowds, put, number))
            await asyncio.sleep(SETTLE_S)
        used_s = processor_seconds([pid]) - used_s
    finally:
        for crowd in crowds:
            if crowd.returncode is None:
                crowd.send_signal(signal.SIGKILL)
            await crowd.wait()
        writer.close()
    last, noticed, answered = (list(each) for each in zip(*times[WARM_UP:], strict=True))
    return Found(before, watched, last, noticed, answered, used_s / (writes * watchers))


async def _start(way: str, address: str, watchers: int) -> list[Process]:
    processes = min(PROCESSES, watchers)
    shares = [watchers // processes + (number < watchers % processes) for number in range(processes)]
    return [
        await asyncio.create_subprocess_exec(
            sys.executable, str(CROWD), way, address, str(share), stdout=PIPE
        )
        for share in shares
    ]


async def _write(crowds: list[Process], put: Put, number: int) -> tuple[float, float, float]:
    told = asyncio.ensure_future(
        _all(crowds, f"were not all told of write {number}", lambda line: line.startswith(f"{number} "))
    )
    began = time.perf_counter()
    await put(number)
    answered = time.perf_counter()
    found = [[float(field) for field in line.split()] for line in await told]
    _, last, noticed = map(max, zip(*found, strict=True))
    return last - began, noticed - began, answered - began


async def _all(crowds: list[Process], failed: str, expected: Callable[[str], bool]) -> list[str]:
    """The next line of each, which must be as expected. Raises RuntimeError with `failed` in it."""
    try:
        async with asyncio.timeout(LIMIT_S):
            lines = await asyncio.gather(*[_line(crowd) for crowd in crowds])
    except TimeoutError:
        raise RuntimeError(f"the watchers {failed} within {LIMIT_S:g} s") from None
    for line in lines:
        if not expected(line):
            raise RuntimeError(f"the watchers {failed}: {line or 'a crowd has ended, see above'}")
    return lines


async def _line(crowd: Process) -> str:
    assert crowd.stdout is not None, "made with a pipe"
    return (await crowd.stdout.readline()).decode().strip()


async def _settled_bytes(pid: int) -> int:
    """What is resident once it moves no more than a hundredth in two seconds, or after twenty."""
    found = [resident_bytes(pid)]
    while len(found) < 11:
        await asyncio.sleep(2.0)
        found.append(resident_bytes(pid))
        if abs(found[-1] - found[-2]) < found[-1] / 100:
            break
    return found[-1]


async def _writer(peer: str, address: str) -> tuple[Put, asyncio.StreamWriter]:
    host, _, port = address.partition(":")
    reader, writer = await asyncio.open_connection(host, int(port))

    async def over_http(number: int) -> None:
        writer.write(put_request(peer, address, KEY, value(number)))
        status, body = await read_reply(reader)
        if status != 200:
            raise RuntimeError(f"{peer} answered {status} to a write: {body[:200]!r}")

    async def natively(number: int, *, new: bool = False) -> None:
        writer.write((jute.create if new else jute.set_data)(1, NODE, value(number)))
        reply = jute.reply(await _message(reader))
        if reply.error:
            raise RuntimeError(f"ZooKeeper answered {reply.error} to a write")

    if peer != "zookeeper":
        return over_http, writer
    writer.write(jute.connect(SESSION_MS))
    if not jute.granted_timeout_ms(await _message(reader)):
        raise RuntimeError("ZooKeeper refused a session")
    await natively(0, new=True)
    return natively, writer


async def _message(reader: asyncio.StreamReader) -> bytes:
    return await reader.readexactly(int.from_bytes(await reader.readexactly(4), "big"))


def figures(found: Found, watchers: int) -> Iterator[tuple[str, str, float]]:
    """Name, unit and value of all that is reported of one server. Names are of so many watchers."""
    of = f"{watchers} watcher{'s' if watchers > 1 else ''}"
    if watchers > 1:
        each = (found.watched_bytes - found.before_bytes) / watchers
        yield f"{of}, idle: memory each", "kB resident", each / 1e3
        yield f"{of}, idle: the server's memory", "MB resident", found.watched_bytes / 1e6
    yield f"{of}: the last has the value, median", "ms", statistics.median(found.last_s) * 1e3
    yield f"{of}: the last has the value, worst", "ms", max(found.last_s) * 1e3
    if found.noticed_s != found.last_s:
        yield (
            f"{of}: the last knows that there is one, median",
            "ms",
            statistics.median(found.noticed_s) * 1e3,
        )
    yield f"{of}: the write's own answer, median", "ms", statistics.median(found.put_s) * 1e3
    if watchers > 1:
        yield f"{of}: the server's processor time for each told", "us", found.processor_s * 1e6
