"""How a cluster begins: once, by agreement of all its first servers, and never again.

The rules (design: identity and bootstrap):
- A server with Raft data takes no part, and refuses whoever asks.
- When as many unbootstrapped servers know each other as `bootstrap_expect` says, the one with the lowest
  id proposes a cluster id and the voters. Each server durably promises one cluster only, ever.
- Only when all have promised does it begin: every voter writes the same first log entry, the voter set.
  One that misses this step is handed the entry by the leader, like any other.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec

from gemot.server.model.errors import Conflict, GemotError
from gemot.server.rpc.message import Call, Found, Member, Promise

RETRY_MS = 500


class Pledge(msgspec.Struct, frozen=True, array_like=True):
    """What this server has promised, as kept in its meta file: one cluster, its voters, its proposer."""

    cluster: str
    proposer: str
    voters: tuple[Member, ...]


class Bootstrap:
    """This server's part in the beginning. `keep` makes a pledge durable and then calls back."""

    def __init__(
        self,
        *,
        me: Member,
        expect: int,
        pledge: Pledge | None,
        has_data: Callable[[], bool],
        has_leader: Callable[[], bool],
        mint_cluster: Callable[[], str],
        call: Callable[[Member, Call, Callable[[Any], None]], None],
        keep: Callable[[Pledge, Callable[[], None]], None],
        begin: Callable[[str, tuple[Member, ...]], None],
    ) -> None:
        self._me = me
        self._expect = expect
        self._pledge = pledge
        self._has_data = has_data
        self._has_leader = has_leader
        self._mint_cluster = mint_cluster
        self._call = call
        self._keep = keep
        self._begin = begin
        self._known: dict[str, Member] = {me.id: me}
        self._promised: dict[str, None] = {}
        self.refusal = ""

    @property
    def waiting_for(self) -> str:
        """What is waited for, for people."""
        names = ", ".join(sorted(m.name for m in self._known.values()))
        text = f"Waiting for servers: have {len(self._known)} of {self._expect} ({names})"
        return f"{text}; {self.refusal}" if self.refusal else text

    def found(self, member: Member, expect: int, cluster: str) -> None:
        """Another server was met: unbootstrapped with the same expectation, or a reason to say no."""
        if cluster or member.id == self._me.id or not self._expect:
            return
        if expect != self._expect:
            self.refusal = (
                f"{member.name} has bootstrap_expect {expect}, this server {self._expect}: make them equal"
            )
            return
        self._known[member.id] = member

    def on_tick(self) -> None:
        """Propose when it is this server's turn; ask and tell again whoever may have missed it."""
        if self._has_data():
            if not self._has_leader():
                self._tell_all()
            return
        if self._pledge is None and 0 < self._expect <= len(self._known):
            voters = tuple(sorted(self._known.values(), key=lambda m: m.id))
            if voters[0].id == self._me.id:
                self._promise(Pledge(self._mint_cluster(), self._me.id, voters), self._ask_all)
        elif self._pledge is not None and self._pledge.proposer == self._me.id:
            self._ask_all()

    def on_promise(self, cluster: str, proposer: str, voters: tuple[Member, ...], done: _Done) -> None:
        """Another server proposes a cluster: promise, or refuse and name both sides."""
        if self._pledge is not None and self._pledge.cluster == cluster:
            done(True)
        elif self._has_data():
            done(Conflict(f"{self._me.name} has Raft data already: it belongs to a cluster"))
        elif self._pledge is not None:
            done(
                Conflict(
                    f"{self._me.name} has promised cluster {self._pledge.cluster} "
                    f"(proposed by {self._pledge.proposer}), not {cluster} (proposed by {proposer})"
                )
            )
        else:
            self._promise(Pledge(cluster, proposer, voters), lambda: done(True))

    def on_found(self, cluster: str, voters: tuple[Member, ...], done: _Done) -> None:
        """All have promised: begin, unless the leader was faster."""
        if not self._has_data():
            if self._pledge is None or self._pledge.cluster != cluster:
                done(Conflict(f"{self._me.name} has not promised cluster {cluster}"))
                return
            self._begin(cluster, voters)
        done(True)

    def promised(self, cluster: str) -> bool:
        return self._pledge is not None and self._pledge.cluster == cluster

    def _promise(self, pledge: Pledge, done: Callable[[], None]) -> None:
        def kept() -> None:
            self._pledge = pledge
            done()

        self._keep(pledge, kept)

    def _ask_all(self) -> None:
        assert self._pledge is not None
        pledge = self._pledge
        self._promised[self._me.id] = None
        for voter in pledge.voters:
            if voter.id not in self._promised:
                self._call(voter, Promise(pledge.cluster, pledge.voters), self._answered(voter))
        self._begin_if_all()

    def _answered(self, voter: Member) -> Callable[[Any], None]:
        def answered(result: Any) -> None:
            if isinstance(result, GemotError):
                self.refusal = f"{voter.name}: {result.message}"
            else:
                self._promised[voter.id] = None
                self._begin_if_all()

        return answered

    def _begin_if_all(self) -> None:
        pledge = self._pledge
        if pledge is None or self._has_data() or any(v.id not in self._promised for v in pledge.voters):
            return
        self._begin(pledge.cluster, pledge.voters)
        self._tell_all()

    def _tell_all(self) -> None:
        """Found the cluster everywhere; a voter that lost this step in a crash is told again."""
        pledge = self._pledge
        if pledge is None or pledge.proposer != self._me.id:
            return
        for voter in pledge.voters:
            if voter.id != self._me.id:
                self._call(voter, Found(pledge.cluster, pledge.voters), lambda _result: None)


_Done = Callable[[Any], None]
