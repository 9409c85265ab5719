"""Lists that are too long for the loop: read elsewhere, with every promise of a read kept."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.reads_scene import KEY, LIST_ROWS, Scene

from gemot.server import reads as reads_module
from gemot.server.model.changes import KvChanges
from gemot.server.model.errors import Busy, Forbidden
from gemot.server.model.kv import KvDelete, KvDeletePrefix, KvKeys, KvList, KvSet
from gemot.server.model.query import Options
from gemot.server.model.upkeep import TrimChanges

LONG = KvList(b"long/")


def values(answer: Any) -> list[bytes]:
    return [row.value for row in answer.value]


@pytest.fixture
def scene(tmp_path: Path) -> Iterator[Scene]:
    scene = Scene(tmp_path)
    scene.write(*(KvSet(b"long/%d" % n, b"0") for n in range(LIST_ROWS + 1)))
    scene.write(*(KvSet(b"short/%d" % n, b"0") for n in range(LIST_ROWS)))
    yield scene
    scene.one.close()


def touch(scene: Scene, value: bytes) -> int:
    return scene.write(KvSet(b"long/0", value))


# -- which are long --------------------------------------------------------------------------------


@pytest.mark.parametrize("query", [KEY, KvList(b"short/"), KvKeys(b"short/"), KvList(b"none/")])
def test_a_short_list_is_read_where_it_was_asked(scene: Scene, query: Any) -> None:
    assert len(scene.ask(query)) == 1
    assert scene.submitted == []


@pytest.mark.parametrize("query", [LONG, KvKeys(b"long/"), KvKeys(b"", b"/"), KvList(b"")])
def test_a_long_list_is_read_by_the_reader(scene: Scene, query: Any) -> None:
    told = scene.ask(query)
    assert told == []
    scene.read_long()
    assert (told[0].value, told[0].index) == scene.one.read(query)


def test_many_deletes_under_a_prefix_make_its_list_long(scene: Scene) -> None:
    """What counts is what has to be looked at, not what is shown."""
    for number in range(LIST_ROWS * 16 + 1):
        scene.write(KvSet(b"gone/%d" % number, b""), KvDelete(b"gone/%d" % number))
    told = scene.ask(KvList(b"gone/"))
    assert told == []
    scene.read_long()
    assert (told[0].value, told[0].index) == ([], scene.one.index)


# -- one answer ------------------------------------------------------------------------------------


def test_readers_of_one_list_that_wait_together_are_one_read(scene: Scene) -> None:
    first = scene.ask(LONG)
    scene.begin_read()
    touch(scene, b"new")
    late = [scene.ask(LONG) for _ in range(20)]
    scene.tell_read()
    assert values(first[0])[0] == b"0"
    assert all(told == [] for told in late), "what they asked is newer than what was read"
    assert len(scene.submitted) == 1
    scene.read_long()
    assert all(values(told[0])[0] == b"new" for told in late)
    assert scene.submitted == []
    assert scene.reads.waiting == 0


def test_no_read_is_answered_by_one_that_began_before_it_was_confirmed(scene: Scene) -> None:
    scene.ask(LONG)
    scene.begin_read()
    index = touch(scene, b"acknowledged")
    told = scene.ask(LONG)
    scene.tell_read()
    scene.read_long()
    assert (values(told[0])[0], told[0].index) == (b"acknowledged", index)


def test_one_list_is_read_at_a_time_and_each_in_its_turn(scene: Scene) -> None:
    first, second = scene.ask(LONG), scene.ask(KvList(b""))
    again = scene.ask(LONG)
    scene.read_long()
    assert (len(first), len(second), len(again)) == (1, 0, 0)
    scene.read_long()
    assert (len(second), len(again)) == (1, 0)
    scene.read_long()
    assert len(again) == 1


def test_who_is_cancelled_while_the_list_is_read_is_told_nothing(scene: Scene) -> None:
    told = scene.ask(LONG)
    scene.begin_read()
    scene.cancel()
    scene.tell_read()
    assert told == []
    assert scene.submitted == []
    assert scene.reads.waiting == 0


def test_asking_and_going_away_again_and_again_makes_no_more_reads(scene: Scene) -> None:
    for _ in range(100):
        scene.ask(LONG)
        scene.cancel()
    scene.read_long()
    assert scene.submitted == []


def test_waiting_reads_of_long_lists_count_against_the_limit(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reads_module, "MAX_WAITERS", 1)
    scene.ask(LONG)
    assert isinstance(scene.ask(LONG)[0], Busy)
    scene.read_long()


class Fickle:
    """Allows what `lets` says at the time."""

    lets = True

    def allowed(self, accessor: str, operation: Any) -> bool:
        if not self.lets:
            raise Forbidden("Permission denied")
        return True


def test_a_refusal_at_the_reader_is_the_answer(tmp_path: Path) -> None:
    fickle = Fickle()
    scene = Scene(tmp_path, authorizer=fickle)
    scene.write(*(KvSet(b"long/%d" % n, b"0") for n in range(LIST_ROWS + 1)))
    told = scene.ask(LONG)
    fickle.lets = False
    scene.read_long()
    assert [type(each) for each in told] == [Forbidden]
    assert scene.reads.waiting == 0
    scene.one.close()


# -- blocking --------------------------------------------------------------------------------------


def test_a_blocking_read_of_a_long_list_waits_for_what_is_newer(scene: Scene) -> None:
    told = scene.ask(LONG, index=scene.one.at(LONG))
    scene.read_long()
    assert told == []
    scene.set(key=b"elsewhere")
    assert scene.submitted == [], "nobody looks for the sake of other keys"
    index = touch(scene, b"new")
    scene.read_long()
    assert (told[0].index, values(told[0])[0]) == (index, b"new")
    assert scene.reads.waiting == scene.timer.timers == 0


def test_a_change_while_the_list_is_read_is_not_missed(scene: Scene) -> None:
    """The read saw the state before the change, and the change came before its answer."""
    told = scene.ask(LONG, index=scene.one.at(LONG))
    scene.begin_read()
    index = touch(scene, b"sneaked in")
    scene.tell_read()
    assert told == []
    scene.read_long()
    assert told[0].index == index


def test_a_blocking_read_is_not_answered_by_a_read_from_before_it_came(scene: Scene) -> None:
    old = scene.one.at(LONG)
    newer = touch(scene, b"1")
    scene.ask(LONG)
    scene.begin_read()
    newest = touch(scene, b"2")
    told = scene.ask(LONG, index=old)
    scene.tell_read()
    assert told == [], f"{newer} is newer than what it has, and older than what it was confirmed at"
    scene.read_long()
    assert told[0].index == newest


def test_equal_waiters_of_a_long_list_are_one_read(scene: Scene) -> None:
    index = scene.one.at(LONG)
    told = [scene.ask(LONG, index=index) for _ in range(200)]
    scene.read_long()
    scene.read_long()
    assert scene.submitted == []
    touch(scene, b"a")
    scene.begin_read()
    for number in range(50):
        touch(scene, b"%d" % number)
    scene.tell_read()
    assert all(len(t) == 1 for t in told)
    assert len({id(t[0]) for t in told}) == 1
    assert scene.submitted == [], "nobody waits for the fifty"


def test_a_time_out_of_a_long_list_is_read_again_and_its_index_stands(scene: Scene) -> None:
    scene.set(key=b"later")
    seen = scene.one.index
    told = scene.ask(LONG, index=seen, wait_ms=1_000)
    scene.read_long()
    scene.pass_ms(1_000)
    assert told == []
    scene.read_long()
    assert told[0].index == seen, "it does not go back to that of the list"


def test_an_index_is_not_raised_to_one_that_was_passed_only_while_the_list_was_read(scene: Scene) -> None:
    """Else a change between what was read and that index would never be told."""
    ahead = scene.one.index + 2
    told = scene.ask(LONG, index=ahead, wait_ms=1_000)
    scene.read_long()
    scene.pass_ms(1_000)
    scene.begin_read()
    touch(scene, b"between")
    scene.one.skip(1)
    scene.tell_read()
    assert values(told[0])[0] == b"0"
    assert told[0].index < ahead


def test_cancelling_what_timed_out_takes_its_second_read_away(scene: Scene) -> None:
    told = scene.ask(LONG, index=scene.one.index, wait_ms=1_000)
    scene.read_long()
    scene.pass_ms(1_000)
    assert scene.reads.waiting == 1
    scene.cancel()
    assert scene.reads.waiting == 0
    scene.read_long()
    assert told == []


# -- subscriptions ---------------------------------------------------------------------------------


def test_a_subscription_is_never_told_an_older_list_after_a_newer_one(scene: Scene) -> None:
    """The list becomes short while a long read is out: the short answer waits for its turn."""
    told = scene.subscribe(LONG)
    scene.read_long()
    touch(scene, b"1")
    scene.begin_read()
    scene.write(KvDeletePrefix(b"long/"))
    scene.timer.run()
    scene.tell_read()
    scene.read_long()
    assert [len(answer.value) for answer in told] == [LIST_ROWS + 1, LIST_ROWS + 1, 0]
    assert [answer.index for answer in told] == sorted({answer.index for answer in told})


def test_a_list_that_became_short_is_read_on_the_loop_again(scene: Scene) -> None:
    told = scene.subscribe(LONG)
    scene.read_long()
    scene.write(*(KvDelete(b"long/%d" % n) for n in range(LIST_ROWS)))
    scene.read_long()
    touch(scene, b"short now")
    assert scene.submitted == []
    assert values(told[-1]) == [b"short now", b"0"]


def test_the_last_state_of_a_long_list_is_told_whenever_it_changed(scene: Scene) -> None:
    told = scene.subscribe(LONG)
    for number in range(30):
        touch(scene, b"%d" % number)
        if number % 3 == 0:
            scene.begin_read()
        if number % 3 == 2:
            scene.tell_read()
    while scene.submitted:
        scene.read_long()
    assert values(told[-1])[0] == b"29"
    indexes = [answer.index for answer in told]
    assert indexes == sorted(set(indexes))


def test_a_bookmark_does_not_come_before_a_list_that_is_being_read(scene: Scene) -> None:
    told, other = scene.subscribe(LONG), scene.subscribe(KEY)
    scene.reads.bookmark("all told")
    assert told == []
    assert other[-1] == "all told", "to others nothing is owed"
    scene.begin_read()
    touch(scene, b"1")
    scene.tell_read()
    scene.reads.bookmark("all told")
    assert "all told" not in told, "the touch is not told yet"
    scene.read_long()
    scene.reads.bookmark("all told")
    assert told[-1] == "all told"


# -- while the state is replaced -------------------------------------------------------------------


def test_nothing_is_read_while_the_state_is_replaced(scene: Scene) -> None:
    subscribed = scene.subscribe(KEY)
    looks = scene.state.looks
    scene.reads.hold()
    told = [scene.ask(), scene.ask(LONG), scene.ask(LONG, index=1), scene.ask(consistency="stale")]
    told.append(scene.subscribe(from_index=10_000))
    gone = scene.ask()
    scene.cancel()
    scene.reads.on_applied([("kv", b"k")])
    assert (scene.state.looks, scene.submitted) == (looks, [])
    index = scene.one.apply(KvSet(b"k", b"from the snapshot"))[0].index
    scene.reads.on_replaced()
    scene.read_long()
    scene.timer.run()
    assert [answer.value.value for answer in (told[0][0], told[3][0])] == [b"from the snapshot"] * 2
    assert [len(each) for each in told] == [1, 1, 1, 1, 0]
    assert subscribed[-1].index == index
    assert gone == []


def test_the_reader_is_in_use_until_the_read_is_told(scene: Scene) -> None:
    scene.ask(LONG)
    scene.ask(KvList(b""))
    scene.reads.hold()
    assert scene.reads.reading
    scene.read_long()
    assert not scene.reads.reading, "no other has begun"
    scene.reads.on_replaced()
    assert scene.reads.reading
    scene.read_long()


def test_a_parked_read_that_is_cancelled_afterwards_is_told_nothing(scene: Scene) -> None:
    scene.reads.hold()
    told: list[Any] = []
    cancel = scene.reads.query(KEY, Options(index=scene.one.index, consistency="stale"), "", told.append)
    scene.reads.on_replaced()
    assert scene.reads.waiting == 1
    cancel()
    assert scene.reads.waiting == 0
    assert told == []


# -- changes, where what is gone is told by a long list -------------------------------------------------


@pytest.mark.parametrize("then", ["a change", "a time-out"])
def test_who_joins_during_a_read_is_not_taken_for_one_who_heard_all_before(scene: Scene, then: str) -> None:
    """It waits for its turn, behind another list. Its own is short by then, and is looked at here."""
    scene.write(*(KvSet(b"big/%d" % n, b"0") for n in range(LIST_ROWS + 1)))
    after = scene.one.index
    scene.write(TrimChanges(touch(scene, b"trimmed")))
    query = KvChanges(b"long/", True, after)
    first = scene.ask(query, index=after, consistency="stale", wait_ms=60_000)
    scene.ask(KvList(b"big/"))
    scene.write(KvDelete(b"long/3"))
    scene.begin_read()
    second = scene.ask(query, index=after, consistency="stale", wait_ms=1_000)
    scene.tell_read()
    assert (first[0].value.compacted, second) == (True, [])
    if then == "a change":
        touch(scene, b"new")
        scene.timer.run()
    else:
        scene.write(KvSet(b"other", b""))
        scene.pass_ms(1_100)
    assert second[0].value.compacted
