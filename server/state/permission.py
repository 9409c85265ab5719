"""What a command or query needs permission for, and who says yes or no.

Every command and query has its entry here: an unlisted one fails loudly. The check is made where the
state is changed (`machine.py`, for every command) and where rows are read (the families' reads, row by
row), never only at the edge. `ALLOW_ALL` is recognised by identity and costs nothing.

A check or a deregistration may name a service only by its id, and a renewal a session: the permission goes by
the service's name and the session's node, so `operations` is handed a way to look them up (`Names`).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, Protocol

import msgspec

from gemot.server.model.autopilot import GetAutopilot, SetAutopilot
from gemot.server.model.catalog import (
    Deregister,
    HealthService,
    Node,
    NodeInfo,
    Nodes,
    Register,
    ServiceNodes,
    Services,
)
from gemot.server.model.changes import KvChanges
from gemot.server.model.command import Command
from gemot.server.model.coordinate import CoordinateOf, Coordinates, SetCoordinates
from gemot.server.model.errors import Forbidden
from gemot.server.model.health import HealthChecks, HealthNode, HealthState
from gemot.server.model.history import KvAsOf, KvRevisions
from gemot.server.model.kv import (
    ExpireKeys,
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
    SessionInfo,
    Sessions,
)
from gemot.server.model.txn import CheckFence, FenceGuard, KvOp, ReadTxn, Txn, TxnOp, reads, single
from gemot.server.model.upkeep import (
    PruneRetries,
    ReapTombstones,
    Tick,
    TrimChanges,
    TrimHistory,
    VerifyState,
)

Resource = Literal["key", "key-prefix", "node", "service", "session", "operator"]
Access = Literal["read", "list", "write"]


class Operation(msgspec.Struct, frozen=True, gc=False):
    """One thing that someone wants to do. `name` is a decoded key, or a name in UTF-8.

    `key-prefix` with `write` needs the right to write every key that starts with it.
    """

    resource: Resource
    name: bytes
    access: Access


class Authorizer(Protocol):
    def allowed(self, accessor: str, operation: Operation) -> bool:
        """May this accessor do it? At apply time: the same on every server, told from the state alone."""


class AllowAll:
    """Everything to everyone: access control is off."""

    def allowed(self, accessor: str, operation: Operation) -> bool:
        return True


ALLOW_ALL = AllowAll()


class Names(Protocol):
    """What is behind an id, in the state as it is."""

    def service_name(self, node: str, service_id: str) -> str:
        """The name of that service as registered, "" if there is none."""

    def session_node(self, id: str) -> str:
        """The node of that session, "" if there is none."""


class _Nothing:
    def service_name(self, node: str, service_id: str) -> str:
        return ""

    def session_node(self, id: str) -> str:
        return ""


NOTHING = _Nothing()


def operations(asked: Command | Query, names: Names = NOTHING) -> tuple[Operation, ...]:
    """Everything that must be allowed for `asked`. For a list: nothing, its rows are filtered instead."""
    match asked:
        case KvSet(key=key) | KvDelete(key=key):
            return (Operation("key", key, "write"),)
        case KvDeletePrefix(prefix=prefix):
            return (Operation("key-prefix", prefix, "write"),)
        case Register():
            return _registering(asked, names.service_name)
        case Deregister(node=node, service_id=service_id, check_id=_):
            return (_of_service_or_node(node, names.service_name(node, service_id) if service_id else ""),)
        case Restore():
            return (Operation("operator", b"", "write"),)
        case KvPurge() | Tick() | TrimChanges() | ReapTombstones() | PruneRetries() | VerifyState():
            return ()
        case EndLeases() | TrimHistory() | ExpireKeys():
            return ()
        case CreateSession(session=session):
            return (_of_session(session.node),)
        case DestroySession(id=id) | RenewSession(id=id):
            # Nobody may be denied what is not there: that it is not is the answer.
            return (_of_session(node),) if (node := names.session_node(id)) else ()
        case SetCoordinates():  # the leader's own; `Server.locate` has the token of who says where it stands
            return ()
        case SetAutopilot():
            return (Operation("operator", b"", "write"),)
        case GetAutopilot():
            return (Operation("operator", b"", "read"),)
        case KvGet(key=key) | KvRevisions(key=key) | KvAsOf(prefix=key, alone=True):
            return (Operation("key", key, "read"),)
        case KvAsOf() | KvListPage() | KvKeysPage():
            return ()
        case KvList() | KvKeys() | Nodes() | NodeInfo() | Services() | ServiceNodes() | HealthService():
            return ()
        case HealthNode() | HealthChecks() | HealthState() | Coordinates() | CoordinateOf():
            return ()
        case SessionInfo() | Sessions():
            return ()
        case Txn(ops=ops):  # each is looked at when it is tried: it may need what one before it brought
            return tuple(dict.fromkeys(needed for op in ops for needed in of_op(op, names)))
        case ReadTxn() | KvChanges():
            return ()
    raise AssertionError(f"no permission is declared for {type(asked).__name__}")


def of_op(op: TxnOp, names: Names = NOTHING) -> tuple[Operation, ...]:
    """Everything that must be allowed for one operation of a transaction. What it reads of the catalog and
    of trees is filtered instead."""
    if isinstance(op, FenceGuard):
        return (Operation("key", op.resource, "write"),)
    if isinstance(op, CheckFence):
        return (Operation("key", op.key, "read"),)
    if not reads(op) and (command := single(op)) is not None:
        return operations(command, names)
    if isinstance(op, KvOp) and op.verb != "get-tree":
        return (Operation("key", op.key, "read"),)
    return ()


def lacks(operation: Operation) -> str:
    name = operation.name.decode("utf-8", "replace")
    return f"lacks {operation.resource}:{operation.access} on {name!r}"


def require(authorizer: Authorizer, accessor: str, needed: tuple[Operation, ...]) -> None:
    """Raise Forbidden for the first operation that is not allowed."""
    for operation in needed:
        if not authorizer.allowed(accessor, operation):
            raise Forbidden(f"Permission denied: accessor {accessor or 'anonymous'!r} {lacks(operation)}")


def readable(kind: Literal["node", "service"], name: str) -> Operation:
    return Operation(kind, name.encode(), "read")


def _registering(asked: Register, service_name: Callable[[str, str], str]) -> tuple[Operation, ...]:
    node = asked.node.node
    needed: list[Operation] = []
    if not asked.skip_node_update or not asked.services:
        needed.append(_of_node(asked.node))
    named = {service.id or service.service: service.service for service in asked.services}
    for service in asked.services:
        needed.append(_of_service_or_node(node, service.service))
        if before := service_name(node, service.id or service.service):
            needed.append(_of_service_or_node(node, before))
    for check in asked.checks:
        name = named.get(check.service_id) or service_name(node, check.service_id) if check.service_id else ""
        needed.append(_of_service_or_node(node, name))
    return tuple(dict.fromkeys(needed))


def _of_session(node: str) -> Operation:
    return Operation("session", node.encode(), "write")


def _of_node(node: Node) -> Operation:
    return Operation("node", node.node.encode(), "write")


def _of_service_or_node(node: str, service: str) -> Operation:
    if service:
        return Operation("service", service.encode(), "write")
    return Operation("node", node.encode(), "write")
