"""The leader's chores: each in its time, one of a kind under way, none by a follower."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from support.change_rows import ends
from support.one_state import OneState
from support.virtual import VirtualTimer

from gemot.server.leader import (
    CLOCK_EVERY_MS,
    EXPIRY_EVERY_MS,
    LEASES_EVERY_MS,
    TOMBSTONE_KEEP_MS,
    TOMBSTONE_STEP_MS,
    Leader,
)
from gemot.server.model.catalog import Node, Register
from gemot.server.model.command import Command, IdempotencyKey
from gemot.server.model.kv import ExpireKeys, KvDelete, KvDeletePrefix, KvKeys, KvList, KvPurge, KvSet
from gemot.server.model.session import CreateSession, EndLeases, Session, Sessions
from gemot.server.model.txn import KvOp, Txn
from gemot.server.model.upkeep import ReapTombstones, Tick, TrimChanges
from gemot.server.state import changes
from gemot.server.state.changes import KEEP_INDEXES, STEP_INDEXES
from gemot.server.state.expiry import MOST_KEYS
from gemot.server.state.scope import STEP_BYTES


class Scene:
    """A leader's chores over a real state; a proposal is applied when the test says so."""

    def __init__(self, folder: Path) -> None:
        self.one = OneState(folder)
        self.timer = VirtualTimer()
        self.last_index = 0
        self.raft = self
        self.proposed: list[tuple[Command, Callable[[Any], None]]] = []
        self.began = 0
        self.compared = 0
        self.members_ticked = 0
        self.leader = Leader(
            replica=self,  # type: ignore[arg-type]
            state=self.one.state,
            membership=self,  # type: ignore[arg-type]
            timer=self.timer,
        )

    def propose(self, command: Command, accessor: str, retry: Any, done: Callable[[Any], None]) -> None:
        self.proposed.append((command, done))

    def cluster_time_ms(self) -> int:
        return self.timer.now_ms()

    def begin(self) -> None:
        self.began += 1

    def end(self) -> None: ...

    def compare_anew(self) -> None:
        self.compared += 1

    def on_tick(self) -> None:
        self.members_ticked += 1

    def pass_ms(self, ms: int, *, every_ms: int = 50) -> None:
        self.timer.pass_ms(ms, tick=self.leader.on_tick, every_ms=every_ms)

    def apply_all(self) -> None:
        proposed, self.proposed = self.proposed, []
        for command, done in proposed:
            (outcome,) = self.one.apply(command)
            done(outcome.result)

    def kinds(self) -> list[type]:
        return [type(command) for command, _ in self.proposed]


@pytest.fixture
def scene(tmp_path: Path) -> Iterator[Scene]:
    scene = Scene(tmp_path)
    yield scene
    scene.one.close()


def test_a_follower_has_no_chores(scene: Scene) -> None:
    scene.one.apply(KvSet(b"a", b""), KvDeletePrefix(b""))
    scene.pass_ms(10_000)
    assert scene.proposed == []
    assert scene.members_ticked == 0


def test_members_are_looked_at_once_the_state_has_all_that_was_committed(scene: Scene) -> None:
    scene.last_index = 3
    scene.leader.on_leadership(True)
    scene.pass_ms(500)
    assert (scene.began, scene.members_ticked) == (0, 0)
    scene.one.skip(3)
    scene.pass_ms(500)
    assert scene.began == 1
    assert scene.members_ticked > 0


def test_the_clock_of_the_log_ticks_only_while_something_waits_for_it(scene: Scene) -> None:
    scene.leader.on_leadership(True)
    scene.pass_ms(5 * CLOCK_EVERY_MS)
    assert scene.proposed == []
    scene.one.result(KvSet(b"a", b""), name=IdempotencyKey("key", b"hash"))
    scene.pass_ms(CLOCK_EVERY_MS)
    assert scene.kinds() == [Tick]


def test_of_each_kind_one_is_under_way(scene: Scene) -> None:
    scene.one.result(KvSet(b"a", b""), name=IdempotencyKey("key", b"hash"))
    scene.leader.on_leadership(True)
    scene.pass_ms(5 * CLOCK_EVERY_MS)
    assert scene.kinds() == [Tick]
    scene.apply_all()
    scene.pass_ms(CLOCK_EVERY_MS)
    assert scene.kinds() == [Tick]


def test_what_a_range_delete_hid_is_purged_to_the_end(scene: Scene) -> None:
    scene.one.apply(*(KvSet(b"k%d" % n, b"") for n in range(1_200)), KvDeletePrefix(b"k"))
    assert scene.one.value(KvList(b"")) == []
    scene.leader.on_leadership(True)
    rounds = 0
    while scene.one.state.purge_due():
        scene.pass_ms(100)
        assert scene.kinds() == [KvPurge]
        scene.apply_all()
        rounds += 1
        assert rounds < 10
    scene.pass_ms(1_000)
    assert scene.proposed == []


