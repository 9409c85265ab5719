"""Becoming a server of a cluster that exists: ask its leader to be sent the log, then belong to it.

A server without Raft data joins as a learner. It belongs to no cluster before the leader has said so: the
leader knows whether its id votes already, and a voter that lost its data must not vote under its old id,
since what it acknowledged is gone. The way out is a new id, or the removal of the old one first.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from gemot.server.model.errors import GemotError, NotLeader
from gemot.server.rpc.message import Call, Enlist, Enlisted, Member

KNOWN = "known"
"""What a client agent, which belongs to no cluster itself, says in the place of the cluster's id."""


class Joining:
    """This server's way in. `may` says whether it still belongs nowhere; `adopt` makes it belong."""

    def __init__(
        self,
        *,
        me: Member,
        may: Callable[[], bool],
        call: Callable[[Member, Call, Callable[[Any], None]], None],
        adopt: Callable[[str], None],
        hearsay: Callable[[], tuple[Member, ...]] = tuple,
    ) -> None:
        """`hearsay` are servers that are asked as well: whoever leads a cluster says so."""
        self._me = me
        self._may = may
        self._call = call
        self._adopt = adopt
        self._hearsay = hearsay
        self._servers: dict[str, Member] = {}
        self._clusters: dict[str, str] = {}
        self._refusal = ""

    def met(self, servers: tuple[Member, ...], cluster: str) -> None:
        """One of these addresses answered: these are the servers, of this cluster ("" if of none yet)."""
        if not cluster or not servers:
            return
        if cluster != KNOWN:
            self._clusters.setdefault(cluster, servers[0].name)
        for member in servers:
            if member.id != self._me.id and member.role == "server":
                self._servers[member.id] = member

    @property
    def begun(self) -> bool:
        """There is a cluster to join, so none is to be founded.

        A client agent may know of servers that have not founded theirs yet: its word is not enough.
        """
        return bool(self._clusters) and self._may()

    @property
    def waiting_for(self) -> str:
        if not (self.begun or (self._refusal and self._may())):
            return ""
        if len(self._clusters) > 1:
            told = ", ".join(f"{name} to {cluster}" for cluster, name in sorted(self._clusters.items()))
            return f"Waiting to join: the servers of retry_join belong to different clusters ({told})"
        names = ", ".join(sorted(member.name for member in self._servers.values()))
        told = f"Waiting to join the cluster of {names}: its leader has not answered yet"
        return f"Waiting to join: {self._refusal}" if self._refusal else told

    def on_second(self) -> None:
        """Ask every server: whichever leads answers."""
        if len(self._clusters) <= 1 and self._may():
            heard_of = [member for member in self._hearsay() if member.id not in self._servers]
            for member in (*self._servers.values(), *heard_of):
                self._call(member, Enlist(), partial(self._answered, member))

    def _answered(self, of: Member, result: Any) -> None:
        if not self._may():
            return
        if isinstance(result, Enlisted):
            self._refusal = ""
            self._adopt(result.cluster)
        elif isinstance(result, GemotError) and not isinstance(result, NotLeader):
            self._refusal = f"{of.name}: {result.message}"
