"""Hand-overs of a lock between hosts: its holder is killed, stopped, cut off, or its whole host stands still.

python tests/cluster/handover.py --kills 500              so many hand-overs, one line each turn
python tests/cluster/handover.py --kills 500 --campaign   keeps a row in HANDOVER.md

Three servers, two client agents, and lanes: each a lock that a `gemot lock` on one host holds while another,
on the other host, waits. Never may both commands be inside, as a third process sees it
(`support/holders.py`).
A host that stands still as a whole is counted apart: its command is inside until it goes on, no lock can help
that, and its fence is smaller than the next one's, which is what is asked for there.

How long it takes is from the fault to the next entry. A killed holder's session goes on until its TTL and a
quarter after its last renewal, and then there is its lock delay, a TTL.
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
from collections import Counter
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

import msgspec

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from support.cluster import Agent, Cluster, wait_for
from support.holders import Holder
from support.session_cluster import PATIENCE_S, session_cluster

RESULTS = Path(__file__).parent / "HANDOVER.md"
TTL_S = 2.0
LANES = 6
KINDS = ("kill", "kill", "kill", "stop", "host")
CUTS = 0.1
"""In so many of the turns all holders of one host are cut off at once: its agent, all that they can reach, is
stopped."""

CUT_S = 3.0 * TTL_S


class HandOver(msgspec.Struct, frozen=True):
    kind: str
    took_s: float
    both: bool
    """Were two inside at once? Of a host that stands still that is to be expected."""


class Lane:
    """One lock: who holds it, and who waits."""

    def __init__(self, number: int, cluster: Cluster, folder: Path, ttl_s: float) -> None:
        self._ttl_s = ttl_s
        self._prefix = f"lanes/{number}"
        self._hosts = cluster.clients
        self._folder = folder / f"lane{number}"
        self._folder.mkdir()
        self._begun = number
        self._before: list[Holder] = []
        self.in_vain = 0
        self.overlaps = 0
        """How often two were inside that no stopped host excuses."""

        self.holder = self._new()
        self.waiter: Holder | None = None

    def _new(self, agent: Agent | None = None) -> Holder:
        self._begun += 1
        if agent is None:
            before = getattr(self, "holder", None)
            agent = self._hosts[before is not None and before.agent is self._hosts[0]]
        return Holder(
            agent=agent, folder=self._folder, name=str(self._begun), prefix=self._prefix, ttl_s=self._ttl_s
        )

    def settled(self) -> bool:
        """Is one inside, while another one waits?

        On a busy host a lock may be lost without a fault, and a lease be over before the command began.
        """
        self.holder.look()
        if self.waiter is not None and self.waiter.look():
            self._move()
        if self.holder.ended and self.waiter is None:
            self.holder.end()
            self.holder = self._new()
        if self.holder.inside and self.waiter is None:
            self.waiter = self._new()
        self.revive()
        return self.holder.inside and self.waiter is not None and self.waiter.waits

    def revive(self) -> None:
        """One who waited, and whose lease was over before its command began, waits again."""
        if self.waiter is not None and self.waiter.ended and not self.waiter.entered_s:
            if self.waiter.look():
                return
            self.in_vain += 1
            self.waiter.end()
            self.waiter = self._new(self.waiter.agent)

    def _move(self) -> bool:
        """The waiter is in: it is the holder now. Was the one before still inside?"""
        before, following = self.holder, self.waiter
        assert following is not None
        if following.fence <= before.fence:
            raise AssertionError(f"the fence {following.fence} came after {before.fence}")
        self.holder, self.waiter = following, None
        self._before.append(before)
        if following.both and not before.late:
            self.overlaps += 1
        return following.both

    def end_those_before(self) -> None:
        """Later, since it takes time: entries to other locks are to be seen at once."""
        for before in self._before:
            before.end()
        self._before.clear()

    @property
    def agent(self) -> Agent:
        return self.holder.agent

    def strike(self, kind: str) -> None:
        if kind in ("kill", "waiter-cut"):
            self.holder.kill()
        elif kind == "stop":
            self.holder.stop()
        elif kind == "host":
            self.holder.stop_host()

    def look(self) -> bool:
        """Has the next one entered?"""
        assert self.waiter is not None
        return self.waiter.look()

    def next(self, kind: str, struck_s: float) -> HandOver:
        """The one before is looked at now, behind the entry of the next."""
        both = self._move()
        return HandOver(kind, self.holder.entered_s - struck_s, both)

    def end(self) -> None:
        self.end_those_before()
        for holder in (self.holder, self.waiter):
            if holder is not None:
                holder.end()


class Campaign:
    def __init__(
        self, cluster: Cluster, folder: Path, *, lanes: int, seed: int, ttl_s: float = TTL_S
    ) -> None:
        self._cluster = cluster
        self._chance = random.Random(seed)
        self._lanes = [Lane(number, cluster, folder, ttl_s) for number in range(lanes)]
        self.done: list[HandOver] = []

    @property
    def overlaps(self) -> int:
        return sum(lane.overlaps for lane in self._lanes)

    @property
    def in_vain(self) -> int:
        return sum(lane.in_vain for lane in self._lanes)

    def run(self, kills: int, *, kinds: Sequence[str] = ()) -> None:
        """With `kinds` those, lane by lane, and no others."""
        try:
            while len(self.done) < kills:
                for lane in self._lanes:
                    lane.end_those_before()
                wait_for(self._settled, PATIENCE_S, "a holder and a waiter in each", self._cluster.agents)
                self._turn(kinds)
        finally:
            for lane in self._lanes:
                lane.end()

    def _settled(self) -> bool:
        """All at once: one that was a moment ago may have lost its lock since."""
        return all([lane.settled() for lane in self._lanes])

    def _turn(self, wanted: Sequence[str]) -> None:
        kinds = list(wanted) or [self._chance.choice(KINDS) for _ in self._lanes]
        cuts = not wanted and self._chance.random() < CUTS
        cut = self._chance.choice(self._cluster.clients) if cuts else None
        if cut is not None:
            # Who has that agent is cut off with it; where it is the waiter, the holder is killed.
            kinds = ["cut" if lane.agent is cut else "waiter-cut" for lane in self._lanes]
        struck = {}
        if cut is not None:
            cut.signal(signal.SIGSTOP)
        try:
            for number, (lane, kind) in enumerate(zip(self._lanes, kinds, strict=True)):
                lane.strike(kind)
                struck[number] = (kind, time.monotonic())
            self._follow(struck, cut)
        finally:
            if cut is not None:
                cut.signal(signal.SIGCONT)

    def _follow(self, struck: dict[int, tuple[str, float]], cut: Agent | None) -> None:
        """Until every lane has its next holder. The waiters of a host that is cut off wait for its return."""
        began = time.monotonic()
        while struck:
            for number in list(struck):
                self._lanes[number].revive()
                if self._lanes[number].look():
                    self.done.append(self._lanes[number].next(*struck.pop(number)))
            if cut is not None and time.monotonic() - began > CUT_S:
                cut.signal(signal.SIGCONT)
            if time.monotonic() - began > PATIENCE_S:
                told = {n: self._lanes[n].waiter.told()[-300:] for n in struck}  # type: ignore[union-attr]
                raise AssertionError(f"nobody followed in {PATIENCE_S} s: {struck}, {told}")
            time.sleep(0.002)


def summary(done: list[HandOver]) -> str:
    lines = []
    for kind in sorted({each.kind for each in done}):
        took = sorted(each.took_s for each in done if each.kind == kind)
        both = sum(each.both for each in done if each.kind == kind)
        p50, p99 = took[len(took) // 2], took[min(len(took) - 1, len(took) * 99 // 100)]
        lines.append(f"{kind}: {len(took)} hand-overs, p50 {p50:.2f} s, p99 {p99:.2f} s, both inside {both}")
    return "; ".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kills", type=int, default=20, help="how many hand-overs")
    parser.add_argument("--lanes", type=int, default=LANES, help="locks that change hands at the same time")
    parser.add_argument("--seed", type=int, default=1, help="which faults, in which order")
    parser.add_argument("--campaign", action="store_true", help="add a row to HANDOVER.md")
    options = parser.parse_args()
    began, commit = time.monotonic(), commit_now()
    with tempfile.TemporaryDirectory(prefix="gemot-handover-") as name:
        folder = Path(name)
        with session_cluster(folder / "cluster") as cluster:
            campaign = Campaign(cluster, folder, lanes=options.lanes, seed=options.seed)
            try:
                campaign.run(options.kills)
            finally:
                done = campaign.done
                print(f"{len(done)} hand-overs, TTL {TTL_S} s; {summary(done)}")
                print(
                    f"two inside though no whole host was stopped: {campaign.overlaps}; "
                    f"leases over before the command began: {campaign.in_vain}",
                    flush=True,
                )
    if options.campaign:
        _keep(done, commit, options, time.monotonic() - began)
    return 1 if campaign.overlaps else 0


def commit_now() -> str:
    command = ["git", "describe", "--always", "--dirty"]
    here = Path(__file__).parent
    return subprocess.run(command, capture_output=True, text=True, cwd=here, check=False).stdout.strip()


_HEAD = """# Hand-overs of a lock

Each row is one command, `make handover KILLS=n SEED=s`: `gemot lock` on two hosts, its holder killed,
stopped, cut off from its agent, or its whole host stopped; "waiter-cut": killed, while the agent of who waits
stands still. Times are from the fault to the next entry. Both inside: as a third process saw it. Where a
whole host stood still that is to be expected, and only its fence is smaller.

| date | commit | seed | hand-overs | TTL | by kind | machine |
|---|---|---|---|---|---|---|
"""


def _keep(done: list[HandOver], commit: str, options: argparse.Namespace, took_s: float) -> None:
    kinds = Counter(each.kind for each in done)
    row = (
        f"| {datetime.now(UTC):%Y-%m-%d} | {commit} | {options.seed} | {sum(kinds.values())} | "
        f"{TTL_S:.0f} s | {summary(done)} | {os.cpu_count()} cores {platform.machine()}, "
        f"Python {platform.python_version()}, load {os.getloadavg()[1]:.0f}, "
        f"{options.lanes} lanes, {took_s:.0f} s |\n"
    )
    before = RESULTS.read_text() if RESULTS.exists() else _HEAD
    RESULTS.write_text(before + row)


if __name__ == "__main__":
    sys.exit(main())
