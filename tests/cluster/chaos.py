"""Chaos on real processes: servers and client agents, faults from a seed, and one order of all answers.

python tests/cluster/chaos.py --seconds 60 --seed 1              faults for a minute, calm, and every check
python tests/cluster/chaos.py --seconds 20 --no-sync             syncs do nothing: the run must fail
python tests/cluster/chaos.py --seconds 20 --plant stale-read    so must it with a planted bug

Five servers and two client agents. After the faults everything is killed at once and loses what it had not
synced. Then it has to come back, make progress, and explain every answer: by the black-box check, by the log
of each server, by what watchers and saved snapshots say, and by equal states.
"""

from __future__ import annotations

import argparse
import json
import shutil
import signal
import sys
import tempfile
import threading
import time
from contextlib import closing
from pathlib import Path

import msgspec

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from simulation.linearize import require
from simulation.planted import BUGS
from simulation.planting import add_plant
from simulation.register import Kind, Op, Outcome
from simulation.witness import Violation
from support.chaos_clients import PREFIX, TIMEOUTS_S, Client, think_s
from support.chaos_locks import check_acquired
from support.chaos_operator import Operator
from support.chaos_watchers import Watcher, check_told
from support.cluster import PYTHON, SUPPORT, Agent, Cluster, wait_for
from support.link_proxy import Links
from support.nemesis import Nemesis, schedule
from support.reach import Reach
from support.saved_states import check_archives
from support.server_log import check_effects, read_effects

from gemot.agent.client.kv import Kv

SERVERS = 5
SETTLE_S = 180.0
LATE_S = 60.0
"""A wipe waits for the voters, and all faults after it come so much later at most."""


class Result(msgspec.Struct):
    """What one run came to."""

    seed: int
    operations: int
    unknown: int
    refused: int
    keys: int
    steps: int
    windows: int
    progress: int
    back_s: float
    watched: int
    saved: int
    acquired: int
    """Locks that were told as taken."""

    transacted: int
    """Transactions and fenced writes that were carried out."""

    woken: int
    replaced: int
    refusals: int
    fired: dict[str, int]
    obeyed: dict[str, int]

    def __str__(self) -> str:
        fired = ", ".join(f"{kind} {count}" for kind, count in sorted(self.fired.items()))
        obeyed = ", ".join(f"{kind} {count}" for kind, count in sorted(self.obeyed.items()))
        return (
            f"seed {self.seed}: {self.operations} operations on {self.keys} keys, "
            f"{self.unknown} of unknown outcome ({self.unknown / max(1, self.operations):.2%}), "
            f"{self.refused} surely not done; {self.steps} steps of the check\n"
            f"  {self.watched} answers to watchers, {self.woken} of them with something new; "
            f"{self.saved} saved snapshots are what the log says\n"
            f"  {self.acquired} locks taken, {self.transacted} transactions and fenced writes carried out\n"
            f"  faults: {fired}\n"
            f"  orders done: {obeyed or 'none'}; wiped servers that vote again: {self.replaced}, "
            f"{self.refusals} of them refused under the old id first\n"
            f"  progress in {self.progress} of {self.windows} seconds in which a majority was connected "
            f"({self.progress / max(1, self.windows):.1%}); all killed, it wrote again in {self.back_s:.1f} s"
        )


