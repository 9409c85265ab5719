"""Jepsen's lock-set on real processes: holders are stopped, killed and cut off, servers stopped and killed,
and a third one records.

python tests/cluster/lock_set.py --seconds 60              faults for a minute, calm, and the count
python tests/cluster/lock_set.py --seconds 600 --campaign  keeps a row in LOCK_SET.md

Three servers, two client agents, and on each set two holders (`support/lock_set_holder.py`), which say what
they do through one pipe. What they were told is in the set must be there in the end, wherever they showed
their fence; of plain writes some must be lost, or nothing was shown, and the command fails.
"""

from __future__ import annotations

import argparse
import os
import platform
import random
import select
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path

import msgspec

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from cluster.handover import commit_now
from support.cluster import PYTHON, SUPPORT, Agent, Cluster, wait_for
from support.lock_set_holder import CHECKED, GUARDED, UNFENCED, WAYS
from support.session_cluster import PATIENCE_S, session_cluster

from gemot.agent.client.kv import Kv

RESULTS = Path(__file__).parent / "LOCK_SET.md"
SETS = 3
HOLDERS = 2
STOPPED_S = (1.5, 5.0)
"""Longer than a TTL of one second and its quarter; there is no lock delay."""

MOST_S = 600.0
BETWEEN_S = (0.1, 0.5)
SERVER_AWAY_S = (0.5, 2.5)
FAULTS = (
    *("stop",) * 10,
    *("kill", "cut") * 2,
    *("kill-server", "stop-server", "kill-leader", "stop-leader"),
)
"""`cut`: a client agent stands still, so its holders are cut off from all servers, and answers to them come
late; the others are not."""


class Tally(msgspec.Struct):
    told: int = 0
    lost: int = 0
    refused: int = 0
    unknown: int = 0


class Result(msgspec.Struct):
    ways: dict[str, Tally]
    faults: dict[str, int]
    entries: int
    together: int
    """Entries while another one had not left: what careless holders do, and what fences are for."""

    took_s: float = 0.0

    @property
    def guarded(self) -> int:
        return self.ways[CHECKED].told + self.ways[GUARDED].told

    def __str__(self) -> str:
        ways = ", ".join(
            f"{way}: {t.told} told, {t.refused} refused, {t.unknown} unknown, {t.lost} lost"
            for way, t in self.ways.items()
        )
        faults = ", ".join(f"{name} {count}" for name, count in sorted(self.faults.items()))
        return (
            f"{self.guarded} guarded writes; {ways}; {self.entries} entries, {self.together} of them while "
            f"another was inside; {faults}"
        )


class Recorder:
    """What all holders say, in the order in which it comes out of the pipe."""

    def __init__(self) -> None:
        self._read, self.write = os.pipe()
        self._unread = b""
        self.tallies = {way: Tally() for way in WAYS}
        self.told: dict[tuple[str, str], set[str]] = {}
        self.parents: dict[str, str] = {}
        self.inside: dict[str, set[str]] = {}
        self.entries = 0
        self.together = 0
        self.tried: list[tuple[str, str]] = []
        """Who has a set in its hands, and in which way it is going to write: since the last look."""

    def hear(self, for_s: float) -> None:
        self.tried = []
        ready, _, _ = select.select([self._read], [], [], for_s)
        if not ready:
            return
        *lines, self._unread = (self._unread + os.read(self._read, 1 << 16)).split(b"\n")
        for line in lines:
            self._note(line.decode().split())

    def drain(self) -> None:
        os.close(self.write)
        while select.select([self._read], [], [], 0)[0]:
            read = os.read(self._read, 1 << 16)
            if not read:
                break
            *lines, self._unread = (self._unread + read).split(b"\n")
            for line in lines:
                self._note(line.decode().split())
        os.close(self._read)

    def gone(self, name: str, prefix: str) -> None:
        """It was killed: it is inside no more."""
        self.inside.get(prefix, set()).discard(name)

    def _note(self, words: list[str]) -> None:
        name, prefix, what, *rest = words
        inside = self.inside.setdefault(prefix, set())
        match what:
            case "enter":
                self.entries += 1
                self.together += bool(inside)
                inside.add(name)
            case "leave":
                inside.discard(name)
            case "try":
                self.parents[rest[1]] = rest[2]
                self.tried.append((name, rest[0]))
            case "told":
                self.told.setdefault((prefix, rest[0]), set()).add(rest[1])
            case "refused":
                self.tallies[rest[0]].refused += 1
            case "unknown":
                self.tallies[rest[0]].unknown += 1

    @property
    def shows_it(self) -> bool:
        """Was somebody late under a fence, and was a plain write lost?

        Of two that followed the same one, and were both told that they are in the set, one is not.
        """
        lost = False
        for (_, way), told in self.told.items():
            lost |= way == UNFENCED and len({self.parents[element] for element in told}) < len(told)
        return lost and self.together > 0 and any(self.tallies[way].refused for way in (CHECKED, GUARDED))

    def reached(self, element: str) -> set[str]:
        """All that is in a set whose value names this element."""
        found = set()
        while element not in ("", "-"):
            found.add(element)
            element = self.parents[element]
        return found


