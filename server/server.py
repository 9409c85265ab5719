"""One server of the tier, put together from its parts; what the agent asks of it. Sessions ask `endpoint.py`.

It wires and hands on; the rules are in the parts. Everything here runs as event handlers on one thread,
over the ports of `ports.py`, and so runs the same in the simulator.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec

from gemot.server.bootstrap import Bootstrap, decode_pledge, encode_pledge
from gemot.server.compaction import Compaction
from gemot.server.config import ServerConfig
from gemot.server.confirm import Confirmations
from gemot.server.connected import Connected
from gemot.server.consensus import Replica
from gemot.server.coordinates import CoordinateBatches
from gemot.server.directory import Directory
from gemot.server.endpoint import Endpoint
from gemot.server.features import Features
from gemot.server.hearsay import Hearsay
from gemot.server.hosts import Hosts
from gemot.server.install import Installer
from gemot.server.keeping import Keeping
from gemot.server.kv_history import KvHistory
from gemot.server.leader import Leader
from gemot.server.machine import Machine, RestoreDue
from gemot.server.mass_failure import MassFailure
from gemot.server.members import Membership, Standing
from gemot.server.model.command import Command, IdempotencyKey, RetryId
from gemot.server.model.coordinate import NodeCoordinate
from gemot.server.model.errors import GemotError, NotLeader
from gemot.server.model.query import Answer, Applied, Options, Query
from gemot.server.operator import Operator
from gemot.server.ports import Archives, DiskSpace, Identity, Log, Peers, Random, Reader, Timer, Upkeep
from gemot.server.raft.node import Raft
from gemot.server.raft.types import ReadState, SnapshotOffer
from gemot.server.reads import Reads
from gemot.server.reports import Reports
from gemot.server.rpc.message import TXN, Bookmark, Call, Forward, Member
from gemot.server.space import Space
from gemot.server.state.store import State
from gemot.server.state.watch import Hub, Topic
from gemot.server.status import ServerStatus
from gemot.server.writes import Name, RetryIds, Writes

SECOND_MS = 1_000


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
        disk_space: DiskSpace | None = None,
        archives: Archives | None = None,
    ) -> None:
        self.me = me
        self._raft = raft
        self.state = state
        self._identity = identity
        self._peers = peers
        self._timer = timer
        self.directory = Directory(me)
        self.space = Space(
            me=me,
            config=config.space,
            disk=disk_space,
            raft=raft,
            file_bytes=state.file_bytes,
        )
        self.connected = Connected(me)
        self.replica = Replica(raft=raft, log=log, machine=machine, state=state, wire=peers, timer=timer)
        hub: Hub[Any] = Hub()
        self.confirmations = Confirmations(
            ask=self.replica.read_index,
            applied=lambda: state.applied_index,
            timer=timer,
            random=random,
            hold_ms=config.hold_ms,
            waiting=lambda: self.status.waiting_for(),
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
            waiting=lambda: self.status.waiting_for(),
        )
        hosts = Hosts(state)
        self.membership = Membership(
            propose=lambda command: self.replica.propose(command, "", None, _ignore),
            look=hosts.node,
            alive_in_catalog=hosts.alive,
            former_leader=lambda: self.replica.former_leader,
            take_out=lambda name: self.operator.leave(name, _ignore),
            guard=MassFailure(config.mass_failure),
            know_txn=lambda: not self.features.without(TXN),
            now_ms=timer.now_ms,
        )
        self.features = Features(
            me=me.id,
            servers=lambda: (*raft.voters, *(peer.id for peer in raft.status().peers)),
            begun=state.has_had,
        )
        self.coordinates = CoordinateBatches(
            features=self.features,
            propose=lambda command: self.replica.propose(command, "", None, _ignore),
            has_node=state.has_node,
            now_ms=timer.now_ms,
        )
        self.reports = Reports(
            me=me,
            cluster=identity.cluster,
            replica=self.replica,
            connected=self.connected,
            directory=self.directory,
            space=self.space,
            peers=peers,
            features=self.features,
            coordinates=self.coordinates,
            leaving=lambda: self.operator.leaving,
            membership=self.membership,
        )
        history = KvHistory(config=config.kv_history, state=state, features=self.features, timer=timer)
        self.leader = Leader(
            replica=self.replica, state=state, membership=self.membership, timer=timer, history=history
        )
        self.installer = Installer(
            replica=self.replica,
            log=log,
            call=self.call_server,
            inbox=upkeep.inbox,
            replace_state=upkeep.replace_state,
            timer=timer,
            busy=lambda: self.compaction.busy or self.keeping.busy,
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
            call=self.call_server,
            apply=lambda command, token, done: self.apply(command, token, None, done),
            busy=lambda: self.compaction.busy or self.installer.replacing or self.reads.reading,
            hold_reads=self.reads.hold,
            taken=lambda meta: self.compaction.taken(meta),
            timer=timer,
            random=random,
        )
        self.hearsay = Hearsay(me)
        self.bootstrap = Bootstrap(
            me=me,
            expect=config.bootstrap_expect,
            pledge=decode_pledge(identity.pledge()),
            has_data=lambda: raft.last_index > 0,
            has_leader=lambda: bool(raft.leader),
            is_known=lambda member: self.directory.get(member.id) is not None,
            mint_cluster=lambda: random.randbytes(16).hex(),
            call=peers.call,
            keep=lambda pledge, done: identity.keep_pledge(encode_pledge(pledge), done),
            hearsay=self.hearsay.servers,
            begin=self._begin,
        )
        self.operator = Operator(
            tier=self,
            replica=self.replica,
            state=state,
            membership=self.membership,
            directory=self.directory,
            connected=self.connected,
            identity=identity,
            peers=peers,
            writes=self.writes,
            confirmations=self.confirmations,
            timer=timer,
            hold_ms=config.hold_ms,
            tick_ms=config.tick_ms,
            defaults=config.autopilot,
            hearsay=self.hearsay.servers,
            waiting_for=lambda: self.status.waiting_for(),
        )
        self.status = ServerStatus(
            me=me,
            expect=config.bootstrap_expect,
            raft=raft,
            replica=self.replica,
            state=state,
            identity=identity,
            peers=peers,
            directory=self.directory,
            bootstrap=self.bootstrap,
            joining=self.operator.joining,
            keeping=self.keeping,
            membership=self.membership,
            space=self.space,
        )
        self.endpoint = Endpoint(
            me=me,
            verbs=self,
            status=self.status,
            replica=self.replica,
            reports=self.reports,
            operator=self.operator,
            bootstrap=self.bootstrap,
            keeping=self.keeping,
            upkeep=upkeep,
            directory=self.directory,
            connected=self.connected,
            identity=identity,
            timer=timer,
            expect=config.bootstrap_expect,
            hold_ms=config.hold_ms,
        )
        self._second_due = timer.now_ms()
        self.compaction = Compaction(
            bounds=config,
            raft=raft,
            log=log,
            state=state,
            upkeep=upkeep,
            timer=timer,
            replacing=lambda: self.installer.replacing or self.replica.held,
            fits=lambda: self.space.fits_snapshot,
        )

    # -- life --------------------------------------------------------------------------------------

    def start(self) -> None:
        for server in Hosts(self.state).servers():
            self.directory.hint(server)
        self.replica.start(self)

    def on_tick(self) -> None:
        """One tick of Raft's clock."""
        self.replica.on_tick()
        self.confirmations.on_tick()
        self.writes.on_tick()
        self.keeping.on_tick()
        if not self.replica.held:
            self.leader.on_tick()
            self.operator.on_tick()
        now = self._timer.now_ms()
        if now >= self._second_due:
            self._second_due = now + SECOND_MS
            self._each_second()

    def _each_second(self) -> None:
        if not self.operator.joining.begun:
            self.bootstrap.on_tick()
        self.operator.on_second()
        self.space.look(replacing=self.installer.replacing or self.replica.held)
        self.reports.send()
        self._tell_bookmarks()
        self.compaction.on_second()
        if self.replica.leads and not self.replica.held:
            self.coordinates.on_second()

    def _tell_bookmarks(self) -> None:
        """Everything up to here was told."""
        if self.replica.held:
            return
        at = self.state.index
        self.reads.bookmark(Bookmark(at, self.knows_leader(), self.last_contact_ms()))

    def on_rot(self, through: int) -> None:
        """Damage was found in a snapshot, or in the log up to entry `through`."""
        self.compaction.on_rot(through)

    # -- what the agent of this host asks, and the endpoint for others ------------------------------

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

    def locate(self, row: NodeCoordinate, token: str, done: Callable[[Any], None]) -> None:
        """A node stands there: the leader will write it, with what others say."""
        self.coordinates.take((row,))
        done(True)

    def leave(self, node: str, done: Callable[[Any], None]) -> None:
        """A node leaves on purpose; told to the leader. Done means that the catalog says so durably."""
        self.operator.leave(node, done)

    # -- Watcher: what the replica tells ---------------------------------------------------------------

    def on_read_states(self, states: tuple[ReadState, ...]) -> None:
        for state in states:
            self.confirmations.on_answer(state.id, state.index)

    def on_applied(self, touched: list[Topic]) -> None:
        self.reads.on_applied(touched)

    def on_replaced(self) -> None:
        self.keeping.on_replaced()
        self.reads.on_replaced()
        self.leader.on_replaced()

    def on_restore(self, due: RestoreDue) -> None:
        self.keeping.on_restore(due)

    def on_leadership(self, leads: bool) -> None:
        self.leader.on_leadership(leads)
        self.operator.on_leadership(leads)
        if leads:
            self.reports.send()

    def on_install(self, offer: SnapshotOffer) -> None:
        self.installer.on_install(offer)

    # -- Proposer, Forwarder, Contact: what the parts ask ----------------------------------------------

    @property
    def leads(self) -> bool:
        return self.replica.leads

    def leader_id(self) -> str:
        return self._raft.leader

    def propose(self, command: Command, accessor: str, retry: Name, done: Callable[[Any], None]) -> None:
        refusal = self.features.refuse(command, self.directory.name) or self.space.refuse(command)
        if refusal is not None:
            done(refusal)
        else:
            self.replica.propose(command, accessor, retry, done)

    def forward(
        self, to: str, command: Command, accessor: str, retry: Name, done: Callable[[Any], None]
    ) -> None:
        self.call_server(to, Forward(command, accessor, retry), done)

    def last_contact_ms(self) -> int:
        return self.replica.last_contact_ms()

    def knows_leader(self) -> bool:
        return bool(self._raft.leader)

    # -- inside ------------------------------------------------------------------------------------

    def call_server(self, id: str, call: Call, done: Callable[[Any], None]) -> None:
        member = self.directory.get(id)
        if member is None:
            done(NotLeader(""))
        else:
            self._peers.call(member, call, done)

    def _begin(self, cluster: str, voters: tuple[Member, ...], first: bool) -> None:
        """Write the first entry of the log, the same on every voter: who votes."""
        self.adopt(cluster)
        for voter in voters:
            self.directory.hint(voter)
        ids = sorted(v.id for v in voters)
        # The first of them stands at once: nobody needs to wait for an election timeout.
        self.replica.bootstrap(ids, campaign=first and ids[0] == self.me.id)

    def adopt(self, cluster: str) -> None:
        """Belong to this cluster, for good."""
        self._identity.adopt(cluster)
        self._peers.greet_again()

    def on_gossip(self, member: Member, standing: Standing) -> None:
        """What the agent of this host hears of another one: the leader makes something of it.

        A server that belongs nowhere yet asks whoever is heard of, and joins, or begins with them.
        """
        self.hearsay.hear(member, lives=standing == "alive")
        if standing == "alive" and self._identity.cluster():
            self.directory.hint(member)
        if self.replica.leads and not self.replica.held:
            self.membership.on_gossip(member, standing)


def _accessor(token: str) -> str:
    """Who stands behind a token. Until access control lands everybody is the anonymous accessor."""
    return ""


def _ignore(_result: Any) -> None:
    """For what is proposed or told again until it holds."""