class Chaos:
    """One run in one directory."""

    def __init__(self, directory: Path, *, seed: int, no_sync: bool = False, plant: str = "") -> None:
        program = [PYTHON, str(SUPPORT / "chaos_agent.py")]
        program += ["--no-sync"] if no_sync else []
        program += ["--plant", plant] if plant else []
        self._seed = seed
        # The log is kept whole: it is what the answers are compared with.
        config: dict[str, object] = {
            "raft_snapshot_threshold": 100_000_000,
            "raft_trailing_logs": 100_000_000,
        }
        config |= {"autopilot": {"server_stabilization_time": "1s"}}
        self.cluster = Cluster(directory, servers=SERVERS, clients=2, config=config, program=program)
        addresses = {server.name: (server.host, server.ports["server"]) for server in self.cluster.servers}
        self._links = Links(addresses, {agent.name: agent.host for agent in self.cluster.clients})
        self._reach = Reach([server.name for server in self.cluster.servers])
        self._operator = Operator(self.cluster, self._reach, directory)
        self._over = threading.Event()
        self._watchers = [Watcher(agent=agent, seed=seed, over=self._over) for agent in self.cluster.agents]
        self._clients: list[Client] = []

    def run(self, seconds: float) -> Result:
        """Raises Violation for a broken promise, AssertionError for what does not come back."""
        self._links.start()
        try:
            self._write_routes()
            self.cluster.start()
            began = time.monotonic()
            self._clients = self._new_clients(seconds)
            nemesis = Nemesis(
                cluster=self.cluster,
                links=self._links,
                reach=self._reach,
                operator=self._operator,
                faults=schedule(self._seed, seconds),
            )
            for thread in (*self._clients, *self._watchers, self._operator, nemesis):
                thread.start()
            nemesis.join(seconds + LATE_S)
            ended, back_s = self._come_back(nemesis, began + seconds)
            return self._judge(nemesis, began, ended, back_s)
        except AssertionError as error:
            # What does not come back hides no broken promise: the answers until then are judged all the same.
            if not isinstance(error, Violation):
                self._end_threads()
                require([op for client in self._clients for op in client.operations])
            raise
        finally:
            self._over.set()
            self.cluster.stop()
            self._links.stop()

    def _come_back(self, nemesis: Nemesis, until: float) -> tuple[float, float]:
        """When the faults were over, and the seconds from killing all until it wrote again."""
        nemesis.end()
        self._over.wait(max(0.0, until - time.monotonic()))
        ended = time.monotonic()
        back_s = self._kill_all()
        wait_for(self._whole_again, SETTLE_S, "every server votes again", self.cluster.servers)
        self._operator.end()
        self._end_clients()
        return ended, back_s

    def _new_clients(self, seconds: float) -> list[Client]:
        return [
            Client(
                name=f"{agent.name}-{n}",
                agent=agent,
                seed=self._seed,
                timeout_s=timeout_s,
                over=self._over,
                think_s=think_s(seconds),
                locks=agent in self.cluster.clients,
            )
            for agent in self.cluster.agents
            for n, timeout_s in enumerate(TIMEOUTS_S)
        ]

    @property
    def orders_refused(self) -> list[str]:
        return self._operator.refused

    def _write_routes(self) -> None:
        for agent in self.cluster.agents:
            routes = json.dumps(self._links.routes[agent.name])
            (agent.directory / "routes.json").write_text(routes)

    def _kill_all(self) -> float:
        """Everything at once, mid-write; the seconds until it writes again."""
        for server in self.cluster.servers:
            server.kill()
        began = time.monotonic()
        for server in self.cluster.servers:
            server.start()
        leader = self.cluster.leader(SETTLE_S)
        wait_for(lambda: _writes(leader, "after"), SETTLE_S, "it writes again", self.cluster.servers)
        return time.monotonic() - began

    def _whole_again(self) -> bool:
        assert not self._operator.error, self._operator.error
        return self._operator.whole()

    def _end_clients(self) -> None:
        """Until each client was answered again, through its own agent."""

        def all_answered() -> bool:
            errors = [one.error for one in (*self._clients, *self._watchers) if one.error]
            assert not errors, errors
            return all(_answers(client) >= goals[client.name] for client in self._clients)

        goals = {client.name: _answers(client) + 5 for client in self._clients}
        wait_for(all_answered, SETTLE_S, "every client is answered again", self.cluster.agents)
        self._end_threads()

    def _end_threads(self) -> None:
        """What is under way is still noted: without it the answers of others could not be explained."""
        self._over.set()
        for thread in (*self._clients, *self._watchers):
            if thread.is_alive():
                thread.join(30)
                assert not thread.is_alive(), f"{thread.name} hangs"

    def _judge(self, nemesis: Nemesis, began: float, ended: float, back_s: float) -> Result:
        ops = [op for client in self._clients for op in client.operations]
        ops += self._last_reads({op.key for op in ops})
        report = require(ops)
        asked_at_last = {name for watcher in self._watchers for name in watcher.ask_at_last()}
        awoken = [answer for watcher in self._watchers for answer in watcher.awoken]
        hashes = wait_for(self._hashes, SETTLE_S, "all servers at one index", self.cluster.servers)
        if len(hashes) != 1:
            raise Violation(f"the servers hold different states: {hashes}")
        self.cluster.stop()
        for server in self.cluster.servers:
            effects = read_effects(server.directory / "data")
            check_effects(effects, ops)
        users = [client.locks for client in self._clients if client.locks is not None]
        acquired = check_acquired([each for user in users for each in user.acquired], effects)
        transacted = sum(
            effect.kind == "txn" and effect.key.startswith(PREFIX.encode()) for effect in effects
        )
        watched = check_told(awoken, effects, ops, asked_at_last)
        saved = check_archives(self._operator.archives, effects, ops)
        windows, progress = _windows(ops, self._reach.majority, began, ended)
        return Result(
            seed=self._seed,
            operations=len(ops),
            unknown=sum(op.outcome is Outcome.UNKNOWN for op in ops),
            refused=sum(op.outcome is Outcome.REFUSED for op in ops),
            keys=report.keys,
            steps=report.steps,
            windows=windows,
            progress=progress,
            back_s=back_s,
            watched=watched,
            saved=saved,
            acquired=acquired,
            transacted=transacted,
            woken=sum(0 < answer.asked < answer.index for answer in awoken),
            replaced=self._operator.replaced,
            refusals=self._operator.refusals,
            fired=dict(nemesis.fired),
            obeyed=dict(self._operator.obeyed),
        )

    def _last_reads(self, keys: set[bytes]) -> list[Op]:
        """What is there in the end, of every key that was ever used: nothing acknowledged may be missing."""
        with closing(self.cluster.leader().connect(30)) as connection:
            began = time.monotonic_ns()
            found = {entry.key.encode(): entry.value for entry in Kv(connection).tree(PREFIX)}
            ended = time.monotonic_ns()
        return [Op(Kind.GET, key, began, ended, found.get(key), client="last") for key in sorted(keys)]

    def _hashes(self) -> set[str] | None:
        stats = [server.stats() for server in self.cluster.servers]
        if len({s["raft"]["applied_index"] for s in stats}) != 1:
            return None
        return {s["consul"]["state_hash"] for s in stats}


