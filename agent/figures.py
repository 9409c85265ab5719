"""What feeds the metrics: each part's own figures, read when somebody looks, or counted on as they grow.

The parts know nothing of metrics: they keep plain numbers. Gauges are read from them at the time of asking;
counters and the lag of the event loop are brought up to date by a tick of our own.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Protocol

from gemot.agent.gossip.message import Status as MemberStatus
from gemot.agent.metrics import Metrics, watch_process
from gemot.agent.why import TemplateStatus, template_state
from gemot.checks.status import Status
from gemot.server.model.coordinate import Coordinate
from gemot.server.runtime.node import Node
from gemot.server.runtime.timer import Ticker
from gemot.server.storage.scrub import PARTS

TICK_MS = 100
"""Short enough that the lag seen is what callers feel, and that no leader comes and goes unseen."""

_STATUSES: tuple[Status, ...] = ("passing", "warning", "critical")
_STATES = ("up to date", "waiting", "failed", "command owed")


class Sized(Protocol):
    def __len__(self) -> int: ...


class Local(Protocol):
    def counts(self) -> dict[str, int]: ...

    def count_checks(self, status: Status) -> int: ...


class Rounds(Protocol):
    @property
    def rounds(self) -> Mapping[tuple[str, str], int]: ...


class Templates(Protocol):
    @property
    def writes(self) -> int: ...

    @property
    def failures(self) -> int: ...

    def status(self) -> Sequence[TemplateStatus]: ...


class Events(Protocol):
    @property
    def fired(self) -> int: ...

    @property
    def heard(self) -> int: ...

    @property
    def dropped(self) -> int: ...


class Feeds(Protocol):
    def __len__(self) -> int: ...

    @property
    def followers(self) -> int: ...

    @property
    def held(self) -> int: ...

    @property
    def told(self) -> int: ...


class Whereabouts(Protocol):
    @property
    def coordinate(self) -> Coordinate: ...

    @property
    def dropped(self) -> int: ...


class Snapshots(Protocol):
    @property
    def taken(self) -> int: ...

    @property
    def failures(self) -> int: ...

    @property
    def last_s(self) -> float: ...


class Memory(Protocol):
    @property
    def size(self) -> int: ...

    @property
    def failures(self) -> int: ...


class Rejoin(Protocol):
    @property
    def memory(self) -> Memory: ...


class Tier(Protocol):
    @property
    def known_servers(self) -> int: ...

    @property
    def rejoin(self) -> Rejoin | None: ...

    def waiting_for(self) -> str: ...


class Lan(Protocol):
    DROPS: tuple[str, ...]

    def count(self, status: MemberStatus) -> int: ...

    @property
    def awareness(self) -> int: ...

    def dropped(self, why: str) -> int: ...


class Figures:
    """Feeds `metrics` from `start` to `stop`. Parts are handed in as they come to be."""

    def __init__(self, *, metrics: Metrics, loop: asyncio.AbstractEventLoop) -> None:
        self._metrics = metrics
        self._counted: list[Callable[[], None]] = []
        self._lag = Ticker(loop=loop, every_ms=TICK_MS, callback=self._tick)
        watch_process(metrics)

    def start(self) -> None:
        self._lag.start()

    def stop(self) -> None:
        self._lag.stop()

    def watch_tier(self, tier: Tier) -> None:
        self._metrics.gauge("gemot_servers", lambda: tier.known_servers)
        self._metrics.gauge("gemot_cluster_reachable", lambda: not tier.waiting_for())
        if tier.rejoin is not None:
            memory = tier.rejoin.memory
            self._metrics.gauge("gemot_members_remembered", lambda: memory.size)
            self._follow("gemot_members_keep_failures_total", lambda: memory.failures)

    def watch_lan(self, lan: Lan) -> None:
        for status in MemberStatus:
            self._metrics.gauge("gemot_members", partial(lan.count, status), (status.name.lower(),))
        self._metrics.gauge("gemot_gossip_awareness", lambda: lan.awareness)
        for why in lan.DROPS:
            self._follow("gemot_gossip_dropped_total", partial(lan.dropped, why), (why,))

    def watch_server(self, node: Node) -> None:
        """The figures that a server has beyond those of every agent."""
        server, gauge = node.server, self._metrics.gauge
        raft = server.replica.raft
        gauge("gemot_rpc_connections", lambda: node.connections)
        gauge("gemot_raft_applied_index", lambda: server.replica.applied_index)
        gauge("gemot_raft_commit_index", lambda: raft.commit)
        gauge("gemot_raft_last_log_index", lambda: raft.last_index)
        gauge("gemot_raft_term", lambda: raft.term)
        gauge("gemot_raft_is_leader", lambda: server.leads)
        gauge("gemot_raft_peers", lambda: len(raft.voters))
        gauge("gemot_autopilot_healthy", lambda: server.operator.autopilot.healthy)
        gauge("gemot_autopilot_failure_tolerance", lambda: server.operator.autopilot.tolerance)
        gauge("gemot_mass_failure_suspects", lambda: server.membership.guard.held)
        gauge("gemot_sessions", lambda: server.state.count("session"))
        gauge("gemot_locks", lambda: server.state.count("held"))
        self._follow("gemot_sessions_timed_out_total", lambda: server.leader.timed_out)
        self._follow("gemot_keys_expired_total", lambda: server.leader.expired)
        gauge("gemot_watches", lambda: server.reads.waiting)
        self._follow("gemot_watch_wakeups_total", lambda: server.reads.woken)
        self._follow("gemot_raft_log_syncs_total", lambda: node.sync_s[1])
        self._follow("gemot_raft_log_sync_seconds_total", lambda: node.sync_s[0])
        gauge("gemot_disk_free_bytes", lambda: server.space.own.free)
        gauge("gemot_disk_reserve_bytes", lambda: server.space.own.reserve)
        self._follow("gemot_writes_refused_no_space_total", lambda: server.space.refused)
        scrubber = node.scrubber
        self._follow("gemot_scrub_bytes_total", lambda: scrubber.read)
        self._follow("gemot_scrub_passes_total", lambda: scrubber.passes)
        for part in PARTS:
            self._follow("gemot_scrub_damage_total", partial(scrubber.damage.__getitem__, part), (part,))
        self._follow("gemot_raft_log_stalls_total", lambda: raft.stalls)
        gauge("gemot_kv_history_bytes", lambda: server.state.history[2])
        gauge("gemot_kv_history_since_index", lambda: server.state.history[1])
        gauge("gemot_epoch", lambda: server.state.epoch)
        if (saving := server.keeping.saving) is not None:
            self._follow("gemot_snapshots_saved_total", lambda: saving.saved)
        if (restoring := server.keeping.restoring) is not None:
            self._follow("gemot_snapshots_restored_total", lambda: restoring.restored)
        self._count_leaders(lambda: (raft.term, server.leader_id()))

    def watch_agent(self, *, views: Sized, names: Sized, local: Local, sync: Rounds) -> None:
        gauge = self._metrics.gauge
        gauge("gemot_views", lambda: len(views))
        gauge("gemot_dns_names", lambda: len(names))
        gauge("gemot_services", lambda: local.counts()["services"])
        for status in _STATUSES:
            gauge("gemot_checks", partial(local.count_checks, status), (status,))
        for kind in ("full", "changes"):
            for outcome in ("ok", "failed"):
                labels = (kind, outcome)
                self._follow("gemot_sync_rounds_total", partial(_rounds, sync, labels), labels)

    def watch_templates(self, templates: Templates) -> None:
        for state in _STATES:
            label = (state.replace(" ", "_"),)
            self._metrics.gauge("gemot_templates", partial(_in_state, templates, state), label)
        self._follow("gemot_template_writes_total", lambda: templates.writes)
        self._follow("gemot_template_failures_total", lambda: templates.failures)

    def watch_events(self, events: Events) -> None:
        self._follow("gemot_events_fired_total", lambda: events.fired)
        self._follow("gemot_events_heard_total", lambda: events.heard)
        self._follow("gemot_events_dropped_total", lambda: events.dropped)

    def watch_feeds(self, feeds: Feeds) -> None:
        self._metrics.gauge("gemot_watch_feeds", lambda: len(feeds))
        self._metrics.gauge("gemot_watch_followers", lambda: feeds.followers)
        self._metrics.gauge("gemot_watch_held_bytes", lambda: feeds.held)
        self._follow("gemot_watch_changes_total", lambda: feeds.told)

    def watch_whereabouts(self, whereabouts: Whereabouts) -> None:
        self._metrics.gauge("gemot_coordinate_error", lambda: whereabouts.coordinate.error)
        self._follow("gemot_coordinates_dropped_total", lambda: whereabouts.dropped)

    def watch_snapshots(self, snapshots: Snapshots | None) -> None:
        """None where no snapshot agent runs: then it took none."""
        self._metrics.gauge("gemot_snapshot_agent_last_seconds", lambda: snapshots.last_s if snapshots else 0)
        if snapshots is not None:
            self._follow("gemot_snapshot_agent_taken_total", lambda: snapshots.taken)
            self._follow("gemot_snapshot_agent_failures_total", lambda: snapshots.failures)

    def watch_http(self, connections: Callable[[], int]) -> None:
        self._metrics.gauge("gemot_http_connections", connections)

    # -- counting on -------------------------------------------------------------------------------

    def _tick(self) -> None:
        self._metrics.observe("gemot_loop_lag_seconds", self._lag.lag_s)
        for count in self._counted:
            count()

    def _follow(self, name: str, read: Callable[[], float], labels: tuple[str, ...] = ()) -> None:
        """Keep a counter at what `read` gives. A part that starts anew (a reload) goes on from there."""
        seen = 0.0

        def count() -> None:
            nonlocal seen
            now = read()
            if now != seen:
                self._metrics.count(name, labels, now - seen if now > seen else now)
                seen = now

        self._metrics.count(name, labels, 0)
        self._counted.append(count)

    def _count_leaders(self, read: Callable[[], tuple[int, str]]) -> None:
        """Count each (term, leader) that is not the one before."""
        seen: tuple[int, str] = (0, "")

        def count() -> None:
            nonlocal seen
            now = read()
            if now[1] and now != seen:
                self._metrics.count("gemot_raft_leader_changes_total")
                seen = now

        self._counted.append(count)


def _rounds(sync: Rounds, labels: tuple[str, str]) -> int:
    return sync.rounds.get(labels, 0)


def _in_state(templates: Templates, state: str) -> int:
    return sum(template_state(one)[0] == state for one in templates.status())