def test_tombstones_go_after_their_time_and_not_before(scene: Scene) -> None:
    scene.one.apply(KvSet(b"a", b""), KvDelete(b"a"))
    scene.leader.on_leadership(True)
    scene.pass_ms(TOMBSTONE_KEEP_MS, every_ms=1_000)
    assert scene.proposed == []
    scene.pass_ms(2 * TOMBSTONE_STEP_MS, every_ms=1_000)
    assert scene.kinds() == [ReapTombstones]
    scene.apply_all()
    assert scene.one.state.oldest_tombstone() == 0


def test_changes_go_when_there_are_many_and_the_newest_stay(scene: Scene) -> None:
    scene.one.apply(KvSet(b"a", b""))
    scene.leader.on_leadership(True)
    scene.one.skip(KEEP_INDEXES)
    scene.one.apply(KvSet(b"b", b""))
    scene.pass_ms(1_000)
    assert TrimChanges not in scene.kinds()
    scene.one.skip(STEP_INDEXES)
    scene.one.apply(KvSet(b"c", b""))
    scene.pass_ms(1_000)
    assert TrimChanges in scene.kinds()
    scene.apply_all()
    assert scene.one.state.changes.oldest == KEEP_INDEXES + 2, "what was told of b is still to be had"


def test_a_deposed_leader_stops_and_a_new_term_begins_afresh(scene: Scene) -> None:
    scene.one.result(KvSet(b"a", b""), name=IdempotencyKey("key", b"hash"))
    scene.leader.on_leadership(True)
    scene.pass_ms(CLOCK_EVERY_MS + 100)
    scene.leader.on_leadership(False)
    scene.pass_ms(10 * CLOCK_EVERY_MS)
    assert scene.kinds() == [Tick]
    scene.leader.on_leadership(True)
    scene.pass_ms(CLOCK_EVERY_MS + 100)
    assert scene.kinds() == [Tick, Tick], "one that was under way in another term holds nothing up"


def test_a_restore_lets_the_office_go_on_and_old_marks_reap_nothing(scene: Scene) -> None:
    """Members are compared anew and not begun anew; indexes noted before it say nothing of its tombstones."""
    scene.one.apply(KvSet(b"a", b""), KvDelete(b"a"))
    scene.leader.on_replaced()
    assert scene.compared == 0, "a follower compares nothing"
    scene.leader.on_leadership(True)
    scene.pass_ms(TOMBSTONE_KEEP_MS, every_ms=1_000)
    scene.leader.on_replaced()
    assert (scene.began, scene.compared) == (1, 1)
    scene.pass_ms(TOMBSTONE_KEEP_MS - TOMBSTONE_STEP_MS, every_ms=1_000)
    assert scene.proposed == []
    scene.pass_ms(3 * TOMBSTONE_STEP_MS, every_ms=1_000)
    assert scene.kinds() == [ReapTombstones]


