"""Random histories against the naive model: values, indexes, wake-ups and hashes after every command."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, get_args

import msgspec
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.naive_state import NaiveState
from support.one_state import OneState

from gemot.server.model.catalog import (
    Deregister,
    HealthService,
    Node,
    NodeInfo,
    Nodes,
    Register,
    Service,
    ServiceNodes,
    Services,
)
from gemot.server.model.command import Command
from gemot.server.model.coordinate import (
    Coordinate,
    CoordinateOf,
    Coordinates,
    NodeCoordinate,
    SetCoordinates,
)
from gemot.server.model.errors import RuleFailed
from gemot.server.model.health import Check, HealthChecks, HealthNode, HealthState
from gemot.server.model.kv import (
    ExpireKeys,
    KvDelete,
    KvDeletePrefix,
    KvEntry,
    KvGet,
    KvKeys,
    KvKeysPage,
    KvList,
    KvListPage,
    KvPurge,
    KvSet,
)
from gemot.server.model.query import Applied, Query
from gemot.server.model.session import (
    CreateSession,
    DestroySession,
    EndLeases,
    LivingSession,
    RenewSession,
    Session,
    SessionInfo,
    Sessions,
)
from gemot.server.model.txn import CheckFence, FenceGuard, KvOp, KvVerb, NodeOp, Txn, decode
from gemot.server.model.upkeep import ReapTombstones, Tick, TrimChanges
from gemot.server.state.watch import Hub, topics

KEYS = [b"a", b"a/", b"a/1", b"a/2", b"a/b/1", b"ab", b"b", b"\xff", b"\xff\xff"]
PREFIXES = [b"", b"a", b"a/", b"a/b", b"a/b/1/x", b"b", b"\xff", b"zz"]
PAGES = [
    (b"", b"", 1),
    (b"", b"a/", 2),
    (b"a", b"", 2),
    (b"a/", b"a/b/1", 1),
    (b"", b"b", 9),
    (b"b", b"a", 1),
]
NODES = ["n1", "n2", "n3"]
SERVICES = ["web", "db"]
SESSIONS = ["s1", "s2", "s3"]
ALIVE = tuple([Check("", id, id, "passing") for id in ("c1", "c2")])

_key = st.sampled_from(KEYS)
_value = st.sampled_from([b"", b"x", b"y"])
_cas = st.none() | st.integers(0, 30)
_kv_commands: st.SearchStrategy[Command] = st.one_of(
    st.builds(KvSet, key=_key, value=_value, flags=st.sampled_from([0, 2**64 - 1]), cas=_cas),
    st.builds(KvSet, key=_key, value=_value),
    st.builds(KvSet, key=_key, value=_value, ttl_ms=st.sampled_from([1_000, 2_000, 10_000])),
    st.builds(KvDelete, key=_key, cas=_cas),
    st.builds(KvDeletePrefix, prefix=st.sampled_from(PREFIXES)),
)
_upkeep: st.SearchStrategy[Command] = st.one_of(
    st.builds(KvPurge, limit=st.integers(1, 4)),
    st.builds(ExpireKeys, keys=st.lists(st.tuples(_key, st.integers(0, 30)), max_size=2).map(tuple)),
    st.builds(ReapTombstones, through=st.integers(0, 60)),
    st.builds(TrimChanges, through=st.integers(0, 60)),
    st.just(Tick()),
)
_meta = st.sampled_from([{}, {"rack": "1"}, {"rack": "2"}])
_node = st.builds(
    Node, node=st.sampled_from(NODES), address=st.sampled_from(["10.0.0.1", "10.0.0.2"]), meta=_meta
)
_service = st.builds(
    Service,
    id=st.sampled_from(["s1", "s2"]),
    service=st.sampled_from(SERVICES),
    tags=st.sampled_from([(), ("v1",), ("V2", "v1")]),
    port=st.sampled_from([80, 81]),
)
_check = st.builds(
    Check,
    node=st.just(""),
    check_id=st.sampled_from(["c1", "c2"]),
    name=st.just("check"),
    status=st.sampled_from(["passing", "warning", "critical"]),
    output=st.sampled_from(["", "out"]),
    service_id=st.sampled_from(["", "s1", "s2"]),
)
_catalog_commands: st.SearchStrategy[Command] = st.one_of(
    st.builds(
        Register,
        node=_node,
        services=st.lists(_service, max_size=2, unique_by=lambda s: s.id).map(tuple),
        checks=st.lists(_check, max_size=2, unique_by=lambda c: c.check_id).map(tuple),
        skip_node_update=st.booleans(),
    ),
    st.builds(
        Deregister,
        node=st.sampled_from(NODES),
        service_id=st.sampled_from(["", "", "s1", "s2"]),
        check_id=st.sampled_from(["", "c1", "c2"]),
    ),
)
_place = st.builds(
    NodeCoordinate,
    node=st.sampled_from(NODES),
    coordinate=st.sampled_from([Coordinate(), Coordinate(error=0.5), Coordinate((1.0, *(0.0,) * 7))]),
)
_coordinates: st.SearchStrategy[Command] = st.builds(
    SetCoordinates, rows=st.lists(_place, max_size=3, unique_by=lambda row: row.node).map(tuple)
)
_session_id = st.sampled_from(SESSIONS)
_locks: st.SearchStrategy[Command] = st.one_of(
    st.builds(
        CreateSession,
        session=st.builds(
            Session,
            id=_session_id,
            node=st.sampled_from(NODES),
            lock_delay_ns=st.sampled_from([0, 1_000_000_000]),
            behavior=st.sampled_from(["release", "delete"]),
            ttl_ms=st.sampled_from([0, 1_000, 4_000]),
            node_checks=st.sampled_from([(), ("c1",), ("c1", "c2")]),
        ),
    ),
    st.builds(DestroySession, id=_session_id),
    st.builds(RenewSession, id=_session_id),
    st.builds(EndLeases, leases=st.just(())),
    st.builds(KvSet, key=_key, value=_value, acquire=_session_id),
    st.builds(KvSet, key=_key, value=_value, acquire=_session_id),
    st.builds(KvSet, key=_key, value=_value, release=_session_id),
)
_key_ops = st.builds(
    KvOp,
    verb=st.sampled_from([*get_args(KvVerb), "set", "get-or-empty"]),
    key=_key,
    value=_value,
    index=st.integers(0, 30),
    session=_session_id,
)
_txns: st.SearchStrategy[Command] = st.builds(
    Txn,
    ops=st.lists(
        st.one_of(
            _key_ops,
            _key_ops,
            st.builds(KvOp, verb=st.sampled_from(["set", "get-tree", "delete-tree"]), key=_key),
            st.builds(KvOp, verb=st.just("set"), key=_key, ttl_ms=st.sampled_from([1_000, 10_000])),
            st.builds(NodeOp, verb=st.sampled_from(["set", "delete"]), node=_node),
            st.builds(CheckFence, key=_key, fence=st.integers(4, 40)),
            st.builds(FenceGuard, resource=st.sampled_from([b"r", b"q"]), fence=st.integers(1, 5)),
        ),
        min_size=1,
        max_size=4,
    ).map(tuple),
)
_living: st.SearchStrategy[Command] = st.one_of(
    st.builds(Register, node=_node, checks=st.tuples(_check)), _catalog_commands
)
_commands = st.lists(
    st.one_of(_kv_commands, _catalog_commands, _coordinates, _upkeep, _locks, _txns), min_size=1, max_size=40
)
_sessions_most = st.lists(st.one_of(_living, _locks, _locks, _kv_commands, _upkeep), min_size=10, max_size=60)
_kv_only = st.lists(st.one_of(_kv_commands, _kv_commands, _upkeep), min_size=1, max_size=50)
_catalog_only = st.lists(st.one_of(_catalog_commands, _coordinates), min_size=1, max_size=40)

KV_QUERIES: list[Query] = [
    *(KvGet(key) for key in KEYS),
    *(KvList(prefix) for prefix in PREFIXES),
    *(KvKeys(prefix, b"/") for prefix in PREFIXES),
    *(KvListPage(prefix, after, limit) for prefix, after, limit in PAGES),
    *(KvKeysPage(prefix, separator, *page) for separator in (b"", b"/") for prefix, *page in PAGES),
]
CATALOG_QUERIES: list[Query] = [
    Nodes(),
    Nodes({"rack": "1"}),
    *(NodeInfo(node) for node in NODES),
    *(HealthNode(node) for node in NODES),
    Services(),
    Services({"rack": "2"}),
    *(ServiceNodes(service) for service in SERVICES),
    ServiceNodes("web", ("v2",), {"rack": "1"}),
    *(HealthService(service) for service in SERVICES),
    HealthService("web", ("V1",), {}, True),
    *(HealthChecks(service) for service in SERVICES),
    HealthChecks("db", {"rack": "1"}),
    *(HealthState(state) for state in ("any", "passing", "critical", "nonsense")),
    HealthState("any", {"rack": "2"}),
    Coordinates(),
    *(CoordinateOf(node) for node in NODES),
]
SESSION_QUERIES: list[Query] = [
    Sessions(),
    *(Sessions(node) for node in NODES),
    *(SessionInfo(id) for id in SESSIONS),
]

_bounded = settings(
    max_examples=60, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow]
)


@contextmanager
def _one() -> Iterator[OneState]:
    with tempfile.TemporaryDirectory() as folder:
        one = OneState(Path(folder))
        one.skip(3)
        try:
            yield one
        finally:
            one.close()


def _run(commands: list[Command], queries: list[Query]) -> None:
    hub: Hub[int] = Hub()
    for number, query in enumerate(queries):
        hub.add(topics(query), number)
    model = NaiveState()
    with _one() as one:
        before = [_seen(one, query) for query in queries]
        for command in commands:
            one.time_ms += 500
            if isinstance(command, ExpireKeys):
                command = ExpireKeys((*one.state.keys_due(one.time_ms), *command.keys))
            if isinstance(command, EndLeases):
                command = EndLeases(one.state.leases_due(one.time_ms))
            (outcome,) = one.apply(command)
            wanted = model.apply(command, one.index, one.time_ms)
            if isinstance(outcome.result, Applied) and not isinstance(command, KvPurge):
                found = outcome.result.value
                assert (not decode(found).errors if isinstance(command, Txn) else found) == wanted, command
            else:
                assert isinstance(command, KvPurge) or (isinstance(outcome.result, RuleFailed) and not wanted)
            woken = hub.wake(outcome.touched)
            after = [_seen(one, query) for query in queries]
            for number, query in enumerate(queries):
                (old, old_index), (new, new_index) = before[number], after[number]
                assert new == model.read(query), (command, query)
                assert old_index <= new_index <= one.index, ("an index went back", command, query)
                if new != old:
                    assert new_index == one.index, ("a change without its index", command, query)
                    assert number in woken, ("a change that woke nobody", command, query)
            before = after
        one.state.verify()
        one.reopen()
        assert [_seen(one, query) for query in queries] == before


def _seen(one: OneState, query: Query) -> tuple[Any, int]:
    """Without what is left of a lease or a TTL: that moves with time, and not with an index."""
    value, index = one.read(query)
    if isinstance(value, KvEntry):
        value = msgspec.structs.replace(value, remaining_ms=0)
    return value.session if isinstance(value, LivingSession) else value, index


@_bounded
@given(_sessions_most)
def test_sessions_and_locks_answer_as_the_model_does_and_every_change_moves_its_index_and_wakes(
    commands: list[Command],
) -> None:
    alive = [Register(Node(name, "10.0.0.1"), checks=ALIVE) for name in NODES]
    _run([*alive, *commands], [*KV_QUERIES, *SESSION_QUERIES])


@_bounded
@given(st.lists(st.one_of(_txns, _txns, _locks, _kv_commands, _upkeep), min_size=5, max_size=40))
def test_transactions_answer_as_the_model_does_and_every_change_moves_its_index_and_wakes(
    commands: list[Command],
) -> None:
    alive = [Register(Node(name, "10.0.0.1"), checks=ALIVE) for name in NODES]
    _run([*alive, *commands], [*KV_QUERIES, *SESSION_QUERIES, *CATALOG_QUERIES])


@_bounded
@given(_kv_only)
def test_keys_answer_as_the_model_does_and_every_change_moves_its_index_and_wakes(
    commands: list[Command],
) -> None:
    _run(commands, KV_QUERIES)


@_bounded
@given(_catalog_only)
def test_the_catalog_answers_as_the_model_does_and_every_change_moves_its_index_and_wakes(
    commands: list[Command],
) -> None:
    _run(commands, CATALOG_QUERIES)


@_bounded
@given(_commands)
def test_a_command_that_changes_no_row_touches_nothing_and_moves_no_index(commands: list[Command]) -> None:
    queries = KV_QUERIES + CATALOG_QUERIES
    with _one() as one:
        for command in commands:
            one.apply(command)
            if isinstance(command, KvPurge | ReapTombstones | KvDelete | KvDeletePrefix | KvSet | Txn):
                continue
            before = [one.read(query) for query in queries]
            assert one.touched(command) == (), "the same again"
            assert [one.read(query) for query in queries] == before


@_bounded
@given(_commands, st.integers(1, 7), st.data())
def test_the_state_hash_depends_on_the_entries_and_not_on_how_they_were_batched(
    commands: list[Command], size: int, data: st.DataObject
) -> None:
    with _one() as singly, _one() as batched:
        for command in commands:
            singly.apply(command)
        for first in range(0, len(commands), size):
            batched.apply(*commands[first : first + size])
            if data.draw(st.booleans()):
                batched.reopen()
        assert batched.state.state_hash == singly.state.state_hash
        singly.state.verify()
        batched.state.verify()
