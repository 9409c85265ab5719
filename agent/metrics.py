"""The figures this agent keeps: every name in one table, shown through prometheus-client's registry.

Parts count, observe, or hand in a callable for a gauge; nobody else makes metric objects. Labels never
hold what a caller can make up. `Rate` to `Stddev` of the JSON form are over the last whole 10 seconds.

Counts are plain numbers here, given to the registry when it asks: each request adds to two of them, and a
client-library object takes twice as long for that. For one thread, as all that counts runs on the loop.
"""

from __future__ import annotations

import logging
import math
from bisect import bisect_left
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from itertools import accumulate
from time import monotonic, time
from typing import Any, Literal

import msgspec
import psutil
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.core import Metric as Family

log = logging.getLogger(__name__)

INTERVAL_S = 10.0
_SIZES = tuple(float(1 << power) for power in range(11))
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
    Metric("gemot_dns_names", "gauge", "Names that DNS keeps an answer of."),
    Metric("gemot_rpc_connections", "gauge", "Connections that others hold to this server."),
    Metric("gemot_raft_applied_index", "gauge", "Index of the last entry applied."),
    Metric("gemot_raft_commit_index", "gauge", "Index of the last entry known to be committed."),
    Metric("gemot_raft_last_log_index", "gauge", "Index of the last entry in the log."),
    Metric("gemot_raft_term", "gauge", "Raft term."),
    Metric("gemot_raft_is_leader", "gauge", "1 when this server leads, else 0."),
    Metric("gemot_raft_leader_changes_total", "counter", "Changes of the leader that were seen."),
    Metric("gemot_raft_log_syncs_total", "counter", "Syncs of the Raft log."),
    Metric("gemot_raft_log_sync_seconds_total", "counter", "Time spent in syncs of the Raft log."),
    Metric("gemot_raft_peers", "gauge", "Voters, as this server's log has them."),
    Metric("gemot_autopilot_healthy", "gauge", "On the leader: 1 when every server is healthy, else 0."),
    Metric("gemot_autopilot_failure_tolerance", "gauge", "On the leader: healthy voters that may fail."),
    Metric(
        "gemot_raft_log_stalls_total", "counter", "Times the log's disk stood still for an election timeout."
    ),
    Metric("gemot_disk_free_bytes", "gauge", "Bytes free on the disk of this server's data directory."),
    Metric("gemot_disk_reserve_bytes", "gauge", "Bytes of it kept for deletes, leaves and repair."),
    Metric(
        "gemot_writes_refused_no_space_total", "counter", "Writes refused before the reserve was touched."
    ),
    Metric("gemot_scrub_bytes_total", "counter", "Bytes read to find damage in what lies still on the disk."),
    Metric("gemot_scrub_passes_total", "counter", "Times all of it was read."),
    Metric("gemot_scrub_damage_total", "counter", "Damage found so.", ("part",)),
    Metric(
        "gemot_mass_failure_suspects",
        "gauge",
        "On the leader: unreachable hosts that are kept in service because many are at once.",
    ),
    Metric("gemot_kv_history_bytes", "gauge", "What the old revisions of keys take in the state."),
    Metric("gemot_kv_history_since_index", "gauge", "The index from which on the history of keys is kept."),
    Metric("gemot_epoch", "gauge", "Restores that the state went through, or the epoch given to the last."),
    Metric("gemot_snapshots_saved_total", "counter", "Snapshots that this server gave out."),
    Metric(
        "gemot_snapshots_restored_total", "counter", "Snapshots that this server put in place of its state."
    ),
    Metric("gemot_snapshot_agent_taken_total", "counter", "Snapshots that the snapshot agent took here."),
    Metric(
        "gemot_snapshot_agent_failures_total", "counter", "Snapshots that the snapshot agent failed to take."
    ),
    Metric(
        "gemot_snapshot_agent_last_seconds", "gauge", "Wall time of the last one that it took here, else 0."
    ),
    Metric("gemot_servers", "gauge", "Servers that this agent knows of."),
    Metric("gemot_cluster_reachable", "gauge", "1 when nothing keeps this agent from the servers, else 0."),
    Metric("gemot_members", "gauge", "Agents as this one holds them, by gossip.", ("status",)),
    Metric("gemot_gossip_awareness", "gauge", "How slow this agent takes itself to be: 0 well, 7 most."),
    Metric("gemot_gossip_dropped_total", "counter", "Gossip that was not taken.", ("why",)),
    Metric("gemot_members_remembered", "gauge", "Agents that are found again after a restart."),
    Metric("gemot_members_keep_failures_total", "counter", "Times their file could not be written."),
    Metric("gemot_watch_feeds", "gauge", "Things that push watches follow on this agent."),
    Metric("gemot_watch_followers", "gauge", "Push watches open on this agent."),
    Metric("gemot_watch_held_bytes", "gauge", "What push watches hold in memory, of the 256 MiB they may."),
    Metric("gemot_watch_changes_total", "counter", "Changes told to push watches, each counted once."),
    Metric("gemot_events_fired_total", "counter", "User events fired on this agent."),
    Metric("gemot_events_heard_total", "counter", "User events that were new here, meant for it or not."),
    Metric("gemot_events_dropped_total", "counter", "User events that were malformed, too many or too old."),
    Metric("gemot_coordinate_error", "gauge", "How wrong this agent takes its distances to be, relatively."),
    Metric("gemot_coordinates_dropped_total", "counter", "Coordinates of others that were none."),
    Metric("gemot_watches", "gauge", "Reads and subscriptions that wait for a change."),
    Metric("gemot_sessions", "gauge", "Sessions in the state of this server."),
    Metric("gemot_locks", "gauge", "Keys that sessions hold."),
    Metric("gemot_sessions_timed_out_total", "counter", "Sessions whose TTL ended while this server led."),
    Metric("gemot_keys_expired_total", "counter", "Keys whose TTL ended while this server led."),
    Metric("gemot_watch_wakeups_total", "counter", "Groups of equal waiters woken."),
    Metric("gemot_views", "gauge", "Local copies of watched state."),
    Metric("gemot_checks", "gauge", "Checks of this agent.", ("status",)),
    Metric("gemot_services", "gauge", "Services registered with this agent."),
    Metric("gemot_sync_rounds_total", "counter", "Rounds of telling the catalog.", ("kind", "outcome")),
    Metric("gemot_templates", "gauge", "Templates of this agent.", ("state",)),
    Metric("gemot_template_writes_total", "counter", "Files that templates wrote."),
    Metric("gemot_template_failures_total", "counter", "Renderings of templates that failed."),
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
        if value < self.low:
            self.low = value
        if value > self.high:
            self.high = value

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
    """One set of labels of a counter or histogram; `buckets` is empty for a counter."""

    __slots__ = ("bounds", "buckets", "interval", "total")

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self.total = 0.0
        self.bounds = bounds
        self.buckets = [0] * (len(bounds) + 1) if bounds else []
        self.interval = _Interval()


