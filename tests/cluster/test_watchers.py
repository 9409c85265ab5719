"""Push watchers through kills: some seconds of what `watchers.py` does at length; and that it sees faults."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import uvloop
from cluster.watchers import Watching
from support.cluster import Cluster
from support.push_watchers import PushWatcher, Told, faults


def test_watchers_that_lose_their_agents_and_leaders_are_told_each_change_once(tmp_path: Path) -> None:
    cluster = Cluster(tmp_path, servers=3, clients=1)
    try:
        cluster.start()
        run = Watching(cluster, watchers=40, seed=1, between_kills_s=2.0)
        found = uvloop.run(run.run(deliveries=2_000, seconds=600.0, kills=2))
    finally:
        cluster.stop()
    assert found == []
    assert run.deliveries >= 2_000
    assert run.kills >= 2
    assert sum(watcher.connections for watcher in run.watchers) > 0, "nobody had to go on elsewhere"


def three() -> list[PushWatcher]:
    """Each was told of 5, 6 and 9, from the beginning."""
    watchers = [PushWatcher("w/", lambda turn: "") for _ in range(3)]
    for watcher in watchers:
        watcher.began_at, watcher.place, watcher.snapshots = 0, "0-9", 1
        watcher.told = [Told(5, "a"), Told(6, "b"), Told(9, "c")]
    return watchers


def lost(of: PushWatcher) -> None:
    del of.told[1]


def doubled(of: PushWatcher) -> None:
    of.told.insert(1, of.told[1])


def turned_round(of: PushWatcher) -> None:
    of.told.reverse()


def in_parts(of: PushWatcher) -> None:
    of.told[1] = Told(6, "b, but not all of it")


def made_up(of: PushWatcher) -> None:
    of.told.append(Told(99, "z"))


def begun_anew(of: PushWatcher) -> None:
    of.snapshots = 2


@pytest.mark.parametrize("broken", [lost, doubled, turned_round, in_parts, made_up, begun_anew])
def test_the_comparison_sees_it(broken: Callable[[PushWatcher], None]) -> None:
    watchers = three()
    assert faults(watchers, [(5, "w/k"), (7, "other/k")]) == []
    broken(watchers[1])
    assert faults(watchers, [(5, "w/k")])


def test_the_comparison_sees_a_write_that_nobody_was_told_of() -> None:
    assert faults(three(), [(7, "w/k")])
    assert not faults(three(), [(10, "w/k")]), "nobody stands behind it yet"
