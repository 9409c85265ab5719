"""Gossip in virtual time: how soon a failure is known, how often one is only imagined, and what it costs.

python tests/gossip/sim.py                       all experiments at 100 members
python tests/gossip/sim.py --members 10 100 1000 some sizes beside each other
python tests/gossip/sim.py --only detection --members 10000 --crashes 3
python tests/gossip/sim.py --campaign            writes what came of it into RESULTS.md

Every figure follows from the seed; a law that breaks ends the run with it.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

from gossip.experiments import (
    LIFEGUARD,
    Slow,
    crash_together,
    cut_off,
    detection,
    expected_first_ms,
    false_alarms,
    partition,
    traffic,
)
from gossip.record import keep

from gemot.agent.gossip.timing import LAN

LOSSES = (0.0, 0.05, 0.1, 0.2, 0.3)
SLOW_MEMBERS = (4, 8, 16, 32)
SPELLS_MS = (2_048, 8_192, 32_768)
RESTS_MS = (64, 1_024)
APART_S = 60
CUT_OFF_S = (3, 10, 20, 40, 90)
TOGETHER = ((5, 3), (10, 7), (10, 8))

Rows = list[list[str]]


def _seconds(ms: int) -> str:
    return f"{ms / 1000:.1f}"


def _detection(options: argparse.Namespace) -> Rows:
    """From a crash, in seconds: suspected, known to one, known to all (median / 99th of a hundred)."""
    rows = [["members", "loss", "crashes", "suspected", "first knows", "SWIM's formula", "all know", "wrong"]]
    for members in options.members:
        for loss in LOSSES[:: 2 if members < 10_000 else len(LOSSES)]:
            found = detection(options.seed, members, min(options.crashes, members // 2), loss=loss)
            spreads = (found.suspected, found.first, found.everyone)
            cells = [f"{_seconds(each.median)} / {_seconds(each.at(0.99))}" for each in spreads]
            cells.insert(2, _seconds(expected_first_ms(members)))
            rows.append([str(members), f"{loss:.0%}", str(len(found.first.times)), *cells, str(found.wrong)])
    return rows


def _loss(options: argparse.Namespace) -> Rows:
    """Nobody fails, and datagrams are lost; with connections as well as without them."""
    rows = [["members", "loss", "connections", "seconds", "suspicions", "taken for failed", "members"]]
    for members in options.members:
        for loss in LOSSES:
            for streams in (True, False):
                got = false_alarms(options.seed, members, options.seconds, loss=loss, streams=streams)
                row = [members, f"{loss:.0%}", "pass" if streams else "do not", options.seconds]
                rows.append([str(cell) for cell in (*row, got.suspicions, got.all, got.victims)])
    return rows


def _lifeguard(options: argparse.Namespace) -> Rows:
    """Slow members, and who takes others for failed: with each part of Lifeguard alone, and with all."""
    rows = [
        [
            "members",
            "configuration",
            "FP",
            "% of SWIM",
            "FP at the well",
            "% of SWIM",
            "slow taken for failed",
        ]
    ]
    for members in options.members:
        base = None
        for name, timing in LIFEGUARD.items():
            every = [
                false_alarms(
                    options.seed, members, options.seconds, timing=timing(LAN), slow=Slow(count, spell, rest)
                )
                for count in options.slow
                if count <= members // 4
                for spell in SPELLS_MS
                for rest in options.rests
            ]
            sums = [sum(getattr(each, field) for each in every) for field in ("all", "healthy", "slow")]
            base = base or sums
            fp, healthy, slow = sums
            shares = [f"{100 * mine / max(1, swim):.1f}" for mine, swim in zip(sums, base, strict=True)]
            rows.append([str(members), name, str(fp), shares[0], str(healthy), shares[1], str(slow)])
    return rows


def _stopped(options: argparse.Namespace) -> Rows:
    """Processes that are stopped (SIGSTOP) and go on: while they are stopped, and when they wake."""
    rows = [
        ["members", "stopped at a time", "for s", "taken for failed, being well", "stopped, taken for failed"]
    ]
    for members in options.members:
        for spell in (2_000, 30_000):
            slow = Slow(max(1, members // 10), spell, 5_000, stopped=True)
            got = false_alarms(options.seed, members, options.seconds, slow=slow)
            rows.append([str(cell) for cell in (members, slow.members, spell // 1000, got.all, got.slow)])
    return rows


def _traffic(options: argparse.Namespace) -> Rows:
    """What each member sends in a second when nothing happens."""
    rows = [["members", "datagrams", "bytes", "connections"]]
    for members in options.members:
        got = traffic(options.seed, members, options.seconds)
        rows.append([str(members), f"{got.datagrams:.2f}", f"{got.bytes:.0f}", f"{got.streams:.4f}"])
    return rows


def _partition(options: argparse.Namespace) -> Rows:
    """Two halves that do not hear each other for a minute: seconds from then on until all are one again."""
    rows = [["members", "apart s", "one view after s"]]
    for members in options.members:
        took = partition(options.seed, members, APART_S)
        rows.append([str(members), str(APART_S), _seconds(took)])
    return rows


def _cut_off(options: argparse.Namespace) -> Rows:
    """Hosts cut off for a while, one after the other: who takes whom for failed, when nobody fails.

    "Its own" are those that the returned one itself lists as failed, until it hears the first.
    """
    rows = [
        ["members", "cuts", "for s", "loss", "whole after s (median / 99th)", "taken for failed", "its own"]
    ]
    for members in options.members:
        for apart_s in CUT_OFF_S:
            for loss in (0.0, 0.1):
                cuts = min(options.crashes, members // 2)
                got = cut_off(options.seed, members, cuts, apart_s * 1_000, loss=loss)
                took = f"{_seconds(got.whole.median)} / {_seconds(got.whole.at(0.99))}"
                row = [members, len(got.whole.times), apart_s, f"{loss:.0%}", took, got.wrong, got.own]
                rows.append([str(cell) for cell in row])
    return rows


def _together(options: argparse.Namespace) -> Rows:
    """Most hosts crash in one moment: seconds until all survivors know it, and who else is taken for failed.

    So many networks, of five and of ten members, as `--crashes` says; `--members` is for the others.
    """
    took_s = "known to all after s (median / max)"
    rows = [["members", "crash", "networks", "loss", took_s, "taken for failed, being well"]]
    for members, crashes in TOGETHER:
        for loss in (0.0, 0.1):
            got = crash_together(options.seed, members, crashes, runs=options.crashes, loss=loss)
            took = f"{_seconds(got.everyone.median)} / {_seconds(got.everyone.at(1.0))}"
            row = [members, crashes, options.crashes, f"{loss:.0%}", took, got.wrong]
            rows.append([str(cell) for cell in row])
    return rows


EXPERIMENTS = {
    "detection": _detection,
    "traffic": _traffic,
    "partition": _partition,
    "cut off": _cut_off,
    "together": _together,
    "stopped": _stopped,
    "loss": _loss,
    "lifeguard": _lifeguard,
}


def main() -> int:
    options = _parse()
    for name in options.only or EXPERIMENTS:
        began = time.monotonic()
        experiment = EXPERIMENTS[name]
        rows = experiment(options)
        title = " ".join((experiment.__doc__ or "").split())
        print(f"\n{name}: {title}\n{_columns(rows)}", flush=True)
        if options.campaign:
            keep(name, title, rows, time.monotonic() - began)
    return 0


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--members", type=int, nargs="+", default=[100])
    parser.add_argument("--crashes", type=int, default=30, help="how many crash, one after the other")
    parser.add_argument("--seconds", type=int, default=120, help="of virtual time, where nobody crashes")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--slow", type=int, nargs="+", default=SLOW_MEMBERS, help="Lifeguard: how many")
    parser.add_argument("--rests", type=int, nargs="+", default=RESTS_MS, help="and for how many ms well")
    parser.add_argument("--only", nargs="+", choices=list(EXPERIMENTS), default=[])
    parser.add_argument("--campaign", action="store_true", help="add the tables to RESULTS.md")
    return parser.parse_args()


def _columns(rows: Rows) -> str:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return "\n".join(
        "  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)) for row in rows
    )


if __name__ == "__main__":
    sys.exit(main())
