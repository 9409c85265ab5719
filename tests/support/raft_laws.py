"""What must hold in every state of the model check: the laws of Raft.

Each law is checked on one state with the history that matters (`Ghost`). Completeness of leaders is looked
for one step ahead: a server that could win an election now must hold all that is committed, whether or not it
stands. So a bug shows where it is made and not where an unlucky election later betrays it.
"""

from __future__ import annotations

from typing import NamedTuple

import msgspec
from support.raft_group import Member

from gemot.server.raft import quorum
from gemot.server.raft.types import Entry, EntryKind, Role
from gemot.server.raft.voters import decode_voters

Place = tuple[int, bytes | tuple[str, ...]]
"""An entry as far as it matters: its term, and its data or its voters. Its index is where it stands."""


class Violation(AssertionError):
    """A law is broken: the message says which, and by what steps."""


class Event(NamedTuple):
    """What happens to one server: `at` is its place; `what` the message, command, voters or read id."""

    kind: str
    at: int
    what: int | bytes | str = 0
    slow: bool = False


class View(msgspec.Struct, frozen=True):
    """What the laws look at in one server."""

    id: str
    role: Role
    term: int
    durable_term: int
    durable_vote: str
    commit: int
    log: tuple[Place, ...]
    durable: tuple[Place, ...]
    voters: tuple[str, ...]
    durable_voters: tuple[str, ...]
    unsaved: bool


def _place(entry: Entry) -> Place:
    return (entry.term, decode_voters(entry) if entry.kind == EntryKind.VOTERS else entry.data)


def look(member: Member) -> View:
    raft = member.raft
    log: list[Entry] = []
    while len(log) < raft.last_index:
        log.extend(raft.entries(len(log) + 1, raft.last_index))
    durable = tuple(_place(entry) for entry in member.disk.durable.entries)
    hard = member.disk.hard_state
    return View(
        id=member.id,
        role=raft.role,
        term=raft.term,
        durable_term=hard.term,
        durable_vote=hard.vote,
        commit=raft.commit,
        log=tuple(_place(entry) for entry in log),
        durable=durable,
        voters=raft.voters,
        durable_voters=_voters(durable),
        unsaved=bool(member.disk.pending),
    )


def _voters(log: tuple[Place, ...]) -> tuple[str, ...]:
    return next((data for _, data in reversed(log) if isinstance(data, tuple)), ())


class Ghost(NamedTuple):
    """What history must be remembered: the committed log and who voted on its end, leaders, waiting reads."""

    committed: tuple[Place, ...]
    deciders: tuple[str, ...]
    leaders: tuple[tuple[int, str], ...]
    reads: tuple[tuple[int, int], ...]

    def after(self, before: View, now: View, event: Event, answers: tuple[tuple[int, int], ...]) -> Ghost:
        """The history with this event in it. Raises AssertionError where the step itself breaks a law."""
        ghost = self
        if now.durable_term < before.durable_term:
            raise Violation(f"the term on the disk of {now.id} goes back")
        if event.kind != "crash" and (now.term < before.term or now.commit < before.commit):
            raise Violation(f"term or commit of {now.id} goes back")
        if now.role == Role.LEADER and (before.role != Role.LEADER or before.term != now.term):
            if any(term == now.term and id != now.id for term, id in ghost.leaders):
                raise Violation(f"ElectionSafety: two leaders in term {now.term}")
            end = len(ghost.committed)
            if end and ghost.committed[-1][0] < now.term and now.log[:end] != ghost.committed:
                raise Violation(f"LeaderCompleteness: {now.id} leads without all that is committed")
            if (now.term, now.id) not in ghost.leaders:
                ghost = ghost._replace(leaders=tuple(sorted({*ghost.leaders, (now.term, now.id)})))
        if now.commit > len(ghost.committed):
            if now.commit > len(now.log):
                raise Violation(f"{now.id} commits beyond its log")
            ghost = ghost._replace(committed=now.log[: now.commit], deciders=now.voters)
            if ghost.committed[: len(self.committed)] != self.committed:
                raise Violation(f"StateMachineSafety: {now.id} commits another log")
        return ghost._with_reads(event, answers, len(self.committed))

    def _with_reads(self, event: Event, answers: tuple[tuple[int, int], ...], committed: int) -> Ghost:
        waiting = dict(self.reads)
        if event.kind == "read":
            waiting[int(event.what)] = committed
        for id, index in answers:
            least = waiting.pop(id, 0)
            if 0 < index < least:
                raise Violation(f"read {id} is answered at {index}, but {least} was committed before")
        reads = tuple(sorted(waiting.items()))
        return self if reads == self.reads else self._replace(reads=reads)