class LockSet:
    def __init__(self, cluster: Cluster, seed: int) -> None:
        self._cluster = cluster
        self._chance = random.Random(seed)
        self._recorder = Recorder()
        self._begun = 0
        self._holders: dict[str, tuple[str, subprocess.Popen[bytes]]] = {}
        self._later: list[tuple[float, str, Agent | str]] = []
        self._server: Agent | None = None
        self._faults: dict[str, int] = {}
        self._armed: list[str] = []
        """The next one that is about to write in this way is stopped."""

    def run(self, seconds: float, *, stops: int = 0) -> Result:
        """With `stops`, until there were so many in each way and it shows, for MOST_S at the longest."""
        began = time.monotonic()
        next_s = began + 1.0
        try:
            for number in range(SETS * HOLDERS):
                self._begin(f"sets/{number % SETS}")
            over_s, most_s = began + seconds, began + max(seconds, MOST_S)
            while time.monotonic() < over_s or (self._lacks(stops) and time.monotonic() < most_s):
                self._recorder.hear(0.05)
                self._stop_armed()
                self._undo(time.monotonic())
                if time.monotonic() >= next_s:
                    self._strike()
                    next_s = time.monotonic() + self._chance.uniform(*BETWEEN_S)
            self._undo(float("inf"))
            # In calm each of them goes on a little: who was stopped is late now.
            calm_s = time.monotonic() + 2.0
            while time.monotonic() < calm_s:
                self._recorder.hear(0.05)
        finally:
            self._end()
        return self._judge(time.monotonic() - began)

    def _begin(self, prefix: str) -> None:
        self._begun += 1
        name = f"holder{self._begun}"
        agent = self._chance.choice(self._cluster.clients)
        program = [PYTHON, str(SUPPORT / "lock_set_holder.py"), name, prefix, agent.http]
        process = subprocess.Popen(program, stdin=subprocess.DEVNULL, stdout=self._recorder.write)
        self._holders[name] = (prefix, process)

    # -- faults ------------------------------------------------------------------------------------

    @property
    def _stops(self) -> int:
        return min(self._faults.get(f"stop before {way}", 0) for way in WAYS)

    def _lacks(self, stops: int) -> bool:
        return bool(stops) and (self._stops < stops or not self._recorder.shows_it)

    def _stop_armed(self) -> None:
        stopped = {name for _, what, name in self._later if what == "go-on"}
        for name, way in self._recorder.tried:
            if way in self._armed and name in self._holders and name not in stopped:
                self._armed.remove(way)
                stopped.add(name)
                self._strike_holder("stop", name)
                self._count(f"stop before {way}")

    def _count(self, kind: str) -> None:
        self._faults[kind] = self._faults.get(kind, 0) + 1

    def _strike(self) -> None:
        kind = self._chance.choice(FAULTS)
        if kind == "stop":
            if not self._armed:
                self._armed.append(self._chance.choice(WAYS))
            return
        if kind == "kill":
            inside = [name for names in self._recorder.inside.values() for name in names]
            stopped = {name for _, what, name in self._later if what == "go-on"}
            names = sorted(name for name in inside if name in self._holders and name not in stopped)
            if not names:
                return
            self._strike_holder(kind, self._chance.choice(names))
        else:
            if self._server is not None:
                return
            self._strike_agent(kind)
        self._count(kind)

    def _strike_holder(self, kind: str, name: str) -> None:
        prefix, process = self._holders[name]
        if kind == "stop":
            process.send_signal(signal.SIGSTOP)
            until_s = time.monotonic() + self._chance.uniform(*STOPPED_S)
            self._later.append((until_s, "go-on", name))
            return
        process.kill()
        process.wait()
        del self._holders[name]
        self._recorder.gone(name, prefix)
        self._begin(prefix)

    def _strike_agent(self, kind: str) -> None:
        away_s = STOPPED_S if kind == "cut" else SERVER_AWAY_S
        agent = self._chance.choice(self._cluster.clients if kind == "cut" else self._cluster.servers)
        if kind.endswith("leader"):
            agent = self._cluster.leader(PATIENCE_S)
        self._server = agent
        until_s = time.monotonic() + self._chance.uniform(*away_s)
        if kind.startswith("kill"):
            agent.kill()
            self._later.append((until_s, "start", agent))
        else:
            agent.signal(signal.SIGSTOP)
            self._later.append((until_s, "continue", agent))

    def _undo(self, until_s: float) -> None:
        for each in [each for each in self._later if each[0] <= until_s]:
            self._later.remove(each)
            _, what, whom = each
            if isinstance(whom, str):
                if whom in self._holders:
                    self._holders[whom][1].send_signal(signal.SIGCONT)
                continue
            self._server = None
            if what == "start":
                whom.start()
            else:
                whom.signal(signal.SIGCONT)

    def _end(self) -> None:
        for _, process in self._holders.values():
            process.kill()
            process.wait()

    # -- the verdict -------------------------------------------------------------------------------

    def _judge(self, took_s: float) -> Result:
        recorder = self._recorder
        recorder.drain()
        for (prefix, way), told in recorder.told.items():
            lost = told - recorder.reached(self._element(f"{prefix}/{way}"))
            recorder.tallies[way].told += len(told)
            recorder.tallies[way].lost += len(lost)
        return Result(recorder.tallies, self._faults, recorder.entries, recorder.together, took_s)

    def _element(self, key: str) -> str:
        """Which one its value names."""
        self._cluster.leader(PATIENCE_S)
        agent = self._cluster.servers[0]

        def read() -> list[str]:
            with closing(agent.connect()) as connection:
                entry = Kv(connection).get(key)
            return [entry.value.decode().split(" ")[0] if entry is not None else ""]

        (element,) = wait_for(read, PATIENCE_S, "an answer", [agent])
        return str(element)


