"""`make patroni`: hand-overs of Patroni's leader on Gemot, with Patroni's own timing.

    patroni_run.py --rounds 10              TTL 30 s, loop_wait 10 s, retry_timeout 10 s
    patroni_run.py --rounds 10 --quick      TTL 10 s, loop_wait 1 s, retry_timeout 4 s
    patroni_run.py --multiplier 1           as without the setting: leaders whose time goes on are told
    patroni_run.py --rounds 10 --campaign   keeps a row in PATRONI.md

In each round five Patroni clusters of two members have a leader and a follower. First what must change no
leader: an agent is restarted, the servers' leader is killed. Then two leaders are killed, two stopped, and
one is cut off: its agent is stopped. How long it takes is from the fault to the word of the next leader. A
leader's time is what Patroni takes it for: its whole TTL from each renewal, or until it demotes, or its end.
"""

from __future__ import annotations

import argparse
import os
import platform
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from datetime import UTC, datetime
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from clients.patroni_scene import DEFAULTS, QUICK, Member, Scene, Scope, Timing, await_pauses, scene

RESULTS = Path(__file__).parent / "PATRONI.md"
LANES = ("kill", "kill", "stop", "stop", "cut")
ELECTION_S = 5.0


class Run:
    def __init__(self, stage: Scene) -> None:
        self._stage = stage
        self._hosts = {"kill": (0, 1), "stop": (0, 1), "cut": (2, 3)}
        self.took_s: dict[str, list[float]] = defaultdict(list)
        self.faults: list[str] = []
        self.kept = 0

    def begin(self) -> None:
        for number, kind in enumerate(LANES):
            scope = self._stage.scope(f"{kind}{number}")
            for host in self._hosts[kind]:
                scope.begin(self._stage.cluster.clients[host])
        self._leaders()

    def _leaders(self) -> list[Member]:
        """Each cluster's leader after one more renewal."""
        await_pauses([scope.leader() for scope in self._stage.scopes])
        return [scope.leader() for scope in self._stage.scopes]

    def round(self) -> None:
        before = self._sessions()
        agent = random.choice(self._stage.cluster.clients)
        agent.signal(random.choice((signal.SIGTERM, signal.SIGKILL)))
        agent.wait()
        agent.start()
        self._compare("a restart of an agent", before)
        server = self._stage.cluster.leader()
        server.kill()
        self._stage.cluster.leader()
        self._compare("the end of the servers' leader", before)
        server.start()
        self._stage.cluster.leader()
        self._hand_over()

    def _sessions(self) -> dict[str, str]:
        self._leaders()
        return {scope.name: (scope.key() or {}).get("Session", "") for scope in self._stage.scopes}

    def _compare(self, what: str, before: dict[str, str]) -> None:
        after = self._sessions()
        self.kept += sum(after[name] == before[name] for name in before)
        self.faults += [f"{what} changed {name}'s leader" for name in before if after[name] != before[name]]

    def _hand_over(self) -> None:
        leaders = dict(zip(self._stage.scopes, self._leaders(), strict=True))
        struck_s: dict[Scope, float] = {}
        for scope, leader in leaders.items():
            struck_s[scope] = self._strike(scope.name[:-1], leader)
        for scope, leader in leaders.items():
            took_s = scope.successor(leader, struck_s[scope])
            self.took_s[scope.name[:-1]].append(took_s)
            if took_s > 1.5 * self._stage.timing.ttl + ELECTION_S:
                self.faults.append(f"{scope.name}: the hand-over took {took_s:.1f} s")
        for scope, leader in leaders.items():
            self._heal(scope, leader)

    def _strike(self, kind: str, leader: Member) -> float:
        if kind == "kill":
            leader.kill()
        elif kind == "stop":
            leader.signal(signal.SIGSTOP)
        else:
            leader.agent.signal(signal.SIGSTOP)
        return time.monotonic()

    def _heal(self, scope: Scope, leader: Member) -> None:
        kind = scope.name[:-1]
        if kind == "kill":
            scope.begin(leader.agent)
        elif kind == "stop":
            leader.signal(signal.SIGCONT)
        else:
            leader.agent.signal(signal.SIGCONT)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=3, help="each has five hand-overs")
    parser.add_argument("--quick", action="store_true", help="short times instead of Patroni's own")
    parser.add_argument("--multiplier", type=int, default=2, help="session_ttl_multiplier of the agents")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--campaign", action="store_true", help="keep a row in PATRONI.md")
    chosen = parser.parse_args()

    random.seed(chosen.seed)
    timing = QUICK if chosen.quick else DEFAULTS
    began_s = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="gemot-patroni-") as folder:
        stage_of = scene(Path(folder), timing, hosts=4, multiplier=chosen.multiplier)
        with stage_of as stage:
            run = Run(stage)
            run.begin()
            for number in range(1, chosen.rounds + 1):
                run.round()
                shown = ", ".join(f"{kind} {took[-1]:.1f} s" for kind, took in run.took_s.items())
                print(f"round {number}: {shown}", flush=True)
            both = [each for scope in stage.scopes for each in scope.overlaps()]
    for fault in run.faults + both:
        print(fault)
    row = told(run, both, timing, chosen.multiplier, time.monotonic() - began_s)
    print(row)
    if chosen.campaign:
        with RESULTS.open("a") as results:
            results.write(row + "\n")
    return 1 if run.faults or both else 0


def told(run: Run, both: list[str], timing: Timing, multiplier: int, spent_s: float) -> str:
    """A row of PATRONI.md."""
    commit = subprocess.run(
        ["git", "describe", "--always", "--dirty"], capture_output=True, text=True, check=True
    ).stdout.strip()
    kinds = "; ".join(
        f"{kind}: {len(took)}, {min(took):.1f} to {max(took):.1f} s" for kind, took in run.took_s.items()
    )
    machine = f"{os.cpu_count()} cores {platform.machine()}, Python {platform.python_version()}"
    cells = [
        f"{datetime.now(UTC):%Y-%m-%d}",
        commit,
        f"{timing.ttl}/{timing.loop_wait}/{timing.retry_timeout} s",
        str(multiplier),
        kinds,
        f"{run.kept} of {run.kept + sum('changed' in each for each in run.faults)}",
        str(len(both)),
        f"{machine}, {spent_s:.0f} s",
    ]
    return "| " + " | ".join(cells) + " |"


if __name__ == "__main__":
    sys.exit(main())
