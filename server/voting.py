"""Voters removed on demand: each demand is tried until the change is committed, or its time is over.

Until the change is logged nothing is done. After that only its end tells: a leader that is one no more before
it is committed does not know whether the next one keeps it.

What would leave no quorum is refused at once. Anything else that stands in the way passes: another change
under way, a term that has just begun, a handover.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from gemot.server.consensus import Replica
from gemot.server.model.errors import NotLeader, OutcomeUnknown, RuleFailed, Unavailable
from gemot.server.raft.errors import Refused
from gemot.server.raft.quorum import majority

Done = Callable[[Any], None]

NOT_COMMITTED = "the change is not committed yet"


class _Demand:
    def __init__(self, id: str, until_ms: int, done: Done) -> None:
        self.id = id
        self.until_ms = until_ms
        self.done = done
        self.logged = False
        self.why = NOT_COMMITTED


class Voting:
    """`alive` are the ids of the servers that answer, or may yet: a new leader gives all an election timeout.

    `answered` are those that did answer this leader, and count for a quorum. Nothing is changed on a hope:
    while the others are needed and have not been heard yet, or lost part of their log and are filled up, a
    demand waits. `name` is for people.
    """

    def __init__(
        self,
        *,
        replica: Replica,
        alive: Callable[[], list[str]],
        answered: Callable[[], list[str]],
        name: Callable[[str], str],
        now_ms: Callable[[], int],
        hold_ms: int,
    ) -> None:
        self._replica = replica
        self._alive = alive
        self._answered = answered
        self._name = name
        self._now_ms = now_ms
        self._hold_ms = hold_ms
        self._demands: list[_Demand] = []

    def remove(self, id: str, done: Done) -> None:
        """Take this server's vote; `done(True)` once that is committed, else an error that says why not.

        OutcomeUnknown where it may be committed yet, Unavailable where it surely will not be.
        """
        if (refusal := self.refusal(id)) is not None:
            done(refusal)
            return
        self._demands.append(_Demand(id, self._now_ms() + self._hold_ms, done))
        self.on_tick()

    def refusal(self, id: str) -> RuleFailed | None:
        """Why the others could not go on without this voter."""
        return self._harm(id, self._alive())

    def _harm(self, id: str, alive: list[str]) -> RuleFailed | None:
        voters = self._replica.raft.voters
        left = [voter for voter in voters if voter != id]
        if len(left) == len(voters):
            return None
        if not left:
            return RuleFailed(f"{self._name(id)} is the only voter: without it there is no cluster")
        there = [voter for voter in left if voter in alive]
        if len(there) < majority(len(left)):
            away = ", ".join(self._name(voter) for voter in left if voter not in there)
            return RuleFailed(
                f"without {self._name(id)} only {len(there)} of {len(left)} voters would answer, and "
                f"{majority(len(left))} have to agree: start or remove first what is away or repairs ({away})"
            )
        return None

    def on_tick(self) -> None:
        if not self._demands:
            return
        demands, self._demands = self._demands, []
        for demand in demands:
            if not self._ended(demand):
                self._demands.append(demand)

    def _ended(self, demand: _Demand) -> bool:
        raft = self._replica.raft
        if demand.id not in raft.voters and raft.voters_settled:
            demand.done(True)
        elif not self._replica.leads:
            demand.done(self._undecided(demand) if demand.logged else NotLeader(raft.leader))
        elif (refusal := self.refusal(demand.id)) is not None:
            demand.done(refusal)  # who was there when it was asked for is away by now
        elif self._now_ms() >= demand.until_ms:
            demand.done(self._undecided(demand) if demand.logged else self._not_begun(demand))
        else:
            self._try(demand)
            return False
        return True

    def _undecided(self, demand: _Demand) -> OutcomeUnknown:
        """It is in the log, and the next leader may commit it as well as take it back."""
        return OutcomeUnknown(f"the vote of {self._name(demand.id)} may be taken yet: {demand.why}")

    def _not_begun(self, demand: _Demand) -> Unavailable:
        return Unavailable(f"the vote of {self._name(demand.id)} could not be taken: {demand.why}")

    def _try(self, demand: _Demand) -> None:
        voters = self._replica.raft.voters
        if demand.id in voters:
            if (harm := self._harm(demand.id, self._answered())) is not None:
                demand.why = harm.message
                return
            try:
                self._replica.change_voters([voter for voter in voters if voter != demand.id])
            except Refused as refused:
                demand.why = refused.message
                return
        demand.logged, demand.why = True, NOT_COMMITTED  # for this demand, or already for another one