def _answers(client: Client) -> int:
    return sum(op.outcome is Outcome.DONE for op in client.operations)


def _writes(agent: Agent, key: str) -> bool:
    with closing(agent.connect()) as connection:
        return Kv(connection).put(key, b"")


def _windows(
    ops: list[Op], majority: list[tuple[float, bool]], began: float, ended: float
) -> tuple[int, int]:
    """The whole seconds with a majority connected throughout, and how many of them saw a write."""
    written = {
        int(op.ended / 1e9 - began) for op in ops if op.kind is not Kind.GET and op.outcome is Outcome.DONE
    }
    until = [*(at for at, _ in majority[1:]), ended]
    broken = {
        second
        for (at, whole), end in zip(majority, until, strict=True)
        if not whole
        for second in range(int(at - began), int(end - began) + 1)
    }
    seconds = set(range(int(ended - began))) - broken
    return len(seconds), len(seconds & written)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=float, default=60, help="how long there are faults")
    parser.add_argument("--seed", type=int, default=1, help="what the faults are drawn from")
    parser.add_argument("--no-sync", action="store_true", help="make syncs do nothing: the run must fail")
    add_plant(parser, BUGS)
    parser.add_argument("--keep", action="store_true", help="keep data and logs")
    options = parser.parse_args()
    for fault in schedule(options.seed, options.seconds):
        print(f"at {fault.at_s:5.1f} s for {fault.lasts_s:.1f} s: {fault.kind}")
    # Whoever ends it, by hand or when its time is over, ends its servers too.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    directory = Path(tempfile.mkdtemp(prefix="gemot-chaos-"))
    chaos = Chaos(directory, seed=options.seed, no_sync=options.no_sync, plant=options.plant)
    try:
        print(chaos.run(options.seconds))
    except AssertionError as error:
        print(f"seed {options.seed} failed: {type(error).__name__}: {error}")
        return 1
    finally:
        for said in chaos.orders_refused:
            print(f"order not done: {said}")
        if not options.keep:
            shutil.rmtree(directory, ignore_errors=True)
        else:
            print(f"data and logs: {directory}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
