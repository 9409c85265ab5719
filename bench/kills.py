"""Kills of leaders, a JSON line each as they happen, and the figures of all of them.

A run that is cut off has lost nothing but the kill under way: its lines are a table like any other
(`failover.py --table FILE`). A kill after which no write was acknowledged counts with what was waited.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Literal

import msgspec
from report import Row

System = Literal["etcd", "gemot"]


class Kill(msgspec.Struct, frozen=True):
    """One leader killed. `error` tells what went wrong; `seconds` is then what was waited, or None."""

    run: str
    """When its run began: a file may hold several."""
    system: System
    turn: int
    at: str
    seconds: float | None
    error: str = ""


def note(file: Path, kill: Kill) -> None:
    """Add a line, on its way to the disk before the next kill."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("ab") as lines:
        lines.write(msgspec.json.encode(kill) + b"\n")


def read(file: Path) -> list[Kill]:
    """Every whole line."""
    whole = file.read_bytes().split(b"\n")[:-1]
    return [msgspec.json.decode(line, type=Kill) for line in whole]


def rows(kills: list[Kill]) -> list[Row]:
    """The figures beside each other, of all kills that were waited for."""
    etcd, gemot = seconds_of(kills, "etcd"), seconds_of(kills, "gemot")
    return [
        Row(
            f"leader killed to the next write, {name}",
            "s",
            quantile(etcd, q),
            quantile(gemot, q),
            least=False,
        )
        for name, q in (("p50", 0.5), ("p90", 0.9), ("p99", 0.99), ("longest", 1.0))
    ]


def summary(kills: list[Kill]) -> str:
    told = []
    for system in ("etcd", "gemot"):
        mine = [kill for kill in kills if kill.system == system]
        failed = [kill for kill in mine if kill.error]
        told.append(f"{system} {len(seconds_of(mine, system))}")
        told[-1] += f" ({len(failed)} with an error: {failed[0].error})" if failed else ""
    return ", ".join(told)


def seconds_of(kills: list[Kill], system: str) -> list[float]:
    return [kill.seconds for kill in kills if kill.system == system and kill.seconds is not None]


def quantile(values: list[float], q: float) -> list[float]:
    """The nearest rank, or nothing of nothing."""
    return [sorted(values)[max(0, math.ceil(len(values) * q) - 1)]] if values else []
