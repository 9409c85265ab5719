"""Figures side by side, what they are measured against, and the file that keeps a run."""

from __future__ import annotations

import datetime
import os
import platform
import statistics
import sys
import sysconfig
import time
from pathlib import Path

import msgspec
import psutil

RESULTS = Path(__file__).resolve().parent / "results"
SYNCS = 500


class Row(msgspec.Struct):
    """One figure of every system, a value for each round. `bar` is what Gemot's over etcd's should be.

    `least` says which way is good: at least the bar (rates), or at most (times, sizes).
    """

    name: str
    unit: str
    etcd: list[float]
    gemot: list[float]
    bar: float = 0.0
    least: bool = True

    @property
    def ratio(self) -> float:
        """0 where there is nothing to compare, as in a run that was cut off."""
        if not (self.etcd and self.gemot):
            return 0.0
        return statistics.median(self.gemot) / statistics.median(self.etcd)

    @property
    def verdict(self) -> str:
        if not self.bar:
            return ""
        found = self.ratio if self.etcd else statistics.median(self.gemot)
        met = found >= self.bar if self.least else found <= self.bar
        unit = "x" if self.etcd else f" {self.unit}"
        return f"{'≥' if self.least else '≤'} {self.bar:g}{unit}: {'met' if met else 'MISSED'}"


def spread(values: list[float]) -> str:
    """The median, and all values behind it."""
    if not values:
        return ""
    shown = "/".join(_short(value) for value in values)
    return f"**{_short(statistics.median(values))}** ({shown})" if len(values) > 1 else f"**{shown}**"


def table(rows: list[Row]) -> str:
    lines = ["| what | unit | etcd | Gemot | Gemot / etcd | bar |", "|---|---|---|---|---|---|"]
    for row in rows:
        ratio = f"{row.ratio:.2f}" if row.etcd and row.gemot else ""
        cells = (row.name, row.unit, spread(row.etcd), spread(row.gemot), ratio, row.verdict)
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


class Ways(msgspec.Struct):
    """One figure of several ways to do the same, by their names: a value for each round."""

    name: str
    unit: str
    values: dict[str, list[float]]


def ways_table(figures: list[Ways], ways: list[str]) -> str:
    """A column for each way, and what the first is of each other. A way that was not measured has none."""
    ways = [way for way in ways if any(figure.values.get(way) for figure in figures)]
    heads = ["what", "unit", *ways, *(f"{ways[0]} / {other}" for other in ways[1:])]
    lines = [_line(heads), _line(["---"] * len(heads)).replace(" ", "")]
    for figure in figures:
        found = [figure.values.get(way, []) for way in ways]
        ratios = [_ratio(found[0], other) for other in found[1:]]
        lines.append(_line([figure.name, figure.unit, *map(spread, found), *ratios]))
    return "\n".join(lines)


def _ratio(values: list[float], others: list[float]) -> str:
    if not (values and others and statistics.median(others)):
        return ""
    return f"{statistics.median(values) / statistics.median(others):.2f}"


def _line(cells: list[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def write_report(tables: str, facts: dict[str, str]) -> Path:
    """Add this run to the file of its day."""
    RESULTS.mkdir(exist_ok=True)
    now = datetime.datetime.now(datetime.UTC)
    file = RESULTS / f"{now:%Y-%m-%d}.md"
    heading = f"## {now:%H:%M} UTC\n\n"
    listed = "".join(f"- {name}: {value}\n" for name, value in facts.items())
    note = "Medians, with every round in brackets; all systems in turns on one machine, load included.\n\n"
    with file.open("a") as report:
        if not report.tell():
            report.write(f"# Benchmarks of {now:%Y-%m-%d}\n\n")
        report.write(heading + listed + "\n" + note + tables + "\n\n")
    return file


class Others:
    """The share of the processors that went to programs other than this one and what it started."""

    def __init__(self) -> None:
        self._began = self._now()

    def percent(self) -> float:
        """Since this was made. Children count once they have ended and been waited for."""
        wall, busy, own = (now - then for now, then in zip(self._now(), self._began, strict=True))
        return max(0.0, busy - own) / (wall * len(os.sched_getaffinity(0))) * 100

    def _now(self) -> tuple[float, float, float]:
        return time.monotonic(), _busy_s(), _own_s()


def _busy_s() -> float:
    times = psutil.cpu_times()
    return sum(times) - times.idle - times.iowait - times.guest - times.guest_nice


def _own_s() -> float:
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


def machine_facts(directory: Path) -> dict[str, str]:
    sync_ms = sync_time_ms(directory)
    return {
        "machine": f"{len(os.sched_getaffinity(0))} processors, {_processor()}, {platform.release()}, "
        f"load before {os.getloadavg()[0]:.1f}",
        "disk": f"{_filesystem(directory)}; fdatasync of a 4 kB append: {sync_ms:.2f} ms (median)",
        "interpreter": f"{platform.python_implementation()} {platform.python_version()} "
        f"({platform.python_compiler()}{_optimised()})",
    }


def sync_time_ms(directory: Path) -> float:
    """The median time of fdatasync after an append, on the disk that the servers use."""
    path = directory / "sync-probe"
    block, times = b"x" * 4096, []
    descriptor = os.open(path, os.O_CREAT | os.O_WRONLY | os.O_APPEND, 0o600)
    try:
        for _ in range(SYNCS):
            os.write(descriptor, block)
            began = time.perf_counter()
            os.fdatasync(descriptor)
            times.append(time.perf_counter() - began)
    finally:
        os.close(descriptor)
        path.unlink()
    return statistics.median(times) * 1e3


def filesystem_type(directory: Path) -> str:
    """The type of the file system that holds this directory."""
    return _filesystem(directory).split(" ", 1)[0]


def _filesystem(directory: Path) -> str:
    best = ("", "unknown")
    for line in Path("/proc/mounts").read_text().splitlines():
        _, mount, kind, *_ = line.split()
        inside = directory == Path(mount) or Path(mount) in directory.parents
        if inside and len(mount) >= len(best[0]):
            best = (mount, kind)
    return f"{best[1]} at {best[0]}"


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def _optimised() -> str:
    if sys.base_prefix == "/usr" and Path("/etc/debian_version").exists():
        return ", as Debian builds it: with PGO and LTO"
    arguments = sysconfig.get_config_var("CONFIG_ARGS") or ""
    flags = [name for name in ("--enable-optimizations", "--with-lto") if name in arguments]
    return ", " + (" ".join(flags) or "built without PGO and LTO")


def _short(value: float) -> str:
    if value >= 1000:
        return f"{value:.0f}"
    return f"{value:.3g}"
