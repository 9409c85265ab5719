"""The servers as a set: who votes, how they are, and what operators and joining servers ask about it.

It puts together autopilot, voting, joining and departing, and answers the calls `Enlist`, `Operate`, `Survey`
and `Leave`. Whatever is the leader's to answer is sent on to it, once, from whichever server was asked, for
as long as the hold time.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any, Protocol

import msgspec

from gemot.server.autopilot import Autopilot
from gemot.server.confirm import Confirmations
from gemot.server.connected import Connected
from gemot.server.consensus import Replica
from gemot.server.departed import Departed
from gemot.server.directory import Directory
from gemot.server.force_leave import ForceLeave
from gemot.server.hosts import Hosts
from gemot.server.joining import Joining
from gemot.server.members import FAILED_AFTER_MS, Membership
from gemot.server.model.autopilot import AutopilotConfig, GetAutopilot, SetAutopilot
from gemot.server.model.catalog import Deregister
from gemot.server.model.errors import (
    Busy,
    Conflict,
    Forbidden,
    GemotError,
    NoLeader,
    NotLeader,
    OutcomeUnknown,
    RuleFailed,
    Unavailable,
)
from gemot.server.ports import Identity, Peers, Timer
from gemot.server.rpc.message import (
    UNKNOWN_MS,
    Call,
    Enlist,
    Enlisted,
    Leave,
    Member,
    Operate,
    ServerSeen,
    Status,
    Survey,
    Surveyed,
)
from gemot.server.state.names import fold
from gemot.server.state.store import State
from gemot.server.voting import Voting
from gemot.server.writes import Writes

log = logging.getLogger("gemot.server")

AGAIN_MS = 100
NO_PEER = "was not found in the Raft configuration"
"""Consul's words for a peer to remove that is none."""

Done = Callable[[Any], None]


class Tier(Protocol):
    """What it needs of the server it belongs to."""

    me: Member

    def adopt(self, cluster: str) -> None:
        """Belong to this cluster from now on."""

    def call_server(self, id: str, call: Call, done: Done) -> None: ...


