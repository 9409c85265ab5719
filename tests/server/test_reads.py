"""Reads over the real state: fresh, blocking, subscribed; on virtual time."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.reads_scene import KEY, Scene

from gemot.server import reads as reads_module
from gemot.server.model.changes import KvChanges
from gemot.server.model.errors import BadRequest, Busy, Forbidden, NoLeader
from gemot.server.model.kv import KvDelete, KvGet, KvList, KvSet
from gemot.server.model.query import Answer, Options
from gemot.server.reads import WAKE_SLICE


@pytest.fixture
def scene(tmp_path: Path) -> Iterator[Scene]:
    scene = Scene(tmp_path)
    yield scene
    scene.one.close()


# -- one answer ------------------------------------------------------------------------------------


@pytest.mark.parametrize("consistency", ["default", "consistent"])
def test_a_linearizable_read_is_confirmed_first(scene: Scene, consistency: str) -> None:
    index = scene.set()
    (answer,) = scene.ask(consistency=consistency)
    assert (answer.value.value, answer.index, scene.asks) == (b"v", index, 1)
    scene.leaderless = True
    told = scene.ask(consistency=consistency)
    scene.pass_ms(6_900)
    assert told == []
    scene.pass_ms(200)
    assert isinstance(told[0], NoLeader)


def test_a_stale_read_answers_without_a_leader_and_says_so(scene: Scene) -> None:
    scene.set()
    scene.leaderless, scene.contact_ms = True, 123_456
    (answer,) = scene.ask(consistency="stale")
    assert (answer.value.value, answer.known_leader, answer.last_contact_ms) == (b"v", False, 123_456)
    assert scene.asks == 0


def test_a_stale_read_beyond_its_bound_is_confirmed(scene: Scene) -> None:
    scene.contact_ms = 501
    scene.ask(consistency="stale", max_stale_ms=500)
    assert scene.asks == 1
    scene.contact_ms = 500
    scene.ask(consistency="stale", max_stale_ms=500)
    assert scene.asks == 1


def test_a_read_that_was_cancelled_while_it_was_confirmed_tells_nothing(scene: Scene) -> None:
    scene.leaderless = True
    told = scene.ask()
    scene.cancel()
    scene.pass_ms(10_000)
    assert told == []


# -- blocking --------------------------------------------------------------------------------------


def test_a_blocking_read_answers_at_once_what_is_newer(scene: Scene) -> None:
    index = scene.set()
    (answer,) = scene.ask(index=index - 1)
    assert answer.index == index
    assert scene.reads.waiting == 0


def test_a_blocking_read_waits_for_its_own_key_alone(scene: Scene) -> None:
    index = scene.set()
    told = scene.ask(index=index)
    looks = scene.state.looks
    for number in range(100):
        scene.set(key=b"other%d" % number)
    assert told == []
    assert scene.state.looks == looks, "nobody looked for the sake of other keys"
    scene.set(b"new")
    assert told[0].value.value == b"new"
    assert told[0].index > index
    assert scene.reads.waiting == 0
    assert scene.timer.timers == 0


def test_a_change_right_after_the_look_is_not_missed(scene: Scene) -> None:
    """The waiter is there before the state is read: whatever comes after that wakes it."""
    index = scene.set()

    def sneak() -> None:
        scene.state.after_read = lambda: None
        scene.set(b"sneaked in")

    scene.state.after_read = sneak
    told = scene.ask(index=index)
    assert [answer.value.value for answer in told] == [b"sneaked in"]


def test_a_time_out_is_confirmed_again_before_it_says_that_nothing_changed(scene: Scene) -> None:
    index = scene.set()
    told = scene.ask(index=index, wait_ms=1_000)
    asks = scene.asks
    scene.pass_ms(999)
    assert told == []
    scene.pass_ms(1)
    assert scene.asks == asks + 1
    assert (told[0].index, told[0].value.value) == (index, b"v")


def test_a_time_out_without_a_leader_does_not_say_that_nothing_changed(scene: Scene) -> None:
    index = scene.set()
    told = scene.ask(index=index, wait_ms=1_000)
    scene.leaderless = True
    scene.pass_ms(1_000)
    assert told == []
    scene.pass_ms(7_100)
    assert isinstance(told[0], NoLeader)


def test_a_read_cancelled_while_its_time_out_is_confirmed_tells_nothing(scene: Scene) -> None:
    told = scene.ask(index=scene.set(), wait_ms=1_000)
    scene.leaderless = True
    scene.pass_ms(1_000)
    scene.cancel()
    scene.pass_ms(10_000)
    assert told == []


@pytest.mark.parametrize(("drawn", "extra_ms"), [(0.0, 0), (0.5, 500), (0.9999, 999)])
def test_jitter_adds_a_sixteenth_at_most(scene: Scene, drawn: float, extra_ms: int) -> None:
    scene.chance.value = drawn
    told = scene.ask(index=scene.set(), wait_ms=16_000)
    scene.pass_ms(16_000 + extra_ms - 1)
    assert told == []
    scene.pass_ms(1)
    assert len(told) == 1


@pytest.mark.parametrize(("asked", "waited"), [(0, 300_000), (-5, 300_000), (10**9, 600_000)])
def test_the_wait_has_a_default_and_a_limit(scene: Scene, asked: int, waited: int) -> None:
    told = scene.ask(index=scene.set(), wait_ms=asked)
    scene.timer.pass_ms(waited - 1)
    assert told == []
    scene.timer.pass_ms(1)
    assert len(told) == 1


def test_the_index_goes_on_when_the_key_is_deleted(scene: Scene) -> None:
    index = scene.set()
    told = scene.ask(index=index)
    scene.write(KvDelete(b"k"))
    assert told[0].value is None
    assert told[0].index > index


def test_a_server_behind_what_the_caller_has_seen_does_not_answer_older_things(scene: Scene) -> None:
    """A stale blocking read that comes from a server further on: wait for its index, else confirm."""
    scene.set()
    ahead = scene.one.index + 5
    told = scene.ask(index=ahead, wait_ms=1_000, consistency="stale")
    scene.read_index = ahead
    scene.pass_ms(1_000)
    assert told == [], "this state is older than what the caller has"
    scene.one.skip(5)
    scene.reads.on_applied([])
    scene.timer.run()
    assert told[0].index == ahead, "the index does not go back"
    assert told[0].value.value == b"v"


def test_an_index_from_nowhere_is_put_right_by_the_answer(scene: Scene) -> None:
    """After a restore of an older cluster a client's index means nothing: it is told the real one."""
    index = scene.set()
    told = scene.ask(index=index + 1_000_000, wait_ms=1_000)
    scene.pass_ms(1_000)
    assert told[0].index == index


