"""Handing the leadership over (thesis 3.10): wait until the other has everything, then tell it to campaign.

While it is under way nothing is proposed. If the other has not taken over within an election timeout, it
is called off, and this server leads on.
"""

from __future__ import annotations

from gemot.server.raft.core import Core
from gemot.server.raft.progress import Progress
from gemot.server.raft.types import CampaignNow


class Handover:
    """`to` is the server that is to lead, "" when none is."""

    def __init__(self, *, core: Core) -> None:
        self.to = ""
        self._core = core
        self._ticks = 0
        self._told = False

    def begin(self, to: str | None, peers: dict[str, Progress]) -> bool:
        """To the voter named, or the most caught-up one heard of lately. False if it cannot be."""
        if to is None:
            to = self._best(peers)
        elif to not in self._core.voters or to not in peers or peers[to].repairing:
            return False
        if not to:
            return False
        if to != self.to:
            self.to, self._ticks, self._told = to, 0, False
        return True

    def _best(self, peers: dict[str, Progress]) -> str:
        core = self._core
        able = [
            (peer.match, id)
            for id, peer in peers.items()
            if id in core.voters
            and not peer.repairing
            and core.now - peer.heard_tick < core.config.election_ticks
        ]
        return max(able)[1] if able else ""

    def go_when_caught_up(self, peers: dict[str, Progress]) -> None:
        """Tell it once. A second word could start a second, needless election."""
        if self.to and not self._told and peers[self.to].match == self._core.log.last:
            self._told = True
            self._core.send(self.to, CampaignNow(self._core.term, self._core.id))

    def leave_to_best(self, peers: dict[str, Progress]) -> None:
        """This leader goes in any case: whoever has most of the log need not wait for a timeout to stand."""
        if best := self._best(peers):
            self._core.send(best, CampaignNow(self._core.term, self._core.id))

    def tick(self) -> None:
        self._ticks += 1
        if self.to and self._ticks >= self._core.config.election_ticks:
            self.to = ""