class Metrics:
    """All figures of one process. Not a global: the daemon makes one and hands it to the parts."""

    def __init__(self, *, clock: Callable[[], float] = monotonic) -> None:
        self.registry = CollectorRegistry(auto_describe=False)
        self._clock = clock
        self._table = {metric.name: metric for metric in TABLE}
        self._series: dict[tuple[str, tuple[str, ...]], _Series] = {}
        self._gauges: dict[tuple[str, tuple[str, ...]], Callable[[], float]] = {}
        for metric in TABLE:
            if not metric.labels and metric.kind != "gauge":
                self._open(metric.name, ())
        self.registry.register(self)

    def count(self, name: str, labels: tuple[str, ...] = (), amount: float = 1) -> None:
        """Add to a counter; an amount of 0 has it shown. `labels` are values, in the table's order."""
        series = self._series.get((name, labels)) or self._open(name, labels)
        if amount:
            series.total += amount
            series.interval.add(amount, int(self._clock() // INTERVAL_S))

    def observe(self, name: str, value: float, labels: tuple[str, ...] = ()) -> None:
        """Record one value of a histogram."""
        series = self._series.get((name, labels)) or self._open(name, labels)
        series.total += value
        series.buckets[bisect_left(series.bounds, value)] += 1
        series.interval.add(value, int(self._clock() // INTERVAL_S))

    def _open(self, name: str, labels: tuple[str, ...]) -> _Series:
        metric = self._table[name]
        assert len(labels) == len(metric.labels), f"{name} has the labels {metric.labels}"
        assert metric.kind != "gauge", f"{name} is a gauge"
        bounds: tuple[float, ...] = ()
        if metric.kind == "histogram":
            bounds = _SECONDS if name.endswith("_seconds") else _SIZES
        series = self._series[(name, labels)] = _Series(bounds)
        return series

    def gauge(self, name: str, read: Callable[[], float], labels: tuple[str, ...] = ()) -> None:
        """Have a gauge read by `read` whenever somebody looks. A later call takes the place of an earlier.

        One that nobody hands in is not shown: it would be a false 0.
        """
        metric = self._table[name]
        assert metric.kind == "gauge", f"{name} is not a gauge"
        assert len(labels) == len(metric.labels), f"{name} has the labels {metric.labels}"
        self._gauges[(name, labels)] = read

    def collect(self) -> Iterator[Family]:
        """What prometheus-client asks of a collector: each metric with all its label sets."""
        for metric in TABLE:
            if metric.kind == "gauge":
                shown = [(key, read) for key, read in self._gauges.items() if key[0] == metric.name]
                if shown:
                    gauge = GaugeMetricFamily(metric.name, metric.help, labels=metric.labels)
                    for (_, labels), read in shown:
                        gauge.add_metric(labels, _read(read))
                    yield gauge
            else:
                yield self._family(metric)

    def _family(self, metric: Metric) -> Family:
        found = [(labels, series) for (name, labels), series in self._series.items() if name == metric.name]
        if metric.kind == "counter":
            counter = CounterMetricFamily(metric.name, metric.help, labels=metric.labels)
            for labels, series in found:
                counter.add_metric(labels, series.total)
            return counter
        histogram = HistogramMetricFamily(metric.name, metric.help, labels=metric.labels)
        for labels, series in found:
            sums = list(accumulate(series.buckets))
            bounds = (*(str(bound) for bound in series.bounds), "+Inf")
            histogram.add_metric(labels, list(zip(bounds, sums, strict=True)), series.total)
        return histogram

    def text(self) -> bytes:
        """The Prometheus text form."""
        return generate_latest(self.registry)

    def summary(self) -> dict[str, Any]:
        """Consul's JSON form: gauges read now, the rest over the last whole interval if there was any."""
        slot = int(self._clock() // INTERVAL_S)
        counters: list[dict[str, Any]] = []
        samples: list[dict[str, Any]] = []
        for (name, labels), series in sorted(self._series.items()):
            series.interval.turn(slot)
            if not series.interval.last[0]:
                continue
            row = self._row(name, labels, series.interval.last)
            (counters if self._table[name].kind == "counter" else samples).append(row)
        gauges = [
            {"Name": name, "Value": _read(read), "Labels": self._labels(name, labels)}
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
        return dict(zip(self._table[name].labels, labels, strict=True))


def _read(read: Callable[[], float]) -> float:
    """A gauge's value; not a number when its part cannot tell, which must not hide all the others."""
    try:
        return float(read())
    except Exception:
        log.exception("A gauge cannot be read")
        return math.nan


def watch_process(metrics: Metrics) -> None:
    """Have the figures of this process read: memory, files, processor time, start."""
    process = psutil.Process()
    started = process.create_time()
    metrics.gauge("gemot_process_resident_bytes", lambda: process.memory_info().rss)
    metrics.gauge("gemot_process_open_files", process.num_fds)
    metrics.gauge("gemot_process_cpu_seconds", lambda: sum(process.cpu_times()[:2]))
    metrics.gauge("gemot_process_start_seconds", lambda: started)