class Operator:
    """Drive it by `on_tick`, `on_second` and `on_leadership`."""

    def __init__(
        self,
        *,
        tier: Tier,
        replica: Replica,
        state: State,
        membership: Membership,
        directory: Directory,
        connected: Connected,
        identity: Identity,
        peers: Peers,
        writes: Writes,
        confirmations: Confirmations,
        timer: Timer,
        hold_ms: int,
        tick_ms: int,
        defaults: AutopilotConfig,
        waiting_for: Callable[[], str],
        hearsay: Callable[[], tuple[Member, ...]] = tuple,
    ) -> None:
        self._tier = tier
        self._replica = replica
        self._state = state
        self._hosts = Hosts(state)
        self._config = defaults
        self._membership = membership
        self._directory = directory
        self._connected = connected
        self._identity = identity
        self._peers = peers
        self._writes = writes
        self._confirmations = confirmations
        self._timer = timer
        self._hold_ms = hold_ms
        self._defaults = defaults
        self._waiting_for = waiting_for
        self._proposing = False
        self.leaving = ""
        """The name of this server's own node, once it is on its way out: it is reported alive no more."""

        self.autopilot = Autopilot(
            me=tier.me,
            replica=replica,
            membership=membership,
            config=self.config,
            name=directory.name,
            address=self._address,
            now_ms=timer.now_ms,
            tick_ms=tick_ms,
        )
        self.departed = Departed(
            replica=replica,
            state=state,
            membership=membership,
            config=self.config,
            now_ms=timer.now_ms,
        )
        self.voting = Voting(
            replica=replica,
            alive=self._alive,
            answered=self._answered,
            name=directory.name,
            now_ms=timer.now_ms,
            hold_ms=hold_ms,
        )
        self._force_leave = ForceLeave(
            replica=replica,
            membership=membership,
            voting=self.voting,
            writes=writes,
            look=self._hosts.node,
            timer=timer,
        )
        self.joining = Joining(
            me=tier.me, may=self._belongs_nowhere, call=peers.call, adopt=tier.adopt, hearsay=hearsay
        )

    # -- events ------------------------------------------------------------------------------------

    def on_leadership(self, leads: bool) -> None:
        self._proposing = False
        self.autopilot.on_leadership(leads)
        self.departed.on_leadership()
        self.voting.on_tick()

    def on_tick(self) -> None:
        self.autopilot.on_tick()
        self.voting.on_tick()

    def on_second(self) -> None:
        self.joining.on_second()
        self._show_itself()
        self._set_defaults()
        self.departed.on_second()

    def _show_itself(self) -> None:
        """One that does not vote never stands, so it speaks to nobody before a leader has found it."""
        raft, me = self._replica.raft, self._tier.me
        if self._identity.cluster() and not raft.leader and me.id not in raft.voters:
            for server in self._directory.servers():
                if server.id != me.id:
                    self._peers.call(server, Status(), _ignore)

    def config(self) -> AutopilotConfig:
        """What was set last, else what this server's configuration says."""
        if not self._replica.held:  # else the state is being replaced, and what was seen last holds on
            row, _ = self._state.read(GetAutopilot(), "")
            self._config = row.config if row is not None else self._defaults
        return self._config

    def _set_defaults(self) -> None:
        """Where nothing was ever set, what the leader was configured with becomes everybody's.

        Not the defaults of all: they hold without a row, and a server of an older release would stop at it.
        """
        busy = self._proposing or self._replica.held
        if not self._replica.leads or busy or self._defaults == AutopilotConfig():
            return
        if self._state.read(GetAutopilot(), "")[0] is None:
            self._proposing = True
            self._replica.propose(SetAutopilot(self._defaults, cas=0), "", None, self._proposed)

    def _proposed(self, _result: Any) -> None:
        self._proposing = False

    # -- calls -------------------------------------------------------------------------------------

    def handle(self, member: Member, call: Enlist | Operate | Survey, done: Done) -> None:
        if isinstance(call, Enlist):
            self._enlist(member, done)
        elif isinstance(call, Survey) and call.here:
            done(self.here())
        elif self._replica.leads:
            self._answer(call, done)
        elif call.forwarded:
            done(NotLeader(self._replica.raft.leader))
        else:
            onward = msgspec.structs.replace(call, forwarded=True)
            self._ask_leader(call, onward, self._timer.now_ms() + self._hold_ms, done)

    def _ask_leader(
        self, call: Operate | Survey, onward: Operate | Survey, until_ms: int, done: Done
    ) -> None:
        def again() -> None:
            if self._replica.leads:
                self._answer(call, done)
            else:
                self._ask_leader(call, onward, until_ms, done)

        def answered(result: Any) -> None:
            if not isinstance(result, Unavailable) or isinstance(result, Busy):
                done(result)
            elif self._timer.now_ms() >= until_ms:
                done(NoLeader.because(self._waiting_for()))
            else:
                self._timer.call_after(AGAIN_MS, again)

        leader = self._replica.raft.leader
        if leader and leader != self._tier.me.id:
            self._tier.call_server(leader, onward, answered)
        else:
            answered(NotLeader(""))

    def _answer(self, call: Operate | Survey, done: Done) -> None:
        if isinstance(call, Survey):
            self._survey(done)
        elif call.what == "transfer":
            self._transfer(call.id, done)
        elif call.what == "force-leave":
            self._force_leave.ask(call, done)
        else:
            self._remove_peer(call, done)

    def _enlist(self, member: Member, done: Done) -> None:
        """A server without data comes. Confirmed first: a leader of the past may not know all voters.

        Nor may a change of them be under way: if it is undone, one that was just removed votes after all.
        """

        def confirmed(error: Unavailable | None) -> None:
            if error is not None or not self._replica.leads:
                done(error or NotLeader(self._replica.raft.leader))
            elif member.id in self._replica.raft.voters:
                done(
                    Conflict(
                        f"id {member.id} is among the voters of the cluster, and a voter that lost its data "
                        "must not vote again under its old id: give it another node id, or remove that peer "
                        f"first (gemot operator raft remove-peer -id={member.id})"
                    )
                )
            elif holder := self._membership.holder(member):
                done(
                    Conflict(
                        f"the name {member.name} is taken by {holder}: give this server another node_name; "
                        "if it is the same host, wiped, it is let in once its former self has failed"
                    )
                )
            elif not self._replica.raft.voters_settled:
                done(Unavailable("the voters are being changed: ask again once that is committed"))
            else:
                self.autopilot.forget(member.id)
                self._membership.joined(member, afresh=True)
                done(Enlisted(self._identity.cluster()))

        if not self._replica.leads:
            done(NotLeader(self._replica.raft.leader))
        else:
            self._confirmations.confirm(confirmed)

    def _survey(self, done: Done) -> None:
        self.autopilot.look()
        raft = self._replica.raft
        done(
            Surveyed(
                servers=self.autopilot.servers,
                index=raft.voters_index,
                healthy=self.autopilot.healthy,
                failure_tolerance=self.autopilot.tolerance,
                by=self._tier.me.name,
                waiting=self._waiting_for(),
            )
        )

    def here(self) -> Surveyed:
        """How this server sees it, with a leader or without. On the leader it is the whole truth."""
        raft, me = self._replica.raft, self._tier.me
        if self._replica.leads:
            self.autopilot.look()
            seen = self.autopilot.servers
        else:
            linked = [self._glimpse(id) for id in sorted({*raft.voters, me.id})]
            found = [*linked, *self._others_without_a_vote()]
            seen = tuple(sorted(found, key=lambda server: (server.name, server.id)))
        return Surveyed(
            servers=seen,
            index=raft.voters_index,
            healthy=bool(raft.leader) and all(server.healthy for server in seen),
            failure_tolerance=self.autopilot.tolerance if self._replica.leads else 0,
            by=me.name,
            waiting=self._waiting_for(),
        )

    def _glimpse(self, id: str) -> ServerSeen:
        """A voter, or this server: all servers keep a link to the voters."""
        raft, me = self._replica.raft, self._tier.me
        own = id == me.id
        reached = own or not self._peers.unreached(id)
        silent_ms = self._replica.last_contact_ms() if own or id == raft.leader else UNKNOWN_MS
        member = me if own else self._directory.get(id)
        return ServerSeen(
            id=id,
            name=self._directory.name(id),
            address=self._address(id),
            status="alive" if reached else "failed",
            build=member.build if member is not None else "",
            voter=id in raft.voters,
            leader=id == raft.leader,
            last_contact_ms=silent_ms,
            last_term=(raft.term_at(raft.last_index) or 0) if own else 0,
            last_index=raft.last_index if own else 0,
            healthy=not raft.repairing and silent_ms < FAILED_AFTER_MS if own else reached,
            stable_ms=0,
        )

    def _others_without_a_vote(self) -> list[ServerSeen]:
        """As the leader told it in the catalog; without one who is connected, as all such servers try to be.

        Nobody but the leader keeps a link to them, so there is none of our own to judge by.
        """
        raft = self._replica.raft
        if self._replica.held:
            return []
        connected = {member.id for member in self._connected.members()}
        known = {*raft.voters, self._tier.me.id}
        others = [member for member in self._hosts.living_servers() if member.id not in known]
        return [
            _unlinked(
                self._directory.get(other.id) or other, lives=bool(raft.leader) or other.id in connected
            )
            for other in others
        ]

    # -- what operators want -----------------------------------------------------------------------

    def _transfer(self, id: str, done: Done) -> None:
        """Done once another server leads."""
        raft = self._replica.raft
        if id and id not in raft.voters:
            done(RuleFailed(f"id {id!r} {NO_PEER}"))
        elif id == self._tier.me.id:
            done(RuleFailed(f"{self._tier.me.name} leads already"))
        elif not self._replica.transfer(id or None):
            done(RuleFailed("the leadership cannot be transferred: no other voter answers and has its data"))
        else:
            self._await_transfer(self._timer.now_ms() + self._hold_ms, done)

    def _await_transfer(self, until_ms: int, done: Done) -> None:
        raft = self._replica.raft
        if not self._replica.leads and raft.leader:
            done(True)
        elif self._replica.leads and not raft.status().handing_over_to:
            done(
                RuleFailed("the other server did not take over within an election timeout: this one leads on")
            )
        elif self._timer.now_ms() >= until_ms:
            why = f"this server leads no more, and who does is not known: {self._waiting_for()}"
            done(OutcomeUnknown(why))
        else:
            self._timer.call_after(AGAIN_MS // 2, lambda: self._await_transfer(until_ms, done))

    def _remove_peer(self, call: Operate, done: Done) -> None:
        voters = self._replica.raft.voters
        if call.id:
            found = call.id if call.id in voters else ""
        else:
            found = next((id for id in voters if self._address(id) == call.address), "")

        def removed(result: Any) -> None:
            if result is True:
                log.warning(
                    "server: vote taken by an operator: server=%s id=%s", self._directory.name(found), found
                )
            done(result)

        if found:
            self.voting.remove(found, removed)
        else:
            named = f'id "{call.id}"' if call.id else f'address "{call.address}"'
            done(RuleFailed(f"{named} {NO_PEER}"))

    # -- leaving -----------------------------------------------------------------------------------

    def leave(self, node: str, done: Done, *, id: str = "", asked_by: Member | None = None) -> None:
        """A node leaves on purpose: a server's vote is taken first, then its node goes out of the catalog.

        Where the others could not go on without that vote it is refused, and nothing is changed. A client
        agent speaks for no server, though it may have taken its name; and none for who else has that name:
        where the node is another's than `id`, the leaver's, it stays.
        """
        servers = {server.id for server in self._directory.servers() if fold(server.name) == fold(node)}
        if asked_by is not None and asked_by.role == "client":
            id = asked_by.id
            if servers:
                done(Forbidden(f"{node} is a server: no client agent can have it leave"))
                return
        if not self._replica.leads:
            self._connected.forget(node, id)
            leader = self._directory.get(self._replica.raft.leader)
            if leader is None:
                done(NotLeader(""))
            else:
                self._peers.call(leader, Leave(node, id), done)
            return
        known = self._hosts.node(node)
        if id and known is not None and known.node.id not in ("", id):
            self._connected.forget(node, id)
            done(True)
            return

        def unseated(result: Any) -> None:
            if isinstance(result, GemotError):
                done(result)
                return
            self._connected.forget(node, id)
            self._membership.left(node)
            self._writes.apply(
                Deregister(node), "", None, lambda r: done(r if isinstance(r, GemotError) else True)
            )

        voters = self._replica.raft.voters
        if (voter := next((id for id in voters if id in servers), "")) and voters != (voter,):
            self.voting.remove(voter, unseated)
        else:
            unseated(True)

    # -- inside ------------------------------------------------------------------------------------

    def _belongs_nowhere(self) -> bool:
        """Neither Raft data nor a promise: a cluster may still be joined."""
        return not (self._identity.cluster() or self._identity.pledge() or self._replica.raft.last_index)

    def _alive(self) -> list[str]:
        raft = self._replica.raft
        answering = [
            peer.id for peer in raft.status().peers if peer.heard_ticks_ago < raft.config.election_ticks
        ]
        return [self._tier.me.id, *answering]

    def _answered(self) -> list[str]:
        """Who has this leader's log, as it said itself: at the beginning of a term that is nobody else.

        Nor is one that repairs, which counts for no quorum before it has been filled up.
        """
        peers = self._replica.raft.status().peers
        able = {peer.id for peer in peers if peer.match and not peer.repairing}
        return [id for id in self._alive() if id == self._tier.me.id or id in able]

    def _address(self, id: str) -> str:
        member = self._directory.get(id)
        return member.rpc if member is not None else ""


def _unlinked(member: Member, *, lives: bool) -> ServerSeen:
    return ServerSeen(
        id=member.id,
        name=member.name,
        address=member.rpc,
        status="alive" if lives else "failed",
        build=member.build,
        voter=False,
        leader=False,
        last_contact_ms=UNKNOWN_MS,
        last_term=0,
        last_index=0,
        healthy=lives,
        stable_ms=0,
    )


def _ignore(_result: Any) -> None:
    """What counts is that the other side sees who asked."""
