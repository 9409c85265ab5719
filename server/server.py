"""One server of the tier, put together from its parts; its face to the agent and to RPC.

It wires and hands on; the rules are in the parts. Everything here runs as event handlers on one thread,
over the ports of `ports.py`, and so runs the same in the simulator.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec

from gemot.server.bootstrap import Bootstrap, Pledge
from gemot.server.confirm import Confirmations
from gemot.server.consensus import Replica
from gemot.server.directory import Directory
from gemot.server.install import Installer
from gemot.server.keeping import Keeping
from gemot.server.leader import Leader
from gemot.server.machine import Machine, RestoreDue
from gemot.server.members import SERVERS, Connected, Membership
from gemot.server.model.catalog import SERF_HEALTH, Deregister, NodeDetail, NodeInfo, Nodes
from gemot.server.model.command import Command, IdempotencyKey, RetryId
from gemot.server.model.errors import GemotError, NotLeader, OutcomeUnknown
from gemot.server.model.query import DEFAULT_WAIT_MS, MAX_WAIT_MS, Answer, Applied, Options, Query
from gemot.server.ports import Archives, Identity, Log, Peers, Random, Reader, Timer, Upkeep
from gemot.server.raft.node import Raft
from gemot.server.raft.types import (
    Message,
    ReadState,
    SnapshotMeta,
    SnapshotOffer,
)
from gemot.server.reads import LIST_ROWS, Reads
from gemot.server.rpc.message import (
    PROTOCOL_MAX,
    PROTOCOL_MIN,
    Apply,
    Ask,
    Bookmark,
    Call,
    FetchBlob,
    FetchSnapshot,
    Forward,
    Found,
    Hello,
    Join,
    Joined,
    Leave,
    Member,
    Passed,
    Promise,
    ReadArchive,
    Report,
    Stage,
    Status,
    Subscribe,
    TierStatus,
    Upload,
    fault_of,
)
from gemot.server.state.store import State
from gemot.server.state.watch import Hub, Topic
from gemot.server.writes import Name, RetryIds, Writes

SECOND_MS = 1_000
STORM = 16
"""Times `snapshot_entries`: with so many entries since the last snapshot the rest between two is over."""


class ServerConfig(msgspec.Struct, frozen=True):
    """Limits and paces of one server. Times in milliseconds, sizes in entries or bytes."""

    bootstrap_expect: int = 0
    hold_ms: int = 7_000
    snapshot_entries: int = 16_384
    snapshot_rest_ms: int = 30_000
    trailing_entries: int = 10_240
    checkpoint_wal_bytes: int = 16 << 20
    default_wait_ms: int = DEFAULT_WAIT_MS
    max_wait_ms: int = MAX_WAIT_MS
    list_rows: int = LIST_ROWS


class Server:
    """A member of the tier. Drive it by `on_tick` and the ports' callbacks; ask it by the verbs below."""

    def __init__(
        self,
        *,
        me: Member,
        config: ServerConfig,
        raft: Raft,
        log: Log,
        state: State,
        machine: Machine,
        identity: Identity,
        upkeep: Upkeep,
        peers: Peers,
        timer: Timer,
        random: Random,
        reader: Reader,
        archives: Archives | None = None,
    ) -> None:
        self.me = me
        self._config = config
        self._raft = raft
        self._log = log
        self.state = state
        self._identity = identity
        self._upkeep = upkeep
        self._peers = peers
        self._timer = timer
        self._random = random
        self.directory = Directory(me)
        self.connected = Connected(me)
        self.replica = Replica(raft=raft, log=log, machine=machine, state=state, wire=peers, timer=timer)
        hub: Hub[Any] = Hub()
        self.confirmations = Confirmations(
            ask=self.replica.read_index,
            applied=lambda: state.applied_index,
            timer=timer,
            random=random,
            hold_ms=config.hold_ms,
            waiting=self.waiting_for,
        )
        self.reads = Reads(
            state=state,
            hub=hub,
            contact=self,
            confirmations=self.confirmations,
            timer=timer,
            random=random,
            reader=reader,
            default_wait_ms=config.default_wait_ms,
            max_wait_ms=config.max_wait_ms,
            list_rows=config.list_rows,
        )
        self.writes = Writes(
            proposer=self,
            forwarder=self,
            ids=RetryIds(random.randbytes(8)),
            timer=timer,
            random=random,
            hold_ms=config.hold_ms,
            waiting=self.waiting_for,
        )
        self.membership = Membership(
            propose=lambda command: self.replica.propose(command, "", None, _ignore),
            look=self._node,
            alive_in_catalog=self._alive_nodes,
            former_leader=lambda: self.replica.former_leader,
            now_ms=timer.now_ms,
        )
        self.leader = Leader(replica=self.replica, state=state, membership=self.membership, timer=timer)
        self.installer = Installer(
            replica=self.replica,
            log=log,
            call=self._call_server,
            inbox=upkeep.inbox,
            replace_state=upkeep.replace_state,
            timer=timer,
            busy=lambda: self._copying() or self.keeping.busy,
            readers=self.reads,
        )
        self.keeping = Keeping(
            me=me.id,
            archives=archives,
            raft=raft,
            replica=self.replica,
            state=state,
            log=log,
            confirmations=self.confirmations,
            contact=self,
            directory=self.directory,
            cluster=identity.cluster,
            call=self._call_server,
            apply=lambda command, token, done: self.apply(command, token, None, done),
            busy=lambda: self._copying() or self.installer.replacing or self.reads.reading,
            hold_reads=self.reads.hold,
            taken=self._snapshot_taken,
            timer=timer,
            random=random,
        )
        self.bootstrap = Bootstrap(
            me=me,
            expect=config.bootstrap_expect,
            pledge=_decode_pledge(identity.pledge()),
            has_data=lambda: raft.last_index > 0,
            has_leader=lambda: bool(raft.leader),
            is_known=lambda member: self.directory.get(member.id) is not None,
            mint_cluster=lambda: random.randbytes(16).hex(),
            call=peers.call,
            keep=lambda pledge, done: identity.keep_pledge(_pledges.encode(pledge), done),
            begin=self._begin,
        )
        self._second_due = timer.now_ms()
        self._snapshotting = False
        self._snapshot_ms = -config.snapshot_rest_ms
        self._checkpointing = False

    # -- life --------------------------------------------------------------------------------------

    def start(self) -> None:
        self._learn_from_catalog()
        self.replica.start(self)

    def on_tick(self) -> None:
        """One tick of Raft's clock."""
        self.replica.on_tick()
        self.confirmations.on_tick()
        self.writes.on_tick()
        self.keeping.on_tick()
        if not self.replica.held:
            self.leader.on_tick()
        now = self._timer.now_ms()
        if now >= self._second_due:
            self._second_due = now + SECOND_MS
            self._each_second()

    def _each_second(self) -> None:
        self.bootstrap.on_tick()
        self._report()
        self._tell_bookmarks()
        self._keep_small()

    def _tell_bookmarks(self) -> None:
        """Everything up to here was told."""
        if self.replica.held:
            return
        at = self.state.index
        self.reads.bookmark(Bookmark(at, self.knows_leader(), self.last_contact_ms()))

    def _keep_small(self) -> None:
        if self.installer.replacing or self.replica.held:
            return
        self.state.settle()
        if self._snapshot_due() and not self._snapshotting:
            self._snapshotting = True
            self._snapshot_ms = self._timer.now_ms()
            self._upkeep.take_snapshot(self._raft.voters_at(self.state.applied_index), self._snapshot_taken)
        if self.state.wal_bytes() >= self._config.checkpoint_wal_bytes and not self._checkpointing:
            self._checkpointing = True
            self._upkeep.checkpoint(self._checkpointed)

    def _snapshot_due(self) -> bool:
        """Enough entries since the last one; and under a storm of writes not a copy every few seconds."""
        newest = self._upkeep.newest_snapshot()
        since = self.state.applied_index - (newest.index if newest is not None else 0)
        rested = self._timer.now_ms() - self._snapshot_ms >= self._config.snapshot_rest_ms
        enough = self._config.snapshot_entries
        return since >= enough and (rested or since >= STORM * enough)

    def _snapshot_taken(self, meta: SnapshotMeta) -> None:
        self._snapshotting = False
        oldest = self._upkeep.oldest_snapshot()
        assert oldest is not None, "a snapshot was just taken"
        through = min(oldest.index, self.state.applied_index - self._config.trailing_entries)
        if through > 0:
            self._log.compact(through)
        self._raft.compacted(max(through, 0), meta)

    def _copying(self) -> bool:
        return self._snapshotting or self._checkpointing

    def _checkpointed(self, _proven: int) -> None:
        self._checkpointing = False

    # -- what the agent of this host, or a session, asks ---------------------------------------------

    def apply(
        self,
        command: Command,
        token: str,
        retry: RetryId | IdempotencyKey | None,
        done: Callable[[Applied | GemotError], None],
        *,
        hold_ms: int = 0,
    ) -> None:
        self.writes.apply(command, _accessor(token), retry, done, hold_ms=hold_ms)

    def query(
        self,
        query: Query,
        options: Options,
        done: Callable[[Answer | GemotError], None],
        *,
        hold_ms: int = 0,
    ) -> Callable[[], None]:
        if self._raft.repairing:
            # What is left here may be old history: even a stale read waits until this server is whole.
            options = msgspec.structs.replace(options, consistency="default")
        return self.reads.query(query, options, _accessor(options.token), done, hold_ms=hold_ms)

    def subscribe(
        self, query: Query, token: str, from_index: int, done: Callable[[Any], None]
    ) -> Callable[[], None]:
        """Answers to `query` as it changes, with a Bookmark each second between them."""
        return self.reads.subscribe(query, _accessor(token), from_index, done)

    def leave(self, node: str, done: Callable[[Any], None]) -> None:
        """A node leaves on purpose; told to the leader. Done means that the catalog says so durably."""
        self.connected.forget(node)
        if self.replica.leads:
            self.membership.left(node)
            self.writes.apply(Deregister(node), "", None, lambda r: done(r if _failed(r) else True))
        elif (leader := self.directory.get(self._raft.leader)) is not None:
            self._peers.call(leader, Leave(node), done)
        else:
            done(NotLeader(""))

    def status(self) -> TierStatus:
        """How this server sees the tier; needs no quorum."""
        voters = tuple(
            self.directory.get(id) or Member(id, id, "", "server", self.me.datacenter, "")
            for id in self._raft.voters
        )
        return TierStatus(self.directory.get(self._raft.leader), voters, self.stats())

    def stats(self) -> dict[str, dict[str, str]]:
        raft = {
            "state": self._raft.role.name.capitalize(),
            "term": str(self._raft.term),
            "commit_index": str(self._raft.commit),
            "applied_index": str(self.state.applied_index),
            "last_log_index": str(self._raft.last_index),
            "num_peers": str(max(0, len(self._raft.voters) - 1)),
            "last_contact": f"{self.last_contact_ms()}ms",
            "repairing": str(self._raft.repairing).lower(),
        }
        for peer in self._raft.status().peers:
            seen = f"match={peer.match} next={peer.next} mode={peer.mode} inflight={peer.inflight}"
            raft[f"peer {self.directory.name(peer.id)}"] = f"{seen} heard={peer.heard_ticks_ago} ticks ago"
        leader = self.directory.get(self._raft.leader)
        tier = {
            "server": "true",
            "leader": str(self.replica.leads).lower(),
            "leader_addr": leader.rpc if leader is not None else "",
            "bootstrap": str(self._config.bootstrap_expect == 1).lower(),
            "cluster": self._identity.cluster(),
            "waiting": self.waiting_for(),
            "state_hash": self.state.state_hash.hex(),
            "epoch": str(self.state.epoch),
        }
        return {"raft": raft, "consul": tier}

    def waiting_for(self) -> str:
        """What keeps this server from serving, for people; "" when nothing does."""
        if not self._identity.cluster():
            return self.bootstrap.waiting_for if self._config.bootstrap_expect else "Waiting for a cluster"
        if self._raft.repairing:
            return "Repairing: part of the log was damaged and is fetched from the other servers"
        if self._raft.leader:
            return self.keeping.waiting_for
        return self._waiting_for_quorum()

    def _waiting_for_quorum(self) -> str:
        """Who is there of those that have to agree, and what became of the others."""
        voters = self._raft.voters
        away = {id: self._peers.unreached(id) for id in voters if id != self.me.id}
        have = sorted(self.directory.name(id) for id in voters if not away.get(id))
        what = "an election" if len(have) * 2 > len(voters) else "quorum"
        told = f"Waiting for {what}: have {len(have)} of {len(voters)} ({', '.join(have)})"
        return "; ".join([told, *sorted(why for why in away.values() if why)])

    # -- Tier: what sessions ask ---------------------------------------------------------------------

    def hello(self) -> Hello:
        return Hello(PROTOCOL_MIN, PROTOCOL_MAX, self._identity.cluster(), self.me)

    def on_connected(self, member: Member) -> None:
        self.connected.add(member)
        self.directory.learn(member)
        if self.replica.leads:
            self._joined(member)
        else:
            self._report()

    def on_disconnected(self, member: Member) -> None:
        self.connected.remove(member)

    def on_raft(self, member: Member, cluster: str, message: Message) -> None:
        """A Raft message: only from who it says it is, and only of our own cluster."""
        if member.role != "server" or message.sender != member.id:
            return
        mine = self._identity.cluster()
        if not mine and cluster and self.bootstrap.promised(cluster):
            self._adopt(cluster)
        elif not mine or cluster != mine:
            return
        self.replica.on_message(message)

    def handle(self, member: Member, call: Call, reply: Callable[[Any], None]) -> Callable[[], None]:
        match call:
            case Apply():
                self.apply(call.command, call.token, call.retry, reply, hold_ms=call.hold_ms)
            case Forward():
                self._forwarded(call, reply)
            case Ask():
                return self.query(call.query, call.options, reply, hold_ms=call.hold_ms)
            case Subscribe():
                return self.subscribe(call.query, call.token, call.from_index, reply)
            case Report():
                for each in call.members:
                    self._heard_of(each)
                reply(True)
            case Leave():
                self.leave(call.node, reply)
            case FetchSnapshot():
                reply(_caught(lambda: self._upkeep.read_chunk(call.index, call.term, call.offset)))
            case Join():
                self.directory.learn(member)
                if member.role == "server":
                    self.bootstrap.found(member, call.expect, "")
                servers = self.directory.servers()
                reply(Joined(servers, self._config.bootstrap_expect, self._identity.cluster()))
            case Promise():
                self.bootstrap.on_promise(call.cluster, member.id, call.voters, reply)
            case Found():
                self.bootstrap.on_found(call.cluster, call.voters, reply)
            case Status():
                reply(self.status())
            case ReadArchive() | Upload() | Stage() | FetchBlob() | Passed():
                return self.keeping.on_call(member.id, call, reply)
        return _nothing

    # -- Watcher: what the replica tells ---------------------------------------------------------------

    def on_read_states(self, states: tuple[ReadState, ...]) -> None:
        for state in states:
            self.confirmations.on_answer(state.id, state.index)

    def on_applied(self, touched: list[Topic]) -> None:
        self.reads.on_applied(touched)

    def on_replaced(self) -> None:
        self.keeping.on_replaced()
        self.reads.on_replaced()
        if self.replica.leads:
            # What this leader knew of the state is of no use: it begins its duties anew.
            self.leader.on_leadership(True)

    def on_restore(self, due: RestoreDue) -> None:
        self.keeping.on_restore(due)

    def on_leadership(self, leads: bool) -> None:
        self.leader.on_leadership(leads)
        if leads:
            self._report()

    def on_install(self, offer: SnapshotOffer) -> None:
        self.installer.on_install(offer)

    # -- Proposer, Forwarder, Contact: what the parts ask ----------------------------------------------

    @property
    def leads(self) -> bool:
        return self.replica.leads

    def leader_id(self) -> str:
        return self._raft.leader

    def propose(self, command: Command, accessor: str, retry: Name, done: Callable[[Any], None]) -> None:
        self.replica.propose(command, accessor, retry, done)

    def forward(
        self, to: str, command: Command, accessor: str, retry: Name, done: Callable[[Any], None]
    ) -> None:
        self._call_server(to, Forward(command, accessor, retry), done)

    def last_contact_ms(self) -> int:
        return self.replica.last_contact_ms()

    def knows_leader(self) -> bool:
        return bool(self._raft.leader)

    # -- inside ------------------------------------------------------------------------------------

    def _forwarded(self, call: Forward, reply: Callable[[Any], None]) -> None:
        """Never sent on: a server that does not lead says so, and the sender looks again."""
        if not self.replica.leads:
            reply(NotLeader(self._raft.leader))
            return
        answered = False

        def answer(result: Any) -> None:
            nonlocal answered
            if not answered:
                answered = True
                cancel()
                reply(result)

        cancel = self._timer.call_after(self._config.hold_ms, lambda: answer(_HELD_TOO_LONG))
        self.replica.propose(call.command, call.accessor, call.retry, answer)

    def _call_server(self, id: str, call: Call, done: Callable[[Any], None]) -> None:
        member = self.directory.get(id)
        if member is None:
            done(NotLeader(""))
        else:
            self._peers.call(member, call, done)

    def _begin(self, cluster: str, voters: tuple[Member, ...]) -> None:
        """Write the first entry of the log, the same on every voter: who votes."""
        self._adopt(cluster)
        for voter in voters:
            self.directory.hint(voter)
        ids = sorted(v.id for v in voters)
        # The first of them stands at once: nobody needs to wait for an election timeout.
        self.replica.bootstrap(ids, campaign=ids[0] == self.me.id)

    def _adopt(self, cluster: str) -> None:
        self._identity.adopt(cluster)
        self._peers.greet_again()

    def _report(self) -> None:
        """Tell the leader who is connected here."""
        members = self.connected.members()
        if self.replica.leads:
            for member in members:
                self._joined(member)
        elif (leader := self.directory.get(self._raft.leader)) is not None:
            self._peers.call(leader, Report(members), _ignore)

    def _heard_of(self, member: Member) -> None:
        if fault_of(member):
            return
        self.directory.hint(member)
        if self.replica.leads:
            self._joined(member)

    def _joined(self, member: Member) -> None:
        """Told again each second: what comes while the state is replaced is not missed."""
        if not self.replica.held:
            self.membership.joined(member)

    def _learn_from_catalog(self) -> None:
        """The servers that the catalog knows: so a restart finds the others without being told."""
        instances, _ = self.state.read(SERVERS, "")
        for instance in instances:
            node = instance.node
            if node.id:
                rpc = f"{node.address}:{instance.service.port}"
                member = Member(node.id, node.node, node.address, "server", node.datacenter, "", rpc)
                self.directory.hint(member)

    def _node(self, name: str) -> NodeDetail | None:
        detail, _ = self.state.read(NodeInfo(name), "")
        return detail if detail is not None and detail.node.node == name else None

    def _alive_nodes(self) -> list[NodeDetail]:
        """Every node whose serfHealth does not say that it failed."""
        nodes, _ = self.state.read(Nodes(), "")
        details = [self._node(node.node) for node in nodes]
        return [
            detail
            for detail in details
            if detail is not None
            and any(c.check_id == SERF_HEALTH and c.status != "critical" for c in detail.checks)
        ]


_pledges = msgspec.msgpack.Encoder()
_HELD_TOO_LONG = OutcomeUnknown(
    "the leader could not have this write confirmed in time; it may be done later"
)


def _decode_pledge(data: bytes) -> Pledge | None:
    return msgspec.msgpack.decode(data, type=Pledge) if data else None


def _accessor(token: str) -> str:
    """Who stands behind a token. Until access control lands everybody is the anonymous accessor."""
    return ""


def _caught(ask: Callable[[], Any]) -> Any:
    try:
        return ask()
    except GemotError as error:
        return error


def _failed(result: Any) -> bool:
    return isinstance(result, GemotError)


def _ignore(_result: Any) -> None:
    """For what is proposed or told again until it holds."""


def _nothing() -> None:
    """Cancels a call that needs no cancelling."""