def broken(views: list[View], ghost: Ghost) -> str:
    """The first law that does not hold, or "" when all do."""
    for law in (_one_leader, _log_matching, _state_machine, _durable, _complete, _one_change):
        if told := law(views, ghost):
            return told
    return ""


def _one_leader(views: list[View], ghost: Ghost) -> str:
    terms = [view.term for view in views if view.role == Role.LEADER]
    return "ElectionSafety: two leaders in one term" if len(set(terms)) < len(terms) else ""


def _log_matching(views: list[View], ghost: Ghost) -> str:
    for at, view in enumerate(views):
        terms = [term for term, _ in view.log]
        if terms != sorted(terms):
            return f"the terms in the log of {view.id} go back"
        for other in views[at + 1 :]:
            for index in range(min(len(view.log), len(other.log)), 0, -1):
                if view.log[index - 1][0] == other.log[index - 1][0]:
                    if view.log[:index] != other.log[:index]:
                        return f"LogMatching: {view.id} and {other.id} agree at {index} and differ before"
                    break
    return ""


def _state_machine(views: list[View], ghost: Ghost) -> str:
    for view in views:
        if view.commit > len(ghost.committed) or view.log[: view.commit] != ghost.committed[: view.commit]:
            return f"StateMachineSafety: what {view.id} has committed is not what was committed"
    return ""


def _durable(views: list[View], ghost: Ghost) -> str:
    """CommittedIsDurable: on the synced disks of a majority of those who decided."""
    end = len(ghost.committed)
    holders = [view.id for view in views if view.durable[:end] == ghost.committed]
    if end and not quorum.won(ghost.deciders, holders):
        return f"CommittedIsDurable: {end} entries are committed, and only {holders} hold them on disk"
    return ""


def _complete(views: list[View], ghost: Ghost) -> str:
    """LeaderCompleteness, one election ahead: as all stand, and as all would after a crash of everyone."""
    end = len(ghost.committed)
    now = [(view.id, view.log, view.voters) for view in views]
    crashed = [(view.id, view.durable, view.durable_voters) for view in views]
    for servers, when in ((now, "now"), (crashed, "after a crash of all")):
        for id, log, voters in servers:
            if log[:end] != ghost.committed and _electable(log, voters, servers):
                return f"LeaderCompleteness: {id} can be elected {when} without all that is committed"
    return ""


def _electable(
    log: tuple[Place, ...],
    voters: tuple[str, ...],
    others: list[tuple[str, tuple[Place, ...], tuple[str, ...]]],
) -> bool:
    if not voters:
        return False
    mine = (log[-1][0], len(log))
    granted = [id for id, held, known in others if known and (held[-1][0], len(held)) <= mine]
    return quorum.won(voters, granted)


def _one_change(views: list[View], ghost: Ghost) -> str:
    for view in views:
        if view.voters != _voters(view.log):
            return f"{view.id} goes by voters that are not the last ones in its log"
        changes = [data for _, data in view.log[len(ghost.committed) :] if isinstance(data, tuple)]
        if len(changes) > 1:
            return f"two uncommitted changes of the voters in the log of {view.id}"
    return ""
