"""The scrubber of one simulated server: the real passes (`server/storage/scrub.py`), in virtual time.

Pace and consequences are those of `server/runtime/scrubber.py`, which has the clock and the threads: a
damaged snapshot or segment is told to the server, a damaged state that can be built again ends the process.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from simulation.world import World

from gemot.server.model.errors import Corrupt
from gemot.server.recovery import Opened, mark_state_damaged
from gemot.server.storage.scrub import Rot, Scrub

if TYPE_CHECKING:
    from simulation.node import Node

STEP_US = 250_000
STEP_BYTES = 128 << 10


class SimulatedScrubber:
    """One life's. Between two passes it rests."""

    def __init__(self, world: World, node: Node, opened: Opened, rest_us: int) -> None:
        self._world = world
        self._node = node
        self._opened = opened
        self._rest_us = rest_us
        self._scrub: Scrub | None = None
        self._told = 0

    def start(self) -> None:
        self._after(self._world.random.randrange(self._rest_us))

    def _after(self, us: int) -> None:
        self._node.later(us, f"{self._node.name} scrub", self._step)

    def _step(self) -> None:
        node, opened = self._node, self._opened
        assert node.server is not None
        # While the state is replaced, or the log refilled, there is nothing that lies still.
        if node.server.installer.replacing or opened.raft.repairing:
            self._after(STEP_US)
            return
        if self._scrub is None:
            self._scrub, self._told = self._begin(), 0
        scrub = self._scrub
        scrub.step(STEP_BYTES)
        told, self._told = self._told, len(scrub.found)
        for rot in scrub.found[told:]:
            self._on_rot(rot, scrub)
        if scrub.over:
            self._scrub = None
            node.scrubs += 1
        self._after(self._rest_us if scrub.over else STEP_US)

    def _begin(self) -> Scrub:
        opened = self._opened
        return Scrub(
            disk=self._node.lossy,
            directory=str(self._node.directory),
            log=opened.durable.log,
            snapshots=opened.snapshots,
            file=opened.file,
        )

    def _on_rot(self, rot: Rot, scrub: Scrub) -> None:
        node = self._node
        assert node.server is not None
        self._world.tell(f"{node.name} scrub: {rot.message}")
        node.notes.append(f"scrub: {rot.message}")
        node.say_of_disk(rot.message)
        if rot.part != "state":
            node.server.on_rot(rot.last)
        elif scrub.rebuildable():
            mark_state_damaged(str(node.directory))
            raise Corrupt(f"{rot.message}: a start builds it again")
        else:
            node.beyond_repair = True
