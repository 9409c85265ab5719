"""What watchers are promised, checked on what they were told: P4 of the contract.

Of each blocking reader, in the order of its answers:

- its index never goes back, neither below the answer before nor below what it asked with;
- each answer is the state as of its index: with what it was told before, no state's last change is missed;
- it is not woken without a change of what it watches (a thing that is not there has the table's index, as in
  Consul, and is left out of this rule);
- an answer is not older than its question: what was acknowledged before the call is in it, also in "nothing
  new";
- in the end, with calm and a last round, it has the last state.

Of each subscription: answers only get newer and are the state as of their index, and a bookmark is never
ahead of what was told.

The use: each watcher appends an `Awoken` for every answer, each subscriber a `Told` for every event; `value`
is always a dictionary of key to value, of one key or none for a watch of a key. Watchers go on for a few
seconds after the writers have stopped. At the end of a run, in calm: `check_watches(awoken, told, effects,
history)`, with the effects and the history of `witness.check`. A `watcher` is a name, new after anything
that lets a watch begin anew (a subscription on another server).
"""

from __future__ import annotations

import bisect
from collections import defaultdict
from collections.abc import Iterable, Mapping

import msgspec
from simulation.witness import READS, Effect, Seen, Violation, replayed

Value = Mapping[bytes, bytes]


class Watched(msgspec.Struct, frozen=True):
    """A key, or everything under a prefix."""

    key: bytes
    prefix: bool = False

    def holds(self, key: bytes) -> bool:
        return key.startswith(self.key) if self.prefix else key == self.key

    def touched_by(self, kind: str, key: bytes) -> bool:
        """Can this write change what is watched? A delete of a prefix reaches the keys under it."""
        return self.holds(key) or (kind == "delete-prefix" and self.key.startswith(key))


class Awoken(msgspec.Struct, frozen=True):
    """One answer to a blocking read that asked with the index `asked` (0: a plain first read)."""

    watcher: str
    watched: Watched
    began: int
    asked: int
    index: int
    value: Value


class Told(msgspec.Struct, frozen=True):
    """One event of a subscription; `value` is None for a bookmark."""

    watcher: str
    watched: Watched
    index: int
    value: Value | None


class _Truth:
    """The states that one watched thing went through."""

    def __init__(self, watched: Watched, effects: list[Effect]) -> None:
        self._indexes = [0]
        self._states: list[Value] = [{}]
        self._wakes: list[int] = []
        for effect, stored in replayed(effects):
            changes = effect.parts or (effect,)
            if effect.state is None and not any(watched.touched_by(e.kind, e.key) for e in changes):
                continue
            state = {key: value for key, (value, _) in stored.items() if watched.holds(key)}
            # A transaction may write what it deletes.
            self._wakes += [effect.index] if effect.parts else []
            # After a restore everybody looks again, and has its index, whatever has changed.
            if state != self._states[-1] or effect.state is not None:
                self._indexes.append(effect.index)
                self._states.append(state)

    def at(self, index: int) -> Value:
        return self._states[bisect.bisect_right(self._indexes, index) - 1]

    def changed_between(self, after: int, upto: int) -> bool:
        return bisect.bisect_right(self._indexes, after) < bisect.bisect_right(self._indexes, upto)

    def may_wake_between(self, after: int, upto: int) -> bool:
        transacted = bisect.bisect_right(self._wakes, after) < bisect.bisect_right(self._wakes, upto)
        return transacted or self.changed_between(after, upto)

    def last_change(self, upto: int | None) -> int:
        """The last one of all, or of those up to this index."""
        return self._indexes[-1 if upto is None else bisect.bisect_right(self._indexes, upto) - 1]


def check_watches(
    awoken: Iterable[Awoken],
    told: Iterable[Told],
    effects: Iterable[Effect],
    history: Iterable[Seen] = (),
    *,
    ended_in_calm: bool = True,
    due: int | None = None,
    reaped: int = 0,
) -> int:
    """Raises Violation, or tells how many answers and events were right.

    Without calm at the end the last state is not asked for. With it, each reader must have seen the last
    change, or the last one up to the index `due`: after that one everybody asked again. Up to `reaped` the
    traces of deletes may be gone, and a watcher with an older index is woken to be on the safe side.
    """
    done = list(effects)
    truths: dict[Watched, _Truth] = {}
    answers: dict[str, list[Awoken]] = defaultdict(list)
    events: dict[str, list[Told]] = defaultdict(list)
    for answer in awoken:
        answers[answer.watcher].append(answer)
        if answer.watched not in truths:
            truths[answer.watched] = _Truth(answer.watched, done)
    for event in told:
        events[event.watcher].append(event)
        if event.watched not in truths:
            truths[event.watched] = _Truth(event.watched, done)
    acknowledged = _Acknowledged(history)
    for mine in answers.values():
        truth = truths[mine[0].watched]
        _check_reader(mine, truth, acknowledged.of(mine[0].watched), reaped)
        last = truth.last_change(due)
        if ended_in_calm and mine[-1].index < last and mine[-1].value != truth.at(last):
            raise Violation(f"{mine[-1]} was the last, and the change at {last} was missed")
    for heard in events.values():
        _check_subscription(heard, truths[heard[0].watched])
    return sum(map(len, answers.values())) + sum(map(len, events.values()))


class _Acknowledged:
    """The newest change that was acknowledged before a time."""

    def __init__(self, history: Iterable[Seen]) -> None:
        self._writes = sorted(
            (op.ended, op.index, op.kind, op.key)
            for op in history
            if op.kind not in READS and op.result is True
        )

    def of(self, watched: Watched) -> tuple[list[int], list[int]]:
        times, newest = [-1], [0]
        for ended, index, kind, key in self._writes:
            if watched.touched_by(kind, key):
                times.append(ended)
                newest.append(max(newest[-1], index))
        return times, newest


def _check_reader(
    answers: list[Awoken], truth: _Truth, acknowledged: tuple[list[int], list[int]], reaped: int
) -> None:
    times, newest = acknowledged
    before = 0
    for answer in answers:
        if answer.index < max(before, answer.asked):
            raise Violation(f"{answer} goes back from {max(before, answer.asked)}")
        if answer.value != truth.at(answer.index):
            raise Violation(f"{answer} is not what was there at its index: {truth.at(answer.index)}")
        woken = answer.asked and answer.value and answer.index > max(answer.asked, reaped)
        if woken and not truth.may_wake_between(answer.asked, answer.index):
            raise Violation(f"{answer} was woken, and nothing had changed since {answer.asked}")
        due = newest[bisect.bisect_left(times, answer.began) - 1]
        if truth.changed_between(answer.index, due):
            raise Violation(
                f"{answer} is older than its question: {due} was acknowledged before it was asked"
            )
        before = answer.index


def _check_subscription(events: list[Told], truth: _Truth) -> None:
    last: Told | None = None
    for event in events:
        if event.value is None:
            if last is not None and truth.changed_between(last.index, event.index):
                raise Violation(f"{event} says that all was told, but the last was {last}")
            continue
        if last is not None and event.index <= last.index:
            raise Violation(f"{event} is not newer than {last}")
        if event.value != truth.at(event.index):
            raise Violation(f"{event} is not what was there at its index: {truth.at(event.index)}")
        last = event
