"""Hosts whose cable is pulled: how soon all other agents, the catalog and DNS know, and how soon the host's
locks are free; and what is no failure.

make gossip-hosts                            30 agents, each on a host of its own; takes twenty minutes
.venv/bin/python tests/cluster/cut_hosts.py --clients 3 --cuts 2 --stops 2 --weather 10 --outages 1
.venv/bin/python tests/cluster/cut_hosts.py --campaign            keeps it in tests/gossip/RESULTS.md

Real processes with Consul's timings for a LAN (`support/host_cluster.py`); a cut resets no connection. What
is asked is what programs ask: `/v1/agent/members` of every other agent, DNS, health and the lock of one. A
time ends with the first answer that says so: too long by what lies between two questions, never too short.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).parent.parent)

from gossip.experiments import Spread, expected_first_ms
from gossip.record import keep
from support.host_cluster import FAILED, PORTS, HostCluster, Seat, holds
from support.hosts import as_root, why_none

BETWEEN_S = 0.1
STOPPED_S = 2.0
ROLES = ("client", "client", "follower") * 2 + ("client", "client", "leader")
CUT_MOST_S = 120.0
BAR_S = 15.0

Rows = list[list[str]]


class Cuts:
    """What was measured of cuts, in milliseconds."""

    def __init__(self) -> None:
        self.first, self.lists, self.health, self.dns, self.locks, self.healed = (
            Spread([]) for _ in range(6)
        )
        self.wrong: list[tuple[str, str]] = []


class Stage:
    def __init__(self, cluster: HostCluster, seed: int) -> None:
        self.cluster = cluster
        self.random = random.Random(seed)

    # -- a cable ---------------------------------------------------------------------------------------

    def cuts(self, count: int, roles: list[str], long_s: float) -> dict[str, Cuts]:
        """By what the host is: `roles` in turn, and each client before the first has its second turn.

        One in nine stays cut off for `long_s`: long enough to take others for failed itself.
        """
        found = {role: Cuts() for role in dict.fromkeys(roles)}
        clients: list[Seat] = []
        for number in range(1, count + 1):
            role = roles[(number - 1) % len(roles)]
            clients = clients or self.random.sample(self.cluster.clients, len(self.cluster.clients))
            victim = clients.pop() if role == "client" else self._server(role)
            self.cut(victim, found[role], long_s if number % len(ROLES) == 1 else 0.0)
            told = (
                spread.times[-1] / 1000 for spread in vars(found[role]).values() if isinstance(spread, Spread)
            )
            print(f"cut {number}: {role} {victim.name}:", *(f"{each:.1f}" for each in told), flush=True)
        return found

    def _server(self, role: str) -> Seat:
        leader: Seat | None = None

        def known() -> bool:
            nonlocal leader
            leader = self.cluster.leader()
            return leader is not None

        self.cluster.until(known, "a leader")
        assert leader is not None
        if role == "leader":
            return leader
        return self.random.choice([server for server in self.cluster.servers if server is not leader])

    def cut(self, victim: Seat, into: Cuts, long_s: float) -> None:
        before = self.cluster.failures()
        lists = {seat.name: seat for seat in self.cluster.others(victim)}
        asked = self.random.choice(list(lists.values()))
        asks: dict[str, Callable[[], bool]] = {
            name: lambda seat=seat: seat.members()[victim.name] == FAILED  # type: ignore[misc]
            for name, seat in lists.items()
        }
        asks["health"] = lambda: not asked.passes(victim.service)
        asks["dns"] = lambda: not asked.resolves(victim.service)
        key = self._lock(victim)
        asks["lock"] = lambda: asked.is_free(key)
        time.sleep(self.random.random())
        began = time.monotonic()
        self.cluster.lan.cut(victim.host)
        took = self._when_each(asks, began, f"{victim.name} is missed")
        into.health.times.append(took.pop("health"))
        into.dns.times.append(took.pop("dns"))
        into.locks.times.append(took.pop("lock"))
        into.first.times.append(min(took.values()))
        into.lists.times.append(max(took.values()))
        time.sleep(max(0.0, began + long_s - time.monotonic()))
        self.cluster.lan.join(victim.host)
        into.healed.times.append(round(1000 * self.cluster.until(self.cluster.whole, "all is whole again")))
        into.wrong += self.cluster.wrongly_failed(before, but=[victim.name])

    def _lock(self, seat: Seat) -> str:
        keys: list[str] = []

        def taken() -> bool:
            keys.append(seat.lock())
            return True

        self.cluster.until(lambda: holds(taken), f"{seat.name} has a lock")
        return keys[-1]

    def _when_each(self, asks: dict[str, Callable[[], bool]], began: float, what: str) -> dict[str, int]:
        took: dict[str, int] = {}
        while len(took) < len(asks):
            assert time.monotonic() - began < CUT_MOST_S, (
                f"{what}: not by {sorted(asks.keys() - took.keys())}"
            )
            for name, asked in asks.items():
                if name not in took and holds(asked):
                    took[name] = round(1000 * (time.monotonic() - began))
            time.sleep(BETWEEN_S)
        return took

    # -- what is no failure ----------------------------------------------------------------------------

    def stops(self, count: int) -> list[tuple[str, str]]:
        """Each member in turn is stopped for two seconds (SIGSTOP): who takes whom for failed."""
        before = self.cluster.failures()
        for number in range(count):
            seat = self.cluster.seats[number % len(self.cluster.seats)]
            seat.agent.signal(signal.SIGSTOP)
            time.sleep(STOPPED_S)
            seat.agent.signal(signal.SIGCONT)
            time.sleep(STOPPED_S)
            wrong = self.cluster.wrongly_failed(before)
            print(f"stop {number + 1}: {seat.name}: taken for failed: {wrong}", flush=True)
        self.cluster.until(self.cluster.whole, "all is whole")
        return self.cluster.wrongly_failed(before)

    def mutes(self, count: int, seconds: float) -> int:
        """The leader's gossip is cut off, and nothing else, for so long after all have it for failed. How
        often that cost it its lock or its health."""
        lost = 0
        for number in range(count):
            leader = self._server("leader")
            asked = self.random.choice(self.cluster.others(leader))
            key = self._lock(leader)
            self.cluster.lan.mute(leader.host, PORTS["serf_lan"])
            others = self.cluster.others(leader)
            self.cluster.until(
                lambda leader=leader, others=others: all(  # type: ignore[misc]
                    holds(lambda seat=seat: seat.members()[leader.name] == FAILED)  # type: ignore[misc]
                    for seat in others
                ),
                "all have the leader for failed",
            )
            until, spared = time.monotonic() + seconds, True
            while spared and time.monotonic() < until:
                spared = not holds(lambda asked=asked, key=key: asked.is_free(key))  # type: ignore[misc]
                spared = spared and not holds(
                    lambda asked=asked, leader=leader: not asked.passes(leader.service)  # type: ignore[misc]
                )
                time.sleep(BETWEEN_S)
            lost += not spared
            print(f"mute {number + 1}: {leader.name}: {'kept its lock' if spared else 'LOST it'}", flush=True)
            self.cluster.lan.unmute(leader.host)
            self.cluster.until(self.cluster.whole, "all is whole again")
        return lost

    def weather(self, seconds: float, *, loss: float, delay_ms: float) -> list[tuple[str, str]]:
        before, until = self.cluster.failures(), time.monotonic() + seconds
        self.cluster.lan.weather(loss=loss, delay_ms=delay_ms)
        while time.monotonic() < until:
            time.sleep(min(10.0, max(0.0, until - time.monotonic())))
        wrong = self.cluster.wrongly_failed(before)
        print(f"weather: taken for failed: {wrong}", flush=True)
        self.cluster.lan.weather(loss=0.0, delay_ms=0.0)
        self.cluster.until(self.cluster.whole, "all is whole")
        return wrong

    # -- all of them at once ---------------------------------------------------------------------------

    def outage(self) -> tuple[float, float]:
        """Every process is killed and begins again: seconds until a write is done, and until all is whole."""
        for seat in self.cluster.seats:
            seat.agent.signal(signal.SIGKILL)
        for seat in self.cluster.seats:
            seat.agent.wait()
        began = time.monotonic()
        self.cluster.start()
        self.cluster.until(lambda: holds(lambda: self._writes()), "a write is done")
        written = time.monotonic() - began
        self.cluster.until(self.cluster.whole, "all is whole again")
        return written, time.monotonic() - began

    def _writes(self) -> bool:
        return bool(self.cluster.clients[-1].ask("PUT", "/v1/kv/outage", b"over"))


def _seconds(ms: int) -> str:
    return f"{ms / 1000:.1f}"


def cut_rows(found: dict[str, Cuts], members: int) -> Rows:
    rows = [["cut off", "cuts", "what", "SWIM's formula", "p50", "p90", "p99", "max"]]
    every = Cuts()
    for cuts in found.values():
        for name, spread in vars(every).items():
            if isinstance(spread, Spread):
                spread.times += getattr(cuts, name).times
    for role, cuts in (*found.items(), ("all", every)):
        for what, spread, formula in (
            ("failed in the first list", cuts.first, _seconds(expected_first_ms(members))),
            ("failed in every list", cuts.lists, ""),
            ("out of health?passing", cuts.health, ""),
            ("out of DNS", cuts.dns, ""),
            ("its lock is free", cuts.locks, ""),
            ("plugged in: whole again", cuts.healed, ""),
        ):
            if spread.times:
                shares = [_seconds(spread.at(share)) for share in (0.5, 0.9, 0.99, 1.0)]
                rows.append([role, str(len(spread.times)), what, formula, *shares])
    return rows


def run(options: argparse.Namespace) -> int:
    began, load = time.monotonic(), os.getloadavg()
    members = options.servers + options.clients
    with tempfile.TemporaryDirectory(prefix="gemot-hosts-") as folder:
        cluster = HostCluster(Path(folder), servers=options.servers, clients=options.clients)
        stage = Stage(cluster, options.seed)
        try:
            cluster.start(pause_s=options.pause)
            print(f"whole after {cluster.until(cluster.whole, 'all is whole'):.1f} s", flush=True)
            found = stage.cuts(options.cuts, options.roles, options.long)
            lost = stage.mutes(options.mutes, options.mute)
            stopped = stage.stops(options.stops)
            rained = stage.weather(options.weather, loss=options.loss, delay_ms=options.delay)
            outages = [stage.outage() for _ in range(options.outages)]
            resident = max(resident_mib(seat.agent.pid) for seat in cluster.seats)
        finally:
            cluster.stop()
    rows = cut_rows(found, members)
    wrong = [pair for cuts in found.values() for pair in cuts.wrong]
    told = [
        f"One cut in nine lasted for {options.long:g} s. "
        f"During the cuts {len(wrong)} times another was taken for failed.",
        f"The leader's gossip alone was cut off {options.mutes} times, for {options.mute:g} s after all had "
        f"it for failed: it lost its lock or its health {lost} times.",
        f"Stopped (SIGSTOP) for {STOPPED_S:g} s, {options.stops} times, each in turn: "
        f"taken for failed: {len(stopped)}.",
        f"{options.loss:.0%} of frames lost and {options.delay:g} ms added each way, "
        f"for {options.weather:g} s: taken for failed: {len(rained)}.",
        "All killed (SIGKILL) and begun again at once, seconds until a write and until all is whole: "
        + (", ".join(f"{written:.1f} and {whole:.1f}" for written, whole in outages) or "not tried")
        + ".",
        f"Load (1 min) {load[0]:.1f} before and {os.getloadavg()[0]:.1f} after; "
        f"agents were started {options.pause:g} s apart; the largest has {resident:.0f} MiB.",
    ]
    for row in rows:
        print("  ".join(f"{cell:>24}" if n == 2 else f"{cell:>9}" for n, cell in enumerate(row)))
    print("\n".join(told))
    if options.campaign:
        title = f"From the cable's end, in seconds: {options.servers} servers and {options.clients} clients."
        keep("hosts", f"{title} {' '.join(told)}", rows, time.monotonic() - began)
    return 1 if wrong or lost or stopped or rained or (options.bar and not within_bar(found)) else 0


def within_bar(found: dict[str, Cuts]) -> bool:
    """99 of a hundred hosts are missed everywhere by then."""
    every = [
        Spread([ms for cuts in found.values() for ms in getattr(cuts, what).times])
        for what in ("lists", "health", "dns", "locks")
    ]
    return all(spread.at(0.99) <= 1000 * BAR_S for spread in every)


def resident_mib(pid: int) -> float:
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / (1 << 20)


def main() -> int:
    options = _parse()
    if (why := why_none()) and os.geteuid() != 0 and not options.inside:
        command = as_root([sys.executable, __file__, *sys.argv[1:], "--inside"])
        os.execvp(command[0], command)
    elif why:
        print(why, file=sys.stderr)
        return 77
    return run(options)


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--servers", type=int, default=3)
    parser.add_argument("--clients", type=int, default=27)
    parser.add_argument("--cuts", type=int, default=54)
    parser.add_argument(
        "--roles", nargs="+", choices=sorted(set(ROLES)), default=list(ROLES), help="whose, in turn"
    )
    parser.add_argument("--long", type=float, default=45.0, help="seconds, for one cut in nine")
    parser.add_argument("--mutes", type=int, default=3, help="how often the leader's gossip alone is cut off")
    parser.add_argument("--mute", type=float, default=30.0, help="seconds of that")
    parser.add_argument("--stops", type=int, default=30)
    parser.add_argument("--weather", type=float, default=300.0, help="seconds of loss and delay")
    parser.add_argument("--loss", type=float, default=0.05)
    parser.add_argument("--delay", type=float, default=20.0, help="milliseconds each way")
    parser.add_argument("--outages", type=int, default=2)
    parser.add_argument("--pause", type=float, default=1.0, help="seconds between two starts")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument(
        "--bar", action="store_true", help=f"fail if the 99th of a hundred took more than {BAR_S:g} s"
    )
    parser.add_argument("--campaign", action="store_true", help="keep it in RESULTS.md")
    parser.add_argument("--inside", action="store_true", help=argparse.SUPPRESS)
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
