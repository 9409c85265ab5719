"""The watch hub: exactly those who wait for what was touched, in order, each once."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gemot.server.model.autopilot import GetAutopilot
from gemot.server.model.catalog import HealthService, NodeInfo, Nodes, ServiceNodes, Services
from gemot.server.model.changes import KvChanges
from gemot.server.model.coordinate import CoordinateOf, Coordinates
from gemot.server.model.health import HealthChecks, HealthNode, HealthState
from gemot.server.model.history import KvAsOf, KvRevisions
from gemot.server.model.kv import KvGet, KvKeys, KvKeysPage, KvList, KvListPage
from gemot.server.model.query import VALUES, Query
from gemot.server.model.session import SessionInfo, Sessions
from gemot.server.model.txn import ReadTxn
from gemot.server.state.watch import Hub, Topic, topics


@pytest.mark.parametrize(
    ("query", "wanted"),
    [
        (KvGet(b"a"), (("kv", b"a"),)),
        (KvList(b"a/"), (("kv-prefix", b"a/"),)),
        (KvKeys(b"", b"/"), (("kv-prefix", b""),)),
        (KvChanges(b"a", False, 7), (("kv", b"a"),)),
        (KvChanges(b"a", True, 7), (("kv-prefix", b"a"),)),
        (KvListPage(b"a/", b"a/b", 1), (("kv-prefix", b"a/"),)),
        (KvKeysPage(b"", b"/", b"", 1), (("kv-prefix", b""),)),
        (Nodes(), (("nodes", b""),)),
        (NodeInfo("Web1"), (("node", b"web1"),)),
        (NodeInfo("DB01"), (("node", b"db01"), ("node-id", b"db01"))),
        (Services(), (("services", b""),)),
        (GetAutopilot(), (("autopilot", b""),)),
        (Coordinates(), (("coordinates", b""),)),
        (CoordinateOf("Web1"), (("coordinate", b"web1"),)),
        (Nodes(near="web1"), (("nodes", b""),)),
        (Services({"a": "b"}), (("services", b""), ("nodes", b""))),
        (ServiceNodes("Web", ("v1",)), (("service", b"web"),)),
        (HealthService("web", passing=True), (("service", b"web"),)),
        (HealthNode("N1"), (("node", b"n1"),)),
        (HealthChecks("web"), (("service", b"web"),)),
        (HealthState("any"), (("checks", b""),)),
        (HealthState("any", {"a": "b"}), (("checks", b""), ("nodes", b""))),
    ],
)
def test_a_query_depends_on_these_topics(query: Query, wanted: tuple[Topic, ...]) -> None:
    assert topics(query) == wanted


def test_every_kind_of_query_has_topics() -> None:
    samples: list[Query] = [
        KvListPage(b"", b"", 1), KvKeysPage(b"", b"", b"", 1),
        KvGet(b""), KvList(b""), KvKeys(b""), Nodes(), NodeInfo(""), Services(), ServiceNodes(""),
        HealthService(""), HealthNode(""), HealthChecks(""), HealthState(""), GetAutopilot(),
        Coordinates(), CoordinateOf(""), SessionInfo(""), Sessions(), KvChanges(b"", True, 0),
    ]  # fmt: skip
    never_waited_for = {ReadTxn, KvRevisions, KvAsOf}
    assert {type(query) for query in samples} == set(VALUES) - never_waited_for
    assert all(topics(query) for query in samples)


@pytest.mark.parametrize(
    ("touched", "woken"),
    [
        (("kv", b"a/1"), ["a/1", "*", "a/*", "a/1*"]),
        (("kv", b"a/"), ["a/*", "*"]),
        (("kv", b"a"), ["*"]),
        (("kv", b"b"), ["b", "*"]),
        (("kv-prefix", b"a/"), ["a/1", "a/2", "*", "a/*", "a/1*"]),
        (("kv-prefix", b""), ["a/1", "a/2", "b", "*", "a/*", "a/1*"]),
        (("kv-prefix", b"a/1/x"), ["*", "a/*", "a/1*"]),
        (("kv-prefix", b"zz"), ["*"]),
        (("service", b"web"), ["web"]),
        (("service", b"db"), []),
        (("node-id", b"abcd-1"), ["abcd", "abcd-"]),
        (("node-id", b"abc0"), []),
    ],
)
def test_a_touched_topic_wakes_these(touched: Topic, woken: list[str]) -> None:
    hub: Hub[str] = Hub()
    for name in ("a/1", "a/2", "b"):
        hub.add([("kv", name.encode())], name)
    for name in ("a/*", "a/1*", "*"):
        hub.add([("kv-prefix", name[:-1].encode())], name)
    hub.add([("service", b"web")], "web")
    hub.add([("node-id", b"abcd")], "abcd")
    hub.add([("node-id", b"abcd-")], "abcd-")
    assert sorted(hub.wake([touched])) == sorted(woken)


def test_waiters_are_woken_once_in_the_order_of_what_was_touched() -> None:
    hub: Hub[str] = Hub()
    hub.add([("nodes", b""), ("services", b"")], "both")
    hub.add([("services", b"")], "services")
    hub.add([("nodes", b"")], "nodes")
    assert hub.wake([("services", b""), ("nodes", b""), ("services", b"")]) == ["both", "services", "nodes"]
    assert hub.woken == 3


def test_a_waiter_stays_until_it_is_removed_and_leaves_nothing_behind() -> None:
    hub: Hub[str] = Hub()
    hub.add([("kv", b"a"), ("kv-prefix", b"a"), ("nodes", b""), ("node-id", b"aaaa")], "w")
    assert (len(hub), hub.watched) == (1, 4)
    assert hub.wake([("kv", b"a")]) == hub.wake([("kv", b"a")]) == ["w"]
    hub.remove("w")
    hub.remove("w")
    assert (len(hub), hub.watched) == (0, 0)
    assert hub.wake([("kv", b"a"), ("nodes", b""), ("node-id", b"aaaa"), ("kv-prefix", b"")]) == []
    assert hub.wake_all() == []


def test_everyone_is_woken_when_the_state_was_replaced() -> None:
    hub: Hub[int] = Hub()
    for number in range(3):
        hub.add([("kv", b"%d" % number)], number)
    assert hub.wake_all() == [0, 1, 2]


_bytes = st.lists(st.sampled_from([b"a", b"b", b"/", b"\xff"]), max_size=4).map(b"".join)
_watched = st.tuples(st.sampled_from(["kv", "kv-prefix"]), _bytes)


@settings(max_examples=200, deadline=None, derandomize=True)
@given(st.lists(st.tuples(_watched, st.booleans()), max_size=20), st.lists(_watched, max_size=4))
def test_keys_and_prefixes_meet_as_the_definition_says(
    added: list[tuple[Topic, bool]], touched: list[Topic]
) -> None:
    hub: Hub[int] = Hub()
    kept: dict[int, Topic] = {}
    for number, (topic, removed) in enumerate(added):
        hub.add([topic], number)
        hub.wake(touched)
        if removed:
            hub.remove(number)
        else:
            kept[number] = topic

    def meets(watched: Topic, was: Topic) -> bool:
        if was[0] == "kv":
            return watched[1] == was[1] if watched[0] == "kv" else was[1].startswith(watched[1])
        if watched[0] == "kv":
            return watched[1].startswith(was[1])
        return watched[1].startswith(was[1]) or was[1].startswith(watched[1])

    wanted = {number for number, topic in kept.items() if any(meets(topic, was) for was in touched)}
    found = hub.wake(touched)
    assert set(found) == wanted
    assert len(found) == len(wanted)
