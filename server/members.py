"""Who is here: what the leader makes of the agents connected to servers, and of what gossip says.

Each server reports once a second to the leader who is connected to it. The leader keeps the catalog in line:
a host that lives by either word is registered with a passing `serfHealth`; one that gossip takes for failed
turns critical as soon as no connection contradicts, one of which gossip knows nothing (an older release, or
gossip is off) after `FAILED_AFTER_MS` without a report; one that leaves is taken out. Where many fail at once
they are kept in service at first (`mass_failure.py`). Names are compared as the catalog does, folded.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence
from typing import Literal, Protocol

import msgspec

from gemot.server.connected import same_place
from gemot.server.mass_failure import MassFailure
from gemot.server.model.catalog import (
    SERVER_SERVICE,
    HealthService,
    Node,
    NodeDetail,
)
from gemot.server.model.command import Command
from gemot.server.model.health import Check
from gemot.server.rpc.message import Member
from gemot.server.serf_health import (
    ALIVE_OUTPUT,
    SUSPECT_OUTPUT,
    give_up_name,
    register_alive,
    register_failed,
    register_suspect,
    serves_at,
)
from gemot.server.state.names import fold

log = logging.getLogger("gemot.server")

FAILED_AFTER_MS = 6_000
"""Silence after which a host has failed. A broken connection is dialled again within one second, so
only a dead agent, or a host cut off, stays silent for longer. The latter is reported as connected until its
connection is given up (SILENT_S in `runtime/connection.py`), so its silence begins that much later here."""

FORMER_LEADER_MS = 3_000
"""What the leader before has at least from the beginning of a new one on, however long it was not heard."""

ASLEEP_MS = 1_000
"""A pause between two ticks from which on this host was itself suspended or stalled: what it did not
hear meanwhile says nothing about others."""

FAIL_AGAIN_MS = 1_000
"""How soon a failure is proposed again that has not reached the catalog."""

LEFT_FOR_MS = 15_000
"""So long after its good-bye a member is not taken for alive by what others say: its process may still be
ending, with connections to them. A new connection, to whichever server, brings it back at once."""

RECONCILE_EVERY_MS = 60_000
"""How often every member is compared with the catalog, changed or not (Consul: reconcile interval)."""

TURNS = 50
"""Hosts that are compared with the catalog in one tick, where nothing is known to have changed. A look costs
some 100 microseconds, so all of a large cluster at once would cost the leader its office."""

NAMED = 10
"""Hosts that are named when many fail."""

DOUBTED_MS = 30_000
"""Whom gossip merely doubts, and no server hears for so long, has failed: a suspicion ends before, unless
whoever holds it is in doubt of itself."""

CONTRADICTS_MS = 2_500
"""A report so fresh says that a host lives, whatever gossip says: it is gossip that is cut off."""

LATE_MS = 1_500
"""A report is late: they come every second. Whom gossip doubts then counts with those that fail."""

Standing = Literal["alive", "suspect", "failed", "left"]


class Gossip(Protocol):
    """What the agent in this process hears from all the others."""

    def standing(self, id: str) -> Standing | None:
        """How this member stands; None if nothing is known of it."""

    def member(self, id: str) -> Member | None:
        """What it says of itself; None if nothing is known of it."""

    def everyone(self) -> Iterable[tuple[Member, Standing]]: ...

    def expect_no_more(self, id: str) -> None:
        """This member has failed and will not come back: all are to hold it for one that left."""


class NoGossip:
    """Gossip that is off."""

    def standing(self, id: str) -> Standing | None:
        return None

    def member(self, id: str) -> Member | None:
        return None

    def everyone(self) -> Iterable[tuple[Member, Standing]]:
        return ()

    def expect_no_more(self, id: str) -> None: ...


class Membership:
    """The leader's knowledge of who lives, turned into catalog commands. Soft: a new leader starts afresh."""

    def __init__(
        self,
        *,
        propose: Callable[[Command], None],
        look: Callable[[str], NodeDetail | None],
        alive_in_catalog: Callable[[], list[tuple[Node, Check]]],
        former_leader: Callable[[], tuple[str, int]],
        take_out: Callable[[str], None],
        guard: MassFailure,
        know_txn: Callable[[], bool],
        now_ms: Callable[[], int],
    ) -> None:
        """`know_txn`: does every server know transactions?"""
        self.guard = guard
        self._propose = propose
        self._look = look
        self._alive_in_catalog = alive_in_catalog
        self._former_leader = former_leader
        self._take_out = take_out
        self._know_txn = know_txn
        self._now_ms = now_ms
        self._heard: dict[str, tuple[Member | None, int]] = {}
        """By folded name, as all that follows."""

        self._settled: dict[str, Member] = {}
        self._in_turn: set[str] = set()
        """Hosts that need not be compared at once: by all that is known nothing has changed."""

        self._turns = TURNS
        self._as_it_began: dict[str, Node] = {}
        """Hosts as the catalog had them when this server began to lead, until they are heard of."""

        self._left: dict[str, int] = {}
        self._refused: set[str] = set()
        self._reconciled_ms = 0
        self._ticked_ms = now_ms()
        self._doubted: dict[str, str] = {}
        """Whom gossip takes for failed: the name of each id."""

        self._worse: dict[str, None] = {}
        """Of whom something bad is proposed that the catalog may not show yet."""

        self._mark_again_ms = 0
        self._kept = False
        """Was anybody kept in service at the last tick?"""

        self.gossip: Gossip = NoGossip()

    def begin(self) -> None:
        """This server leads from now on: every host the catalog calls alive has a full period to report.

        The period of the leader before began when this server heard it last: its silence is why there was
        an election, and the election's time is part of it.
        """
        now = self._now_ms()
        former, heard_ms = self._former_leader()
        former_ms = min(now, max(heard_ms, now - FAILED_AFTER_MS + FORMER_LEADER_MS))
        alive = self._alive_in_catalog()
        self._heard = {fold(node.node): (None, former_ms if node.id == former else now) for node, _ in alive}
        self.guard.begin(fold(node.node) for node, check in alive if check.output == SUSPECT_OUTPUT)
        self._settled = {}
        self._in_turn = {fold(node.node) for node, check in alive if check.output == ALIVE_OUTPUT}
        self._as_it_began = {fold(node.node): node for node, _ in alive}
        self._left = {}
        self._refused = set()
        self._worse = {}
        self._reconciled_ms = self._ticked_ms = now
        self._listen()

    def compare_anew(self) -> None:
        """The catalog was replaced by another (a restore): who lives is as it was.

        All of them are compared with it, and a host of which only it knows has a full period to report.
        """
        now = self._now_ms()
        for node, _ in self._alive_in_catalog():
            self._heard.setdefault(fold(node.node), (None, now))
        self._compare_all()

    def joined(self, member: Member, *, afresh: bool = False) -> None:
        """This member is alive (membership's `member_joined`). Costs nothing while all is as it was.

        `afresh`: it has just connected to a server. Others may still speak of one that left.
        """
        name = fold(member.name)
        if self._left and not self._welcome(name, afresh):
            return
        if holder := self.holder(member):
            if member.id not in self._refused:
                self._refused.add(member.id)
                told = "server: name taken, not let in: node=%s address=%s id=%s holder=%s"
                log.warning(told, member.name, member.address, member.id, holder)
            return
        self._heard[name] = (member, self._now_ms())
        self._as_it_began.pop(name, None)
        self.guard.lives(name)
        if self._settled.get(name) != member and self._is_its_turn(name):
            self._settled[name] = member
            self._let_in(name, member)

    def _let_in(self, name: str, member: Member) -> None:
        known, may_be_worse = self._look(name), name in self._worse
        self._worse.pop(name, None)
        if known is not None and (give_up := give_up_name(known, member, by_txn=self._know_txn())):
            told = "server: name passed on: node=%s address=%s id=%s former=%s"
            log.info(told, member.name, member.address, member.id, _who(known.node))
            self._propose(give_up)
        if (command := register_alive(member, None if may_be_worse else known)) is not None:
            self._propose(command)

    def failed(self, name: str) -> None:
        """Nothing was heard of this member for too long. Proposed until the catalog says so.

        A node that is another's by now, under the same name, has not failed with it.
        """
        name = fold(name)
        id = self._id(name) if name in self._heard else ""
        self._heard.pop(name, None)
        self._unsettle(name)
        self._worse.pop(name, None)
        known = self._look(name)
        if known is None or (command := register_failed(known)) is None:
            return
        if id not in ("", known.node.id):
            self._heard[name] = (None, self._now_ms())
            return
        self._heard[name] = (None, self._now_ms() - FAILED_AFTER_MS + FAIL_AGAIN_MS)
        self._worse[name] = None
        self._propose(command)

    def left(self, name: str) -> None:
        """This member leaves on purpose: it is expected no more (the caller takes its node out)."""
        name = fold(name)
        self._heard.pop(name, None)
        self._unsettle(name)
        self._worse.pop(name, None)
        self.guard.lives(name)
        self._left[name] = self._now_ms() + LEFT_FOR_MS

    def holder(self, member: Member) -> str:
        """Who else has its name, for people: another id, which was heard of too lately to be gone; or "".

        A host that was wiped comes under the name of its former self, which has it until it has failed.
        Gossip may still hear that one, or doubt of it, when no server does. A server that listens where the
        former one did need not wait so long: had that lived, it had said so.
        """
        name = fold(member.name)
        before, at = self._heard.get(name, (member, 0))
        silent_ms = self._now_ms() - at
        if before is member:
            return ""
        if member.rpc and silent_ms >= CONTRADICTS_MS and self._is_at_its_place(member, before):
            return ""
        if silent_ms >= FAILED_AFTER_MS and self._is_gone(name, before, silent_ms):
            return ""
        if before is not None:
            return _who(before) if before.id != member.id else ""
        node = self._as_it_began.get(name) or self._node(name)
        if node is None or node.id in ("", member.id):
            return ""
        return _who(node)

    def _is_gone(self, name: str, before: Member | None, silent_ms: int) -> bool:
        standing = self.gossip.standing(before.id if before is not None else self._id_in_catalog(name))
        return standing != "alive" and (standing != "suspect" or silent_ms >= DOUBTED_MS)

    def _is_at_its_place(self, member: Member, before: Member | None) -> bool:
        if before is None:
            return (known := self._look(member.name)) is not None and serves_at(known, member)
        return same_place(before, member)

    def sign_of_life(self, name: str, id: str) -> str:
        """Why this member is taken for alive, for people; "" if nothing says so."""
        name = fold(name)
        if self.gossip.standing(id) in ("alive", "suspect"):
            return "it gossips"
        member, at = self._heard.get(name, (None, 0))
        fresh_ms = CONTRADICTS_MS if self.gossip.standing(id) == "failed" else FAILED_AFTER_MS
        if name not in self._heard or self._now_ms() - at >= fresh_ms:
            return ""
        if member is not None:
            return "a server has a connection to it" if member.id == id else ""
        known = self._look(name)
        alive = known is not None and known.node.id == id and register_failed(known) is not None
        return "it was, lately: ask again in some seconds" if alive else ""

    def _welcome(self, name: str, afresh: bool) -> bool:
        if afresh or self._left.get(name, 0) <= self._now_ms():
            self._left.pop(name, None)
            return True
        return False

    def servers(self) -> dict[str, Member]:
        """The servers that were heard of lately, by id. Whoever took another's name is not that other one."""
        since = self._now_ms() - FAILED_AFTER_MS
        return {
            member.id: member
            for member, at in self._heard.values()
            if member is not None and member.role == "server" and at > since
        }

    def on_tick(self) -> None:
        now = self._now_ms()
        self._turns = TURNS
        pause_ms, self._ticked_ms = now - self._ticked_ms, now
        if pause_ms >= ASLEEP_MS:
            self._heard = {name: (member, at + pause_ms) for name, (member, at) in self._heard.items()}
        if failing := [*self._silent_for_too_long(now), *self._doubted_for_good(now)]:
            self._judge(list(dict.fromkeys(failing)), now)
        self._mark_again(now)
        if self._kept and not self.guard.held:
            log.warning("server: mass failure over: who was kept in service is back, or has failed now")
        self._kept = self.guard.held > 0
        if now - self._reconciled_ms >= RECONCILE_EVERY_MS:
            self._reconciled_ms = now
            self._compare_all()
            self._listen()

    # -- comparing with the catalog ----------------------------------------------------------------

    def _compare_all(self) -> None:
        self._in_turn |= self._settled.keys()
        self._settled = {}

    def _unsettle(self, name: str) -> None:
        """Something happens to it: it is compared as soon as it is heard of."""
        self._settled.pop(name, None)
        self._in_turn.discard(name)
        self._as_it_began.pop(name, None)

    def _node(self, name: str) -> Node | None:
        known = self._look(name)
        return None if known is None else known.node

    def _as_written(self, name: str) -> str:
        node = self._node(name)
        return node.node if node is not None else name

    def _is_its_turn(self, name: str) -> bool:
        if name not in self._in_turn:
            return True
        if not self._turns:
            return False
        self._turns -= 1
        self._in_turn.discard(name)
        return True

    def end(self) -> None:
        """This server leads no more: it keeps nobody in service."""
        self.guard.begin(())
        self._kept = False

    def alive(self) -> int:
        return len(self._heard)

    # -- failure -----------------------------------------------------------------------------------

    def _silent_for_too_long(self, now: int) -> list[str]:
        """Those of whom nothing was heard, unless gossip hears them; or doubts them, for a while."""
        silent = [
            (name, now - at)
            for name, (_, at) in self._heard.items()
            if now - at >= FAILED_AFTER_MS and not self.guard.holds(name, now)
        ]
        failing = []
        for name, silent_ms in silent:
            id = self._id(name) or self._id_in_catalog(name)
            standing = self.gossip.standing(id)
            if standing == "alive" and (member := self._in_gossip(name, id)) is not None:
                self.joined(member)
            elif standing != "suspect" or silent_ms >= DOUBTED_MS:
                failing.append(name)
        return failing

    def _doubted_for_good(self, now: int) -> list[str]:
        """Whom gossip takes for failed has failed, once no fresh report contradicts.

        Not so who has its name by now: gossip remembers a host that was wiped under its former id.
        """
        failing = []
        for id, name in list(self._doubted.items()):
            _, at = self._heard.get(name, (None, now))
            is_known = name in self._heard and self._id(name) in ("", id)
            if not is_known or self.gossip.standing(id) != "failed":
                del self._doubted[id]
            elif now - at >= CONTRADICTS_MS:
                del self._doubted[id]
                holder = self._id(name) or self._id_in_catalog(name)
                if holder == id and not self.guard.holds(name, now):
                    failing.append(name)
        return failing

    def _judge(self, failing: Sequence[str], now: int) -> None:
        """These have failed, unless so many do at once that the guard keeps them in service."""
        kept = self.guard.judge(failing, self._heard, self._silent(now), now)
        if kept:
            told = "server: mass failure: hosts fail together, kept in service for now: %d of %d, %s"
            named = ", ".join(self._as_written(name) for name in sorted(kept)[:NAMED])
            log.warning(told, self.guard.held, len(self._heard), named)
        for name in [name for name in failing if not self.guard.holds(name, now)]:
            self.failed(name)
        for name in kept:
            self._heard.setdefault(name, (None, now - FAILED_AFTER_MS))
            self._unsettle(name)
            self._mark(name)

    def _silent(self, now: int) -> Iterable[str]:
        """Those that fail soon unless they are heard. Who falls silent with them may do so a moment later."""
        for name, (_, at) in self._heard.items():
            standing = self.gossip.standing(self._id(name))
            late_ms = LATE_MS if standing in ("suspect", "failed") else CONTRADICTS_MS
            if standing != "alive" and now - at >= late_ms:
                yield name

    def _mark(self, name: str) -> None:
        """Proposed until the catalog says so."""
        self._worse.pop(name, None)
        if (command := register_suspect(self._look(name))) is not None:
            self._worse[name] = None
            self._propose(command)

    def _mark_again(self, now: int) -> None:
        if now - self._mark_again_ms < FAIL_AGAIN_MS:
            return
        self._mark_again_ms = now
        for name in [name for name in self._worse if self.guard.holds(name, now)]:
            self._mark(name)

    # -- gossip ------------------------------------------------------------------------------------

    def on_gossip(self, member: Member, standing: Standing) -> None:
        """Something has become known of this member."""
        name = fold(member.name)
        before, at = self._heard.get(name, (None, 0))
        if standing == "failed":
            self._doubted[member.id] = name
        elif standing == "alive" and self._is_missed(name):
            self.joined(self._with_its_meta(member))
        elif standing == "left" and not (before is not None and self._now_ms() - at < CONTRADICTS_MS):
            known = self._look(member.name)
            if known is not None and known.node.id == member.id:
                self._take_out(member.name)

    def _listen(self) -> None:
        """All that gossip knows: a new leader was told of it before it led."""
        for member, standing in self.gossip.everyone():
            self.on_gossip(member, standing)

    def _id(self, name: str) -> str:
        """Of one in `_heard`, without a look at the catalog; "" if that alone knows."""
        member, _ = self._heard[name]
        if member is not None:
            return member.id
        node = self._as_it_began.get(name)
        return node.id if node is not None else ""

    def _id_in_catalog(self, name: str) -> str:
        node = self._node(name)
        return node.id if node is not None else ""

    def _in_gossip(self, name: str, id: str) -> Member | None:
        """This host, of which no server has said anything for too long, as gossip knows it."""
        member, _ = self._heard[name]
        if member is None and (member := self.gossip.member(id)) is not None:
            return self._with_its_meta(member)
        return member

    def _is_missed(self, name: str) -> bool:
        return name not in self._heard or self.guard.holds(name, self._now_ms())

    def _with_its_meta(self, member: Member) -> Member:
        """Gossip does not carry what only the servers are told: that stays as they know it."""
        known = self._look(member.name)
        if known is None or known.node.id != member.id:
            return member
        node = known.node
        return msgspec.structs.replace(member, meta=node.meta, tagged_addresses=node.tagged_addresses)


def _who(one: Member | Node) -> str:
    return f"{one.address} (id {one.id})"


SERVERS = HealthService(SERVER_SERVICE)
"""The query that finds the servers in the catalog."""
