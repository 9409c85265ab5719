"""The ledger of storage damage: every byte that a disk did not keep, and how that ended.

Each damage ends in exactly one class:

- *noticed*: a checksum or a comparison said so, at a read, a start or a scrub;
- *overwritten*: the place was written anew before anybody read it;
- *passed over*: it was read, and written anew before anything was told;
- *gone*: the file went, compacted, pruned or replaced;
- *unsynced*: a crash came before the write that was lost was synced, and might have lost it as well;
- *unmarked*: the vote file did not know yet of a write that was lost, the limit that `storage/tail.py` names;
  that server is not started again;
- *unused*: still there in the end, when everything was read, verified and right: nothing is kept there.

What ends in none of them was believed, and is a violation: `read_all` finds it. What was passed over or gone
may have been believed meanwhile; that is what all the other checkers are for. A disk that answers with an
error says itself what is wrong: those are among the faults.
"""

from __future__ import annotations

import contextlib

import msgspec
from simulation.disk import part_of
from simulation.invariants import Invariants
from simulation.node import Node
from simulation.witness import Violation
from simulation.world import World
from support.scars import Scar

from gemot.server.model.errors import StorageFailed
from gemot.server.storage.scrub import Scrub
from gemot.server.storage.snapshot import Snapshots

CLASSES = ("noticed", "overwritten", "passed over", "gone", "unsynced", "unmarked", "unused")

_NAMES = {"meta": ("meta-",), "log": ("log: ", "log/"), "snap": ("snapshot", "snap/"), "state": ("state",)}
"""By which words a sentence is about a part of the data directory."""


class Case(msgspec.Struct):
    """One damage: the scars it left in one file, and since when."""

    fault: str
    node: Node
    path: str
    scars: list[Scar]
    at_us: int
    ended_us: int = -1
    end: str = ""


class Ledger:
    def __init__(self, world: World) -> None:
        self._world = world
        self.cases: list[Case] = []

    def note(self, node: Node, fault: str, path: str, scars: list[Scar]) -> None:
        """This was done to that file. Bytes that are as they should be are no damage."""
        scars = [scar for scar in scars if scar.left]
        if not scars:
            return
        case = Case(fault, node, path, scars, self._world.now_us)
        self.cases.append(case)

        def ended() -> None:
            if all(scar.end for scar in scars):
                case.ended_us, case.end = self._world.now_us, scars[0].end

        for scar in scars:
            scar.ended = ended

    def close(self, invariants: Invariants) -> dict[str, int]:
        """The run is over: how many damages came to which end. Raises Violation if one came to none."""
        for node in {case.node.name: case.node for case in self.cases if not case.end}.values():
            read_all(node, invariants)
        counts = dict.fromkeys(CLASSES, 0)
        for case in self.cases:
            counts[self.class_of(case)] += 1
        return counts

    def class_of(self, case: Case) -> str:
        """Once everything was read."""
        if self._was_noticed(case):
            return "noticed"
        if case.end == "overwritten" and any(scar.was_read for scar in case.scars):
            return "passed over"
        return case.end or ("unmarked" if case.node.forgetful else "unused")

    def _was_noticed(self, case: Case) -> bool:
        until = case.ended_us if case.end else self._world.now_us
        words = _NAMES[part_of(case.path)]
        return any(
            case.at_us <= at_us <= until and any(word in text for word in words) and not _is_an_error(text)
            for at_us, text in case.node.said_of_disk
        )


def _is_an_error(text: str) -> bool:
    """Of a disk that says so itself."""
    return "EIO" in text or "ENOSPC" in text


def read_all(node: Node, invariants: Invariants) -> None:
    """Start it on its disk and read every byte there; what that notices it says.

    Raises Violation if it takes something else than the truth for whole.
    """
    if node.up:
        node.kill()
    node.disk.mend()
    node.disk.attach(node.lossy)
    try:
        opened = node.open()
    except StorageFailed as error:
        node.say_of_disk(str(error))
        return
    with contextlib.closing(opened.file):
        try:
            opened.state.verify()
        except StorageFailed as error:
            node.say_of_disk(str(error))
            return
        scrub = Scrub(
            disk=node.lossy,
            directory=str(node.directory),
            log=opened.durable.log,
            snapshots=opened.snapshots,
            file=opened.file,
        )
        while not scrub.over:
            scrub.step(1 << 20)
        node.say_of_disk(*(rot.message for rot in scrub.found), *_hidden(node, opened.snapshots))
        if not opened.raft.repairing:
            last, durable = opened.durable.log.last_index, max(node.durable_terms, default=0)
            if last < durable and not node.forgetful:
                raise Violation(f"{node.name} lost the entries after {last} of {durable}, and does not know")
            invariants.check_whole(node.name, opened)


def _hidden(node: Node, snapshots: Snapshots) -> list[str]:
    """Snapshots that a start leaves out without a word, since their manifest fails its checksum."""
    folder = f"{node.directory}/snap"
    known = {f"{snapshots.path(meta).removesuffix('.snap')}.json" for meta in snapshots.all()}
    found = [f"{folder}/{name}" for name in node.lossy.listdir(folder) if name.endswith(".json")]
    return [f"snapshot {path}: its manifest is damaged" for path in found if path not in known]
