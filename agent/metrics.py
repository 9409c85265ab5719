"""The figures this agent keeps: every name in one table, over prometheus-client's own registry.

Parts count, observe, or hand in a callable for a gauge; nobody else makes metric objects. Labels never
hold what a caller can make up. `Rate` to `Stddev` of the JSON form are over the last whole 10 seconds.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from time import monotonic, time
from typing import Any, Literal

import msgspec
import psutil
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

INTERVAL_S = 10.0
_SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 60.0, 600.0)


class Metric(msgspec.Struct, frozen=True):
    name: str
    kind: Literal["counter", "histogram", "gauge"]
    help: str
    labels: tuple[str, ...] = ()


TABLE = (
    Metric("gemot_http_requests_total", "counter", "HTTP requests answered.", ("method", "route", "status")),
    Metric("gemot_http_request_seconds", "histogram", "Time from head to answer.", ("method", "route")),
    Metric("gemot_http_connections", "gauge", "Open HTTP connections."),
    Metric("gemot_dns_queries_total", "counter", "DNS questions answered.", ("type", "rcode")),
    Metric("gemot_dns_query_seconds", "histogram", "Time from DNS question to answer."),
    Metric("gemot_rpc_requests_total", "counter", "Requests to the servers.", ("kind", "outcome")),
    Metric("gemot_rpc_request_seconds", "histogram", "Time of a request to the servers.", ("kind",)),
    Metric("gemot_rpc_connections", "gauge", "Open connections to and from servers."),
    Metric("gemot_raft_applied_index", "gauge", "Index of the last entry applied."),
    Metric("gemot_raft_commit_index", "gauge", "Index of the last entry known to be committed."),
    Metric("gemot_raft_last_log_index", "gauge", "Index of the last entry in the log."),
    Metric("gemot_raft_term", "gauge", "Raft term."),
    Metric("gemot_raft_is_leader", "gauge", "1 when this server leads, else 0."),
    Metric("gemot_raft_elections_total", "counter", "Elections this server started."),
    Metric("gemot_raft_leader_changes_total", "counter", "Changes of the leader that were seen."),
    Metric("gemot_raft_batch_entries", "histogram", "Entries in a group commit."),
    Metric("gemot_raft_sync_seconds", "histogram", "Time of a log fsync."),
    Metric("gemot_apply_seconds", "histogram", "Time to apply one batch."),
    Metric("gemot_state_bytes", "gauge", "Size of the state file."),
    Metric("gemot_log_bytes", "gauge", "Size of the Raft log on disk."),
    Metric("gemot_snapshots_total", "counter", "Snapshots taken, sent or installed.", ("what",)),
    Metric("gemot_watches", "gauge", "Reads and subscriptions that wait for a change."),
    Metric("gemot_watch_wakeups_total", "counter", "Waiters woken."),
    Metric("gemot_views", "gauge", "Local copies of watched state."),
    Metric("gemot_checks", "gauge", "Checks of this agent.", ("status",)),
    Metric("gemot_services", "gauge", "Services registered with this agent."),
    Metric("gemot_check_runs_total", "counter", "Check runs.", ("type", "status")),
    Metric("gemot_check_run_seconds", "histogram", "Time of a check run.", ("type",)),
    Metric("gemot_sync_total", "counter", "Changes sent to the catalog by this agent.", ("what", "outcome")),
    Metric("gemot_templates_rendered_total", "counter", "Template renderings.", ("outcome",)),
    Metric("gemot_loop_lag_seconds", "histogram", "How late the event loop ran a timer."),
    Metric("gemot_process_resident_bytes", "gauge", "Resident memory of this process."),
    Metric("gemot_process_open_files", "gauge", "Open file descriptors of this process."),
    Metric("gemot_process_cpu_seconds", "gauge", "CPU time of this process."),
    Metric("gemot_process_start_seconds", "gauge", "Wall time of the start of this process."),
)
"""Every metric there is. A name is for ever: dashboards stand on it."""


class _Interval:
    """What happened to one series: in the interval that runs, and in the last whole one."""

    __slots__ = ("count", "high", "last", "low", "slot", "squares", "total")

    def __init__(self) -> None:
        self.slot = 0
        self.last: tuple[int, float, float, float, float] = (0, 0.0, 0.0, 0.0, 0.0)
        self._clear()

    def _clear(self) -> None:
        self.count, self.total, self.squares, self.low, self.high = 0, 0.0, 0.0, math.inf, -math.inf

    def add(self, value: float, slot: int) -> None:
        if slot != self.slot:
            self.turn(slot)
        self.count += 1
        self.total += value
        self.squares += value * value
        self.low = min(self.low, value)
        self.high = max(self.high, value)

    def turn(self, slot: int) -> None:
        """Close the interval that ran, if `slot` is a later one."""
        if slot == self.slot:
            return
        fresh = self.count and slot == self.slot + 1
        self.last = (
            (self.count, self.total, self.squares, self.low, self.high) if fresh else (0, 0.0, 0.0, 0.0, 0.0)
        )
        self.slot = slot
        self._clear()


class _Series:
    __slots__ = ("add", "interval", "labels")

    def __init__(self, labels: tuple[str, ...], add: Callable[[float], None]) -> None:
        self.labels = labels
        self.add = add
        self.interval = _Interval()


class Metrics:
    """All figures of one process. Not a global: the daemon makes one and hands it to the parts."""

    def __init__(self, *, clock: Callable[[], float] = monotonic) -> None:
        self.registry = CollectorRegistry(auto_describe=False)
        self._clock = clock
        self._kinds = {metric.name: metric for metric in TABLE}
        self._made: dict[str, Counter | Histogram | Gauge] = {}
        self._series: dict[tuple[str, tuple[str, ...]], _Series] = {}
        self._gauges: dict[tuple[str, tuple[str, ...]], Callable[[], float]] = {}
        for metric in TABLE:
            self._made[metric.name] = self._make(metric)

    def _make(self, metric: Metric) -> Counter | Histogram | Gauge:
        if metric.kind == "counter":
            return Counter(metric.name, metric.help, metric.labels, registry=self.registry)
        if metric.kind == "gauge":
            # Registered by `gauge`: one that nobody supplies would show as a false 0.
            return Gauge(metric.name, metric.help, metric.labels, registry=None)
        buckets = (
            _SECONDS if metric.name.endswith("_seconds") else (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)
        )
        return Histogram(metric.name, metric.help, metric.labels, registry=self.registry, buckets=buckets)

    def count(self, name: str, labels: tuple[str, ...] = (), amount: float = 1) -> None:
        """Add to a counter. `labels` are values, in the table's order."""
        self._add(name, labels, amount)

    def observe(self, name: str, value: float, labels: tuple[str, ...] = ()) -> None:
        """Record one value of a histogram."""
        self._add(name, labels, value)

    def _add(self, name: str, labels: tuple[str, ...], value: float) -> None:
        series = self._series.get((name, labels))
        if series is None:
            series = self._open(name, labels)
        series.add(value)
        series.interval.add(value, int(self._clock() // INTERVAL_S))

    def _open(self, name: str, labels: tuple[str, ...]) -> _Series:
        made = self._made[name]
        child = made.labels(*labels) if self._kinds[name].labels else made
        assert isinstance(child, (Counter, Histogram)), f"{name} is a gauge"
        add: Callable[[float], None] = child.inc if isinstance(child, Counter) else child.observe
        series = self._series[(name, labels)] = _Series(labels, add)
        return series

    def gauge(self, name: str, read: Callable[[], float], labels: tuple[str, ...] = ()) -> None:
        """Have a gauge read by `read` whenever somebody looks. A later call takes the place of an earlier."""
        made = self._made[name]
        assert isinstance(made, Gauge), f"{name} is not a gauge"
        if not any(known == name for known, _ in self._gauges):
            self.registry.register(made)
        child = made.labels(*labels) if self._kinds[name].labels else made
        child.set_function(read)
        self._gauges[(name, labels)] = read

    def text(self) -> bytes:
        """The Prometheus text form."""
        return generate_latest(self.registry)

    def summary(self) -> dict[str, Any]:
        """Consul's JSON form. Gauges read now; the rest over the last whole interval."""
        slot = int(self._clock() // INTERVAL_S)
        counters: list[dict[str, Any]] = []
        samples: list[dict[str, Any]] = []
        for (name, labels), series in sorted(self._series.items()):
            series.interval.turn(slot)
            row = self._row(name, labels, series.interval.last)
            (counters if self._kinds[name].kind == "counter" else samples).append(row)
        gauges = [
            {"Name": name, "Value": float(read()), "Labels": self._labels(name, labels)}
            for (name, labels), read in sorted(self._gauges.items(), key=lambda item: item[0])
        ]
        start = datetime.fromtimestamp(time() // INTERVAL_S * INTERVAL_S, UTC)
        return {
            "Timestamp": f"{start:%Y-%m-%d %H:%M:%S} +0000 UTC",
            "Gauges": gauges,
            "Points": [],
            "Counters": counters,
            "Samples": samples,
        }

    def _row(
        self, name: str, labels: tuple[str, ...], last: tuple[int, float, float, float, float]
    ) -> dict[str, Any]:
        count, total, squares, low, high = last
        mean = total / count if count else 0.0
        spread = math.sqrt(max(0.0, (squares - total * mean) / (count - 1))) if count > 1 else 0.0
        return {
            "Name": name,
            "Count": count,
            "Rate": total / INTERVAL_S,
            "Sum": total,
            "Min": low,
            "Max": high,
            "Mean": mean,
            "Stddev": spread,
            "Labels": self._labels(name, labels),
        }

    def _labels(self, name: str, labels: tuple[str, ...]) -> Mapping[str, str]:
        return dict(zip(self._kinds[name].labels, labels, strict=True))


def watch_process(metrics: Metrics) -> None:
    """Have the figures of this process read: memory, files, processor time, start."""
    process = psutil.Process()
    started = process.create_time()
    metrics.gauge("gemot_process_resident_bytes", lambda: process.memory_info().rss)
    metrics.gauge("gemot_process_open_files", process.num_fds)
    metrics.gauge("gemot_process_cpu_seconds", lambda: sum(process.cpu_times()[:2]))
    metrics.gauge("gemot_process_start_seconds", lambda: started)
