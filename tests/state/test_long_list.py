"""Where a read of the loop stops: by the rows it has to look at, of whatever family."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from support.one_state import OneState

from gemot.server.model.autopilot import GetAutopilot
from gemot.server.model.catalog import (
    HealthService,
    Node,
    NodeInfo,
    Nodes,
    Register,
    Service,
    ServiceNodes,
    Services,
)
from gemot.server.model.changes import KvChanges
from gemot.server.model.coordinate import (
    Coordinate,
    CoordinateOf,
    Coordinates,
    NodeCoordinate,
    SetCoordinates,
)
from gemot.server.model.health import Check, HealthChecks, HealthNode, HealthState
from gemot.server.model.history import KvAsOf, KvRevisions
from gemot.server.model.kv import (
    KvDelete,
    KvDeletePrefix,
    KvGet,
    KvKeys,
    KvKeysPage,
    KvList,
    KvListPage,
    KvSet,
)
from gemot.server.model.query import VALUES, Query
from gemot.server.model.session import CreateSession, Session, SessionInfo, Sessions
from gemot.server.model.txn import KvOp, ReadTxn
from gemot.server.model.upkeep import ReapTombstones, TrimHistory
from gemot.server.state.scope import TOMBSTONES_A_ROW, LongList

ROWS = 4

BEGAN = 4 * ROWS + 1
"""The index from which on history is kept."""

LISTS: list[tuple[Query, int]] = [
    (KvList(b"k"), ROWS),
    (KvKeys(b"k"), ROWS),
    (KvKeys(b"", b"0"), ROWS),
    (KvListPage(b"k", b"", 2), 3),
    (KvListPage(b"k", b"k1", 2), 2),
    (KvKeysPage(b"k", b"", b"", 1), 2),
    (KvKeysPage(b"", b"k", b"", 3), 1),
    (Nodes(), ROWS),
    (Nodes({"rack": "none"}), ROWS),
    (NodeInfo("n0"), 3),
    (Services(), ROWS),
    (Services({"rack": "none"}), ROWS),
    (ServiceNodes("web", ("none",)), ROWS),
    (HealthService("web"), ROWS * 3),
    (HealthService("web", passing=True), ROWS * 3),
    (HealthNode("n0"), 2),
    (HealthChecks("web"), ROWS),
    (HealthState("any"), ROWS * 2),
    (HealthState("critical"), ROWS * 2),
    (Coordinates(), ROWS),
    (Nodes(near="n0"), ROWS),
    (Sessions(), ROWS),
    (Sessions("n0"), 1),
    (ReadTxn((KvOp("get", b"k0"), KvOp("get-tree", b"k"), KvOp("get-tree", b"k1"))), ROWS + 1),
    (KvAsOf(b"k", BEGAN), ROWS),
]
"""Each query, and how many rows it looks at."""


@pytest.fixture
def one(tmp_path: Path) -> Iterator[OneState]:
    one = OneState(tmp_path)
    for number in range(ROWS):
        node = f"n{number}"
        checks = (
            Check(node, "own", "own", "passing"),
            Check(node, "web", "web", "passing", service_id="web"),
        )
        service = Service("web", "web")
        place = NodeCoordinate(node, Coordinate((number / 1_000, *(0.0,) * 7)))
        one.apply(
            KvSet(b"k%d" % number, b"v"),
            Register(Node(node, "10.0.0.1"), (service,), checks),
            SetCoordinates((place,)),
            CreateSession(Session(f"s{number}", node)),
        )
    one.apply(TrimHistory(64, 0, 1 << 30))
    assert one.index == BEGAN
    yield one
    one.close()


def test_every_query_but_of_one_row_is_bounded() -> None:
    of_one = {KvGet, GetAutopilot, CoordinateOf, SessionInfo, KvRevisions}
    assert {type(query) for query, _ in LISTS} | of_one | {KvChanges} == set(VALUES)


@pytest.mark.parametrize(("query", "rows"), LISTS, ids=lambda value: str(value))
def test_a_read_stops_at_the_row_after_its_limit(one: OneState, query: Query, rows: int) -> None:
    whole = one.read(query)
    assert one.state.read(query, "", rows) == whole
    with pytest.raises(LongList):
        one.state.read(query, "", rows - 1)


@pytest.mark.parametrize(("query", "rows"), LISTS, ids=lambda value: str(value))
def test_a_worker_reads_the_same_on_a_connection_of_its_own(one: OneState, query: Query, rows: int) -> None:
    found = one.read_elsewhere(query)
    assert (found.value, found.index) == one.read(query)
    assert found.as_of == one.index
    if not isinstance(query, HealthState):
        assert found.rows == rows


def test_tombstones_are_counted_over_restarts_and_reaping(one: OneState) -> None:
    """Many under one prefix make its list long; many elsewhere do not."""
    rows, many = 1, TOMBSTONES_A_ROW + 1
    for number in range(many):
        key = b"gone/%d" % number
        one.apply(KvSet(key, b""), KvDelete(key), KvSet(key, b""), KvDelete(key))
    for _ in range(2):
        with pytest.raises(LongList):
            one.state.read(KvList(b"gone/"), "", rows)
        assert one.state.read(KvList(b"none/"), "", rows)[0] == []
        one.reopen()
    one.apply(ReapTombstones(one.index))
    for _ in range(2):
        assert one.state.read(KvList(b"gone/"), "", rows)[0] == []
        assert one.state._buried == 0
        one.reopen()


def test_hidden_rows_are_looked_at_too(one: OneState) -> None:
    one.apply(KvDeletePrefix(b"k"))
    with pytest.raises(LongList):
        one.state.read(KvList(b"k"), "", ROWS - 1)


def test_a_read_that_stopped_leaves_nothing_open(one: OneState) -> None:
    """Else the connection that writes would hold on to an old state."""
    with pytest.raises(LongList):
        one.state.read(KvList(b"k"), "", 1)
    one.apply(KvSet(b"k9", b"v"))
    assert len(one.value(KvList(b"k"))) == ROWS + 1


def test_long_values_make_a_list_long_before_its_rows_do(one: OneState) -> None:
    one.apply(*(KvSet(b"big/%03d" % n, bytes(100_000)) for n in range(20)))
    with pytest.raises(LongList):
        one.state.read(KvList(b"big/"), "", 1_000)
    assert len(one.state.read(KvList(b"big/00"), "", 1_000)[0]) == 10
    assert len(one.state.read(KvKeys(b"big/", b""), "", 1_000)[0]) == 20
