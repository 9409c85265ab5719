"""An operator says that a member that failed will not come back: everything that hangs on it goes.

The leader's part: its vote, if it was a server, then its node with services and checks, then gossip is told
not to expect it. A vote is taken by the rules of any other removal (`voting.py`): where the others could not
go on without it nothing is changed. One that is alive would come straight back, so it is refused.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from gemot.server.consensus import Replica
from gemot.server.members import CONTRADICTS_MS, Membership
from gemot.server.model.catalog import SERF_HEALTH, Deregister, NodeDetail
from gemot.server.model.errors import GemotError, NotLeader, RuleFailed
from gemot.server.ports import Timer
from gemot.server.rpc.message import Operate
from gemot.server.voting import Voting
from gemot.server.writes import Writes

Done = Callable[[Any], None]

WAIT_MS = CONTRADICTS_MS + 1_000
"""Whom gossip takes for failed a server may have heard a moment ago: that word is waited out."""

AGAIN_MS = 250

NOBODY = "agent: No node found with name '{name}'"
"""Consul's, which its clients match."""


class ForceLeave:
    """Asked on the leader alone. `look` finds a node in the catalog by its name."""

    def __init__(
        self,
        *,
        replica: Replica,
        membership: Membership,
        voting: Voting,
        writes: Writes,
        look: Callable[[str], NodeDetail | None],
        timer: Timer,
    ) -> None:
        self._replica = replica
        self._membership = membership
        self._voting = voting
        self._writes = writes
        self._look = look
        self._timer = timer

    def ask(self, call: Operate, done: Done) -> None:
        """`done` gets what was done, in words. Without an id it is whom the catalog has under that name."""
        self._ask(call, self._timer.now_ms() + WAIT_MS, done)

    def _ask(self, call: Operate, until_ms: int, done: Done) -> None:
        if not self._replica.leads:
            done(NotLeader(self._replica.raft.leader))
            return
        name, id = call.node, call.id
        if not id:
            known = self._look(name)
            if known is None or not _is_member(known):
                done(RuleFailed(NOBODY.format(name=name)))
                return
            id = known.node.id
        if why := self._membership.sign_of_life(name, id):
            if self._membership.gossip.standing(id) == "failed" and self._timer.now_ms() < until_ms:
                self._timer.call_after(AGAIN_MS, lambda: self._ask(call, until_ms, done))
            else:
                done(RuleFailed(alive(name, why)))
        elif id in self._replica.raft.voters:
            self._voting.remove(id, lambda result: self._unseated(call, id, True, result, done))
        else:
            self._unseated(call, id, False, True, done)

    def _unseated(self, call: Operate, id: str, voted: bool, result: Any, done: Done) -> None:
        """To take a vote takes time, in which it may have come back.

        Where another one has its name by now that one stays what it is.
        """
        name, told = call.node, ["its vote is taken"] if voted else []
        if isinstance(result, GemotError):
            done(result)
            return
        if why := self._membership.sign_of_life(name, id):
            done(RuleFailed(alive(name, why) if not voted else back(name, why)))
            return

        def finished(result: Any) -> None:
            if isinstance(result, GemotError):
                done(result)
                return
            self._membership.left(name)
            self._membership.gossip.expect_no_more(id)
            done("; ".join(told))

        known = self._look(name)
        if known is None or known.node.id != id:
            self._membership.gossip.expect_no_more(id)
            done("; ".join(told or ["the catalog does not have it"]))
            return
        told.append(
            f"its node is out of the catalog, with {_count(known.services, 'service')} "
            f"and {_count(known.checks, 'check')}"
        )
        self._writes.apply(Deregister(name), "", None, finished)


def alive(name: str, why: str) -> str:
    """The refusal, as the agent that is asked gives it, too."""
    return (
        f"{name} is alive ({why}), and would come straight back: run `gemot leave` on its host; "
        "nothing was changed"
    )


def back(name: str, why: str) -> str:
    return (
        f"{name} came back while its vote was taken ({why}): its node stays, and it votes again once it has "
        "been healthy for a while; run `gemot leave` on its host"
    )


def _is_member(known: NodeDetail) -> bool:
    return any(check.check_id == SERF_HEALTH for check in known.checks)


def _count(rows: tuple[Any, ...], what: str) -> str:
    return f"{len(rows)} {what}{'' if len(rows) == 1 else 's'}"
