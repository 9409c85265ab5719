"""Where nodes stand, on its way from the agents to the state: gathered by each server, written by the leader.

Agents say it to the server that they are connected to, which hands it on with its next report; the leader
proposes what has come, at most so many and so often, in commands so short that one is applied in about 1 ms.
What is lost on the way is said again soon. Only the last word of a node counts, and only of nodes that the
catalog has.

Servers of an older release would stop at the command: it is proposed once all that are sent the log have said
that they know it, or where the log has had one already. Source: Consul's figures (5 batches of 128 in 5 s).
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable

from gemot.server.features import Features
from gemot.server.model.command import Command
from gemot.server.model.coordinate import NodeCoordinate, SetCoordinates
from gemot.server.rpc.message import COORDINATES

log = logging.getLogger("gemot.server")

WRITE_EVERY_MS = 5_000
MOST_AT_ONCE = 640
"""Nodes, about 80 KB; and in one report to the leader."""

IN_ONE_COMMAND = 128

MOST_WAITING = 8_192
"""Nodes; of more the last ones are not heard, and say it again."""

NAME_MAX = 1_024


class CoordinateBatches:
    """`has_node` says whether the catalog has one."""

    def __init__(
        self,
        *,
        features: Features,
        propose: Callable[[Command], None],
        has_node: Callable[[str], bool],
        now_ms: Callable[[], int],
    ) -> None:
        self._features = features
        self._propose = propose
        self._has_node = has_node
        self._now_ms = now_ms
        self._waiting: dict[str, NodeCoordinate] = {}
        self._due_ms = now_ms()
        self._told = False

    def __len__(self) -> int:
        """Nodes whose word waits to be handed on."""
        return len(self._waiting)

    def take(self, rows: Iterable[NodeCoordinate]) -> None:
        """These stand there now. Of a node the last word holds; who is in no catalog takes nobody's room."""
        for row in rows:
            room = row.node in self._waiting or len(self._waiting) < MOST_WAITING
            if room and len(row.node) <= NAME_MAX and self._has_node(row.node):
                self._waiting[row.node] = row

    def hand_on(self) -> tuple[NodeCoordinate, ...]:
        """Some of what has come, for the leader; it is its affair from now on."""
        some = list(self._waiting)[:MOST_AT_ONCE]
        return tuple([self._waiting.pop(node) for node in some])

    def on_second(self) -> None:
        """For the leader: write what there is, if it is time."""
        now = self._now_ms()
        if now < self._due_ms or not self._waiting or not self._all_know_it():
            return
        self._due_ms = now + WRITE_EVERY_MS
        rows = tuple([row for row in self.hand_on() if self._has_node(row.node)])
        for first in range(0, len(rows), IN_ONE_COMMAND):
            self._propose(SetCoordinates(rows[first : first + IN_ONE_COMMAND]))

    def _all_know_it(self) -> bool:
        if not self._features.without(COORDINATES):
            return True
        if not self._told:
            self._told = True
            log.info("server: coordinates wait until all servers have said that their release knows them")
        return False
