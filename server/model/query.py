"""Everything that can be read, as one closed union; how to read it; and what comes back."""

from __future__ import annotations

from typing import Any, Literal

import msgspec

from gemot.server.model.autopilot import AutopilotRow, GetAutopilot
from gemot.server.model.catalog import (
    HealthService,
    Instance,
    Node,
    NodeDetail,
    NodeInfo,
    Nodes,
    ServiceNode,
    ServiceNodes,
    Services,
)
from gemot.server.model.changes import KvChanges, Told
from gemot.server.model.coordinate import CoordinateOf, Coordinates, NodeCoordinate
from gemot.server.model.health import Check, HealthChecks, HealthNode, HealthState
from gemot.server.model.history import AsOf, KvAsOf, KvRevisions, Revisions
from gemot.server.model.kv import EntryPage, KeyPage, KvEntry, KvGet, KvKeys, KvKeysPage, KvList, KvListPage
from gemot.server.model.session import LivingSession, Session, SessionInfo, Sessions
from gemot.server.model.txn import ReadTxn, TxnAnswer

Query = (
    KvGet
    | KvList
    | KvKeys
    | KvListPage
    | KvKeysPage
    | Nodes
    | NodeInfo
    | Services
    | ServiceNodes
    | HealthService
    | HealthNode
    | HealthChecks
    | HealthState
    | GetAutopilot
    | Coordinates
    | CoordinateOf
    | SessionInfo
    | Sessions
    | ReadTxn
    | KvChanges
    | KvRevisions
    | KvAsOf
)

Consistency = Literal["default", "consistent", "stale"]

DEFAULT_WAIT_MS = 300_000
MAX_WAIT_MS = 600_000


class Options(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """How to read. `index` 0 answers at once; N > 0 waits until the result is newer than N.

    `wait_ms` 0 means the server's default (DEFAULT_WAIT_MS unless it was told another), and more than its
    greatest (MAX_WAIT_MS) is cut to it; jitter of up to a
    sixteenth is added. `default` and `consistent` are linearizable; `stale` answers from the server
    that was asked, unless its last contact with the leader is older than `max_stale_ms` (0 = any).
    """

    index: int = 0
    wait_ms: int = 0
    consistency: Consistency = "default"
    max_stale_ms: int = 0
    token: str = ""


class Answer(msgspec.Struct, frozen=True, array_like=True):
    """What a read found. `value`'s type is told by the query (see VALUES).

    `index` is never 0 and, for one query, never goes back. `last_contact_ms` is 0 on the leader. `epoch`
    counts restores: what was read in another one need not have anything to do with this.
    """

    value: Any
    index: int
    known_leader: bool = True
    last_contact_ms: int = 0
    epoch: int = 0


VALUES: dict[type, Any] = {
    KvGet: KvEntry | None,
    KvList: list[KvEntry],
    KvKeys: list[bytes],
    KvListPage: EntryPage,
    KvKeysPage: KeyPage,
    Nodes: list[Node],
    NodeInfo: NodeDetail | None,
    Services: dict[str, list[str]],
    ServiceNodes: list[ServiceNode],
    HealthService: list[Instance],
    HealthNode: list[Check],
    HealthChecks: list[Check],
    HealthState: list[Check],
    GetAutopilot: AutopilotRow | None,
    Coordinates: list[NodeCoordinate],
    CoordinateOf: NodeCoordinate | None,
    SessionInfo: LivingSession | None,
    Sessions: list[Session],
    ReadTxn: TxnAnswer,
    KvChanges: Told,
    KvRevisions: Revisions,
    KvAsOf: AsOf,
}
"""The type of `Answer.value` for each query: what a receiver decodes into."""


class Applied(msgspec.Struct, frozen=True, array_like=True):
    """A write that is durable on a majority and applied. `value` is True/False, a count or a fence; of a Txn
    its answer in MessagePack (`txn.decode`)."""

    index: int
    value: bool | int | bytes