def test_leases_that_are_over_end_together_and_what_is_not_due_is_left_alone(scene: Scene) -> None:
    scene.one.apply(Register(Node("web1", "10.0.0.1")))
    for id, ttl_ms in (("s1", 1_000), ("s2", 2_000), ("s3", 0)):
        scene.one.apply(CreateSession(Session(id, "web1", ttl_ms=ttl_ms)))
    scene.leader.on_leadership(True)
    ended: list[Command] = []
    for _ in range(4_000 // LEASES_EVERY_MS):
        scene.pass_ms(LEASES_EVERY_MS)
        ended += [command for command, _ in scene.proposed if isinstance(command, EndLeases)]
        scene.one.time_ms = scene.cluster_time_ms()
        scene.apply_all()
    assert ended == [EndLeases((("s1", 0),)), EndLeases((("s2", 0),))]
    assert [each.id for each in scene.one.value(Sessions())] == ["s3"]


def test_keys_that_are_over_are_deleted_together_and_counted(scene: Scene) -> None:
    scene.one.apply(
        KvSet(b"a", b"", ttl_ms=1_000),
        KvSet(b"b", b"", ttl_ms=1_000),
        KvSet(b"c", b"", ttl_ms=2_000),
        KvSet(b"d", b""),
    )
    a, b, c, _ = [entry.modify_index for entry in scene.one.value(KvList(b""))]
    scene.leader.on_leadership(True)
    expired: list[Command] = []
    for _ in range(4_000 // EXPIRY_EVERY_MS):
        scene.pass_ms(EXPIRY_EVERY_MS)
        expired += [command for command, _ in scene.proposed if isinstance(command, ExpireKeys)]
        scene.one.time_ms = scene.cluster_time_ms()
        scene.apply_all()
    assert expired == [ExpireKeys(((b"a", a), (b"b", b))), ExpireKeys(((b"c", c),))]
    assert scene.one.value(KvKeys(b"")) == [b"d"]
    assert scene.leader.expired == 3


def test_of_many_keys_that_are_over_at_once_each_tick_deletes_as_many_as_an_entry_may(scene: Scene) -> None:
    scene.one.apply(*(KvSet(b"%04d" % number, b"", ttl_ms=1_000) for number in range(3 * MOST_KEYS)))
    scene.leader.on_leadership(True)
    scene.pass_ms(2_000)
    scene.one.time_ms = scene.cluster_time_ms()
    scene.apply_all()
    for left in (2, 1, 0):
        assert len(scene.one.value(KvKeys(b""))) == left * MOST_KEYS
        scene.pass_ms(50, every_ms=50)
        scene.apply_all()


# -- long values -----------------------------------------------------------------------------------

LONG = b"x" * 300_000
AT_ONCE = STEP_BYTES // len(LONG) + 1
"""So many of them take as much as one entry of the upkeep is to."""


def test_of_long_values_a_purge_looks_at_few_and_all_go(scene: Scene) -> None:
    scene.one.apply(*(KvSet(b"k%02d" % n, LONG) for n in range(10)))
    scene.one.apply(*(KvSet(b"z%02d" % n, b"") for n in range(20)))
    scene.one.apply(*(KvDeletePrefix(b"k%02d" % n) for n in range(5)))
    scene.one.apply(Txn((KvOp("delete-tree", b"z"), KvOp("delete-tree", b"k"))))
    scene.leader.on_leadership(True)
    count = "select count(*) from kv"
    left = [10 + 20]
    while scene.one.state.purge_due():
        scene.pass_ms(50)
        assert scene.kinds() == [KvPurge]
        scene.apply_all()
        left.append(scene.one.file.cursor.execute(count).get)
    assert left[-1] == 0
    assert all(before - after <= AT_ONCE for before, after in pairwise(left[:-1]))
    assert left[-2] - left[-1] <= AT_ONCE + 20, "and the short ones together"
    assert len(left) < 8


def test_of_long_values_few_expire_in_one_entry_and_all_by_and_by(scene: Scene) -> None:
    scene.one.apply(*(KvSet(b"k%d" % n, LONG, ttl_ms=1_000) for n in range(9)))
    scene.leader.on_leadership(True)
    scene.pass_ms(2_000)
    scene.one.time_ms = scene.cluster_time_ms()
    expired: list[int] = []
    while scene.one.value(KvKeys(b"")):
        expired += [len(command.keys) for command, _ in scene.proposed if isinstance(command, ExpireKeys)]
        scene.apply_all()
        scene.pass_ms(50)
    assert expired == [AT_ONCE - 1] * 3


def test_of_sessions_that_hold_long_values_few_end_in_one_entry_and_the_next_at_once(scene: Scene) -> None:
    scene.one.apply(Register(Node("web1", "10.0.0.1")))
    for id in range(8):
        scene.one.apply(CreateSession(Session(f"s{id}", "web1", ttl_ms=1_000)))
        scene.one.apply(KvSet(b"k%d" % id, LONG, acquire=f"s{id}"))
    scene.leader.on_leadership(True)
    scene.pass_ms(2_000)
    scene.one.time_ms = scene.cluster_time_ms()
    ended: list[int] = []
    for _ in range(3):
        ended += [len(command.leases) for command, _ in scene.proposed if isinstance(command, EndLeases)]
        scene.apply_all()
        scene.pass_ms(50, every_ms=50)
    assert ended == [AT_ONCE - 1, AT_ONCE - 1, 2]
    assert scene.leader.timed_out == 8
    assert scene.one.value(Sessions()) == []


@pytest.mark.parametrize("bound", ["ROWS", "BYTES"])
def test_changes_are_bounded_in_rows_and_bytes_however_few_indexes(
    scene: Scene, bound: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What goes in one entry is bounded too; the newest are kept."""
    monkeypatch.setattr(changes, f"KEEP_{bound}", {"ROWS": 5, "BYTES": 5 * len(LONG)}[bound])
    monkeypatch.setattr(changes, f"STEP_{bound}", {"ROWS": 2, "BYTES": 2 * len(LONG)}[bound])
    scene.one.apply(*(KvSet(b"a", LONG[n:]) for n in range(20)))
    scene.leader.on_leadership(True)
    trims = 0
    for _ in range(20):
        scene.pass_ms(50)
        trims += TrimChanges in scene.kinds()
        scene.apply_all()
    assert trims > 3 if bound == "BYTES" else trims == 1
    oldest, newest = ends(scene.one)
    assert newest == 20
    assert 5 <= newest - oldest + 1 <= 6
    scene.one.apply(KvSet(b"b", b""))
    scene.pass_ms(1_000)
    assert scene.proposed == [], "a little more is no reason"


def test_one_entry_of_many_changes_goes_as_a_whole(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(changes, "KEEP_ROWS", 5)
    monkeypatch.setattr(changes, "STEP_ROWS", 1)
    ops = tuple(KvOp("set", b"k%d" % n, b"") for n in range(20))
    scene.one.apply(Txn(ops))
    scene.one.apply(KvSet(b"a", b""), KvSet(b"b", b""))
    scene.leader.on_leadership(True)
    scene.pass_ms(1_000)
    scene.apply_all()
    assert ends(scene.one) == (2, 3)
