"""The mirror: what is there now, and of each change what was there before."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from gemot.agent.client.events import Bookmark, Change, Op, Snapshot
from gemot.agent.client.mirror import Changed, Mirror

KEYS = st.sampled_from(["a", "a/b", "a/c", "b"])
OPS = st.one_of(
    st.builds(Op, st.just("set"), KEYS, st.integers(1, 3)),
    st.builds(Op, st.sampled_from(["delete", "delete-prefix"]), KEYS),
)
EVENTS = st.one_of(
    st.builds(Snapshot, st.just("0-1"), st.just(1), st.dictionaries(KEYS, st.integers(1, 3))),
    st.builds(Change, st.just("0-1"), st.just(1), st.lists(OPS, max_size=5)),
)


def replay(items: dict[str, Any], changed: list[Changed]) -> dict[str, Any]:
    items = dict(items)
    for each in changed:
        assert items.get(each.key) == each.old
        assert each.old != each.new
        if each.op == "set":
            items[each.key] = each.new
        else:
            assert each.new is None
            del items[each.key]
    return items


@given(st.lists(EVENTS, max_size=10))
def test_the_changes_lead_from_what_was_to_what_is(events: list[Snapshot | Change]) -> None:
    mirror = Mirror()
    for event in events:
        before = dict(mirror.items)
        assert replay(before, mirror.take(event)) == mirror.items
        if isinstance(event, Snapshot):
            assert mirror.items == event.items


def test_each_change_of_a_key_within_one_index_is_told() -> None:
    ops = [Op("set", "a", 1), Op("set", "a", 2), Op("delete", "a"), Op("delete", "b")]
    assert Mirror().take(Change("0-2", 2, ops)) == [
        Changed("set", "a", None, 1),
        Changed("set", "a", 1, 2),
        Changed("delete", "a", 2, None),
    ]


def test_a_prefix_that_is_deleted_takes_each_key_below_it() -> None:
    mirror = Mirror({"app/1": 1, "app/2": 2, "apple": 3, "b": 4})
    told = mirror.take(Change("0-2", 2, [Op("delete-prefix", "app/")]))
    assert [each.key for each in told] == ["app/1", "app/2"]
    assert mirror.items == {"apple": 3, "b": 4}


def test_what_stays_as_it_is_is_no_change() -> None:
    mirror = Mirror({"a": {"x": 1}})
    assert mirror.take(Bookmark("0-2", 2)) == []
    assert mirror.take(Change("0-3", 3, [Op("set", "a", {"x": 1})])) == []
    assert mirror.take(Snapshot("0-4", 4, {"a": {"x": 1}})) == []
