"""`make watchers`: many push watchers through kills of leaders, followers and agents; nothing may be missed.

    watchers.py [--watchers N] [--deliveries N] [--seconds S] [--seed N]

Three servers and three client agents. Writers set keys, several in one transaction, delete, and delete
ranges; each watcher follows one prefix and goes on at another agent whenever its own is gone. It ends when
there were so many deliveries, or after so many seconds; then all come to the last write, and what each was
told is compared (tests/support/push_watchers.py). Exit code 1 if something was lost, doubled, out of order or
in parts.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import sys
import tempfile
import time
from base64 import b64encode
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import uvloop
from support.cluster import Agent, Cluster
from support.push_watchers import PushWatcher, faults

PREFIXES = ("w/", "w/a/", "w/b/", "w/c/", "other/")
KEYS = tuple(f"{prefix}{n}" for prefix in ("w/a/", "w/b/", "w/c/", "w/", "other/") for n in range(4))
BETWEEN_KILLS_S = 6.0
AWAY_S = 1.5
SETTLE_S = 90.0


class Watching:
    """One run: `watchers` of them on `cluster`, which is up."""

    def __init__(
        self, cluster: Cluster, *, watchers: int, seed: int, between_kills_s: float = BETWEEN_KILLS_S
    ) -> None:
        self._between_kills_s = between_kills_s
        self._cluster = cluster
        self._random = random.Random(seed)
        self.acknowledged: list[tuple[int, str]] = []
        self.unknown = 0
        self.kills = 0
        self._last = 0
        self.watchers = [
            PushWatcher(PREFIXES[n % len(PREFIXES)], lambda turn, n=n: self._address(n + turn))  # type: ignore[misc]
            for n in range(watchers)
        ]

    @property
    def deliveries(self) -> int:
        return sum(len(watcher.told) for watcher in self.watchers)

    async def run(self, *, deliveries: int, seconds: float, kills: int = 0) -> list[str]:
        """Until there were so many deliveries and kills, or for so long; the faults."""
        loop = asyncio.get_running_loop()
        following = [loop.create_task(watcher.run()) for watcher in self.watchers]
        begun = time.monotonic()
        await self._until(lambda: all(w.began_at >= 0 for w in self.watchers), SETTLE_S)
        work = [loop.create_task(self._write(n)) for n in range(3)]
        work.append(loop.create_task(self._kill()))
        left_s = seconds - (time.monotonic() - begun)
        await self._until(lambda: self.deliveries >= deliveries and self.kills >= kills, left_s)
        for task in work:
            task.cancel()
        done = await asyncio.gather(*work, return_exceptions=True)
        failed = [repr(each) for each in done if isinstance(each, Exception)]
        for agent in self._cluster.agents:
            if not agent.running:
                agent.start()
        await self._mark()
        reached = await self._until(
            lambda: all(w.index >= self._last for w in self.watchers if w.prefix in ("w/", "other/")),
            SETTLE_S,
        )
        for task in following:
            task.cancel()
        await asyncio.gather(*following, return_exceptions=True)
        late = [] if reached else [f"not all came to {self._last} within {SETTLE_S:g} s"]
        return failed + late + faults(self.watchers, self.acknowledged)

    async def _until(self, so: object, within_s: float) -> bool:
        end = time.monotonic() + within_s
        while time.monotonic() < end:
            if so():  # type: ignore[operator]
                return True
            await asyncio.sleep(0.1)
        return False

    def _address(self, number: int) -> str:
        return self._cluster.agents[number % len(self._cluster.agents)].http

    # -- writing -----------------------------------------------------------------------------------

    async def _write(self, writer: int) -> None:
        chance = random.Random(self._random.random())
        number = 0
        while True:
            number += 1
            value = f"{writer}.{number}".encode()
            if number % 5:
                keys = [chance.choice(KEYS)]
                await self._ask("PUT", f"/v1/kv/{keys[0]}", value, keys)
            elif number % 10:
                keys = chance.sample(KEYS, 4)
                ops = [{"KV": {"Verb": "set", "Key": k, "Value": b64encode(value).decode()}} for k in keys]
                await self._ask("PUT", "/v1/txn", json.dumps(ops).encode(), keys)
            elif number % 50:
                keys = [chance.choice(KEYS)]
                await self._ask("DELETE", f"/v1/kv/{keys[0]}", b"", [])
            else:
                await self._ask("DELETE", "/v1/kv/w/a/?recurse", b"", [])

    async def _mark(self) -> None:
        """One last write under every prefix, by which one sees that all was told."""
        keys = [f"{prefix}last" for prefix in PREFIXES]
        ops = [{"KV": {"Verb": "set", "Key": key, "Value": "bGFzdA=="}} for key in keys]
        for _ in range(100):
            if await self._ask("PUT", "/v1/txn", json.dumps(ops).encode(), keys):
                break
            await asyncio.sleep(0.5)
        self._last = self.acknowledged[-1][0]

    async def _ask(self, method: str, target: str, body: bytes, keys: list[str]) -> bool:
        """One write; its index is kept, with the keys that it surely changed."""
        address = self._address(self._random.randrange(1000))
        try:
            async with asyncio.timeout(12):
                reply = await _exchange(address, method, target, body)
        except (OSError, TimeoutError):
            self.unknown += 1
            return False
        if not reply.startswith(b"HTTP/1.1 200"):
            self.unknown += 1
            return False
        if keys:
            _, _, rest = reply.lower().partition(b"x-gemot-index: ")
            index = int(rest.split(b"\r\n", 1)[0])
            self.acknowledged.extend((index, key) for key in keys)
        return True

    # -- killing -----------------------------------------------------------------------------------

    async def _kill(self) -> None:
        """The leader, another server, or a client agent, in turns; one at a time, and it comes back."""
        while True:
            await asyncio.sleep(self._between_kills_s)
            agent = await asyncio.to_thread(self._next_to_die)
            agent.kill()
            self.kills += 1
            await asyncio.sleep(AWAY_S)
            agent.start()

    def _next_to_die(self) -> Agent:
        turn = self.kills % 3
        if turn == 2:
            return self._random.choice(self._cluster.clients)
        leader = self._cluster.leader()
        if turn == 0:
            return leader
        return self._random.choice([server for server in self._cluster.servers if server is not leader])


async def _exchange(address: str, method: str, target: str, body: bytes) -> bytes:
    """One request on a connection of its own; all that came back."""
    host, _, port = address.partition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    try:
        head = f"{method} {target} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n"
        writer.write(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
        return await reader.read()
    finally:
        writer.close()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--watchers", type=int, default=1_000)
    parser.add_argument("--deliveries", type=int, default=1_000_000)
    parser.add_argument("--seconds", type=float, default=900.0)
    parser.add_argument("--seed", type=int, default=1)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="gemot-watchers-") as folder:
        cluster = Cluster(
            Path(folder),
            servers=3,
            clients=3,
            config={"limits": {"http_max_conns_per_client": 4 * given.watchers}},
        )
        cluster.start()
        try:
            run = Watching(cluster, watchers=given.watchers, seed=given.seed)
            found = uvloop.run(run.run(deliveries=given.deliveries, seconds=given.seconds))
        finally:
            cluster.stop()
    again = sum(watcher.connections for watcher in run.watchers)
    print(
        f"{given.watchers} watchers, {run.deliveries} deliveries, {len(run.acknowledged)} keys written for "
        f"sure, {run.unknown} writes of unknown outcome, {run.kills} kills, {again} times connected again"
    )
    for fault in found[:20]:
        print(fault)
    print(f"{len(found)} faults")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
