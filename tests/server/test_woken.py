"""Many groups that one write wakes are looked at in slices, with every promise of a read kept."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.reads_scene import Scene

from gemot.server.looks import SLICE_US
from gemot.server.model.changes import KvChanges
from gemot.server.model.errors import NoLeader
from gemot.server.model.kv import KvGet, KvList, KvSet
from gemot.server.model.query import Options

GROUPS = 10
KEY = b"k" * GROUPS
QUERIES = [KvList(KEY[:length]) for length in range(1, GROUPS + 1)]


@pytest.fixture
def scene(tmp_path: Path) -> Iterator[Scene]:
    """One look takes a slice: there is one in each turn of the loop."""
    scene = Scene(tmp_path)
    scene.set(b"old", KEY)
    scene.timer.each_look_us = SLICE_US
    yield scene
    scene.one.close()


def all_ask(scene: Scene, **options: Any) -> list[list[Any]]:
    index = scene.one.index
    return [scene.ask(query, index=index, consistency="stale", **options) for query in QUERIES]


def told(readers: list[list[Any]]) -> int:
    return sum(map(len, readers))


def values(readers: list[list[Any]]) -> list[tuple[int, bytes]]:
    """Of the one answer that each was told: its index, and the value of the key."""
    return [(answer.index, answer.value[0].value) for (answer,) in readers]


# -- slices ----------------------------------------------------------------------------------------


def test_many_that_wake_together_are_looked_at_in_slices(scene: Scene) -> None:
    readers = all_ask(scene)
    looks = scene.state.looks
    index = scene.set(b"new", KEY)
    assert (scene.state.looks - looks, told(readers)) == (1, 1)
    heartbeats: list[int] = []
    for turn in range(2, GROUPS + 1):
        scene.timer.call_soon(lambda: heartbeats.append(1))
        scene.timer.run_once()
        assert (scene.state.looks - looks, told(readers), len(heartbeats)) == (turn, turn, turn - 1)
    scene.timer.run()
    assert values(readers) == [(index, b"new")] * GROUPS
    assert (scene.state.looks - looks, scene.reads.waiting, scene.timer.timers) == (GROUPS, 0, 0)


@pytest.mark.parametrize("consistency", ["stale", "default"])
def test_many_that_time_out_together_are_looked_at_in_slices(scene: Scene, consistency: str) -> None:
    """As those do that began together. Looked at in one go they cost the leader its place."""
    index = scene.one.index
    readers = [scene.ask(query, index=index, consistency=consistency, wait_ms=1_000) for query in QUERIES]
    looks = scene.state.looks
    scene.timer.be_late(1_000)
    assert scene.state.looks == looks
    for _ in range(5 * GROUPS):
        before = scene.state.looks
        scene.timer.run_once()
        assert scene.state.looks - before <= 1
    assert scene.state.looks - looks == GROUPS
    assert values(readers) == [(index, b"old")] * GROUPS


def test_many_that_one_answer_of_the_leader_confirms_are_looked_at_in_slices(scene: Scene) -> None:
    readers: list[list[Any]] = [[] for _ in QUERIES]
    for query, reader in zip(QUERIES, readers, strict=True):
        scene.reads.query(query, Options(), "", reader.append)
    looks, asks = scene.state.looks, scene.asks
    scene.timer.run_once()
    scene.timer.run_once()
    assert (scene.asks - asks, scene.state.looks - looks, told(readers)) == (1, 1, 1)
    scene.set(b"new", KEY)
    scene.timer.run()
    assert [answer.value[0].value for (answer,) in readers] == [b"old"] + [b"new"] * (GROUPS - 1)


def test_who_is_cancelled_once_it_timed_out_costs_no_look(scene: Scene) -> None:
    reader = scene.ask(KvGet(KEY), index=scene.one.index, consistency="stale", wait_ms=1_000)
    looks = scene.state.looks
    scene.timer.be_late(1_000)
    scene.cancel()
    scene.timer.run()
    assert (reader, scene.state.looks - looks) == ([], 0)


def test_short_looks_share_a_slice(scene: Scene) -> None:
    scene.timer.each_look_us = SLICE_US // 4
    readers = all_ask(scene)
    scene.set(b"new", KEY)
    assert told(readers) == 4
    scene.timer.run()
    assert told(readers) == GROUPS


def test_one_that_wakes_alone_is_told_at_once_and_not_timed(scene: Scene) -> None:
    began_us = scene.timer.stopwatch
    reader = scene.ask(KvGet(KEY), index=scene.one.index)
    scene.set(b"new", KEY)
    assert len(reader) == 1
    assert scene.timer.stopwatch == began_us


def test_who_is_due_and_touched_again_is_looked_at_once_and_told_the_newest(scene: Scene) -> None:
    index = scene.one.index
    followers = [scene.subscribe(query, from_index=index) for query in QUERIES]
    looks = scene.state.looks
    first = scene.set(b"1", KEY)
    for number in range(2, 6):
        last = scene.set(b"%d" % number, KEY)
    scene.timer.run()
    assert scene.state.looks - looks == GROUPS + 1, "the one that had had its look has another"
    assert [answer.index for answer in followers[0]] == [first, last]
    assert values(followers[1:]) == [(last, b"5")] * (GROUPS - 1)


def test_in_every_slice_all_are_told_what_was_there(scene: Scene) -> None:
    """Writes and slices as they come: nothing is missed, repeated, or told out of order."""
    history = {scene.one.index: b"old"}
    followers = [scene.subscribe(query, from_index=scene.one.index) for query in QUERIES]
    for number in range(50):
        value = b"%d" % number
        history[scene.set(value, KEY)] = value
        for _ in range(number % 4):
            scene.timer.run_once()
    scene.timer.run()
    for follower in followers:
        indexes = [answer.index for answer in follower]
        assert indexes == sorted(set(indexes))
        assert indexes[-1] == scene.one.index
        assert [history[index] for index in indexes] == [answer.value[0].value for answer in follower]


# -- who comes and goes meanwhile ------------------------------------------------------------------


def test_who_is_cancelled_before_its_look_is_told_nothing_and_costs_none(scene: Scene) -> None:
    readers = all_ask(scene)
    looks = scene.state.looks
    scene.set(b"new", KEY)
    scene.cancel()
    scene.timer.run()
    assert (told(readers), readers[-1]) == (GROUPS - 1, [])
    assert (scene.state.looks - looks, scene.reads.waiting) == (GROUPS - 1, 0)


def _later_than_a_look(scene: Scene, **options: Any) -> list[Any]:
    """Asks as the last of the groups does, while that is due a look."""
    answers: list[Any] = []
    scene.reads.query(QUERIES[-1], Options(consistency="stale", **options), "", answers.append)
    return answers


def test_who_joins_a_group_that_is_due_looks_for_itself(scene: Scene) -> None:
    seen = scene.one.index
    readers = all_ask(scene)
    index = scene.set(b"new", KEY)
    behind, plain = _later_than_a_look(scene, index=seen), _later_than_a_look(scene)
    waits = _later_than_a_look(scene, index=index)
    assert values([behind, plain]) == [(index, b"new")] * 2
    scene.timer.run()
    assert (values(readers), waits) == ([(index, b"new")] * GROUPS, [])
    index = scene.set(b"newer", KEY)
    assert values([waits]) == [(index, b"newer")]


def test_a_subscription_that_joins_is_told_once(scene: Scene) -> None:
    all_ask(scene)
    index = scene.set(b"new", KEY)
    follower = scene.subscribe(QUERIES[-1])
    scene.timer.run()
    assert values([follower]) == [(index, b"new")]


def test_a_bookmark_does_not_come_before_a_look_that_is_due(scene: Scene) -> None:
    index = scene.one.index
    followers = [scene.subscribe(query, from_index=index) for query in QUERIES]
    scene.set(b"new", KEY)
    scene.reads.bookmark("all told")
    assert [follower[-1:] == ["all told"] for follower in followers] == [True] + [False] * (GROUPS - 1)
    scene.timer.run()
    scene.reads.bookmark("all told")
    assert all(follower[-1] == "all told" for follower in followers)


# -- time-outs -------------------------------------------------------------------------------------


def test_who_times_out_before_its_look_is_told_what_is_there(scene: Scene) -> None:
    readers = all_ask(scene, wait_ms=1_000)
    index = scene.set(b"new", KEY)
    scene.timer.be_late(2_000)
    scene.timer.run()
    assert values(readers) == [(index, b"new")] * GROUPS
    assert scene.reads.waiting == 0


@pytest.mark.parametrize("then", ["a time-out", "a time-out while the state is replaced", "its look"])
def test_changes_are_looked_through_from_the_first_that_woke(scene: Scene, then: str) -> None:
    """What came while it was due does not move the index up to which all was of others."""
    after = scene.one.index
    all_ask(scene)
    reader = scene.ask(KvChanges(KEY, True, after), index=after, consistency="stale", wait_ms=1_000)
    first = scene.set(b"1", KEY)
    scene.set(key=b"other")
    last = scene.set(b"2", KEY)
    through = scene.set(key=b"other")
    assert reader == []
    if then == "a time-out while the state is replaced":
        scene.reads.hold()
        scene.timer.run()
    if then != "its look":
        scene.timer.be_late(2_000)
    if then == "a time-out while the state is replaced":
        scene.reads.on_replaced()
    scene.timer.run()
    (answer,) = reader
    assert [change.index for change in answer.value.changes] == [first, last]
    assert answer.value.through == through
    assert KvChanges(KEY, True, first - 1) in scene.state.queries, "all before was of others"


def test_without_a_leader_who_is_due_is_told_so_and_who_times_out_nothing_else(scene: Scene) -> None:
    readers = all_ask(scene, wait_ms=10_000)
    asked = scene.one.index
    late: list[Any] = []
    scene.reads.query(QUERIES[-1], Options(index=asked, wait_ms=1_000), "else", late.append)
    scene.timer.run()
    index = scene.set(b"new", KEY)
    scene.leaderless = True
    scene.timer.be_late(1_000)
    scene.timer.run()
    assert values(readers) == [(index, b"new")] * GROUPS
    assert [answer.known_leader for (answer,) in readers] == [True] + [False] * (GROUPS - 1)
    assert late == []
    scene.pass_ms(7_100)
    assert [type(each) for each in late] == [NoLeader]


# -- while the state is replaced -------------------------------------------------------------------


def test_who_is_due_when_the_state_is_replaced_is_told_of_the_new_one(scene: Scene) -> None:
    readers = all_ask(scene)
    first = scene.set(b"before", KEY)
    scene.reads.hold()
    looks = scene.state.looks
    scene.timer.run()
    assert (scene.state.looks, told(readers)) == (looks, 1)
    index = scene.one.apply(KvSet(KEY, b"from a snapshot"))[0].index
    scene.reads.on_replaced()
    assert scene.state.looks <= looks + 2, "in slices, too"
    scene.timer.run()
    assert values(readers) == [(first, b"before")] + [(index, b"from a snapshot")] * (GROUPS - 1)
    assert scene.state.looks == looks + GROUPS - 1
    assert scene.reads.waiting == 0


def test_changes_are_looked_through_anew_when_the_state_was_replaced(scene: Scene) -> None:
    after = scene.one.index
    all_ask(scene)
    scene.set(key=b"other")
    scene.ask(KvChanges(KEY, True, after), index=after, consistency="stale")
    scene.set(b"new", KEY)
    scene.reads.hold()
    scene.reads.on_replaced()
    scene.timer.run()
    assert scene.state.queries[-1] == KvChanges(KEY, True, after)


def test_reads_that_came_while_the_state_was_replaced_are_asked_in_slices(scene: Scene) -> None:
    scene.reads.hold()
    readers = [scene.ask(query, consistency="stale") for query in QUERIES]
    cancel = scene.cancel
    scene.reads.on_replaced()
    assert told(readers) == 1
    cancel()
    scene.timer.run_once()
    assert told(readers) == 2
    scene.reads.hold()
    scene.timer.run()
    assert told(readers) == 2
    scene.reads.on_replaced()
    scene.timer.run()
    assert (told(readers), readers[-1]) == (GROUPS - 1, [])


# -- lists that are too long for the loop ------------------------------------------------------------


def test_a_long_list_that_is_due_is_read_for_what_touched_it_meanwhile(scene: Scene) -> None:
    scene.write(*(KvSet(b"k%d" % number, b"") for number in range(3)))
    scene.timer.run()
    long = KvList(b"k")
    index = scene.one.index
    follower = scene.subscribe(long, from_index=index)
    scene.read_long()
    others = [scene.subscribe(query, from_index=index) for query in QUERIES[1:]]
    scene.set(b"1", KEY)
    scene.begin_read()
    last = scene.set(b"2", KEY)
    scene.reads.bookmark("all told")
    scene.timer.run()
    scene.tell_read()
    while scene.submitted:
        scene.read_long()
    assert "all told" not in follower
    indexes = [answer.index for answer in follower]
    assert indexes == sorted(set(indexes))
    assert indexes[-1] == last
    assert values([other[-1:] for other in others]) == [(last, b"2")] * (GROUPS - 1)
