"""How a cluster begins: once, by agreement of all its first servers, and never again.

The rules (design: identity and bootstrap):
- A server with Raft data takes no part, and refuses whoever asks.
- When as many unbootstrapped servers know each other as `bootstrap_expect` says, the one with the lowest
  id proposes a cluster id and the voters, once each of them has answered it under its id (a server that
  was wiped meanwhile must not vote under its old one). Each server durably promises one cluster only, ever.
- Only its own word tells what a server expects. One that expects nothing (0) is to join later: it is not
  counted. One that expects another number is not counted either, and people are told.
- Only when all have promised does it begin: every voter writes the same first log entry, the voter set.
  One that misses this step makes up for it as soon as it hears any of the others.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import msgspec

from gemot.server.model.errors import BadRequest, Conflict, GemotError
from gemot.server.rpc.message import Call, Found, Join, Joined, Member, Promise

ROUND_TICKS = 5
"""Of a second each."""

OTHERS = -1
"""What a server expects that belongs to a cluster already."""


class Pledge(msgspec.Struct, frozen=True, array_like=True):
    """What this server has promised, as kept in its meta file: one cluster, its voters, its proposer."""

    cluster: str
    proposer: str
    voters: tuple[Member, ...]


def encode_pledge(pledge: Pledge) -> bytes:
    return msgspec.msgpack.encode(pledge)


def decode_pledge(data: bytes) -> Pledge | None:
    """What was kept; None if nothing ever was."""
    return msgspec.msgpack.decode(data, type=Pledge) if data else None


class Bootstrap:
    """This server's part in the beginning. `keep` makes a pledge durable and then calls back.

    `begin` is told whether this is the beginning itself, or comes after it.
    """

    def __init__(
        self,
        *,
        me: Member,
        expect: int,
        pledge: Pledge | None,
        has_data: Callable[[], bool],
        has_leader: Callable[[], bool],
        is_known: Callable[[Member], bool],
        mint_cluster: Callable[[], str],
        call: Callable[[Member, Call, Callable[[Any], None]], None],
        keep: Callable[[Pledge, Callable[[], None]], None],
        begin: Callable[[str, tuple[Member, ...], bool], None],
        hearsay: Callable[[], tuple[Member, ...]] = tuple,
    ) -> None:
        """`hearsay` are servers that are asked as well, and count once they have answered."""
        self._me = me
        self._expect = expect
        self._pledge = pledge
        self._has_data = has_data
        self._has_leader = has_leader
        self._is_known = is_known
        self._mint_cluster = mint_cluster
        self._call = call
        self._keep = keep
        self._begin = begin
        self._hearsay = hearsay
        self._known: dict[str, Member] = {me.id: me}
        self._expects: dict[str, int] = {}
        self._promised: dict[str, None] = {}
        self._keeping: list[Callable[[], None]] | None = None
        self._round = _Round()
        self.refusal = ""

    @property
    def waiting_for(self) -> str:
        """What is waited for, for people."""
        known = self._present()
        names = ", ".join(sorted(m.name for m in known))
        text = f"Waiting for servers: have {len(known)} of {self._expect} ({names})"
        return f"{text}; {self.refusal}" if self.refusal else text

    def found(self, member: Member, expect: int, cluster: str) -> None:
        """This server says what it expects, and of which cluster it is ("" if of none yet)."""
        if member.id == self._me.id or not self._expect:
            return
        self._known[member.id] = member
        self._expects[member.id] = OTHERS if cluster else expect
        if cluster:
            self.refusal = (
                f"{member.name} belongs to cluster {cluster} already: this server comes too late to begin one"
            )
        elif expect not in (0, self._expect):
            self.refusal = (
                f"{member.name} has bootstrap_expect {expect}, this server {self._expect}: make them equal"
            )

    def rumoured(self, member: Member) -> None:
        """Another names this server: it is asked itself before it counts."""
        if member.id != self._me.id:
            self._known[member.id] = member

    def on_tick(self) -> None:
        """Propose when it is this server's turn; ask and tell again whoever may have missed it."""
        if self._has_data():
            if not self._has_leader():
                self._tell_all()
            return
        if self._pledge is None:
            if self._expect:
                self._look_around()
        elif self._pledge.proposer == self._me.id and self._keeping is None:
            self._ask_all()

    def _present(self) -> tuple[Member, ...]:
        """The servers met so far that may begin with this one, by id: none has said otherwise."""
        here = [m for m in self._here() if self._expects.get(m.id, self._expect) == self._expect]
        return tuple(sorted(here, key=lambda m: m.id))

    def _here(self) -> list[Member]:
        """The servers met so far that are still the ones at their addresses."""
        return [m for m in self._known.values() if m.id == self._me.id or self._is_known(m)]

    def _look_around(self) -> None:
        """Propose as soon as every voter to be has answered in one round, however slowly.

        A round is short, so that who has answered is still there when the last one does: one that was wiped
        meanwhile must not be proposed under its old id. In it, those who are missing are asked again. Those
        who said otherwise are asked too: they may have been started again, with another configuration.
        """
        if self._round.ticks >= ROUND_TICKS:
            self._round = _Round()
        self._round.ticks += 1
        met = self._here()
        heard_of = [member for member in self._hearsay() if member.id not in self._known]
        for member in (*met, *heard_of):
            if member.id != self._me.id and member.id not in self._round.answered:
                self._call(member, Join(self._expect), partial(self._heard, self._round, member))
        self._propose_if_all()

    def _heard(self, asked_in: _Round, member: Member, result: Joined | GemotError) -> None:
        if isinstance(result, GemotError):
            if member in self._present():
                self.refusal = f"{member.name}: {result.message}"
            return
        asked_in.answered[member.id] = None
        self.found(member, result.expect, result.cluster)
        self._propose_if_all()

    def _propose_if_all(self) -> None:
        """It is this server's turn if it has the lowest id of those that would be the voters."""
        voters = self._present()
        if len(voters) < self._expect or voters[0].id != self._me.id:
            return
        if any(v.id not in self._round.answered for v in voters[1:]):
            return
        if self._pledge is None and not self._has_data():
            self._promise(Pledge(self._mint_cluster(), self._me.id, voters), self._ask_all)

    def on_promise(self, cluster: str, proposer: str, voters: tuple[Member, ...], done: _Done) -> None:
        """Another server proposes a cluster: promise, or refuse and name both sides."""
        if self._pledge is not None and self._pledge.cluster == cluster:
            self._once_kept(lambda: done(True))
        elif self._me.id not in [v.id for v in voters] or len({v.id for v in voters}) < len(voters):
            done(BadRequest(f"{self._me.name} is not one of the voters proposed, or one of them is twice"))
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
            pledge = self._pledge
            if pledge is None or pledge.cluster != cluster or pledge.voters != voters or self._keeping:
                done(Conflict(f"{self._me.name} has not promised cluster {cluster} with these voters"))
                return
            self._begin(cluster, voters, True)
        done(True)

    def founded(self, cluster: str) -> bool:
        """A server of this cluster speaks. Is it the one that was promised here?

        Then all have promised it, and one that missed the beginning, or lost it in a crash, begins now: those
        who speak may need its vote before any of them can lead.
        """
        pledge = self._pledge
        if pledge is None or pledge.cluster != cluster or self._keeping is not None:
            return False
        if not self._has_data():
            self._begin(pledge.cluster, pledge.voters, False)
        return True

    def _promise(self, pledge: Pledge, done: Callable[[], None]) -> None:
        """Promise from this moment on, so that no second cluster is; tell it once it is durable."""
        self._pledge = pledge
        self._keeping = [done]

        def kept() -> None:
            waiting, self._keeping = self._keeping or [], None
            for each in waiting:
                each()

        self._keep(pledge, kept)

    def _once_kept(self, done: Callable[[], None]) -> None:
        if self._keeping is None:
            done()
        else:
            self._keeping.append(done)

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
        self._begin(pledge.cluster, pledge.voters, True)
        self._tell_all()

    def _tell_all(self) -> None:
        """Found the cluster everywhere; a voter that lost this step in a crash is told again."""
        pledge = self._pledge
        if pledge is None or pledge.proposer != self._me.id:
            return
        for voter in pledge.voters:
            if voter.id != self._me.id:
                self._call(voter, Found(pledge.cluster, pledge.voters), lambda _result: None)


class _Round:
    """Who has answered in this one."""

    def __init__(self) -> None:
        self.answered: dict[str, None] = {}
        self.ticks = 0


_Done = Callable[[Any], None]
