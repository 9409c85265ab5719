"""Every state that three real cores can reach within bounds, and what must hold in each of them.

A state is three servers with their disks, the set of messages ever sent, and what history must be remembered
(what was committed, who led, which reads wait). A message stays in the set when it is delivered: so loss,
doubling, delay and reordering are all there by choice. What one server does with one event is worked out on
the real core once and then looked up, for servers are values (`raft_frozen`): that is what makes a million
states a matter of minutes.

Time is a choice as well: `timeout` lets the clock of one server run until it stands, and a question for a
vote may find it long after it heard its leader. A save ends at once, unless an event is `slow` (there are a
few of those): that save and all behind it then wait for `save`, and a crash loses them.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from typing import NamedTuple

import msgspec
from support.raft_frozen import (
    IDS,
    from_bytes,
    least,
    member_hashes,
    message_hashes,
    new_member,
    settle_clocks,
    to_bytes,
    value_hashes,
)
from support.raft_group import Member
from support.raft_laws import Event, Ghost, View, Violation, broken, look
from support.raft_words import message_words

from gemot.server.raft.errors import Refused
from gemot.server.raft.types import Append, Message, ReadAsk, Role, VoteAsk, VoteReply

_SPENDS = {"propose": "proposals", "change": "changes", "read": "reads", "crash": "crashes", "beat": "beats"}
_MAY_BE_SLOW = ("step", "timeout", "propose", "change")


class Bounds(msgspec.Struct, frozen=True):
    """How much of each may happen. `pre_votes` False takes every pre-vote for won, which saves steps."""

    max_term: int = 3
    proposals: int = 0
    changes: int = 0
    reads: int = 0
    crashes: int = 0
    slow: int = 0
    beats: int = 0
    pre_votes: bool = False


class Spent(NamedTuple):
    proposals: int = 0
    changes: int = 0
    reads: int = 0
    crashes: int = 0
    slow: int = 0
    beats: int = 0


class State(NamedTuple):
    """Numbers of interned servers and messages."""

    servers: tuple[int, int, int]
    sent: tuple[int, ...]
    ghost: int
    spent: Spent


class Outcome(NamedTuple):
    server: int
    sent: tuple[int, ...]
    reads: tuple[tuple[int, int], ...]
    unsaved: bool


class Model:
    """The interned servers, messages and histories of one exploration."""

    def __init__(self, bounds: Bounds) -> None:
        self.bounds = bounds
        self.views: list[View] = []
        self._lives: list[bytes] = []
        self._server_hashes: list[tuple[int, ...]] = []
        self._server_numbers: dict[int, int] = {}
        self.messages: list[tuple[int, Message]] = []
        self._message_hashes: list[tuple[int, ...]] = []
        self._message_numbers: dict[int, int] = {}
        self.ghosts: list[Ghost] = []
        self._ghost_hashes: list[tuple[int, ...]] = []
        self._ghost_numbers: dict[Ghost, int] = {}
        self._outcomes: dict[tuple[int, Event], Outcome | None] = {}
        self._lawful: dict[tuple[tuple[int, int, int], int], str] = {}

    # -- numbers -------------------------------------------------------------------------------------

    def _server(self, member: Member) -> int:
        settle_clocks(member)
        hashes = member_hashes(member)
        number = self._server_numbers.setdefault(hashes[0], len(self._lives))
        if number == len(self._lives):
            self._lives.append(to_bytes(member))
            self._server_hashes.append(hashes)
            self.views.append(look(member))
        return number

    def _message(self, to: str, message: Message) -> int:
        hashes = message_hashes(to, message)
        number = self._message_numbers.setdefault(hashes[0], len(self.messages))
        if number == len(self.messages):
            self.messages.append((IDS.index(to), message))
            self._message_hashes.append(hashes)
        return number

    def _ghost(self, ghost: Ghost) -> int:
        number = self._ghost_numbers.setdefault(ghost, len(self.ghosts))
        if number == len(self.ghosts):
            self.ghosts.append(ghost)
            self._ghost_hashes.append(value_hashes(tuple(ghost)))
        return number

    def name(self, state: State) -> int:
        """One number for this state and all that are the same under another naming of the servers."""
        parts = [self._server_hashes[number] for number in state.servers]
        parts.extend(self._message_hashes[number] for number in state.sent)
        parts.append(self._ghost_hashes[state.ghost])
        spent = hash(state.spent) & ((1 << 64) - 1)
        return least([*parts, (spent,) * len(parts[0])])

    # -- one server, one event -----------------------------------------------------------------------

    def _outcome(self, server: int, event: Event) -> Outcome | None:
        """What follows; None when nothing does."""
        key = (server, event)
        if key not in self._outcomes:
            self._outcomes[key] = self._work_out(server, event)
        return self._outcomes[key]

    def _work_out(self, server: int, event: Event) -> Outcome | None:
        member = from_bytes(self._lives[server])
        waits = bool(member.disk.pending)
        try:
            self._act(member, event)
        except Refused:
            return None
        member.pump()
        if not event.slow and not waits:
            member.finish_saves()
        elif event.slow and (waits or not member.disk.pending):
            return None  # it is the same as the quick one
        sent = tuple({self._message(to, m): None for to, m in member.outbox if self._counts(to, m)})
        reads = tuple((read.id, read.index) for read in member.reads)
        member.outbox.clear()
        member.reads.clear()
        unsaved = bool(member.disk.pending)
        after = self._server(member)
        if after == server and not sent and not reads:
            return None
        return Outcome(after, sent, reads, unsaved)

    def _counts(self, to: str, message: Message) -> bool:
        pre = isinstance(message, VoteAsk | VoteReply) and message.pre
        return to in IDS and (self.bounds.pre_votes or not pre)

    def _act(self, member: Member, event: Event) -> None:
        raft = member.raft
        if event.kind == "step":
            message = self.messages[int(event.what)][1]
            if isinstance(message, VoteAsk) and raft.role != Role.LEADER and raft.leader:
                raft.tick()
                raft.tick()  # long after it heard its leader
            raft.step(message)
        elif event.kind == "timeout":
            self._time_out(member)
        elif event.kind in ("beat", "fall"):
            for _ in range(1 if event.kind == "beat" else 2):
                raft.tick()
        elif event.kind == "propose":
            raft.propose([bytes(event.what)])  # type: ignore[arg-type]
        elif event.kind == "change":
            raft.change_voters(str(event.what))
        elif event.kind == "read":
            raft.read_index(int(event.what))
        elif event.kind == "save":
            member.finish_save()
        elif event.kind == "feed":
            raft.feed(str(event.what))
        else:
            assert event.kind == "crash"
            member.crash()
            member.restart()

    def _time_out(self, member: Member) -> None:
        raft = member.raft
        for _ in range(3):
            raft.tick()
        if raft.role == Role.PRE_CANDIDATE and not self.bounds.pre_votes:
            for voter in raft.voters:
                raft.step(VoteReply(raft.term + 1, voter, True, True))

    # -- the group -----------------------------------------------------------------------------------

    def founded(self, voters: str) -> State:
        numbers: list[int] = []
        for id in IDS:
            member = new_member(id)
            if id in voters:
                member.raft.bootstrap(list(voters))
            member.pump()
            member.finish_saves()
            numbers.append(self._server(member))
        ghost = self._ghost(Ghost((), (), (), ()))
        return State((numbers[0], numbers[1], numbers[2]), (), ghost, Spent())

    def events(self, state: State) -> Iterator[tuple[Event, Spent]]:
        """All that may happen now, and what is spent when it has."""
        spent, bounds = state.spent, self.bounds
        for number in state.sent:
            yield Event("step", self.messages[number][0], number), spent
        for at in range(len(IDS)):
            yield from self._own_events(state, at)
        if spent.slow < bounds.slow:
            quick = state._replace(spent=spent._replace(slow=bounds.slow))
            for event, after in self.events(quick):
                if event.kind in _MAY_BE_SLOW:
                    yield event._replace(slow=True), after._replace(slow=spent.slow + 1)

    def _spend(self, event: Event, spent: Spent) -> Spent:
        field = _SPENDS.get(event.kind)
        return spent._replace(**{field: getattr(spent, field) + 1}) if field else spent

    def _own_events(self, state: State, at: int) -> Iterator[tuple[Event, Spent]]:
        view, bounds, spent = self.views[state.servers[at]], self.bounds, state.spent
        events: list[Event] = []
        leads = view.role == Role.LEADER
        if not leads and view.term + (not bounds.pre_votes or view.role != Role.FOLLOWER) <= bounds.max_term:
            events.append(Event("timeout", at))
        if leads:
            events.append(Event("fall", at))
        if leads and spent.beats < bounds.beats:
            events.append(Event("beat", at))
        if leads and spent.proposals < bounds.proposals:
            events.append(Event("propose", at, b"%d" % spent.proposals))
        if leads and spent.changes < bounds.changes:
            for other in IDS:
                wanted = "".join(sorted(set(view.voters) ^ {other}))
                events.append(Event("change", at, wanted))
        if spent.reads < bounds.reads:
            events.append(Event("read", at, spent.reads + 1))
        if view.unsaved:
            events.append(Event("save", at))
        if spent.crashes < bounds.crashes:
            events.append(Event("crash", at))
        for event in events:
            yield event, self._spend(event, spent)

    def after(self, state: State, event: Event, spent: Spent) -> State | None:
        """The next state, None when nothing happens. Raises Violation."""
        try:
            outcome = self._outcome(state.servers[event.at], event)
        except Violation:
            raise
        except AssertionError as error:
            raise Violation(f"an assertion fails: {error}") from error
        if outcome is None:
            return None
        servers = list(state.servers)
        servers[event.at] = outcome.server
        known = set(state.sent)
        if outcome.server == state.servers[event.at] and known.issuperset(outcome.sent) and not outcome.reads:
            return None
        before, view = self.views[state.servers[event.at]], self.views[outcome.server]
        ghost = self.ghosts[state.ghost].after(before, view, event, outcome.reads)
        ghost_number = state.ghost if ghost is self.ghosts[state.ghost] else self._ghost(ghost)
        new = (servers[0], servers[1], servers[2])
        sent = tuple(sorted(n for n in known.union(outcome.sent) if not self._dead(n, new)))
        return State(new, sent, ghost_number, spent)

    def _dead(self, number: int, servers: tuple[int, int, int]) -> bool:
        """No server will ever do anything with it: an answer of a term that is over, on disk, there."""
        to, message = self.messages[number]
        if isinstance(message, VoteAsk | Append | ReadAsk):
            return False
        pre = isinstance(message, VoteReply) and message.pre
        return message.term < self.views[servers[to]].durable_term + pre

    def check(self, state: State) -> None:
        key = (state.servers, state.ghost)
        if key not in self._lawful:
            views = [self.views[number] for number in state.servers]
            self._lawful[key] = broken(views, self.ghosts[state.ghost])
        if self._lawful[key]:
            raise Violation(self._lawful[key])

    # -- beginnings ----------------------------------------------------------------------------------

    def do(
        self, state: State, kind: str, id: str, what: int | bytes | str = 0, *, slow: bool = False
    ) -> State:
        """One event that must have an effect."""
        after = self.after(state, Event(kind, IDS.index(id), what, slow), state.spent)
        assert after is not None, f"{kind} on {id} does something"
        self.check(after)
        return after

    def between(self, state: State, ids: str) -> State:
        """Messages among these servers travel until nothing moves; all the others are lost."""
        done: set[tuple[int, int]] = set()
        queue = deque(state.sent)
        while queue:
            number = queue.popleft()
            to, message = self.messages[number]
            if IDS[to] not in ids or message.sender not in ids or (number, state.servers[to]) in done:
                continue
            done.add((number, state.servers[to]))
            after = self.after(state, Event("step", to, number), state.spent)
            if after is not None:
                queue.extend(n for n in after.sent if n not in state.sent)
                state = after
        return state._replace(sent=())

    def words(self, event: Event) -> str:
        slow = ", and its disk is slow" if event.slow else ""
        if event.kind == "step":
            message = self.messages[int(event.what)][1]
            return f"{IDS[event.at]} hears {message.sender}: {message_words(message)}{slow}"
        what = f" {event.what!r}" if event.what else ""
        return f"{event.kind} {IDS[event.at]}{what}{slow}"


class Result(NamedTuple):
    states: int
    depth: int
    complete: bool
    violation: str


def explore(model: Model, start: State, *, limit: int) -> Result:
    """Breadth first, so that a violation is told by the fewest steps. Stops at `limit` states."""
    first = model.name(start)
    came: dict[int, int] = {first: first}
    queue = deque([(start, first, 0)])
    depth = 0
    while queue:
        state, name, depth = queue.popleft()
        for event, spent in model.events(state):
            try:
                after = model.after(state, event, spent)
                if after is None:
                    continue
                after_name = model.name(after)
                if after_name in came:
                    continue
                came[after_name] = name
                model.check(after)
            except Violation as violation:
                steps = [*_steps(model, start, came, name), model.words(event)]
                told = "\n  ".join([str(violation), *steps])
                return Result(len(came), depth + 1, False, told)
            if len(came) >= limit:
                return Result(len(came), depth + 1, False, "")
            queue.append((after, after_name, depth + 1))
    return Result(len(came), depth, True, "")


def _steps(model: Model, start: State, came: dict[int, int], name: int) -> list[str]:
    """How the state of this name was reached, played again from the start."""
    names = [name]
    while came[names[-1]] != names[-1]:
        names.append(came[names[-1]])
    steps: list[str] = []
    state = start
    for wanted in reversed(names[:-1]):
        for event, spent in model.events(state):
            after = model.after(state, event, spent)
            if after is not None and model.name(after) == wanted:
                state = after
                steps.append(model.words(event))
                break
        else:
            return [*steps, "(a renaming of the servers leads on from here)"]
    return steps