def test_more_waiters_than_the_limit_are_refused_naming_it(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reads_module, "MAX_WAITERS", 2)
    index = scene.set()
    scene.ask(index=index)
    scene.subscribe(from_index=index)
    assert isinstance(scene.ask(index=index)[0], Busy)
    refused = scene.subscribe(from_index=index)
    assert isinstance(refused[0], Busy)
    assert "2 blocking reads" in refused[0].message
    assert scene.ask()[0].index == index, "a plain read waits for nothing"


# -- many ------------------------------------------------------------------------------------------


def test_waiters_of_one_query_are_evaluated_once_together(scene: Scene) -> None:
    index = scene.set()
    told = [scene.ask(index=index) for _ in range(200)]
    looks = scene.state.looks
    scene.set(b"new")
    scene.timer.run()
    assert scene.state.looks == looks + 1
    assert all(t[0].value.value == b"new" for t in told)
    assert len({id(t[0]) for t in told}) == 1, "one answer for all"


def test_thousands_are_woken_in_slices(scene: Scene) -> None:
    index = scene.set()
    told = [scene.ask(index=index) for _ in range(WAKE_SLICE * 2 + 10)]
    followed = scene.subscribe(KvGet(b"other"), from_index=index)
    scene.set(b"new")
    assert sum(len(t) for t in told) == WAKE_SLICE
    scene.reads.bookmark("all told")
    assert followed == [], "not all was told yet"
    scene.timer.run_once()
    assert sum(len(t) for t in told) == WAKE_SLICE * 2
    scene.timer.run()
    assert all(len(t) == 1 for t in told)
    scene.reads.bookmark("all told")
    assert followed[-1] == "all told"


def test_who_is_cancelled_between_two_slices_is_told_nothing(scene: Scene) -> None:
    index = scene.set()
    for _ in range(WAKE_SLICE):
        scene.ask(index=index)
    told = scene.ask(index=index)
    scene.set(b"new")
    scene.cancel()
    scene.timer.run()
    assert told == []


# -- subscriptions ---------------------------------------------------------------------------------