def faulty(result: Result) -> str:
    """What is wrong with it; "" if nothing is."""
    for way in (CHECKED, GUARDED):
        if result.ways[way].lost:
            return f"{result.ways[way].lost} elements of {way} are lost"
    return "" if result.ways[UNFENCED].lost else "the control lost nothing: this run shows nothing"


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=float, default=60, help="how long there are faults")
    parser.add_argument("--seed", type=int, default=1, help="which faults, in which order")
    parser.add_argument("--campaign", action="store_true", help="add a row to LOCK_SET.md")
    options = parser.parse_args()
    commit = commit_now()
    with (
        tempfile.TemporaryDirectory(prefix="gemot-lock-set-") as name,
        session_cluster(Path(name)) as cluster,
    ):
        result = LockSet(cluster, options.seed).run(options.seconds)
    print(result)
    if options.campaign:
        _keep(result, commit, options)
    if why := faulty(result):
        print(why)
    return 1 if faulty(result) else 0


_HEAD = """# Lock-set on real processes

Each row is one command, `make lock-set-live SECONDS=n SEED=s`. Told: elements whose writer was told that they
are in the set; lost: those of them that are not there in the end.

| date | commit | seed | guarded writes | what came of it | machine |
|---|---|---|---|---|---|
"""


def _keep(result: Result, commit: str, options: argparse.Namespace) -> None:
    row = (
        f"| {datetime.now(UTC):%Y-%m-%d} | {commit} | {options.seed} | {result.guarded} | {result} | "
        f"{os.cpu_count()} cores {platform.machine()}, Python {platform.python_version()}, "
        f"load {os.getloadavg()[1]:.0f}, {result.took_s:.0f} s |\n"
    )
    RESULTS.write_text((RESULTS.read_text() if RESULTS.exists() else _HEAD) + row)


if __name__ == "__main__":
    sys.exit(main())
