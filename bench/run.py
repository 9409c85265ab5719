"""`make bench`: Gemot beside etcd, in turns, on this machine's real disk.

    run.py [put] [get] [watch] [watchers] [memory] [idle]      the parts to measure; all without one
    --rounds N      rounds of each (etcd, Gemot, etcd, Gemot, ...)
    --seconds S     length of one load
    --dir DIR       where the servers' directories are made; not a memory file system
    --no-file       print only

Three servers of each kind for put, get and watch; one for watchers, memory and restart. Every round starts on
fresh directories. ZooKeeper takes part in `watchers` alone, where there is Java (`make bench-tools`).

The figures say how the two compare here and now, never how fast either is elsewhere.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "tests"))

import crowds  # noqa: E402
import footprint  # noqa: E402
import watching  # noqa: E402
import zookeeper  # noqa: E402
from load import load_keys, run_wrk  # noqa: E402
from peers import Etcd, Gemot, Peer, processor_seconds, version  # noqa: E402
from report import (  # noqa: E402
    Others,
    Row,
    Ways,
    filesystem_type,
    machine_facts,
    table,
    ways_table,
    write_report,
)

PARTS = ("put", "get", "watch", "watchers", "memory", "idle")
CONNECTIONS = (1, 16, 64, 256)
WATCHERS = (1, 1000)
CROWDS = (1, 1_000, 10_000)
WAYS = {
    "push": "Gemot push",
    "blocking": "Gemot blocking query",
    "grpc": "etcd gRPC",
    "gateway": "etcd gateway",
    "native": "ZooKeeper",
}
COST_AT = 64
KEYS_READ = 1000
KEYS_HELD = 100_000
PUT_BARS = {64: 1.2}
GET_BARS = {1: 2.0, 16: 2.0, 64: 2.0, 256: 2.0}


class Bench:
    """One run: its rounds, its directory, the rows found so far."""

    def __init__(self, *, directory: Path, rounds: int, seconds: float) -> None:
        self.directory = directory
        self.rounds = rounds
        self.seconds = seconds
        self.rows: list[Row] = []
        self.ways: list[Ways] = []
        self._fresh = 0

    def tables(self) -> str:
        shown = [table(self.rows)] if self.rows else []
        return "\n\n".join(shown + ([ways_table(self.ways, list(WAYS.values()))] if self.ways else []))

    def put(self) -> None:
        self._rates("put", PUT_BARS, prepare=lambda peer: None)

    def get(self) -> None:
        self._rates("get", GET_BARS, prepare=lambda peer: load_keys(peer.name, peer.leader, KEYS_READ))

    def _rates(self, script: str, bars: dict[int, float], *, prepare: Callable[[Peer], None]) -> None:
        what = {"put": "linearizable PUT, 256 B", "get": "linearizable GET, 256 B"}[script]
        rates = {c: Row(f"{what}, {c} connections", "/s", [], [], bars.get(c, 0.0)) for c in CONNECTIONS}
        middles = {c: Row(f"{what}, {c} connections, p50", "ms", [], [], least=False) for c in CONNECTIONS}
        tails = {c: Row(f"{what}, {c} connections, p99", "ms", [], [], least=False) for c in CONNECTIONS}
        middles[1].bar = 1.0
        costs = Row(
            f"{what}, {COST_AT} connections, processor time of all servers", "us each", [], [], least=False
        )
        for peer in self._turns():
            prepare(peer)
            # The first requests meet cold code on either side, and etcd's first election's end.
            run_wrk(peer.name, script, peer.leader, connections=16, seconds=1)
            for connections in CONNECTIONS:
                used_s = processor_seconds(peer.pids())
                rate = run_wrk(peer.name, script, peer.leader, connections=connections, seconds=self.seconds)
                used_s = processor_seconds(peer.pids()) - used_s
                if connections == COST_AT:
                    getattr(costs, peer.name).append(used_s / rate.requests * 1e6)
                if rate.errors:
                    raise RuntimeError(f"{peer.name}: {rate.errors} of the requests failed")
                for rows, value in ((rates, rate.per_second), (middles, rate.p50_ms), (tails, rate.p99_ms)):
                    getattr(rows[connections], peer.name).append(value)
                self._say(peer, f"{script} {connections}: {rate.per_second:.0f}/s p50 {rate.p50_ms:.2f} ms")
        for connections in CONNECTIONS:
            self.rows += [rates[connections], middles[connections], tails[connections]]
        self.rows.append(costs)

    def watch(self) -> None:
        rows = []
        for watchers in WATCHERS:
            what = f"told of a PUT, {watchers} HTTP watchers"
            last = Row(f"{what}: the last", "ms", [], [], 3.0 if watchers > 1 else 0.0, least=False)
            rows += [last, Row(f"{what}: the write's own answer", "ms", [], [], least=False)]
        for peer in self._turns():
            for number, watchers in enumerate(WATCHERS):
                told = watching.measure(peer.name, peer.leader, watchers)
                getattr(rows[2 * number], peer.name).append(told.last_ms)
                getattr(rows[2 * number + 1], peer.name).append(told.put_ms)
                self._say(peer, f"watch {watchers}: {footprint.as_json(told)}")
        self.rows += rows

    def watchers(self) -> None:
        figures: dict[tuple[int, str], Ways] = {}
        for _ in range(self.rounds):
            for crowd in CROWDS:
                for way, system in crowds.WAYS.items():
                    if system == "zookeeper" and zookeeper.why_missing():
                        continue
                    found = self._watched(way, crowd)
                    for name, unit, value in crowds.figures(found, crowd):
                        print(f"{WAYS[way]}: {name}: {value:.2f} {unit}", flush=True)
                        figure = figures.setdefault((crowd, name), Ways(name, unit, {}))
                        figure.values.setdefault(WAYS[way], []).append(value)
        self.ways += [figures[key] for key in sorted(figures, key=lambda key: key[0])]

    def _watched(self, way: str, crowd: int) -> crowds.Found:
        """One server of whom this way is, in a directory of its own, with so many watchers."""
        kinds = {"gemot": Gemot, "etcd": Etcd}
        with self._directory() as directory:
            kind = kinds.get(crowds.WAYS[way])
            server = kind(directory, servers=1) if kind else zookeeper.ZooKeeper(directory)
            crowds.allow_files(crowd)
            try:
                server.start()
                return crowds.measure(way, server.leader, server.pids()[0], crowd)
            finally:
                server.stop()

    def memory(self) -> None:
        rows = {
            "empty_mb": Row("one server, empty", "MB resident", [], [], least=False),
            "loaded_mb": Row(f"one server, {KEYS_HELD} keys", "MB resident", [], [], 1.0, least=False),
            "restarted_mb": Row("the same, restarted", "MB resident", [], [], least=False),
            "restart_s": Row("restart to the first read", "s", [], [], 1.0, least=False),
        }
        for _ in range(self.rounds):
            for kind in (Etcd, Gemot):
                with self._directory() as directory:
                    found = footprint.measure(lambda: kind(directory, servers=1), KEYS_HELD)  # noqa: B023
                for field, row in rows.items():
                    getattr(row, kind.name).append(getattr(found, field))
                print(f"{kind.name}: memory: {footprint.as_json(found)}", flush=True)
        self.rows += rows.values()

    def idle(self) -> None:
        memory = Row(f"idle agent, {footprint.IDLE_CHECKS} checks", "MB", [], [], 80.0, least=False)
        processor = Row(f"idle agent, {footprint.IDLE_CHECKS} checks", "% of a core", [], [], least=False)
        with self._directory() as directory:
            found = footprint.measure_idle(directory, max(20.0, self.seconds))
        memory.gemot.append(found.resident_mb)
        processor.gemot.append(found.processor_percent)
        print(f"gemot: idle: {footprint.as_json(found)}", flush=True)
        self.rows += [memory, processor]

    def _turns(self) -> Iterator[Peer]:
        """Each system in turn, started fresh and stopped after; `rounds` times."""
        kinds: tuple[type[Etcd] | type[Gemot], ...] = (Etcd, Gemot)
        for _ in range(self.rounds):
            for kind in kinds:
                with self._directory() as directory:
                    peer: Peer = kind(directory)
                    try:
                        peer.start()
                        yield peer
                    finally:
                        peer.stop()

    @contextmanager
    def _directory(self) -> Iterator[Path]:
        self._fresh += 1
        directory = self.directory / str(self._fresh)
        directory.mkdir()
        yield directory
        # Kept when the measurement failed: the logs are in it.
        shutil.rmtree(directory)

    def _say(self, peer: Peer, text: str) -> None:
        print(f"{peer.name}: {text}", flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("parts", nargs="*", help=", ".join(PARTS))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=4.0)
    parser.add_argument("--dir", type=Path, default=Path("/var/tmp"))
    parser.add_argument("--no-file", action="store_true")
    chosen = parser.parse_args()
    unknown = set(chosen.parts) - set(PARTS)
    if unknown:
        parser.error(f"no such part: {', '.join(sorted(unknown))}; there are {', '.join(PARTS)}")
    if filesystem_type(chosen.dir.resolve()) in ("tmpfs", "ramfs"):
        parser.error(f"{chosen.dir} is in memory: name a directory on a disk with --dir")

    directory = Path(tempfile.mkdtemp(prefix="gemot-bench-", dir=chosen.dir))
    facts = machine_facts(directory)
    facts |= {
        "Gemot": version("gemot"),
        "etcd": version("etcd"),
        "command": " ".join(["bench/run.py", *sys.argv[1:]]),
    }
    others = Others()
    bench = Bench(directory=directory, rounds=chosen.rounds, seconds=chosen.seconds)
    for part in chosen.parts or PARTS:
        getattr(bench, part)()
    directory.rmdir()
    if bench.ways:
        facts["ZooKeeper"] = zookeeper.why_missing() or zookeeper.version()
        facts["watchers"] = crowds.SAID
    facts["others"] = f"{others.percent():.0f} % of the processors' time went to other programs meanwhile"
    print("\n".join(f"{name}: {value}" for name, value in facts.items()))
    print(bench.tables())
    if not chosen.no_file:
        print(f"written to {write_report(bench.tables(), facts)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
