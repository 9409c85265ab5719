"""When `gemot watch` tells something, and what: time is stepped, nothing sleeps."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

import pytest

from gemot.agent.cli.watch_state import Kept
from gemot.agent.cli.watch_telling import MOST_USER_EVENTS, Telling, back_off_s
from gemot.agent.cli.watched import locate
from gemot.agent.client.events import Bookmark, Change, Event, Op, Snapshot

NOTHING = Kept(1, {})


class Over(Exception):
    """The script is at its end."""


class Scene:
    """Events at their times; what was told, and when; what was kept."""

    def __init__(self, script: Iterable[tuple[float, Event]], fails: Iterable[int] = ()) -> None:
        self.now_s = 0.0
        self.told: list[tuple[float, int, Any]] = []
        self.kept: list[dict[str, Any]] = []
        self._script = list(script)
        self._fails = set(fails)

    def take(self, timeout_s: float | None) -> Event | None:
        if not self._script:
            if timeout_s is None:
                raise Over
            self.now_s += timeout_s
            return None
        at_s, event = self._script[0]
        if timeout_s is not None and at_s > self.now_s + timeout_s:
            self.now_s += timeout_s
            return None
        self.now_s = max(self.now_s, at_s)
        self._script.pop(0)
        return event

    def write(self, *, told: str, place: str, items: dict[str, Any] | None) -> None:
        self.kept.append({"told": told, "place": place, "items": None if items is None else dict(items)})

    def tell(self, index: int, text: str) -> bool:
        self.told.append((self.now_s, index, json.loads(text)))
        return len(self.told) not in self._fails

    def play(self, type: str = "keyprefix", kept: Kept = NOTHING, **more: Any) -> Scene:
        flags = {"prefix": "a", "key": "", "service": "", "tag": (), "passingonly": False, "state": ""}
        given = (
            flags | {"name": "", "node": "", "session": ""} | ({} if type == "keyprefix" else {"prefix": ""})
        )
        telling = Telling(
            events=self,
            watched=locate(type, given),
            kept=kept,
            state=self,
            tell=self.tell,
            now=lambda: self.now_s,
            **more,
        )
        with pytest.raises(Over):
            telling.run()
        return self

    @property
    def indexes(self) -> list[int]:
        return [index for _, index, _ in self.told]


def item(key: str, value: int) -> dict[str, Any]:
    return {"Key": key, "Value": value}


def snapshot(index: int, *items: dict[str, Any]) -> Snapshot:
    return Snapshot(f"0-{index}", index, {each["Key"]: each for each in items})


def put(index: int, key: str = "a", value: int | None = None) -> Change:
    return Change(f"0-{index}", index, [Op("set", key, item(key, index if value is None else value))])


def delete(index: int, key: str = "a") -> Change:
    return Change(f"0-{index}", index, [Op("delete", key)])


def bookmark(index: int) -> Bookmark:
    return Bookmark(f"0-{index}", index)


def test_it_tells_how_it_is_at_first_and_at_each_change_of_content() -> None:
    scene = Scene(
        [(0, snapshot(1)), (1, put(2)), (2, bookmark(3)), (3, put(4, value=2)), (4, delete(5))]
    ).play()
    assert scene.told == [(0, 1, []), (1, 2, [item("a", 2)]), (4, 5, [])]


def test_what_comes_while_it_is_told_is_told_in_one_run_after_it() -> None:
    assert Scene([(0, snapshot(1)), (1, put(2)), (1, put(3)), (1, put(4))]).play().indexes == [1, 4]


def test_what_is_again_as_it_was_is_not_told() -> None:
    assert Scene([(0, snapshot(1)), (1, put(2)), (1, delete(3))]).play().indexes == [1]


def test_within_the_debounce_it_is_one_run_counted_from_the_first_change() -> None:
    script = [(0, snapshot(1)), (10, bookmark(2)), (11, put(3)), (12, put(4)), (12.9, put(5)), (13.1, put(6))]
    scene = Scene(script).play(debounce_s=2)
    assert [(at_s, index) for at_s, index, _ in scene.told] == [(2, 1), (13, 5), (15.1, 6)]


def test_the_debounce_keeps_each_change() -> None:
    scene = Scene([(0, snapshot(1)), (11, put(3)), (12, put(4)), (12, delete(5))]).play(
        debounce_s=2, by_change=True
    )
    assert scene.told == [
        (
            13,
            5,
            {
                "Index": 5,
                "Changes": [
                    {"Op": "set", "Key": "a", "Old": None, "New": item("a", 3)},
                    {"Op": "set", "Key": "a", "Old": item("a", 3), "New": item("a", 4)},
                    {"Op": "delete", "Key": "a", "Old": item("a", 4), "New": None},
                ],
            },
        )
    ]


def test_changes_can_be_told_one_index_at_a_time() -> None:
    script = [(0, snapshot(1, item("a", 1))), (0, put(2)), (0, put(3)), (0, bookmark(4)), (0, delete(5))]
    assert Scene(script).play(by_change=True, at_once=1).indexes == [1, 2, 3, 5]


def test_a_run_gathers_no_more_than_its_bound() -> None:
    script = [(0, snapshot(1)), *((0, put(index)) for index in range(2, 12))]
    assert Scene(script).play(by_change=True, at_once=4).indexes == [4, 8, 11]


# -- what was kept ---------------------------------------------------------------------------------


def test_a_start_tells_only_what_differs_from_what_was_told() -> None:
    first = Scene([(0, snapshot(1, item("a", 1)))]).play()
    kept = Kept(1, {}, **first.kept[-1])
    assert kept.items is None, "values are not left on a disk for nothing"
    assert Scene([(0, snapshot(1, item("a", 1))), (1, bookmark(9))]).play(kept=kept).told == []
    assert Scene([(0, snapshot(7, item("a", 2)))]).play(kept=kept).indexes == [7]
    assert Scene([(0, snapshot(7))]).play(kept=kept).told == [(0, 7, [])]


def test_a_start_by_changes_goes_on_where_it_was() -> None:
    first = Scene([(0, snapshot(1, item("a", 1))), (1, put(2))]).play(by_change=True)
    kept = Kept(1, {}, **first.kept[-1])
    assert (kept.place, kept.items) == ("0-2", {"a": item("a", 2)})
    told = {"Index": 5, "Changes": [{"Op": "delete", "Key": "a", "Old": item("a", 2), "New": None}]}
    assert Scene([(0, bookmark(4)), (1, delete(5))]).play(kept=kept, by_change=True).told == [(1, 5, told)]
    assert Scene([(0, snapshot(5))]).play(kept=kept, by_change=True).told == [(0, 5, told)]
    assert Scene([(0, snapshot(5, item("a", 2)))]).play(kept=kept, by_change=True).told == []


def test_what_failed_is_not_kept_as_told() -> None:
    scene = Scene([(0, snapshot(1)), (1, put(2)), (2, put(3))], fails=[1, 3]).play()
    assert scene.indexes == [1, 2, 3]
    assert [each["place"] for each in scene.kept] == ["0-2"]


# -- again -----------------------------------------------------------------------------------------


def test_what_failed_is_run_again_with_what_came_meanwhile() -> None:
    script = [(0, snapshot(1)), (0.5, put(2)), (2, put(3)), (50, put(4))]
    scene = Scene(script, fails=[1, 2]).play(by_change=False, retries=True)
    assert [(at_s, index) for at_s, index, _ in scene.told] == [(0, 1), (1, 2), (3, 3), (50, 4)]
    scene = Scene(script, fails=[1, 2]).play(by_change=True, retries=True)
    told = [[each["New"]["Value"] for each in what["Changes"]] for _, _, what in scene.told]
    assert told == [[2], [2], [2, 3], [4]]


def test_what_failed_is_not_run_again_once_it_is_as_it_was() -> None:
    scene = Scene([(0, snapshot(1)), (1, put(2)), (1.5, delete(3)), (9, put(4))], fails=[2]).play(
        retries=True
    )
    assert scene.indexes == [1, 2, 4]


def test_delays_double_up_to_a_minute() -> None:
    assert [back_off_s(failures) for failures in (1, 2, 3, 6, 7, 10**6)] == [1, 2, 4, 32, 60, 60]


# -- user events -----------------------------------------------------------------------------------


def fired(*times: int, index: int = 1) -> Snapshot:
    told = {f"{time:032x}": {"ID": f"{time:032x}", "LTime": time} for time in times}
    return Snapshot(f"5-{index}", index, told)


def test_of_events_the_new_ones_are_told_whatever_list_an_agent_comes_with() -> None:
    scene = Scene([(0, fired()), (1, fired(7, 5)), (2, fired(7)), (3, fired(5, 7, 9))]).play("event")
    assert [[each["LTime"] for each in what] for _, _, what in scene.told] == [[], [5, 7], [9]]
    assert scene.indexes == [1, 7, 9]
    kept = Kept(1, {}, **scene.kept[-1])
    assert Scene([(0, fired(7, 9))]).play("event", kept=kept).told == []
    assert Scene([(0, fired(9, 11))]).play("event", kept=kept).indexes == [11]
    many = Scene([(0, fired(*range(1, 6000)))]).play("event")
    assert len(many.kept[-1]["items"]) == MOST_USER_EVENTS
