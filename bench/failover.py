"""Fail-over beside etcd: from SIGKILL of the leader until a write that was sent after it is acknowledged.

    failover.py [--kills N] [--turn N] [--minutes N] [--dir DIR] [--lines FILE] [--no-file]
    failover.py --table FILE                    the figures of lines that were written before

Three servers of each kind, with their default timing (Gemot: raft_multiplier 1), killed in turns of a few
kills, each turn on new servers. A new write goes to each of the two others every 25 ms, each on a connection
of its own, until one is acknowledged: so neither is measured by how long a write that met the old leader is
held, and the figures are exact to 25 ms.

Every kill is a line in FILE at once; no kill begins after so many minutes. What fails ends its turn and no
more.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import datetime
import itertools
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "tests"))

import kills  # noqa: E402
from kills import Kill  # noqa: E402
from load import VALUE, put_request, read_reply  # noqa: E402
from peers import Etcd, Gemot, Peer, version  # noqa: E402
from report import RESULTS, Others, filesystem_type, machine_facts, table, write_report  # noqa: E402

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


class Run:
    """Turns of kills, each noted as it happens."""

    def __init__(self, *, lines: Path, root: Path, until: float) -> None:
        self._lines = lines
        self._root = root
        self._until = until
        self._chance = random.Random(1)
        self._name = _now()
        self.kills: list[Kill] = []

    @property
    def over(self) -> bool:
        return time.monotonic() >= self._until

    def take_turn(self, kind: type[Etcd] | type[Gemot], turn: int, count: int) -> None:
        """So many kills on servers of its own; an error ends the turn, and is a line too."""
        directory = self._root / f"{kind.name}-{turn}"
        peer: Peer = kind(directory)
        try:
            peer.start()
            for _ in range(count):
                if self.over:
                    break
                self._kill(peer, turn)
                peer.revive()
        except (OSError, RuntimeError, AssertionError, TimeoutError, subprocess.TimeoutExpired) as error:
            self._note(peer, turn, None, f"{type(error).__name__}: {str(error).partition(chr(10))[0]}")
        finally:
            peer.stop()
        shutil.rmtree(directory, ignore_errors=True)

    def _kill(self, peer: Peer, turn: int) -> None:
        time.sleep(REST_S + self._chance.random() * REST_S)
        began = time.perf_counter()
        others = peer.kill_leader()
        try:
            seconds = asyncio.run(_until_written(peer.name, others, began))
        except TimeoutError:
            self._note(peer, turn, LIMIT_S, "no write was acknowledged")
        else:
            self._note(peer, turn, round(seconds, 4))

    def _note(self, peer: Peer, turn: int, seconds: float | None, error: str = "") -> None:
        kill = Kill(self._name, "etcd" if peer.name == "etcd" else "gemot", turn, _now(), seconds, error)
        kills.note(self._lines, kill)
        self.kills.append(kill)
        print(f"{peer.name} {turn}: {f'{seconds:.2f} s' if seconds is not None else ''} {error}", flush=True)


def _now() -> str:
    return f"{datetime.datetime.now(datetime.UTC):%Y-%m-%dT%H:%M:%SZ}"


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kills", type=int, default=20, help="of each system, in all")
    parser.add_argument("--turn", type=int, default=10, help="kills before it is the other's turn")
    parser.add_argument("--minutes", type=float, default=90, help="after which no kill begins")
    parser.add_argument("--dir", type=Path, default=Path("/var/tmp"))
    parser.add_argument("--lines", type=Path, default=RESULTS / "failover.jsonl", help="a line for each kill")
    parser.add_argument("--table", type=Path, help="only show the figures of these lines")
    parser.add_argument("--no-file", action="store_true", help="leave the report of the day alone")
    chosen = parser.parse_args()
    if chosen.table:
        found = kills.read(chosen.table)
        print(f"kills: {kills.summary(found)}\n{table(kills.rows(found))}")
        return 0
    if filesystem_type(chosen.dir.resolve()) in ("tmpfs", "ramfs"):
        parser.error(f"{chosen.dir} is in memory: name a directory on a disk with --dir")
    root = Path(tempfile.mkdtemp(prefix="gemot-failover-", dir=chosen.dir))
    facts = machine_facts(root)
    facts |= {"Gemot": version("gemot"), "etcd": version("etcd")}
    facts |= {"command": " ".join(["bench/failover.py", *sys.argv[1:]])}
    # Whoever ends it, by hand or when its time is over, ends its servers too.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    others = Others()
    run = Run(lines=chosen.lines, root=root, until=time.monotonic() + chosen.minutes * 60)
    try:
        for turn, begun in enumerate(range(0, chosen.kills, chosen.turn)):
            for kind in (Etcd, Gemot):
                if not run.over:
                    run.take_turn(kind, turn, min(chosen.turn, chosen.kills - begun))
    except KeyboardInterrupt:
        print("cut off: what follows is of the kills so far")
    shutil.rmtree(root, ignore_errors=True)
    facts["kills"] = kills.summary(run.kills)
    facts["others"] = f"{others.percent():.0f} % of the processors' time went to other programs meanwhile"
    print(table(kills.rows(run.kills)))
    if not chosen.no_file:
        print(f"written to {write_report(table(kills.rows(run.kills)), facts)}")
    return 1 if any(kill.error for kill in run.kills) else 0


if __name__ == "__main__":
    sys.exit(main())
