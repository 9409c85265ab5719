"""Permission: every command and query declares what it needs, and is held to it where rows are touched."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import get_args

import pytest
from support.change_rows import changes_after
from support.one_state import OneState

from gemot.server.model.autopilot import AutopilotConfig, GetAutopilot, SetAutopilot
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
from gemot.server.model.changes import KvChanges
from gemot.server.model.command import Command
from gemot.server.model.coordinate import (
    Coordinate,
    CoordinateOf,
    Coordinates,
    NodeCoordinate,
    SetCoordinates,
)
from gemot.server.model.errors import Forbidden
from gemot.server.model.health import Check, HealthChecks, HealthNode, HealthState
from gemot.server.model.history import KvAsOf, KvRevisions
from gemot.server.model.kv import (
    ExpireKeys,
    KeyPage,
    KvDelete,
    KvDeletePrefix,
    KvGet,
    KvKeys,
    KvKeysPage,
    KvList,
    KvListPage,
    KvPurge,
    KvSet,
)
from gemot.server.model.query import Query
from gemot.server.model.restore import Restore
from gemot.server.model.session import (
    CreateSession,
    DestroySession,
    EndLeases,
    RenewSession,
    Session,
    SessionInfo,
    Sessions,
)
from gemot.server.model.txn import CheckFence, CheckOp, FenceGuard, KvOp, NodeOp, ReadTxn, ServiceOp, Txn
from gemot.server.model.upkeep import (
    PruneRetries,
    ReapTombstones,
    Tick,
    TrimChanges,
    TrimHistory,
    VerifyState,
)
from gemot.server.state.permission import Operation, operations

N1 = Node("n1", "10.0.0.1")
COMMANDS: list[tuple[Command, str]] = [
    (KvSet(b"a", b""), "key:write a"),
    (KvDelete(b"a"), "key:write a"),
    (KvDeletePrefix(b"a/"), "key-prefix:write a/"),
    (Register(N1), "node:write n1"),
    (Register(N1, (Service("", "web"),)), "node:write n1, service:write web"),
    (Register(N1, (Service("s", "web"),), skip_node_update=True), "service:write web"),
    (Register(N1, checks=(Check("", "c", "c"),)), "node:write n1"),
    (Register(N1, checks=(Check("", "c", "c", service_id="known"),)), "node:write n1, service:write db"),
    (Register(N1, (Service("known", "web"),)), "node:write n1, service:write web, service:write db"),
    (Deregister("n1"), "node:write n1"),
    (Deregister("n1", check_id="c"), "node:write n1"),
    (Deregister("n1", service_id="known"), "service:write db"),
    (Deregister("n1", service_id="other"), "node:write n1"),
    (KvPurge(1), ""),
    (Tick(), ""),
    (TrimChanges(1), ""),
    (TrimHistory(1, 1, 1), ""),
    (ReapTombstones(1), ""),
    (PruneRetries(1), ""),
    (VerifyState(1, b""), ""),
    (SetAutopilot(AutopilotConfig()), "operator:write "),
    (Restore(b"", "", 1, 1, 0), "operator:write "),
    (SetCoordinates((NodeCoordinate("n1", Coordinate()),)), ""),
    (CreateSession(Session("s1", "n1")), "session:write n1"),
    (DestroySession("s1"), "session:write n1"),
    (DestroySession("unknown"), ""),
    (RenewSession("s1"), "session:write n1"),
    (EndLeases((("s1", 0),)), ""),
    (ExpireKeys(((b"a", 1),)), ""),
    (Txn(()), ""),
    (Txn((KvOp("set", b"a"), KvOp("lock", b"a", session="s1"), KvOp("delete", b"a"))), "key:write a"),
    (Txn((KvOp("delete-tree", b"a/"), KvOp("check-index", b"b"))), "key-prefix:write a/, key:read b"),
    (Txn((KvOp("get-tree", b"a/"), NodeOp("get", N1))), ""),
    (Txn((CheckFence(b"a", 1), FenceGuard(b"r", 1))), "key:read a, key:write r"),
    (Txn((NodeOp("set", N1), NodeOp("delete-cas", N1))), "node:write n1"),
    (Txn((ServiceOp("set", "n1", Service("s", "web")),)), "service:write web"),
    (Txn((ServiceOp("delete", "n1", Service("known", "")),)), "service:write db"),
    (Txn((CheckOp("set", Check("n1", "c", "c")),)), "node:write n1"),
    (Txn((CheckOp("set", Check("n1", "c", "c", service_id="known")),)), "node:write n1, service:write db"),
]
QUERIES: list[Query] = [
    KvGet(b"a"), KvList(b"a"), KvKeys(b"a"), KvListPage(b"a", b"", 1), KvKeysPage(b"a", b"/", b"", 1),
    Nodes(), NodeInfo("n1"), Services(), ServiceNodes("web"),
    HealthService("web"), HealthNode("n1"), HealthChecks("web"), HealthState("any"), GetAutopilot(),
    Coordinates(), CoordinateOf("n1"), SessionInfo("s1"), Sessions(), Sessions("n1"),
    ReadTxn((KvOp("get", b"a"),)), KvChanges(b"a", True, 0), KvRevisions(b"a"), KvAsOf(b"a", 1),
    KvAsOf(b"a", 1, True),
]  # fmt: skip


class _Known:
    def service_name(self, node: str, service_id: str) -> str:
        return "db" if (node, service_id) == ("n1", "known") else ""

    def session_node(self, id: str) -> str:
        return "n1" if id == "s1" else ""


@pytest.mark.parametrize(("command", "wanted"), COMMANDS, ids=lambda value: str(value)[:40])
def test_a_command_needs_these_permissions(command: Command, wanted: str) -> None:
    found = [f"{o.resource}:{o.access} {o.name.decode()}" for o in operations(command, _Known())]
    assert ", ".join(found) == wanted


def test_no_command_and_no_query_is_without_an_entry() -> None:
    assert {type(command) for command, _ in COMMANDS} == set(get_args(Command))
    assert {type(query) for query in QUERIES} == set(get_args(Query))
    assert [query for query in QUERIES if operations(query)] == [
        KvGet(b"a"), GetAutopilot(), KvRevisions(b"a"), KvAsOf(b"a", 1, True),
    ]  # fmt: skip


class _Rules:
    """The accessor "none" may do nothing; others everything but what is called secret."""

    def allowed(self, accessor: str, operation: Operation) -> bool:
        return accessor != "none" and b"secret" not in operation.name


@pytest.fixture
def one(tmp_path: Path) -> Iterator[OneState]:
    state = OneState(tmp_path, authorizer=_Rules())
    yield state
    state.close()


def test_a_denied_command_is_forbidden_and_applies_nothing(one: OneState) -> None:
    denied: list[Command] = [
        KvSet(b"secret", b""),
        KvDelete(b"secret"),
        KvDeletePrefix(b"secret/"),
        Register(Node("secret", "10.0.0.1")),
        Register(N1, (Service("", "web"), Service("", "secret"))),
        Deregister("secret"),
    ]
    for command in denied:
        (outcome,) = one.machine.apply([one.entry(command)])
        assert isinstance(outcome.result, Forbidden), command
        assert "Permission denied" in outcome.result.message
        assert outcome.touched == ()
    assert changes_after(one.state, 0, 10) == []
    assert isinstance(one.result(KvSet(b"a", b""), accessor="none"), Forbidden)
    assert one.result(KvSet(b"a", b"")) is True


def test_the_name_of_a_service_is_looked_up_for_its_permission(one: OneState, tmp_path: Path) -> None:
    free = OneState(tmp_path, name="free.db")
    free.apply(Register(N1, (Service("s", "secret"),), (Check("", "c", "c", service_id="s"),)))
    free.file.snapshot_to(tmp_path / "copy")
    free.close()
    one.file.install(tmp_path / "copy")
    one.state.reload()
    one.index = one.state.applied_index
    assert isinstance(one.result(Deregister("n1", service_id="s")), Forbidden)
    assert isinstance(one.result(Register(N1, (Service("s", "web"),))), Forbidden)
    assert isinstance(one.result(Register(N1, checks=(Check("", "d", "d", service_id="s"),))), Forbidden)


def test_reads_leave_out_what_may_not_be_seen(one: OneState, tmp_path: Path) -> None:
    free = OneState(tmp_path, name="free.db")
    checks = (Check("", "n", "n"), Check("", "w", "w", service_id="web"), Check("", "s", "s", service_id="s"))
    free.apply(
        KvSet(b"a/open", b""),
        KvSet(b"a/secret", b""),
        Register(N1, (Service("", "web"), Service("s", "secret-service")), checks),
        Register(Node("secret-node", "10.0.0.2"), (Service("", "web"),), checks[:2]),
    )
    free.file.snapshot_to(tmp_path / "copy")
    free.close()
    one.file.install(tmp_path / "copy")
    one.state.reload()
    assert [e.key for e in one.value(KvList(b"a/"))] == [b"a/open"]
    assert one.value(KvKeys(b"")) == [b"a/open"]
    assert one.value(KvListPage(b"", b"", 1)).entries == one.value(KvList(b"a/"))
    hidden = one.value(KvListPage(b"", b"a/open", 1))
    assert (hidden.entries, hidden.next) == ([], b""), "what may not be seen is in no page"
    assert one.value(KvKeysPage(b"", b"/", b"", 1)) == KeyPage([b"a/"])
    assert one.value(KvKeysPage(b"", b"", b"", 1)) == KeyPage([b"a/open"])
    assert one.at(KvList(b"a/")) == 2, "the index counts what is hidden too: it says nothing of what"
    assert [node.node for node in one.value(Nodes())] == ["n1"]
    assert one.value(NodeInfo("secret-node")) is None
    assert [s.service for s in one.value(NodeInfo("n1")).services] == ["web"]
    assert [c.check_id for c in one.value(NodeInfo("n1")).checks] == ["n", "w"]
    assert one.value(Services()) == {"web": []}
    assert [e.node.node for e in one.value(ServiceNodes("web"))] == ["n1"]
    assert [e.node.node for e in one.value(HealthService("web"))] == ["n1"]
    assert one.value(HealthService("secret-service")) == []
    assert [c.check_id for c in one.value(HealthNode("n1"))] == ["n", "w"]
    assert one.value(HealthNode("secret-node")) == []
    assert one.value(HealthChecks("secret-service")) == []
    assert [c.node for c in one.value(HealthState("any"))] == ["n1", "n1"]


def test_a_single_key_that_may_not_be_read_is_forbidden(one: OneState) -> None:
    with pytest.raises(Forbidden, match="key:read on 'secret'"):
        one.read(KvGet(b"secret"))
    connection = one.file.reader()
    with pytest.raises(Forbidden):
        one.state.read_on(connection, KvGet(b"a"), "none")
    found = one.state.read_on(connection, KvGet(b"a"), "some")
    assert (found.value, found.index) == (None, 1)
    connection.close()
