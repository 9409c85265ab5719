"""Who should vote: learners promoted, dead servers removed, one change at a time. A chore of the leader.

The decisions are functions of what is seen (`next_step`); `Autopilot` sees, keeps how long it has been so,
and carries them out. Consul's rules, with one more: a server is dead only once it was silent for
`server_stabilization_time` beyond the time after which it counts as failed: a restart removes nobody.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Literal

import msgspec

from gemot.server.consensus import Replica
from gemot.server.members import FAILED_AFTER_MS, Membership
from gemot.server.model.autopilot import AutopilotConfig
from gemot.server.raft.errors import Refused
from gemot.server.raft.quorum import majority
from gemot.server.raft.status import PeerStatus
from gemot.server.rpc.message import Member, ServerSeen

log = logging.getLogger("gemot.server")

LOOK_EVERY_MS = 1_000
ASLEEP_MS = 3_000
"""A pause between two ticks after which what this server thinks of the others begins anew."""


class Standing(msgspec.Struct, frozen=True):
    """One server as the decisions need it. `silent_ms` is 0 for one that was just heard of."""

    id: str
    voter: bool
    leader: bool
    healthy: bool
    stable_ms: int
    silent_ms: int


class Step(msgspec.Struct, frozen=True):
    """The next change of the voters."""

    what: Literal["promote", "remove"]
    id: str


# -- decisions -------------------------------------------------------------------------------------


def next_step(servers: Sequence[Standing], config: AutopilotConfig) -> Step | None:
    """The dead go first: then a new voter makes the quorum safer, and not only larger."""
    return _removal(servers, config) or _promotion(servers, config)


def failure_tolerance(servers: Sequence[Standing]) -> int:
    """How many healthy voters may fail before there is no quorum any more."""
    voters = [server for server in servers if server.voter]
    if not voters:
        return 0
    return max(0, sum(server.healthy for server in voters) - majority(len(voters)))


def is_dead(server: Standing, config: AutopilotConfig) -> bool:
    return not server.leader and server.silent_ms >= FAILED_AFTER_MS + config.server_stabilization_time_ms


def _removal(servers: Sequence[Standing], config: AutopilotConfig) -> Step | None:
    voters = [server for server in servers if server.voter]
    dead = [server for server in voters if is_dead(server, config)]
    left = len(voters) - 1
    if not config.cleanup_dead_servers or not dead or left < max(1, config.min_quorum):
        return None
    # More than a minority cannot be dead while this server leads: then it is the leader who sees badly.
    if len(dead) > (len(voters) - 1) // 2:
        return None
    if sum(server.healthy for server in voters) < majority(left):
        return None
    longest = max(dead, key=lambda server: (server.silent_ms, server.id))
    return Step("remove", longest.id)


def _promotion(servers: Sequence[Standing], config: AutopilotConfig) -> Step | None:
    voters = [server for server in servers if server.voter]
    ready = [
        server
        for server in servers
        if not server.voter and server.healthy and server.stable_ms >= config.server_stabilization_time_ms
    ]
    # The new one counts among those who have to agree from the moment it is logged.
    if not ready or sum(server.healthy for server in voters) + 1 < majority(len(voters) + 1):
        return None
    return Step("promote", min(server.id for server in ready))


# -- the chore -------------------------------------------------------------------------------------


class _Track:
    """Since when a server is as it is, and when it was heard of last."""

    def __init__(self, healthy: bool, now_ms: int) -> None:
        self.healthy = healthy
        self.since_ms = now_ms
        self.heard_ms = now_ms


class Autopilot:
    """Looks once a second while this server leads, and tries a change that is due at every tick."""

    def __init__(
        self,
        *,
        me: Member,
        replica: Replica,
        membership: Membership,
        config: Callable[[], AutopilotConfig],
        name: Callable[[str], str],
        address: Callable[[str], str],
        now_ms: Callable[[], int],
        tick_ms: int,
    ) -> None:
        self._me = me
        self._replica = replica
        self._membership = membership
        self._config = config
        self._name = name
        self._address = address
        self._now_ms = now_ms
        self._tick_ms = tick_ms
        self._tracks: dict[str, _Track] = {}
        self._seen: tuple[ServerSeen, ...] = ()
        self._learners: tuple[str, ...] = ()
        self._step: Step | None = None
        self._due_ms = self._ticked_ms = now_ms()

    def on_leadership(self, leads: bool) -> None:
        """Whoever leads anew has seen nothing yet: everybody's time begins now."""
        self._tracks, self._seen, self._step = {}, (), None
        self._feed(())
        self._due_ms = self._ticked_ms = self._now_ms()

    def on_tick(self) -> None:
        if not self._replica.leads:
            return
        now = self._now_ms()
        pause_ms, self._ticked_ms = now - self._ticked_ms, now
        if pause_ms >= ASLEEP_MS:
            self._tracks, self._step = {}, None
        if now >= self._due_ms:
            self._due_ms = now + LOOK_EVERY_MS
            self.look()
        if self._step is not None and self._replica.raft.voters_settled:
            self._carry_out(self._step)

    def look(self) -> None:
        """Feed whoever joined, see how everybody is, and decide what is to be done."""
        voters = self._replica.raft.voters
        heard = self._membership.servers()
        self._feed(sorted(id for id in heard if id not in voters))
        self._seen = self._observe(heard)
        self._step = next_step(self._standings(), self._config())

    def forget(self, id: str) -> None:
        """This server has begun anew, without what it had: nothing that was known of it holds."""
        self._tracks.pop(id, None)
        self._feed([learner for learner in self._learners if learner != id])
        self._due_ms = self._now_ms()

    @property
    def servers(self) -> tuple[ServerSeen, ...]:
        """What was seen last; empty but on the leader."""
        return self._seen

    @property
    def healthy(self) -> bool:
        return bool(self._seen) and all(server.healthy for server in self._seen)

    @property
    def tolerance(self) -> int:
        return failure_tolerance(self._standings())

    # -- inside ------------------------------------------------------------------------------------

    def _feed(self, learners: Sequence[str]) -> None:
        if tuple(learners) != self._learners:
            self._learners = tuple(learners)
            self._replica.feed(self._learners)

    def _observe(self, heard: dict[str, Member]) -> tuple[ServerSeen, ...]:
        raft, now = self._replica.raft, self._now_ms()
        seen = [self._own()]
        for peer in raft.status().peers:
            member = heard.get(peer.id)
            answers = peer.heard_ticks_ago < raft.config.election_ticks
            healthy = self._is_healthy(peer, alive=answers or member is not None)
            track = self._track(peer.id, healthy, heard=answers or member is not None, now=now)
            seen.append(
                ServerSeen(
                    id=peer.id,
                    name=self._name(peer.id),
                    address=self._address(peer.id),
                    status="alive" if now - track.heard_ms < FAILED_AFTER_MS else "failed",
                    build=member.build if member is not None else "",
                    voter=peer.voter,
                    leader=False,
                    last_contact_ms=self._contact_ms(peer),
                    last_term=raft.term_at(peer.match) or 0,
                    last_index=peer.match,
                    healthy=healthy,
                    stable_ms=now - track.since_ms,
                    meta=member.meta if member is not None else {},
                )
            )
        known = [server.id for server in seen]
        self._tracks = {id: track for id, track in self._tracks.items() if id in known}
        return tuple(sorted(seen, key=lambda server: (server.name, server.id)))

    def _own(self) -> ServerSeen:
        raft, me, now = self._replica.raft, self._me, self._now_ms()
        track = self._track(me.id, True, heard=True, now=now)
        return ServerSeen(
            id=me.id,
            name=me.name,
            address=me.rpc,
            status="alive",
            build=me.build,
            voter=me.id in raft.voters,
            leader=True,
            last_contact_ms=0,
            last_term=raft.term,
            last_index=raft.last_index,
            healthy=True,
            stable_ms=now - track.since_ms,
            meta=me.meta,
        )

    def _track(self, id: str, healthy: bool, *, heard: bool, now: int) -> _Track:
        track = self._tracks.get(id)
        if track is None:
            track = self._tracks[id] = _Track(healthy, now)
        if track.healthy != healthy:
            track.healthy, track.since_ms = healthy, now
        if heard:
            track.heard_ms = now
        return track

    def _is_healthy(self, peer: PeerStatus, *, alive: bool) -> bool:
        raft, config = self._replica.raft, self._config()
        # What is not committed yet is behind nobody: it is still on its way to all.
        behind = raft.commit - peer.match
        return (
            alive
            and not peer.repairing
            and self._contact_ms(peer) <= config.last_contact_threshold_ms
            and behind <= config.max_trailing_logs
            and raft.term_at(peer.match) == raft.term
        )

    def _contact_ms(self, peer: PeerStatus) -> int:
        """How long an answer is overdue: between two heartbeats there is none to be had."""
        return max(0, peer.heard_ticks_ago - self._replica.raft.config.heartbeat_ticks) * self._tick_ms

    def _standings(self) -> list[Standing]:
        now = self._now_ms()
        return [
            Standing(
                id=server.id,
                voter=server.voter,
                leader=server.leader,
                healthy=server.healthy,
                stable_ms=server.stable_ms,
                silent_ms=now - self._tracks[server.id].heard_ms if server.id in self._tracks else 0,
            )
            for server in self._seen
        ]

    def _carry_out(self, step: Step) -> None:
        voters = self._replica.raft.voters
        if (step.id in voters) == (step.what == "promote"):
            self._step = None
            return
        wanted = [*voters, step.id] if step.what == "promote" else [id for id in voters if id != step.id]
        try:
            self._replica.change_voters(wanted)
        except Refused:
            return  # not caught up to the last entry, or too early in the term: the next tick tries again
        self._step = None
        if step.what == "promote":
            log.info("autopilot: server promoted to voter: server=%s id=%s", self._name(step.id), step.id)
        else:
            log.warning("autopilot: dead server removed: server=%s id=%s", self._name(step.id), step.id)
