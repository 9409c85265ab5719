"""How one server stands and how it sees the tier: figures for operators, and what it waits for, in words.

It looks at the parts and changes none of them. No quorum is needed to ask.
"""

from __future__ import annotations

from gemot.server import waiting
from gemot.server.bootstrap import Bootstrap
from gemot.server.consensus import Replica
from gemot.server.directory import Directory
from gemot.server.joining import Joining
from gemot.server.keeping import Keeping
from gemot.server.members import Membership
from gemot.server.ports import Identity, Peers
from gemot.server.raft.node import Raft
from gemot.server.rpc.message import Member, TierStatus
from gemot.server.space import Space
from gemot.server.state.store import State

STALLED = (
    "no sync of the log has ended for an election timeout; until one does, this server does not lead or vote"
)
NO_CLUSTER = "Waiting for a cluster: no server met has one, and bootstrap_expect is not set here to begin one"


class ServerStatus:
    """`scrubbed` is what the last scrub of the files found, for people; `expect` is `bootstrap_expect`."""

    def __init__(
        self,
        *,
        me: Member,
        expect: int,
        raft: Raft,
        replica: Replica,
        state: State,
        identity: Identity,
        peers: Peers,
        directory: Directory,
        bootstrap: Bootstrap,
        joining: Joining,
        keeping: Keeping,
        membership: Membership,
        space: Space,
    ) -> None:
        self._me = me
        self._expect = expect
        self._raft = raft
        self._replica = replica
        self._state = state
        self._identity = identity
        self._peers = peers
        self._directory = directory
        self._bootstrap = bootstrap
        self._joining = joining
        self._keeping = keeping
        self._membership = membership
        self._space = space
        self.scrubbed = ""

    def tier(self) -> TierStatus:
        """Who leads and who votes, as far as this server knows."""
        voters = tuple(
            self._directory.get(id) or Member(id, id, "", "server", self._me.datacenter, "")
            for id in self._raft.voters
        )
        return TierStatus(self._directory.get(self._raft.leader), voters, self.stats())

    def stats(self) -> dict[str, dict[str, str]]:
        """By Consul's names: `raft`, and `consul` for the tier."""
        raft = {
            "state": self._raft.role.name.capitalize(),
            "term": str(self._raft.term),
            "commit_index": str(self._raft.commit),
            "applied_index": str(self._state.applied_index),
            "last_log_index": str(self._raft.last_index),
            "voter": str(self._me.id in self._raft.voters).lower(),
            "num_peers": str(max(0, len(self._raft.voters) - 1)),
            "last_contact": f"{self._replica.last_contact_ms()}ms",
            "repairing": str(self._raft.repairing).lower(),
            "stalled": str(self._raft.stalled).lower(),
            "last_scrub": self.scrubbed,
        }
        for peer in self._raft.status().peers:
            seen = f"match={peer.match} next={peer.next} mode={peer.mode} inflight={peer.inflight}"
            raft[f"peer {self._directory.name(peer.id)}"] = f"{seen} heard={peer.heard_ticks_ago} ticks ago"
        leader = self._directory.get(self._raft.leader)
        tier = {
            "server": "true",
            "leader": str(self._replica.leads).lower(),
            "leader_addr": leader.rpc if leader is not None else "",
            "bootstrap": str(self._expect == 1).lower(),
            "cluster": self._identity.cluster(),
            "waiting": self.waiting_for(),
            "state_hash": self._state.state_hash.hex(),
            "space": self._space.told,
            "suspects": str(self._membership.guard.held),
            "epoch": str(self._state.epoch),
        }
        return {"raft": raft, "consul": tier}

    def waiting_for(self) -> str:
        """What keeps this server from serving, for people; "" when nothing does."""
        if not self._identity.cluster():
            founding = self._bootstrap.waiting_for if self._expect else NO_CLUSTER
            return self._joining.waiting_for or founding
        if self._raft.repairing:
            return "Repairing: part of the log was damaged and is fetched from the other servers"
        if self._raft.stalled:
            return f"Waiting for the disk: {STALLED}"
        if self._raft.leader:
            return self._keeping.waiting_for
        if not self._raft.voters:
            return "Waiting for the leader of the cluster to send its log"
        return waiting.for_quorum(self._me.id, self._raft.voters, self._peers.unreached, self._directory.name)
