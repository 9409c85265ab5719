"""What RPC sessions ask of a server: each call goes to the part that answers it; the rules are there.

Who connects, and Raft's messages, come in here as well.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from gemot.server.bootstrap import Bootstrap
from gemot.server.connected import Connected
from gemot.server.consensus import Replica
from gemot.server.directory import Directory
from gemot.server.keeping import Keeping
from gemot.server.model.command import Command, IdempotencyKey, RetryId
from gemot.server.model.coordinate import NodeCoordinate
from gemot.server.model.errors import Conflict, GemotError, NotLeader, OutcomeUnknown
from gemot.server.model.query import Answer, Applied, Options, Query
from gemot.server.operator import Operator
from gemot.server.ports import Identity, Timer, Upkeep
from gemot.server.raft.types import Message
from gemot.server.reports import Reports
from gemot.server.rpc.message import (
    FEATURES,
    PROTOCOL_MAX,
    PROTOCOL_MIN,
    Apply,
    Ask,
    Call,
    Enlist,
    FetchBlob,
    FetchSnapshot,
    Forward,
    Found,
    Hello,
    Join,
    Joined,
    Leave,
    Locate,
    Member,
    Operate,
    Passed,
    Promise,
    ReadArchive,
    Report,
    Stage,
    Status,
    Subscribe,
    Survey,
    Upload,
)
from gemot.server.status import ServerStatus
from gemot.server.writes import Name

_HELD_TOO_LONG = OutcomeUnknown(
    "the leader could not have this write confirmed in time; it may be done later"
)


class Verbs(Protocol):
    """The verbs of the server itself."""

    def apply(
        self,
        command: Command,
        token: str,
        retry: RetryId | IdempotencyKey | None,
        done: Callable[[Applied | GemotError], None],
        *,
        hold_ms: int = 0,
    ) -> None: ...

    def query(
        self,
        query: Query,
        options: Options,
        done: Callable[[Answer | GemotError], None],
        *,
        hold_ms: int = 0,
    ) -> Callable[[], None]: ...

    def subscribe(
        self, query: Query, token: str, from_index: int, done: Callable[[Any], None]
    ) -> Callable[[], None]: ...

    def locate(self, row: NodeCoordinate, token: str, done: Callable[[Any], None]) -> None: ...

    def propose(self, command: Command, accessor: str, retry: Name, done: Callable[[Any], None]) -> None: ...


class Endpoint:
    """The `Tier` of `rpc/session.py`. `expect` is `bootstrap_expect`."""

    def __init__(
        self,
        *,
        me: Member,
        verbs: Verbs,
        status: ServerStatus,
        replica: Replica,
        reports: Reports,
        operator: Operator,
        bootstrap: Bootstrap,
        keeping: Keeping,
        upkeep: Upkeep,
        directory: Directory,
        connected: Connected,
        identity: Identity,
        timer: Timer,
        expect: int,
        hold_ms: int,
    ) -> None:
        self._me = me
        self._verbs = verbs
        self._status = status
        self._replica = replica
        self._reports = reports
        self._operator = operator
        self._bootstrap = bootstrap
        self._keeping = keeping
        self._upkeep = upkeep
        self._directory = directory
        self._connected = connected
        self._identity = identity
        self._timer = timer
        self._expect = expect
        self._hold_ms = hold_ms

    def hello(self) -> Hello:
        return Hello(PROTOCOL_MIN, PROTOCOL_MAX, self._identity.cluster(), self._me, FEATURES)

    def on_connected(self, member: Member) -> None:
        self._connected.add(member)
        self._directory.learn(member)
        if self._replica.leads:
            self._reports.joined(member, afresh=True)
        else:
            self._reports.send()

    def on_disconnected(self, member: Member) -> None:
        self._connected.remove(member)

    def on_raft(self, member: Member, cluster: str, message: Message) -> None:
        """A Raft message: only from who it says it is, and only of our own cluster."""
        if member.role != "server" or message.sender != member.id:
            return
        mine = self._identity.cluster()
        if not cluster or mine not in ("", cluster) or not (self._bootstrap.founded(cluster) or mine):
            return
        self._replica.on_message(message)

    def handle(self, member: Member, call: Call, reply: Callable[[Any], None]) -> Callable[[], None]:
        match call:
            case Apply():
                self._verbs.apply(call.command, call.token, call.retry, reply, hold_ms=call.hold_ms)
            case Forward():
                self._forwarded(call, reply)
            case Ask():
                return self._verbs.query(call.query, call.options, reply, hold_ms=call.hold_ms)
            case Subscribe():
                return self._verbs.subscribe(call.query, call.token, call.from_index, reply)
            case Report():
                self._reports.hear(member, call)
                reply(True)
            case Locate():
                self._verbs.locate(call.row, call.token, reply)
            case Leave():
                self._operator.leave(call.node, reply, id=call.id, asked_by=member)
                if not self._replica.leads:
                    self._reports.send()  # without it: the next one tells that it is back
            case FetchSnapshot():
                reply(_caught(lambda: self._upkeep.read_chunk(call.index, call.term, call.offset)))
            case Join():
                self._directory.learn(member)
                if member.role == "server":
                    self._bootstrap.found(member, call.expect, "")
                servers = self._directory.servers()
                reply(Joined(servers, self._expect, self._identity.cluster()))
            case Promise():
                if self._operator.joining.begun:
                    reply(Conflict(f"{self._me.name} is about to join a cluster that exists"))
                else:
                    self._bootstrap.on_promise(call.cluster, member.id, call.voters, reply)
            case Found():
                self._bootstrap.on_found(call.cluster, call.voters, reply)
            case Enlist() | Operate() | Survey():
                self._operator.handle(member, call, reply)
            case Status():
                reply(self._status.tier())
            case ReadArchive() | Upload() | Stage() | FetchBlob() | Passed():
                return self._keeping.on_call(member.id, call, reply)
        return _nothing

    def _forwarded(self, call: Forward, reply: Callable[[Any], None]) -> None:
        """Never sent on: a server that does not lead says so, and the sender looks again."""
        if not self._replica.leads:
            reply(NotLeader(self._replica.raft.leader))
            return
        answered = False

        def answer(result: Any) -> None:
            nonlocal answered
            if not answered:
                answered = True
                cancel()
                reply(result)

        cancel = self._timer.call_after(self._hold_ms, lambda: answer(_HELD_TOO_LONG))
        self._verbs.propose(call.command, call.accessor, call.retry, answer)


def _caught(ask: Callable[[], Any]) -> Any:
    try:
        return ask()
    except GemotError as error:
        return error


def _nothing() -> None:
    """Cancels a call that needs no cancelling."""
