"""Bugs of servers that are neither well nor dead: stalled, full and rotting disks."""

from __future__ import annotations

from mutants.bug import Patch, bug

from gemot.server import space
from gemot.server.raft.core import Core
from gemot.server.raft.leader import Leadership
from gemot.server.space import Space
from gemot.server.storage.scrub import Scrub
from gemot.server.storage.segment import Segment

SPACE = "tests/server/test_space.py"
SCRUB = "tests/storage/test_scrub.py"


@bug(30, script="30-stalled-disk", tests=("tests/raft/test_stalled_disk.py",))
def a_stalled_disk_keeps_leading(patch: Patch) -> None:
    """A leader whose disk takes nothing any more stays in office by its heartbeats."""
    patch.setattr(Core, "stalled", property(lambda self: False))


@bug(28, tests=(SPACE,))
def deletes_are_refused_for_want_of_space(patch: Patch) -> None:
    """What would make room is refused because there is none."""
    patch.setattr(space, "FREES", ())


@bug(28, tests=(SPACE,), simulated=False)
def nothing_is_refused_for_want_of_space(patch: Patch) -> None:
    """A leader takes writes that it, or its quorum, cannot store."""
    patch.setattr(Space, "refuse", lambda self, command: None)


@bug(28, tests=(SPACE,), simulated=False)
def what_was_just_accepted_is_not_counted(patch: Patch) -> None:
    """Between two looks at the disk any number of writes passes."""
    refuse = Space.refuse

    def refuse_and_forget(self: Space, command: space.Command) -> space.Busy | None:
        refusal = refuse(self, command)
        self._charges[-1].size = 0
        return refusal

    patch.setattr(Space, "refuse", refuse_and_forget)


@bug(28, tests=(SPACE,), simulated=False)
def what_is_accepted_is_forgotten_at_a_look(patch: Patch) -> None:
    """What a server has not measured yet, since it has not applied it, is not counted against it."""
    patch.setattr(Space, "_unseen", lambda self, room: 0)


@bug(28, tests=(SPACE,), simulated=False)
def a_silent_voter_has_room(patch: Patch) -> None:
    """Voters that are away count as if they could store."""
    weigh = Space._weigh

    def weigh_all(self: Space, voters: tuple[str, ...], away: tuple[str, ...]) -> None:
        weigh(self, voters, ())

    patch.setattr(Space, "_weigh", weigh_all)


@bug(26, tests=(SCRUB,), simulated=False)
def a_scrub_reports_nothing(patch: Patch) -> None:
    """The scrubber meets damage in what lies still, and goes on."""
    step = Scrub.step

    def step_and_forget(self: Scrub, budget: int) -> None:
        step(self, budget)
        self.found.clear()

    patch.setattr(Scrub, "step", step_and_forget)


@bug(26, tests=(SCRUB,), simulated=False)
def a_scrub_takes_an_end_for_a_seal(patch: Patch) -> None:
    """A sealed segment whose records end too early is taken for whole."""
    scan = Segment.scan

    def scan_and_seal(self: Segment) -> object:
        yield from scan(self)
        self.sealed = True

    patch.setattr(Segment, "scan", scan_and_seal)


@bug(10, 30, script="01-older-term-by-counting")
def a_leader_hears_itself_as_a_quorum(patch: Patch) -> None:
    """A leader takes the last contact with anyone for one with a quorum."""

    def quorum_contact_ticks(self: Leadership) -> int:
        return self._core.now - max(self._each_voter(self._core.now, lambda peer: peer.heard_tick))

    patch.setattr(Leadership, "quorum_contact_ticks", quorum_contact_ticks)
