"""Fail-over beside etcd: from SIGKILL of the leader until a write that was sent after it is acknowledged.

    failover.py [--kills N] [--rounds N] [--dir DIR] [--no-file]

Three servers of each kind, with their default timing (Gemot: raft_multiplier 1), killed in turns of rounds. A
new write goes to each of the two others every 25 ms, each on a connection of its own, until one is
acknowledged: so neither is measured by how long a write that met the old leader is held, and the figures are
exact to 25 ms.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import itertools
import random
import shutil
import statistics
import sys
import tempfile
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "tests"))

from load import VALUE, put_request, read_reply  # noqa: E402
from peers import Etcd, Gemot, Peer, version  # noqa: E402
from report import Others, Row, filesystem_type, machine_facts, table, write_report  # noqa: E402

EVERY_S = 0.025
LIMIT_S = 60.0
REST_S = 1.0
"""Least time from a revival to the next kill, and as much again by chance: not in step with a heartbeat."""


async def _until_written(peer: str, addresses: list[str], began: float) -> float:
    """Seconds from `began` until the first write is acknowledged."""
    written = asyncio.Event()
    asked: set[asyncio.Task[None]] = set()

    async def write(address: str, number: int) -> None:
        host, _, port = address.partition(":")
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            reader, writer = await asyncio.open_connection(host, int(port))
            try:
                writer.write(put_request(peer, address, f"failover/{number % 100}", VALUE))
                status, _ = await read_reply(reader)
                if status == 200:
                    written.set()
            finally:
                writer.transport.abort()

    try:
        async with asyncio.timeout(LIMIT_S):
            for number in itertools.count():
                asked |= {asyncio.create_task(write(address, number)) for address in addresses}
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(written.wait(), EVERY_S)
                    return time.perf_counter() - began
    finally:
        for task in asked:
            task.cancel()
        await asyncio.gather(*asked, return_exceptions=True)
    raise AssertionError("unreachable: the time-out ends it")


def measure(peer: Peer, kills: int, chance: random.Random) -> list[float]:
    """Seconds without a write, for each kill of a leader."""
    took: list[float] = []
    for _ in range(kills):
        time.sleep(REST_S + chance.random() * REST_S)
        began = time.perf_counter()
        others = peer.kill_leader()
        took.append(asyncio.run(_until_written(peer.name, others, began)))
        print(f"{peer.name}: {took[-1]:.2f} s", flush=True)
        peer.revive()
    return took


def rows_of(found: dict[str, list[list[float]]]) -> list[Row]:
    """A value a round; the last row is of all kills."""
    p50 = Row("leader killed to the next write, p50", "s", [], [], least=False)
    p99 = Row("leader killed to the next write, p99 of all", "s", [], [], least=False)
    for name, rounds in found.items():
        getattr(p50, name).extend(statistics.median(took) for took in rounds)
        every = sorted(itertools.chain(*rounds))
        getattr(p99, name).append(every[min(len(every) - 1, int(len(every) * 0.99))])
    return [p50, p99]


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kills", type=int, default=20, help="of each system, in all")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--dir", type=Path, default=Path("/var/tmp"))
    parser.add_argument("--no-file", action="store_true")
    chosen = parser.parse_args()
    if filesystem_type(chosen.dir.resolve()) in ("tmpfs", "ramfs"):
        parser.error(f"{chosen.dir} is in memory: name a directory on a disk with --dir")
    root = Path(tempfile.mkdtemp(prefix="gemot-failover-", dir=chosen.dir))
    facts = machine_facts(root)
    facts |= {"Gemot": version("gemot"), "etcd": version("etcd")}
    facts |= {"command": " ".join(["bench/failover.py", *sys.argv[1:]])}
    others, chance = Others(), random.Random(1)
    found: dict[str, list[list[float]]] = {"etcd": [], "gemot": []}
    for turn in range(chosen.rounds):
        for kind in (Etcd, Gemot):
            directory = root / f"{kind.name}-{turn}"
            peer: Peer = kind(directory)
            try:
                peer.start()
                found[peer.name].append(measure(peer, chosen.kills // chosen.rounds, chance))
            finally:
                peer.stop()
            shutil.rmtree(directory)
    root.rmdir()
    facts["others"] = f"{others.percent():.0f} % of the processors' time went to other programs meanwhile"
    rows = rows_of(found)
    print(table(rows))
    if not chosen.no_file:
        print(f"written to {write_report(rows, facts)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
