"""The simulator's histories as the black-box check wants them: calls, answers and times, no indexes.

After `witness.check(history, effects)` call `check_seen(history, effects)`: it raises Violation, or gives a
Report of `linearize.py`, which names the keys that could not be decided. An index appears here only as the
name of the write that a compare was sent with.

`check_sample` does so with a few keys of a run: those of the sample whole, or up to a time.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, MutableSequence
from types import MappingProxyType
from typing import Protocol

import msgspec
from simulation.linearize import BUDGET, Report, explain
from simulation.register import ABSENT, NEVER, Kind, Op, Outcome
from simulation.witness import READS, STALE, Effect, Seen, Violation

SAMPLE = 2_000
"""Operations of a run that are checked."""

SAMPLE_BUDGET = 20_000
"""Steps of the search a key of a sample; a good history of that size takes some hundreds."""


class Shuffles(Protocol):
    def shuffle(self, x: MutableSequence[bytes], /) -> None: ...


class Story(msgspec.Struct, frozen=True):
    """All that a run has to tell. `unanswered` are writes of unknown outcome; `refused` were not done."""

    history: Collection[Seen]
    effects: Collection[Effect]
    unanswered: Collection[Seen]
    refused: Collection[Seen]
    restores: Mapping[int, tuple[int, int]] = {}
    """When each restore that was told as done was asked for, and told; by the name of its effect."""


def check_sample(story: Story, keys: Iterable[bytes], random: Shuffles, most: int = SAMPLE) -> Report:
    """Check keys in an order by chance, until there were about so many operations. Raises Violation."""
    order, report = list(keys), Report()
    random.shuffle(order)
    for key in order:
        left = most - report.operations
        if left <= 0:
            break
        part = _of_key(story, key, left)
        found = check_seen(
            part.history, part.effects, part.unanswered, part.refused, SAMPLE_BUDGET, part.restores
        )
        report.operations += found.operations
        report.keys += found.keys
        report.steps += found.steps
        report.undecided += found.undecided
    return report


def _of_key(story: Story, key: bytes, most: int) -> Story:
    """What touched this key, up to the time by which so many operations were answered.

    A delete of a prefix is a delete of each key under it. What was still under way at that time is a read
    that tells nothing, or a write of unknown outcome.
    """
    seen, unanswered, refused = (
        [_on(op, key) for op in ops if _touches(op, key)]
        for ops in (story.history, story.unanswered, story.refused)
    )
    seen.sort(key=lambda op: op.ended)
    effects, restores = [_effect_on(effect, key) for effect in story.effects], story.restores
    if len(seen) > most:
        until = seen[most - 1].ended
        unanswered += [op for op in seen[most:] if op.kind not in READS]
        seen = seen[:most]
        unanswered = [op for op in unanswered if op.began <= until]
        later = {index for index, (began, _) in restores.items() if began > until}
        effects = [effect for effect in effects if effect.index not in later]
        restores = {i: (began, ended if ended <= until else NEVER) for i, (began, ended) in restores.items()}
    return Story(seen, effects, unanswered, refused, restores)


def _touches(op: Seen, key: bytes) -> bool:
    if op.kind == "delete-prefix":
        return key.startswith(op.key)
    return op.key == key and op.kind != STALE


def _on(op: Seen, key: bytes) -> Seen:
    if op.kind != "delete-prefix":
        return op
    return msgspec.structs.replace(op, kind="delete", key=key)


def _effect_on(effect: Effect, key: bytes) -> Effect:
    """Of a transaction what it left at this key; its index names that."""
    if not effect.parts:
        return effect
    last = next((part for part in reversed(effect.parts) if part.touches(key)), None)
    value = last.value if last is not None else None
    return Effect(effect.index, "delete" if value is None else "set", key, value, None)


def check_seen(
    history: Iterable[Seen],
    effects: Iterable[Effect],
    unanswered: Iterable[Seen] | None = None,
    refused: Iterable[Seen] = (),
    budget: int = BUDGET,
    restores: Mapping[int, tuple[int, int]] = MappingProxyType({}),
) -> Report:
    """Raises Violation when no order explains the history; a key that is undecided is reported.

    `unanswered` are the writes whose outcome is unknown, if they were recorded (`ended`, `index` and
    `result` mean nothing in them). Without, they are the effects that nobody was told of, begun at any time:
    a weaker question. `refused` were told to be surely not done.
    """
    seen = list(history)
    names: dict[int, bytes] = {e.index: e.value for e in effects if e.value is not None}
    ops = [_op(op, names) for op in seen]
    if unanswered is not None:
        ops += [_op(op, names, Outcome.UNKNOWN) for op in unanswered]
    else:
        told = {op.index for op in seen if op.kind != "get"}
        lost = [e for e in effects if e.index not in told and e.state is None]
        ops += [
            _op(Seen(e.kind, e.key, 0, 0, e.index, e.value, e.cas, None), names, Outcome.UNKNOWN)
            for e in lost
        ]
    ops += [_op(op, names, Outcome.REFUSED) for op in refused]
    report = explain(ops + _restored(seen, effects, names, restores), budget)
    if report.bad:
        raise Violation("not linearizable: " + "; ".join(report.bad))
    return report


def _restored(
    seen: list[Seen],
    effects: Iterable[Effect],
    names: dict[int, bytes],
    restores: Mapping[int, tuple[int, int]],
) -> list[Op]:
    """A restore is a write of every key, between its call and its answer if it has one."""
    ops: list[Op] = []
    keys = sorted({op.key for op in seen})
    for effect in effects:
        if effect.state is None:
            continue
        for key in keys:
            value = effect.state[key][0] if key in effect.state else None
            kind = "delete" if value is None else "set"
            began, ended = restores.get(effect.index, (0, NEVER))
            outcome = Outcome.UNKNOWN if ended == NEVER else Outcome.DONE
            ops.append(_op(Seen(kind, key, began, ended, effect.index, value, None, None), names, outcome))
    return ops


def _op(seen: Seen, names: dict[int, bytes], outcome: Outcome = Outcome.DONE) -> Op:
    ended = seen.ended if outcome is Outcome.DONE else NEVER
    if seen.kind == "get":
        value = seen.result
        assert value is None or isinstance(value, bytes)
        return Op(Kind.GET, seen.key, seen.began, ended, value, outcome=outcome)
    deletes = seen.kind == "delete"
    if seen.cas is None:
        return Op(
            Kind.DELETE if deletes else Kind.PUT, seen.key, seen.began, ended, seen.value, outcome=outcome
        )
    if seen.cas and seen.cas not in names:
        raise Violation(f"{seen} compares with an index that was told as a write's, and is none")
    expected = names[seen.cas] if seen.cas else ABSENT
    kind = Kind.DELETE_CAS if deletes else Kind.CAS
    return Op(kind, seen.key, seen.began, ended, seen.value, expected, seen.result is not False, outcome)