def test_a_subscription_tells_the_present_and_every_change(scene: Scene) -> None:
    scene.set(b"0")
    told = scene.subscribe()
    for number in range(1, 5):
        scene.set(b"%d" % number)
        scene.set(key=b"other")
    assert [answer.value.value for answer in told] == [b"0", b"1", b"2", b"3", b"4"]
    indexes = [answer.index for answer in told]
    assert indexes == sorted(set(indexes))
    scene.cancel()
    scene.set(b"5")
    assert len(told) == 5
    assert scene.reads.waiting == 0


def test_a_subscription_goes_on_from_an_index_without_a_repeat(scene: Scene) -> None:
    index = scene.set(b"known")
    told = scene.subscribe(from_index=index)
    assert told == []
    scene.set(b"new")
    assert [answer.value.value for answer in told] == [b"new"]


def test_the_last_state_is_always_told(scene: Scene) -> None:
    """Many changes in one batch are one answer: the last."""
    told = scene.subscribe(KvList(b""))
    scene.write(*(KvSet(b"k%d" % (n % 3), b"%d" % n) for n in range(30)))
    assert [row.value for row in told[-1].value] == [b"27", b"28", b"29"]


def test_a_replaced_state_makes_everyone_look_again(scene: Scene) -> None:
    index = scene.set()
    told, subscribed = scene.ask(index=index), scene.subscribe(from_index=index)
    scene.one.apply(KvSet(b"k", b"from a snapshot"))
    assert told == subscribed == []
    scene.reads.on_replaced()
    assert told[0].value.value == subscribed[0].value.value == b"from a snapshot"
    assert isinstance(told[0], Answer)


def test_a_refusal_of_the_state_is_the_answer_and_harms_no_other(scene: Scene) -> None:
    """Once granted, later forbidden: whoever waits is told, the node goes on."""
    told: list[Any] = []
    index = scene.set()

    def forbid() -> None:
        raise Forbidden("Permission denied")

    scene.reads.query(KEY, Options(index=index), "", told.append)
    scene.reads.subscribe(KEY, "", index, told.append)
    scene.timer.run()
    assert told == []
    scene.state.after_read = forbid
    scene.reads.query(KEY, Options(), "", told.append)
    scene.reads.query(KEY, Options(index=index), "", told.append)
    scene.timer.run()
    assert [type(each) for each in told] == [Forbidden, Forbidden]
    scene.reads.on_applied([("kv", b"k")])
    scene.timer.run()
    assert [type(each) for each in told] == [Forbidden] * 4
    assert scene.reads.waiting == 0


# -- changes ---------------------------------------------------------------------------------------


def changes(scene: Scene, after: int, **options: Any) -> list[Any]:
    return scene.ask(KvChanges(b"k", True, after), index=after, consistency="stale", **options)


def test_who_waits_for_changes_is_told_each_and_looks_through_those_of_others_once(scene: Scene) -> None:
    after = scene.set()
    told = changes(scene, after)
    scene.set(key=b"other")
    assert told == []
    index = scene.set(b"w")
    scene.timer.run()
    (answer,) = told
    assert answer.index == answer.value.through == index
    assert [(c.index, c.entry.value) for c in answer.value.changes] == [(index, b"w")]
    assert scene.state.queries[-1] == KvChanges(b"k", True, index - 1), "all before the batch was of others"


def test_changes_that_came_between_two_waits_are_told_at_once(scene: Scene) -> None:
    after = scene.set()
    first, second = scene.set(b"1"), scene.set(b"2")
    (answer,) = changes(scene, after)
    assert [c.index for c in answer.value.changes] == [first, second]


def test_a_wait_for_changes_that_times_out_says_how_far_there_were_none(scene: Scene) -> None:
    after = scene.set()
    told = changes(scene, after, wait_ms=1_000)
    index = scene.set(key=b"other")
    scene.pass_ms(1_100)
    (answer,) = told
    assert (answer.value.changes, answer.value.through) == ([], index)
    assert scene.state.queries[-1] == KvChanges(b"k", True, index), (
        "what was of others is not looked at again"
    )


def test_changes_are_waited_for_where_they_begin_and_not_subscribed_to(scene: Scene) -> None:
    (refusal,) = scene.ask(KvChanges(b"k", True, 3), index=4)
    assert isinstance(refusal, BadRequest)
    assert isinstance(scene.subscribe(KvChanges(b"k", True, 3))[0], BadRequest)
